//! The chain by plain HTTP, as anybody's script would ask it: no code of ours is between the question and the answer.

use std::time::Duration;

use anyhow::{Context, Result, bail};
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
    fn call(&self, method: &str, params: Value) -> Result<Value> {
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

/// Messages to one storage provider that are on the chain, counted tipset by tipset.
pub struct MessageCount {
    miner: String,
    /// Tipsets above this epoch have not been looked at.
    seen_epoch: i64,
    pub precommit: u64,
    pub commit: u64,
}

impl MessageCount {
    pub fn new(miner: &str) -> MessageCount {
        MessageCount { miner: miner.to_owned(), seen_epoch: -1, precommit: 0, commit: 0 }
    }

    /// Looks at every tipset between the last look and the head.
    ///
    /// # Errors
    /// When the chain does not answer; nothing is counted then, and the next look starts where this one did.
    pub fn follow(&mut self, chain: &Chain) -> Result<()> {
        let (mut precommit, mut commit) = (0, 0);
        let mut tipset = chain.call("ChainHead", json!([]))?;
        let head = height(&tipset)?;
        while height(&tipset)? > self.seen_epoch.max(0) {
            let block = tipset["Cids"][0].clone();
            // The messages of the parents: those that were executed, once each.
            let messages = chain.call("ChainGetParentMessages", json!([block]))?;
            for entry in messages.as_array().into_iter().flatten() {
                let message = &entry["Message"];
                if !same_actor(message["To"].as_str().unwrap_or_default(), &self.miner) {
                    continue;
                }
                match message["Method"].as_u64() {
                    Some(PRE_COMMIT_SECTOR_BATCH_2) => precommit += 1,
                    Some(PROVE_COMMIT_SECTORS_3) => commit += 1,
                    _ => {}
                }
            }
            tipset = chain.call("ChainGetTipSet", json!([tipset["Blocks"][0]["Parents"]]))?;
        }
        self.seen_epoch = head;
        self.precommit += precommit;
        self.commit += commit;
        Ok(())
    }
}

fn height(tipset: &Value) -> Result<i64> {
    tipset["Height"].as_i64().context("the chain sent a tipset without a height")
}

/// `f01000` and `t01000` are one actor, on the main network and on a test network.
fn same_actor(one: &str, other: &str) -> bool {
    !one.is_empty() && one.get(1..) == other.get(1..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_actor_is_the_same_under_both_network_prefixes() {
        for (one, other, same) in [("f01000", "t01000", true), ("t01000", "t01001", false), ("", "", false)] {
            assert_eq!(same_actor(one, other), same, "{one} {other}");
        }
    }
}
