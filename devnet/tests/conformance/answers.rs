//! Answers of a Lotus node, replayed: the recorded request, with our actors, keys and CIDs in the places of
//! theirs, gets an answer of the same shape: the same members, null where there was null, an empty list
//! where there was one, the same HTTP status and error code, and the same words but for names and numbers.
//!
//! The scenes follow the recorded network's life, because what is asked refers to what was answered before.

use std::collections::{BTreeMap, BTreeSet};

use curio_chain::types::{Message, TipSetKey};
use curio_chain::{Address, TokenAmount, address};
use serde_json::{Value, json};

use crate::story;
use crate::support::{Lab, Raw, fixture, fixtures, plain};

/// Recorded situations that are not replayed here, and why.
const EXCLUDED: &[(&str, &str)] = &[
    ("Transport.", "replayed in transport.rs"),
    ("ChainNotify.", "replayed in websocket.rs"),
    ("ChainGetBlock.real_winning_post", "not a request"),
    ("MinerCreateBlock.", "comes with winning PoSt"),
    ("MinerGetBaseInfo.", "comes with winning PoSt"),
    ("SyncSubmitBlock.", "comes with winning PoSt"),
    ("SyncState.", "this chain has nothing to sync with"),
    ("StateReadState.", "method not served: states are read as objects, by CID"),
    ("StateActorManifestCID.", "method not served: there is no manifest, the actors are not WASM"),
    ("StateDealProviderCollateralBounds.", "there is no market on this chain"),
    ("StateGetClaim.ok", "there is no verified registry on this chain"),
    ("NetAddrsListen.ok", "this node has no peers and listens for none"),
    ("WalletNew.delegated", "no delegated keys on this chain"),
    ("WalletBalance.disputer_after", "comes with window PoSt"),
    ("GasEstimateMessageGas.params_empty_string", "empty parameters come back as null, not as the empty string"),
    ("StateWaitMsg.never_included", "a wait without end has no answer to compare"),
    ("ChainPutObj.base64_bytes", "words only: the code is compared by the other case"),
    ("StateSectorGetInfo.after_snap", "replica updates are not served by this chain"),
    ("StateMinerActiveSectors.genesis_miner", "active sectors come with window PoSt"),
    ("StateMinerActiveSectors.after_post", "active sectors come with window PoSt"),
    ("StateMinerActiveSectors.missed_post", "active sectors come with window PoSt"),
    ("StateMinerActiveSectors.with_fault", "active sectors come with window PoSt"),
];

/// Members whose content is not compared, and why.
const IGNORED: &[(&str, &str, &str)] = &[
    ("StateCall.", "/result/ExecutionTrace/InvokedActor", "a trace for people, kept short"),
    ("StateCall.", "/result/ExecutionTrace/GasCharges", "a trace for people, kept short"),
    ("StateCall.", "/result/ExecutionTrace/Subcalls", "a trace for people, kept short"),
];

/// Errors whose words differ, and why. Status and code do not.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("GasEstimateMessageGas.caller_not_allowed", "which decoder stumbles first is the decoder's business"),
    ("GasEstimateMessageGas.not_cbor_params", "which decoder stumbles first is the decoder's business"),
];

/// A chain in a scene, and what stands for what.
struct Stage {
    lab: Lab,
    /// Recorded text to ours, for CIDs, addresses, signatures and parameters.
    swaps: BTreeMap<String, String>,
    played: BTreeSet<String>,
    differences: Vec<String>,
}

impl Stage {
    async fn new() -> Stage {
        let lab = Lab::start().await;
        let mut stage = Stage { lab, swaps: BTreeMap::new(), played: BTreeSet::new(), differences: Vec::new() };
        let default = stage.recorded("WalletDefaultAddress.ok")["response"]["result"].clone();
        stage.swap(&default, &json!(stage.lab.devnet.default_address));
        stage
    }

    fn recorded(&self, name: &str) -> Value {
        fixture("rpc", name)
    }

