//! Live progress of the sectors: bars on a terminal, lines elsewhere.
//!
//! Asks about every open sector, at most once a second. A runner or the database that is away is no failure here: it may
//! be a person's test. What ends the watch is a failed sector, what the scene calls the end (such as a chain that is
//! gone), or a quarter of an hour in which no sector moved.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::curio::{STAGES, Sector, Started};
use super::summary::length;
use crate::{interrupt, say};

const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// Lines repeat themselves at this distance, so that a log shows that the demo is alive.
const BETWEEN_LINES: Duration = Duration::from_secs(30);
/// The longest stage is a SNARK, about a minute on two cores; this leaves room for a person's fault test.
const LONGEST_STANDSTILL: Duration = Duration::from_secs(15 * 60);

/// Sectors in the making, and those who make them.
pub trait Scene {
    /// What changed around the sectors since the last look: one line each.
    ///
    /// # Errors
    /// When nothing can go on.
    fn news(&mut self) -> Result<Vec<String>>;

    /// Where these sectors stand, in the same order.
    ///
    /// # Errors
    /// When that cannot be told now; it is asked again.
    fn sectors(&mut self, open: &[&Started]) -> Result<Vec<Sector>>;

    /// Writes down what is known so far.
    ///
    /// # Errors
    /// When that cannot be done now; it is tried again.
    fn record(&mut self, known: &[Sector]) -> Result<()>;
}

pub struct Watch<'a> {
    started: &'a [Started],
    seen: Vec<Option<Sector>>,
    since: Vec<Instant>,
    view: View,
}

impl<'a> Watch<'a> {
    pub fn new(started: &'a [Started]) -> Watch<'a> {
        let view = if say::on_terminal() { View::bars(started) } else { View::Lines { last: Instant::now() } };
        Watch { started, seen: vec![None; started.len()], since: vec![Instant::now(); started.len()], view }
    }

    /// Returns the sectors once all of them are proven.
    ///
    /// # Errors
    /// When a sector failed for good, the scene ended, or nothing moved for long.
    pub fn until_proven(mut self, scene: &mut impl Scene) -> Result<Vec<Sector>> {
        let began = Instant::now();
        let mut last_move = Instant::now();
        let mut answers = true;
        loop {
            for news in scene.news()? {
                self.view.say(&news);
            }
            match self.look(scene, began) {
                Ok(moved) => {
                    if moved {
                        last_move = Instant::now();
                    }
                    if !answers {
                        self.view.say("there are answers again");
                    }
                    answers = true;
                }
                Err(error) if error.is::<interrupt::Interrupted>() => return Err(error),
                Err(error) => {
                    if answers {
                        self.view.say(&format!("{error:#}; asking again"));
                    }
                    answers = false;
                }
            }
            let known: Vec<Sector> = self.seen.iter().flatten().cloned().collect();
            // The chain may answer late while the machine is busy; the last update, before the end, must succeed.
            if let Err(error) = scene.record(&known)
                && error.is::<interrupt::Interrupted>()
            {
                return Err(error);
            }
            if let Some(sector) = known.iter().find(|sector| sector.state == "failed") {
                bail!(
                    "sector {} failed: {} ({})",
                    sector.name(),
                    sector.failed_message.as_deref().unwrap_or("no message"),
                    sector.failed_reason.as_deref().unwrap_or("no reason")
                );
            }
            if known.len() == self.started.len() && known.iter().all(|sector| sector.state == "proven") {
                self.view.end();
                return Ok(known);
            }
            if last_move.elapsed() > LONGEST_STANDSTILL {
                bail!("no sector moved for {}", say::seconds(LONGEST_STANDSTILL));
            }
            interrupt::pause(BETWEEN_LOOKS)?;
        }
    }

    /// Asks about every open sector. True when one of them has moved.
    fn look(&mut self, scene: &mut impl Scene, began: Instant) -> Result<bool> {
        let is_open = |at: &usize| self.seen[*at].as_ref().is_none_or(|sector| sector.state != "proven");
        let open: Vec<usize> = (0..self.started.len()).filter(is_open).collect();
        let asked: Vec<&Started> = open.iter().map(|at| &self.started[*at]).collect();
        let mut moved = false;
        for (at, sector) in open.into_iter().zip(scene.sectors(&asked)?) {
            let before = self.seen[at].as_ref().map(Standing::of);
            let now = Standing::of(&sector);
            if before.as_ref() != Some(&now) {
                moved = true;
                self.since[at] = Instant::now();
                self.view.moved(at, self.seen[at].as_ref(), &sector, began.elapsed());
            }
            self.view.refresh(at, &sector, self.since[at].elapsed());
            self.seen[at] = Some(sector);
        }
        if self.view.is_line_due() {
            for (sector, since) in self.seen.iter().zip(&self.since) {
                if let Some(sector) = sector.as_ref().filter(|sector| sector.state != "proven") {
                    println!("      {}", self.line(sector, since.elapsed(), began.elapsed()));
                }
            }
        }
        Ok(moved)
    }

    fn line(&self, sector: &Sector, length: Duration, total: Duration) -> String {
        format!("{}  {}  {} for {}", clock(total), sector.name(), Standing::of(sector), say::seconds(length))
    }
}

/// What a person wants to know of a sector at one moment.
#[derive(PartialEq)]
struct Standing {
    stage: String,
    machine: Option<String>,
    retrying: Option<String>,
}

impl Standing {
    fn of(sector: &Sector) -> Standing {
        let run = sector.run(&sector.stage);
        Standing {
            stage: sector.stage.clone(),
            machine: run.filter(|run| run.state == "running").and_then(|run| run.machine.clone()),
            retrying: run.filter(|run| run.state == "retrying").and_then(|run| run.error.clone()),
        }
    }
}

impl std::fmt::Display for Standing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.stage.as_str(), &self.machine, &self.retrying) {
            ("WaitPreCommit", ..) => f.write_str("waiting for the precommit to land"),
            ("WaitSeed", ..) => f.write_str("waiting for the seed"),
            ("WaitCommit", ..) => f.write_str("waiting for the commit to land"),
            (stage, Some(machine), _) => write!(f, "{stage} on {machine}"),
            (stage, None, Some(error)) => write!(f, "{stage} is tried again: {error}"),
            (stage, None, None) => write!(f, "{stage} waits"),
        }
    }
}

