//! What a runner serves: whether it lives, whether it is ready and why not, its metrics, and its files
//! to other runners.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use curio_chain::Client;
use curio_harmony::{Db, EngineState};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::chain_sched::Fence;
use crate::chain_sched::fence::Verdict;
use crate::metrics::Metrics;
use crate::parameters::Parameters;

/// How long one check of readiness may take; probes of clusters give up after a second or more.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long open requests may go on after the stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// One thing that a runner needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    pub ok: bool,
    /// What is there, or what is missing and what to do.
    pub message: String,
}

impl Check {
    fn of(outcome: Result<String, String>) -> Check {
        match outcome {
            Ok(message) => Check { ok: true, message },
            Err(message) => Check { ok: false, message },
        }
    }
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    pub ready: bool,
    pub checks: BTreeMap<&'static str, Check>,
}

/// Where the start of this runner has come to.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Waiting for the chain node; the sentence is the last error.
    WaitingForChain(String),
    /// Takes tasks, under this machine id, while the engine's state is good.
    Running {
        machine_id: i64,
        state: watch::Receiver<EngineState>,
        /// Whether the processor is fit for what is to run here; a sentence either way.
        processor: Result<String, String>,
    },
    /// Was told to stop.
    Stopping,
}

/// What the probes look at. A clone is the same.
#[derive(Clone)]
pub struct Probes {
    db: Db,
    chain: Client,
    /// None where PoRep does not run.
    parameters: Option<Parameters>,
    /// Known once the chain is.
    fence: Arc<OnceLock<Fence>>,
    phase: Arc<Mutex<Phase>>,
}

impl Probes {
    /// Probes of a runner that has not reached its chain node yet.
    pub fn new(db: Db, chain: Client, parameters: Option<Parameters>) -> Probes {
        let phase = Phase::WaitingForChain("the chain node was not asked yet".to_owned());
        Probes { db, chain, parameters, fence: Arc::default(), phase: Arc::new(Mutex::new(phase)) }
    }

    /// Looks at this fence, too. Only the first call counts.
    pub fn fence(&self, fence: Fence) {
        let _ = self.fence.set(fence);
    }

    /// Says where the runner has come to.
    pub fn enter(&self, phase: Phase) {
        *self.phase() = phase;
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        // A phase is a plain value, right after a panic elsewhere, too.
        self.phase.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Looks at everything that the runner needs; takes at most [`CHECK_TIMEOUT`].
    pub async fn check(&self) -> Readiness {
        let (database, chain) = tokio::join!(bounded(self.database()), bounded(self.chain()));
        let checks = BTreeMap::from([
            ("database", Check::of(database)),
            ("chain", Check::of(chain)),
            ("engine", Check::of(self.engine())),
            ("fence", Check::of(self.fence_verdict())),
            ("parameters", Check::of(self.parameters())),
            ("processor", Check::of(self.processor())),
        ]);
        Readiness { ready: checks.values().all(|check| check.ok), checks }
    }

    async fn database(&self) -> Result<String, String> {
        match sqlx::query_scalar!("SELECT 1 AS one").fetch_one(self.db.pool()).await {
            Ok(_) => Ok("answers".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn chain(&self) -> Result<String, String> {
        match self.chain.chain_head().await {
            Ok(head) => Ok(format!("head at epoch {}", head.height)),
            Err(error) => Err(crate::cli::sentence(&error)),
        }
    }

    fn engine(&self) -> Result<String, String> {
        match &*self.phase() {
            Phase::Running { machine_id, state, processor: _ } => match *state.borrow() {
                EngineState::Running => Ok(format!("registered as machine {machine_id}")),
                EngineState::DatabaseAway => Err("the last heartbeat could not be written".to_owned()),
                EngineState::Replaced => Err("another process runs under this machine's name".to_owned()),
                EngineState::Stopping => Err("stopping".to_owned()),
            },
            Phase::WaitingForChain(error) => Err(format!("waits for the chain node: {error}")),
            Phase::Stopping => Err("stopping".to_owned()),
        }
    }

    fn fence_verdict(&self) -> Result<String, String> {
        match self.fence.get().and_then(Fence::verdict) {
            Some(Verdict::Open) => Ok("messages and blocks may leave".to_owned()),
            Some(Verdict::Held(held)) => Err(held.to_string()),
            // The chain's own check says whether a head can come.
            None => Ok("no head of the chain was seen yet".to_owned()),
        }
    }

    fn parameters(&self) -> Result<String, String> {
        match &self.parameters {
            Some(parameters) => parameters.readiness(),
            None => Ok("not needed: no PoRep here".to_owned()),
        }
    }

    fn processor(&self) -> Result<String, String> {
        match &*self.phase() {
            Phase::Running { machine_id: _, state: _, processor } => processor.clone(),
            // The engine says what is missing.
            Phase::WaitingForChain(_) | Phase::Stopping => Ok("not judged before the chain is known".to_owned()),
        }
    }
}

async fn bounded(check: impl Future<Output = Result<String, String>>) -> Result<String, String> {
    let late = || Err(format!("no answer within {} s", CHECK_TIMEOUT.as_secs()));
    tokio::time::timeout(CHECK_TIMEOUT, check).await.unwrap_or_else(|_| late())
}

#[derive(Clone)]
struct Served {
    probes: Probes,
    metrics: Metrics,
}

/// The routes of a runner, without those of its files.
pub fn router(probes: Probes, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(Served { probes, metrics })
}

/// The routes of a runner that waits for its database: it lives, and is not ready for this reason.
pub fn waiting_router(reason: watch::Receiver<String>) -> Router {
    Router::new().route("/healthz", get(async || "ok\n")).route("/readyz", get(not_ready)).with_state(reason)
}

async fn not_ready(State(reason): State<watch::Receiver<String>>) -> Response {
    let check = Check { ok: false, message: reason.borrow().clone() };
    let readiness = Readiness { ready: false, checks: BTreeMap::from([("database", check)]) };
    (StatusCode::SERVICE_UNAVAILABLE, Json(readiness)).into_response()
}

async fn ready(State(served): State<Served>) -> Response {
    let readiness = served.probes.check().await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics_text(State(served): State<Served>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], served.metrics.text().await).into_response()
}

/// Serves until cancelled, then lets open requests end for at most two seconds.
///
/// # Errors
/// The socket stopped accepting.
pub async fn serve(listener: TcpListener, router: Router, cancelled: CancellationToken) -> std::io::Result<()> {
    let stop = cancelled.clone();
    let server = axum::serve(listener, router).with_graceful_shutdown(async move { stop.cancelled().await });
    let drained = async {
        cancelled.cancelled().await;
        tokio::time::sleep(DRAIN_TIMEOUT).await;
    };
    tokio::select! {
        ended = async { server.await } => ended,
        () = drained => Ok(()),
    }
}
