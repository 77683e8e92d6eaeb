//! The chain scheduler: follows the head of the chain and tells it to whoever derives work from it.
//!
//! A new head goes to the *fence* first, which says whether anything may leave this machine; then to the *watchers* (of
//! messages), so that everybody else reacts to a message in the epoch in which it landed; then to the *handlers*. Each has a
//! task of its own, and waits only so long for those before it: a slow one delays nobody.
//! Nobody gets a backlog: a handler that was busy is called with the newest head, and told how far the chain
//! went back meanwhile. A missed head is therefore never made up for; handlers derive their work from the chain's
//! state and keep it to one by unique keys.

pub mod fence;
mod inbox;
mod loops;
pub mod scheduler;
mod seal_loop;

use std::panic::AssertUnwindSafe;

use curio_chain::types::TipSet;
use curio_core::{Epoch, Failure};
use futures::FutureExt;
use futures::future::BoxFuture;

pub use fence::Fence;
pub use loops::{Loops, start};

/// A head, and what happened below it since the handler was called last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadUpdate {
    pub head: TipSet,
    /// Lowest height that was reverted since the last call that ended well. Whatever was read from the chain at this
    /// height or above may be different now.
    pub reverted_to: Option<Epoch>,
}

/// Derives work from the head of the chain.
///
/// A call that takes longer than its bound is given up, as is one whose head is reverted meanwhile and one that runs when the
/// machine stops: the future is dropped at any of its awaits. What it does must bear that, and must bear
/// being repeated: other machines call the same handler with the same head.
pub trait HeadHandler: Send + Sync + 'static {
    /// A short closed word for logs and metrics.
    fn name(&self) -> &'static str;

    /// Called with the newest head, one call at a time.
    ///
    /// # Errors
    /// Logged and counted. The next head calls again.
    fn on_head<'a>(&'a self, update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>>;
}

/// One round of a loop that runs for years; none when it panicked, which the process's own hook has told. The loop goes on:
/// without it deadlines would pass and nobody would notice. What the panic left half changed must bear repeating, as after
/// any failure.
pub(crate) async fn survive<T>(round: impl Future<Output = T>) -> Option<T> {
    AssertUnwindSafe(round).catch_unwind().await.ok()
}
