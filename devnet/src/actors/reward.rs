//! Expected block rewards, from which deposits and pledges follow. This chain pays no block rewards;
//! the estimate is the one that the v18 reward actor starts with.

use fil_actors_shared::v18::reward::FilterEstimate;
use fvm_shared::bigint::BigInt;
use fvm_shared::sector::StoragePower;

/// Reward per epoch at the start, attoFIL, and its change per epoch (v18 reward actor).
const INITIAL_REWARD_ATTO: u128 = 36_266_260_308_195_979_333;
const INITIAL_REWARD_CHANGE_ATTO: i64 = -109_897_758_509;
/// Baseline power at the start, bytes (v18 reward actor).
const BASELINE_POWER_BYTES: u64 = 2_888_888_880_000_000_000;

/// Smoothed reward per epoch.
pub fn estimate() -> FilterEstimate {
    FilterEstimate::new(BigInt::from(INITIAL_REWARD_ATTO), BigInt::from(INITIAL_REWARD_CHANGE_ATTO))
}

/// Power that the network is expected to have.
pub fn baseline_power() -> StoragePower {
    BigInt::from(BASELINE_POWER_BYTES)
}
