//! Wake-ups: reasons to look at the queue before the poll would. All of them may be lost, come twice
//! or come for nothing; the poll alone is correct.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{debug, info};

use crate::engine::Core;

/// Most future looks to remember; a look that is forgotten is made by the poll.
const MOST_LOOKS: usize = 4096;
/// The server's clock decides when a backoff is over; ours may be a little ahead of it.
const CLOCK_MARGIN: Duration = Duration::from_millis(5);

/// Where wake-ups arrive.
#[derive(Default)]
pub(crate) struct Wake {
    pub(crate) notify: Notify,
    /// Deadline work has come: whatever holds a look up for other work should stop that.
    pub(crate) urgent: Notify,
    now: AtomicBool,
    looks: Mutex<BinaryHeap<Reverse<Instant>>>,
}

impl Wake {
    /// There may be a task to take.
    pub(crate) fn look_now(&self) {
        self.now.store(true, Ordering::Relaxed);
        self.notify.notify_one();
    }

    /// There may be a task to take that has a deadline.
    pub(crate) fn look_urgently(&self) {
        self.urgent.notify_one();
        self.look_now();
    }

    /// Forgets deadline work that came before now: the caller is about to look.
    pub(crate) fn forget_urgency(&self) {
        let _ = self.urgent.notified().now_or_never();
    }

    /// Something became free that was wanting.
    pub(crate) fn look_soon(&self) {
        self.notify.notify_one();
    }

    /// A task that was put back may run after `delay`.
    pub(crate) fn look_at(&self, delay: Duration) {
        let mut looks = self.looks.lock().expect("nothing panics under this lock");
        if looks.len() < MOST_LOOKS {
            looks.push(Reverse(Instant::now() + delay + CLOCK_MARGIN));
            drop(looks);
            self.notify.notify_one();
        }
    }

    /// Whether an immediate look was asked for since the last call.
    pub(crate) fn take_now(&self) -> bool {
        self.now.swap(false, Ordering::Relaxed)
    }

    /// The earliest future look.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.looks.lock().expect("nothing panics under this lock").peek().map(|Reverse(at)| *at)
    }

    /// Forgets looks that are due: the caller is about to look.
    pub(crate) fn forget_due(&self, now: Instant) {
        let mut looks = self.looks.lock().expect("nothing panics under this lock");
        while looks.peek().is_some_and(|Reverse(at)| *at <= now) {
            looks.pop();
        }
    }
}

/// Bounds the looks that hints cause: a few at once, then so many per second. A busy machine then looks
/// for many tasks at a time, and a quiet one at once.
#[derive(Debug)]
pub(crate) struct Allowance {
    every: Duration,
    burst: u32,
    /// When all looks made so far would have been due at the steady rate.
    spent_until: Instant,
}

impl Allowance {
    pub(crate) fn new(every: Duration, burst: u32, now: Instant) -> Allowance {
        Allowance { every, burst, spent_until: now }
    }

    /// The first moment at which another look is allowed.
    pub(crate) fn next(&self) -> Instant {
        self.spent_until.checked_sub(self.every * self.burst.saturating_sub(1)).unwrap_or(self.spent_until)
    }

    pub(crate) fn spend(&mut self, now: Instant) {
        self.spent_until = self.spent_until.max(now) + self.every;
    }
}

/// Hints that this process may send at once, and the pace after that. A hint wakes the connections of all
/// machines in the server, at several times the cost of the add it is for; faster adders find machines
/// that look every tenth of a second anyway.
const SEND_BURST: u32 = 100;
const SEND_EVERY: Duration = Duration::from_millis(20);

static SENDING: Mutex<Option<Allowance>> = Mutex::new(None);

/// Whether an add may carry a hint now; if so, it counts as sent.
pub(crate) fn may_send() -> bool {
    let now = Instant::now();
    let mut sending = SENDING.lock().expect("nothing panics under this lock");
    let allowance = sending.get_or_insert_with(|| Allowance::new(SEND_EVERY, SEND_BURST, now));
    let allowed = allowance.next() <= now;
    if allowed {
        allowance.spend(now);
    }
    allowed
}

