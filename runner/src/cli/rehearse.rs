//! `curio test`: makes proofs of spacetime now, with the files, the machines and the parameters that the real ones
//! would be made with, and sends nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use curio_chain::types::Partition;
use curio_core::{Epoch, Failure, SpId};
use curio_proofs::Snark;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::args::{NameArgs, machine_name};
use super::miner::{MinerArgs, MinerView, Site};
use super::output::{Output, Table, number, properties, text, took};
use super::{CliError, Database};
use crate::chain_sched::Fence;
use crate::deps::{Chance, Deps, Network};
use crate::parameters::Parameters;
use crate::post::counters::PostCounters;
use crate::post::window::prove::{PartitionProof, Patience, Target, ask, prove};
use crate::post::window::select::to_prove;
use crate::post::winning::rehearse::{Rehearsal, Tools, rehearse};
use crate::prove::Prover;
use crate::seal::counters::Counters;
use crate::seal::fault_pause::FaultPause;
use crate::settings::{self, Process};
use crate::storage::{Storage, StorageOptions, StorageTiming};

#[derive(Debug, Subcommand)]
pub(super) enum TestCommand {
    /// Prove partitions of a deadline as their next window would ask, verify the proofs, and send nothing.
    ///
    /// Sector files are read where they lie, by the runners that hold them; the SNARK is made by this process,
    /// which needs the proof parameters of window PoSt.
    WindowPost(WindowPostArgs),
    /// Hold the election of the next epoch, make the winning PoSt that a block would need, and send nothing.
    WinningPost(WinningPostArgs),
}

#[derive(Debug, Args)]
pub(super) struct WindowPostArgs {
    #[command(flatten)]
    miner: MinerArgs,
    /// Number of the deadline, from 0. Default: the next one that has sectors to prove.
    #[arg(long)]
    deadline: Option<u64>,
    /// Number of the partition, from 0. Default: all of the deadline.
    #[arg(long)]
    partition: Option<u64>,
    #[command(flatten)]
    name: NameArgs,
}

#[derive(Debug, Args)]
pub(super) struct WinningPostArgs {
    #[command(flatten)]
    miner: MinerArgs,
    #[command(flatten)]
    name: NameArgs,
}

pub(super) async fn execute(place: &Database, output: Output, command: TestCommand) -> Result<(), CliError> {
    match command {
        TestCommand::WindowPost(args) => window_post(place, output, &args).await,
        TestCommand::WinningPost(args) => winning_post(place, output, &args).await,
    }
}

/// What became of one partition.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct PartitionResult {
    deadline: u64,
    partition: u64,
    challenge_epoch: i64,
    proven_sectors: Vec<u64>,
    /// Sectors that cannot be read, and why.
    skipped_sectors: Vec<Skipped>,
    /// Why there is no proof at all.
    problem: Option<String>,
    seconds: f64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Skipped {
    number: u64,
    why: String,
}

async fn window_post(place: &Database, output: Output, args: &WindowPostArgs) -> Result<(), CliError> {
    let site = Site::open(place, &args.miner.layers).await?;
    let sp = site.miner(args.miner.actor).await?;
    let view = MinerView::load(&site.chain, sp).await?;
    let deadline = match args.deadline {
        Some(deadline) => deadline,
        None => next_with_sectors(&site, &view).await?,
    };
    let partitions = partitions(&site, &view, deadline, args.partition).await?;
    let deps = deps(site, &args.name).await?;
    let mut results = Vec::with_capacity(partitions.len());
    for partition in partitions {
        results.push(one_partition(&deps, &view, deadline, partition).await);
    }
    output.show(&results, || window_page(&results));
    match results.iter().all(|result| result.problem.is_none() && result.skipped_sectors.is_empty()) {
        true => Ok(()),
        false => Err(CliError::refused("not every sector could be proven; the window would make the rest faulty")),
    }
}

/// The deadline whose window comes next and has something to prove.
async fn next_with_sectors(site: &Site, view: &MinerView) -> Result<u64, CliError> {
    let partitions = view.all_partitions(&site.chain).await?;
    let has_sectors = |partitions: &[Partition]| partitions.iter().any(|partition| !to_prove(partition).is_empty());
    let due = (0..).zip(&partitions).filter(|(_, partitions)| has_sectors(partitions)).map(|(index, _)| index);
    let next = due.min_by_key(|index| view.window(*index).open);
    next.ok_or_else(|| CliError::refused(format!("{} has no sector to prove", view.sp)))
}

