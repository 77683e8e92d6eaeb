//! Numbers for Prometheus. All label sets are closed: kinds, outcomes, reasons, transaction names.

use std::time::Duration;

use curio_core::Resources;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::db::{Db, DbError};
use crate::decide::Refusal;
use crate::task::TaskName;
use crate::tasks;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTask {
    task: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfOutcome {
    task: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    task: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResource {
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTx {
    tx: &'static str,
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTxName {
    tx: &'static str,
}

/// Buckets from `first` seconds, growing by `factor`.
#[derive(Clone, Copy)]
struct Buckets {
    first: f64,
    factor: f64,
    count: u16,
}

impl MetricConstructor<Histogram> for Buckets {
    fn new_metric(&self) -> Histogram {
        Histogram::new(exponential_buckets(self.first, self.factor, self.count))
    }
}

/// From 10 ms to about 23 hours: some work takes hours, some a moment.
const WORK: Buckets = Buckets { first: 0.01, factor: 4.0, count: 12 };
/// From 1 ms to about 17 minutes.
const WAIT: Buckets = Buckets { first: 0.001, factor: 4.0, count: 11 };
/// From 1 ms to 16 s.
const TX: Buckets = Buckets { first: 0.001, factor: 2.0, count: 15 };

/// A gauge of fractions.
type Share = Gauge<f64, std::sync::atomic::AtomicU64>;

/// Numbers of one engine.
pub struct Metrics {
    kinds: Vec<TaskName>,
    pending: Family<OfTask, Gauge>,
    oldest_wait: Family<OfTask, Share>,
    running: Family<OfTask, Gauge>,
    started: Family<OfTask, Counter>,
    finished: Family<OfOutcome, Counter>,
    refused: Family<OfReason, Counter>,
    duration: Family<OfTask, Histogram, Buckets>,
    wait: Family<OfTask, Histogram, Buckets>,
    reserved: Family<OfResource, Share>,
    pub(crate) listening: Gauge,
    pub(crate) hinted: Counter,
    pub(crate) cycles: Counter,
    db: DbMetrics,
}

impl Metrics {
    pub(crate) fn new(kinds: Vec<TaskName>, db: DbMetrics) -> Metrics {
        Metrics {
            kinds,
            pending: Family::default(),
            oldest_wait: Family::default(),
            running: Family::default(),
            started: Family::default(),
            finished: Family::default(),
            refused: Family::default(),
            duration: Family::new_with_constructor(WORK),
            wait: Family::new_with_constructor(WAIT),
            reserved: Family::default(),
            listening: Gauge::default(),
            hinted: Counter::default(),
            cycles: Counter::default(),
            db,
        }
    }

    /// Adds everything to `registry`, under names that begin with `curio_`.
    pub fn register(&self, registry: &mut Registry) {
        let task = registry.sub_registry_with_prefix("curio_task");
        task.register("pending", "Tasks that wait for a machine", self.pending.clone());
        task.register("oldest_wait_seconds", "Age of the task that waits longest", self.oldest_wait.clone());
        task.register("running", "Tasks that run on this machine", self.running.clone());
        task.register("started", "Attempts started on this machine", self.started.clone());
        task.register("finished", "Attempts ended on this machine", self.finished.clone());
        task.register("refused", "Tasks or kinds that this machine did not take", self.refused.clone());
        task.register("duration_seconds", "Length of attempts", self.duration.clone());
        task.register("wait_seconds", "Time from runnable to claimed", self.wait.clone());
        let machine = registry.sub_registry_with_prefix("curio_machine");
        machine.register("reserved", "What running tasks have declared: cores, bytes, devices", self.reserved.clone());
        let engine = registry.sub_registry_with_prefix("curio_engine");
        engine.register("listening", "1 while hints of other machines are heard", self.listening.clone());
        engine.register("hints", "Hints heard", self.hinted.clone());
        engine.register("cycles", "Looks at the queue", self.cycles.clone());
        self.db.register(registry);
    }

    /// Everything in the text format of Prometheus.
    pub fn encode(&self) -> String {
        let mut registry = Registry::default();
        self.register(&mut registry);
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }

    /// Reads the numbers that only the database knows; one statement. Call it before encoding, not
    /// in a loop.
    pub async fn refresh(&self, db: &Db) -> Result<(), DbError> {
        let load = tasks::load(db).await?;
        for kind in &self.kinds {
            let label = OfTask { task: kind.as_str() };
            let found = load.iter().find(|load| load.kind == kind.as_str());
            self.pending.get_or_create(&label).set(found.map_or(0, |load| load.waiting));
            self.oldest_wait.get_or_create(&label).set(found.map_or(0.0, |load| load.oldest_wait_s));
        }
        Ok(())
    }

    pub(crate) fn started(&self, kind: TaskName, waited_s: f64) {
        let label = OfTask { task: kind.as_str() };
        self.started.get_or_create(&label).inc();
        self.wait.get_or_create(&label).observe(waited_s.max(0.0));
    }

    pub(crate) fn running(&self, kind: TaskName, count: u32) {
        self.running.get_or_create(&OfTask { task: kind.as_str() }).set(count.into());
    }

    pub(crate) fn reserved(&self, capacity: &Resources, free: &Resources) {
        let share = |resources: &Resources| {
            // Memory beyond 2^53 bytes would lose its last bits, and nobody would mind.
            let ram = resources.ram_bytes as f64;
            [("cpu", resources.cpu.into()), ("ram", ram), ("gpu", f64::from(resources.gpu_milli) / 1000.0)]
        };
        for ((resource, have), (_, left)) in share(capacity).into_iter().zip(share(free)) {
            self.reserved.get_or_create(&OfResource { resource }).set(have - left);
        }
    }

    pub(crate) fn finished(&self, kind: TaskName, outcome: &'static str, elapsed: Duration) {
        self.finished.get_or_create(&OfOutcome { task: kind.as_str(), outcome }).inc();
        self.duration.get_or_create(&OfTask { task: kind.as_str() }).observe(elapsed.as_secs_f64());
    }

    pub(crate) fn refused(&self, kind: TaskName, refusal: Refusal) {
        self.refused.get_or_create(&OfReason { task: kind.as_str(), reason: refusal.as_str() }).inc();
    }

    /// How often tasks of a kind were refused, by reason.
    pub fn refusals(&self, kind: TaskName) -> Vec<(Refusal, u64)> {
        const ALL: [Refusal; 7] = [
            Refusal::Limit,
            Refusal::Cpu,
            Refusal::Ram,
            Refusal::Gpu,
            Refusal::Storage,
            Refusal::CanAccept,
            Refusal::Raced,
        ];
        let count = |reason: Refusal| {
            self.refused.get_or_create(&OfReason { task: kind.as_str(), reason: reason.as_str() }).get()
        };
        ALL.into_iter().map(|reason| (reason, count(reason))).filter(|(_, count)| *count > 0).collect()
    }

    /// How many attempts of a kind ended in a way: `done`, `retry`, `failed`, `stopping`, `preempted`, `unavailable`
    /// or `lost`.
    pub fn finished_count(&self, kind: TaskName, outcome: &'static str) -> u64 {
        self.finished.get_or_create(&OfOutcome { task: kind.as_str(), outcome }).get()
    }

    /// Looks at the queue so far.
    pub fn cycle_count(&self) -> u64 {
        self.cycles.get()
    }
}

/// Numbers of the transactions of one database handle.
#[derive(Clone)]
pub struct DbMetrics {
    transactions: Family<OfTx, Counter>,
    retries: Family<OfTxName, Counter>,
    duration: Family<OfTxName, Histogram, Buckets>,
}

impl Default for DbMetrics {
    fn default() -> DbMetrics {
        DbMetrics {
            transactions: Family::default(),
            retries: Family::default(),
            duration: Family::new_with_constructor(TX),
        }
    }
}

impl DbMetrics {
    /// Adds the numbers to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let db = registry.sub_registry_with_prefix("curio_db");
        db.register("transaction", "Transactions that ended", self.transactions.clone());
        db.register("transaction_retries", "Transactions that were run again", self.retries.clone());
        db.register("transaction_duration_seconds", "Length of transactions, all runs", self.duration.clone());
    }

    /// How often the transaction was run again.
    pub fn retry_count(&self, tx: &'static str) -> u64 {
        self.retries.get_or_create(&OfTxName { tx }).get()
    }

    pub(crate) fn repeated(&self, tx: &'static str) {
        self.retries.get_or_create(&OfTxName { tx }).inc();
    }

    pub(crate) fn ended(&self, tx: &'static str, ok: bool, elapsed: Duration) {
        let status = if ok { "ok" } else { "error" };
        self.transactions.get_or_create(&OfTx { tx, status }).inc();
        self.duration.get_or_create(&OfTxName { tx }).observe(elapsed.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_named_as_the_glossary_says() {
        const KIND: TaskName = TaskName::new("Alpha");
        let metrics = Metrics::new(vec![KIND], DbMetrics::default());
        metrics.started(KIND, 0.5);
        metrics.running(KIND, 1);
        metrics.finished(KIND, "done", Duration::from_secs(2));
        metrics.refused(KIND, Refusal::CanAccept);
        let have = Resources { cpu: 4, ram_bytes: 1024, gpu_milli: 1500 };
        metrics.reserved(&have, &Resources { cpu: 1, ram_bytes: 1024, gpu_milli: 500 });
        let text = metrics.encode();
        for line in [
            "curio_task_started_total{task=\"Alpha\"} 1",
            "curio_task_running{task=\"Alpha\"} 1",
            "curio_task_finished_total{task=\"Alpha\",outcome=\"done\"} 1",
            "curio_task_refused_total{task=\"Alpha\",reason=\"can_accept\"} 1",
            "curio_task_duration_seconds_sum{task=\"Alpha\"} 2.0",
            "curio_task_wait_seconds_count{task=\"Alpha\"} 1",
            "curio_machine_reserved{resource=\"gpu\"} 1.0",
            "curio_machine_reserved{resource=\"cpu\"} 3.0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert_eq!(metrics.refusals(KIND), [(Refusal::CanAccept, 1)]);
    }
}
