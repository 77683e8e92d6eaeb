//! Head changes waiting for their consumer. Pure.

use crate::notify::Update;
use crate::types::{HeadChange, TipSet, TipSetKey};

/// Most changes that wait. A consumer that is further behind than a day of epochs derives anew.
const MAX_CHANGES: usize = 2880;

/// Changes since the last update, and the head they lead to.
#[derive(Debug, Default)]
pub struct Backlog {
    changes: Vec<HeadChange>,
    head: Option<TipSet>,
    changed: bool,
    closed: bool,
}

impl Backlog {
    /// Adds changes that lead from the known head to `head`, or start with a current tipset.
    pub fn push(&mut self, changes: Vec<HeadChange>, head: TipSet) {
        for change in changes {
            match (self.changes.last(), &change) {
                (_, HeadChange::Current(_)) => self.changes.clear(),
                // A tipset that came and went while nobody looked never was.
                (Some(HeadChange::Applied(last)), HeadChange::Reverted(tipset)) if last.cids == tipset.cids => {
                    self.changes.pop();
                    continue;
                }
                _ => {}
            }
            self.changes.push(change);
        }
        if self.changes.len() > MAX_CHANGES {
            self.changes = vec![HeadChange::Current(head.clone())];
        }
        self.head = Some(head);
        self.changed = true;
    }

    /// All that waits, if anything changed.
    pub fn take(&mut self) -> Option<Update> {
        if !std::mem::take(&mut self.changed) {
            return None;
        }
        let changes = std::mem::take(&mut self.changes);
        // Nothing but a detour that was cancelled out: the head is what it was.
        if changes.is_empty() {
            return None;
        }
        self.head.clone().map(|head| Update { changes, head })
    }

    pub fn head(&self) -> Option<&TipSet> {
        self.head.as_ref()
    }

    /// Nothing more will come.
    pub fn close(&mut self) {
        self.closed = true;
    }

    pub fn is_closed(&self) -> bool {
        self.closed
    }
}

/// Where `changes` lead from the tipset `from`; none when they do not follow from it link by link.
pub fn end_of(from: &TipSetKey, changes: &[HeadChange]) -> Option<TipSetKey> {
    changes.iter().try_fold(from.clone(), |at, change| match change {
        HeadChange::Reverted(tipset) if tipset.cids == at => Some(tipset.parents().clone()),
        HeadChange::Applied(tipset) if *tipset.parents() == at => Some(tipset.cids.clone()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use cid::Cid;
    use curio_core::Epoch;
    use fvm_shared::address::Address;

    use super::*;
    use crate::message::dag_cbor_cid;
    use crate::types::BlockHeader;

    fn cid(name: &str) -> Cid {
        dag_cbor_cid(name)
    }

    /// A tipset of one block, named by a letter.
    fn tipset(name: &str, parent: &str, height: i64) -> TipSet {
        let block = BlockHeader {
            miner: Address::new_id(1000),
            ticket: None,
            election_proof: None,
            beacon_entries: vec![],
            win_post_proof: vec![],
            parents: TipSetKey(vec![cid(parent)]),
            parent_weight: 0.into(),
            height: Epoch(height),
            parent_state_root: cid("state"),
            parent_message_receipts: cid("receipts"),
            messages: cid("messages"),
            bls_aggregate: None,
            timestamp: 0,
            block_sig: None,
            fork_signaling: 0,
            parent_base_fee: Default::default(),
        };
        TipSet { cids: TipSetKey(vec![cid(name)]), blocks: vec![block], height: Epoch(height) }
    }

    #[test]
    fn changes_lead_somewhere_only_link_by_link() {
        let (a, b, c, d) = (tipset("a", "0", 1), tipset("b", "a", 2), tipset("c", "b", 3), tipset("d", "a", 4));
        let (revert, apply) = (HeadChange::Reverted, HeadChange::Applied);
        for (from, changes, end) in [
            (&a, vec![], Some(&a)),
            (&a, vec![apply(b.clone()), apply(c.clone())], Some(&c)),
            (&c, vec![revert(c.clone()), revert(b.clone()), apply(d.clone())], Some(&d)),
            (&a, vec![apply(c.clone())], None),
            (&b, vec![revert(c.clone())], None),
            (&a, vec![HeadChange::Current(a.clone())], None),
        ] {
            assert_eq!(end_of(from.key(), &changes).as_ref(), end.map(TipSet::key), "{changes:?}");
        }
    }

    #[test]
    fn changes_gather_until_they_are_taken() {
        let mut backlog = Backlog::default();
        let (a, b, c) = (tipset("a", "0", 1), tipset("b", "a", 2), tipset("c", "b", 3));
        assert_eq!(backlog.take(), None);
        backlog.push(vec![HeadChange::Current(a.clone())], a.clone());
        backlog.push(vec![HeadChange::Applied(b.clone())], b.clone());
        let changes = vec![HeadChange::Current(a), HeadChange::Applied(b.clone())];
        assert_eq!(backlog.take(), Some(Update { changes, head: b }));
        assert_eq!(backlog.take(), None);
        backlog.push(vec![HeadChange::Applied(c.clone())], c.clone());
        assert_eq!(backlog.take(), Some(Update { changes: vec![HeadChange::Applied(c.clone())], head: c }));
    }

    #[test]
    fn what_came_and_went_unseen_is_not_told() {
        let mut backlog = Backlog::default();
        let (a, b, d) = (tipset("a", "0", 1), tipset("b", "a", 2), tipset("d", "a", 4));
        backlog.push(vec![HeadChange::Current(a.clone())], a.clone());
        backlog.take();
        backlog.push(vec![HeadChange::Applied(b.clone())], b.clone());
        backlog.push(vec![HeadChange::Reverted(b.clone())], a.clone());
        assert_eq!(backlog.take(), None);
        backlog.push(vec![HeadChange::Applied(b.clone())], b.clone());
        backlog.push(vec![HeadChange::Reverted(b), HeadChange::Applied(d.clone())], d.clone());
        assert_eq!(backlog.take(), Some(Update { changes: vec![HeadChange::Applied(d.clone())], head: d }));
    }

    #[test]
    fn a_consumer_that_is_far_behind_is_told_the_head_only() {
        let mut backlog = Backlog::default();
        let mut head = tipset("0", "start", 0);
        for height in 1..=i64::try_from(MAX_CHANGES).unwrap() + 5 {
            let next = tipset(&height.to_string(), &(height - 1).to_string(), height);
            backlog.push(vec![HeadChange::Applied(next.clone())], next.clone());
            head = next;
        }
        let update = backlog.take().unwrap();
        assert!(matches!(update.changes[0], HeadChange::Current(_)));
        assert!(update.changes.len() < 10);
        assert_eq!(update.head, head);
    }
}
