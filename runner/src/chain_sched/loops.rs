//! The loops beside the tasks, by the configuration: the chain scheduler with its watchers and handlers, the one that asks
//! for elections, the one that takes up requests for sectors, and the one that polls the sealing pipeline.

use std::sync::Arc;

use curio_chain::Client;
use curio_chain::notify::{FollowOptions, Follower, Update, follow};
use curio_harmony::Completion;
use futures::Stream;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::scheduler::{Bounds, ChainScheduler, StatusHandle};
use super::seal_loop::{WakePoller, poll_pipeline};
use crate::deps::Deps;
use crate::message::watch::MessageWatcher;
use crate::metrics::balances::Balances;
use crate::post::{window, winning};
use crate::seal::requests;

/// The running loops; [`Loops::join`] waits for their end after the cancellation.
pub struct Loops {
    status: StatusHandle,
    balances: Balances,
    tasks: Vec<JoinHandle<()>>,
}

impl Loops {
    /// How the chain scheduler is doing, for whoever reports it.
    pub fn status(&self) -> StatusHandle {
        self.status.clone()
    }

    /// Balances of the keys that send messages, as of the last look.
    pub fn balances(&self) -> Balances {
        self.balances.clone()
    }

    /// Waits until all loops have ended; cancel them first.
    pub async fn join(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                warn!(error = &error as &dyn std::error::Error, "a loop ended badly");
            }
        }
    }
}

/// Starts the loops that this configuration needs. Every machine that works follows the chain.
pub fn start(deps: &Deps, completions: broadcast::Receiver<Completion>, cancel: CancellationToken) -> Loops {
    let on = &deps.config.subsystems;
    let wake = Arc::new(Notify::new());
    let mut scheduler = ChainScheduler::new(Arc::new(deps.fence.clone()), Bounds::of(deps.network.block_delay))
        .watcher(Arc::new(MessageWatcher::new(deps)));
    if on.seals() {
        scheduler = scheduler.handler(Arc::new(WakePoller(Arc::clone(&wake))));
    }
    scheduler = window::handlers(deps).into_iter().fold(scheduler, ChainScheduler::handler);
    if on.enable_winning_post {
        scheduler = winning::handlers(deps).into_iter().fold(scheduler, ChainScheduler::handler);
    }
    let balances = Balances::default();
    if on.sends_messages() || on.proves() {
        scheduler = scheduler.handler(balances.handler(deps));
    }
    let scheduled = scheduler.start(heads_of(deps.chain.clone(), cancel.clone()), &cancel);
    let (heads, status) = (scheduled.heads(), scheduled.status());
    let mut tasks = scheduled.into_tasks();
    if on.enable_winning_post {
        tasks.push(winning::start(deps, heads.clone(), cancel.clone()));
    }
    if on.seals() {
        tasks.push(tokio::spawn(requests::follow(deps.clone(), Arc::clone(&wake), cancel.clone())));
        tasks.push(tokio::spawn(poll_pipeline(deps.clone(), completions, heads, wake, cancel)));
    }
    Loops { status, balances, tasks }
}

/// Head changes of the chain, until cancelled.
fn heads_of(chain: Client, cancel: CancellationToken) -> impl Stream<Item = Update> + Send {
    let follower = follow(chain, FollowOptions::default(), cancel);
    futures::stream::unfold(follower, async |mut follower: Follower| {
        let update = follower.next().await?;
        Some((update, follower))
    })
}
