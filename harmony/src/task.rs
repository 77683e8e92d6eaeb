//! What a task kind is: the trait that a developer meets, and the words in its signature.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use curio_core::{Failure, Resources};
use serde::{Deserialize, Serialize};

use crate::claim::Claim;
use crate::transaction::Tx;

/// Id of one task. Ids are unique for ever; their order means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, sqlx::Type)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct TaskId(pub i64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Name of a task kind: stored with every task, so never reused for something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct TaskName(&'static str);

impl TaskName {
    /// Longest name in bytes; the width of the column.
    pub const MAX_BYTES: usize = 16;

    /// A name; in a `const` a wrong one does not compile.
    ///
    /// # Panics
    /// When the name is empty or longer than [`TaskName::MAX_BYTES`].
    pub const fn new(name: &'static str) -> TaskName {
        assert!(!name.is_empty() && name.len() <= TaskName::MAX_BYTES, "a task name has 1 to 16 bytes");
        TaskName(name)
    }

    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for TaskName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Whether tasks of a kind have a deadline on the outside. Those are considered before all others, room is kept for them,
/// and a machine that falls silent loses them sooner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    Deadline,
    #[default]
    Normal,
}

/// How long a task waits after an attempt that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
    doubles: bool,
}

impl Backoff {
    /// No wait: the next machine that looks takes the task.
    pub const NONE: Backoff = Backoff { first: Duration::ZERO, max: Duration::ZERO, doubles: false };

    /// `first` after the first failure, twice as long after each further one, up to `max`.
    pub const fn exponential(first: Duration, max: Duration) -> Backoff {
        Backoff { first, max, doubles: true }
    }

    /// The same wait after each failure.
    pub const fn fixed(wait: Duration) -> Backoff {
        Backoff { first: wait, max: wait, doubles: false }
    }

    /// Wait after the `failures`-th failure (from 1). `chance` in 0..1 takes up to a fifth away, so that
    /// tasks which failed together do not come back together.
    pub fn delay(&self, failures: u32, chance: f64) -> Duration {
        let full =
            if self.doubles { self.first.saturating_mul(1 << failures.saturating_sub(1).min(20)) } else { self.first };
        full.min(self.max).mul_f64(1.0 - 0.2 * chance.clamp(0.0, 1.0))
    }
}

impl Default for Backoff {
    /// From one second to one minute.
    fn default() -> Backoff {
        Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60))
    }
}

/// What the engine must know about a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// What one running task uses.
    pub cost: Resources,
    /// Most tasks of this kind at once on one machine; resources alone decide when absent.
    pub max_running: Option<u32>,
    /// Attempts that may fail before the task is failed for good; no limit when absent. 3 means that a
    /// third failure is the last one.
    pub max_failures: Option<u32>,
    pub backoff: Backoff,
    pub class: Class,
    /// Place in its pipeline. Further downstream is larger, and is considered first.
    pub order: u16,
    /// The engine shows candidates to `can_accept` and `reserve` before it claims. Kinds that need either
    /// say true; the others are claimed without a question, and a `reserve` that finds no room then gives
    /// the claim back.
    pub filtered: bool,
    /// An attempt may be ended when deadline work finds no room: what it did so far is lost, or kept by the kind itself,
    /// and the task is tried again as if nothing had happened. For work whose attempts end soon after
    /// [`Claim::cancelled`] and bear repeating; of no effect in the deadline class.
    pub preemptible: bool,
}

/// Which events a kind wants to be asked about. None by default, so that nothing is asked in vain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Triggers {
    /// Kinds after whose completion on this machine `propose` is asked.
    pub completed: &'static [TaskName],
    /// `propose` is asked when the machine has room for this kind and found nothing to do, at most
    /// this often.
    pub idle_every: Option<Duration>,
}

/// Something a kind may answer with new tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A task of another kind was completed on this machine.
    Completed { kind: TaskName, task: TaskId },
    /// This machine has room for the kind and nothing to do.
    Idle,
}

/// Answer of [`Task::reserve`].
pub enum Reserved {
    /// Nothing needs to be held.
    Nothing,
    /// Held until the attempt has ended; dropping it gives it back.
    Held(Box<dyn Any + Send>),
    /// There is no room for this task now; the sentence says where and why. Other tasks are tried.
    NoRoom(String),
}

/// A task kind. One kind is one file and one line in the registry.
pub trait Task: Send + Sync + 'static {
    const NAME: TaskName;

    fn spec(&self) -> Spec;

    /// The events after which [`Task::propose`] is asked.
    fn triggers(&self) -> Triggers {
        Triggers::default()
    }

    /// Which of the offered tasks this machine can run, best first. Asked when [`Spec::filtered`] is set.
    /// Nothing is claimed yet: others may be looking at the same tasks.
    fn can_accept(&self, offered: &[TaskId]) -> impl Future<Output = Result<Vec<TaskId>, Failure>> + Send {
        let all = offered.to_vec();
        async move { Ok(all) }
    }

    /// Takes what the task needs beside cores, memory and devices, such as room on a path. It is held
    /// until the attempt has ended, and given back when the claim goes to another machine.
    fn reserve(&self, task: TaskId) -> impl Future<Output = Result<Reserved, Failure>> + Send {
        let _ = task;
        async { Ok(Reserved::Nothing) }
    }

    /// One attempt: load, compute, store through [`Claim::store`]. May be called again for the same task
    /// after any kind of end, so what it does must bear repeating.
    fn run(&self, claim: &Claim) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Adds tasks after an event and says how many. Other machines propose, too: a unique key in the
    /// task's own table keeps it to one.
    fn propose(&self, tx: &mut Tx, event: &Event) -> impl Future<Output = Result<u32, Failure>> + Send {
        let _ = (tx, event);
        async { Ok(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_up_to_its_cap() {
        let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(10));
        let waits: Vec<u64> = (1..=6).map(|failures| backoff.delay(failures, 0.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
        assert_eq!(backoff.delay(u32::MAX, 0.0).as_secs(), 10);
    }

    #[test]
    fn chance_takes_a_fifth_at_most() {
        let backoff = Backoff::fixed(Duration::from_secs(10));
        assert_eq!(backoff.delay(3, 1.0), Duration::from_secs(8));
        assert_eq!(backoff.delay(3, 0.0), Duration::from_secs(10));
        assert_eq!(Backoff::NONE.delay(3, 0.5), Duration::ZERO);
    }
}
