//! `/metrics`: the numbers of the engine, of the pipeline and of the chain in the text format of
//! Prometheus. Label sets are closed: no sector, task id, CID or address.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use curio_core::Resources;
use curio_harmony::{Db, DbError};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tracing::warn;

use self::balances::Balances;
use crate::chain_sched::Fence;
use crate::chain_sched::scheduler::StatusHandle;
use crate::post::counters::PostCounters;
use crate::post::window;
use crate::seal::counters::{Counters, Counts};

pub mod balances;
mod chain;
mod post;

/// What is known once the machine has registered.
pub struct Running {
    pub engine: Arc<curio_harmony::Metrics>,
    pub chain: StatusHandle,
    pub fence: Fence,
    pub balances: Balances,
    pub post: Arc<PostCounters>,
    /// Time between epochs.
    pub block_delay: Duration,
    pub capacity: Resources,
}

/// All numbers of this process. A clone is the same.
#[derive(Clone)]
pub struct Metrics {
    db: Db,
    counters: Arc<Counters>,
    machine: Arc<str>,
    running: Arc<OnceLock<Running>>,
}

impl Metrics {
    /// Numbers of a machine that has not registered yet.
    pub fn new(db: Db, counters: Arc<Counters>, machine: &str) -> Metrics {
        Metrics { db, counters, machine: machine.into(), running: Arc::default() }
    }

    /// Adds what is known now. Only the first call counts.
    pub fn watch(&self, running: Running) {
        let _ = self.running.set(running);
    }

