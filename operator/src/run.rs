//! The operator as a whole: serves its probes, waits for the API server and for leadership, runs the
//! controllers, and ends in order.

use std::net::SocketAddr;
use std::time::Duration;

use kube::Client;
use kube::api::ListParams;
use rand::Rng;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::{CurioCluster, RunnerPool, SealingSector};
use crate::context::{Context, Scope};
use crate::databases::Databases;
use crate::events::Events;
use crate::http::{self, Phase};
use crate::leader::{Candidate, Lost};
use crate::reconcile::Backoffs;
use crate::telemetry::Metrics;
use crate::{cluster, liveness, pool, sector};

/// Between two attempts to read our objects at the start.
const START_RETRY: Duration = Duration::from_secs(2);
const START_CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reconciles that run may go on after the stop. Shorter than the grace period of the pod.
const STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// What an operator is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `CURIO_WATCH_NAMESPACE`: the only namespace to look at; none is all.
    pub watch_namespace: Option<String>,
    /// `POD_NAMESPACE`: where the lease is; none is the default namespace of the kubeconfig.
    pub pod_namespace: Option<String>,
    /// `POD_NAME`.
    pub pod_name: Option<String>,
    /// `CURIO_RUNNER_IMAGE`: for a CurioCluster that names none.
    pub runner_image: Option<String>,
    /// Of probes and metrics.
    pub listen: SocketAddr,
}

