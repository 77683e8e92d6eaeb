//! Messages as a Lotus node judged them: the recorded parameters, sent at the recorded height to a miner
//! in the same situation, end with the same exit code and the same words.

use curio_chain::message::{Cbor, CreateMinerParams, PreCommitSectorBatch2Params, ProveCommitSectors3Params};
use curio_chain::types::{Message, TipSetKey};
use curio_chain::{Address, TokenAmount};
use curio_core::Epoch;
use serde_json::Value;

use crate::support::{Lab, fixture, fixtures, plain};

/// Recorded messages that are not replayed here, and why.
const EXCLUDED: &[(&str, &str)] = &[
    ("ChangePeerID.", "method not served by this chain"),
    ("ChangeWorkerAddress.", "method not served by this chain"),
    ("DeclareFaults", "replayed in post_messages.rs"),
    ("DisputeWindowedPoSt.", "replayed in post_messages.rs"),
    ("ExtendSectorExpiration2.", "replayed in post_messages.rs"),
    ("ProveReplicaUpdates3.", "method not served by this chain"),
    ("SubmitWindowedPoSt.", "replayed in post_messages.rs"),
    ("TerminateSectors.", "replayed in post_messages.rs"),
    ("WithdrawBalance.", "method not served by this chain"),
    ("ProveCommitSectors3.207", "its proof is bound to the recorded chain's randomness; see the story"),
    ("ProveCommitSectors3.212", "its proof is bound to the recorded chain's randomness; see the story"),
    ("ProveCommitSectors3.ddo_", "its proof is bound to the recorded chain's randomness; see the story"),
    ("ProveCommitSectors3.full_", "its proof is bound to the recorded chain's randomness; see the story"),
    ("ProveCommitSectors3.h1343", "its proof is bound to the recorded chain's randomness; aggregates are not served"),
];

/// Refusals whose words differ, and why. The exit code does not.
const OTHER_WORDS: &[(&str, &str)] =
    &[("PreCommitSectorBatch2.deal_ids_without_unsealed_cid", "there is no market actor to name the deal's provider")];

/// Replayed elsewhere in this file.
const BOUNDARIES: [&str; 2] = ["boundaries", "boundaries-ticket-positive"];

/// Where the recorded senders have their counterparts.
struct Cast {
    worker: Address,
    /// Funded, but nothing to the miner.
    stranger: Address,
    miner: Address,
}

impl Cast {
    /// The recorded message, between our actors.
    fn message(&self, lab: &Lab, name: &str, recorded: &Value) -> Message {
        const CALLER_WITHOUT_RIGHTS: &str = "t3xghmgv";
        let original: Message = serde_json::from_value(recorded["message"].clone()).unwrap();
        let from = match recorded["message"]["From"].as_str().unwrap() {
            sender if sender.starts_with(CALLER_WITHOUT_RIGHTS) => self.stranger,
            _ => self.worker,
        };
        let to = match original.to.id() {
            Ok(4) => original.to,
            Ok(_) => self.miner,
            Err(_) => lab.rich(),
        };
        let params = match name.starts_with("CreateMiner.") {
            true => {
                let params = CreateMinerParams::from_cbor(&original.params).unwrap();
                CreateMinerParams { owner: self.worker, worker: self.worker, ..params }.to_cbor()
            }
            false => original.params.clone(),
        };
        let mut message = Message::new(from, to, original.method, original.value, params);
        if name == "Send.value_above_balance" {
            message.value = TokenAmount::from_whole(1_000_000);
        }
        message
    }
}

