//! Tipsets and the way between them: what is kept of each, and finding one by key, by height, or from
//! another one.

use std::sync::Arc;

use cid::Cid;
use curio_chain::types::{BeaconEntry, HeadChange, SignedMessage, TipSet, TipSetKey};
use fvm_shared::bigint::BigInt;
use fvm_shared::clock::ChainEpoch;

use super::block::Block;
use super::{Chain, Refused, beacon};
use crate::state::StateTree;
use crate::vm::Applied;

/// A tipset and all that follows from it.
pub struct Tip {
    pub tipset: TipSet,
    /// In the order of the tipset's key.
    pub blocks: Vec<Arc<Block>>,
    pub height: ChainEpoch,
    /// Key of the tipset below; none for genesis.
    pub parent: Option<TipSetKey>,
    /// Messages of all blocks in the order of execution, each once.
    pub messages: Vec<SignedMessage>,
    /// State that the tipset builds on: what most questions about a tipset are answered from.
    pub before: Arc<StateTree>,
    /// State after the messages, before the end of the epoch.
    pub between: Arc<StateTree>,
    /// State after the epoch.
    pub after: Arc<StateTree>,
    pub after_root: Cid,
    /// One per message.
    pub applied: Vec<Applied>,
    pub receipts_root: Cid,
    /// Weight of the chain up to and with this tipset.
    pub weight: BigInt,
}

impl Tip {
    pub fn key(&self) -> &TipSetKey {
        &self.tipset.cids
    }

    /// The lowest ticket of the tipset, which is its first block's; empty when it has none.
    pub fn ticket(&self) -> &[u8] {
        let ticket = self.tipset.blocks.first().and_then(|block| block.ticket.as_ref());
        ticket.map_or(&[], |ticket| &ticket.vrf_proof)
    }
}

impl Chain {
    /// The tipset with this key, if there is one.
    pub fn tip(&self, key: &TipSetKey) -> Option<&Arc<Tip>> {
        self.tips.get(key)
    }

    /// The tipset below another one; none below genesis.
    pub fn parent(&self, tip: &Tip) -> Option<&Arc<Tip>> {
        self.tips.get(tip.parent.as_ref()?)
    }

    /// A block that some tipset of this chain holds.
    pub fn block(&self, cid: &Cid) -> Option<&Arc<Block>> {
        self.known.get(cid)
    }

    /// The tipset with this key; the head for the empty one.
    ///
    /// # Errors
    /// When there is no such tipset.
    pub fn tip_or_head(&self, key: &TipSetKey) -> Result<Arc<Tip>, Refused> {
        match key.is_empty() {
            true => Ok(self.head.clone()),
            false => self.tip_of_key(key),
        }
    }

    /// The tipset with this key, which must not be empty.
    ///
    /// # Errors
    /// When there is no such tipset. Blocks that would make a tipset, but never were one here, are none.
    pub fn tip_of_key(&self, key: &TipSetKey) -> Result<Arc<Tip>, Refused> {
        if key.is_empty() {
            return Err(Refused("NewTipSet called with zero length array of blocks".to_owned()));
        }
        if let Some(tip) = self.tip(key) {
            return Ok(tip.clone());
        }
        let mut blocks = Vec::new();
        for cid in &key.0 {
            let block = self.block(cid);
            blocks.push(block.ok_or_else(|| Refused(format!("get block {cid}: ipld: could not find {cid}")))?.clone());
        }
        if blocks.iter().any(|block| block.header.height != blocks[0].header.height) {
            return Err(Refused("cannot create tipset with mismatching heights".to_owned()));
        }
        let key = super::block::key_of(&mut blocks);
        self.tip(&key).cloned().ok_or_else(|| Refused(format!("tipset {key} was never formed by this node")))
    }

    /// The tipset at a height below `from`; for a null round the one before it, or the one after it.
    ///
    /// # Errors
    /// When the height is negative or above `from`.
    pub fn at_height(&self, height: ChainEpoch, from: &Arc<Tip>, after: bool) -> Result<Arc<Tip>, Refused> {
        if height < 0 {
            return Err(Refused(format!("height {height} is negative")));
        }
        if height > from.height {
            return Err(Refused(format!(
                "looking for tipset with height greater than start point, req: {height}, head: {}",
                from.height
            )));
        }
        Ok(match after {
            false => self.below(from, height),
            true => self.above(from, height),
        })
    }

    /// The newest tipset at or below a height, seen from `from`.
    pub fn below(&self, from: &Arc<Tip>, height: ChainEpoch) -> Arc<Tip> {
        if self.on_main(from) {
            let found = self.main.range(..=height.min(from.height)).next_back();
            return found.and_then(|(_, key)| self.tips.get(key)).unwrap_or(&self.genesis).clone();
        }
        let mut tip = from.clone();
        while tip.height > height {
            let Some(parent) = self.parent(&tip) else { break };
            tip = parent.clone();
        }
        tip
    }

    /// The oldest tipset at or above a height, seen from `from`; `from` when there is none.
    fn above(&self, from: &Arc<Tip>, height: ChainEpoch) -> Arc<Tip> {
        let mut tip = from.clone();
        if self.on_main(from) {
            let found = self.main.range(height.min(from.height)..).next();
            return found.and_then(|(_, key)| self.tips.get(key)).cloned().unwrap_or(tip);
        }
        while let Some(parent) = self.parent(&tip) {
            if parent.height < height {
                break;
            }
            tip = parent.clone();
        }
        tip
    }

    pub(super) fn on_main(&self, tip: &Tip) -> bool {
        self.main.get(&tip.height) == Some(tip.key())
    }

    /// The way from one tipset to another: reverts newest first, then applies oldest first.
    pub fn path(&self, from: &Arc<Tip>, to: &Arc<Tip>) -> Vec<HeadChange> {
        let (mut left, mut right) = (from.clone(), to.clone());
        let (mut reverts, mut applies) = (Vec::new(), Vec::new());
        while left.key() != right.key() {
            if left.height >= right.height {
                reverts.push(HeadChange::Reverted(left.tipset.clone()));
                let Some(next) = self.parent(&left) else { break };
                left = next.clone();
            } else {
                applies.push(HeadChange::Applied(right.tipset.clone()));
                let Some(next) = self.parent(&right) else { break };
                right = next.clone();
            }
        }
        reverts.extend(applies.into_iter().rev());
        reverts
    }

    /// Digest of the ticket that holds at an epoch, seen from a tipset.
    pub fn ticket_digest(&self, from: &Arc<Tip>, epoch: ChainEpoch) -> [u8; 32] {
        beacon::blake2b(self.below(from, epoch.max(0)).ticket())
    }

    /// The beacon entry of an epoch, seen from a tipset: the one in its blocks, or, above it, the one that
    /// the next block will carry.
    pub fn beacon_entry(&self, from: &Arc<Tip>, epoch: ChainEpoch) -> BeaconEntry {
        let round = beacon::round(epoch);
        let carrier = self.above(from, epoch);
        let entries = carrier.tipset.blocks.first().map_or(&[][..], |block| &block.beacon_entries);
        let carried = entries.iter().find(|entry| entry.round == round);
        carried.cloned().unwrap_or_else(|| self.beacon.entry(epoch))
    }
}
