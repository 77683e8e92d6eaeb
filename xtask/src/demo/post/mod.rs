//! `cargo xtask demo --post`: after the sealing, one whole proving period with faults.
//!
//! A sealed file is damaged and healed, and a runner is killed in the middle of a proof. What is told at the end is what
//! the chain says, asked by plain HTTP: which partitions of which deadlines were proven, which sector was faulty and
//! recovered, and which blocks are ours.

mod chain;
mod damage;
mod record;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use self::chain::{Period, Sectors, View, blocks_of};
use self::damage::Damaged;
use self::record::{Outcome, Record, deadline_table, list};
use super::cluster::Cluster;
use super::curio::Sector;
use super::summary::{count, table};
use crate::say::Steps;
use crate::{interrupt, say};

/// Runners that prove and mine, and keep no files.
pub const PROVERS: [&str; 2] = ["post-0", "post-1"];

/// How the chain of this demo passes: a proving period of 72 epochs of one second, 32 of them from a challenge to the
/// close of its deadline, and miners that are waited for: a winning PoSt takes this machine 6 s or more. The others'
/// power makes us win about one epoch in forty.
pub const PACE: [&str; 16] = [
    "--block-time",
    "1s",
    "--deadlines",
    "3",
    "--challenge-window",
    "24",
    "--challenge-lookback",
    "8",
    "--fault-cutoff",
    "12",
    "--winning-lookback",
    "10",
    "--miner-patience",
    "30s",
    "--other-power",
    "819200",
];

const BETWEEN_LOOKS: Duration = Duration::from_millis(250);
/// Longest wait for any one event; a period takes two minutes.
const LONGEST_WAIT: Duration = Duration::from_secs(8 * 60);

/// What the chain said in the end.
pub struct Told {
    outcomes: Vec<Outcome>,
    blocks: Vec<i64>,
    killed: Killed,
}

/// A runner that was killed in a proof.
struct Killed {
    runner: &'static str,
    /// From the kill to the next attempt, in seconds.
    takeover_s: f64,
}

impl Told {
    fn missed(&self) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.missed()).count()
    }

    fn all(&self, of: impl Fn(&Outcome) -> Sectors) -> Sectors {
        self.outcomes.iter().flat_map(of).collect()
    }

    /// For the summary.
    pub fn document(&self) -> Value {
        json!({
            "deadlines_missed": self.missed(),
            "faulted": self.all(Outcome::faulted).len(),
            "recovered": self.all(Outcome::recovered).len(),
            "blocks_included": self.blocks.len(),
            "killed": self.killed.runner,
            "takeover_s": self.killed.takeover_s,
        })
    }

    pub fn tables(&self) -> String {
        let mut rows = vec![["PROOFS", "MISSED", "FAULTED", "RECOVERED", "BLOCKS", "AT EPOCHS"].map(str::to_owned)];
        let epochs: Vec<String> = self.blocks.iter().map(i64::to_string).collect();
        rows.push([
            (self.outcomes.len() - self.missed()).to_string(),
            self.missed().to_string(),
            list(&self.all(Outcome::faulted)),
            list(&self.all(Outcome::recovered)),
            self.blocks.len().to_string(),
            epochs.join(","),
        ]);
        format!("{}\n{}", deadline_table(&self.outcomes), table(&rows))
    }
}

/// # Errors
/// When a partition was not proven, the damaged sector was not faulty and then recovered, no block is ours, or one of
/// these takes too long.
pub fn live(steps: &Steps, cluster: &mut Cluster, sectors: &[Sector]) -> Result<Told> {
    let Some(victim) = sectors.last() else { bail!("no sector was sealed") };
    let miner = victim.miner.clone();
    let numbers: Sectors = sectors.iter().map(|sector| sector.number).collect();

    let mut life = Life { steps, cluster, miner, record: None };
    life.until("the first proof of every sector", |view, _| {
        let active: Sectors = view.all_partitions()?.into_values().flat_map(|partition| partition.active).collect();
        Ok(numbers.is_subset(&active))
    })?;
    let period = life.period()?;
    life.steps.note(&format!(
        "{} proven for the first time, by epoch {}",
        count(numbers.len() as u64, "sector"),
        period.now
    ));
    life.record = Some(Record::from_next(period));

    let damaged = Damaged::by_overwriting(victim)?;
    life.steps.note(&format!("damaged {}, the sealed file of {}", damaged.path().display(), victim.name()));
    let only: Sectors = [victim.number].into();
    life.until("the damaged sector to be faulty", |view, _| Ok(view.faulty()? == only))?;
    life.steps.note("the chain holds it faulty; the others of its partition were proven without it");

    damaged.heal()?;
    life.steps.note("healed the file");
    life.until("its recovery to be declared", |view, _| Ok(view.recovering()? == only))?;
    life.steps.note("its recovery is declared");

    let killed = life.kill_in_a_proof()?;
    life.steps
        .note(&format!("killed {} in a proof; the other took over after {:.1} s", killed.runner, killed.takeover_s));
    life.until("the damaged sector to be well again", |view, _| Ok(view.faulty()?.is_empty()))?;
    let recovered = life.period()?;
    // Its deadline has to be over for the record.
    let over = recovered.current().close;
    life.until("the end of its deadline", |view, _| Ok(view.height > over))?;
    let began = life.begins();
    life.until("a block of ours", |view, life| {
        Ok(!blocks_of(life.cluster.chain()?, &life.miner, began, view.height)?.is_empty())
    })?;
    life.told(&only, killed)
}

