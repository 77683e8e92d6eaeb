//! Messages: method numbers, parameters in CBOR (those of sealing here, those of sectors on chain in
//! `post`), the CIDs of messages and commitments, and the drawing of chain randomness.

mod post;

use blake2b_simd::Params as Blake2b;
use cid::Cid;
use cid::multihash::Multihash;
use curio_core::{Epoch, SpId};
use fvm_ipld_encoding::tuple::{Deserialize_tuple, Serialize_tuple, serde_tuple};
use fvm_ipld_encoding::{DAG_CBOR, strict_bytes};
use fvm_shared::address::Address;
use fvm_shared::sector::RegisteredAggregateProof;
use multihash_codetable::{Code, MultihashDigest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::address::id_address;

pub use post::*;

/// Method numbers of the miner actor and the power actor (actors v18).
pub mod method {
    pub const SEND: u64 = 0;
    /// Of the power actor.
    pub const CREATE_MINER: u64 = 2;
    pub const SUBMIT_WINDOWED_POST: u64 = 5;
    pub const TERMINATE_SECTORS: u64 = 9;
    pub const DECLARE_FAULTS: u64 = 10;
    pub const DECLARE_FAULTS_RECOVERED: u64 = 11;
    pub const WITHDRAW_BALANCE: u64 = 16;
    pub const DISPUTE_WINDOWED_POST: u64 = 24;
    pub const PRE_COMMIT_SECTOR_BATCH2: u64 = 28;
    pub const EXTEND_SECTOR_EXPIRATION2: u64 = 32;
    pub const PROVE_COMMIT_SECTORS3: u64 = 34;
    pub const PROVE_REPLICA_UPDATES3: u64 = 35;
}

/// Address of the power actor, which makes miners.
pub const POWER_ACTOR: Address = Address::new_id(4);

/// Exit codes of executed messages that a storage provider meets.
pub mod exit_code {
    pub const OK: i64 = 0;
    /// The receiver does not exist.
    pub const SYS_INVALID_RECEIVER: i64 = 5;
    /// The sender cannot pay the value.
    pub const SYS_INSUFFICIENT_FUNDS: i64 = 6;
    pub const SYS_OUT_OF_GAS: i64 = 7;
    pub const ILLEGAL_ARGUMENT: i64 = 16;
    pub const NOT_FOUND: i64 = 17;
    /// Wrong caller, and also a proof that comes before its seed.
    pub const FORBIDDEN: i64 = 18;
    pub const INSUFFICIENT_FUNDS: i64 = 19;
    pub const ILLEGAL_STATE: i64 = 20;
    /// The parameters do not decode.
    pub const SERIALIZATION: i64 = 21;
    pub const UNHANDLED_MESSAGE: i64 = 22;
}

/// Parameters that travel as CBOR in a message, or come back in a receipt.
pub trait Cbor: Serialize + DeserializeOwned {
    fn to_cbor(&self) -> Vec<u8> {
        cbor(self)
    }

    fn from_cbor(bytes: &[u8]) -> Result<Self, fvm_ipld_encoding::Error> {
        fvm_ipld_encoding::from_slice(bytes)
    }
}

impl Cbor for PreCommitSectorBatch2Params {}
impl Cbor for ProveCommitSectors3Params {}
impl Cbor for ProveCommitSectors3Return {}
impl Cbor for CreateMinerParams {}
impl Cbor for CreateMinerReturn {}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct PreCommitSectorBatch2Params {
    pub sectors: Vec<SectorPreCommit>,
}

/// One sector of a pre-commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct SectorPreCommit {
    /// Number of the registered seal proof.
    pub seal_proof: i64,
    pub sector_number: u64,
    pub sealed_cid: Cid,
    /// Epoch of the ticket; negative on a young chain.
    pub seal_rand_epoch: Epoch,
    /// Always empty since deals activate at the prove-commit.
    pub deal_ids: Vec<u64>,
    pub expiration: Epoch,
    /// None for a sector without data.
    pub unsealed_cid: Option<Cid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct ProveCommitSectors3Params {
    pub sector_activations: Vec<SectorActivationManifest>,
    /// One per sector, unless `aggregate_proof` is filled.
    pub sector_proofs: Vec<ProofBytes>,
    #[serde(with = "strict_bytes")]
    pub aggregate_proof: Vec<u8>,
    pub aggregate_proof_type: Option<RegisteredAggregateProof>,
    pub require_activation_success: bool,
    pub require_notification_success: bool,
}

/// A proof's bytes: a CBOR byte string.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct ProofBytes(#[serde(with = "strict_bytes")] pub Vec<u8>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct SectorActivationManifest {
    pub sector_number: u64,
    /// In the order of the sector, without filler; empty for a sector without data.
    pub pieces: Vec<PieceActivationManifest>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct PieceActivationManifest {
    pub cid: Cid,
    /// Padded bytes.
    pub size: u64,
    pub verified_allocation_key: Option<VerifiedAllocationKey>,
    pub notify: Vec<DataActivationNotification>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct VerifiedAllocationKey {
    /// Actor id.
    pub client: u64,
    pub id: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct DataActivationNotification {
    pub address: Address,
    #[serde(with = "strict_bytes")]
    pub payload: Vec<u8>,
}

/// Which sectors of a `ProveCommitSectors3` were activated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct ProveCommitSectors3Return {
    pub success_count: u32,
    /// Index in the batch and exit code of each sector that was not.
    pub fail_codes: Vec<(u32, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct CreateMinerParams {
    pub owner: Address,
    /// A BLS key or the id of one.
    pub worker: Address,
    /// Number of the registered PoSt proof.
    pub window_post_proof_type: i64,
    #[serde(with = "strict_bytes")]
    pub peer: Vec<u8>,
    pub multiaddrs: Vec<ProofBytes>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct CreateMinerReturn {
    pub id_address: Address,
    pub robust_address: Address,
}

/// CBOR of a value without floats and maps, which always encodes.
pub(crate) fn cbor<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    fvm_ipld_encoding::to_vec(value).expect("tuples of integers, bytes, CIDs and addresses always encode")
}

/// CID of a value's CBOR: dag-cbor, blake2b-256.
pub fn dag_cbor_cid<T: Serialize + ?Sized>(value: &T) -> Cid {
    Cid::new_v1(DAG_CBOR, Code::Blake2b256.digest(&cbor(value)))
}

const FIL_COMMITMENT_UNSEALED: u64 = 0xf101;
const SHA2_256_TRUNC254_PADDED: u64 = 0x1012;
const FIL_COMMITMENT_SEALED: u64 = 0xf102;
const POSEIDON_BLS12_381_A2_FC1: u64 = 0xb401;

/// The CID is no commitment of the kind asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{cid} is not the CID of {wanted}")]
pub struct NotACommitment {
    pub cid: Cid,
    pub wanted: &'static str,
}

/// CID of comm_d, and of comm_p: a piece CID has the same form.
pub fn unsealed_cid(comm_d: &[u8; 32]) -> Cid {
    commitment_cid(FIL_COMMITMENT_UNSEALED, SHA2_256_TRUNC254_PADDED, comm_d)
}

/// CID of comm_r.
pub fn sealed_cid(comm_r: &[u8; 32]) -> Cid {
    commitment_cid(FIL_COMMITMENT_SEALED, POSEIDON_BLS12_381_A2_FC1, comm_r)
}

/// comm_d, or a piece's comm_p, out of its CID.
pub fn comm_d(cid: &Cid) -> Result<[u8; 32], NotACommitment> {
    commitment(FIL_COMMITMENT_UNSEALED, SHA2_256_TRUNC254_PADDED, cid, "unsealed data (baga...)")
}

/// comm_r out of its CID.
pub fn comm_r(cid: &Cid) -> Result<[u8; 32], NotACommitment> {
    commitment(FIL_COMMITMENT_SEALED, POSEIDON_BLS12_381_A2_FC1, cid, "a sealed sector (bagb...)")
}

fn commitment_cid(codec: u64, hash: u64, commitment: &[u8; 32]) -> Cid {
    let hash = Multihash::wrap(hash, commitment).expect("32 bytes fit a multihash of 64");
    Cid::new_v1(codec, hash)
}

fn commitment(codec: u64, hash: u64, cid: &Cid, wanted: &'static str) -> Result<[u8; 32], NotACommitment> {
    let error = NotACommitment { cid: *cid, wanted };
    if cid.codec() != codec || cid.hash().code() != hash {
        return Err(error);
    }
    cid.hash().digest().try_into().map_err(|_| error)
}

/// What a piece of chain randomness is for; part of what is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum RandomnessTag {
    TicketProduction = 1,
    ElectionProofProduction = 2,
    WinningPoStChallengeSeed = 3,
    WindowedPoStChallengeSeed = 4,
    /// The ticket bound into SDR.
    SealRandomness = 5,
    /// The seed that chooses the PoRep's challenges.
    InteractiveSealChallengeSeed = 6,
    WindowedPoStDeadlineAssignment = 7,
    MarketDealCronSeed = 8,
    /// Proves that a window PoSt was made on a recent chain.
    PoStChainCommit = 9,
}

impl RandomnessTag {
    pub fn number(self) -> i64 {
        self as i64
    }
}

/// Draws randomness: `base` is the ticket's VRF proof or the beacon entry's data. The nodes' own
/// digest methods answer blake2b-256 of it, see [`draw_randomness_from_digest`].
pub fn draw_randomness(base: &[u8], tag: i64, epoch: Epoch, entropy: &[u8]) -> [u8; 32] {
    draw_randomness_from_digest(&blake2b_256(&[base]), tag, epoch, entropy)
}

/// Draws randomness out of a digest of `StateGetRandomnessDigestFromTickets` or `...FromBeacon`.
pub fn draw_randomness_from_digest(digest: &[u8; 32], tag: i64, epoch: Epoch, entropy: &[u8]) -> [u8; 32] {
    blake2b_256(&[&tag.to_be_bytes(), digest, &epoch.0.to_be_bytes(), entropy])
}

/// The entropy of every draw for one miner: the CBOR byte string of its id address.
pub fn miner_entropy(sp: SpId) -> Vec<u8> {
    cbor(&id_address(sp))
}

fn blake2b_256(parts: &[&[u8]]) -> [u8; 32] {
    let mut state = Blake2b::new().hash_length(32).to_state();
    for part in parts {
        state.update(part);
    }
    state.finalize().as_bytes().try_into().expect("the hash length was set to 32 bytes")
}
