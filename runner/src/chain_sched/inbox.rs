//! What waits for one handler: nothing, or the newest head with all that was reverted below it.

use std::sync::{Mutex, MutexGuard};

use curio_core::Epoch;
use tokio::sync::{Notify, watch};

use super::HeadUpdate;

/// The newest head for one handler, put in by the dispatcher and taken by the handler's own task.
#[derive(Debug)]
pub(super) struct Inbox {
    slot: Mutex<Slot>,
    changed: Notify,
    /// Number of the newest update that the handler is through with.
    through: watch::Sender<u64>,
}

/// Updates put together into one. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
struct Slot {
    waiting: Option<HeadUpdate>,
    /// Number of the newest update.
    number: u64,
}

impl Slot {
    fn put(&mut self, update: HeadUpdate) -> u64 {
        self.number += 1;
        let earlier = self.waiting.take().and_then(|waiting| waiting.reverted_to);
        self.waiting = Some(HeadUpdate { reverted_to: lower(earlier, update.reverted_to), head: update.head });
        self.number
    }

    /// Puts back what a call that did not end well has taken: the newest head stays, and so does every revert.
    fn put_back(&mut self, update: HeadUpdate) {
        self.waiting = Some(match self.waiting.take() {
            None => update,
            Some(newer) => HeadUpdate { reverted_to: lower(update.reverted_to, newer.reverted_to), head: newer.head },
        });
    }

    /// Whether a call for a head of this height would decide on what is no longer so.
    fn overtakes(&self, height: Epoch) -> bool {
        let reverted_to = self.waiting.as_ref().and_then(|waiting| waiting.reverted_to);
        reverted_to.is_some_and(|reverted_to| reverted_to <= height)
    }
}

fn lower(one: Option<Epoch>, other: Option<Epoch>) -> Option<Epoch> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Inbox {
    pub(super) fn new() -> Inbox {
        Inbox { slot: Mutex::default(), changed: Notify::new(), through: watch::Sender::new(0) }
    }

    /// Puts an update in, and gives its number.
    pub(super) fn put(&self, update: HeadUpdate) -> u64 {
        let number = self.slot().put(update);
        self.changed.notify_one();
        number
    }

    pub(super) fn put_back(&self, update: HeadUpdate) {
        self.slot().put_back(update);
    }

    /// Waits for an update and takes it, with its number. There is one taker. May be dropped and called again.
    pub(super) async fn take(&self) -> (HeadUpdate, u64) {
        loop {
            {
                let mut slot = self.slot();
                if let Some(update) = slot.waiting.take() {
                    return (update, slot.number);
                }
            }
            self.changed.notified().await;
        }
    }

    /// Waits until something new was put in.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Waits until the chain has gone back to `height` or below.
    pub(super) async fn overtaken(&self, height: Epoch) {
        while !self.slot().overtakes(height) {
            self.changed.notified().await;
        }
    }

    /// The handler is through with this update, and with all before it.
    pub(super) fn done(&self, number: u64) {
        self.through.send_replace(number);
    }

    /// Waits until the handler is through with this update.
    pub(super) async fn until_done(&self, number: u64) {
        // The sender lives in this very inbox, so that there is no error.
        let _ = self.through.subscribe().wait_for(|through| *through >= number).await;
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // Held for single calls that leave the slot whole, so a panic elsewhere cannot break it.
        self.slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use curio_chain::types::{TipSet, TipSetKey};

    use super::*;

    fn update(height: i64, reverted_to: Option<i64>) -> HeadUpdate {
        let head = TipSet { cids: TipSetKey::HEAD, blocks: Vec::new(), height: Epoch(height) };
        HeadUpdate { head, reverted_to: reverted_to.map(Epoch) }
    }

    #[test]
    fn heads_that_wait_become_one_with_the_lowest_revert() {
        let mut slot = Slot::default();
        for (height, reverted_to) in [(10, None), (11, Some(9)), (12, Some(11)), (13, None)] {
            slot.put(update(height, reverted_to));
        }
        assert_eq!(slot, Slot { waiting: Some(update(13, Some(9))), number: 4 });
    }

    #[test]
    fn what_a_failed_call_was_told_is_told_again_with_the_newest_head() {
        let mut slot = Slot::default();
        slot.put_back(update(10, Some(8)));
        assert_eq!(slot.waiting, Some(update(10, Some(8))));
        slot.put(update(11, None));
        assert_eq!(slot.waiting, Some(update(11, Some(8))));
        slot.put_back(update(10, Some(7)));
        assert_eq!(slot.waiting, Some(update(11, Some(7))));
    }

    #[test]
    fn a_call_is_overtaken_when_its_head_or_one_below_is_reverted() {
        for (reverted_to, overtaken) in [(None, false), (Some(11), false), (Some(10), true), (Some(3), true)] {
            let mut slot = Slot::default();
            slot.put(update(12, reverted_to));
            assert_eq!(slot.overtakes(Epoch(10)), overtaken, "reverted to {reverted_to:?}");
        }
    }
}
