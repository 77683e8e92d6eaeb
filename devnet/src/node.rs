//! One running node: the chain behind a lock, its tokens, and whether it answers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use uuid::Uuid;

use crate::auth::Auth;
use crate::chain::Chain;
use crate::options::Options;

/// What every method works on.
pub struct Node {
    pub options: Options,
    pub auth: Auth,
    /// Changes with every start, as a Lotus node's session does.
    pub session: Uuid,
    chain: Mutex<Chain>,
    /// Everything that the options ask for is there.
    ready: AtomicBool,
    /// Nothing is answered; see [`Node::silence`].
    silent: watch::Sender<bool>,
    /// Counts the times that all websockets were closed.
    hung_up: watch::Sender<u64>,
}

impl Node {
    pub fn new(options: Options, chain: Chain) -> Arc<Node> {
        let auth = Auth::new(options.token.clone());
        Arc::new(Node {
            options,
            auth,
            session: Uuid::new_v4(),
            chain: Mutex::new(chain),
            ready: AtomicBool::new(false),
            silent: watch::channel(false).0,
            hung_up: watch::channel(0).0,
        })
    }

    /// From now on no call is answered and no head change is told, as by a node that hangs; or all that
    /// has waited is. Connections stay open.
    pub fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }

    /// Waits while the node is silent. Whoever calls this is a request, and ends with its connection.
    pub async fn answering(&self) {
        let mut silent = self.silent.subscribe();
        silent.wait_for(|silent| !silent).await.expect("the sender lives as long as the node");
    }

    /// Closes every websocket, as a node does that is started again.
    pub fn hang_up(&self) {
        self.hung_up.send_modify(|times| *times += 1);
    }

    /// Changes when the websockets that are open now are to be closed.
    pub fn hang_ups(&self) -> watch::Receiver<u64> {
        self.hung_up.subscribe()
    }

    /// Whether somebody may start to use the chain.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// From now on.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// The chain, for one short piece of work. Never held across an await.
    pub fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
