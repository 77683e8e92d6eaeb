//! `curio run`: this process becomes a machine of the cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::Utc;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::args::{LayerArgs, NameArgs, machine_name, parse_bytes, parse_duration};
use super::{CliError, Database};
use crate::attach::AttachArg;
use crate::parameters::SOURCE_VARIABLE;
use crate::run::{Capacity, RunOptions, run};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    layers: LayerArgs,
    #[command(flatten)]
    name: NameArgs,
    /// What this process runs in and dies with, such as the UID of a pod: whoever sees it end may then release
    /// the tasks at once.
    #[arg(long, env = "CURIO_INSTANCE", default_value = "", hide_default_value = true, value_name = "TEXT")]
    instance: String,
    /// Address to serve on; port 0 takes any free one.
    #[arg(long, env = "CURIO_LISTEN", default_value = "0.0.0.0:12300", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Address under which the other machines reach this one. Default: the listening address, or
    /// the address towards the database when that is every address.
    #[arg(long, env = "CURIO_ADVERTISE", value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// Written as JSON once this machine is registered and serves; removed when it stops.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Cores for tasks, instead of those found.
    #[arg(long, value_name = "CORES")]
    cpu: Option<u32>,
    /// Memory for tasks, such as 64GiB, instead of that found.
    #[arg(long, value_parser = parse_bytes, value_name = "SIZE")]
    ram: Option<u64>,
    /// Graphics devices for tasks, instead of those found.
    #[arg(long, value_name = "DEVICES")]
    gpu: Option<u32>,
    /// Make a directory a storage path of this machine if it is not one yet: seal=/scratch for sealing,
    /// store=/store for finished sectors. May be given several times.
    #[arg(long, value_name = "KIND=PATH")]
    attach: Vec<AttachArg>,
    /// Server that has the proof parameters; those of sectors in flight, and those that its index.json
    /// lists, are fetched when they are missing.
    #[arg(long, env = SOURCE_VARIABLE, value_name = "URL")]
    parameters_url: Option<String>,
    /// Time for running tasks to end after the first signal to stop; then they are given back.
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "TIME")]
    grace: Duration,
    /// Stop when the thread that started this process ends.
    #[arg(long)]
    die_with_parent: bool,
    /// Make SNARKs from the known trapdoor of the test parameters, in test builds only.
    #[cfg(debug_assertions)]
    #[arg(long, hide = true, env = "CURIO_SIMULATED_SNARKS", value_parser = clap::builder::BoolishValueParser::new())]
    simulated_snarks: bool,
}

pub(super) async fn execute(place: &Database, args: RunArgs) -> Result<(), CliError> {
    let process_started_at = Utc::now();
    if args.die_with_parent {
        stop_with_parent()?;
    }
    // Before anything else, so that no signal finds the default action.
    let signals = StopSignals::listen()?;
    let name = machine_name(args.name.name.as_deref()).map_err(CliError::refused)?;
    let options = RunOptions {
        database_url: place.url()?.to_owned(),
        database_host: place.host(),
        layers: args.layers.names(),
        name,
        instance: args.instance,
        process_started_at,
        listen: args.listen,
        advertise: args.advertise,
        ready_file: args.ready_file,
        capacity: Capacity { cpu: args.cpu, ram_bytes: args.ram, gpu: args.gpu },
        attach: args.attach,
        parameters_url: args.parameters_url.filter(|url| !url.trim().is_empty()),
        grace: args.grace,
        #[cfg(debug_assertions)]
        simulated_snarks: args.simulated_snarks,
    };
    let stop = CancellationToken::new();
    let watch = tokio::spawn(signals.watch(stop.clone()));
    let outcome = run(options, stop).await;
    watch.abort();
    Ok(outcome?)
}

/// Asks for SIGTERM when the parent ends.
fn stop_with_parent() -> Result<(), CliError> {
    let set = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    set.map_err(|error| CliError::refused(format!("the end of the parent cannot be watched: {error}")))?;
    // The parent may have ended before the request; then this process belongs to init already.
    if rustix::process::getppid().is_none_or(rustix::process::Pid::is_init) {
        return Err(CliError::refused("the process that started this one has ended already"));
    }
    Ok(())
}

/// SIGTERM and SIGINT.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    pub(super) fn listen() -> Result<StopSignals, CliError> {
        let listen = |kind| signal(kind).map_err(CliError::Runtime);
        Ok(StopSignals { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    /// The first signal stops gracefully, the second at once.
    pub(super) async fn watch(mut self, stop: CancellationToken) {
        self.next().await;
        info!("stopping; another signal stops at once");
        stop.cancel();
        self.next().await;
        warn!("stopped by a second signal; what was being done is taken up again at the next start");
        std::process::exit(1);
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