/// The partitions to prove, checked against the chain.
async fn partitions(site: &Site, view: &MinerView, deadline: u64, wanted: Option<u64>) -> Result<Vec<u64>, CliError> {
    let last = view.deadline.wpost_period_deadlines.saturating_sub(1);
    if deadline > last {
        return Err(CliError::refused(format!("there is no deadline {deadline}; deadlines are 0 to {last}")));
    }
    let count = view.partitions(&site.chain, deadline).await?.len() as u64;
    match wanted {
        _ if count == 0 => Err(CliError::refused(format!("deadline {deadline} of {} has no sectors", view.sp))),
        Some(partition) if partition >= count => Err(CliError::refused(format!(
            "deadline {deadline} has no partition {partition}; its partitions are 0 to {}",
            count - 1
        ))),
        Some(partition) => Ok(vec![partition]),
        None => Ok((0..count).collect()),
    }
}

async fn one_partition(deps: &Deps, view: &MinerView, deadline: u64, partition: u64) -> PartitionResult {
    let started = Instant::now();
    // Before its challenge is reached, the window is rehearsed with the newest randomness there is.
    let head = view.head.height;
    let challenge = view.window(deadline).challenge.min(head);
    let target = Target { sp: view.sp, deadline, partition, challenge };
    let outcome = make(deps, view, target, head).await;
    let seconds = started.elapsed().as_secs_f64();
    let result = PartitionResult {
        deadline,
        partition,
        challenge_epoch: challenge.0,
        proven_sectors: Vec::new(),
        skipped_sectors: Vec::new(),
        problem: None,
        seconds,
    };
    match outcome {
        Ok(None) => result,
        Ok(Some(proof)) => PartitionResult {
            proven_sectors: proof.proven,
            skipped_sectors: proof.skipped.into_iter().map(|(number, why)| Skipped { number, why }).collect(),
            ..result
        },
        Err(failure) => PartitionResult { problem: Some(failure.to_string()), ..result },
    }
}

/// The verified proof; none for a partition with nothing to prove.
async fn make(deps: &Deps, view: &MinerView, target: Target, head: Epoch) -> Result<Option<PartitionProof>, Failure> {
    let question = ask(deps, target, view.key()).await?;
    if question.sectors.is_empty() {
        return Ok(None);
    }
    // Whoever tries it out wants to know what is wrong now: nothing is tried again.
    let patience = Patience { until: head, close: view.window(target.deadline).close };
    prove(deps, &question, patience, &CancellationToken::new()).await.map(Some)
}

fn window_page(results: &[PartitionResult]) -> String {
    let mut table = Table::new([
        number("DEADLINE"),
        number("PARTITION"),
        number("CHALLENGE"),
        number("PROVEN"),
        number("SKIPPED"),
        number("TIME"),
        text("RESULT").shrinks_to(20),
    ]);
    for result in results {
        let (proven, skipped) = (result.proven_sectors.len(), result.skipped_sectors.len());
        let word = match (&result.problem, proven, skipped) {
            (Some(problem), _, _) => problem.as_str(),
            (None, 0, 0) => "nothing to prove",
            (None, _, 0) => "proven and verified",
            (None, _, _) => "proven without the skipped ones",
        };
        table.row([
            result.deadline.to_string(),
            result.partition.to_string(),
            result.challenge_epoch.to_string(),
            proven.to_string(),
            skipped.to_string(),
            took(result.seconds),
            word.to_owned(),
        ]);
    }
    let mut out = table.render("nothing to prove");
    for skipped in results.iter().flat_map(|result| &result.skipped_sectors) {
        out.push_str(&format!("sector {}: {}\n", skipped.number, skipped.why));
    }
    out
}

