//! Logs and numbers of the operator. Label sets are closed: no sector, task or uid.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use curio_harmony::tasks::KindLoad;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::databases::ClusterKey;

/// What is logged when `RUST_LOG` says nothing.
const DEFAULT_FILTER: &str = "info,kube_client=warn,sqlx=warn,hyper=warn";

/// Upper bounds of the reconcile histogram in seconds: most take milliseconds, a database that is away
/// some seconds.
const RECONCILE_BOUNDS: [f64; 9] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 120.0];

/// Logs from now on go to standard output, one JSON object a line, with the object of the reconcile that
/// says them. `RUST_LOG` chooses which.
pub fn init_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(true)
        .with_span_list(false)
        .with_env_filter(filter)
        .init();
}

/// All numbers of this process. A clone is the same.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    desired_runners: Family<OfPool, Gauge>,
    reconciles: Family<OfReconcile, Histogram>,
    releases: Family<OfRelease, Counter>,
    queue: Family<OfQueue, Gauge>,
    oldest_wait: Family<OfKind, Gauge<f64, AtomicU64>>,
    leader: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPool {
    namespace: String,
    pool: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReconcile {
    controller: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRelease {
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfQueue {
    cluster: String,
    kind: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    cluster: String,
    kind: String,
}

impl Default for Metrics {
    fn default() -> Metrics {
        let desired_runners: Family<OfPool, Gauge> = Family::default();
        let reconciles: Family<OfReconcile, Histogram> =
            Family::new_with_constructor(|| Histogram::new(RECONCILE_BOUNDS));
        let releases: Family<OfRelease, Counter> = Family::default();
        let queue: Family<OfQueue, Gauge> = Family::default();
        let oldest_wait: Family<OfKind, Gauge<f64, AtomicU64>> = Family::default();
        let leader = Gauge::default();

        let mut registry = Registry::default();
        let info = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("curio_operator", "This operator", info);
        registry.register("curio_pool_desired_runners", "Runners that a pool is to have", desired_runners.clone());
        registry.register("curio_operator_reconcile_seconds", "Duration of one reconcile", reconciles.clone());
        registry.register("curio_operator_releases", "Tasks released because their runner is dead", releases.clone());
        registry.register("curio_queue_tasks", "Tasks by kind and state", queue.clone());
        registry.register(
            "curio_queue_oldest_wait_seconds",
            "How long the task that waits longest could have been running",
            oldest_wait.clone(),
        );
        registry.register("curio_operator_leader", "1 while this process is the leader", leader.clone());
        let registry = Arc::new(registry);
        Metrics { registry, desired_runners, reconciles, releases, queue, oldest_wait, leader }
    }
}

impl Metrics {
    pub fn desired_runners(&self, namespace: &str, pool: &str, count: i64) {
        self.desired_runners.get_or_create(&of_pool(namespace, pool)).set(count);
    }

    /// The pool is gone, and with it its series.
    pub fn forget_pool(&self, namespace: &str, pool: &str) {
        self.desired_runners.remove(&of_pool(namespace, pool));
    }

    pub fn reconciled(&self, controller: &'static str, outcome: &'static str, took: Duration) {
        self.reconciles.get_or_create(&OfReconcile { controller, outcome }).observe(took.as_secs_f64());
    }

    /// `count` tasks were released early.
    pub fn released(&self, cause: &'static str, count: u64) {
        self.releases.get_or_create(&OfRelease { cause }).inc_by(count);
    }

    /// The queue of a cluster as it is now. A kind that has no task any more is at zero, not absent: a graph
    /// would draw the last value on.
    pub fn queue(&self, cluster: &ClusterKey, before: &[String], loads: &[KindLoad]) {
        let cluster = cluster.to_string();
        let emptied = before.iter().filter(|kind| loads.iter().all(|load| load.kind != **kind));
        for kind in emptied {
            self.set_kind(&cluster, kind, [0; 4], 0.0);
        }
        for KindLoad { kind, waiting, oldest_wait_s, running, backing_off, failed } in loads {
            self.set_kind(&cluster, kind, [*waiting, *running, *backing_off, *failed], *oldest_wait_s);
        }
    }

    fn set_kind(&self, cluster: &str, kind: &str, counts: [i64; 4], oldest_wait_s: f64) {
        for (state, count) in ["waiting", "running", "backing_off", "failed"].into_iter().zip(counts) {
            let labels = OfQueue { cluster: cluster.to_owned(), kind: kind.to_owned(), state };
            self.queue.get_or_create(&labels).set(count);
        }
        let labels = OfKind { cluster: cluster.to_owned(), kind: kind.to_owned() };
        self.oldest_wait.get_or_create(&labels).set(oldest_wait_s);
    }

    pub fn leading(&self, leads: bool) {
        self.leader.set(leads.into());
    }

    /// Everything in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}

fn of_pool(namespace: &str, pool: &str) -> OfPool {
    OfPool { namespace: namespace.to_owned(), pool: pool.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(kind: &str, waiting: i64) -> KindLoad {
        KindLoad { kind: kind.to_owned(), waiting, oldest_wait_s: 1.5, running: 1, backing_off: 0, failed: 0 }
    }

    #[test]
    fn the_numbers_come_out_under_their_names() {
        let metrics = Metrics::default();
        metrics.desired_runners("ns", "snark", 2);
        metrics.reconciled("curiocluster", "ok", Duration::from_millis(20));
        metrics.released("terminated", 3);
        metrics.queue(&ClusterKey::new("ns", "curio"), &[], &[load("PoRep", 4)]);
        let text = metrics.text();
        for line in [
            r#"curio_pool_desired_runners{namespace="ns",pool="snark"} 2"#,
            r#"curio_operator_reconcile_seconds_count{controller="curiocluster",outcome="ok"} 1"#,
            r#"curio_operator_releases_total{cause="terminated"} 3"#,
            r#"curio_queue_tasks{cluster="ns/curio",kind="PoRep",state="waiting"} 4"#,
            r#"curio_queue_oldest_wait_seconds{cluster="ns/curio",kind="PoRep"} 1.5"#,
        ] {
            assert!(text.contains(line), "{line} is missing in\n{text}");
        }
    }

    #[test]
    fn a_kind_without_tasks_goes_to_zero_and_a_pool_that_is_gone_goes() {
        let metrics = Metrics::default();
        let key = ClusterKey::new("ns", "curio");
        metrics.queue(&key, &[], &[load("PoRep", 4)]);
        metrics.queue(&key, &["PoRep".to_owned()], &[]);
        metrics.desired_runners("ns", "snark", 2);
        metrics.forget_pool("ns", "snark");
        let text = metrics.text();
        assert!(text.contains(r#"kind="PoRep",state="waiting"} 0"#), "{text}");
        assert!(!text.contains("snark"), "{text}");
    }
}