    /// From now on the recorded value stands for ours.
    fn swap(&mut self, theirs: &Value, ours: &Value) {
        match (theirs, ours) {
            (Value::String(theirs), Value::String(ours)) => {
                const SHORTEST_NAME: usize = 20;
                if theirs.len() > SHORTEST_NAME && theirs != "<redacted-jwt>" {
                    self.swaps.insert(theirs.clone(), ours.clone());
                }
            }
            (Value::Array(theirs), Value::Array(ours)) => {
                theirs.iter().zip(ours).for_each(|(theirs, ours)| self.swap(theirs, ours));
            }
            (Value::Object(theirs), Value::Object(ours)) => {
                for (member, theirs) in theirs {
                    if let Some(ours) = ours.get(member) {
                        self.swap(theirs, ours);
                    }
                }
            }
            _ => {}
        }
    }

    fn swap_address(&mut self, theirs: &str, ours: Address) {
        self.swaps.insert(theirs.to_owned(), address::to_text(&ours));
    }

    /// The tipset key in a recorded request stands for the head.
    fn swap_key(&mut self, name: &str, param: usize) {
        let theirs = self.recorded(name)["request"]["params"][param].clone();
        let ours = serde_json::to_value(&self.lab.devnet.head().cids).unwrap();
        self.swap(&theirs, &ours);
    }

    fn ours(&self, theirs: &Value) -> Value {
        match theirs {
            Value::String(text) => json!(self.swaps.get(text).unwrap_or(text)),
            Value::Array(list) => list.iter().map(|value| self.ours(value)).collect(),
            Value::Object(members) => {
                members.iter().map(|(member, value)| (member.clone(), self.ours(value))).collect()
            }
            other => other.clone(),
        }
    }

    /// Parameters of a recorded request, with our names.
    fn params(&self, name: &str) -> Value {
        let recorded = self.recorded(name);
        match &recorded["request"]["params"] {
            Value::Null => json!([]),
            params => self.ours(params),
        }
    }

    /// Replays a situation as it was recorded.
    async fn play(&mut self, name: &str) -> Value {
        let params = self.params(name);
        self.play_with(name, params).await
    }

    async fn play_all(&mut self, names: &[&str]) {
        for name in names {
            self.play(name).await;
        }
    }

    /// Replays every situation of these methods that was not replayed yet.
    async fn play_methods(&mut self, methods: &[&str]) {
        for name in fixtures("rpc") {
            let method = name.split('.').next().unwrap().to_owned();
            if methods.contains(&method.as_str()) && !excluded(&name) && !self.played.contains(&name) {
                self.play(&name).await;
            }
        }
    }

    async fn play_with(&mut self, name: &str, params: Value) -> Value {
        let recorded = self.recorded(name);
        let method = recorded["request"]["method"].as_str().unwrap().trim_start_matches("Filecoin.").to_owned();
        let raw = self.lab.call(&method, params).await;
        let ours = raw.json();
        self.compare(name, &recorded, &raw, &ours);
        self.swap(&recorded["response"]["result"], &ours["result"]);
        self.played.insert(name.to_owned());
        ours["result"].clone()
    }

    fn compare(&mut self, name: &str, recorded: &Value, raw: &Raw, ours: &Value) {
        let mut found = Vec::new();
        if let Some(status) = recorded["http"]["status"].as_u64()
            && status != u64::from(raw.status)
        {
            found.push(format!("HTTP status {} instead of {status}", raw.status));
        }
        let theirs = &recorded["response"];
        match theirs.get("error") {
            Some(error) => compare_errors(name, error, &ours["error"], &mut found),
            None => match ours.get("error") {
                Some(error) => found.push(format!("an error: {error}")),
                None => {
                    let ignored: Vec<&str> = IGNORED
                        .iter()
                        .filter(|(prefix, ..)| name.starts_with(prefix))
                        .map(|(_, path, _)| *path)
                        .collect();
                    compare_shapes("/result", &theirs["result"], &ours["result"], &ignored, &mut found);
                }
            },
        }
        self.differences.extend(found.into_iter().map(|difference| format!("{name}: {difference}")));
    }

