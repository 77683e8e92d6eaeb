//! The safe half of liveness: a runner whose death the kubelet has confirmed is released at once, so that others take its
//! tasks within seconds instead of a lease.
//!
//! It watches the pods of runners by itself, beside all controllers, and judges every pod anew when it starts.

pub mod judge;

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use curio_harmony::machines::{self, DeadProcess, ReleasedTask};
use futures::pin_mut;
use futures::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::judge::{Death, Seen, judge};
use crate::apply::labels;
use crate::context::Context;
use crate::databases::ClusterKey;

/// Between two attempts at a database that does not answer.
const RETRY: Duration = Duration::from_secs(1);
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// After this the lease of the machine has run out, and other machines have released it.
const GIVE_UP: Duration = Duration::from_secs(300);

/// A confirmed death on its way to the database.
struct Report {
    key: ClusterKey,
    death: Death,
    about: ObjectReference,
    reported: Instant,
}

/// Watches and releases until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let runners = watcher::Config::default().labels(&format!("{}={}", labels::NAME, labels::RUNNER));
    let events = watcher(context.all::<Pod>(), runners).default_backoff();
    pin_mut!(events);
    let mut watched = Watched::default();
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = under_way.next() => {}
            event = events.next() => match event {
                Some(Ok(event)) => under_way.extend(watched.deaths(event).into_iter().map(|report| release(&context, report))),
                Some(Err(error)) => warn!(error = &error as &dyn std::error::Error, "the watch of runners broke; it is taken up again"),
                None => return,
            },
        }
    }
}

/// Pods by UID as they were seen last, and which ends of them were reported already.
#[derive(Default)]
struct Watched {
    pods: HashMap<String, Pod>,
    /// Pods of a list that is being read anew.
    listed: Option<HashMap<String, Pod>>,
    reported: HashMap<String, DateTime<Utc>>,
}

impl Watched {
    /// What an event of the watch says about deaths.
    fn deaths(&mut self, event: watcher::Event<Pod>) -> Vec<Report> {
        match event {
            watcher::Event::Init => {
                self.listed = Some(HashMap::new());
                Vec::new()
            }
            watcher::Event::InitApply(pod) => {
                let report = self.report(Seen::Present(&pod));
                self.listed.get_or_insert_default().insert(pod.uid().unwrap_or_default(), pod);
                report.into_iter().collect()
            }
            watcher::Event::InitDone => {
                let listed = self.listed.take().unwrap_or_default();
                let before = std::mem::replace(&mut self.pods, listed);
                // Pods that went while the watch was broken, each with its last known status.
                let gone = before.into_iter().filter(|(uid, _)| !self.pods.contains_key(uid)).collect::<Vec<_>>();
                gone.into_iter().filter_map(|(_, pod)| self.bury(&pod)).collect()
            }
            watcher::Event::Apply(pod) => {
                let report = self.report(Seen::Present(&pod));
                self.pods.insert(pod.uid().unwrap_or_default(), pod);
                report.into_iter().collect()
            }
            watcher::Event::Delete(pod) => {
                self.pods.remove(&pod.uid().unwrap_or_default());
                self.bury(&pod).into_iter().collect()
            }
        }
    }

    fn bury(&mut self, pod: &Pod) -> Option<Report> {
        let report = self.report(Seen::Gone(pod));
        self.reported.remove(&pod.uid().unwrap_or_default());
        report
    }

    /// A death that was not reported yet.
    fn report(&mut self, seen: Seen<'_>) -> Option<Report> {
        let death = judge(seen)?;
        let (Seen::Present(pod) | Seen::Gone(pod)) = seen;
        let DeadProcess { instance, ended_at, .. } = &death.process;
        if self.reported.insert(instance.clone(), *ended_at) == Some(*ended_at) {
            return None;
        }
        let cluster = pod.labels().get(labels::CLUSTER)?.clone();
        let key = ClusterKey::new(pod.namespace().unwrap_or_default(), cluster);
        Some(Report { key, about: pod.object_ref(&()), death, reported: Instant::now() })
    }
}

/// Brings a death to the database, however often that has to be tried.
async fn release(context: &Context, report: Report) {
    let Report { key, death, about, reported } = report;
    let name = &death.process.name;
    while reported.elapsed() < GIVE_UP {
        let standing = context.databases.get(&key);
        let Some(db) = standing.db() else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        match tokio::time::timeout(ATTEMPT_TIMEOUT, machines::release_dead(db, &death.process)).await {
            Ok(Ok(Some(released))) => return tell(context, &death, &about, reported, &released.tasks).await,
            Ok(Ok(None)) => {
                debug!(machine = %name, "machine {name} has ended ({}), and holds nothing that it has not taken back", death.how);
                return;
            }
            Ok(Err(error)) => {
                warn!(machine = %name, error = &error as &dyn std::error::Error, "failed to release machine {name}, again in {RETRY:?}");
            }
            Err(_) => {
                warn!(machine = %name, "releasing machine {name} took longer than {ATTEMPT_TIMEOUT:?}, again in {RETRY:?}")
            }
        }
        tokio::time::sleep(RETRY).await;
    }
    warn!(machine = %name, "machine {name} has ended and its database was away for {GIVE_UP:?}; the lease has decided");
}

async fn tell(context: &Context, death: &Death, about: &ObjectReference, reported: Instant, tasks: &[ReleasedTask]) {
    let name = &death.process.name;
    let since_end_ms = (Utc::now() - death.process.ended_at).num_milliseconds();
    let since_report_ms = u64::try_from(reported.elapsed().as_millis()).unwrap_or(u64::MAX);
    let what = in_words(tasks);
    info!(
        machine = %name,
        pod.namespace = about.namespace.as_deref().unwrap_or_default(),
        pod.uid = %death.process.instance,
        since_end_ms,
        since_report_ms,
        tasks = tasks.len(),
        "released {what} of machine {name} ({}), {since_report_ms} ms after the kubelet's report and {since_end_ms} ms after the end",
        death.how
    );
    context.metrics.released(death.cause, tasks.len() as u64);
    context.events.warning(about, "Released", format!("The runner ended ({}); released {what}", death.how)).await;
}

/// The tasks as a person calls them.
fn in_words(tasks: &[ReleasedTask]) -> String {
    if tasks.is_empty() {
        return "nothing".to_owned();
    }
    let one = |task: &ReleasedTask| {
        let ReleasedTask { id, kind, attempt, failed } = task;
        let end = if *failed { ", its last" } else { "" };
        format!("{kind} {id} (attempt {attempt}{end})")
    };
    tasks.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