/// `3:05` since the sealing began.
fn clock(length: Duration) -> String {
    format!("{:>2}:{:02}", length.as_secs() / 60, length.as_secs() % 60)
}

/// How far a sector is: stages behind it.
fn place(sector: &Sector) -> u64 {
    if sector.state == "proven" {
        return STAGES.len() as u64;
    }
    STAGES.iter().position(|stage| *stage == sector.stage).unwrap_or(0) as u64
}

enum View {
    Lines { last: Instant },
    Bars { all: MultiProgress, sectors: Vec<ProgressBar> },
}

impl View {
    fn bars(started: &[Started]) -> View {
        let all = MultiProgress::new();
        let style = ProgressStyle::with_template("      {prefix:12} [{bar:20}] {pos:>2}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        let sectors = started.iter().map(|sector| {
            let bar = all.add(ProgressBar::new(STAGES.len() as u64).with_style(style.clone()));
            bar.set_prefix(format!("{}:{}", sector.miner, sector.number));
            bar
        });
        let sectors = sectors.collect();
        View::Bars { all, sectors }
    }

    fn say(&mut self, text: &str) {
        match self {
            View::Lines { .. } => println!("      {text}"),
            // A line above the bars; when the terminal is gone there is nobody to tell.
            View::Bars { all, .. } => drop(all.println(format!("      {text}"))),
        }
    }

    /// Stages that ended since the last look, and the one that runs now: one line each.
    fn moved(&mut self, _at: usize, before: Option<&Sector>, now: &Sector, total: Duration) {
        let View::Lines { last } = self else { return };
        *last = Instant::now();
        for (stage, run) in now.stages.iter().filter(|(_, run)| run.state == "done") {
            let known = before.and_then(|sector| sector.run(stage)).is_some_and(|run| run.state == "done");
            if !known {
                let machine = run.machine.as_deref().unwrap_or("?");
                println!(
                    "      {}  {}  {stage} done on {machine} in {}",
                    clock(total),
                    now.name(),
                    length(run.seconds)
                );
            }
        }
        if now.state == "proven" {
            println!("      {}  {}  proven", clock(total), now.name());
        } else {
            println!("      {}  {}  {}", clock(total), now.name(), Standing::of(now));
        }
    }

    fn refresh(&mut self, at: usize, sector: &Sector, length: Duration) {
        let View::Bars { sectors, .. } = self else { return };
        let Some(bar) = sectors.get(at) else { return };
        bar.set_position(place(sector));
        if sector.state == "proven" {
            bar.finish_with_message("proven");
        } else {
            bar.set_message(format!("{}, {}", Standing::of(sector), say::seconds(length)));
        }
    }

    fn is_line_due(&mut self) -> bool {
        let View::Lines { last } = self else { return false };
        let due = last.elapsed() >= BETWEEN_LINES;
        if due {
            *last = Instant::now();
        }
        due
    }

    fn end(&mut self) {
        if let View::Bars { sectors, .. } = self {
            sectors.iter().for_each(ProgressBar::tick);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sector(stage: &str, run: serde_json::Value) -> Sector {
        let document = json!({
            "miner": "f01000", "number": 0, "state": "sealing", "stage": stage,
            "stages": {stage: run}, "files": [],
        });
        serde_json::from_value(document).expect("it has the shape of a status")
    }

    #[test]
    fn a_standing_names_stage_machine_and_trouble() {
        let runs = [
            ("SDR", json!({"state": "running", "machine": "sealing-0"}), "SDR on sealing-0"),
            ("PoRep", json!({"state": "pending"}), "PoRep waits"),
            ("PoRep", json!({"state": "retrying", "error": "no room"}), "PoRep is tried again: no room"),
        ];
        for (stage, run, text) in runs {
            assert_eq!(Standing::of(&sector(stage, run)).to_string(), text);
        }
    }

    #[test]
    fn a_sector_further_down_the_pipeline_is_further_on_its_bar() {
        let at = |stage| place(&sector(stage, json!({"state": "running"})));
        assert!(at("SDR") < at("PoRep") && at("PoRep") < at("CommitSubmit"));
    }
}
