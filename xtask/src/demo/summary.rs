//! What the demo tells when it is over: tables for a person, and one JSON document for a program.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::chain::{Chain, MessageCount};
use super::curio::{STAGES, Sector, Started};
use crate::say;

/// `1 sector`, `2 sectors`.
pub fn count(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Tells before the work starts that the summary cannot be written after it.
///
/// # Errors
/// When the folder of the file is missing or may not be written to.
pub fn check_writable(file: &Path) -> Result<()> {
    let folder = folder_of(file);
    if file.is_dir() {
        bail!("--summary {} is a folder; name a file", file.display());
    }
    tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("--summary {} cannot be written", file.display()))?;
    Ok(())
}

fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The JSON document, kept current while the demo runs.
pub struct Summary {
    file: Option<PathBuf>,
    messages: MessageCount,
    /// What else there is to tell, by name.
    more: Map<String, Value>,
    written: Value,
}

impl Summary {
    /// Of these sectors. With no `file`, only the messages are counted.
    pub fn new(file: Option<&Path>, miner: &str, sectors: &[Started]) -> Summary {
        let messages = MessageCount::new(miner, sectors.iter().map(|sector| sector.number));
        Summary { file: file.map(Path::to_path_buf), messages, more: Map::new(), written: Value::Null }
    }

    /// Adds a part that is written with the next update.
    pub fn tell(&mut self, name: &str, part: Value) {
        self.more.insert(name.to_owned(), part);
    }

    pub fn messages(&self) -> &MessageCount {
        &self.messages
    }

    /// Counts the messages up to the head of the chain and writes the document when it differs from the last one.
    ///
    /// # Errors
    /// When the chain does not answer or the file cannot be written.
    pub fn update(&mut self, chain: &Chain, mut surroundings: Map<String, Value>, sectors: &[Sector]) -> Result<()> {
        self.messages.follow(chain)?;
        surroundings.extend(self.more.clone());
        let document = document(surroundings, sectors, &self.messages);
        if let Some(file) = &self.file
            && document != self.written
        {
            write(file, &document)?;
            self.written = document;
        }
        Ok(())
    }
}

/// A reader sees the old document or the new one, never half of one.
fn write(file: &Path, document: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(document).context("failed to write JSON")?;
    let mut fresh = tempfile::NamedTempFile::new_in(folder_of(file))
        .with_context(|| format!("failed to make a file beside {}", file.display()))?;
    writeln!(fresh, "{text}").with_context(|| format!("failed to write beside {}", file.display()))?;
    fresh.persist(file).with_context(|| format!("failed to write {}", file.display()))?;
    Ok(())
}

/// `surroundings`, such as the runners, with the sectors and their messages.
fn document(mut surroundings: Map<String, Value>, sectors: &[Sector], messages: &MessageCount) -> Value {
    surroundings.insert("sectors".to_owned(), sectors.iter().map(sector_document).collect());
    surroundings.insert("messages".to_owned(), json!({"precommit": messages.precommit, "commit": messages.commit}));
    Value::Object(surroundings)
}

fn sector_document(sector: &Sector) -> Value {
    let stages: Map<String, Value> = sector
        .stages
        .iter()
        .map(|(name, run)| {
            let mut told = json!({"machine": run.machine, "attempts": run.attempts, "seconds": run.seconds});
            if let Some(node) = &run.node {
                told["node"] = json!(node);
            }
            (name.clone(), told)
        })
        .collect();
    json!({
        "miner": sector.miner,
        "number": sector.number,
        "state": sector.state,
        "stages": stages,
        "precommit_cid": sector.precommit_cid,
        "commit_cid": sector.commit_cid,
    })
}

/// One line per sector.
pub fn sector_table(sectors: &[Sector]) -> String {
    let mut rows = vec![["SECTOR", "STATE", "PRECOMMIT", "COMMIT", "WORK"].map(str::to_owned)];
    for sector in sectors {
        let work: f64 = sector.stages.iter().map(|(_, run)| run.seconds).sum();
        rows.push([
            sector.name(),
            sector.state.clone(),
            short_cid(sector.precommit_cid.as_deref()),
            short_cid(sector.commit_cid.as_deref()),
            length(work),
        ]);
    }
    table(&rows)
}

/// One line per stage over all sectors.
pub fn stage_table(sectors: &[Sector]) -> String {
    let mut rows = vec![["STAGE", "RUNNER", "SECTORS", "ATTEMPTS", "SHORTEST", "LONGEST"].map(str::to_owned)];
    for stage in STAGES {
        let runs: Vec<_> = sectors.iter().filter_map(|sector| sector.run(stage)).collect();
        if runs.is_empty() {
            continue;
        }
        let mut machines: BTreeMap<&str, ()> = BTreeMap::new();
        machines.extend(runs.iter().filter_map(|run| run.machine.as_deref()).map(|machine| (machine, ())));
        let seconds = || runs.iter().map(|run| run.seconds);
        rows.push([
            stage.to_owned(),
            machines.into_keys().collect::<Vec<_>>().join(", "),
            runs.len().to_string(),
            runs.iter().map(|run| run.attempts).sum::<u64>().to_string(),
            length(seconds().fold(f64::INFINITY, f64::min)),
            length(seconds().fold(0.0, f64::max)),
        ]);
    }
    table(&rows)
}

/// Seconds as `curio` gives them, for a person.
pub fn length(seconds: f64) -> String {
    say::seconds(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// First and last characters: enough to find it, short enough for a line.
fn short_cid(cid: Option<&str>) -> String {
    match cid {
        None => "-".to_owned(),
        Some(cid) if cid.len() > 24 && cid.is_ascii() => format!("{}..{}", &cid[..8], &cid[cid.len() - 10..]),
        Some(cid) => cid.to_owned(),
    }
}

pub fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..COLUMNS).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::curio::Run;
    use super::*;

    fn sector() -> Sector {
        let run = |machine: &str, seconds| Run {
            state: "done".to_owned(),
            machine: Some(machine.to_owned()),
            attempts: 1,
            seconds,
            error: None,
            node: None,
        };
        Sector {
            miner: "f01000".to_owned(),
            number: 0,
            state: "proven".to_owned(),
            stage: "Done".to_owned(),
            precommit_cid: Some("bafy2bzacedyxvd3hpzrkkbxrwhphxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx".to_owned()),
            commit_cid: None,
            sealed_cid: None,
            failed_reason: None,
            failed_message: None,
            stages: vec![("SDR".to_owned(), run("sealing-0", 1.25)), ("PoRep".to_owned(), run("snark-0", 61.0))],
            files: Vec::new(),
        }
    }

    #[test]
    fn tables_fit_a_hundred_columns() {
        let text = format!("{}{}", sector_table(&[sector()]), stage_table(&[sector()]));
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
        assert!(text.contains("f01000:0  proven  bafy2bza..xxxxxxxxxx  -       1 min 02 s"), "{text}");
        assert!(text.contains("PoRep  snark-0"), "{text}");
    }

    #[test]
    fn a_sector_in_the_summary_has_its_stages_by_task() {
        let document = sector_document(&sector());
        assert_eq!(document["stages"]["PoRep"], json!({"machine": "snark-0", "attempts": 1, "seconds": 61.0}));
        assert_eq!(document["commit_cid"], Value::Null);
    }

    #[test]
    fn a_summary_in_a_missing_folder_is_refused_before_the_work() {
        let error = check_writable(Path::new("/no/such/folder/s.json")).expect_err("the folder is missing");
        assert!(error.to_string().contains("--summary /no/such/folder/s.json"), "{error}");
    }
}
