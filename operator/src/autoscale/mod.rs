//! How many runners a pool is to have: a pure function from the waiting work to one number and a sentence that
//! explains it. No client, no clock; what it has to remember between two looks is a value, too.
//!
//! The number is never below the runners that have work or hold data that nobody else has: those cannot go
//! whatever the queue says. It rises at once and falls late, after the pool could have done with less for a while.

pub mod capacity;
pub mod kinds;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

/// Work of one kind that the pool's runners take.
#[derive(Clone, Debug, PartialEq)]
pub struct KindQueue {
    pub kind: &'static str,
    /// Tasks that a new runner could take now.
    pub waiting: u32,
    /// How long the oldest of them waits.
    pub oldest: Duration,
    /// Tasks that run on runners of this pool.
    pub running: u32,
    /// How many of them one runner does at a time; at least 1.
    pub per_runner: u32,
}

/// Runners that cannot go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// That have at least one task.
    pub busy: u32,
    /// That have none, but the only copy of a sector lies on their volumes.
    pub pinned: u32,
}

impl Held {
    fn count(self) -> u32 {
        self.busy.saturating_add(self.pinned)
    }
}

/// What the database says about the work of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    pub queue: Vec<KindQueue>,
    pub held: Held,
    /// Requests for sectors that wait for any runner at all, if this pool is the one that has to provide it.
    pub errands: u64,
}

/// Within what the number may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub min: u32,
    pub max: u32,
    /// How long fewer runners must have been enough before there are fewer.
    pub idle: Duration,
}

/// What the next look needs to know of the last ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// The number that was decided last; none before the first.
    pub decided: Option<u32>,
    /// Since when fewer would do.
    slack: Option<Slack>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slack {
    since: Timestamp,
    /// The most that was asked for since then.
    highest: u32,
}

impl Memory {
    /// After a restart of the operator: the number stands in the status, the rest begins anew.
    pub fn of_status(decided: u32) -> Memory {
        Memory { decided: Some(decided), slack: None }
    }
}

/// Why the work cannot be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blind {
    /// The database does not answer.
    DatabaseAway,
    /// What the pool's runners do cannot be told from its configuration.
    Unconfigured,
}

impl Blind {
    fn sentence(self) -> &'static str {
        match self {
            Blind::DatabaseAway => "the database is away, so the last number stays until it is back",
            Blind::Unconfigured => "the configuration is wrong, so the last number stays until it is mended",
        }
    }
}

/// How many, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub desired: u32,
    /// A sentence for a person.
    pub reason: String,
    /// When to look again although nothing changed.
    pub again_in: Option<Duration>,
    /// The work could not be seen, and the number is an old one.
    pub blind: Option<Blind>,
}

/// Decides. While the work cannot be seen the last number stays.
pub fn decide(work: Result<&Work, Blind>, bounds: Bounds, memory: Memory, now: Timestamp) -> (Decision, Memory) {
    let work = match work {
        Ok(work) => work,
        Err(blind) => return (hold(blind, bounds, memory), memory),
    };
    let asked = ask(work, bounds);
    // Bounds that a person has just made tighter apply at once.
    let before = memory.decided.map(|decided| within(decided, bounds, work.held));
    match before {
        Some(before) if asked.runners < before => fall(asked, before, bounds, memory, now),
        _ => settle(asked),
    }
}

/// The last number, because nothing better is known.
fn hold(blind: Blind, bounds: Bounds, memory: Memory) -> Decision {
    let desired = memory.decided.unwrap_or(bounds.min);
    Decision { desired, reason: blind.sentence().to_owned(), again_in: None, blind: Some(blind) }
}

/// What the work asks for, within the bounds.
struct Asked {
    runners: u32,
    reason: String,
}

fn settle(asked: Asked) -> (Decision, Memory) {
    let Asked { runners, reason } = asked;
    let decision = Decision { desired: runners, reason, again_in: None, blind: None };
    (decision, Memory { decided: Some(runners), slack: None })
}

/// Fewer would do: not before they would have done for the idle time, and then as many as the most that was asked
/// for meanwhile.
fn fall(asked: Asked, before: u32, bounds: Bounds, memory: Memory, now: Timestamp) -> (Decision, Memory) {
    let slack = match memory.slack {
        Some(slack) => Slack { highest: slack.highest.max(asked.runners), ..slack },
        None => Slack { since: now, highest: asked.runners },
    };
    let waited = Duration::try_from(now.duration_since(slack.since)).unwrap_or_default();
    let left = bounds.idle.saturating_sub(waited);
    if left.is_zero() {
        let runners = slack.highest;
        return settle(Asked { runners, reason: asked.reason });
    }
    let reason = format!(
        "{}; {} would do, and will once that has been so for {} s",
        asked.reason,
        asked.runners,
        bounds.idle.as_secs()
    );
    let decision = Decision { desired: before, reason, again_in: Some(left), blind: None };
    (decision, Memory { decided: Some(before), slack: Some(slack) })
}

fn ask(work: &Work, bounds: Bounds) -> Asked {
    let Work { queue, held, errands } = work;
    let driver = queue.iter().map(|kind| (runners_for(kind), kind)).max_by_key(|(runners, kind)| {
        // Of kinds that ask for the same number the one that waits longest is named.
        (*runners, kind.oldest, std::cmp::Reverse(kind.kind))
    });
    let by_queue = driver.map_or(0, |(runners, _)| runners);
    let by_errands = u32::from(*errands > 0);
    let runners = within(by_queue.max(by_errands), bounds, *held);
    let mut parts = Vec::new();
    match driver {
        Some((1.., kind)) => parts.push(explain(kind)),
        _ if by_errands > 0 => {
            parts.push(format!("{} for sectors and no runner to take it up", counted(*errands, "request")))
        }
        _ => parts.push("nothing waits".to_owned()),
    }
    if held.count() > 0 {
        parts.push(format!("{} busy, {} idle but with data that only they have", held.busy, held.pinned));
    }
    let unbounded = by_queue.max(by_errands).max(held.count());
    if unbounded > bounds.max && held.count() < unbounded {
        parts.push(format!("{unbounded} would be asked for, max is {}", bounds.max));
    } else if unbounded < bounds.min {
        parts.push(format!("min is {}", bounds.min));
    }
    Asked { runners, reason: parts.join("; ") }
}

/// Whoever is at work or holds data stays, also above the maximum.
fn within(runners: u32, bounds: Bounds, held: Held) -> u32 {
    runners.min(bounds.max).max(bounds.min).max(held.count())
}

fn runners_for(kind: &KindQueue) -> u32 {
    kind.waiting.saturating_add(kind.running).div_ceil(kind.per_runner.max(1))
}

fn explain(queue: &KindQueue) -> String {
    let KindQueue { kind, waiting, oldest, running, per_runner } = queue;
    let age = if *waiting > 0 { format!(" (oldest {} s)", oldest.as_secs()) } else { String::new() };
    format!("{kind}: {waiting} waiting{age}, {running} running, {per_runner} at a time per runner")
}

fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests;
