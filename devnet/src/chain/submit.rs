//! Blocks that come from outside: what `SyncSubmitBlock` does. A good block becomes part of the tipset of its
//! epoch and parents, and that tipset the head if its chain is the heavier one, at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use cid::Cid;
use curio_chain::types::{BlockMsg, SIGNATURE_BLS, SignedMessage};

use super::block::{self, Block};
use super::{Chain, Refused, Tip, beacon};

impl Chain {
    /// Takes a miner's block. The same block may come again.
    ///
    /// # Errors
    /// In the words of a Lotus node: unknown parents, a block that the slash filter stops, or whatever is
    /// wrong with it. A wrong block is remembered by the slash filter all the same.
    pub fn submit(&mut self, submitted: &BlockMsg, now: u64) -> Result<(), Refused> {
        let BlockMsg { header, bls_messages, secpk_messages } = submitted;
        let first = header.parents.0.first().ok_or_else(|| Refused("block has no parents".to_owned()))?;
        let below = self.block(first).map(|block| block.header.height);
        let below = below.ok_or_else(|| Refused(format!("loading parent block: ipld: could not find {first}")))?;
        self.slash_filter
            .admit(header, below)
            .map_err(|witness| Refused(format!("<!!> SLASH FILTER DETECTED FAULT due to witness {witness}")))?;
        let cid = header.cid();
        if self.block(&cid).is_some() {
            return Ok(());
        }
        let mut messages = self.load("bls", bls_messages)?;
        messages.extend(self.load("secpk", secpk_messages)?);
        let split = messages.iter().position(|message| message.signature.kind != SIGNATURE_BLS);
        if split.unwrap_or(messages.len()) != bls_messages.len()
            || block::store_messages(&self.store, &messages) != header.messages
        {
            return Err(Refused("provided messages did not match block: messages didn't match header".to_owned()));
        }
        let sync = "sync to submitted block failed: collectChain failed: collectChain";
        let parent = self.tip_of_key(&header.parents).map_err(|Refused(why)| Refused(format!("{sync}: {why}")))?;
        self.validate(header, &messages, &parent, now).map_err(|why| {
            Refused(format!("{sync} syncMessages: message processing failed: validating block {cid}: {why}"))
        })?;
        block::store_header(&self.store, header);
        self.join(&parent, Block { header: header.clone(), cid, messages });
        Ok(())
    }

    fn load(&self, kind: &str, cids: &[Cid]) -> Result<Vec<SignedMessage>, Refused> {
        let message = |cid| {
            let found = self.message(cid).cloned();
            found.ok_or_else(|| Refused(format!("failed to load {kind} message: ipld: could not find {cid}")))
        };
        cids.iter().map(message).collect()
    }

    /// Makes the tipset of a block and its siblings, and takes it for the head if it is better.
    fn join(&mut self, parent: &Arc<Tip>, new: Block) {
        let height = new.header.height.0;
        let siblings: &mut BTreeMap<_, _> = self.siblings.entry((parent.key().clone(), height)).or_default();
        siblings.insert(new.header.miner, new.cid);
        let cids: Vec<Cid> = siblings.values().copied().collect();
        self.known.insert(new.cid, Arc::new(new));
        let blocks = cids.iter().filter_map(|cid| self.block(cid)).cloned().collect();
        let tip = self.form(parent, blocks);
        if is_better(&tip, self.head()) {
            self.set_head(tip);
        }
    }
}

/// Whether a chain ending in one tipset is to be followed rather than one ending in another: the heavier one,
/// and of two of the same weight the one with the lower ticket.
fn is_better(one: &Tip, other: &Tip) -> bool {
    let ticket = |tip: &Tip| beacon::blake2b(tip.ticket());
    one.weight > other.weight || (one.weight == other.weight && ticket(one) < ticket(other))
}
