//! How many runners the window PoSts of a miner need: one deadline is lived through many times, as the task engine would,
//! with the miner's own read times and faults. Pure; chance comes from a seed.
//!
//! A runner that is free takes the partition that waits longest. A partition costs the vanilla proofs of its sectors,
//! read so many at a time, and one SNARK; a sector that cannot be read costs its time limit, twice. An attempt that
//! dies takes its runner with it, and its partition waits for the lease. All proofs have to be there before the last
//! message can still land.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use curio_chain::types::DeadlineInfo;
use curio_core::SealProof;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::window::group::{Rules, Waiting, group};

/// What a miner has to prove in one deadline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    /// Sectors of each partition.
    pub partitions: Vec<u64>,
    pub proof: SealProof,
}

impl Load {
    /// The fullest deadline of a miner with this much raw power: the chain spreads sectors evenly over the deadlines and
    /// fills one partition after the other.
    pub fn of_miner(raw_bytes: u64, proof: SealProof, deadlines: u64) -> Load {
        let sectors = raw_bytes.div_ceil(proof.sector_size()).div_ceil(deadlines.max(1));
        let full = proof.partition_sectors() as u64;
        let rest = sectors % full;
        let whole = usize::try_from(sectors / full).expect("a deadline has at most 3000 partitions");
        let partitions = std::iter::repeat_n(full, whole).chain((rest > 0).then_some(rest)).collect();
        Load { partitions, proof }
    }

    pub fn sectors(&self) -> u64 {
        self.partitions.iter().sum()
    }

    /// Messages that carry the proofs when nothing is skipped, at most `per_message` partitions in each.
    pub fn messages(&self, per_message: usize) -> usize {
        let mut next = 0;
        let waiting: Vec<Waiting> = (0..)
            .zip(&self.partitions)
            .map(|(partition, sectors)| {
                let proven = (next..next + sectors).collect();
                next += sectors;
                Waiting { partition, proven, recovering: false, again: false }
            })
            .collect();
        let partition_sectors = self.proof.partition_sectors();
        group(&waiting, Rules { partitions: per_message, partition_sectors, recovering_alone: false }).len()
    }
}

/// How fast proofs are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Vanilla proof of one sector, reads included.
    pub read: Duration,
    /// Sectors that a runner reads at the same time.
    pub reads_at_once: u32,
    /// Time limit of a sector that does not answer.
    pub read_limit: Duration,
    /// One partition's SNARK.
    pub snark: Duration,
    /// Partitions that a runner proves at the same time.
    pub partitions_at_once: u32,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// Share of the sectors that cannot be read.
    pub sectors: f64,
    /// Share of the attempts that die together with their runner.
    pub attempts: f64,
    /// From the death of a runner to the next attempt, and to the runner's return.
    pub takeover: Duration,
}

/// How many runners do how well.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    pub runners: u32,
    /// From the challenge to the last proof, in half of the deadlines.
    pub usual: Duration,
    /// The same in the worst of a thousand.
    pub worst: Duration,
    /// Share of the deadlines in which all proofs came in time.
    pub in_time: f64,
}

impl Outcome {
    /// A deadline may be missed once in a thousand times, which is once in three weeks for a miner with all deadlines
    /// full.
    pub fn is_enough(&self) -> bool {
        self.in_time >= 0.999
    }
}

/// Deadlines that are lived through for one outcome.
const TRIALS: usize = 4000;

/// Time from the challenge to the last moment at which the last proof must be there, when a message needs
/// `landing_epochs` to land.
pub fn budget(deadline: &DeadlineInfo, landing_epochs: i64, epoch: Duration) -> Duration {
    let epochs = deadline.last() - deadline.challenge - landing_epochs;
    epoch * u32::try_from(epochs.max(0)).unwrap_or(u32::MAX)
}

/// What so many runners make of a deadline. The same input gives the same answer.
pub fn outcome(load: &Load, pace: &Pace, faults: &Faults, runners: u32, budget: Duration) -> Outcome {
    let mut chance = StdRng::seed_from_u64(u64::from(runners));
    let mut times: Vec<Duration> = (0..TRIALS).map(|_| live(load, pace, faults, runners, &mut chance)).collect();
    times.sort_unstable();
    let in_time = times.iter().filter(|time| **time <= budget).count() as f64 / TRIALS as f64;
    Outcome { runners, usual: times[TRIALS / 2], worst: times[TRIALS - 1 - TRIALS / 1000], in_time }
}

