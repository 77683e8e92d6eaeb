//! The status of a CurioCluster from what was seen and done. Pure; time comes in as a value.

use std::collections::BTreeMap;
use std::sync::Arc;

use curio_harmony::machines::{MachineRow, MachineState};
use curio_harmony::tasks::KindLoad;
use curio_pipeline::status::SectorState;
use curio_pipeline::view::SectorView;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::apply::LayerSync;
use super::migration::Migration;
use super::observe::Numbers;
use super::validate::{LayerText, Refusal};
use crate::api::conditions::{cluster, reason};
use crate::api::curio_cluster::{KindCount, MachineCount, RunnerCount, StageCount, VersionCount};
use crate::api::{CurioClusterSpec, CurioClusterStatus};
use crate::apply::labels;
use crate::conditions::{Said, Status, merge};
use crate::databases::Standing;

/// What a status is made from.
pub struct Seen<'a> {
    pub spec: &'a CurioClusterSpec,
    pub generation: Option<i64>,
    pub before: &'a CurioClusterStatus,
    pub standing: &'a Standing,
    pub chain_missing: &'a [String],
    pub layers: &'a Result<Vec<LayerText>, Refusal>,
    pub sync: &'a LayerSync,
    pub migration: &'a Migration,
    /// Of the runners.
    pub image: Option<&'a str>,
    /// All pods of the cluster.
    pub pods: &'a [Arc<Pod>],
    /// None while the database cannot be asked: the last numbers stay.
    pub numbers: Option<&'a Numbers>,
}

/// The status as it is now.
pub fn status(seen: &Seen, now: Timestamp) -> CurioClusterStatus {
    let Seen { before, migration, image, pods, .. } = seen;
    let runners: Vec<&Pod> = pods.iter().map(Arc::as_ref).filter(|pod| is_runner(pod)).collect();
    let counted = match seen.numbers {
        Some(numbers) => count(numbers, &runners),
        None => Counted::last(before),
    };
    let runners = count_runners(&runners);
    let migrated_version = match (migration, image) {
        (Migration::Done, Some(image)) => Some((*image).to_owned()),
        _ => before.migrated_version.clone(),
    };
    let edited_layers = match seen.sync {
        LayerSync::InSync => Vec::new(),
        LayerSync::Edited(titles) => titles.clone(),
        LayerSync::Unknown => before.edited_layers.clone(),
    };
    let conditions = conditions(seen, &runners, &counted, now);
    let Counted { machines, sectors, sectors_in_flight, sectors_failed, queue, versions } = counted;
    CurioClusterStatus {
        observed_generation: seen.generation,
        conditions,
        migrated_version,
        runners,
        machines,
        sectors,
        sectors_in_flight,
        sectors_failed,
        queued: queue.iter().map(|kind| kind.waiting).sum(),
        queue,
        versions,
        edited_layers,
    }
}

fn conditions(seen: &Seen, runners: &RunnerCount, counted: &Counted, now: Timestamp) -> Vec<Condition> {
    let mut said = vec![
        database_ready(seen.standing),
        chain_configured(seen.spec, seen.chain_missing),
        layers_valid(seen.layers),
        schema_migrated(seen),
        layers_in_sync(seen),
    ];
    let ready = ready(&said, runners, counted);
    said.insert(0, ready);
    said.push(paused(seen.spec));
    said.push(hibernated(seen.spec, runners));
    merge(&seen.before.conditions, said, seen.generation, now)
}

/// The first thing that keeps runners from working. Layers that were edited by hand do not.
fn ready(said: &[Said], runners: &RunnerCount, counted: &Counted) -> Said {
    let needed = |said: &&Said| said.type_ != cluster::LAYERS_IN_SYNC;
    match said.iter().filter(needed).find(|said| said.status != Status::True) {
        Some(first) => Said::no(cluster::READY, first.reason, first.message.clone()),
        None => {
            let message = format!(
                "{} of {} runners ready, {} busy; {} sectors in flight, {} failed",
                runners.ready, runners.total, runners.busy, counted.sectors_in_flight, counted.sectors_failed
            );
            Said::yes(cluster::READY, reason::OK, message)
        }
    }
}

fn database_ready(standing: &Standing) -> Said {
    let type_ = cluster::DATABASE_READY;
    let reason = match standing {
        Standing::Ready(_) => return Said::yes(type_, reason::OK, standing.to_string()),
        Standing::NotMigrated { why, .. } | Standing::SchemaUnfit(why) => {
            return Said::yes(type_, reason::OK, format!("the database answers: {why}"));
        }
        Standing::Unknown => return Said::unknown(type_, reason::PROGRESSING, standing.to_string()),
        Standing::SecretMissing(_) => reason::SECRET_MISSING,
        Standing::InvalidUrl(_) => reason::INVALID_URL,
        Standing::Unreachable(_) => reason::UNREACHABLE,
        Standing::InUse { .. } => reason::IN_USE,
    };
    Said::no(type_, reason, standing.to_string())
}

