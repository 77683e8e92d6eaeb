//! The commands: running a chain, and making a miner on one.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, Parser, Subcommand};
use curio_chain::{Client, ClientOptions, Endpoint};
use curio_core::SealProof;
use curio_devnet::create_miner::create_miner;
use curio_devnet::{Clock, Devnet, FixedToken, Options, PostPolicy, WINNING_LOOKBACK, patience, ready};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

/// A Filecoin chain in one process, for demos and tests. It is a stand-in for a chain and no real
/// network: one process makes all blocks, nothing is kept when it ends, its keys follow from a seed.
/// Every proof in a message is verified by the proof library.
#[derive(Parser)]
#[command(version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a chain and serve Lotus JSON-RPC until a signal comes.
    Run(Box<Run>),
    /// Make a miner with a funded BLS worker by a node's RPC, and print it as JSON.
    CreateMiner(CreateMiner),
}

#[derive(Args)]
struct Run {
    /// Where the API listens; port 0 takes any free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    api: SocketAddr,
    /// Time between epochs, such as 250ms or 4s; or `manual`: POST /control/advance?epochs=N.
    #[arg(long, default_value = "1s")]
    block_time: Clock,
    /// Keys, tickets and ids follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder of the proof parameters; verifying keys of 2 KiB sectors are made there when missing.
    #[arg(long)]
    params_dir: Option<PathBuf>,
    /// Sector sizes that miners may have (2KiB, 8MiB, 512MiB, 32GiB, 64GiB).
    #[arg(long, value_delimiter = ',', default_value = "2KiB", value_parser = sector_size)]
    sector_sizes: Vec<SealProof>,
    #[arg(long, default_value = "curio-devnet-2k")]
    network_name: String,
    /// Seconds since 1970 at epoch 0; now, when it is not given.
    #[arg(long)]
    genesis_timestamp: Option<u64>,
    /// Make a miner with sectors of this size once the chain runs, before /readyz says that it is ready.
    /// On a chain that has just started, with the same seed, it has the same id each time.
    #[arg(long, value_name = "SIZE", value_parser = sector_size)]
    create_miner: Option<SealProof>,
    /// A token with all permissions, of 16 characters or more, instead of one made up at each start.
    #[arg(long, env = "CURIO_DEVNET_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    token: Option<FixedToken>,
    /// File with that token.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Written once the chain serves, in one step: url, token (admin), default_address, genesis, miner as JSON.
    #[arg(long)]
    ready_file: Option<PathBuf>,
    /// End when the process that started this one ends.
    #[arg(long)]
    die_with_parent: bool,
    #[command(flatten)]
    proving: Proving,
}

/// When sectors are proven, and who wins blocks. The defaults are those of real networks.
#[derive(Args)]
struct Proving {
    /// Deadlines of a proving period.
    #[arg(long, default_value_t = PostPolicy::default().deadlines)]
    deadlines: u64,
    /// Epochs for which a deadline is open; a proving period is that many for each deadline.
    #[arg(long, value_name = "EPOCHS", default_value_t = PostPolicy::default().challenge_window)]
    challenge_window: i64,
    /// Epochs before its opening at which the randomness of a deadline is drawn.
    #[arg(long, value_name = "EPOCHS", default_value_t = PostPolicy::default().challenge_lookback)]
    challenge_lookback: i64,
    /// Epochs before its opening from which faults of a deadline cannot be declared any more.
    #[arg(long, value_name = "EPOCHS", default_value_t = PostPolicy::default().fault_cutoff)]
    fault_cutoff: i64,
    /// Leave window PoSts that do not hold undisputed.
    #[arg(long)]
    no_disputes: bool,
    /// Epochs between the state by which a miner takes part in an election and the block.
    #[arg(long, value_name = "EPOCHS", default_value_t = WINNING_LOOKBACK)]
    winning_lookback: i64,
    /// How long an epoch in which a miner wins waits for that miner's block, such as 20s. Block time in whole seconds.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = patience)]
    miner_patience: Duration,
    /// Power of miners that never make a block, in bytes: ours win the less the more it is.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    other_power: u64,
}

