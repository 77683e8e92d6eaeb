//! Which election a miner is due, and when. Pure: a base, the clock, and the elections that the database knows.
//!
//! Time is counted from the base's own timestamp and never from the head's arrival: a head may be late, and
//! a miner then still extends it. An epoch is passed over (a null round) only after the election for it was lost.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use curio_chain::Cid;
use curio_chain::types::TipSet;
use curio_core::Epoch;
use curio_core::epoch::EpochDelta;

/// Longest wait for the blocks of an epoch to arrive, as on the public networks.
const MAX_PROPAGATION: Duration = Duration::from_secs(10);
/// Longest wait for a second block of somebody who signs two, as on the public networks.
const MAX_EQUIVOCATION: Duration = Duration::from_secs(2);

/// How long things take on a network; shares of the time between epochs where that is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub block_delay: Duration,
    /// How long after the beginning of an epoch its blocks are taken as the base of the next one.
    pub propagation: Duration,
    /// How long after the choice of the base it is looked at once more.
    pub equivocation: Duration,
}

impl Pace {
    /// Of a network with this time between epochs.
    pub fn of(block_delay: Duration) -> Pace {
        Pace {
            block_delay,
            propagation: MAX_PROPAGATION.min(block_delay / 3),
            equivocation: MAX_EQUIVOCATION.min(block_delay / 10),
        }
    }

    /// When the election for `epoch` on `base` may begin.
    pub fn start(&self, base: &TipSet, epoch: Epoch) -> SystemTime {
        let passed = self.block_delay * rounds(base, epoch).saturating_sub(1);
        UNIX_EPOCH + Duration::from_secs(base.timestamp()) + passed + self.propagation
    }

    /// The timestamp that a block for `epoch` on `base` must carry, in seconds since 1970.
    pub fn timestamp(&self, base: &TipSet, epoch: Epoch) -> u64 {
        base.timestamp() + self.block_delay.as_secs() * u64::from(rounds(base, epoch))
    }
}

/// Epochs from the base to a later one.
fn rounds(base: &TipSet, epoch: Epoch) -> u32 {
    u32::try_from((epoch - base.height).max(0)).unwrap_or(u32::MAX)
}

/// An election of a miner, as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    pub epoch: Epoch,
    /// Blocks of its base.
    pub parents: Vec<Cid>,
    pub state: State,
}

/// What became of an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its task will decide it.
    Open,
    /// Its task is gone, or has no attempt left, and no block was stored, so none can be submitted any more.
    Abandoned,
    /// No block comes of it.
    Lost,
    /// A block was signed and stored. Whether anybody has it is not asked: it counts.
    Made(Cid),
}

/// What is due for a miner on a base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// An election for this epoch, now.
    Ask(Epoch),
    /// The next one, then.
    At(SystemTime),
    /// The end of an election on this base.
    Decision,
    /// The abandoned election of this epoch is to be written off first.
    WriteOff(Epoch),
    /// Nothing more on this base: the miner made a block on it.
    Mined,
    /// Nothing on this base: the miner made a block for the base's epoch that is not in it. A block on top would be taken for
    /// an attempt to choose parents.
    OwnBlockMissing,
}

/// Decides for one miner. `elections` are its own, at the base's height and above, and any older one that is still open.
pub fn due(pace: &Pace, base: &TipSet, elections: &[Election], now: SystemTime) -> Due {
    let mut waits = false;
    for Election { epoch, parents, state } in elections {
        let on_base = parents.iter().any(|parent| base.cids.0.contains(parent));
        match state {
            State::Abandoned => return Due::WriteOff(*epoch),
            State::Made(block) if *epoch == base.height && !base.cids.0.contains(block) => return Due::OwnBlockMissing,
            State::Made(_) if on_base => return Due::Mined,
            State::Open if on_base => waits = true,
            State::Open | State::Lost | State::Made(_) => {}
        }
    }
    if waits {
        return Due::Decision;
    }
    let epoch = first_free(base.height + 1, elections);
    let start = pace.start(base, epoch);
    if start <= now { Due::Ask(epoch) } else { Due::At(start) }
}

