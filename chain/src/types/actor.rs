//! Actors: the miner actor's information, power, sectors, deadlines and partitions.

use cid::Cid;
use curio_core::Epoch;
use fvm_ipld_bitfield::BitField;
use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;
use num_bigint::BigInt;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire;

/// Answer of `StateGetActor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Actor {
    #[serde(with = "wire")]
    pub code: Cid,
    #[serde(with = "wire")]
    pub head: Cid,
    /// Nonce of the next message that can execute.
    pub nonce: u64,
    #[serde(with = "wire")]
    pub balance: TokenAmount,
    #[serde(default, with = "wire")]
    pub delegated_address: Option<Address>,
}

/// Answer of `StateReadState`; the state's shape is the actor's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ActorState {
    #[serde(with = "wire")]
    pub balance: TokenAmount,
    #[serde(with = "wire")]
    pub code: Cid,
    pub state: Value,
}

/// Answer of `StateMinerInfo`. Owner, worker and control addresses are id addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MinerInfo {
    #[serde(with = "wire")]
    pub owner: Address,
    #[serde(with = "wire")]
    pub worker: Address,
    #[serde(default, with = "wire::undefined_address")]
    pub new_worker: Option<Address>,
    #[serde(default, with = "wire")]
    pub control_addresses: Vec<Address>,
    pub worker_change_epoch: Epoch,
    pub peer_id: Option<String>,
    #[serde(default, with = "wire")]
    pub multiaddrs: Vec<Vec<u8>>,
    /// Number of the registered PoSt proof.
    pub window_po_st_proof_type: i64,
    /// Bytes, padded.
    pub sector_size: u64,
    pub window_po_st_partition_sectors: u64,
    pub consensus_fault_elapsed: Epoch,
    #[serde(default, with = "wire")]
    pub pending_owner_address: Option<Address>,
    #[serde(with = "wire")]
    pub beneficiary: Address,
    pub beneficiary_term: Option<BeneficiaryTerm>,
    #[serde(default)]
    pub pending_beneficiary_term: Option<PendingBeneficiaryChange>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BeneficiaryTerm {
    #[serde(with = "wire")]
    pub quota: TokenAmount,
    #[serde(with = "wire")]
    pub used_quota: TokenAmount,
    pub expiration: Epoch,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PendingBeneficiaryChange {
    #[serde(with = "wire")]
    pub new_beneficiary: Address,
    #[serde(with = "wire")]
    pub new_quota: TokenAmount,
    pub new_expiration: Epoch,
    pub approved_by_beneficiary: bool,
    pub approved_by_nominee: bool,
}

/// Answer of `StateMinerPower`. A miner that does not exist has zeros and the network's total.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MinerPower {
    pub miner_power: Power,
    pub total_power: Power,
    pub has_min_power: bool,
}

/// Bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Power {
    #[serde(with = "wire")]
    pub raw_byte_power: BigInt,
    #[serde(with = "wire")]
    pub quality_adj_power: BigInt,
}

/// A sector proven on chain. It stays after termination; only the partition's live sectors tell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SectorOnChainInfo {
    pub sector_number: u64,
    /// Number of the registered seal proof.
    pub seal_proof: i64,
    #[serde(rename = "SealedCID", with = "wire")]
    pub sealed_cid: Cid,
    pub activation: Epoch,
    pub expiration: Epoch,
    /// Byte-epochs.
    #[serde(with = "wire")]
    pub deal_weight: BigInt,
    /// Byte-epochs.
    #[serde(with = "wire")]
    pub verified_deal_weight: BigInt,
    #[serde(with = "wire")]
    pub initial_pledge: TokenAmount,
    #[serde(default, with = "wire")]
    pub expected_day_reward: Option<TokenAmount>,
    #[serde(default, with = "wire")]
    pub expected_storage_pledge: Option<TokenAmount>,
    pub power_base_epoch: Epoch,
    #[serde(default, with = "wire")]
    pub replaced_day_reward: Option<TokenAmount>,
    /// The sealed CID before the sector's first replica update.
    #[serde(rename = "SectorKeyCID", default, with = "wire")]
    pub sector_key_cid: Option<Cid>,
    #[serde(default)]
    pub flags: u64,
    #[serde(default, with = "wire")]
    pub daily_fee: TokenAmount,
}

/// Answer of `StateSectorPreCommitInfo`: a sector pre-committed and not proven yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SectorPreCommitOnChainInfo {
    pub info: SectorPreCommitInfo,
    #[serde(with = "wire")]
    pub pre_commit_deposit: TokenAmount,
    /// Epoch of the tipset that includes the message.
    pub pre_commit_epoch: Epoch,
}

/// What was promised in a pre-commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SectorPreCommitInfo {
    /// Number of the registered seal proof.
    pub seal_proof: i64,
    pub sector_number: u64,
    #[serde(rename = "SealedCID", with = "wire")]
    pub sealed_cid: Cid,
    /// Epoch of the ticket; negative on a young chain.
    pub seal_rand_epoch: Epoch,
    #[serde(rename = "DealIDs", default, with = "wire::null_list")]
    pub deal_ids: Vec<u64>,
    pub expiration: Epoch,
    /// None for a sector without data.
    #[serde(default, with = "wire")]
    pub unsealed_cid: Option<Cid>,
}

/// Answer of `StateMinerSectorCount`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MinerSectors {
    pub live: u64,
    pub active: u64,
    pub faulty: u64,
}

/// Answer of `StateSectorExpiration`. One of the two is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SectorExpiration {
    pub on_time: Epoch,
    pub early: Epoch,
}

/// Answer of `StateSectorPartition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SectorLocation {
    pub deadline: u64,
    pub partition: u64,
}

/// Answer of `StateMinerProvingDeadline`. For a miner without sectors it is the next occurrence of
/// the deadline at which the miner was made, not the current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeadlineInfo {
    pub current_epoch: Epoch,
    pub period_start: Epoch,
    pub index: u64,
    pub open: Epoch,
    pub close: Epoch,
    pub challenge: Epoch,
    pub fault_cutoff: Epoch,
    #[serde(rename = "WPoStPeriodDeadlines")]
    pub wpost_period_deadlines: u64,
    /// Epochs.
    #[serde(rename = "WPoStProvingPeriod")]
    pub wpost_proving_period: i64,
    /// Epochs.
    #[serde(rename = "WPoStChallengeWindow")]
    pub wpost_challenge_window: i64,
    /// Epochs.
    #[serde(rename = "WPoStChallengeLookback")]
    pub wpost_challenge_lookback: i64,
    /// Epochs.
    pub fault_declaration_cutoff: i64,
}

/// One of the 48 of `StateMinerDeadlines`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Deadline {
    /// Partition indices proven in the open window; cleared at its end.
    #[serde(with = "wire")]
    pub post_submissions: BitField,
    pub disputable_proof_count: u64,
    #[serde(default, with = "wire")]
    pub daily_fee: TokenAmount,
}

/// One of `StateMinerPartitions`. Sectors by number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Partition {
    #[serde(with = "wire")]
    pub all_sectors: BitField,
    #[serde(with = "wire")]
    pub faulty_sectors: BitField,
    #[serde(with = "wire")]
    pub recovering_sectors: BitField,
    #[serde(with = "wire")]
    pub live_sectors: BitField,
    #[serde(with = "wire")]
    pub active_sectors: BitField,
}
