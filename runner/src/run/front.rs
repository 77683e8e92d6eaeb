//! The socket of a machine, and what answers on it before the database can be used.

use std::net::SocketAddr;

use curio_harmony::Db;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{LOOPS_TIMEOUT, RunError, RunOptions};
use crate::{database, http};

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
