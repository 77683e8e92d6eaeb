//! What `kubectl get` shows, with one call a second: SealingSectors, slots of RunnerPools, pods of runners.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::super::curio::{Run, Sector, Started};
use super::pods::{Pod, Pods};
use super::release;
use crate::cluster::Cluster;

/// What was seen last.
pub struct Objects<'a> {
    cluster: &'a Cluster,
    sectors: Vec<SealingSector>,
    slots: Vec<Slot>,
    pods: Pods,
    /// Slots as they were told to the person.
    told: Vec<Slot>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct SealingSector {
    metadata: Metadata,
    spec: SectorSpec,
    #[serde(default)]
    pub status: SectorStatus,
}

#[derive(Clone, Debug, Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct SectorSpec {
    miner: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SectorStatus {
    conditions: Vec<Condition>,
    number: Option<u64>,
    sectors: Vec<u64>,
    stage: String,
    task: Option<i64>,
    runner: Option<String>,
    retries: u64,
    last_error: Option<String>,
    pub message: String,
    sealed_cid: Option<String>,
    precommit_cid: Option<String>,
    commit_cid: Option<String>,
    failed: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
}

#[derive(Deserialize)]
struct RunnerPool {
    #[serde(default)]
    status: PoolStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PoolStatus {
    slots: Vec<Slot>,
}

/// One runner of a pool, as far as a person wants to hear of it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Slot {
    name: String,
    node: Option<String>,
    #[serde(default)]
    phase: String,
    message: Option<String>,
}

impl SectorStatus {
    /// Numbers of the sectors that a request has.
    pub fn numbers(&self) -> Vec<u64> {
        if self.sectors.is_empty() { self.number.into_iter().collect() } else { self.sectors.clone() }
    }

    /// Whether no runner will take up the request as it is.
    pub fn is_refused(&self) -> bool {
        self.stage == "Refused"
    }

    fn is(&self, condition: &str, status: &str) -> bool {
        self.conditions.iter().any(|known| known.type_ == condition && known.status == status)
    }

    /// As `curio sector status` tells it, but for the stages that are over.
    pub fn as_sector(&self, started: &Started) -> Sector {
        let stage = self.curio_stage();
        let state = match (&self.runner, &self.last_error) {
            (Some(_), _) => "running",
            (None, Some(_)) => "retrying",
            (None, None) => "waiting",
        };
        let run = Run {
            state: state.to_owned(),
            machine: self.runner.clone(),
            attempts: self.retries,
            seconds: 0.0,
            error: self.last_error.clone(),
            node: None,
        };
        let proven = self.is("Proven", "True");
        Sector {
            miner: started.miner.clone(),
            number: started.number,
            state: if proven {
                "proven"
            } else if self.failed {
                "failed"
            } else {
                "sealing"
            }
            .to_owned(),
            stages: vec![(stage.to_owned(), run)],
            stage: stage.to_owned(),
            precommit_cid: self.precommit_cid.clone(),
            commit_cid: self.commit_cid.clone(),
            sealed_cid: self.sealed_cid.clone(),
            failed_reason: self.failed.then(|| self.stage.clone()),
            failed_message: self.failed.then(|| self.message.clone()),
            files: Vec::new(),
        }
    }

    /// The name that `curio` has for the stage: a column of 80 characters has room for short ones only.
    fn curio_stage(&self) -> &str {
        match (self.stage.as_str(), self.task) {
            ("" | "Asked", _) => "SDR",
            ("PreCommit", Some(_)) => "PreCommitSubmit",
            ("PreCommit", None) => "WaitPreCommit",
            ("Commit", Some(_)) => "CommitSubmit",
            ("Commit", None) => "WaitCommit",
            ("Move", _) => "MoveStorage",
            (stage, _) => stage,
        }
    }
}

impl<'a> Objects<'a> {
    pub fn new(cluster: &'a Cluster) -> Objects<'a> {
        Objects { cluster, sectors: Vec::new(), slots: Vec::new(), pods: Pods::default(), told: Vec::new() }
    }

    /// # Errors
    /// When the cluster does not answer.
    pub fn refresh(&mut self) -> Result<()> {
        #[derive(Deserialize)]
        struct List {
            items: Vec<serde_json::Value>,
        }
        let said = release::get(self.cluster, &["sealingsectors,runnerpools,pods"])?;
        let List { items } = serde_json::from_value(said).context("kubectl get said no list")?;
        let (mut sectors, mut slots, mut pods) = (Vec::new(), Vec::new(), Vec::new());
        for item in items {
            match item["kind"].as_str() {
                Some("SealingSector") => {
                    sectors.push(serde_json::from_value(item).context("a SealingSector has another shape")?);
                }
                Some("RunnerPool") => {
                    let pool: RunnerPool = serde_json::from_value(item).context("a RunnerPool has another shape")?;
                    slots.extend(pool.status.slots);
                }
                Some(_) | None => pods.push(serde_json::from_value::<Pod>(item).context("a pod has another shape")?),
            }
        }
        (self.sectors, self.slots, self.pods) = (sectors, slots, Pods::of_runners(pods));
        Ok(())
    }

    pub fn pods(&self) -> &Pods {
        &self.pods
    }

    pub fn sector(&self, name: &str) -> Option<&SealingSector> {
        self.sectors.iter().find(|sector| sector.metadata.name == name)
    }

    pub fn sector_with(&self, started: &Started) -> Option<&SealingSector> {
        self.sectors
            .iter()
            .find(|sector| sector.spec.miner == started.miner && sector.status.number == Some(started.number))
    }

    /// One line for each runner that stands otherwise than it was told.
    pub fn news(&mut self) -> Vec<String> {
        let changed = self.slots.iter().filter(|slot| !self.told.contains(slot));
        let news = changed.map(|slot| {
            let place = slot.node.as_ref().map(|node| format!(" on {node}")).unwrap_or_default();
            let message = slot.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
            format!("{}{place} is {}{message}", slot.name, slot.phase)
        });
        let news = news.collect();
        self.told = self.slots.clone();
        news
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: serde_json::Value) -> SectorStatus {
        serde_json::from_value(value).expect("it has the shape of a status")
    }

    fn started() -> Started {
        Started { miner: "f01000".to_owned(), number: 7 }
    }

    #[test]
    fn a_status_reads_like_the_answer_of_curio() {
        let working = status(json!({"number": 7, "stage": "PoRep", "task": 9, "runner": "snark-0"}));
        let sector = working.as_sector(&started());
        assert_eq!((sector.state.as_str(), sector.stage.as_str()), ("sealing", "PoRep"));
        assert_eq!(sector.run("PoRep").and_then(|run| run.machine.as_deref()), Some("snark-0"));
        let proven = status(json!({"stage": "Proven", "conditions": [{"type": "Proven", "status": "True"}]}));
        assert_eq!(proven.as_sector(&started()).state, "proven");
    }

    #[test]
    fn a_message_on_its_way_is_a_wait() {
        for (task, stage) in [(json!(3), "PreCommitSubmit"), (json!(null), "WaitPreCommit")] {
            assert_eq!(status(json!({"stage": "PreCommit", "task": task})).as_sector(&started()).stage, stage);
        }
    }

    #[test]
    fn a_request_for_one_sector_has_its_number_and_one_for_more_has_all() {
        assert_eq!(status(json!({"number": 7})).numbers(), [7]);
        assert_eq!(status(json!({"sectors": [7, 8]})).numbers(), [7, 8]);
    }
}