/// Wakes the engine when a transaction of this process has added tasks; ends with the engine.
pub(crate) async fn follow_own(core: Arc<Core>) {
    let mut added = core.db.shared().added.subscribe();
    loop {
        tokio::select! {
            changed = added.changed() => match changed {
                Ok(()) => core.wake.look_now(),
                Err(_) => return,
            },
            () = core.stopping.cancelled() => return,
        }
    }
}

/// Listens for hints from other machines, and listens anew whenever the connection is lost or silent;
/// ends with the engine.
pub(crate) async fn follow_others(core: Arc<Core>) {
    if !core.db.shared().hints {
        info!("this database has no hints; polling alone");
        return;
    }
    let mut wait = Duration::from_millis(200);
    loop {
        tokio::select! {
            heard = listen(&core, &mut wait) => {
                if let Err(error) = heard {
                    debug!(error = &error as &dyn Error, "no hints for now; polling goes on");
                }
            }
            () = core.stopping.cancelled() => return,
        }
        core.metrics.listening.set(0);
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(Duration::from_secs(10)),
            () = core.stopping.cancelled() => return,
        }
    }
}

/// Returns when the connection is lost, was silent for too long, or the machine got another id.
async fn listen(core: &Core, wait: &mut Duration) -> Result<(), sqlx::Error> {
    let machine = core.identity().machine;
    let mut listener = PgListener::connect_with(core.db.engine_pool()).await?;
    listener.listen(&format!("curio_machine_{machine}")).await?;
    info!("listening for hints");
    core.metrics.listening.set(1);
    // Whatever was added while nobody listened.
    core.wake.look_now();
    // Every heartbeat of this machine is heard here. One may be late.
    let silence = core.timing.heartbeat * 2;
    loop {
        match tokio::time::timeout(silence, listener.try_recv()).await {
            Err(_) | Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Ok(Ok(Some(hint))) => {
                *wait = Duration::from_millis(200);
                if core.identity().machine != machine {
                    return Ok(());
                }
                match hint.payload() {
                    "task" => {
                        core.metrics.hinted.inc();
                        core.wake.look_now();
                    }
                    "deadline" => {
                        core.metrics.hinted.inc();
                        core.wake.look_urgently();
                    }
                    // Our own heartbeat, or a word of a later version.
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_are_remembered_until_they_are_due() {
        let wake = Wake::default();
        let start = Instant::now();
        wake.look_at(Duration::from_secs(2000));
        wake.look_at(Duration::from_secs(1000));
        let first = wake.next_look().expect("two looks");
        assert!(first >= start + Duration::from_secs(1000) && first < start + Duration::from_secs(2000));
        wake.forget_due(start + Duration::from_secs(1500));
        assert!(wake.next_look().is_some_and(|look| look >= start + Duration::from_secs(2000)));
        wake.forget_due(start + Duration::from_secs(9000));
        assert_eq!(wake.next_look(), None);
    }

    #[test]
    fn an_allowance_grants_a_burst_and_then_a_rate() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut allowance = Allowance::new(ms(40), 3, start);
        let mut looks = Vec::new();
        let mut now = start;
        for _ in 0..6 {
            now = now.max(allowance.next());
            allowance.spend(now);
            looks.push(now - start);
        }
        assert_eq!(looks, [0, 0, 0, 40, 80, 120].map(ms));
        // A quiet second restores the burst and no more than that.
        now += Duration::from_secs(1);
        for _ in 0..3 {
            assert!(allowance.next() <= now);
            allowance.spend(now);
        }
        assert!(allowance.next() > now);
    }

    #[test]
    fn a_wish_to_look_now_is_granted_once() {
        let wake = Wake::default();
        wake.look_soon();
        assert!(!wake.take_now());
        wake.look_now();
        wake.look_now();
        assert!(wake.take_now());
        assert!(!wake.take_now());
    }
}
