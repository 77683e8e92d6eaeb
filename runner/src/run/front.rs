//! The socket of a machine, what answers on it before the database can be used, and the waits for the database and for the
//! chain node.

use std::net::SocketAddr;
use std::time::Duration;

use curio_chain::{Client, RpcError};
use curio_harmony::Db;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{LOOPS_TIMEOUT, RunError, RunOptions};
use crate::cli::sentence;
use crate::deps::Network;
use crate::http::{Phase, Probes};
use crate::{database, http};

/// Pause between two questions to a chain node that does not answer; doubles up to the second.
const CHAIN_RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// The socket of this machine: open from the start, and served by one after the other.
pub(super) struct Listener {
    address: SocketAddr,
    pub(super) local: SocketAddr,
    socket: std::net::TcpListener,
}

impl Listener {
    pub(super) async fn bind(address: SocketAddr) -> Result<Listener, RunError> {
        let failed = |source| RunError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        Ok(Listener { address, local, socket: listener.into_std().map_err(failed)? })
    }

    /// One more handle on the socket. Who connects while no handle accepts waits for the next one.
    pub(super) fn open(&self) -> Result<TcpListener, RunError> {
        let again = self.socket.try_clone().and_then(TcpListener::from_std);
        again.map_err(|source| RunError::Listen { address: self.address, source })
    }
}

pub(super) async fn serve(listener: TcpListener, routes: axum::Router, cancelled: CancellationToken) {
    if let Err(error) = http::serve(listener, routes, cancelled).await {
        error!(error = %error, "the HTTP server ended");
    }
}

/// Asks for the database until it can be used, and meanwhile says on `/readyz` what is missing; nothing when told to stop.
///
/// # Errors
/// What waiting does not cure.
pub(super) async fn wait_for_database(
    listener: &Listener,
    options: &RunOptions,
    stop: &CancellationToken,
) -> Result<Option<Db>, RunError> {
    let (tell, reason) = watch::channel("the database was not asked yet".to_owned());
    let served = stop.child_token();
    let serving = tokio::spawn(serve(listener.open()?, http::waiting_router(reason), served.clone()));
    let application = format!("curio {}", options.name);
    // Whoever would read the reason is gone only when the server has ended; the log has it, too.
    let told = |problem| drop(tell.send(problem));
    let usable = database::wait_until_usable(&options.database_url, &application, told);
    let opened = stop.run_until_cancelled(usable).await.transpose();
    served.cancel();
    if tokio::time::timeout(LOOPS_TIMEOUT, serving).await.is_err() {
        warn!("a probe of this machine did not end within {} s and is left", LOOPS_TIMEOUT.as_secs());
    }
    Ok(opened?)
}

/// Asks the chain node until it answers; nothing when told to stop before.
///
/// # Errors
/// A node that refuses the token: asking again would not help.
pub(super) async fn wait_for_chain(
    chain: &Client,
    probes: &Probes,
    stop: &CancellationToken,
) -> Result<Option<Network>, RunError> {
    let (mut pause, longest) = CHAIN_RETRY;
    loop {
        let answer = tokio::select! {
            answer = Network::learn(chain) => answer,
            () = stop.cancelled() => return Ok(None),
        };
        match answer {
            Ok(network) => return Ok(Some(network)),
            Err(error @ RpcError::Unauthorized { .. }) => return Err(RunError::Chain(error)),
            Err(error) => {
                let text = sentence(&error);
                warn!("{text}; no task is taken before it answers; asking again in {pause:?}");
                probes.enter(Phase::WaitingForChain(text));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(longest),
            () = stop.cancelled() => return Ok(None),
        }
    }
}