/// The fewest runners that are enough, up to `most`. None when not even those are.
pub fn needed(load: &Load, pace: &Pace, faults: &Faults, budget: Duration, most: u32) -> Option<Outcome> {
    let is_enough = |runners: u32| outcome(load, pace, faults, runners, budget).is_enough();
    // More runners never do worse by more than chance, so halving finds the edge.
    let (mut too_few, mut enough) = (0, most);
    if most == 0 || !is_enough(most) {
        return None;
    }
    while enough - too_few > 1 {
        let middle = too_few + (enough - too_few) / 2;
        if is_enough(middle) { enough = middle } else { too_few = middle }
    }
    Some(outcome(load, pace, faults, enough, budget))
}

/// From the challenge to the last proof of one deadline.
fn live(load: &Load, pace: &Pace, faults: &Faults, runners: u32, chance: &mut StdRng) -> Duration {
    let places = runners.max(1).saturating_mul(pace.partitions_at_once.max(1));
    let mut free: BinaryHeap<Reverse<Duration>> = (0..places).map(|_| Reverse(Duration::ZERO)).collect();
    // Partitions and when they may be taken. Those that come back come behind the ones that wait.
    let mut waiting: VecDeque<(u64, Duration)> =
        load.partitions.iter().map(|sectors| (*sectors, Duration::ZERO)).collect();
    let mut end = Duration::ZERO;
    while let Some((sectors, ready)) = waiting.pop_front() {
        let Reverse(place) = free.pop().expect("there is a place");
        let begin = place.max(ready);
        let length = attempt(sectors, pace, faults.sectors, chance);
        let until = if chance.random::<f64>() < faults.attempts {
            let died = begin + length.mul_f64(chance.random());
            waiting.push_back((sectors, died + faults.takeover));
            died + faults.takeover
        } else {
            end = end.max(begin + length);
            begin + length
        };
        free.push(Reverse(until));
    }
    end
}

/// Length of an attempt at a partition.
fn attempt(sectors: u64, pace: &Pace, bad_share: f64, chance: &mut StdRng) -> Duration {
    let at_once = u64::from(pace.reads_at_once.max(1));
    let rounds = |count: u64| u32::try_from(count.div_ceil(at_once)).unwrap_or(u32::MAX);
    let bad = bad_among(sectors, bad_share, chance);
    pace.read * rounds(sectors - bad) + pace.read_limit * rounds(bad) * 2 + pace.snark
}

/// How many of `sectors` are bad: from one bad sector to the next, instead of asking for each.
fn bad_among(sectors: u64, share: f64, chance: &mut StdRng) -> u64 {
    if share <= 0.0 {
        return 0;
    }
    if share >= 1.0 {
        return sectors;
    }
    let (mut place, mut bad) = (0.0, 0);
    loop {
        // A gap between two successes of a coin is distributed geometrically.
        place += ((1.0 - chance.random::<f64>()).ln() / (1.0 - share).ln()).floor() + 1.0;
        if place > sectors as f64 {
            return bad;
        }
        bad += 1;
    }
}

#[cfg(test)]
mod tests {
    use curio_core::Epoch;

    use super::*;

    const PROOF: SealProof = SealProof::StackedDrg32GiBV1_1;
    const PIB: u64 = 1 << 50;
    const NO_FAULTS: Faults = Faults { sectors: 0.0, attempts: 0.0, takeover: Duration::from_secs(15) };
    const PACE: Pace = Pace {
        read: Duration::from_millis(500),
        reads_at_once: 16,
        read_limit: Duration::from_secs(60),
        snark: Duration::from_secs(180),
        partitions_at_once: 1,
    };
    /// 147 rounds of half a second for a full partition, and its SNARK.
    const PARTITION: Duration = Duration::from_millis(147 * 500 + 180_000);

    /// On the public networks, when a message needs so many epochs to land.
    fn budget_with(landing_epochs: i64) -> Duration {
        budget(&DeadlineInfo::of_public_networks(Epoch(0), 0, Epoch(0)), landing_epochs, Duration::from_secs(30))
    }

