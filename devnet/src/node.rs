//! One running node: the chain behind a lock, its tokens, and its clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
}

impl Node {
    pub fn new(options: Options, chain: Chain) -> Arc<Node> {
        let auth = Auth::new(options.token.clone());
        let (chain, ready) = (Mutex::new(chain), AtomicBool::new(false));
        Arc::new(Node { options, auth, session: Uuid::new_v4(), chain, ready })
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