/// Calls a message on top of the head and compares exit code, return and words with the recorded ones.
pub async fn compare(lab: &Lab, message: &Message, name: &str) -> Vec<String> {
    let recorded = fixture("messages", name);
    let called = lab.client.state_call(message, &TipSetKey::HEAD).await.unwrap();
    let mut differences = Vec::new();
    let mut differ = |what: &str, ours: String, theirs: String| {
        if ours != theirs {
            differences.push(format!("{name}: {what}\n    ours:   {ours}\n    theirs: {theirs}"));
        }
    };
    let receipt = &recorded["receipt"];
    differ("exit code", called.msg_rct.exit_code.to_string(), receipt["ExitCode"].to_string());
    let theirs = recorded["replay"]["Error"].as_str().unwrap_or_default();
    if !OTHER_WORDS.iter().any(|(other, _)| *other == name) {
        differ("words", plain(&called.error), plain(theirs));
    }
    differ("empty return", called.msg_rct.r#return.is_empty().to_string(), receipt["Return"].is_null().to_string());
    differ("events", called.msg_rct.events_root.is_some().to_string(), (!receipt["EventsRoot"].is_null()).to_string());
    differences
}

/// Height at which the recorded miner's two sectors were pre-committed.
const PRE_COMMITTED_AT: i64 = 478;
/// Height at which most refusals were recorded.
const REFUSED_AT: i64 = 479;

/// Recorded messages to replay, by the height of their execution.
fn replayed() -> Vec<(i64, String)> {
    let mut names: Vec<(i64, String)> = fixtures("messages")
        .into_iter()
        .filter(|name| !EXCLUDED.iter().any(|(prefix, _)| name.starts_with(prefix)))
        .filter(|name| !BOUNDARIES.contains(&name.as_str()))
        // Results are told one epoch above the epoch of execution.
        .map(|name| (fixture("messages", &name)["height_of_execution"].as_i64().unwrap() - 1, name))
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_messages_end_with_the_recorded_exit_codes_and_words() {
    let lab = Lab::start().await;
    let worker = lab.funded(1_000).await;
    let cast = Cast { worker, stranger: lab.funded(1_000).await, miner: lab.miner(worker).await };
    let names = replayed();
    let mut differences = Vec::new();

    for (height, name) in &names {
        // What was executed at this height is compared just before, so that it is not there yet.
        let before = if *height == PRE_COMMITTED_AT { height - 1 } else { *height };
        if lab.devnet.head().height.0 < PRE_COMMITTED_AT && before >= PRE_COMMITTED_AT {
            lab.advance_to(PRE_COMMITTED_AT - 1);
            push(&lab, &cast, &["PreCommitSectorBatch2.ok_two_sectors", "PreCommitSectorBatch2.ok_one_sector"]).await;
        }
        lab.advance_to(before);
        let message = cast.message(&lab, name, &fixture("messages", name));
        differences.extend(compare(&lab, &message, name).await);
    }
    let (count, differ) = (names.len(), differences.len());
    println!("{count} recorded messages replayed");
    assert!(differences.is_empty(), "{differ} differences in {count} messages:\n{}", differences.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_messages_are_included_pay_and_leave_nothing_behind() {
    let lab = Lab::start().await;
    let worker = lab.funded(1_000).await;
    let cast = Cast { worker, stranger: lab.funded(1_000).await, miner: lab.miner(worker).await };
    lab.advance_to(PRE_COMMITTED_AT - 1);
    push(&lab, &cast, &["PreCommitSectorBatch2.ok_two_sectors"]).await;
    lab.advance_to(REFUSED_AT);
    let names = replayed();
    let refused: Vec<&str> = names
        .iter()
        .filter(|(height, _)| *height == REFUSED_AT)
        .map(|(_, name)| name.as_str())
        .filter(|name| fixture("messages", name)["receipt"]["ExitCode"] != 0)
        .collect();
    let state = lab.client.state_get_actor(&cast.miner, &TipSetKey::HEAD).await.unwrap();
    let nonce = lab.client.mpool_get_nonce(&worker).await.unwrap();

    let cids = push(&lab, &cast, &refused).await;
    lab.advance(2);

    assert!(refused.len() > 15, "only {} messages", refused.len());
    for (name, cid) in refused.iter().zip(cids) {
        let found = lab.client.state_search_msg(&TipSetKey::HEAD, cid, None, true).await.unwrap().unwrap();
        let expected = fixture("messages", name)["receipt"]["ExitCode"].as_i64().unwrap();
        assert_eq!(found.receipt.exit_code, expected, "{name}");
        assert!(found.receipt.gas_used > 0, "{name}");
    }
    let after = lab.client.state_get_actor(&cast.miner, &TipSetKey::HEAD).await.unwrap();
    assert_eq!((after.head, after.balance), (state.head, state.balance), "no refused message changed the miner");
    let by_worker = refused.iter().filter(|name| !name.ends_with("caller_forbidden")).count() as u64;
    assert_eq!(lab.client.mpool_get_nonce(&worker).await.unwrap(), nonce + by_worker);
}

/// Signs and pushes recorded messages with a gas limit that skips the estimate, as their recorder did.
async fn push(lab: &Lab, cast: &Cast, names: &[&str]) -> Vec<cid::Cid> {
    let mut cids = Vec::new();
    for name in names {
        let mut message = cast.message(lab, name, &fixture("messages", name));
        message.gas_limit = 200_000_000;
        cids.push(lab.client.mpool_push_message(&message, None).await.unwrap().cid());
    }
    cids
}

/// Exit code and words of a call on top of the head.
async fn outcome(lab: &Lab, message: &Message) -> (i64, String) {
    let called = lab.client.state_call(message, &TipSetKey::HEAD).await.unwrap();
    (called.msg_rct.exit_code, called.error)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_and_the_last_epoch_that_works_are_the_recorded_ones() {
    let lab = Lab::start().await;
    let worker = lab.funded(1_000).await;
    let cast = Cast { worker, stranger: worker, miner: lab.miner(worker).await };
    lab.advance_to(PRE_COMMITTED_AT - 1);
    push(&lab, &cast, &["PreCommitSectorBatch2.ok_two_sectors"]).await;
    lab.advance(1);
    let prove = cast.message(
        &lab,
        "ProveCommitSectors3.invalid_proof",
        &fixture("messages", "ProveCommitSectors3.invalid_proof"),
    );
    let template = cast.message(
        &lab,
        "PreCommitSectorBatch2.ok_one_sector",
        &fixture("messages", "PreCommitSectorBatch2.ok_one_sector"),
    );
    assert_eq!(ProveCommitSectors3Params::from_cbor(&prove.params).unwrap().sector_activations[0].sector_number, 201);

    let mut differences = Vec::new();
    let mut checked = 0;
    for file in BOUNDARIES {
        for case in fixture("messages", file)["cases"].as_array().unwrap() {
            let what = case["what"].as_str().unwrap();
            let message = match what.strip_prefix("ProveCommitSectors3 at PreCommitEpoch+") {
                Some(delay) => {
                    lab.advance_to(PRE_COMMITTED_AT + delay.parse::<i64>().unwrap());
                    prove.clone()
                }
                None => at_boundary(&template, what, lab.devnet.head().height),
            };
            let (code, words) = outcome(&lab, &message).await;
            let theirs = case["text"].as_str().unwrap();
            checked += 1;
            if case["exit"] != code || !plain(&words).contains(&plain(theirs)) {
                differences.push(format!("{what}: {code} {words}; recorded {} {theirs}", case["exit"]));
            }
        }
    }
    assert!(checked > 20, "only {checked} boundaries");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// A pre-commit with one epoch at the boundary that is spelt out: `PreCommit, FIELD = now+A+B`.
fn at_boundary(template: &Message, what: &str, now: Epoch) -> Message {
    let (field, epoch) = what.strip_prefix("PreCommit, ").unwrap().split_once(" = now").unwrap();
    let epoch = epoch.split(" = ").next().unwrap();
    let offset: i64 = epoch
        .replace('-', "+-")
        .split('+')
        .filter(|part| !part.is_empty())
        .map(|part| part.parse::<i64>().unwrap())
        .sum();
    let mut params = PreCommitSectorBatch2Params::from_cbor(&template.params).unwrap();
    let sector = &mut params.sectors[0];
    sector.sector_number = 999;
    sector.seal_rand_epoch = now - 20;
    sector.expiration = now + 800_000;
    match field {
        "SealRandEpoch" => sector.seal_rand_epoch = now + offset,
        "Expiration" => sector.expiration = now + offset,
        other => panic!("unknown field {other}"),
    }
    Message { params: params.to_cbor(), ..template.clone() }
}
