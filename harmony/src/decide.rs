//! The judgement whether a machine may take tasks of a kind. Pure: every refusal is a value.

use curio_core::Resources;
use curio_core::resources::Shortage;

use crate::task::Class;

/// One kind as a machine sees it at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What one task uses.
    pub cost: Resources,
    /// Most tasks at once; resources alone decide when absent.
    pub max_running: Option<u32>,
    /// Tasks of the kind that run here.
    pub running: u32,
    /// Most tasks to take in one turn, so that other machines get theirs.
    pub turn: u32,
}

/// Bound for kinds without a limit of their own.
pub(crate) const MOST_RUNNING: u32 = 128;

/// What to do about a kind in this cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Up to this many tasks may be claimed; at least one.
    Consider(u32),
    Refused(Refusal),
}

/// Why a task or a kind was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    /// As many run as may run at once.
    Limit,
    Cpu,
    Ram,
    Gpu,
    /// `reserve` found no room.
    Storage,
    /// `can_accept` did not name it.
    CanAccept,
    /// Another machine was faster.
    Raced,
}

impl Refusal {
    /// The word in metrics and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refusal::Limit => "limit",
            Refusal::Cpu => "cpu",
            Refusal::Ram => "ram",
            Refusal::Gpu => "gpu",
            Refusal::Storage => "storage",
            Refusal::CanAccept => "can_accept",
            Refusal::Raced => "raced",
        }
    }
}

/// Says how many of `pending` tasks a machine takes now that has `free` for the kind: what nobody uses, less the room
/// that it keeps for others.
///
/// A turn is a quarter of what would fit, at least one and at most `offer.turn`: a machine takes work
/// greedily, but several machines that see the same backlog share it.
/// `pending` is `u32::MAX` when it is not known; with 0 the answer is what it would be for one task.
pub fn decide(free: &Resources, offer: &Offer, pending: u32) -> Verdict {
    let limit = offer.max_running.unwrap_or(MOST_RUNNING);
    let Some(headroom) = limit.checked_sub(offer.running).filter(|headroom| *headroom > 0) else {
        return Verdict::Refused(Refusal::Limit);
    };
    match free.fits(&offer.cost, headroom) {
        Ok(fits) => {
            let turn = fits.div_ceil(4).clamp(1, offer.turn.max(1));
            Verdict::Consider(turn.min(pending.max(1)))
        }
        Err(Shortage::Cpu) => Verdict::Refused(Refusal::Cpu),
        Err(Shortage::Ram) => Verdict::Refused(Refusal::Ram),
        Err(Shortage::Gpu) => Verdict::Refused(Refusal::Gpu),
    }
}

/// The order in which kinds are considered: deadline class first, then further downstream first. Kinds
/// that are equal in both take turns: `cycle` grows by one each time. Returns indexes into `kinds`.
pub(crate) fn order(kinds: &[(Class, u16)], cycle: usize) -> Vec<usize> {
    let count = kinds.len().max(1);
    let mut indexes: Vec<usize> = (0..kinds.len()).collect();
    indexes.sort_by_key(|&index| {
        let (class, order) = kinds[index];
        (class, std::cmp::Reverse(order), (index + count - cycle % count) % count)
    });
    indexes
}

#[cfg(test)]
mod tests {
    use curio_core::resources::GIB;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const MACHINE: Resources = Resources { cpu: 32, ram_bytes: 256 * GIB, gpu_milli: 2000 };
    const HEAVY: Resources = Resources { cpu: 4, ram_bytes: 64 * GIB, gpu_milli: 0 };
    const DEVICE: Resources = Resources { cpu: 1, ram_bytes: 50 * GIB, gpu_milli: 1000 };
    const LIGHT: Resources = Resources { cpu: 0, ram_bytes: 0, gpu_milli: 0 };
    const ANY: u32 = u32::MAX;

    fn offer(cost: Resources, max_running: Option<u32>, running: u32) -> Offer {
        Offer { cost, max_running, running, turn: 64 }
    }