    fn real_budget() -> Duration {
        budget_with(5)
    }

    #[test]
    fn a_miner_s_sectors_are_spread_over_the_deadlines() {
        let load = Load::of_miner(100 * PIB, PROOF, 48);
        assert_eq!(load.sectors(), 68_267);
        assert_eq!((load.partitions.len(), load.partitions[28], load.partitions[29]), (30, 2349, 146));
        assert_eq!(load.messages(3), 10);
        assert_eq!(Load::of_miner(0, PROOF, 48).partitions, Vec::<u64>::new());
        assert_eq!(Load::of_miner(1, PROOF, 48).partitions, [1]);
    }

    #[test]
    fn the_time_is_that_from_the_challenge_to_the_last_message() {
        assert_eq!(real_budget(), Duration::from_secs(30 * (79 - 5)));
        assert_eq!(budget_with(500), Duration::ZERO);
    }

    #[test]
    fn without_faults_partitions_are_packed_on_runners() {
        let load = Load { partitions: vec![2349; 7], proof: PROOF };
        for (runners, rounds) in [(1, 7), (2, 4), (3, 3), (4, 2), (7, 1), (20, 1)] {
            let outcome = outcome(&load, &PACE, &NO_FAULTS, runners, real_budget());
            assert_eq!((outcome.usual, outcome.worst), (PARTITION * rounds, PARTITION * rounds), "{runners} runners");
            assert_eq!(outcome.in_time, 1.0);
        }
    }

    #[test]
    fn a_runner_with_two_devices_counts_twice() {
        let load = Load { partitions: vec![2349; 8], proof: PROOF };
        let twice = Pace { partitions_at_once: 2, ..PACE };
        let with = |pace: &Pace, runners| outcome(&load, pace, &NO_FAULTS, runners, real_budget()).usual;
        assert_eq!(with(&twice, 2), with(&PACE, 4));
    }

    #[test]
    fn unreadable_sectors_cost_their_limit_twice() {
        let load = Load { partitions: vec![100], proof: PROOF };
        let all_bad = Faults { sectors: 1.0, ..NO_FAULTS };
        let outcome = outcome(&load, &PACE, &all_bad, 1, real_budget());
        assert_eq!(outcome.usual, PACE.snark + PACE.read_limit * 7 * 2);
    }

    #[test]
    fn the_fewest_runners_that_are_enough_are_found() {
        let load = Load::of_miner(100 * PIB, PROOF, 48);
        let needed = needed(&load, &PACE, &NO_FAULTS, real_budget(), 100).expect("a hundred are enough");
        // Eight full partitions of 253.5 s fit into 2220 s, and there are thirty, one of them small.
        assert_eq!(needed.runners, 4);
        assert!(needed.is_enough() && needed.worst <= real_budget());
        let one_less = outcome(&load, &PACE, &NO_FAULTS, 3, real_budget());
        assert!(!one_less.is_enough(), "{one_less:?}");
    }

    #[test]
    fn faults_ask_for_more_runners_and_the_answer_is_always_the_same() {
        let load = Load::of_miner(100 * PIB, PROOF, 48);
        let faults = Faults { sectors: 0.001, attempts: 0.05, takeover: Duration::from_secs(15) };
        let runners = |faults: &Faults| needed(&load, &PACE, faults, real_budget(), 100).map(|outcome| outcome.runners);
        assert!(runners(&faults) > runners(&NO_FAULTS));
        assert_eq!(runners(&faults), runners(&faults));
    }

    #[test]
    fn a_snark_longer_than_the_window_is_never_in_time() {
        let load = Load { partitions: vec![2349], proof: PROOF };
        let slow = Pace { snark: Duration::from_secs(3600), ..PACE };
        assert_eq!(needed(&load, &slow, &NO_FAULTS, real_budget(), 1000), None);
    }

    #[test]
    fn bad_sectors_are_as_frequent_as_they_should_be() {
        let mut chance = StdRng::seed_from_u64(7);
        let bad: u64 = (0..1000).map(|_| bad_among(2349, 0.01, &mut chance)).sum();
        assert!((22_000..25_000).contains(&bad), "{bad} of 2.349 million at one percent");
    }
}
