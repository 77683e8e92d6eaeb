//! One running node: the chain behind a lock, its tokens, and its clock.

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
}

impl Node {
    pub fn new(options: Options, chain: Chain) -> Arc<Node> {
        Arc::new(Node { options, auth: Auth::new(), session: Uuid::new_v4(), chain: Mutex::new(chain) })
    }

    /// The chain, for one short piece of work. Never held across an await.
    pub fn chain(&self) -> MutexGuard<'_, Chain> {
        self.chain.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