    /// Everything as text. Numbers that only the database knows are left out while it is away.
    pub async fn text(&self) -> String {
        let mut registry = Registry::default();
        let info =
            Info::new([("machine", self.machine.to_string()), ("version", env!("CARGO_PKG_VERSION").to_owned())]);
        registry.register("curio_node", "This machine", info);
        match sectors_by_stage(&self.db).await {
            Ok(counts) => register_sectors(&mut registry, counts),
            Err(error) => warn!(error = %error, "failed to count the sectors for /metrics"),
        }
        register_counts(&mut registry, self.counters.read());
        match self.running.get() {
            Some(running) => {
                if let Err(error) = running.engine.refresh(&self.db).await {
                    warn!(error = %error, "failed to count the waiting tasks for /metrics");
                }
                running.engine.register(&mut registry);
                register_capacity(&mut registry, running.capacity);
                let chain = running.chain.read();
                let now = chain.head.map(|(head, began)| post::Now {
                    head,
                    age: chain::age(began),
                    block_delay: running.block_delay,
                });
                chain::register(&mut registry, chain, running.fence.verdict());
                running.balances.register(&mut registry);
                match window::standing(&self.db).await {
                    Ok(standing) => post::register(&mut registry, running.post.read(), &standing, now),
                    Err(error) => warn!(error = %error, "failed to count the partitions to prove for /metrics"),
                }
            }
            None => self.db.metrics().register(&mut registry),
        }
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string does not fail");
        text
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStage {
    sp: String,
    stage: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTask {
    task: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMessage {
    method: &'static str,
    exit_code: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfMethod {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfReason {
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStatus {
    status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfResource {
    resource: &'static str,
}

struct StageCount {
    sp: i64,
    stage: String,
    sectors: i64,
}

/// Sectors of each storage provider by the task that they wait for.
async fn sectors_by_stage(db: &Db) -> Result<Vec<StageCount>, DbError> {
    let rows = sqlx::query_as!(
        StageCount,
        r#"
        SELECT sp_id AS sp, stage AS "stage!", count(*) AS "sectors!"
        FROM (
            SELECT sp_id, CASE
                WHEN failed THEN 'failed'
                WHEN after_commit_msg_success AND after_move_storage THEN 'proven'
                WHEN NOT after_sdr THEN 'SDR'
                WHEN NOT after_tree_d THEN 'TreeD'
                WHEN NOT after_tree_r THEN 'TreeRC'
                WHEN NOT after_precommit_msg THEN 'PreCommitSubmit'
                WHEN NOT after_precommit_msg_success THEN 'WaitPreCommit'
                WHEN NOT after_porep THEN 'PoRep'
                WHEN NOT after_commit_msg THEN 'CommitSubmit'
                WHEN NOT after_commit_msg_success THEN 'WaitCommit'
                WHEN NOT after_finalize THEN 'Finalize'
                ELSE 'MoveStorage'
            END AS stage
            FROM sectors_sdr_pipeline
        ) AS staged
        GROUP BY sp_id, stage
        "#
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows)
}

fn register_sectors(registry: &mut Registry, counts: Vec<StageCount>) {
    let sectors: Family<OfStage, Gauge> = Family::default();
    for StageCount { sp, stage, sectors: count } in counts {
        sectors.get_or_create(&OfStage { sp: format!("f0{sp}"), stage }).set(count);
    }
    registry.register("curio_sectors", "Sectors by the stage that they have reached", sectors);
}

fn register_counts(registry: &mut Registry, counts: Counts) {
    let Counts {
        tasks_created,
        tasks_recreated,
        messages_landed,
        messages_repeated,
        messages_replaced,
        reseals,
        sectors_failed,
        polls,
        polls_failed,
    } = counts;
    let created: Family<OfTask, Counter> = Family::default();
    for (task, count) in tasks_created {
        created.get_or_create(&OfTask { task }).inc_by(count);
    }
    registry.register("curio_pipeline_tasks_created", "Tasks created for sectors by this machine", created);
    let recreated: Family<OfTask, Counter> = Family::default();
    for (task, count) in tasks_recreated {
        recreated.get_or_create(&OfTask { task }).inc_by(count);
    }
    registry.register("curio_pipeline_tasks_recreated", "Tasks that had vanished and were created again", recreated);
    let landed: Family<OfMessage, Counter> = Family::default();
    for ((method, exit_code), count) in messages_landed {
        landed.get_or_create(&OfMessage { method, exit_code }).inc_by(count);
    }
    registry.register("curio_message_landed", "Messages executed, by exit code", landed);
    let repeated: Family<OfMethod, Counter> = Family::default();
    for (method, count) in messages_repeated {
        repeated.get_or_create(&OfMethod { method }).inc_by(count);
    }
    registry.register("curio_message_repeated", "Messages given up and asked for again", repeated);
    let replaced: Family<OfMethod, Counter> = Family::default();
    for (method, count) in messages_replaced {
        replaced.get_or_create(&OfMethod { method }).inc_by(count);
    }
    registry.register("curio_message_replaced", "Messages sent again with a higher price", replaced);
    let failed: Family<OfReason, Counter> = Family::default();
    for (reason, count) in sectors_failed {
        failed.get_or_create(&OfReason { reason }).inc_by(count);
    }
    registry.register("curio_sectors_failed", "Sectors failed, by reason", failed);
    let resealed: Counter = Counter::default();
    resealed.inc_by(reseals);
    registry.register("curio_sectors_resealed", "Sectors sealed anew because their ticket ran out", resealed);
    let rounds: Family<OfStatus, Counter> = Family::default();
    rounds.get_or_create(&OfStatus { status: "ok" }).inc_by(polls.saturating_sub(polls_failed));
    rounds.get_or_create(&OfStatus { status: "error" }).inc_by(polls_failed);
    registry.register("curio_pipeline_polls", "Looks at the whole pipeline", rounds);
}

fn register_capacity(registry: &mut Registry, capacity: Resources) {
    let Resources { cpu, ram_bytes, gpu_milli } = capacity;
    let family: Family<OfResource, Gauge<f64, std::sync::atomic::AtomicU64>> = Family::default();
    family.get_or_create(&OfResource { resource: "cpu" }).set(cpu.into());
    family.get_or_create(&OfResource { resource: "ram" }).set(ram_bytes as f64);
    family.get_or_create(&OfResource { resource: "gpu" }).set(f64::from(gpu_milli) / 1000.0);
    registry.register("curio_machine_capacity", "What tasks may use on this machine: cores, bytes, devices", family);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pipelines_counts_come_out_under_their_names() {
        let mut counts = Counts { reseals: 2, polls: 5, polls_failed: 1, ..Counts::default() };
        counts.tasks_created.insert("SDR", 3);
        counts.messages_landed.insert(("precommit", 0), 4);
        let mut registry = Registry::default();
        register_counts(&mut registry, counts);
        let mut text = String::new();
        encode(&mut text, &registry).expect("writing to a string does not fail");
        for line in [
            "curio_pipeline_tasks_created_total{task=\"SDR\"} 3",
            "curio_message_landed_total{method=\"precommit\",exit_code=\"0\"} 4",
            "curio_sectors_resealed_total 2",
            "curio_pipeline_polls_total{status=\"ok\"} 4",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