    /// Signs a recorded message of the pool with our key and a nonce of ours, and replays the push.
    async fn push(&mut self, name: &str, nonce: Option<u64>) -> Value {
        let mut signed = self.params(name)[0].clone();
        let theirs = self.recorded(name)["request"]["params"][0].clone();
        if let Some(nonce) = nonce {
            signed["Message"]["Nonce"] = json!(nonce);
        }
        let sender = signed["Message"]["From"].as_str().unwrap().to_owned();
        let has_key = address::parse(&sender).is_ok_and(|key| key.id().is_err())
            && self.lab.ok("WalletHas", json!([sender])).await == true;
        let signer = match has_key {
            true => sender,
            false => self.swaps[SECOND_KEY].clone(),
        };
        let mut message = signed["Message"].clone();
        // An empty receiver cannot be signed for; its signature is never looked at.
        if message["To"] == "" {
            message["To"] = json!(signer);
        }
        let made = self.lab.ok("WalletSignMessage", json!([signer, message])).await;
        if !signed["Signature"].is_null() {
            signed["Signature"] = made["Signature"].clone();
        }
        if name == "MpoolPush.bad_signature" {
            signed["Message"]["Value"] = json!("12345");
        }
        let cid = self.play_with(name, json!([signed])).await;
        self.swap(&theirs["Message"]["CID"], &cid);
        cid
    }
}

/// The second key of the recorded wallet, which most messages of the pool are from.
const SECOND_KEY: &str = "t3sbmxucl4yaulabxwwj45bmp2ehfpu7m6cxl6h4qoutyjtinvu433322vhcvxih5zjs6p62gptqgssxh2lbca";
/// A key of the recorded wallet that was never on the chain.
const UNUSED_KEY: &str = "t3se7qe6h7cwa5cqs66riiivypiipfx6rvnar7ovab7ut2nun3xhr44p33daszcljtfdn7k6gtr34pakragkpq";

fn excluded(name: &str) -> bool {
    EXCLUDED.iter().any(|(prefix, _)| name.starts_with(prefix))
}

fn compare_errors(name: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    const UNREADABLE: i64 = -32700;
    if ours["code"] != theirs["code"] {
        found.push(format!("error {ours} instead of {theirs}"));
        return;
    }
    if ours.get("data") != theirs.get("data") {
        found.push(format!("data {:?} instead of {:?}", ours.get("data"), theirs.get("data")));
    }
    let words = |error: &Value| plain(error["message"].as_str().unwrap_or_default());
    let exempt = theirs["code"] == UNREADABLE || OTHER_WORDS.iter().any(|(other, _)| *other == name);
    if !exempt && words(ours) != words(theirs) {
        found.push(format!("words\n    ours:   {}\n    theirs: {}", words(ours), words(theirs)));
    }
}

/// What kind of text a text is.
fn kind_of(text: &str) -> &'static str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text {
        "" => "empty",
        _ if digits(text.trim_start_matches('-')) => "number",
        _ if text.starts_with("baf") || text.starts_with("bag") => "cid",
        _ if is_address(text) => "address",
        _ => "text",
    }
}

fn is_address(text: &str) -> bool {
    let lower = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    lower && text.starts_with('t') && text.as_bytes().get(1).is_some_and(u8::is_ascii_digit)
}