fn chain_configured(spec: &CurioClusterSpec, missing: &[String]) -> Said {
    if missing.is_empty() {
        let count = spec.chain.api_secrets.len();
        let nodes = if count == 1 { "1 chain node".to_owned() } else { format!("{count} chain nodes") };
        return Said::yes(cluster::CHAIN_CONFIGURED, reason::OK, format!("the Secrets name {nodes}"));
    }
    Said::no(cluster::CHAIN_CONFIGURED, reason::SECRET_MISSING, missing.join("; "))
}

fn layers_valid(layers: &Result<Vec<LayerText>, Refusal>) -> Said {
    match layers {
        Ok(layers) if layers.is_empty() => Said::yes(cluster::LAYERS_VALID, reason::OK, "the spec has no layers"),
        Ok(layers) => {
            let titles: Vec<&str> = layers.iter().map(|layer| layer.title.as_str()).collect();
            Said::yes(cluster::LAYERS_VALID, reason::OK, format!("runners accept {}", titles.join(", ")))
        }
        Err(Refusal { reason, message }) => Said::no(cluster::LAYERS_VALID, reason, message.clone()),
    }
}

fn schema_migrated(seen: &Seen) -> Said {
    let type_ = cluster::SCHEMA_MIGRATED;
    match seen.migration {
        Migration::Done => Said::yes(type_, reason::OK, "the migration Job has succeeded"),
        Migration::NoImage => Said::no(
            type_,
            reason::IMAGE_MISSING,
            "there is no runner image; set spec.images.runner, or give the operator one by CURIO_RUNNER_IMAGE",
        ),
        Migration::Due | Migration::Again(_) if seen.spec.paused => {
            Said::no(type_, reason::PAUSED, "a migration is due and waits until spec.paused is false")
        }
        Migration::Due | Migration::Again(_) => Said::no(type_, reason::MIGRATING, "the migration Job starts"),
        Migration::Running(words) => Said::no(type_, reason::MIGRATING, words.clone()),
        Migration::Failed(words) => Said::no(type_, reason::MIGRATION_FAILED, words.clone()),
        Migration::Unfit(words) => Said::no(type_, reason::SCHEMA_UNFIT, words.clone()),
        Migration::Waits => match seen.standing {
            Standing::Unknown => Said::unknown(type_, reason::PROGRESSING, "waits for the database"),
            Standing::SecretMissing(_)
            | Standing::InvalidUrl(_)
            | Standing::Unreachable(_)
            | Standing::InUse { .. }
            | Standing::NotMigrated { .. }
            | Standing::SchemaUnfit(_)
            | Standing::Ready(_) => {
                Said::unknown(type_, reason::DATABASE_AWAY, "the database cannot be migrated now; see DatabaseReady")
            }
        },
    }
}

fn layers_in_sync(seen: &Seen) -> Said {
    let type_ = cluster::LAYERS_IN_SYNC;
    match seen.sync {
        LayerSync::InSync => Said::yes(type_, reason::OK, "the database has the layers of the spec"),
        LayerSync::Edited(titles) => Said::no(
            type_,
            reason::EDITED_BY_HAND,
            format!(
                "somebody edited {} in the database, so it is left alone; to overwrite a layer once, annotate this object \
                 with {}=NAME",
                titles.join(", "),
                labels::OVERWRITE_LAYER
            ),
        ),
        LayerSync::Unknown if seen.spec.paused => {
            Said::unknown(type_, reason::PAUSED, "nothing is written until spec.paused is false")
        }
        LayerSync::Unknown if seen.layers.is_err() => {
            Said::unknown(type_, reason::PROGRESSING, "nothing is written until every layer is valid")
        }
        LayerSync::Unknown => match seen.standing {
            Standing::Unreachable(_) | Standing::Ready(_) => {
                Said::unknown(type_, reason::DATABASE_AWAY, "the database does not answer")
            }
            Standing::Unknown
            | Standing::SecretMissing(_)
            | Standing::InvalidUrl(_)
            | Standing::InUse { .. }
            | Standing::NotMigrated { .. }
            | Standing::SchemaUnfit(_) => Said::unknown(type_, reason::PROGRESSING, "the database cannot be used yet"),
        },
    }
}

