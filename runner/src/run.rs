//! One machine of the cluster: reads its configuration, connects everything, registers, works until it
//! is told to stop, and stops in order.
//!
//! What is wrong with the configuration ends the start with one sentence. A database that is away or not
//! migrated yet does not, and neither does a chain node that is away: the machine serves `/readyz`, says
//! why it is not ready, and keeps asking.

mod address;
mod front;
mod ready_file;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use curio_chain::{Client, RpcError};
use curio_core::Resources;
use curio_core::config::{Config, Effective};
use curio_harmony::{Db, DbError, Engine, EngineState, MachineSpec, StartError, Timing};
use curio_proofs::Snark;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::address::advertised;
use self::front::{Listener, serve, wait_for_chain, wait_for_database};
use crate::attach::{AttachArg, AttachAtStartError, attach_all};
use crate::chain_sched::{self, Fence};
use crate::database::OpenError;
use crate::deps::{Chance, Deps, Network};
use crate::http::{self, Phase, Probes};
use crate::metrics::{Metrics, Running};
use crate::parameters::{Parameters, Source, SourceError, circuits_needed};
use crate::prove::Prover;
use crate::seal::counters::Counters;
use crate::seal::fault_pause::FaultPause;
use crate::settings::{self, Asker, Process, SettingsError};
use crate::storage::location::RedeclareError;
use crate::storage::remote::RemoteState;
use crate::storage::{Storage, StorageOptions, StorageTiming, remote};
use crate::{cpu, registry};

/// How long the background loops may take to end.
const LOOPS_TIMEOUT: Duration = Duration::from_secs(5);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct RunOptions {
    pub database_url: String,
    /// Host and port of the database, for finding the address that others reach this machine at.
    pub database_host: Option<(String, u16)>,
    /// Layers over `base`.
    pub layers: Vec<String>,
    /// Stable name.
    pub name: String,
    /// What the process runs in, such as the UID of a pod; empty outside of such things.
    pub instance: String,
    /// When the process started, by the clock of its node.
    pub process_started_at: DateTime<Utc>,
    pub listen: SocketAddr,
    /// Host and port that other machines use.
    pub advertise: Option<String>,
    /// Told when the machine is registered and serves.
    pub ready_file: Option<PathBuf>,
    pub capacity: Capacity,
    /// Directories that become storage paths of this machine, if they are not yet.
    pub attach: Vec<AttachArg>,
    /// Where proof parameters are fetched from.
    pub parameters_url: Option<String>,
    /// For running tasks, after the stop.
    pub grace: Duration,
    /// SNARKs from the trapdoor of the test parameters.
    #[cfg(debug_assertions)]
    pub simulated_snarks: bool,
}

/// Resources that a person states; those found stand in for the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Capacity {
    pub cpu: Option<u32>,
    pub ram_bytes: Option<u64>,
    /// Whole devices.
    pub gpu: Option<u32>,
}

impl Capacity {
    fn over(self, found: Resources) -> Resources {
        Resources {
            cpu: self.cpu.unwrap_or(found.cpu),
            ram_bytes: self.ram_bytes.unwrap_or(found.ram_bytes),
            gpu_milli: self.gpu.map_or(found.gpu_milli, |devices| devices.saturating_mul(1000)),
        }
    }
}

