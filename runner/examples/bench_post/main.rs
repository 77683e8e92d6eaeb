//! `cargo xtask bench post`: how soon deadline work begins, how soon a dead machine's is taken over, and what a won
//! election costs beside its proof. Measured on the real engine, the `curio` program, PostgreSQL and the embedded chain.
//!
//! Reads `CURIO_TEST_DATABASE_URL`. Prints a table and, with `--json FILE`, writes one flat object. With `simulate`
//! nothing is measured: it asks the planner how many runners a miner needs.

mod blocked;
mod claim;
mod machine;
mod number;
mod simulate;
mod takeover;
mod win;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use self::number::{Number, percentile};
use self::world::World;

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure.
    Measure(Measure),
    /// Say how many runners a miner's deadlines need.
    Simulate(simulate::Simulate),
    /// Be a machine that another process of this program kills.
    #[command(hide = true)]
    Machine(machine::MachineArguments),
}

#[derive(clap::Args)]
struct Measure {
    /// Where to write the numbers as one flat JSON object.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The program `curio`; it lies beside this one's folder.
    #[arg(long)]
    curio: Option<PathBuf>,
    /// Seconds of each measurement that goes on for a while.
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// Tasks that wait for room or files while deadline work comes.
    #[arg(long, default_value_t = 50_000)]
    backlog: u32,
}

fn main() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("failed to start a runtime")?;
    match Arguments::parse().command {
        Command::Measure(measure) => runtime.block_on(run(measure)),
        Command::Simulate(simulate) => simulate::run(&simulate),
        Command::Machine(machine) => runtime.block_on(machine::be(machine)),
    }
}

async fn run(arguments: Measure) -> Result<()> {
    let Measure { json, curio, seconds, backlog } = arguments;
    let began = Instant::now();
    let curio = curio.map_or_else(beside_us, Ok)?;
    let mut numbers = Vec::new();
    eprintln!("deadline work beside {backlog} tasks that wait, {seconds} s ...");
    let mut pickup = blocked::measure(backlog, seconds).await?;
    numbers.push(Number {
        name: "deadline_pickup_p99_ms",
        value: percentile(&mut pickup, 0.99) * 1000.0,
        meaning: "from the commit of a deadline task by another process to its start, behind the waiting tasks",
        samples: pickup.len(),
    });
    eprintln!("machines that are killed ...");
    let mut takeover = takeover::measure().await?;
    numbers.push(Number {
        name: "takeover_s",
        value: percentile(&mut takeover, 1.0),
        meaning: "from kill -9 of the process that runs a deadline task to its second attempt elsewhere; the longest",
        samples: takeover.len(),
    });
    eprintln!("sectors to prove ...");
    let world = World::new(&curio).await?;
    // The first windows come first: a sector has no power, and wins nothing, before it was proven in one.
    eprintln!("windows, {} s ...", 2 * seconds);
    let mut claim = claim::measure(&world, 2 * seconds).await?;
    numbers.push(Number {
        name: "claim_after_challenge_p99_s",
        value: percentile(&mut claim, 0.99),
        meaning: "from the head that reaches a deadline's challenge to the start of a partition's proof",
        samples: claim.len(),
    });
    eprintln!("elections, {seconds} s ...");
    let mut win = win::measure(&world, seconds).await?;
    numbers.push(Number {
        name: "win_overhead_s",
        value: percentile(&mut win, 0.99),
        meaning: "from the choice of a base to the stored, signed block; the proof is simulated, its process is not",
        samples: win.len(),
    });
    number::print(&numbers);
    eprintln!("took {:.0} s", began.elapsed().as_secs_f64());
    if let Some(path) = json {
        number::write(&path, &numbers)?;
    }
    Ok(())
}

/// `target/debug/curio`, for this program in `target/debug/examples`.
fn beside_us() -> Result<PathBuf> {
    let ours = std::env::current_exe().context("failed to find this program")?;
    let folder = ours.parent().and_then(|examples| examples.parent()).context("this program lies nowhere")?;
    Ok(folder.join("curio"))
}
