//! What keeps a miner from being slashed, as a Lotus node has it: it remembers the first block that came in
//! for each epoch and for each base of a miner, whether or not that block was any good, and takes no other.

use std::collections::HashMap;

use cid::Cid;
use curio_chain::types::{BlockHeader, TipSetKey};
use curio_core::Epoch;
use fvm_shared::address::Address;

/// Blocks that came in.
#[derive(Default)]
pub struct SlashFilter {
    by_epoch: HashMap<(Address, Epoch), Cid>,
    by_parents: HashMap<(Address, TipSetKey), Cid>,
}

impl SlashFilter {
    /// Remembers a block on parents of the epoch given.
    ///
    /// # Errors
    /// The block that speaks against it: another one of the same epoch, another one on the same parents, or one
    /// in the parents' epoch that is not among the parents. Then nothing is remembered.
    pub fn admit(&mut self, header: &BlockHeader, parent_epoch: Epoch) -> Result<(), Cid> {
        let cid = header.cid();
        let epoch = (header.miner, header.height);
        let parents = (header.miner, header.parents.clone());
        let other = |witness: Option<&Cid>| witness.copied().filter(|witness| *witness != cid);
        if let Some(witness) = other(self.by_epoch.get(&epoch)).or(other(self.by_parents.get(&parents))) {
            return Err(witness);
        }
        match self.by_epoch.get(&(header.miner, parent_epoch)) {
            Some(witness) if !header.parents.0.contains(witness) => return Err(*witness),
            Some(_) | None => {}
        }
        self.by_epoch.insert(epoch, cid);
        self.by_parents.insert(parents, cid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::block::genesis_parent;
    use fvm_shared::bigint::BigInt;
    use fvm_shared::econ::TokenAmount;

    fn block(miner: u64, height: i64, parents: &[&BlockHeader]) -> BlockHeader {
        let any = genesis_parent();
        BlockHeader {
            miner: Address::new_id(miner),
            ticket: None,
            election_proof: None,
            beacon_entries: Vec::new(),
            win_post_proof: Vec::new(),
            parents: TipSetKey(parents.iter().map(|parent| parent.cid()).collect()),
            parent_weight: BigInt::default(),
            height: Epoch(height),
            parent_state_root: any,
            parent_message_receipts: any,
            messages: any,
            bls_aggregate: None,
            timestamp: 0,
            block_sig: None,
            fork_signaling: 0,
            parent_base_fee: TokenAmount::default(),
        }
    }

    #[test]
    fn the_same_block_may_come_again() {
        let (mut filter, base) = (SlashFilter::default(), block(1, 9, &[]));
        let mined = block(1, 10, &[&base]);
        assert_eq!(filter.admit(&mined, Epoch(9)), Ok(()));
        assert_eq!(filter.admit(&mined, Epoch(9)), Ok(()));
    }

    #[test]
    fn a_second_block_of_an_epoch_or_on_the_same_parents_is_refused_with_its_witness() {
        let (mut filter, base, other) = (SlashFilter::default(), block(1, 9, &[]), block(2, 9, &[]));
        let mined = block(1, 10, &[&base]);
        filter.admit(&mined, Epoch(9)).unwrap();
        assert_eq!(filter.admit(&block(1, 10, &[&other]), Epoch(9)), Err(mined.cid()));
        assert_eq!(filter.admit(&block(1, 11, &[&base]), Epoch(9)), Err(mined.cid()));
        assert_eq!(filter.admit(&block(2, 10, &[&base]), Epoch(9)), Ok(()), "another miner's block");
    }

    #[test]
    fn a_block_that_leaves_out_its_miners_own_parent_is_refused() {
        let (mut filter, base) = (SlashFilter::default(), block(7, 9, &[]));
        let (own, other) = (block(1, 10, &[&base]), block(2, 10, &[&base]));
        filter.admit(&own, Epoch(9)).unwrap();
        assert_eq!(filter.admit(&block(1, 11, &[&other]), Epoch(10)), Err(own.cid()));
        assert_eq!(filter.admit(&block(1, 11, &[&own, &other]), Epoch(10)), Ok(()));
    }
}
