//! The message watcher: learns what became of messages that were sent, and fills `message_waits`.
//!
//! Any runner that follows the chain may do it, also several at once: a row is filled by whoever is first.
//! A message that a node has lost is given to it again; the same bytes are taken once.

use std::collections::HashMap;
use std::sync::Mutex;

use curio_chain::types::{MsgLookup, SignedMessage, TipSet, TipSetKey};
use curio_chain::{Cid, RpcError};
use curio_core::epoch::EpochDelta;
use curio_core::{Classify, Epoch, Failure};
use curio_harmony::DbError;
use tracing::{info, warn};

use crate::deps::Deps;

/// Messages looked at for one head, oldest first.
const AT_ONCE: i64 = 500;

/// Epochs without a result after which a message is given to the node once more.
const PUSH_AGAIN_AFTER: EpochDelta = 10;

/// Looks after open rows of `message_waits`.
pub struct MessageWatcher {
    deps: Deps,
    /// Head at which a message without a result was last pushed, or first seen.
    pushed_at: Mutex<HashMap<String, Epoch>>,
}

/// A message without a result.
#[derive(Debug)]
struct Open {
    signed_cid: String,
    signed: Option<serde_json::Value>,
    purpose: String,
    sent: bool,
}

#[derive(Debug, thiserror::Error)]
#[error("failed to look for message {cid} on the chain")]
struct WatchError {
    cid: String,
    #[source]
    source: RpcError,
}

impl Classify for WatchError {
    fn classify(self) -> Failure {
        Failure::Unavailable(Box::new(self))
    }
}

impl MessageWatcher {
    pub fn new(deps: &Deps) -> MessageWatcher {
        MessageWatcher { deps: deps.clone(), pushed_at: Mutex::new(HashMap::new()) }
    }

    /// Looks for every open message at this head. Returns how many have got a result.
    ///
    /// # Errors
    /// Database or chain away: the next head tries again.
    pub async fn look(&self, head: &TipSet) -> Result<u64, Failure> {
        let open = self.open().await?;
        self.forget_others(&open);
        let mut landed = 0;
        for message in &open {
            match self.look_for(head, message).await {
                Ok(found) => landed += u64::from(found),
                Err(failure @ Failure::Unavailable(_)) => return Err(failure),
                Err(failure) => {
                    warn!(message.cid = message.signed_cid, "failed to watch message {}: {failure}", message.signed_cid)
                }
            }
        }
        Ok(landed)
    }

    async fn open(&self) -> Result<Vec<Open>, DbError> {
        Ok(sqlx::query_as!(
            Open,
            r#"SELECT w.signed_message_cid AS signed_cid, s.signed_json AS signed, s.send_reason AS purpose,
                      s.send_success IS TRUE AS "sent!"
               FROM message_waits w JOIN message_sends s ON s.signed_cid = w.signed_message_cid
               WHERE w.executed_tsk_epoch IS NULL AND s.send_success IS NOT FALSE
               ORDER BY w.created_at LIMIT $1"#,
            AT_ONCE
        )
        .fetch_all(self.deps.db.pool())
        .await?)
    }

    async fn look_for(&self, head: &TipSet, message: &Open) -> Result<bool, Failure> {
        let Ok(cid) = Cid::try_from(message.signed_cid.as_str()) else {
            return Err(Failure::retry("its CID is malformed"));
        };
        let confidence = EpochDelta::from(self.deps.config.chain.message_confidence);
        let found = self.deps.chain.state_search_msg(&TipSetKey::HEAD, cid, None, true).await;
        match judge(found, head.height, confidence) {
            Ok(Sight::Settled(lookup)) => {
                self.settle(message, &lookup).await?;
                Ok(true)
            }
            Ok(Sight::Fresh) => Ok(false),
            Ok(Sight::Nowhere) => {
                self.push_again(head.height, message).await;
                Ok(false)
            }
            Err(source) => Err(WatchError { cid: message.signed_cid.clone(), source }.into()),
        }
    }

