//! What the node says about itself and its network.

use std::collections::BTreeMap;

use num_bigint::BigInt;
use serde::{Deserialize, Serialize};

use crate::wire;

/// Answer of `Version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    #[serde(rename = "Version")]
    pub version: String,
    /// 131840 for the v1 API.
    #[serde(rename = "APIVersion")]
    pub api_version: u32,
    /// Seconds between epochs.
    #[serde(rename = "BlockDelay")]
    pub block_delay: u64,
    #[serde(rename = "Agent", default)]
    pub agent: String,
}

/// Answer of `StateGetNetworkParams`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct NetworkParams {
    pub network_name: String,
    /// Seconds between epochs.
    pub block_delay_secs: u64,
    /// Bytes of quality-adjusted power.
    #[serde(with = "wire")]
    pub consensus_miner_min_power: BigInt,
    /// Epochs between a pre-commit and its seed.
    pub pre_commit_challenge_delay: i64,
    /// Upgrade name to epoch.
    #[serde(default)]
    pub fork_upgrade_params: BTreeMap<String, i64>,
    #[serde(rename = "Eip155ChainID")]
    pub eip155_chain_id: u64,
    /// Seconds since 1970; absent from nodes older than Lotus 1.33.
    #[serde(default)]
    pub genesis_timestamp: u64,
}
