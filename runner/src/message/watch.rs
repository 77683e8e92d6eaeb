//! The message watcher: learns what became of messages that were sent, and fills `message_waits`.
//!
//! Any runner that follows the chain may do it, also several at once: a row is filled by whoever is first.
//! A message that does not land gets a higher price; one that a node has lost is given to it again, and the same
//! bytes are taken once.

mod row;
mod sight;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use curio_chain::types::{MsgLookup, TipSet, TipSetKey};
use curio_chain::{Cid, RpcError};
use curio_core::epoch::EpochDelta;
use curio_core::{Classify, Epoch, Failure};
use futures::StreamExt;
use futures::future::BoxFuture;
use tracing::{info, warn};

pub(super) use self::row::Open;
use self::sight::{Sight, judge};
use super::purpose::Purpose;
use super::replace::{self, Replaced};
use crate::chain_sched::{HeadHandler, HeadUpdate};
use crate::deps::Deps;

/// Messages looked at for one head: those with a deadline first, then the oldest.
const AT_ONCE: i64 = 500;

/// Messages searched for at a time.
const SEARCHES: usize = 8;

/// Epochs between two pushes of the same bytes.
const PUSH_AGAIN_AFTER: EpochDelta = 10;

/// Looks after open rows of `message_waits`.
pub struct MessageWatcher {
    deps: Deps,
    /// What this process remembers of messages without a result, by the CID that is watched.
    traces: Mutex<HashMap<String, Trace>>,
}

/// Heads at which something was seen or done.
#[derive(Clone, Copy, Debug, Default)]
struct Trace {
    pushed: Option<Epoch>,
    /// Since when the chain has another message under the nonce.
    overtaken: Option<Epoch>,
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
        match self.source.node_message() {
            // About this message alone; the others are looked for.
            Some(_) => Failure::Retry(Box::new(self)),
            None => Failure::Unavailable(Box::new(self)),
        }
    }
}

impl HeadHandler for MessageWatcher {
    fn name(&self) -> &'static str {
        "messages"
    }

    fn on_head<'a>(&'a self, update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async move { self.look(&update.head).await.map(drop) })
    }
}

impl MessageWatcher {
    pub fn new(deps: &Deps) -> MessageWatcher {
        MessageWatcher { deps: deps.clone(), traces: Mutex::default() }
    }

    /// Looks for every open message at this head. Returns how many have got a result.
    ///
    /// # Errors
    /// Database or chain away: the next head tries again.
    pub async fn look(&self, head: &TipSet) -> Result<u64, Failure> {
        let open = row::open(&self.deps.db, AT_ONCE).await?;
        self.forget_others(&open);
        if open.iter().any(|message| message.sent && message.sent_epoch.is_none()) {
            row::note_sent(&self.deps.db, head.height).await?;
        }
        let looks: Vec<_> = open.iter().map(|message| self.look_for(head, message)).collect();
        let mut looks = futures::stream::iter(looks).buffered(SEARCHES).zip(futures::stream::iter(&open));
        let (mut landed, mut waiting) = (0, Vec::new());
        while let Some((looked, message)) = looks.next().await {
            match looked {
                Ok(Look::Settled) => landed += 1,
                Ok(Look::Nothing) => {}
                Ok(Look::Waiting) => waiting.push(message),
                Err(failure @ Failure::Unavailable(_)) => return Err(failure),
                Err(failure) => warn_of(message, &failure),
            }
        }
        drop(looks);
        self.urge(head.height, &open, &waiting).await?;
        Ok(landed)
    }

    async fn look_for(&self, head: &TipSet, message: &Open) -> Result<Look, Failure> {
        let confidence = EpochDelta::from(self.deps.config.chain.message_confidence);
        match self.find(head, message, confidence).await? {
            Sight::Settled(lookup) => {
                self.settle(message, &lookup).await?;
                Ok(Look::Settled)
            }
            Sight::Fresh => Ok(Look::Nothing),
            Sight::Overtaken => {
                let since = self.trace(&message.signed_cid, |trace| *trace.overtaken.get_or_insert(head.height));
                if head.height - since >= confidence {
                    self.give_up(message).await?;
                }
                Ok(Look::Nothing)
            }
            Sight::Nowhere if message.sent => Ok(Look::Waiting),
            // Its task has signed it and not pushed it yet.
            Sight::Nowhere => Ok(Look::Nothing),
        }
    }

    /// Where the message is, in whichever form.
    async fn find(&self, head: &TipSet, message: &Open, confidence: EpochDelta) -> Result<Sight, Failure> {
        let mut sight = Sight::Nowhere;
        for text in message.cids() {
            let Ok(cid) = Cid::try_from(text) else {
                return Err(Failure::retry("its CID is malformed"));
            };
            let found = self.deps.chain.state_search_msg(&TipSetKey::HEAD, cid, None, true).await;
            sight =
                judge(found, head.height, confidence).map_err(|source| WatchError { cid: text.to_owned(), source })?;
            if !matches!(sight, Sight::Nowhere) {
                break;
            }
        }
        Ok(sight)
    }