    async fn settle(&self, message: &Open, lookup: &MsgLookup) -> Result<(), Failure> {
        let exit_code = lookup.receipt.exit_code;
        let data = message.signed.as_ref().and_then(|signed| signed.get("Message")).cloned();
        let row = (message.signed_cid.clone(), lookup.clone(), data);
        let filled = self
            .deps
            .db
            .transaction("message landed", move |tx| {
                let (signed_cid, lookup, data) = row.clone();
                Box::pin(async move {
                    let done = sqlx::query!(
                        "UPDATE message_waits
                         SET executed_tsk_cid = $2, executed_tsk_epoch = $3, executed_msg_cid = $4, executed_msg_data = $5,
                             executed_rcpt_exitcode = $6, executed_rcpt_return = $7, executed_rcpt_gas_used = $8,
                             executed_tsk = $9
                         WHERE signed_message_cid = $1 AND executed_tsk_epoch IS NULL",
                        signed_cid,
                        lookup.tip_set.cid().to_string(),
                        lookup.height.0,
                        lookup.message.to_string(),
                        data,
                        lookup.receipt.exit_code,
                        lookup.receipt.r#return,
                        lookup.receipt.gas_used,
                        key_bytes(&lookup.tip_set)
                    )
                    .execute(&mut *tx)
                    .await?;
                    Ok(done.rows_affected())
                })
            })
            .await?;
        if filled == 1 {
            let purpose = static_purpose(&message.purpose);
            self.deps.counters.count(|counts| *counts.messages_landed.entry((purpose, exit_code)).or_default() += 1);
            info!(
                message.cid = message.signed_cid,
                epoch = lookup.height.0,
                exit_code,
                "{} message {} was executed with exit code {exit_code}",
                message.purpose,
                message.signed_cid
            );
        }
        Ok(())
    }

    /// Gives a message without a trace to the node again, now and then.
    async fn push_again(&self, head: Epoch, message: &Open) {
        if !message.sent || !self.is_due(head, &message.signed_cid) {
            return;
        }
        let Some(Ok(signed)) = message.signed.clone().map(serde_json::from_value::<SignedMessage>) else {
            return;
        };
        match self.deps.chain.mpool_push(&signed).await {
            Ok(_) => info!(
                message.cid = message.signed_cid,
                "the node had lost message {}; it was pushed again", message.signed_cid
            ),
            Err(error) if error.is_already_in_mpool() => {}
            Err(error) => warn!(
                message.cid = message.signed_cid,
                error = &error as &dyn std::error::Error,
                "failed to push message {} again",
                message.signed_cid
            ),
        }
    }

    fn is_due(&self, head: Epoch, signed_cid: &str) -> bool {
        let mut pushed_at = self.pushed_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let last = *pushed_at.entry(signed_cid.to_owned()).or_insert(head);
        let due = head - last >= PUSH_AGAIN_AFTER;
        if due {
            pushed_at.insert(signed_cid.to_owned(), head);
        }
        due
    }

    fn forget_others(&self, open: &[Open]) {
        let mut pushed_at = self.pushed_at.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        pushed_at.retain(|cid, _| open.iter().any(|message| message.signed_cid == *cid));
    }
}

/// A tipset key as Lotus keeps it: the bytes of its CIDs, one after another.
fn key_bytes(key: &TipSetKey) -> Vec<u8> {
    key.0.iter().flat_map(Cid::to_bytes).collect()
}

/// The purpose as a closed label.
fn static_purpose(purpose: &str) -> &'static str {
    match purpose {
        "precommit" => "precommit",
        "commit" => "commit",
        _ => "other",
    }
}

/// Where a message is, seen from a head.
#[derive(Debug, PartialEq, Eq)]
enum Sight {
    /// Executed, and deep enough to stay.
    Settled(Box<MsgLookup>),
    /// Executed, but a reorganisation may still undo it.
    Fresh,
    /// Not on the chain; perhaps the node does not know it.
    Nowhere,
}

fn judge(found: Result<Option<MsgLookup>, RpcError>, head: Epoch, confidence: EpochDelta) -> Result<Sight, RpcError> {
    match found {
        Ok(Some(lookup)) if head - lookup.height >= confidence => Ok(Sight::Settled(Box::new(lookup))),
        Ok(Some(_)) => Ok(Sight::Fresh),
        Ok(None) => Ok(Sight::Nowhere),
        Err(error) if error.is_not_yet() => Ok(Sight::Nowhere),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(height: i64) -> MsgLookup {
        let text = include_str!("../../tests/recorded/StateSearchMsg.json");
        MsgLookup { height: Epoch(height), ..serde_json::from_str(text).expect("the recorded answer is a lookup") }
    }

    #[test]
    fn a_message_has_landed_when_enough_epochs_are_on_top() {
        assert_eq!(judge(Ok(Some(lookup(96))), Epoch(100), 5).expect("an answer"), Sight::Fresh);
        assert!(matches!(judge(Ok(Some(lookup(95))), Epoch(100), 5).expect("an answer"), Sight::Settled(_)));
    }

    #[test]
    fn a_message_that_the_node_does_not_know_is_nowhere_and_not_an_error() {
        let unknown = RpcError::Node {
            method: "Filecoin.StateSearchMsg",
            code: 1,
            message: "ipld: could not find bafy".to_owned(),
        };
        assert_eq!(judge(Err(unknown), Epoch(100), 5).expect("an answer"), Sight::Nowhere);
        assert_eq!(judge(Ok(None), Epoch(100), 5).expect("an answer"), Sight::Nowhere);
    }
}
