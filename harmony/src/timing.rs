//! How often the engine does what.

use std::time::Duration;

/// How often the engine does what. The defaults are for production; tests shorten them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Next look after one that took something.
    pub poll_busy: Duration,
    /// Next look after one that found nothing.
    pub poll_idle: Duration,
    /// The same on a machine with deadline kinds that hears no hints.
    pub poll_deaf: Duration,
    /// Least time between two looks that hints ask for.
    pub hint_gap: Duration,
    /// Steady pace of looks that hints ask for; faster hints share a look.
    pub hint_every: Duration,
    /// Looks that hints may cause at once before the pace applies.
    pub hint_burst: u32,
    pub heartbeat: Duration,
    /// A machine without a heartbeat for this long loses its tasks. At least three heartbeats.
    pub lease: Duration,
    /// Longest time between two heartbeats of a machine with deadline kinds.
    pub deadline_heartbeat: Duration,
    /// A machine without a heartbeat for this long loses its deadline tasks; the others it keeps for the whole lease.
    /// At least three deadline heartbeats.
    pub deadline_lease: Duration,
    /// How long a deadline task waits for a machine with room before a machine without ends other work for it.
    pub preempt_after: Duration,
    /// How long a task is left alone after `reserve` found no room for it.
    pub cool_down: Duration,
    /// How long `can_accept` or `reserve` may take before the engine goes on without the kind.
    pub accept: Duration,
    /// How long one statement of the engine may take, waiting for a connection included.
    pub statement: Duration,
    /// Most tasks of one kind to take in one look.
    pub turn: u32,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            poll_busy: Duration::from_millis(100),
            poll_idle: Duration::from_secs(3),
            poll_deaf: Duration::from_secs(1),
            hint_gap: Duration::from_millis(5),
            hint_every: Duration::from_millis(40),
            hint_burst: 8,
            heartbeat: Duration::from_secs(15),
            lease: Duration::from_secs(60),
            deadline_heartbeat: Duration::from_secs(3),
            deadline_lease: Duration::from_secs(10),
            preempt_after: Duration::from_millis(250),
            cool_down: Duration::from_secs(10),
            accept: Duration::from_secs(30),
            statement: Duration::from_secs(12),
            turn: 64,
        }
    }
}

impl Timing {
    /// The timing of a machine, which beats faster when it runs deadline kinds.
    ///
    /// A lease shorter than that of deadline work holds for deadline work, too.
    pub(crate) fn of_machine(self, runs_deadlines: bool) -> Timing {
        let heartbeat = if runs_deadlines { self.heartbeat.min(self.deadline_heartbeat) } else { self.heartbeat };
        Timing { heartbeat, deadline_lease: self.deadline_lease.min(self.lease), ..self }
    }

    /// How long a heartbeat may take, unless the one before it failed.
    pub(crate) fn heartbeat_limit(&self) -> Duration {
        self.statement.min(self.deadline_lease / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_deadline_kinds_beats_faster() {
        let timing = Timing::default();
        assert_eq!(timing.of_machine(true).heartbeat, Duration::from_secs(3));
        assert_eq!(timing.of_machine(false).heartbeat, Duration::from_secs(15));
        let quick = Timing { heartbeat: Duration::from_secs(1), ..timing };
        assert_eq!(quick.of_machine(true).heartbeat, Duration::from_secs(1));
    }

    #[test]
    fn deadline_work_is_never_kept_longer_than_other_work() {
        let short = Timing { lease: Duration::from_secs(5), ..Timing::default() };
        assert_eq!(short.of_machine(true).deadline_lease, Duration::from_secs(5));
    }

    #[test]
    fn a_dead_machine_is_noticed_within_fifteen_seconds() {
        let timing = Timing::default().of_machine(true);
        assert!(timing.deadline_lease >= timing.heartbeat * 3);
        assert!(timing.deadline_lease + timing.heartbeat + timing.poll_busy <= Duration::from_secs(15));
    }
}
