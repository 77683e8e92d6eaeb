//! What the operator serves: whether it lives, whether it is ready and what it does, and its numbers.

use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// How long open requests may go on after the stop.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Where this process has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Cannot work yet; the sentence says why.
    Starting(String),
    /// Ready to take over from the leader.
    Standby,
    /// The controllers run here.
    Leading,
    Stopping,
}

/// The answer of `/readyz`.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    leader: bool,
    message: String,
}

impl Phase {
    fn readiness(&self) -> Readiness {
        match self {
            Phase::Starting(why) => Readiness { ready: false, leader: false, message: why.clone() },
            Phase::Standby => Readiness {
                ready: true,
                leader: false,
                message: "another operator leads; this one takes over when that one ends".to_owned(),
            },
            Phase::Leading => Readiness { ready: true, leader: true, message: "leads".to_owned() },
            Phase::Stopping => Readiness { ready: false, leader: false, message: "stopping".to_owned() },
        }
    }
}

#[derive(Clone)]
struct Served {
    phase: watch::Receiver<Phase>,
    metrics: Metrics,
}

/// The routes.
pub fn router(phase: watch::Receiver<Phase>, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics_text))
        .with_state(Served { phase, metrics })
}

async fn ready(State(served): State<Served>) -> Response {
    let readiness = served.phase.borrow().readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

async fn metrics_text(State(served): State<Served>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], served.metrics.text()).into_response()
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Phase::Starting("the CRDs are not installed".to_owned()), false, false)]
    #[case(Phase::Standby, true, false)]
    #[case(Phase::Leading, true, true)]
    #[case(Phase::Stopping, false, false)]
    fn a_standby_is_ready_and_does_not_lead(#[case] phase: Phase, #[case] ready: bool, #[case] leader: bool) {
        let readiness = phase.readiness();
        assert_eq!((readiness.ready, readiness.leader), (ready, leader));
    }
}
