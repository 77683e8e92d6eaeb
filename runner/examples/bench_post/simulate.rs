//! `cargo xtask bench post --simulate`: what the planner says of a miner, as a table.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use clap::Args;
use curio_chain::types::DeadlineInfo;
use curio_core::{Epoch, SealProof};
use curio_runner::post::plan::{self, Faults, Load, Outcome, Pace};

#[derive(Args)]
pub struct Simulate {
    /// Raw power of the miner, PiB.
    #[arg(long, default_value_t = 10.0)]
    pib: f64,
    /// Numbers of runners to look at.
    #[arg(
        long,
        value_delimiter = ',',
        default_values_t = [1, 2, 4, 8, 16],
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    runners: Vec<u32>,
    /// GiB of a sector: 32 or 64.
    #[arg(long, default_value_t = 32)]
    sector_gib: u64,
    /// Milliseconds of one sector's vanilla proof, reads included.
    #[arg(long, default_value_t = 500)]
    read_ms: u64,
    /// Sectors that a runner reads at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    reads_at_once: u32,
    /// Seconds after which a sector that does not answer is given up.
    #[arg(long, default_value_t = 60)]
    read_limit_s: u64,
    /// Seconds of a partition's SNARK.
    #[arg(long, default_value_t = 300)]
    snark_s: u64,
    /// Partitions that a runner proves at once: its graphics devices.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    devices: u32,
    /// Share of the sectors that cannot be read.
    #[arg(long, default_value_t = 0.001)]
    bad_sectors: f64,
    /// Share of the attempts that die with their runner.
    #[arg(long, default_value_t = 0.01)]
    lost_attempts: f64,
    /// Seconds from the death of a runner to the next attempt.
    #[arg(long, default_value_t = 15)]
    takeover_s: u64,
    /// Epochs that a message needs to land.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(i64).range(0..))]
    landing_epochs: i64,
}

/// Length of an epoch of the public network.
const EPOCH: Duration = Duration::from_secs(30);
/// Most runners that are tried.
const MOST: u32 = 1024;
/// Most partitions of a message.
const PER_MESSAGE: usize = 3;

/// The first deadline of a proving period of the public network.
fn deadline() -> DeadlineInfo {
    DeadlineInfo::of_public_networks(Epoch(0), 0, Epoch(0))
}

pub fn run(asked: &Simulate) -> Result<()> {
    let proof = SealProof::of_sector_size(asked.sector_gib << 30)
        .filter(|proof| !proof.is_test_size())
        .ok_or_else(|| anyhow!("sectors have 32 or 64 GiB, not {}", asked.sector_gib))?;
    for share in [asked.bad_sectors, asked.lost_attempts] {
        ensure!((0.0..1.0).contains(&share), "{share} is not a share between 0 and 1");
    }
    ensure!(asked.pib > 0.0 && asked.pib <= 10_000.0, "{} PiB is not between 0 and 10000", asked.pib);
    let load = Load::of_miner((asked.pib * (1u64 << 50) as f64) as u64, proof, deadline().wpost_period_deadlines);
    let pace = Pace {
        read: Duration::from_millis(asked.read_ms),
        reads_at_once: asked.reads_at_once,
        read_limit: Duration::from_secs(asked.read_limit_s),
        snark: Duration::from_secs(asked.snark_s),
        partitions_at_once: asked.devices,
    };
    let faults = Faults {
        sectors: asked.bad_sectors,
        attempts: asked.lost_attempts,
        takeover: Duration::from_secs(asked.takeover_s),
    };
    let budget = plan::budget(&deadline(), asked.landing_epochs, EPOCH);

    println!(
        "{} PiB in sectors of {} GiB: {} sectors in {} partitions of each deadline, {} messages.",
        asked.pib,
        asked.sector_gib,
        load.sectors(),
        load.partitions.len(),
        load.messages(PER_MESSAGE),
    );
    println!("All proofs must be there {} after the challenge.\n", minutes(budget));
    println!("RUNNERS  LAST PROOF  WORST OF 1000   SPARE  IN TIME");
    for &runners in &asked.runners {
        row(&plan::outcome(&load, &pace, &faults, runners, budget), budget);
    }
    match plan::needed(&load, &pace, &faults, budget, MOST) {
        Some(outcome) => {
            println!("\nNeeded: {}", outcome.runners);
            row(&outcome, budget);
        }
        None => println!("\nNot even {MOST} runners are enough: a single partition takes too long."),
    }
    Ok(())
}

fn row(outcome: &Outcome, budget: Duration) {
    let Outcome { runners, usual, worst, in_time } = *outcome;
    let spare = budget.checked_sub(worst).map_or("none".to_owned(), minutes);
    println!("{runners:>7}  {:>10}  {:>13}  {spare:>6}  {:>6.2}%", minutes(usual), minutes(worst), in_time * 100.0);
}

/// Minutes and seconds.
fn minutes(time: Duration) -> String {
    let seconds = time.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}
