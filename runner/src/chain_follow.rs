//! The loops beside the tasks: one that follows the chain, one that takes up requests for sectors, and one that polls
//! the pipeline.
//!
//! A new head first goes to the message watcher, then wakes the poller, so that the pipeline reacts to a
//! message in the epoch in which it landed. Heads that come while the watcher works are taken together:
//! everything is derived from the newest one.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use curio_chain::notify::{FollowOptions, follow};
use curio_core::{Epoch, Failure};
use curio_harmony::Completion;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::deps::Deps;
use crate::message::watch::MessageWatcher;
use crate::seal::poller::SealPoller;
use crate::seal::requests;

/// Shortest time between two rounds of the poller.
const POLL_SPACING: Duration = Duration::from_millis(50);
/// Pause after a round that failed.
const POLL_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Longest that the watcher may take for one head.
const WATCH_BOUND: Duration = Duration::from_secs(120);

/// How the loops are doing.
#[derive(Clone, Debug, Default)]
pub struct LoopStatus {
    /// Newest head and when it came.
    pub head: Option<(Epoch, Instant)>,
    pub last_poll: Option<Instant>,
    /// Why the last round of the poller failed.
    pub poll_error: Option<String>,
    /// Why the last look of the watcher failed.
    pub watch_error: Option<String>,
}

/// The running loops; [`Loops::join`] waits for their end after the cancellation.
pub struct Loops {
    status: Arc<Mutex<LoopStatus>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Loops {
    pub fn status(&self) -> LoopStatus {
        lock(&self.status).clone()
    }

    /// Shares the status, for whoever reports it.
    pub fn status_handle(&self) -> Arc<Mutex<LoopStatus>> {
        self.status.clone()
    }

    /// Waits until all loops have ended; cancel them first.
    pub async fn join(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                warn!(error = &error as &dyn std::error::Error, "a loop ended badly");
            }
        }
    }
}

/// Starts the loops that this configuration needs: none on a machine that neither seals nor sends.
pub fn start(deps: &Deps, completions: broadcast::Receiver<Completion>, cancel: CancellationToken) -> Loops {
    let status = Arc::new(Mutex::new(LoopStatus::default()));
    let mut tasks = Vec::new();
    let on = &deps.config.subsystems;
    if on.seals() || on.sends_messages() {
        let wake = Arc::new(Notify::new());
        tasks.push(tokio::spawn(follow_chain(deps.clone(), wake.clone(), status.clone(), cancel.clone())));
        tasks.push(tokio::spawn(requests::follow(deps.clone(), wake.clone(), cancel.clone())));
        tasks.push(tokio::spawn(poll_pipeline(deps.clone(), completions, wake, status.clone(), cancel)));
    }
    Loops { status, tasks }
}

/// Ends when cancelled.
async fn follow_chain(deps: Deps, wake: Arc<Notify>, status: Arc<Mutex<LoopStatus>>, cancel: CancellationToken) {
    let watcher = MessageWatcher::new(&deps);
    let mut follower = follow(deps.chain.clone(), FollowOptions::default(), cancel.clone());
    while let Some(update) = follower.next().await {
        let head = update.head;
        lock(&status).head = Some((head.height, Instant::now()));
        let looked = tokio::select! {
            looked = timeout(WATCH_BOUND, watcher.look(&head)) => looked,
            () = cancel.cancelled() => break,
        };
        let error = match looked {
            Ok(Ok(_)) => None,
            Ok(Err(failure)) => Some(failure.to_string()),
            Err(_) => Some(format!("looking for messages took longer than {} s", WATCH_BOUND.as_secs())),
        };
        if let Some(error) = &error {
            warn!(epoch = head.height.0, "failed to look for messages at epoch {}: {error}", head.height);
        }
        lock(&status).watch_error = error;
        wake.notify_one();
    }
    follower.stop().await;
}

/// Ends when cancelled. Woken by the end of a task here, by a new head, by new sectors, and by the clock.
async fn poll_pipeline(
    deps: Deps,
    mut completions: broadcast::Receiver<Completion>,
    wake: Arc<Notify>,
    status: Arc<Mutex<LoopStatus>>,
    cancel: CancellationToken,
) {
    let poller = SealPoller::new(&deps);
    let interval = deps.config.seal.poll_interval.get();
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep_until(not_before) => {}
        }
        let head = lock(&status).head.map(|(epoch, _)| epoch);
        let polled = tokio::select! {
            polled = poller.poll(head) => polled,
            () = cancel.cancelled() => return,
        };
        not_before = Instant::now() + note_poll(&deps, &status, &polled);
        // A round that did something may have made the next thing ready.
        if matches!(polled, Ok(done) if done > 0) {
            continue;
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = wake.notified() => {}
            () = completed(&mut completions) => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// Takes down how a round went; says how long to wait at least.
fn note_poll(deps: &Deps, status: &Mutex<LoopStatus>, polled: &Result<u64, Failure>) -> Duration {
    let error = polled.as_ref().err().map(ToString::to_string);
    deps.counters.count(|counts| {
        counts.polls += 1;
        counts.polls_failed += u64::from(error.is_some());
    });
    match &error {
        Some(error) => warn!("failed to poll the pipeline: {error}"),
        None => debug!(done = polled.as_ref().ok(), "polled the pipeline"),
    }
    let mut status = lock(status);
    status.last_poll = Some(Instant::now());
    let failed = error.is_some();
    status.poll_error = error;
    if failed { POLL_AFTER_FAILURE } else { POLL_SPACING }
}

/// Waits for a task to end here. Having missed some is as good as having heard one; when the engine is
/// gone there is nothing to hear any more.
async fn completed(completions: &mut broadcast::Receiver<Completion>) {
    match completions.recv().await {
        Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
    }
}

fn lock(status: &Mutex<LoopStatus>) -> MutexGuard<'_, LoopStatus> {
    status.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
