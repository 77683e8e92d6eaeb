//! Making blocks: what an election needs, what a block is made from, and the block.

use cid::Cid;
use curio_core::Epoch;
use fvm_shared::address::Address;
use num_bigint::BigInt;
use serde::{Deserialize, Serialize};

use super::{BeaconEntry, BlockHeader, ElectionProof, PoStProof, SignedMessage, Ticket, TipSetKey};
use crate::wire;

/// Answer of `MinerGetBaseInfo`: what a miner's election for one epoch on one base is held with. Power
/// and sectors are those of finality ago.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MiningBaseInfo {
    /// Quality-adjusted bytes.
    #[serde(with = "wire")]
    pub miner_power: BigInt,
    /// Quality-adjusted bytes.
    #[serde(with = "wire")]
    pub network_power: BigInt,
    /// The sectors that the winning PoSt is about, chosen by the election's randomness, in this order.
    #[serde(with = "wire::null_list")]
    pub sectors: Vec<ExtendedSectorInfo>,
    /// A key address.
    #[serde(with = "wire")]
    pub worker_key: Address,
    /// Bytes, padded.
    pub sector_size: u64,
    /// The last entry in the base or below.
    pub prev_beacon_entry: BeaconEntry,
    /// Entries that a block of this epoch carries: one per epoch since the base.
    #[serde(with = "wire::null_list")]
    pub beacon_entries: Vec<BeaconEntry>,
    pub eligible_for_mining: bool,
}

/// A sector of a winning PoSt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ExtendedSectorInfo {
    /// Number of the registered seal proof.
    pub seal_proof: i64,
    pub sector_number: u64,
    /// The sealed CID before the sector's first replica update.
    #[serde(default, with = "wire")]
    pub sector_key: Option<Cid>,
    #[serde(rename = "SealedCID", with = "wire")]
    pub sealed_cid: Cid,
}

/// What `MinerCreateBlock` makes a block from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockTemplate {
    #[serde(with = "wire")]
    pub miner: Address,
    pub parents: TipSetKey,
    pub ticket: Ticket,
    pub eproof: ElectionProof,
    #[serde(with = "wire::null_list")]
    pub beacon_values: Vec<BeaconEntry>,
    #[serde(with = "wire::null_list")]
    pub messages: Vec<SignedMessage>,
    pub epoch: Epoch,
    /// Seconds since 1970; fixed by the epoch, to the second.
    pub timestamp: u64,
    #[serde(rename = "WinningPoStProof", with = "wire::null_list")]
    pub winning_post_proof: Vec<PoStProof>,
}

/// A signed block with the CIDs of its messages: answer of `MinerCreateBlock`, parameter of
/// `SyncSubmitBlock`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockMsg {
    pub header: BlockHeader,
    #[serde(with = "wire::null_cids")]
    pub bls_messages: Vec<Cid>,
    #[serde(with = "wire::null_cids")]
    pub secpk_messages: Vec<Cid>,
}