struct Life<'a> {
    steps: &'a Steps,
    cluster: &'a mut Cluster,
    miner: String,
    /// Once every sector was proven for the first time.
    record: Option<Record>,
}

impl Life<'_> {
    fn view(&self) -> Result<View<'_>> {
        View::of_head(self.cluster.chain()?, &self.miner)
    }

    fn period(&self) -> Result<Period> {
        self.view()?.period()
    }

    fn begins(&self) -> i64 {
        self.record.as_ref().map_or(0, Record::begins)
    }

    /// Waits, and says what became of each deadline meanwhile.
    fn until(&mut self, what: &str, mut is_so: impl FnMut(&View<'_>, &Life<'_>) -> Result<bool>) -> Result<()> {
        let due_by = Instant::now() + LONGEST_WAIT;
        loop {
            self.look()?;
            let view = self.view()?;
            if is_so(&view, self)? {
                return Ok(());
            }
            if Instant::now() > due_by {
                bail!("waited {} for {what}, up to epoch {}", say::seconds(LONGEST_WAIT), view.height);
            }
            interrupt::pause(BETWEEN_LOOKS)?;
        }
    }

    fn look(&mut self) -> Result<()> {
        for news in self.cluster.look() {
            self.steps.note(&news);
        }
        self.cluster.check_chain()?;
        let head = self.view()?.height;
        let Some(record) = &mut self.record else { return Ok(()) };
        for outcome in record.follow(self.cluster.chain()?, &self.miner, head)? {
            self.steps.note(&sentence(&outcome));
        }
        Ok(())
    }

    /// Kills the runner that works on the next window PoSt, starts it again, and waits for another one to take over.
    fn kill_in_a_proof(&mut self) -> Result<Killed> {
        let due_by = Instant::now() + LONGEST_WAIT;
        let (task, runner) = loop {
            if let Some(found) = self.cluster.curio()?.working_on("WdPost")?
                && let Some(runner) = PROVERS.iter().find(|name| found.machine.as_deref() == Some(**name))
            {
                break (found.task_id, *runner);
            }
            if Instant::now() > due_by {
                bail!("no window PoSt was worked on for {}", say::seconds(LONGEST_WAIT));
            }
            self.look()?;
            interrupt::pause(Duration::from_millis(50))?;
        };
        self.cluster.kill_runner(runner)?;
        let killed_at = Instant::now();
        loop {
            let workers = self.cluster.curio()?.workers_of(task)?;
            if workers.iter().any(|machine| machine != runner) {
                break;
            }
            if killed_at.elapsed() > LONGEST_WAIT {
                bail!("nobody took over the proof of {runner}, which was killed {} ago", say::seconds(LONGEST_WAIT));
            }
            self.look()?;
            interrupt::pause(Duration::from_millis(50))?;
        }
        let takeover_s = killed_at.elapsed().as_secs_f64();
        self.cluster.restart_runner(runner)?;
        Ok(Killed { runner, takeover_s })
    }

    fn told(&mut self, victim: &Sectors, killed: Killed) -> Result<Told> {
        let Some(record) = self.record.take() else { bail!("nothing was recorded") };
        let blocks = blocks_of(self.cluster.chain()?, &self.miner, record.begins(), self.view()?.height)?;
        let told = Told { outcomes: record.outcomes, blocks, killed };
        let (faulted, recovered) = (told.all(Outcome::faulted), told.all(Outcome::recovered));
        let mut wrong = String::new();
        if told.missed() > 0 {
            write!(wrong, "{} not proven; ", count(told.missed() as u64, "partition"))?;
        }
        if &faulted != victim || &recovered != victim {
            write!(wrong, "faulty were {} and recovered {}, not {}; ", list(&faulted), list(&recovered), list(victim))?;
        }
        if !wrong.is_empty() {
            bail!("{}\n{}", wrong.trim_end_matches("; "), told.tables());
        }
        Ok(told)
    }
}

fn sentence(outcome: &Outcome) -> String {
    let Outcome { slot, partition, due, proven, .. } = outcome;
    let mut said = format!(
        "deadline {} (epochs {} to {}), partition {partition}: {}",
        slot.index,
        slot.open,
        slot.close - 1,
        if *proven { format!("proven, sectors {}", list(due)) } else { "not proven".to_owned() }
    );
    let (faulted, recovered) = (outcome.faulted(), outcome.recovered());
    if !faulted.is_empty() {
        said += &format!(", faulty {}", list(&faulted));
    }
    if !recovered.is_empty() {
        said += &format!(", recovered {}", list(&recovered));
    }
    said
}
