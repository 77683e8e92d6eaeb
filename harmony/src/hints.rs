//! Wake-ups: reasons to look at the queue before the poll would. All of them may be lost, come twice
//! or come for nothing; the poll alone is correct.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

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
    now: AtomicBool,
    looks: Mutex<BinaryHeap<Reverse<Instant>>>,
}

impl Wake {
    /// There may be a task to take.
    pub(crate) fn look_now(&self) {
        self.now.store(true, Ordering::Relaxed);
        self.notify.notify_one();
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
                if hint.payload() == "task" {
                    core.metrics.hinted.inc();
                    core.wake.look_now();
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
