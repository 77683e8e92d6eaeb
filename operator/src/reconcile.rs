//! What all controllers do the same way: limits, one span and one measurement per reconcile, errors logged
//! once, and a wait per object that grows while it fails.

use std::collections::HashMap;
use std::convert::Infallible;
use std::error::Error;
use std::fmt::Debug;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use kube::runtime::controller::{self, Action};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Resource, ResourceExt};
use tracing::{Instrument, debug, error_span, warn};

use crate::context::Context;

/// Objects of one kind that are worked on at the same time.
const CONCURRENCY: u16 = 4;
/// Changes that come in quick succession are one.
const DEBOUNCE: Duration = Duration::from_millis(100);
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// A reconcile that takes longer hangs: every call in it has a bound of its own.
const LONGEST_RECONCILE: Duration = Duration::from_secs(120);

/// Limits of every controller.
pub fn config() -> controller::Config {
    controller::Config::default().concurrency(CONCURRENCY).debounce(DEBOUNCE)
}

/// How long each object that fails waits.
#[derive(Clone, Default)]
pub struct Backoffs {
    failures: Arc<Mutex<HashMap<(&'static str, String), u32>>>,
}

impl Backoffs {
    fn failed(&self, controller: &'static str, place: &str) -> Duration {
        let mut failures = self.failures();
        let count = failures.entry((controller, place.to_owned())).or_default();
        *count += 1;
        wait_after(*count)
    }

    fn succeeded(&self, controller: &'static str, place: &str) {
        self.failures().remove(&(controller, place.to_owned()));
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<(&'static str, String), u32>> {
        // Counts are right after a panic elsewhere, too.
        self.failures.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn wait_after(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT)
}

/// Runs one reconcile of an object. An error is logged here, once, and becomes a later reconcile.
pub async fn guarded<K, E>(
    context: &Context,
    controller: &'static str,
    object: &K,
    work: impl Future<Output = Result<Action, E>>,
) -> Result<Action, Infallible>
where
    K: Resource<DynamicType = ()>,
    E: Error + 'static,
{
    let place = format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any());
    let span = error_span!(
        "reconcile",
        object.kind = %K::kind(&()),
        object.namespace = object.namespace().unwrap_or_default(),
        object.name = object.name_any(),
        object.uid = object.uid().unwrap_or_default(),
    );
    async {
        let begun = Instant::now();
        let (action, outcome) = match tokio::time::timeout(LONGEST_RECONCILE, work).await {
            Ok(Ok(action)) => {
                context.backoffs.succeeded(controller, &place);
                (action, "ok")
            }
            Ok(Err(error)) => {
                let delay = context.backoffs.failed(controller, &place);
                warn!(
                    error = &error as &dyn Error,
                    "failed to bring {controller} {place} up to date, again in {delay:?}"
                );
                (Action::requeue(delay), "error")
            }
            Err(_) => {
                let delay = context.backoffs.failed(controller, &place);
                warn!("{controller} {place} took longer than {LONGEST_RECONCILE:?}, again in {delay:?}");
                (Action::requeue(delay), "timeout")
            }
        };
        context.metrics.reconciled(controller, outcome, begun.elapsed());
        Ok(action)
    }
    .instrument(span)
    .await
}

/// The error policy of a controller whose reconciles are [`guarded`].
pub fn never<K, C>(_: Arc<K>, error: &Infallible, _: Arc<C>) -> Action {
    match *error {}
}

/// What comes out of a controller.
pub type Outcome<K> = Result<(ObjectRef<K>, Action), controller::Error<Infallible, watcher::Error>>;

/// Runs a controller to its end. A watch that breaks is taken up again by the controller itself.
pub async fn drive<K>(controller: &'static str, outcomes: impl Stream<Item = Outcome<K>>)
where
    K: Resource<DynamicType = ()> + Debug,
{
    let mut outcomes = pin!(outcomes);
    while let Some(outcome) = outcomes.next().await {
        match outcome {
            Ok(_) => {}
            // Deleted between the trigger and the turn.
            Err(controller::Error::ObjectNotFound(object)) => debug!("{object} is gone"),
            Err(controller::Error::ReconcilerFailed(never, _)) => match never {},
            Err(controller::Error::QueueError(error)) => {
                warn!(error = &error as &dyn Error, "a watch of controller {controller} broke; it is taken up again");
            }
            Err(controller::Error::RunnerError(error)) => {
                warn!(error = &error as &dyn Error, "controller {controller} has not read its objects yet");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_fails_waits_longer_each_time_and_at_most_a_minute() {
        let backoffs = Backoffs::default();
        let waits: Vec<u64> = (0..9).map(|_| backoffs.failed("cluster", "ns/curio").as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoffs.failed("pool", "ns/curio").as_secs(), 1, "another controller counts for itself");
        backoffs.succeeded("cluster", "ns/curio");
        assert_eq!(backoffs.failed("cluster", "ns/curio").as_secs(), 1);
    }
}
