//! The chain by plain HTTP, as anybody's script would ask it: no code of ours is between the question and the answer.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use ipld_core::ipld::Ipld;
use serde_json::{Value, json};

/// Method numbers of the miner actor.
const PRE_COMMIT_SECTOR_BATCH_2: u64 = 28;
const PROVE_COMMIT_SECTORS_3: u64 = 34;

/// Where the chain is and who may ask.
#[derive(Clone)]
pub struct Chain {
    pub url: String,
    pub token: String,
}

impl Chain {
    /// One call, as a script would make it.
    ///
    /// # Errors
    /// When the chain does not answer, or refuses.
    pub fn call(&self, method: &str, params: Value) -> Result<Value> {
        let agent: ureq::Agent = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(10)))
            .http_status_as_error(false)
            .build()
            .into();
        let endpoint = if self.url.contains("/rpc/") { self.url.clone() } else { format!("{}/rpc/v1", self.url) };
        let question = json!({"jsonrpc": "2.0", "id": 1, "method": format!("Filecoin.{method}"), "params": params});
        let mut answer = agent
            .post(&endpoint)
            .header("Authorization", &format!("Bearer {}", self.token))
            .send_json(question)
            .with_context(|| format!("failed to ask {endpoint} for {method}"))?;
        let mut body: Value = answer.body_mut().read_json().with_context(|| {
            format!("{endpoint} answered {method} with status {} and no JSON", answer.status().as_u16())
        })?;
        if let Some(error) = body.get("error").filter(|error| !error.is_null()) {
            bail!("the chain refused {method}: {}", error["message"].as_str().unwrap_or("no reason given"));
        }
        Ok(body["result"].take())
    }

    /// The sealed CID that the chain holds for a sector; `None` when it does not know the sector.
    ///
    /// # Errors
    /// When the chain does not answer.
    pub fn sector_info(&self, miner: &str, number: u64) -> Result<Option<String>> {
        let info = self.call("StateSectorGetInfo", json!([miner, number, null]))?;
        Ok(info["SealedCID"]["/"].as_str().map(str::to_owned))
    }
}

/// Messages about some sectors of one storage provider that are on the chain, counted tipset by tipset. Messages about
/// its other sectors are somebody else's: a person may seal more while the demo works.
pub struct MessageCount {
    miner: String,
    sectors: BTreeSet<u64>,
    /// Tipsets above this epoch have not been looked at.
    seen_epoch: i64,
    pub precommit: u64,
    pub commit: u64,
}

impl MessageCount {
    pub fn new(miner: &str, sectors: impl IntoIterator<Item = u64>) -> MessageCount {
        let sectors = sectors.into_iter().collect();
        MessageCount { miner: miner.to_owned(), sectors, seen_epoch: -1, precommit: 0, commit: 0 }
    }

    /// Looks at every tipset between the last look and the head.
    ///
    /// # Errors
    /// When the chain does not answer or sends something else; nothing is counted then, and the next look starts where
    /// this one did.
    pub fn follow(&mut self, chain: &Chain) -> Result<()> {
        let (mut precommit, mut commit) = (0, 0);
        let mut tipset = chain.call("ChainHead", json!([]))?;
        let head = height(&tipset)?;
        while height(&tipset)? > self.seen_epoch.max(0) {
            let block = tipset["Cids"][0].clone();
            // The messages of the parents: those that were executed, once each.
            let messages = chain.call("ChainGetParentMessages", json!([block]))?;
            for entry in messages.as_array().into_iter().flatten() {
                match self.step_of(&entry["Message"])? {
                    Some(Step::PreCommit) => precommit += 1,
                    Some(Step::Commit) => commit += 1,
                    None => {}
                }
            }
            tipset = chain.call("ChainGetTipSet", json!([tipset["Blocks"][0]["Parents"]]))?;
        }
        self.seen_epoch = head;
        self.precommit += precommit;
        self.commit += commit;
        Ok(())
    }