fn paused(spec: &CurioClusterSpec) -> Said {
    if spec.paused {
        return Said::yes(cluster::PAUSED, reason::REQUESTED, "nothing is changed until spec.paused is false");
    }
    Said::no(cluster::PAUSED, reason::NOT_REQUESTED, "spec.paused is false")
}

fn hibernated(spec: &CurioClusterSpec, runners: &RunnerCount) -> Said {
    if !spec.hibernated {
        return Said::no(cluster::HIBERNATED, reason::NOT_REQUESTED, "spec.hibernated is false");
    }
    let message = match runners.total {
        0 => "no runner is left".to_owned(),
        left => format!("{left} runners are left, {} of them busy; each goes when it is idle", runners.busy),
    };
    Said::yes(cluster::HIBERNATED, reason::REQUESTED, message)
}

/// The numbers that come from the database.
struct Counted {
    machines: MachineCount,
    sectors: Vec<StageCount>,
    sectors_in_flight: i64,
    sectors_failed: i64,
    queue: Vec<KindCount>,
    versions: Vec<VersionCount>,
}

impl Counted {
    fn last(before: &CurioClusterStatus) -> Counted {
        Counted {
            machines: before.machines.clone(),
            sectors: before.sectors.clone(),
            sectors_in_flight: before.sectors_in_flight,
            sectors_failed: before.sectors_failed,
            queue: before.queue.clone(),
            versions: before.versions.clone(),
        }
    }
}

fn count(numbers: &Numbers, runners: &[&Pod]) -> Counted {
    let Numbers { loads, machines, sectors } = numbers;
    let failed = sectors.iter().filter(|sector| sector.state == SectorState::Failed).count();
    let in_flight: Vec<&SectorView> = sectors.iter().filter(|sector| sector.state == SectorState::Sealing).collect();
    let (machines, versions) = count_machines(machines, runners);
    Counted {
        machines,
        sectors: count_stages(&in_flight),
        sectors_in_flight: number(in_flight.len()),
        sectors_failed: number(failed),
        queue: loads.iter().map(kind_count).collect(),
        versions,
    }
}

/// Stages in the order of their names: a list that keeps its order is easier to watch.
fn count_stages(sectors: &[&SectorView]) -> Vec<StageCount> {
    let mut stages: BTreeMap<&str, i64> = BTreeMap::new();
    for sector in sectors {
        *stages.entry(sector.stage).or_default() += 1;
    }
    stages.into_iter().map(|(stage, count)| StageCount { stage: stage.to_owned(), count }).collect()
}

/// A machine is inside when it is the process of one of our pods; its name alone could be anybody's.
fn count_machines(machines: &[MachineRow], runners: &[&Pod]) -> (MachineCount, Vec<VersionCount>) {
    let mut counts = MachineCount::default();
    let mut versions: BTreeMap<&str, i64> = BTreeMap::new();
    for machine in machines {
        match machine.state {
            MachineState::Up | MachineState::Late => {
                let inside = runners.iter().any(|pod| pod.uid().as_ref() == Some(&machine.instance));
                if inside {
                    counts.inside += 1;
                } else {
                    counts.outside += 1;
                }
                *versions.entry(machine.version.as_str()).or_default() += 1;
            }
            MachineState::Lost => counts.lost += 1,
            MachineState::Stopped => {}
        }
    }
    let versions = versions.into_iter().map(|(version, runners)| VersionCount { version: version.to_owned(), runners });
    (counts, versions.collect())
}

fn kind_count(load: &KindLoad) -> KindCount {
    let KindLoad { kind, waiting, oldest_wait_s, running, backing_off, failed } = load;
    KindCount {
        kind: kind.clone(),
        waiting: waiting + backing_off,
        running: *running,
        failed: *failed,
        oldest_wait_seconds: coarse(*oldest_wait_s),
    }
}

/// In steps that grow, so that a queue that stands still does not change the status every second.
fn coarse(seconds: f64) -> i64 {
    let seconds = seconds.max(0.0) as i64;
    let step = match seconds {
        0..60 => 5,
        60..3600 => 60,
        _ => 600,
    };
    seconds - seconds % step
}

fn is_runner(pod: &Pod) -> bool {
    let ended = matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"));
    pod.labels().get(labels::NAME).is_some_and(|name| name == labels::RUNNER) && !ended
}

fn count_runners(runners: &[&Pod]) -> RunnerCount {
    let ready = runners.iter().filter(|pod| is_ready(pod)).count();
    let busy = runners.iter().filter(|pod| pod.labels().get(labels::BUSY).is_some_and(|busy| busy == "true")).count();
    RunnerCount { total: number(runners.len()), ready: number(ready), busy: number(busy) }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready =
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    ready && pod.metadata.deletion_timestamp.is_none()
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
