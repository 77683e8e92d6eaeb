//! The loop that polls the sealing pipeline: woken by the end of a task here, by a new head, by new sectors, and by the
//! clock.

use std::sync::Arc;
use std::time::Duration;

use curio_chain::types::TipSet;
use curio_core::Failure;
use curio_harmony::Completion;
use futures::future::BoxFuture;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{HeadHandler, HeadUpdate, survive};
use crate::deps::Deps;
use crate::seal::poller::SealPoller;

/// Shortest time between two rounds of the poller.
const POLL_SPACING: Duration = Duration::from_millis(50);
/// Pause after a round that failed.
const POLL_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Wakes the poller at every head, after the message watcher: the pipeline reacts to a message in the epoch in which
/// it landed.
pub(super) struct WakePoller(pub(super) Arc<Notify>);

impl HeadHandler for WakePoller {
    fn name(&self) -> &'static str {
        "seal"
    }

    fn on_head<'a>(&'a self, _update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        self.0.notify_one();
        Box::pin(std::future::ready(Ok(())))
    }
}

/// Ends when cancelled.
pub(super) async fn poll_pipeline(
    deps: Deps,
    mut completions: broadcast::Receiver<Completion>,
    heads: watch::Receiver<Option<TipSet>>,
    wake: Arc<Notify>,
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
        let head = heads.borrow().as_ref().map(|head| head.height);
        let polled = tokio::select! {
            polled = survive(poller.poll(head)) => polled.unwrap_or_else(|| Err(Failure::retry("the poller panicked"))),
            () = cancel.cancelled() => return,
        };
        not_before = Instant::now() + note_poll(&deps, &polled);
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
fn note_poll(deps: &Deps, polled: &Result<u64, Failure>) -> Duration {
    deps.counters.count(|counts| {
        counts.polls += 1;
        counts.polls_failed += u64::from(polled.is_err());
    });
    match polled {
        Ok(done) => {
            debug!(done, "polled the pipeline");
            POLL_SPACING
        }
        Err(failure) => {
            warn!("failed to poll the pipeline: {failure}");
            POLL_AFTER_FAILURE
        }
    }
}

/// Waits for a task to end here. Having missed some is as good as having heard one; when the engine is
/// gone there is nothing to hear any more.
async fn completed(completions: &mut broadcast::Receiver<Completion>) {
    match completions.recv().await {
        Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
    }
}
