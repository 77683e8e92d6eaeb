//! Gas of this chain: a fixed figure per method, taken from what the same messages used on a Lotus
//! node, and the protocol's rule of who pays what for it.

use fil_actors_shared::v18::{INIT_ACTOR_ID, STORAGE_POWER_ACTOR_ID};
use fvm_shared::ActorID;
use fvm_shared::econ::TokenAmount;

/// Cost of keeping a message on chain: below this a message is not taken at all.
const INCLUSION_BASE: u64 = 171_000;
/// Inclusion cost per byte of the signed message.
const INCLUSION_PER_BYTE: u64 = 130;

/// Lowest gas limit of a message whose signed form has this many bytes.
pub fn inclusion_cost(signed_bytes: usize) -> u64 {
    INCLUSION_BASE + INCLUSION_PER_BYTE * signed_bytes as u64
}

/// What a message dealt with, as far as its gas depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Sectors that are announced or proven for the first time.
    pub sectors: u64,
    /// Sectors that a window PoSt leaves out.
    pub skipped: u64,
    /// Partitions in declarations of faults.
    pub declarations: u64,
    /// Window PoSts that were verified.
    pub posts: u64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, Work { sectors, skipped, declarations, posts }: Work) {
        self.sectors += sectors;
        self.skipped += skipped;
        self.declarations += declarations;
        self.posts += posts;
    }
}

/// Gas that a message uses; `new_account` says that a plain send made one.
pub fn used(to: ActorID, method: u64, ok: bool, work: Work, new_account: bool) -> u64 {
    use fil_actor_miner_state::v18::Method as Miner;
    const SUBMIT_POST: u64 = Miner::SubmitWindowedPoSt as u64;
    const TERMINATE: u64 = Miner::TerminateSectors as u64;
    const FAULTS: u64 = Miner::DeclareFaults as u64;
    const RECOVERED: u64 = Miner::DeclareFaultsRecovered as u64;
    const DISPUTE: u64 = Miner::DisputeWindowedPoSt as u64;
    const PRE_COMMIT: u64 = Miner::PreCommitSectorBatch2 as u64;
    const EXTEND: u64 = Miner::ExtendSectorExpiration2 as u64;
    const PROVE_COMMIT: u64 = Miner::ProveCommitSectors3 as u64;
    const POST_VERIFICATION: u64 = 119_250_000;

    let Work { sectors, skipped, declarations, posts } = work;
    match (to, method) {
        (_, 0) if !ok => 740_863,
        (_, 0) if new_account => 5_828_495,
        (_, 0) => 1_204_163,
        (INIT_ACTOR_ID | STORAGE_POWER_ACTOR_ID, _) if ok => 41_669_380,
        (INIT_ACTOR_ID | STORAGE_POWER_ACTOR_ID, _) => 10_744_214,
        (_, SUBMIT_POST) if ok => 20_000_000 + 17_190_000 * skipped + 125_890_000 * posts,
        (_, SUBMIT_POST) => 2_270_000 + POST_VERIFICATION * posts,
        (_, TERMINATE) if ok => 47_881_186,
        (_, TERMINATE) => 3_600_000,
        (_, FAULTS) if ok => 12_763_849 + 17_453_792 * declarations,
        (_, RECOVERED) if ok => 16_865_939,
        (_, FAULTS | RECOVERED) => 3_240_000,
        (_, DISPUTE) if ok => 154_657_888,
        (_, DISPUTE) => 5_126_250 + POST_VERIFICATION * posts,
        (_, PRE_COMMIT) if ok => 12_350_000 + 500_000 * sectors,
        (_, EXTEND) if ok => 32_902_095,
        (_, EXTEND) => 3_600_000,
        (_, PROVE_COMMIT) if ok => 62_000_000 + 30_250_000 * sectors,
        (_, PROVE_COMMIT) => 3_000_000 + 45_000_000 * sectors,
        (_, _) if ok => 5_000_000,
        (_, _) => 1_960_000,
    }
}

/// Who gets what of a message's gas money.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outputs {
    pub base_fee_burn: TokenAmount,
    pub over_estimation_burn: TokenAmount,
    pub miner_penalty: TokenAmount,
    pub miner_tip: TokenAmount,
    pub refund: TokenAmount,
}

/// The protocol's split of `gas_fee_cap * gas_limit`: used gas and half-wasted limits burn at the base
/// fee, the miner gets the premium on the whole limit, the rest goes back to the sender.
pub fn outputs(
    gas_used: u64,
    gas_limit: u64,
    base_fee: &TokenAmount,
    fee_cap: &TokenAmount,
    premium: &TokenAmount,
) -> Outputs {
    let (base_fee_to_pay, penalty) = match base_fee > fee_cap {
        true => (fee_cap.clone(), base_fee - fee_cap),
        false => (base_fee.clone(), TokenAmount::default()),
    };
    let tip = premium.clone().min(fee_cap - &base_fee_to_pay);
    let over = over_estimation(gas_used, gas_limit);
    let base_fee_burn = &base_fee_to_pay * gas_used;
    let over_estimation_burn = &base_fee_to_pay * over;
    let miner_tip = &tip * gas_limit;
    let refund = fee_cap * gas_limit - &base_fee_burn - &over_estimation_burn - &miner_tip;
    Outputs { base_fee_burn, over_estimation_burn, miner_penalty: &penalty * (gas_used + over), miner_tip, refund }
}

/// Gas burnt because the limit was far above the use: nothing up to 110 %, everything beyond 210 %.
fn over_estimation(gas_used: u64, gas_limit: u64) -> u64 {
    const ALLOWANCE_TENTHS: u128 = 11;
    if gas_used == 0 {
        return gas_limit;
    }
    let (used, limit) = (u128::from(gas_used), u128::from(gas_limit));
    let over = limit.saturating_sub(ALLOWANCE_TENTHS * used / 10).min(used);
    let burn = limit.saturating_sub(used) * over / used;
    u64::try_from(burn).expect("at most the limit, which is 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Figures of three messages on a Lotus node (recorded, private 2 KiB network).
    #[test]
    fn the_split_is_the_one_that_a_lotus_node_makes() {
        for (used, limit, cap, premium, burn, over, tip, refund) in [
            (41_669_380, 52_072_113, 100_949, 99_895, 4_166_938_000, 155_676_200, 5_201_743_728_135, 50_561_392_902),
            (
                10_744_214,
                200_000_000,
                131_649,
                130_595,
                1_074_421_400,
                18_925_578_600,
                26_119_000_000_000,
                190_800_000_000,
            ),
            (
                14_975_921,
                150_000_000,
                100_604,
                99_550,
                1_497_592_100,
                13_502_407_900,
                14_932_500_000_000,
                143_100_000_000_u64,
            ),
        ] {
            let atto = |n: u64| TokenAmount::from_atto(n);
            let split = outputs(used, limit, &atto(100), &atto(cap), &atto(premium));
            assert_eq!(
                split,
                Outputs {
                    base_fee_burn: atto(burn),
                    over_estimation_burn: atto(over),
                    miner_penalty: atto(0),
                    miner_tip: atto(tip),
                    refund: atto(refund),
                }
            );
        }
    }
}