/// This machine cannot start, or cannot go on. Each is one sentence.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error("failed to use the database")]
    Db(#[from] DbError),
    #[error(transparent)]
    Attach(#[from] AttachAtStartError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("failed to listen on {address}; stop what listens there, or choose another address with --listen")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to compare the storage paths with the database")]
    Storage(#[from] RedeclareError),
    #[error(transparent)]
    Chain(RpcError),
    #[error(transparent)]
    Engine(#[from] StartError),
    #[error("failed to write the ready file {}", path.display())]
    ReadyFile {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("another process runs as machine '{name}' now; give each runner a name of its own with --name")]
    Replaced { name: String },
    #[error("the layers {layers} enable nothing on this machine; name a layer such as seal with --layers")]
    NothingEnabled { layers: String },
}

/// Runs this machine until `stop`, then stops in order.
///
/// # Errors
/// What is wrong with the configuration, the address, the token or the database at the start.
pub async fn run(options: RunOptions, stop: CancellationToken) -> Result<(), RunError> {
    let prover = settings::prover()?;
    let source = options.parameters_url.as_deref().map(Source::new).transpose()?;
    let listener = Listener::bind(options.listen).await?;
    let local = listener.local;
    info!(machine = %options.name, "machine '{}' serves on {local}", options.name);
    let Some(db) = wait_for_database(&listener, &options, &stop).await? else { return Ok(()) };

    let effective = settings::load(&db, &options.layers).await?;
    warn_about(&effective);
    let config = Arc::new(effective.config);
    let circuits = circuits_needed(&config.subsystems, snark_of(&options));
    let parameters = Parameters::new(curio_proofs::params::default_dir(), source, circuits);
    if !config.subsystems.seals() && !config.subsystems.proves() {
        return Err(RunError::NothingEnabled { layers: format!("base,{}", options.layers.join(",")) });
    }
    let chain = settings::chain_client(&config, &Process, Asker::Runner)?;
    let secret = settings::storage_secret(&config, &Process)?;
    if secret.is_none() {
        warn!("no Apis.StorageRPCSecret is set: this machine neither serves sector files to others nor fetches theirs");
    }
    attach_all(&db, &options.name, &options.attach).await?;

    let storage_options = StorageOptions { machine: options.name.clone(), secret, timing: StorageTiming::default() };
    let storage = Storage::new(db.clone(), storage_options);
    storage.redeclare().await?;
    storage.report_health_once().await?;

    // Two stops: work ends first, while files are still served to others; then the rest ends.
    let work_ends = stop.child_token();
    let all_ends = CancellationToken::new();
    let counters = Arc::new(Counters::default());
    let metrics = Metrics::new(db.clone(), Arc::clone(&counters), &options.name);
    let probes = Probes::new(db.clone(), chain.clone(), parameters.is_needed().then(|| parameters.clone()));
    let routes = http::router(probes.clone(), metrics.clone())
        .merge(remote::router(RemoteState { storage: storage.clone(), prover: prover.clone() }));
    let mut background = JoinSet::new();
    background.spawn(serve(listener.open()?, routes, all_ends.clone()));
    background.spawn(storage.clone().look_after_paths(work_ends.clone()));

    let parts = Parts { db, config, chain, storage, prover, parameters, counters, metrics, probes };
    let outcome = work(parts, &options, local, &work_ends).await;
    all_ends.cancel();
    work_ends.cancel();
    let ended = tokio::time::timeout(LOOPS_TIMEOUT, async { while background.join_next().await.is_some() {} });
    if ended.await.is_err() {
        warn!("background work did not end within {} s and is left", LOOPS_TIMEOUT.as_secs());
    }
    outcome
}

/// What the machine is made of before it knows its chain.
struct Parts {
    db: Db,
    config: Arc<Config>,
    chain: Client,
    storage: Storage,
    prover: Prover,
    parameters: Parameters,
    counters: Arc<Counters>,
    metrics: Metrics,
    probes: Probes,
}

/// From the first word with the chain node to the end of the last task.
async fn work(parts: Parts, options: &RunOptions, local: SocketAddr, stop: &CancellationToken) -> Result<(), RunError> {
    let Parts { db, config, chain, storage, prover, parameters, counters, metrics, probes } = parts;
    let Some(network) = wait_for_chain(&chain, &probes, stop).await? else { return Ok(()) };
    info!("the chain is '{}', with a block every {:?}", network.name, network.block_delay);
    let processor = processor(&config, &network);

    let fence = Fence::new(db.clone(), &network.name, config.chain.max_gap_epochs.into());
    probes.fence(fence.clone());
    let deps = Deps {
        db: db.clone(),
        fence: fence.clone(),
        chain,
        storage,
        prover: prover.clone(),
        config: Arc::clone(&config),
        network,
        machine: options.name.as_str().into(),
        chance: Chance::system(),
        http: reqwest::Client::new(),
        counters,
        post_counters: Arc::default(),
        fault_pause: FaultPause::from_env(),
        snark: snark_of(options),
        parameters: parameters.clone(),
    };
    let registry = registry::registry(&deps);
    let tasks: Vec<String> = registry.names().map(|name| name.to_string()).collect();
    let address = advertised(options, local);
    let machine = MachineSpec {
        name: options.name.clone(),
        address: address.clone(),
        resources: options.capacity.over(curio_harmony::capacity::detect()),
        layers: options.layers.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        labels: Vec::new(),
        instance: options.instance.clone(),
        process_started_at: options.process_started_at,
    };
    let resources = machine.resources;
    let engine = Engine::start(db.clone(), registry, machine, timing(&config)).await?;
    let machine_id = engine.machine_id();
    let loops = chain_sched::start(&deps, engine.completions(), stop.clone());
    metrics.watch(Running {
        engine: engine.metrics(),
        chain: loops.status(),
        fence,
        balances: loops.balances(),
        post: Arc::clone(&deps.post_counters),
        block_delay: deps.network.block_delay,
        capacity: resources,
    });
    let parameters_came = Arc::new(Notify::new());
    let keeper = parameters.is_needed().then(|| {
        let came = Arc::clone(&parameters_came);
        tokio::spawn(parameters.keep(db, prover, move || came.notify_one(), stop.clone()))
    });
    let mut state = engine.state();
    probes.enter(Phase::Running { machine_id, state: state.clone(), processor });
    let mut outcome = match &options.ready_file {
        Some(file) => ready_file::write(file, &options.name, machine_id, local, &tasks),
        None => Ok(()),
    };
    info!(
        machine.id = machine_id,
        "reached at {address}, with {} cores and {} of memory, runs {}",
        resources.cpu,
        crate::cli::output::bytes(resources.ram_bytes),
        tasks.join(", ")
    );
    while outcome.is_ok() {
        tokio::select! {
            () = stop.cancelled() => break,
            () = parameters_came.notified() => engine.nudge(),
            // The sender lives as long as the engine, so that this is a change.
            _ = state.changed() => {
                if *state.borrow_and_update() == EngineState::Replaced {
                    outcome = Err(RunError::Replaced { name: options.name.clone() });
                }
            }
        }
    }

    stop.cancel();
    probes.enter(Phase::Stopping);
    if let Some(file) = &options.ready_file {
        // Whoever waits for the file sees that the machine has gone; a file that is gone is as good.
        let _ = std::fs::remove_file(file);
    }
    let loops_end = async {
        if tokio::time::timeout(LOOPS_TIMEOUT, loops.join()).await.is_err() {
            warn!("chain loops did not end within {} s and are left", LOOPS_TIMEOUT.as_secs());
        }
        if let Some(keeper) = keeper {
            let _ = tokio::time::timeout(LOOPS_TIMEOUT, keeper).await;
        }
    };
    // Not one after the other: an engine that waits for the loops goes on to claim tasks meanwhile.
    tokio::join!(engine.shutdown(options.grace), loops_end);
    info!("stopped");
    outcome
}

/// Says which keys of the layers have no effect, so that nobody waits for what never comes.
fn warn_about(effective: &Effective) {
    for (key, layer) in effective.without_effect() {
        warn!("{key} in layer '{layer}' has no effect: this version does nothing with it");
    }
}

/// Whether the processor does what is to run here; said in the log when there is something to say.
fn processor(config: &Config, network: &Network) -> Result<String, String> {
    if !config.subsystems.enable_seal_sdr {
        return Ok("not asked for: no SDR here".to_owned());
    }
    let readiness = cpu::sdr_readiness(config, network.is_test());
    match &readiness {
        Ok(_) if cpu::has_sha() => {}
        Ok(sentence) | Err(sentence) => warn!("{sentence}"),
    }
    readiness
}

#[cfg(debug_assertions)]
fn snark_of(options: &RunOptions) -> Snark {
    if options.simulated_snarks { Snark::Simulated } else { Snark::Real }
}

#[cfg(not(debug_assertions))]
fn snark_of(_options: &RunOptions) -> Snark {
    Snark::Real
}

fn timing(config: &Config) -> Timing {
    let harmony = &config.harmony;
    Timing {
        poll_busy: harmony.poll_busy.get(),
        poll_idle: harmony.poll_idle.get(),
        heartbeat: harmony.heartbeat.get(),
        lease: harmony.lease.get(),
        ..Timing::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stated_resources_replace_those_found_one_by_one() {
        let found = Resources { cpu: 64, ram_bytes: 1 << 40, gpu_milli: 2000 };
        let stated = Capacity { cpu: Some(2), ram_bytes: None, gpu: Some(0) };
        assert_eq!(stated.over(found), Resources { cpu: 2, ram_bytes: 1 << 40, gpu_milli: 0 });
    }
}