#[derive(Args)]
struct CreateMiner {
    /// Address of the node: http://HOST:PORT.
    #[arg(long)]
    url: String,
    /// A token with the permissions write and sign.
    #[arg(long, env = "CURIO_DEVNET_TOKEN", hide_env_values = true)]
    token: String,
    #[arg(long, default_value = "2KiB", value_parser = sector_size)]
    sector_size: SealProof,
    /// A funded BLS key in the node's wallet; a new one is made when it is not given.
    #[arg(long)]
    worker: Option<String>,
}

/// Runs a command to its end.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run(args) => run_chain(*args).await,
        Command::CreateMiner(args) => run_create_miner(args).await,
    }
}

async fn run_chain(args: Run) -> anyhow::Result<()> {
    let Run {
        api,
        block_time,
        seed,
        params_dir,
        sector_sizes,
        network_name,
        genesis_timestamp,
        create_miner,
        token,
        token_file,
        ready_file,
        die_with_parent,
        proving,
    } = args;
    let Proving {
        deadlines,
        challenge_window,
        challenge_lookback,
        fault_cutoff,
        no_disputes,
        winning_lookback,
        miner_patience,
        other_power,
    } = proving;
    if die_with_parent {
        end_with_parent().context("failed to tie this process to its parent")?;
    }
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("failed to listen for SIGINT")?;
    let options = Options {
        api,
        clock: block_time,
        seed,
        network_name,
        sector_sizes,
        params: params_dir.unwrap_or_else(curio_proofs::params::default_dir),
        genesis_timestamp,
        token: match token_file {
            Some(file) => Some(read_token(&file)?),
            None => token,
        },
        first_miner: create_miner,
        post: PostPolicy { deadlines, challenge_window, challenge_lookback, fault_cutoff },
        disputes: !no_disputes,
        winning_lookback,
        miner_patience,
        other_power,
    };
    let devnet = tokio::select! {
        started = Devnet::start(options) => started?,
        // A start that makes keys and a miner takes seconds; the signal ends that, too.
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    if let Some(path) = &ready_file {
        ready::write(path, &devnet).with_context(|| format!("failed to write {}", path.display()))?;
    }
    warn!("this is a stand-in for a chain, for demos and tests; it is no real network and keeps nothing");
    info!(url = %devnet.url, network = devnet.network_name(), "serving Lotus JSON-RPC at {}rpc/v1", devnet.url);
    if let Some(miner) = &devnet.first_miner {
        info!(miner = %miner.miner, worker = %miner.worker, "the first miner is {}", miner.miner);
    }
    tokio::select! {
        _ = terminate.recv() => info!("stopping on SIGTERM"),
        _ = interrupt.recv() => info!("stopping on SIGINT"),
    }
    devnet.stop().await;
    Ok(())
}

fn read_token(file: &Path) -> anyhow::Result<FixedToken> {
    let text = std::fs::read_to_string(file).with_context(|| format!("failed to read {}", file.display()))?;
    text.parse().map_err(|why| anyhow!("the token in {} cannot be used: {why}", file.display()))
}

async fn run_create_miner(args: CreateMiner) -> anyhow::Result<()> {
    let CreateMiner { url, token, sector_size, worker } = args;
    let endpoint = Endpoint::parse(&format!("{token}:{url}"))?;
    let client = Client::new(vec![endpoint], ClientOptions::default())?;
    let worker = worker.map(|text| curio_chain::address::parse(&text)).transpose()?;
    let miner = create_miner(&client, sector_size, worker).await?;
    println!("{}", serde_json::to_string(&miner)?);
    Ok(())
}

/// Has the kernel end this process when its parent ends.
fn end_with_parent() -> anyhow::Result<()> {
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?;
    // The parent may have ended before the call; then nobody would tell.
    if rustix::process::getppid() != parent || parent.is_none() {
        bail!("the parent process is gone");
    }
    Ok(())
}

fn sector_size(text: &str) -> Result<SealProof, String> {
    let bytes = match text {
        "2KiB" => 2 << 10,
        "8MiB" => 8 << 20,
        "512MiB" => 512 << 20,
        "32GiB" => 32 << 30,
        "64GiB" => 64 << 30,
        _ => return Err(format!("'{text}' is not a sector size; take 2KiB, 8MiB, 512MiB, 32GiB or 64GiB")),
    };
    SealProof::of_sector_size(bytes).ok_or_else(|| format!("'{text}' is not a sector size"))
}
