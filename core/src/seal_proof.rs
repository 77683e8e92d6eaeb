//! Registered seal proofs that this project seals: the interactive V1_1 family, one per sector size.

use serde::{Deserialize, Serialize};

/// A registered seal proof; the number is the one on chain and in `reg_seal_proof`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "i64")]
pub enum SealProof {
    StackedDrg2KiBV1_1 = 5,
    StackedDrg8MiBV1_1 = 6,
    StackedDrg512MiBV1_1 = 7,
    StackedDrg32GiBV1_1 = 8,
    StackedDrg64GiBV1_1 = 9,
}

/// The number names no seal proof that this project seals.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("seal proof {0} is not supported; supported are 5 to 9 (2KiB, 8MiB, 512MiB, 32GiB, 64GiB, V1_1)")]
pub struct UnsupportedSealProof(pub i64);

impl SealProof {
    /// All of them, smallest sector first.
    pub const ALL: [SealProof; 5] = [
        SealProof::StackedDrg2KiBV1_1,
        SealProof::StackedDrg8MiBV1_1,
        SealProof::StackedDrg512MiBV1_1,
        SealProof::StackedDrg32GiBV1_1,
        SealProof::StackedDrg64GiBV1_1,
    ];

    /// Sector size in padded bytes.
    pub fn sector_size(self) -> u64 {
        match self {
            SealProof::StackedDrg2KiBV1_1 => 2 << 10,
            SealProof::StackedDrg8MiBV1_1 => 8 << 20,
            SealProof::StackedDrg512MiBV1_1 => 512 << 20,
            SealProof::StackedDrg32GiBV1_1 => 32 << 30,
            SealProof::StackedDrg64GiBV1_1 => 64 << 30,
        }
    }

    /// Layers of SDR labels.
    pub fn layers(self) -> u32 {
        match self {
            SealProof::StackedDrg32GiBV1_1 | SealProof::StackedDrg64GiBV1_1 => 11,
            _ => 2,
        }
    }

    /// Number of the registered window PoSt of such sectors: the V1P1 family, which `StateMinerInfo` names
    /// and which a window PoSt message carries.
    pub fn window_post(self) -> i64 {
        match self {
            SealProof::StackedDrg2KiBV1_1 => 10,
            SealProof::StackedDrg8MiBV1_1 => 11,
            SealProof::StackedDrg512MiBV1_1 => 12,
            SealProof::StackedDrg32GiBV1_1 => 13,
            SealProof::StackedDrg64GiBV1_1 => 14,
        }
    }

    /// Number of the registered winning PoSt of such sectors, which a block carries.
    pub fn winning_post(self) -> i64 {
        match self {
            SealProof::StackedDrg2KiBV1_1 => 0,
            SealProof::StackedDrg8MiBV1_1 => 1,
            SealProof::StackedDrg512MiBV1_1 => 2,
            SealProof::StackedDrg32GiBV1_1 => 3,
            SealProof::StackedDrg64GiBV1_1 => 4,
        }
    }

    /// Sectors of a full partition; one window PoSt SNARK proves that many.
    pub fn partition_sectors(self) -> usize {
        match self {
            SealProof::StackedDrg2KiBV1_1 | SealProof::StackedDrg8MiBV1_1 | SealProof::StackedDrg512MiBV1_1 => 2,
            SealProof::StackedDrg32GiBV1_1 => 2349,
            SealProof::StackedDrg64GiBV1_1 => 2300,
        }
    }

    /// The proof of sectors whose window PoSt has this registered number.
    pub fn of_window_post(number: i64) -> Option<SealProof> {
        SealProof::ALL.into_iter().find(|proof| proof.window_post() == number)
    }

    /// Whether this is a size of test networks, for which small resources do.
    pub fn is_test_size(self) -> bool {
        self.sector_size() < 32 << 30
    }

    /// The proof of a sector size in padded bytes, if it is one of ours.
    pub fn of_sector_size(bytes: u64) -> Option<SealProof> {
        SealProof::ALL.into_iter().find(|proof| proof.sector_size() == bytes)
    }

    /// The proof with this number on chain.
    pub fn from_number(number: i64) -> Result<SealProof, UnsupportedSealProof> {
        SealProof::ALL.into_iter().find(|proof| proof.number() == number).ok_or(UnsupportedSealProof(number))
    }

    /// The number on chain and in the database.
    pub fn number(self) -> i64 {
        self as i64
    }
}

impl TryFrom<i64> for SealProof {
    type Error = UnsupportedSealProof;

    fn try_from(number: i64) -> Result<SealProof, UnsupportedSealProof> {
        SealProof::from_number(number)
    }
}

impl From<SealProof> for i64 {
    fn from(proof: SealProof) -> i64 {
        proof.number()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_sizes_name_the_same_proof() {
        for proof in SealProof::ALL {
            assert_eq!(SealProof::from_number(proof.number()), Ok(proof));
            assert_eq!(SealProof::of_sector_size(proof.sector_size()), Some(proof));
            assert_eq!(SealProof::of_window_post(proof.window_post()), Some(proof));
        }
        assert_eq!(SealProof::from_number(10), Err(UnsupportedSealProof(10)));
    }
}
