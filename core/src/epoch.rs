//! Chain time. One epoch is 30 s on the public networks; nothing here assumes so.

use std::fmt;
use std::ops::{Add, Sub};

use serde::{Deserialize, Serialize};

/// A point in chain time. Negative epochs exist: a young chain answers randomness for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

/// A distance in chain time, in epochs.
pub type EpochDelta = i64;

/// Depth after which reorganisations are no longer expected (policy of the network).
pub const CHAIN_FINALITY: EpochDelta = 900;

/// How far below the head the seal ticket is drawn, so that a reorganisation cannot change it.
pub const SEAL_RANDOMNESS_LOOKBACK: EpochDelta = CHAIN_FINALITY;

/// Oldest ticket a pre-commit may carry: one proving period (2880) and finality.
pub const MAX_PRE_COMMIT_RANDOMNESS_LOOKBACK: EpochDelta = 2880 + CHAIN_FINALITY;

/// Epochs between the pre-commit landing and the seed on the public networks. Test networks use 10;
/// ask the node (`StateGetNetworkParams`) rather than this constant.
pub const PRE_COMMIT_CHALLENGE_DELAY: EpochDelta = 150;

/// Epochs to wait above the seed epoch before the seed is taken as settled.
pub const SEED_CONFIDENCE: EpochDelta = 3;

/// Shortest lifetime of a sector on chain: 180 days.
pub const MIN_SECTOR_EXPIRATION: EpochDelta = 180 * 2880;

/// Longest distance of a sector's expiration from now: 1278 days.
pub const MAX_SECTOR_EXPIRATION_EXTENSION: EpochDelta = 1278 * 2880;

/// Prove-commit window of V1_1 proofs without the challenge delay: 30 days.
pub const MAX_PROVE_COMMIT_WINDOW: EpochDelta = 30 * 2880;

/// Blocks that all miners of the network win together in one epoch, on average.
pub const BLOCKS_PER_EPOCH: u64 = 5;

/// The ticket of a block for epoch N is drawn with the number N minus this.
pub const TICKET_RANDOMNESS_LOOKBACK: EpochDelta = 1;

impl Add<EpochDelta> for Epoch {
    type Output = Epoch;

    fn add(self, delta: EpochDelta) -> Epoch {
        Epoch(self.0 + delta)
    }
}

impl Sub<EpochDelta> for Epoch {
    type Output = Epoch;

    fn sub(self, delta: EpochDelta) -> Epoch {
        Epoch(self.0 - delta)
    }
}

impl Sub for Epoch {
    type Output = EpochDelta;

    fn sub(self, other: Epoch) -> EpochDelta {
        self.0 - other.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