    async fn settle(&self, message: &Open, lookup: &MsgLookup) -> Result<(), Failure> {
        if !row::landed(&self.deps.db, message, lookup).await? {
            return Ok(());
        }
        let (purpose, exit_code) = (label(&message.purpose), lookup.receipt.exit_code);
        self.deps.counters.count(|counts| *counts.messages_landed.entry((purpose, exit_code)).or_default() += 1);
        info!(
            message.cid = message.signed_cid,
            epoch = lookup.height.0,
            exit_code,
            "{} message {} was executed with exit code {exit_code}",
            message.purpose,
            message.signed_cid
        );
        Ok(())
    }

    /// Another message has this one's nonce on the chain.
    async fn give_up(&self, message: &Open) -> Result<(), Failure> {
        if row::overtaken(&self.deps.db, message.send_id).await? {
            warn!(
                message.cid = message.signed_cid,
                "{} message {} never lands: the chain executed another one under nonce {} of {}",
                message.purpose,
                message.signed_cid,
                message.nonce,
                message.from_key
            );
        }
        Ok(())
    }

    /// Sees to it that messages which wait land: by a higher price, or by giving the node again what it may have lost.
    async fn urge(&self, head: Epoch, open: &[Open], waiting: &[&Open]) -> Result<(), Failure> {
        let urgent = replace::urgent_nonces(open);
        let mut by_key: HashMap<&str, usize> = HashMap::new();
        for message in waiting {
            let is_urgent = urgent.get(message.from_key.as_str()).is_some_and(|nonce| message.nonce <= *nonce);
            let Some(signed) = message.newest_epoch.or(message.sent_epoch) else {
                // Noted as sent at this very head.
                continue;
            };
            if !replace::is_due(Epoch(signed), head, is_urgent) {
                continue;
            }
            let replaced = by_key.entry(message.from_key.as_str()).or_default();
            if *replaced >= replace::AT_ONCE_PER_KEY {
                continue;
            }
            match replace::replace(&self.deps, head, message).await {
                Ok(Replaced::Yes) => {
                    *replaced += 1;
                    let purpose = label(&message.purpose);
                    self.deps.counters.count(|counts| *counts.messages_replaced.entry(purpose).or_default() += 1);
                }
                Ok(Replaced::Elsewhere) => {}
                Ok(Replaced::AtLimit) => self.push_again(head, message).await,
                Err(failure @ Failure::Unavailable(_)) => return Err(failure),
                Err(failure) => warn_of(message, &failure),
            }
        }
        Ok(())
    }

    /// Gives a message without a trace to the node again, now and then.
    async fn push_again(&self, head: Epoch, message: &Open) {
        let due = self.trace(&message.signed_cid, |trace| {
            let due = trace.pushed.is_none_or(|pushed| head - pushed >= PUSH_AGAIN_AFTER);
            if due {
                trace.pushed = Some(head);
            }
            due
        });
        let Some(signed) = message.newest().filter(|_| due) else {
            return;
        };
        let cid = signed.cid();
        match self.deps.chain.mpool_push(&signed).await {
            Ok(_) => info!(message.cid = %cid, "the node had lost message {cid}; it was pushed again"),
            Err(error) if error.is_already_in_mpool() => warn!(
                message.cid = %cid,
                "{} message {cid} waits in the pool at the highest price that its fee limit allows; raise the limit under [Fees] for later ones",
                message.purpose
            ),
            Err(error) => warn!(
                message.cid = %cid,
                error = &error as &dyn std::error::Error,
                "failed to push message {cid} again"
            ),
        }
    }

    fn trace<T>(&self, signed_cid: &str, change: impl FnOnce(&mut Trace) -> T) -> T {
        change(self.traces().entry(signed_cid.to_owned()).or_default())
    }

    fn forget_others(&self, open: &[Open]) {
        self.traces().retain(|cid, _| open.iter().any(|message| message.signed_cid == *cid));
    }

    fn traces(&self) -> MutexGuard<'_, HashMap<String, Trace>> {
        self.traces.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a look for one message led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Settled,
    /// It was sent, and is nowhere on the chain.
    Waiting,
    Nothing,
}

fn warn_of(message: &Open, failure: &Failure) {
    warn!(message.cid = message.signed_cid, "failed to watch message {}: {failure}", message.signed_cid);
}

/// The purpose as a closed label.
fn label(purpose: &str) -> &'static str {
    Purpose::parse(purpose).map_or("other", Purpose::as_str)
}
