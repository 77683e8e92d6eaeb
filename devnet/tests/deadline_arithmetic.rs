//! The deadlines of `curio_chain::deadline` against the published state of the miner actor, epoch by epoch.

use curio_chain::types::DeadlineInfo;
use curio_core::Epoch;
use fil_actor_miner_state::v18::{self as actor, QuantSpec};

/// (deadlines, challenge window, challenge lookback, fault cutoff), all but the first in epochs.
const POLICIES: [(u64, i64, i64, i64); 4] = [(48, 60, 20, 70), (4, 24, 8, 12), (4, 10, 25, 30), (1, 7, 3, 7)];

fn ours(theirs: &actor::DeadlineInfo) -> DeadlineInfo {
    let json = serde_json::to_value(theirs).expect("it is plain numbers");
    serde_json::from_value(json).expect("it is what a node answers")
}

fn theirs(policy: (u64, i64, i64, i64), period_start: i64, index: u64, epoch: i64) -> actor::DeadlineInfo {
    let (deadlines, window, lookback, cutoff) = policy;
    let period = window * i64::try_from(deadlines).expect("few deadlines");
    actor::DeadlineInfo::new(period_start, index, epoch, deadlines, period, window, lookback, cutoff)
}

#[test]
fn every_deadline_is_the_actor_s_from_every_epoch_of_three_periods() {
    for policy in POLICIES {
        let (deadlines, window, ..) = policy;
        let period = window * i64::try_from(deadlines).expect("few deadlines");
        for index in [0, deadlines / 2, deadlines - 1] {
            for epoch in -period..2 * period {
                let theirs = theirs(policy, -period / 3, index, epoch);
                let ours = ours(&theirs);
                let what = || format!("policy {policy:?}, deadline {index}, epoch {epoch}");
                assert_eq!(ours.at(ours.period_start, index), ours, "{}", what());
                assert_eq!(ours.is_open(), theirs.is_open(), "{}", what());
                assert_eq!(ours.has_elapsed(), theirs.has_elapsed(), "{}", what());
                assert_eq!(ours.fault_cutoff_passed(), theirs.fault_cutoff_passed(), "{}", what());
                assert_eq!(ours.last().0, theirs.last(), "{}", what());
                assert_eq!(ours.next_period_start().0, theirs.next_period_start(), "{}", what());
                assert_eq!(ours.next().open.0, theirs.next_open(), "{}", what());
                assert_eq!(ours.next_not_elapsed(), self::ours(&theirs.next_not_elapsed()), "{}", what());
                let quant: QuantSpec = theirs.quant_spec();
                assert_eq!(ours.quantize_up(Epoch(epoch)).0, quant.quantize_up(epoch), "{}", what());
            }
        }
    }
}

#[test]
fn a_deadline_is_mutable_when_the_actor_says_so() {
    let policy = fil_actors_shared::v18::runtime::Policy::default();
    for epoch in 0..2 * policy.wpost_proving_period {
        let theirs = actor::new_deadline_info(&policy, -100, 17, epoch);
        let mutable = actor::deadline_is_mutable(&policy, -100, 17, epoch);
        assert_eq!(ours(&theirs).is_mutable(), mutable, "epoch {epoch}");
    }
}
