//! The numbers of proofs of spacetime: what this process did, and what the database says is still to be done.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use curio_core::{Epoch, SpId};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::post::counters::PostCounts;
use crate::post::window::Standing;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMiner {
    sp: String,
}

impl OfMiner {
    fn new(sp: SpId) -> OfMiner {
        OfMiner { sp: sp.to_string() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfLoss {
    sp: String,
    reason: &'static str,
}

/// The present, as far as the chain's clock goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub head: Epoch,
    /// Since the head's epoch began.
    pub age: Duration,
    pub block_delay: Duration,
}

impl Now {
    /// Seconds until `epoch` begins; negative when it is over.
    fn seconds_to(self, epoch: Epoch) -> f64 {
        (epoch - self.head) as f64 * self.block_delay.as_secs_f64() - self.age.as_secs_f64()
    }
}

pub(super) fn register(registry: &mut Registry, counts: PostCounts, standing: &[Standing], now: Option<Now>) {
    let PostCounts {
        proofs,
        missed,
        skipped_sectors,
        remade,
        recoveries_declared,
        faults_declared,
        faulty_sectors,
        wins,
        included,
        lost,
    } = counts;
    let counters = [
        ("curio_wdpost_proofs", "Window PoSts of partitions made by this machine", proofs),
        ("curio_wdpost_missed", "Partitions whose window closed without their proof", missed),
        ("curio_wdpost_skipped_sectors", "Sectors left out of proofs made by this machine", skipped_sectors),
        ("curio_wdpost_remade", "Proofs made anew because a reorganisation changed their randomness", remade),
        ("curio_wdpost_recoveries_declared", "Sectors declared recovered by this machine", recoveries_declared),
        ("curio_wdpost_faults_declared", "Sectors declared faulty by this machine", faults_declared),
        ("curio_winpost_wins", "Elections won by this machine", wins),
        ("curio_winpost_included", "Blocks of ours found in the chain by this machine", included),
    ];
    for (name, help, counts) in counters {
        let family: Family<OfMiner, Counter> = Family::default();
        for (sp, count) in counts {
            family.get_or_create(&OfMiner::new(sp)).inc_by(count);
        }
        registry.register(name, help, family);
    }
    let losses: Family<OfLoss, Counter> = Family::default();
    for ((sp, reason), count) in lost {
        losses.get_or_create(&OfLoss { sp: sp.to_string(), reason }).inc_by(count);
    }
    registry.register("curio_winpost_lost", "Elections won whose block is not in the chain, by why", losses);
    let faulty: Family<OfMiner, Gauge> = Family::default();
    for (sp, count) in faulty_sectors {
        faulty.get_or_create(&OfMiner::new(sp)).set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register("curio_wdpost_faulty_sectors", "Faulty sectors, as of the last head", faulty);
    if let Some(now) = now {
        let left: Family<OfMiner, Gauge<f64, AtomicU64>> = Family::default();
        for (sp, seconds) in unproven(standing, now) {
            left.get_or_create(&OfMiner::new(sp)).set(seconds);
        }
        registry.register(
            "curio_wdpost_unproven_seconds_left",
            "Time until the nearest window closes that has a partition whose proof is not on the chain",
            left,
        );
    }
}

/// Seconds that each miner has for what is due and not on the chain.
fn unproven(standing: &[Standing], now: Now) -> BTreeMap<SpId, f64> {
    let mut left: BTreeMap<SpId, f64> = BTreeMap::new();
    for window in standing.iter().filter(|window| window.landed < window.partitions) {
        let seconds = now.seconds_to(window.close);
        left.entry(window.sp).and_modify(|least| *least = least.min(seconds)).or_insert(seconds);
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(sp: u64, close: i64, partitions: u64, landed: u64) -> Standing {
        let (open, close) = (Epoch(close - 60), Epoch(close));
        Standing { sp: SpId(sp), deadline: 3, open, close, partitions, proven: partitions, landed }
    }

    #[test]
    fn the_window_that_closes_first_counts_until_all_of_it_has_landed() {
        let now = Now { head: Epoch(100), age: Duration::from_secs(10), block_delay: Duration::from_secs(30) };
        let standing =
            [window(1000, 110, 2, 2), window(1000, 160, 2, 1), window(1000, 220, 1, 0), window(1001, 99, 1, 0)];
        let expected = BTreeMap::from([(SpId(1000), 60.0 * 30.0 - 10.0), (SpId(1001), -40.0)]);
        assert_eq!(unproven(&standing, now), expected);
    }
}