async fn winning_post(place: &Database, output: Output, args: &WinningPostArgs) -> Result<(), CliError> {
    let site = Site::open(place, &args.miner.layers).await?;
    let sp = site.miner(args.miner.actor).await?;
    let deps = deps(site, &args.name).await?;
    let tools = Tools {
        storage: &deps.storage,
        prover: &deps.prover,
        snark: deps.snark,
        proving: &deps.config.proving,
        block_delay: deps.network.block_delay,
    };
    let rehearsal = rehearse(&deps.chain, tools, sp, &CancellationToken::new()).await?;
    let result = winning_result(sp, &rehearsal, deps.network.block_delay);
    output.show(&result, || winning_page(&result));
    Ok(())
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct WinningResult {
    miner: SpId,
    round: i64,
    /// Bytes, quality-adjusted.
    miner_power: String,
    network_power: String,
    eligible: bool,
    /// How often the block would count; 0 when the election is lost.
    win_count: i64,
    sectors: Vec<u64>,
    seconds: f64,
    block_delay_s: u64,
    /// Whether the block would have been in time.
    in_time: bool,
}

fn winning_result(miner: SpId, rehearsal: &Rehearsal, block_delay: Duration) -> WinningResult {
    let Rehearsal { round, miner_power, network_power, eligible, win_count, sectors, took } = rehearsal;
    WinningResult {
        miner,
        round: round.0,
        miner_power: miner_power.to_string(),
        network_power: network_power.to_string(),
        eligible: *eligible,
        win_count: *win_count,
        sectors: sectors.clone(),
        seconds: took.as_secs_f64(),
        block_delay_s: block_delay.as_secs(),
        in_time: *took < block_delay,
    }
}

fn winning_page(result: &WinningResult) -> String {
    let election = match (result.eligible, result.win_count) {
        (false, _) => "the chain would take no block of this miner now".to_owned(),
        (true, 0) => "lost; the proof was made all the same".to_owned(),
        (true, wins) => format!("won, counting {wins}"),
    };
    let sectors: Vec<String> = result.sectors.iter().map(u64::to_string).collect();
    let late = if result.in_time { "in time" } else { "too late for a block" };
    properties(&[
        ("Miner", result.miner.to_string()),
        ("Epoch", result.round.to_string()),
        ("Election", election),
        ("Power", format!("{} of {} bytes", result.miner_power, result.network_power)),
        ("Sectors proven", sectors.join(", ")),
        ("Time", format!("{}, {late}: epochs take {} s", took(result.seconds), result.block_delay_s)),
    ])
}

/// The parts that proofs are made with, as a runner of this name has them. This process takes no task and
/// registers nothing.
async fn deps(site: Site, name: &NameArgs) -> Result<Deps, CliError> {
    let Site { db, chain, config } = site;
    let machine = machine_name(name.name.as_deref()).map_err(CliError::refused)?;
    let secret = settings::storage_secret(&config, &Process)?;
    let options = StorageOptions { machine: machine.clone(), secret, timing: StorageTiming::default() };
    let network = Network::learn(&chain).await?;
    let prover: Prover = settings::prover()?;
    Ok(Deps {
        fence: Fence::new(db.clone(), &network.name, config.chain.max_gap_epochs.into()),
        storage: Storage::new(db.clone(), options),
        db,
        chain,
        prover,
        config: Arc::new(config),
        network,
        machine: machine.into(),
        chance: Chance::system(),
        snark: Snark::Real,
        parameters: Parameters::new(curio_proofs::params::default_dir(), None, Vec::new()),
        http: reqwest::Client::new(),
        counters: Arc::new(Counters::default()),
        post_counters: Arc::new(PostCounters::default()),
        fault_pause: FaultPause::from_env(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> PartitionResult {
        PartitionResult {
            deadline: 3,
            partition: 0,
            challenge_epoch: 900,
            proven_sectors: vec![4],
            skipped_sectors: vec![Skipped { number: 5, why: "the sealed file is 100 bytes short".to_owned() }],
            problem: None,
            seconds: 2.9,
        }
    }

    #[test]
    fn a_skipped_sector_is_named_with_its_reason() {
        let page = window_page(&[result()]);
        assert!(page.contains("proven without the skipped ones"), "{page}");
        assert!(page.ends_with("sector 5: the sealed file is 100 bytes short\n"), "{page}");
    }

    #[test]
    fn a_partition_without_a_proof_says_why() {
        let failed = PartitionResult {
            proven_sectors: Vec::new(),
            skipped_sectors: Vec::new(),
            problem: Some("the window parameters are missing".to_owned()),
            ..result()
        };
        assert!(window_page(&[failed]).contains("the window parameters are missing"));
    }

    #[test]
    fn a_proof_that_takes_longer_than_an_epoch_is_too_late() {
        let rehearsal = Rehearsal {
            round: Epoch(7),
            miner_power: 2048.into(),
            network_power: 4096.into(),
            eligible: true,
            win_count: 2,
            sectors: vec![1],
            took: Duration::from_secs(31),
        };
        let late = winning_result(SpId(1000), &rehearsal, Duration::from_secs(30));
        assert!(winning_page(&late).contains("31.0s, too late for a block"), "{}", winning_page(&late));
        assert!(winning_page(&late).contains("won, counting 2"));
    }
}