fn compare_shapes(path: &str, theirs: &Value, ours: &Value, ignored: &[&str], found: &mut Vec<String>) {
    if ignored.contains(&path) {
        return;
    }
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let names = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
            let (their_names, our_names) = (names(theirs), names(ours));
            if their_names != our_names {
                let missing: Vec<_> = their_names.difference(&our_names).collect();
                let surplus: Vec<_> = our_names.difference(&their_names).collect();
                found.push(format!("{path}: members {missing:?} missing, {surplus:?} too many"));
            }
            for (member, theirs) in theirs {
                if let Some(ours) = ours.get(member) {
                    compare_shapes(&format!("{path}/{member}"), theirs, ours, ignored, found);
                }
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => match (theirs.first(), ours.first()) {
            (Some(theirs), Some(ours)) => compare_shapes(&format!("{path}/0"), theirs, ours, ignored, found),
            (None, None) => {}
            _ => found.push(format!("{path}: {} elements instead of {}", ours.len(), theirs.len())),
        },
        (Value::String(theirs), Value::String(ours)) => {
            if kind_of(theirs) != kind_of(ours) {
                found.push(format!("{path}: {ours:?} is no {} like {theirs:?}", kind_of(theirs)));
            }
        }
        (Value::Number(_), Value::Number(_)) | (Value::Bool(_), Value::Bool(_)) | (Value::Null, Value::Null) => {}
        _ => found.push(format!("{path}: {ours} instead of {theirs}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_answers_keep_their_shape_their_status_and_their_words() {
    let mut stage = Stage::new().await;
    let lab_worker = stage.lab.funded(1_000).await;
    let miner = stage.lab.miner_with_peer(lab_worker, b"\x00\x24 a peer id of any bytes").await;
    let idle = stage.lab.miner(lab_worker).await;
    let pre_committer = stage.lab.miner(lab_worker).await;
    stage.swap_address("t01000", miner);
    stage.swap_address("t01005", idle);
    stage.swap_address("t01012", pre_committer);

    keys_and_gas(&mut stage).await;
    one_message(&mut stage).await;
    pool(&mut stage).await;
    new_miner(&mut stage).await;
    sealed_sectors(&mut stage, lab_worker, miner, pre_committer).await;
    the_chain(&mut stage).await;

    let left: Vec<String> =
        fixtures("rpc").into_iter().filter(|name| !excluded(name) && !stage.played.contains(name)).collect();
    assert!(left.is_empty(), "{} recorded situations are neither replayed nor excluded: {left:?}", left.len());
    let (count, differ) = (stage.played.len(), stage.differences.len());
    println!("{count} recorded answers replayed");
    assert!(differ == 0, "{differ} differences in {count} answers:\n{}", stage.differences.join("\n"));
}

/// A fresh key, what can be done without money, and estimates.
async fn keys_and_gas(stage: &mut Stage) {
    stage.play("WalletNew.bls").await;
    stage.play_all(&["WalletNew.secp256k1", "WalletNew.bad_type"]).await;
    let unused = stage.lab.client.wallet_new("bls").await.unwrap();
    stage.swap_address(UNUSED_KEY, unused);
    stage.play_methods(&["WalletList", "WalletDefaultAddress", "WalletHas", "WalletSign"]).await;
    stage.play_methods(&["WalletVerify", "WalletBalance", "WalletSignMessage"]).await;
    stage.play("StateGetActor.new_key").await;
    stage.play("MpoolPending.ok").await;
    stage.play_methods(&["MpoolGetConfig", "GasEstimateGasLimit", "GasEstimateFeeCap", "GasEstimateGasPremium"]).await;
    for name in fixtures("rpc") {
        let later = name.contains("create_miner") || excluded(&name);
        if name.starts_with("GasEstimateMessageGas.") && !later {
            stage.play(&name).await;
        }
    }
    stage.play_all(&["StateCall.send", "StateCall.failing", "StateCall.insufficient_funds"]).await;
    stage.play_all(&["MpoolGetNonce.id_address", "MpoolGetNonce.miner_actor", "MpoolGetNonce.ok"]).await;
    stage.play("MpoolGetNonce.unknown").await;
}

/// One message from push to result.
async fn one_message(stage: &mut Stage) {
    stage.swap_key("MpoolSelect.ok", 0);
    stage.play_all(&["MpoolSelect.null_key", "MpoolSelect.ok"]).await;
    stage.play("MpoolPushMessage.ok").await;
    stage.swap_key("MpoolSelect.one_message", 0);
    stage.play_all(&["MpoolPending.one_message", "MpoolSelect.one_message", "MpoolGetNonce.with_pending"]).await;
    stage.play_all(&["ChainGetMessage.pushed", "StateSearchMsg.pending_is_null"]).await;
    stage.lab.advance(1);
    stage.swap_key("StateSearchMsg.from_inclusion_tipset", 0);
    stage.lab.advance(6);
    stage.play_all(&["StateWaitMsg.ok", "StateWaitMsg.confidence5", "StateWaitMsg.unknown_cid"]).await;
    stage.play_all(&["StateSearchMsg.ok", "StateSearchMsg.null_tsk", "StateSearchMsg.no_replacement"]).await;
    stage.play_all(&["StateSearchMsg.from_execution_tipset", "StateSearchMsg.from_inclusion_tipset"]).await;
    stage.play_all(&["StateSearchMsg.limit_too_small_null", "StateSearchMsg.unknown_cid"]).await;
}

/// The second key gets 5000 FIL; what the pool takes and what it refuses.
async fn pool(stage: &mut Stage) {
    let second = address::parse(&stage.swaps[SECOND_KEY]).unwrap();
    let secp = stage.recorded("WalletNew.secp256k1")["response"]["result"].as_str().unwrap().to_owned();
    let secp = address::parse(&stage.swaps[&secp]).unwrap();
    for (to, fil) in [(second, 4_990), (secp, 10)] {
        let money = Message::new(stage.lab.rich(), to, 0, TokenAmount::from_whole(fil), Vec::new());
        assert_eq!(stage.lab.send(money).await.receipt.exit_code, 0);
    }
    let id = stage.lab.client.state_lookup_id(&second, &TipSetKey::HEAD).await.unwrap();
    stage.swap_address("t01002", id);

    stage.play("MpoolPushMessage.from_id_address").await;
    stage.lab.advance(2);
    stage.play_all(&["MpoolPushMessage.nonce_given", "MpoolPushMessage.insufficient_funds"]).await;
    stage.play_all(&["MpoolPushMessage.key_not_in_wallet", "MpoolPushMessage.sender_without_actor"]).await;
    stage.play_all(&["MpoolPushMessage.execution_fails", "MpoolPushMessage.maxfee_too_small"]).await;
    let first = stage.play("MpoolPushMessage.with_msg_uuid").await;
    let again = stage.play("MpoolPushMessage.same_msg_uuid_again").await;
    assert_eq!(first, again, "the same id gives the very same message");
    stage.play("MpoolPushMessage.gas_given").await;
    let sent = stage.play("MpoolPushMessage.secp_sender").await;
    let theirs = stage.recorded("ChainGetMessage.secp_by_signed_cid")["request"]["params"][0].clone();
    stage.swap(&theirs, &sent["CID"]);
    stage.play("ChainGetMessage.secp_by_signed_cid").await;
    stage.lab.advance(2);

    // A message, again, replaced: by other content, then (the next one) by other gas only.
    let nonce = stage.lab.client.mpool_get_nonce(&second).await.unwrap();
    stage.push("MpoolPush.ok", Some(nonce)).await;
    stage.push("MpoolPush.same_again", Some(nonce)).await;
    stage.push("MpoolPush.replace_premium_too_low", Some(nonce)).await;
    stage.push("MpoolPush.replace_ok", Some(nonce)).await;
    let mut plain_gas = stage.recorded("MpoolPush.replace_gas_only")["request"]["params"][0]["Message"].clone();
    plain_gas = stage.ours(&plain_gas);
    plain_gas["Nonce"] = json!(nonce + 1);
    plain_gas["GasPremium"] = json!("99638");
    let signed = stage.lab.ok("WalletSignMessage", json!([address::to_text(&second), plain_gas])).await;
    let replaced = stage.lab.ok("MpoolPush", json!([signed])).await;
    let theirs = stage.recorded("StateSearchMsg.replaced_gas_only")["request"]["params"][1].clone();
    stage.swap(&theirs, &replaced);
    stage.push("MpoolPush.replace_gas_only", Some(nonce + 1)).await;
    stage.lab.advance(2);
    stage.play_all(&["StateSearchMsg.replaced_by_other_content", "StateWaitMsg.replaced_by_other_content"]).await;
    stage.play_all(&["StateSearchMsg.replaced_gas_only", "StateWaitMsg.replaced_gas_only"]).await;
    stage.play("StateSearchMsg.replaced_not_allowed").await;

    let nonce = nonce + 2;
    for name in fixtures("rpc") {
        let accepted = ["nonce_gap", "nonce_gap_too_large", "underfunded_value"];
        let case = name.strip_prefix("MpoolPush.").unwrap_or_default();
        if !case.is_empty() && !accepted.contains(&case) && !stage.played.contains(&name) {
            let keeps_nonce = ["nonce_too_low", "sender_without_actor"].contains(&case);
            stage.push(&name, (!keeps_nonce).then_some(nonce)).await;
        }
    }

    // Gaps are taken and hang.
    let gap = stage.push("MpoolPush.nonce_gap", Some(nonce + 10)).await;
    stage.push("MpoolPush.nonce_gap_too_large", Some(nonce + 500)).await;
    stage.play_all(&["MpoolPending.with_gap", "MpoolGetNonce.with_gap_pending"]).await;
    let theirs = stage.recorded("StateSearchMsg.dropped_message_null")["request"]["params"][1].clone();
    stage.swap(&theirs, &gap);
    stage.lab.ok("MpoolClear", json!([true])).await;
    stage.play("StateSearchMsg.dropped_message_null").await;
    stage.push("MpoolPush.underfunded_value", Some(nonce)).await;
    stage.play("MpoolPending.after_clear").await;
    stage.lab.advance(2);
    stage.play("StateWaitMsg.exit_code_6").await;
}

/// CreateMiner, without and with its deposit.
async fn new_miner(stage: &mut Stage) {
    use curio_chain::message::{Cbor, CreateMinerParams};
    let second = address::parse(&stage.swaps[SECOND_KEY]).unwrap();
    let mut message: Message =
        serde_json::from_value(stage.params("GasEstimateMessageGas.create_miner")[0].clone()).unwrap();
    let params = CreateMinerParams::from_cbor(&message.params).unwrap();
    message.params = CreateMinerParams { owner: second, worker: second, ..params }.to_cbor();
    let theirs = stage.recorded("GasEstimateMessageGas.create_miner")["request"]["params"][0]["Params"].clone();
    let ours = serde_json::to_value(&message).unwrap()["Params"].clone();
    stage.swap(&theirs, &ours);
    stage.play("StateCall.create_miner_without_deposit").await;
    stage.play_all(&["GasEstimateMessageGas.create_miner_without_deposit", "GasEstimateMessageGas.create_miner"]).await;

    let signed = stage.lab.client.mpool_push_message(&message, None).await.unwrap();
    stage.lab.advance(2);
    let theirs = stage.recorded("StateWaitMsg.create_miner")["request"]["params"][0].clone();
    let ours = serde_json::to_value(curio_chain::wire::Json(signed.cid())).unwrap();
    stage.swap(&theirs, &ours);
    stage.play("StateWaitMsg.create_miner").await;
}

/// One miner with two proven sectors, one with a pre-commit only, one idle; asked at the height of the record.
async fn sealed_sectors(stage: &mut Stage, worker: Address, miner: Address, pre_committer: Address) {
    const RECORDED_AT: i64 = 549;
    story::prove_two_sectors(&stage.lab, worker, miner).await;
    story::pre_commit_one(&stage.lab, worker, pre_committer, 201).await;
    stage.swap_key("StateMinerInfo.old_tipset", 1);
    stage.lab.advance_to(500);
    stage.swap_key("StateGetRandomnessFromBeacon.older_key", 3);
    stage.lab.advance_to(RECORDED_AT - 2);
    // A message with parameters; what becomes of it does not matter here.
    let mut message = Message::new(worker, miner, 999, TokenAmount::default(), vec![0x81, 1]);
    message.gas_limit = 10_000_000;
    let sent = stage.lab.client.mpool_push_message(&message, None).await.unwrap();
    stage.lab.advance(1);
    stage.swap_key("ChainGetMessagesInTipset.with_messages", 0);
    let theirs = stage.recorded("ChainGetMessage.ok")["request"]["params"][0].clone();
    let ours = serde_json::to_value(curio_chain::wire::Json(sent.cid())).unwrap();
    stage.swap(&theirs, &ours);
    stage.lab.advance_to(RECORDED_AT);
    stage.play("ChainHead.ok").await;

    let place = stage.lab.client.state_sector_partition(&miner, 0, &TipSetKey::HEAD).await.unwrap();
    for name in fixtures("rpc") {
        if name.starts_with("StateMinerPartitions.") {
            let mut params = stage.params(&name);
            let empty = stage.recorded(&name)["response"]["result"].is_null();
            if params[1] != 48 {
                params[1] = json!(if empty { (place.deadline + 24) % 48 } else { place.deadline });
            }
            stage.play_with(&name, params).await;
        }
    }
    for name in fixtures("rpc") {
        // Sectors 2, 3 and so on of the record are sectors 0 and 1 here.
        const BY_NUMBER: [&str; 3] = ["StateSectorGetInfo.", "StateSectorPartition.", "StateSectorExpiration."];
        if BY_NUMBER.iter().any(|method| name.starts_with(method)) {
            let mut params = stage.params(&name);
            if excluded(&name) {
                continue;
            }
            let proven = stage.recorded(&name)["response"]["result"].is_object();
            if proven {
                params[1] = json!(0);
            }
            stage.play_with(&name, params).await;
        }
    }
    let mut synthetic = stage.params("StateSectorPreCommitInfo.found_synthetic");
    synthetic[1] = json!(201);
    stage.play_with("StateSectorPreCommitInfo.found_synthetic", synthetic).await;
    let mut proven = stage.params("StateSectorPreCommitInfo.null_after_prove");
    proven[1] = json!(0);
    stage.play_with("StateSectorPreCommitInfo.null_after_prove", proven).await;
    let methods = [
        "StateMinerInfo",
        "StateMinerPower",
        "StateMinerAvailableBalance",
        "StateMinerProvingDeadline",
        "StateMinerDeadlines",
        "StateMinerFaults",
        "StateMinerRecoveries",
        "StateMinerSectorCount",
        "StateMinerSectors",
        "StateMinerActiveSectors",
        "StateMinerAllocated",
        "StateMinerSectorAllocated",
        "StateSectorPreCommitInfo",
        "StateMinerPreCommitDepositForPower",
        "StateMinerInitialPledgeCollateral",
        "StateMinerInitialPledgeForSector",
        "StateMinerCreationDeposit",
        "StateGetActor",
        "StateLookupID",
        "StateLookupRobustAddress",
        "StateAccountKey",
        "StateListMiners",
        "StateListActors",
        "StateMarketBalance",
        "StateGetAllocation",
        "StateCirculatingSupply",
        "StateVMCirculatingSupplyInternal",
        "StateActorCodeCIDs",
        "StateNetworkName",
        "StateNetworkVersion",
        "StateGetNetworkParams",
        "Version",
        "ID",
        "Session",
    ];
    stage.play_methods(&methods).await;
    let token = stage.lab.devnet.token.clone();
    stage.play_with("AuthVerify.ok", json!([token])).await;
    stage.play_methods(&["AuthVerify", "AuthNew", "ChainPutObj"]).await;
}

/// Tipsets, blocks, objects and randomness at the height of the record, then over a null round.
async fn the_chain(stage: &mut Stage) {
    stage.play_all(&["ChainGetTipSetByHeight.ok", "ChainGetGenesis.ok"]).await;
    let theirs = stage.recorded("ChainGetPath.ok")["request"]["params"][0].clone();
    let mut below = stage.lab.devnet.head();
    for _ in 0..2 {
        below = stage.lab.client.chain_get_tip_set(below.parents()).await.unwrap();
    }
    stage.swap(&theirs, &serde_json::to_value(&below.cids).unwrap());
    stage.play("ChainGetPath.ok").await;
    for name in fixtures("rpc") {
        let later = name.contains("null_round") || excluded(&name) || stage.played.contains(&name);
        let chain =
            name.starts_with("Chain") || name.starts_with("StateGetRandomness") || name.starts_with("StateGetB");
        if chain && !later {
            stage.play(&name).await;
        }
    }

    const BEFORE_NULL_ROUND: i64 = 1036;
    stage.lab.advance_to(BEFORE_NULL_ROUND);
    let theirs = stage.recorded("ChainGetPath.over_null_rounds")["request"]["params"].clone();
    stage.swap(&theirs[0], &serde_json::to_value(&stage.lab.devnet.head().cids).unwrap());
    stage.lab.devnet.advance_over(1);
    stage.swap(&theirs[1], &serde_json::to_value(&stage.lab.devnet.head().cids).unwrap());
    let names: Vec<String> = fixtures("rpc").into_iter().filter(|name| name.contains("null_round")).collect();
    for name in names.iter().filter(|name| !excluded(name)) {
        stage.play(name).await;
    }
}
