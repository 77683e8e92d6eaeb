//! Messages of sectors that are on chain: window PoSts, faults, recoveries, terminations, extensions.

use curio_core::Epoch;
use fvm_ipld_bitfield::BitField;
use fvm_ipld_encoding::strict_bytes;
use fvm_ipld_encoding::tuple::{Deserialize_tuple, Serialize_tuple, serde_tuple};

use super::Cbor;

/// The most partitions that one message may name: a declaration of faults or recoveries, an extension or
/// a termination (policy of the miner actor). A window PoSt has a lower limit of its own, see
/// [`curio_core::config::MAX_PARTITIONS_PER_POST`].
pub const MAX_PARTITIONS_PER_DECLARATION: usize = 3000;

/// The most sectors that one message may name (policy of the miner actor).
pub const MAX_SECTORS_PER_DECLARATION: u64 = 25_000;

impl Cbor for SubmitWindowedPoStParams {}
impl Cbor for DisputeWindowedPoStParams {}
impl Cbor for DeclareFaultsParams {}
impl Cbor for DeclareFaultsRecoveredParams {}
impl Cbor for TerminateSectorsParams {}
impl Cbor for TerminateSectorsReturn {}
impl Cbor for ExtendSectorExpiration2Params {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct SubmitWindowedPoStParams {
    pub deadline: u64,
    pub partitions: Vec<PoStPartition>,
    /// Exactly one, whatever the number of partitions.
    pub proofs: Vec<PoStProof>,
    /// An epoch on the chain that the proof is for, from the challenge on.
    pub chain_commit_epoch: Epoch,
    /// Randomness of the tickets at that epoch: 32 bytes.
    #[serde(with = "strict_bytes")]
    pub chain_commit_rand: Vec<u8>,
}

/// One partition of a window PoSt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct PoStPartition {
    pub index: u64,
    /// Sectors that the proof leaves out; they become faulty.
    pub skipped: BitField,
}

/// The SNARKs of the partitions, in the order in which the message names them, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct PoStProof {
    /// Number of the registered PoSt proof.
    pub post_proof: i64,
    #[serde(with = "strict_bytes")]
    pub proof_bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct DisputeWindowedPoStParams {
    pub deadline: u64,
    /// Place of the proof among those that the deadline took in its last window.
    pub post_index: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct DeclareFaultsParams {
    pub faults: Vec<FaultDeclaration>,
}

/// Sectors of one partition that cannot be proven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct FaultDeclaration {
    pub deadline: u64,
    pub partition: u64,
    pub sectors: BitField,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct DeclareFaultsRecoveredParams {
    pub recoveries: Vec<RecoveryDeclaration>,
}

/// Faulty sectors of one partition that will be proven in its next window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct RecoveryDeclaration {
    pub deadline: u64,
    pub partition: u64,
    pub sectors: BitField,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct TerminateSectorsParams {
    pub terminations: Vec<TerminationDeclaration>,
}

/// Sectors of one partition to be given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct TerminationDeclaration {
    pub deadline: u64,
    pub partition: u64,
    pub sectors: BitField,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct TerminateSectorsReturn {
    /// False when terminations are left for the deadlines' own processing.
    pub done: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct ExtendSectorExpiration2Params {
    pub extensions: Vec<ExpirationExtension2>,
}

/// A new expiration for sectors of one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct ExpirationExtension2 {
    pub deadline: u64,
    pub partition: u64,
    /// Those without claims of verified data.
    pub sectors: BitField,
    pub sectors_with_claims: Vec<SectorClaim>,
    pub new_expiration: Epoch,
}

/// What becomes of the claims of a sector that is extended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct SectorClaim {
    pub sector_number: u64,
    pub maintain_claims: Vec<u64>,
    pub drop_claims: Vec<u64>,
}
