//! `cargo xtask bench scheduler`: the scheduler's six numbers, measured on the engine itself over a real
//! PostgreSQL with 30 task kinds, and the same work in the statement shapes of Curio's second generation.
//!
//! Reads `CURIO_TEST_DATABASE_URL`; the server must run on this machine, because its processor time is
//! read from `/proc`. Prints a table and, with `--json FILE`, writes one flat object. What each number
//! means is in the table.

mod busy;
mod counter;
mod idle;
mod kinds;
mod pickup;
mod rival;
mod server;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// Where to write the numbers as one flat JSON object.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Tasks in the busy measurement.
    #[arg(long, default_value_t = 20_000)]
    tasks: u32,
    /// Seconds of each latency and idle measurement.
    #[arg(long, default_value_t = 36)]
    seconds: u64,
    /// The busy measurement alone, for work on the engine.
    #[arg(long)]
    only_busy: bool,
}

/// One number: its name, its value, the bound it is held to, and what it means.
struct Number {
    name: &'static str,
    value: f64,
    bound: Option<Bound>,
    meaning: &'static str,
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Number {
    fn meets(&self) -> bool {
        match self.bound {
            None => true,
            Some(Bound::AtMost(bound)) => self.value <= bound,
            Some(Bound::AtLeast(bound)) => self.value >= bound,
        }
    }
}

fn main() -> Result<()> {
    counter::install();
    let Arguments { json, tasks, seconds, only_busy } = Arguments::parse();
    let began = Instant::now();
    if only_busy {
        let busy = quiet("busy", move || busy::measure(tasks)).join().expect("no panic")?;
        println!(
            "{:.2} statements per task, {:.0} tasks per database second",
            busy.statements_per_task, busy.tasks_per_db_second
        );
        return Ok(());
    }

    // The quiet measurements share the machine; each counts its own statements by its threads' name.
    eprintln!("idle machines and polling without hints, {seconds} s ...");
    let few = quiet("idle-3", move || idle::measure(3, seconds));
    let many = quiet("idle-30", move || idle::measure(30, seconds));
    let unhinted = quiet("unhinted", move || pickup::measure(pickup::Hints::Off, 1.0, 6, seconds));
    let idle_3 = few.join().expect("no panic")?;
    let idle_30 = many.join().expect("no panic")?;
    let unhinted = unhinted.join().expect("no panic")?;
    eprintln!("pickup with hints, {} s ...", seconds / 2);
    let hinted = quiet("hinted", move || pickup::measure(pickup::Hints::On, 20.0, 1, seconds / 2));
    let hinted = hinted.join().expect("no panic")?;
    eprintln!("a busy queue, {tasks} tasks ...");
    let busy = quiet("busy", move || busy::measure(tasks)).join().expect("no panic")?;
    eprintln!("the rival's statements, {} tasks ...", tasks / 4);
    let rival = quiet("rival", move || rival::measure(tasks / 4)).join().expect("no panic")?;

    let numbers = [
        Number {
            name: "statements_per_task",
            value: busy.statements_per_task,
            bound: Some(Bound::AtMost(2.1)),
            meaning: "all statements of a task's life: add (one, committing by itself), claim, completion; heartbeats too",
        },
        Number {
            name: "tasks_per_second_per_db_core",
            value: busy.tasks_per_db_second,
            bound: Some(Bound::AtLeast(2000.0)),
            meaning: "tasks added, claimed and completed per second of PostgreSQL's processor time, all its processes",
        },
        Number {
            name: "pickup_p50_ms",
            value: hinted.p50_ms,
            bound: Some(Bound::AtMost(20.0)),
            meaning: "commit of the add by another process to start of the run, 20/s Poisson, two machines",
        },
        Number { name: "pickup_p99_ms", value: hinted.p99_ms, bound: Some(Bound::AtMost(100.0)), meaning: "same" },
        Number {
            name: "pickup_p99_without_hints_ms",
            value: unhinted.p99_ms,
            bound: Some(Bound::AtMost(3200.0)),
            meaning: "same with no hint at all, six clusters of one machine, 1/s each",
        },
        Number {
            name: "idle_statements_per_second",
            value: idle_30,
            bound: Some(Bound::AtMost(0.5)),
            meaning: "one machine, 30 kinds, nothing to do; polls and heartbeats",
        },
        Number {
            name: "idle_statements_per_second_3_kinds",
            value: idle_3,
            bound: Some(Bound::AtMost(0.5)),
            meaning: "same with 3 kinds",
        },
        Number {
            name: "tasks_per_second",
            value: busy.tasks_per_second,
            bound: None,
            meaning: "wall clock of the busy measurement, four machines and eight adders on this machine",
        },
        Number {
            name: "pickup_p50_without_hints_ms",
            value: unhinted.p50_ms,
            bound: None,
            meaning: "median without hints",
        },
        Number {
            name: "claim_statements_per_task_pickup",
            value: hinted.looks_per_task,
            bound: None,
            meaning: "claims per task in the hinted pickup measurement, both machines",
        },
        Number {
            name: "rival_curio_g2_statements_per_task",
            value: rival.statements_per_task,
            bound: None,
            meaning: "Curio's per-kind polling: flag query, SELECT and claim for each kind, five for completion, three for add",
        },
        Number {
            name: "rival_curio_g2_tasks_per_second_per_db_core",
            value: rival.tasks_per_db_second,
            bound: None,
            meaning: "same work, same server, same run",
        },
        Number {
            name: "ratio_statements_rival_to_ours",
            value: rival.statements_per_task / busy.statements_per_task,
            bound: None,
            meaning: "how many times more statements the rival needs",
        },
        Number {
            name: "ratio_db_core_ours_to_rival",
            value: busy.tasks_per_db_second / rival.tasks_per_db_second,
            bound: None,
            meaning: "how many times more tasks a database core carries with ours",
        },
    ];
    let all_meet = report(&numbers);
    eprintln!("took {:.0} s", began.elapsed().as_secs_f64());
    if let Some(path) = json {
        let flat: BTreeMap<&str, f64> =
            numbers.iter().map(|number| (number.name, (number.value * 1000.0).round() / 1000.0)).collect();
        let text = serde_json::to_string_pretty(&flat).context("failed to write JSON")?;
        std::fs::write(&path, text + "\n").with_context(|| format!("failed to write {}", path.display()))?;
    }
    if !all_meet {
        eprintln!("a number misses its bound");
        std::process::exit(1);
    }
    Ok(())
}

/// Runs a measurement in a runtime whose threads carry `name`.
fn quiet<T, F, R>(name: &'static str, measure: F) -> std::thread::JoinHandle<Result<T>>
where
    T: Send + 'static,
    F: FnOnce() -> R + Send + 'static,
    R: Future<Output = Result<T>>,
{
    let body = move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(name)
            .enable_all()
            .build()
            .context("failed to start a runtime")?;
        runtime.block_on(measure())
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread can be started")
}

/// Prints the table; says whether all bounds are met.
fn report(numbers: &[Number]) -> bool {
    for number in numbers {
        let Number { name, value, bound, meaning } = number;
        let bound = match bound {
            None => String::new(),
            Some(Bound::AtMost(bound)) => format!("<= {bound}"),
            Some(Bound::AtLeast(bound)) => format!(">= {bound}"),
        };
        let verdict = if number.meets() { "" } else { "  MISSED" };
        println!("{name:<44} {value:>10.2}  {bound:<8}{verdict}");
        println!("    {meaning}");
    }
    numbers.iter().all(Number::meets)
}
