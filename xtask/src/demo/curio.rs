//! The `curio` program as a person uses it: commands in, JSON out.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Deserializer};

use crate::process;

/// The stages of a sector in order, as `curio sector status` names them. Those without a task are waits.
pub const STAGES: [&str; 11] = [
    "SDR",
    "TreeD",
    "TreeRC",
    "PreCommitSubmit",
    "WaitPreCommit",
    "WaitSeed",
    "PoRep",
    "CommitSubmit",
    "Finalize",
    "MoveStorage",
    "WaitCommit",
];

/// One sector as `curio sector status --json` tells it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Sector {
    pub miner: String,
    pub number: u64,
    pub state: String,
    pub stage: String,
    pub precommit_cid: Option<String>,
    pub commit_cid: Option<String>,
    pub sealed_cid: Option<String>,
    pub failed_reason: Option<String>,
    pub failed_message: Option<String>,
    #[serde(deserialize_with = "in_stage_order")]
    pub stages: Vec<(String, Run)>,
    pub files: Vec<File>,
}

/// What became of one stage of a sector.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Run {
    pub state: String,
    pub machine: Option<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    pub attempts: u64,
    #[serde(default, deserialize_with = "null_is_default")]
    pub seconds: f64,
    pub error: Option<String>,
    /// Where the machine is, in a cluster of several; `curio` does not know it.
    #[serde(skip)]
    pub node: Option<String>,
}

/// A file of a sector.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct File {
    pub kind: String,
    /// `None` while no machine reaches the copy.
    pub path: Option<PathBuf>,
}

impl Sector {
    pub fn name(&self) -> String {
        format!("{}:{}", self.miner, self.number)
    }

    pub fn file(&self, kind: &str) -> Option<&Path> {
        self.files.iter().filter(|file| file.kind == kind).find_map(|file| file.path.as_deref())
    }

    pub fn run(&self, stage: &str) -> Option<&Run> {
        self.stages.iter().find(|(name, _)| name == stage).map(|(_, run)| run)
    }
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

fn in_stage_order<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(String, Run)>, D::Error> {
    let mut found = std::collections::BTreeMap::<String, Run>::deserialize(from)?;
    Ok(STAGES.iter().filter_map(|stage| found.remove_entry(*stage)).collect())
}

/// Where a new sector got its number.
#[derive(Clone, Debug, Deserialize)]
pub struct Started {
    pub miner: String,
    pub number: u64,
}

/// The program and the environment that points it at our database and chain.
pub struct Curio {
    pub program: PathBuf,
    pub environment: Vec<(String, String)>,
}

impl Curio {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).envs(self.environment.iter().map(|(key, value)| (key, value))).env("RUST_LOG", "warn");
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let what = format!("curio {}", arguments.iter().take(2).copied().collect::<Vec<_>>().join(" "));
        process::capture(&what, &mut self.command(arguments))
    }

    pub fn migrate(&self) -> Result<()> {
        self.run(&["migrate"]).map(drop)
    }

    pub fn set_layer(&self, name: &str, file: &Path) -> Result<()> {
        self.run(&["config", "set", name, &file.to_string_lossy()]).map(drop)
    }

    pub fn attach(&self, machine: &str, purpose: &str, path: &Path) -> Result<()> {
        self.run(&["storage", "attach", "--init", purpose, "--machine", machine, &path.to_string_lossy()]).map(drop)
    }

    pub fn start_sectors(&self, miner: &str, count: u64, piece: Option<&Path>) -> Result<Vec<Started>> {
        #[derive(Deserialize)]
        struct Answer {
            sectors: Vec<Started>,
        }
        let count = count.to_string();
        let piece = piece.map(|path| path.to_string_lossy().into_owned());
        let mut arguments = vec!["seal", "start", "--json", "--actor", miner, "--now", "--count", &count];
        if let Some(piece) = &piece {
            arguments.extend(["--piece", piece]);
        }
        let said = self.run(&arguments)?;
        let answer: Answer = serde_json::from_str(&said).context("`curio seal start --json` said something else")?;
        Ok(answer.sectors)
    }

    pub fn sector(&self, sector: &Started) -> Result<Sector> {
        let name = format!("{}:{}", sector.miner, sector.number);
        let said = self.run(&["sector", "status", "--json", &name])?;
        serde_json::from_str(&said).context("`curio sector status --json` said something else")
    }
}

/// A task that a machine works on.
#[derive(Clone, Debug, Deserialize)]
pub struct Work {
    #[serde(rename = "id")]
    pub task_id: i64,
    pub machine: Option<String>,
}

impl Curio {
    /// A task of this kind that some machine works on now.
    pub fn working_on(&self, kind: &str) -> Result<Option<Work>> {
        let open: Vec<Work> = self.list(&["task", "list", "--json", "--name", kind])?;
        Ok(open.into_iter().find(|work| work.machine.is_some()))
    }

    /// The machines that have a task now, or had it.
    pub fn workers_of(&self, task: i64) -> Result<Vec<String>> {
        let task = task.to_string();
        let mut work: Vec<Work> = self.list(&["task", "list", "--json", "--task", &task])?;
        work.extend(self.list::<Attempt>(&["task", "history", "--json", "--task", &task])?.into_iter().map(Work::from));
        Ok(work.into_iter().filter_map(|work| work.machine).collect())
    }

    fn list<T: for<'de> Deserialize<'de>>(&self, arguments: &[&str]) -> Result<Vec<T>> {
        let said = self.run(arguments)?;
        serde_json::from_str(&said).with_context(|| format!("`curio {}` said something else", arguments.join(" ")))
    }
}

#[derive(Deserialize)]
struct Attempt {
    task_id: i64,
    machine: String,
}

impl From<Attempt> for Work {
    fn from(Attempt { task_id, machine }: Attempt) -> Work {
        Work { task_id, machine: Some(machine) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sector_is_read_with_its_stages_in_order() {
        let said = serde_json::json!({
            "miner": "f01000", "number": 3, "state": "sealing", "stage": "PoRep", "seal_proof": 5,
            "precommit_cid": "bafy", "commit_cid": null, "sealed_cid": "bagbo", "failed_reason": null, "failed_message": null,
            "stages": {
                "TreeD": {"task_id": 2, "state": "done", "machine": "sealing-0", "attempts": 1, "seconds": 0.5, "error": null},
                "SDR": {"task_id": 1, "state": "done", "machine": "sealing-0", "attempts": 2, "seconds": 1.5, "error": null},
                "PoRep": {"task_id": null, "state": "waiting", "machine": null, "attempts": null, "seconds": null, "error": null}
            },
            "files": [{"kind": "unsealed", "path": "/p", "storage_id": "s"}]
        });
        let sector: Sector = serde_json::from_value(said).expect("it has the shape of a status");
        let names: Vec<&str> = sector.stages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["SDR", "TreeD", "PoRep"]);
        assert_eq!(sector.run("SDR").map(|run| run.attempts), Some(2));
        assert_eq!(sector.run("PoRep").map(|run| run.attempts), Some(0));
        assert_eq!(sector.file("unsealed"), Some(Path::new("/p")));
    }
}
