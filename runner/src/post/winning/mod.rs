//! Block production: an election for every miner of the cluster in every round, and the blocks that are won.
//!
//! Two blocks of one miner for the same epoch, on the same parents, or one beside the other instead of on top of it, cost five
//! block rewards and half a day without mining. They cannot come out of here, whatever dies, restarts or is paused: an election
//! is a row with a unique key (miner, epoch) and a second one over each of its parents; a win is stored before anything is
//! signed, the signed and checked block is stored, against all others of the miner, before it is submitted, and only a
//! stored block is ever submitted, the identical one again if need be.
//!
//! - [`round`] decides, from the head, the clock and the elections so far, which election is due. Pure.
//! - [`ask`] is the loop that acts on it, on every machine that mines; the keys make it one election in the cluster.
//! - [`mine`] is the task: holds the election, proves, makes the block, submits it.
//! - [`include`] looks some epochs later whether the block is in the chain.

mod ask;
pub mod block;
mod elect;
mod include;
pub mod mine;
mod proof;
pub mod record;
mod refusal;
pub mod rehearse;
pub mod round;

use std::sync::Arc;

use curio_chain::types::TipSet;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::chain_sched::HeadHandler;
use crate::deps::Deps;

/// Starts asking for elections; the loop ends when cancelled, or when nobody tells heads any more.
pub fn start(deps: &Deps, heads: watch::Receiver<Option<TipSet>>, cancel: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(ask::run(deps.clone(), heads, cancel))
}

/// What a machine that mines does with every head.
pub fn handlers(deps: &Deps) -> Vec<Arc<dyn HeadHandler>> {
    vec![Arc::new(include::Inclusion::new(deps))]
}
