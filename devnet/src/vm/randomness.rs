//! Randomness as a running message sees it: drawn from the tickets and the beacon of the chain below it.

use curio_chain::message::{RandomnessTag, draw_randomness_from_digest};
use curio_core::Epoch;
use fvm_shared::clock::ChainEpoch;

use super::World;

/// The chain below the running message.
pub trait Randomness {
    /// Digest of the ticket at an epoch; the last one before it for a null round, the first one of
    /// the chain for a negative epoch.
    fn ticket_digest(&self, epoch: ChainEpoch) -> [u8; 32];

    /// Digest of the beacon's entry of an epoch, as the blocks of this chain have it.
    fn beacon_digest(&self, epoch: ChainEpoch) -> [u8; 32];
}

impl World<'_> {
    /// Randomness of the tickets for one purpose.
    pub fn ticket_randomness(&self, tag: RandomnessTag, epoch: ChainEpoch, entropy: &[u8]) -> [u8; 32] {
        draw_randomness_from_digest(&self.randomness.ticket_digest(epoch), tag.number(), Epoch(epoch), entropy)
    }

    /// Randomness of the beacon for one purpose.
    pub fn beacon_randomness(&self, tag: RandomnessTag, epoch: ChainEpoch, entropy: &[u8]) -> [u8; 32] {
        draw_randomness_from_digest(&self.randomness.beacon_digest(epoch), tag.number(), Epoch(epoch), entropy)
    }
}