/// The operator ended although nobody told it to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("failed to find out how to reach the API server")]
    Client(#[source] kube::Error),
    #[error("failed to listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to listen for signals")]
    Signals(#[source] std::io::Error),
    #[error("failed to go on serving probes and metrics")]
    Serve(#[source] std::io::Error),
    #[error("failed to stay the leader")]
    Lost(#[source] Lost),
    #[error("controller {0} ended by itself")]
    Controller(&'static str),
    #[error("a controller panicked")]
    Panic(#[source] tokio::task::JoinError),
}

/// Runs until SIGTERM or Ctrl-C.
///
/// # Errors
/// Whatever ends the work before that; the process is to end with an error then, and to be started again.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    let stop = CancellationToken::new();
    let signals = tokio::spawn(stop_on_signal(stop.clone())?);
    let client = Client::try_default().await.map_err(RunError::Client)?;
    let metrics = Metrics::default();
    let (phase, phases) = watch::channel(Phase::Starting("has not asked the API server yet".to_owned()));

    let address = settings.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| RunError::Listen { address, source })?;
    let served = CancellationToken::new();
    let server = tokio::spawn(http::serve(listener, http::router(phases, metrics.clone()), served.clone()));

    let context = Context {
        client: client.clone(),
        scope: Scope::parse(settings.watch_namespace.as_deref()),
        databases: Databases::default(),
        events: Events::new(client, settings.pod_name.clone()),
        metrics,
        backoffs: Backoffs::default(),
        runner_image: settings.runner_image.clone(),
    };
    info!(scope = ?context.scope, version = env!("CARGO_PKG_VERSION"), "operator starts");
    let ended = lead(&settings, &context, &phase, &stop).await;
    phase.send_replace(Phase::Stopping);
    served.cancel();
    signals.abort();
    let served = server.await.map_err(RunError::Panic)?.map_err(RunError::Serve);
    ended.and(served)
}

/// From the first answer of the API server to the end of the work.
async fn lead(
    settings: &Settings,
    context: &Context,
    phase: &watch::Sender<Phase>,
    stop: &CancellationToken,
) -> Result<(), RunError> {
    if !wait_for_objects(context, phase, stop).await {
        return Ok(());
    }
    let namespace = settings.pod_namespace.as_deref().unwrap_or(context.client.default_namespace());
    let pod = settings.pod_name.as_deref().unwrap_or("curio-operator");
    // A restarted container has the name of its pod again and must not take a lease for its own that it lost.
    let identity = format!("{pod}_{:08x}", rand::rng().random::<u32>());
    let mut candidate = Candidate::new(context.client.clone(), namespace, identity);
    phase.send_replace(Phase::Standby);
    if !candidate.win(stop).await {
        return Ok(());
    }
    info!("leads from now on");
    phase.send_replace(Phase::Leading);
    context.metrics.leading(true);

    // Of its own, not a child of `stop`: a controller that ends before we looked would seem to have ended by itself.
    let working = CancellationToken::new();
    let mut controllers = Controllers::start(context, &working);
    let ended = tokio::select! {
        held = candidate.hold(stop) => held.map_err(RunError::Lost),
        error = controllers.first_end() => Err(error),
    };
    working.cancel();
    let stopped = controllers.stop().await;
    context.metrics.leading(false);
    // Only now: the next leader must not meet one of our reconciles.
    candidate.give_up().await;
    ended.and(stopped)
}

/// Waits until our kinds can be read, and says meanwhile what is missing. False when stopped before.
async fn wait_for_objects(context: &Context, phase: &watch::Sender<Phase>, stop: &CancellationToken) -> bool {
    loop {
        let why = match tokio::time::timeout(START_CALL_TIMEOUT, read_one_of_each(context)).await {
            Ok(Ok(())) => return true,
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {
                "the CustomResourceDefinitions of curio.filecoin.io are not installed; install the chart with them"
                    .to_owned()
            }
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => {
                format!("this account may not read the objects of curio.filecoin.io: {}", status.message)
            }
            Ok(Err(error)) => format!("the API server does not answer: {error}"),
            Err(_) => format!("the API server does not answer within {} s", START_CALL_TIMEOUT.as_secs()),
        };
        let new = phase.send_if_modified(|phase| {
            let now = Phase::Starting(why.clone());
            let new = *phase != now;
            *phase = now;
            new
        });
        if new {
            warn!("cannot begin: {why}");
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            () = tokio::time::sleep(START_RETRY) => {}
        }
    }
}

async fn read_one_of_each(context: &Context) -> kube::Result<()> {
    let one = ListParams::default().limit(1);
    context.all::<CurioCluster>().list(&one).await?;
    context.all::<RunnerPool>().list(&one).await?;
    context.all::<SealingSector>().list(&one).await?;
    Ok(())
}

/// The controllers that run, each as one task that gives its name at its end.
struct Controllers(JoinSet<&'static str>);

impl Controllers {
    fn start(context: &Context, stop: &CancellationToken) -> Controllers {
        let mut tasks = JoinSet::new();
        let named = |name: &'static str, work: futures::future::BoxFuture<'static, ()>| async move {
            work.await;
            name
        };
        tasks.spawn(named("cluster", Box::pin(cluster::run(context.clone(), stop.clone()))));
        tasks.spawn(named("pool", Box::pin(pool::run(context.clone(), stop.clone()))));
        tasks.spawn(named("sector", Box::pin(sector::run(context.clone(), stop.clone()))));
        tasks.spawn(named("liveness", Box::pin(liveness::run(context.clone(), stop.clone()))));
        Controllers(tasks)
    }

    /// Waits for the first that ends, which is an error: none ends before it is told to.
    async fn first_end(&mut self) -> RunError {
        match self.0.join_next().await {
            Some(Ok(name)) => RunError::Controller(name),
            Some(Err(error)) => RunError::Panic(error),
            None => RunError::Controller("of any name"),
        }
    }

    /// Waits for all to end what they are at, for a bounded time.
    async fn stop(mut self) -> Result<(), RunError> {
        let all = async {
            while let Some(ended) = self.0.join_next().await {
                ended.map_err(RunError::Panic)?;
            }
            Ok(())
        };
        match tokio::time::timeout(STOP_TIMEOUT, all).await {
            Ok(ended) => ended,
            Err(_) => {
                warn!("reconciles still ran {} s after the stop and were cut off", STOP_TIMEOUT.as_secs());
                Ok(())
            }
        }
    }
}

fn stop_on_signal(stop: CancellationToken) -> Result<impl Future<Output = ()> + Send, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => info!("told to stop (SIGTERM)"),
            _ = interrupt.recv() => info!("told to stop (Ctrl-C)"),
        }
        stop.cancel();
    })
}