    /// What a message does to one of our sectors; nothing when it is about something else.
    fn step_of(&self, message: &Value) -> Result<Option<Step>> {
        if !same_actor(message["To"].as_str().unwrap_or_default(), &self.miner) {
            return Ok(None);
        }
        // Both carry a list of sectors first; in a pre-commit a sector starts with its kind of proof, then its number.
        let (step, place) = match message["Method"].as_u64() {
            Some(PRE_COMMIT_SECTOR_BATCH_2) => (Step::PreCommit, 1),
            Some(PROVE_COMMIT_SECTORS_3) => (Step::Commit, 0),
            Some(_) | None => return Ok(None),
        };
        let about = sector_numbers(message, place)
            .with_context(|| format!("the chain sent a {step:?} message with parameters of another shape"))?;
        Ok((!about.is_disjoint(&self.sectors)).then_some(step))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    PreCommit,
    Commit,
}

/// Numbers of the sectors that a message lists; each is at one place of its entry.
fn sector_numbers(message: &Value, place: usize) -> Option<BTreeSet<u64>> {
    let bytes = BASE64_STANDARD.decode(message["Params"].as_str()?).ok()?;
    let params: Ipld = serde_ipld_dagcbor::from_slice(&bytes).ok()?;
    let Some(Ipld::List(sectors)) = params.take(0).ok()? else { return None };
    let number = |sector: Ipld| match sector.take(place) {
        Ok(Some(Ipld::Integer(number))) => u64::try_from(number).ok(),
        Ok(_) | Err(_) => None,
    };
    sectors.into_iter().map(number).collect()
}

fn height(tipset: &Value) -> Result<i64> {
    tipset["Height"].as_i64().context("the chain sent a tipset without a height")
}

/// `f01000` and `t01000` are one actor, on the main network and on a test network.
pub fn same_actor(one: &str, other: &str) -> bool {
    !one.is_empty() && one.get(1..) == other.get(1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message as a node tells it, with parameters in CBOR.
    fn message(method: u64, params: &Ipld) -> Value {
        let bytes = serde_ipld_dagcbor::to_vec(params).expect("a value encodes");
        json!({"To": "t01000", "Method": method, "Params": BASE64_STANDARD.encode(bytes)})
    }

    fn list(items: impl IntoIterator<Item = Ipld>) -> Ipld {
        Ipld::List(items.into_iter().collect())
    }

    fn pre_commit(sectors: &[i128]) -> Value {
        let entry = |number| list([Ipld::Integer(5), Ipld::Integer(number), Ipld::Bytes(vec![1]), Ipld::Null]);
        message(PRE_COMMIT_SECTOR_BATCH_2, &list([list(sectors.iter().copied().map(entry))]))
    }

    fn commit(sectors: &[i128]) -> Value {
        let entry = |number| list([Ipld::Integer(number), list([])]);
        message(PROVE_COMMIT_SECTORS_3, &list([list(sectors.iter().copied().map(entry)), list([])]))
    }

    /// Once a sector that a person queued while the demo worked made the demo end with an error.
    #[test]
    fn only_messages_about_sectors_of_the_demo_count() {
        let ours = MessageCount::new("f01000", [0, 3]);
        for (message, step) in [
            (pre_commit(&[3]), Some(Step::PreCommit)),
            (commit(&[0]), Some(Step::Commit)),
            (commit(&[7, 3]), Some(Step::Commit)),
            (pre_commit(&[5]), None),
            (commit(&[7, 8]), None),
            (message(5, &Ipld::Null), None),
        ] {
            assert_eq!(ours.step_of(&message).expect("the message is read"), step, "{message}");
        }
        let theirs = MessageCount::new("f01001", [0, 3]);
        assert_eq!(theirs.step_of(&commit(&[0])).expect("the message is read"), None, "another storage provider");
    }

    #[test]
    fn a_message_that_cannot_be_read_is_no_message_of_somebody_else() {
        let error = MessageCount::new("f01000", [0]).step_of(&message(PROVE_COMMIT_SECTORS_3, &Ipld::Null));
        assert!(error.is_err_and(|error| error.to_string().contains("another shape")));
    }

    #[test]
    fn an_actor_is_the_same_under_both_network_prefixes() {
        for (one, other, same) in [("f01000", "t01000", true), ("t01000", "t01001", false), ("", "", false)] {
            assert_eq!(same_actor(one, other), same, "{one} {other}");
        }
    }
}