    #[rstest]
    #[case::a_quarter_of_what_fits(MACHINE, offer(HEAVY, None, 0), ANY, Verdict::Consider(1))]
    #[case::light_tasks_come_in_handfuls(MACHINE, offer(LIGHT, None, 0), ANY, Verdict::Consider(32))]
    #[case::no_more_than_there_are(MACHINE, offer(LIGHT, None, 0), 3, Verdict::Consider(3))]
    #[case::limit_leaves_one(MACHINE, offer(LIGHT, Some(8), 7), ANY, Verdict::Consider(1))]
    #[case::limit_reached(MACHINE, offer(LIGHT, Some(8), 8), ANY, Verdict::Refused(Refusal::Limit))]
    #[case::limit_lowered_below_running(MACHINE, offer(LIGHT, Some(8), 9), ANY, Verdict::Refused(Refusal::Limit))]
    #[case::limit_of_nothing(MACHINE, offer(LIGHT, Some(0), 0), ANY, Verdict::Refused(Refusal::Limit))]
    #[case::limit_is_named_before_resources(
        Resources::default(),
        offer(HEAVY, Some(1), 1),
        ANY,
        Verdict::Refused(Refusal::Limit)
    )]
    #[case::cpu_short(Resources { cpu: 3, ..MACHINE }, offer(HEAVY, None, 0), ANY, Verdict::Refused(Refusal::Cpu))]
    #[case::ram_one_byte_short(
        Resources { ram_bytes: 64 * GIB - 1, ..MACHINE }, offer(HEAVY, None, 0), ANY, Verdict::Refused(Refusal::Ram)
    )]
    #[case::half_a_device_is_none(
        Resources { gpu_milli: 999, ..MACHINE }, offer(DEVICE, None, 0), ANY, Verdict::Refused(Refusal::Gpu)
    )]
    #[case::nothing_free_and_nothing_needed(Resources::default(), offer(LIGHT, None, 0), ANY, Verdict::Consider(32))]
    #[case::unlimited_has_a_bound(MACHINE, offer(LIGHT, None, MOST_RUNNING), ANY, Verdict::Refused(Refusal::Limit))]
    fn a_machine_decides(
        #[case] free: Resources,
        #[case] offer: Offer,
        #[case] pending: u32,
        #[case] expected: Verdict,
    ) {
        assert_eq!(decide(&free, &offer, pending), expected);
    }

    proptest! {
        #[test]
        fn what_is_taken_always_fits(
            cpu in 0u32..64, ram in 0u64..64, gpu in 0u32..4000,
            cost_cpu in 0u32..8, cost_ram in 0u64..8, cost_gpu in 0u32..2000,
            max in proptest::option::of(0u32..20), running in 0u32..30, turn in 0u32..100, pending in 0u32..200,
        ) {
            let free = Resources { cpu, ram_bytes: ram, gpu_milli: gpu };
            let cost = Resources { cpu: cost_cpu, ram_bytes: cost_ram, gpu_milli: cost_gpu };
            let offer = Offer { cost, max_running: max, running, turn };
            if let Verdict::Consider(count) = decide(&free, &offer, pending) {
                prop_assert!(count >= 1);
                prop_assert!(cost_cpu * count <= cpu && cost_ram * u64::from(count) <= ram && cost_gpu * count <= gpu);
                prop_assert!(max.is_none_or(|max| running + count <= max));
            }
        }
    }

    #[test]
    fn deadlines_come_first_then_downstream_then_turns() {
        let kinds =
            [(Class::Normal, 1), (Class::Normal, 5), (Class::Deadline, 0), (Class::Normal, 1), (Class::Normal, 1)];
        assert_eq!(order(&kinds, 0), [2, 1, 0, 3, 4]);
        assert_eq!(order(&kinds, 1), [2, 1, 3, 4, 0]);
        assert_eq!(order(&kinds, 4), [2, 1, 4, 0, 3]);
        assert_eq!(order(&[], 7), Vec::<usize>::new());
    }
}