/// The first epoch without an election, on whichever base: a miner has one for each epoch.
fn first_free(from: Epoch, elections: &[Election]) -> Epoch {
    let taken = |epoch: Epoch| elections.iter().any(|election| election.epoch == epoch);
    let beyond = EpochDelta::try_from(elections.len()).unwrap_or(EpochDelta::MAX);
    (0..=beyond).map(|step| from + step).find(|epoch| !taken(*epoch)).expect("one more epoch than there are elections")
}

#[cfg(test)]
mod tests {
    use super::super::block::tests::{cid, tipset};
    use super::*;

    fn pace(seconds: u64) -> Pace {
        Pace::of(Duration::from_secs(seconds))
    }

    fn at(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    fn election(epoch: i64, parents: &[u8], state: State) -> Election {
        Election { epoch: Epoch(epoch), parents: parents.iter().map(|seed| cid(*seed)).collect(), state }
    }

    #[test]
    fn waits_are_those_of_the_public_networks_and_shares_of_shorter_epochs() {
        let table = [(30, 10_000, 2_000), (4, 1_333, 400), (1, 333, 100)];
        for (delay, propagation, equivocation) in table {
            let pace = pace(delay);
            let waits = (pace.propagation.as_millis(), pace.equivocation.as_millis());
            assert_eq!(waits, (propagation, equivocation), "{delay} s");
        }
    }

    #[test]
    fn a_block_for_each_epoch_has_its_time() {
        let base = tipset(10, 1000, &[1, 2]);
        let table = [(11, 1010.0, 1030), (12, 1040.0, 1060), (15, 1130.0, 1150)];
        for (epoch, start, timestamp) in table {
            assert_eq!(pace(30).start(&base, Epoch(epoch)), at(start), "{epoch}");
            assert_eq!(pace(30).timestamp(&base, Epoch(epoch)), timestamp, "{epoch}");
        }
    }

    #[test]
    fn what_is_due_follows_from_the_elections_so_far() {
        let base = tipset(10, 1000, &[1, 2]);
        let (early, now, next, late) = (at(1009.9), at(1010.0), at(1040.0), at(2000.0));
        let table: [(&str, Vec<Election>, SystemTime, Due); 12] = [
            ("the blocks may still be under way", vec![], early, Due::At(now)),
            ("the first round", vec![], now, Due::Ask(Epoch(11))),
            ("a late head is extended all the same", vec![], late, Due::Ask(Epoch(11))),
            ("not decided yet", vec![election(11, &[1, 2], State::Open)], late, Due::Decision),
            ("lost, and the next epoch has not begun", vec![election(11, &[1, 2], State::Lost)], now, Due::At(next)),
            ("lost: a null round", vec![election(11, &[1, 2], State::Lost)], next, Due::Ask(Epoch(12))),
            ("one block on a parent", vec![election(11, &[2], State::Made(cid(9)))], late, Due::Mined),
            (
                "the epoch was spent on another fork",
                vec![election(11, &[7], State::Made(cid(9))), election(12, &[8], State::Lost)],
                late,
                Due::Ask(Epoch(13)),
            ),
            ("open on another fork", vec![election(11, &[7], State::Open)], late, Due::Ask(Epoch(12))),
            ("left by its task", vec![election(4, &[7], State::Abandoned)], early, Due::WriteOff(Epoch(4))),
            ("our block is in the base", vec![election(10, &[5], State::Made(cid(2)))], now, Due::Ask(Epoch(11))),
            (
                "our block was left out of the base",
                vec![election(10, &[5], State::Made(cid(9)))],
                late,
                Due::OwnBlockMissing,
            ),
        ];
        for (case, elections, now, expected) in table {
            assert_eq!(due(&pace(30), &base, &elections, now), expected, "{case}");
        }
    }
}
