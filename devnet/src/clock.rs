//! The clock of a chain that runs: an epoch after each period, made by a miner of the chain or by the process.

use std::sync::Arc;
use std::time::Duration;

use fvm_shared::clock::ChainEpoch;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Sees to it that there is a tipset after each period, until the token is cancelled.
///
/// An epoch that a miner has made a block for needs none of ours. Where a miner wins, its block is waited for
/// as long as the options say. When the machine or a miner is too slow the chain runs later, as a real one
/// does; it never skips an epoch.
pub async fn run(node: Arc<Node>, period: Duration, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut last = node.chain().head().height;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = wait_for_miners(&node, last) => {}
        }
        let node = node.clone();
        let made = tokio::task::spawn_blocking(move || {
            let mut chain = node.chain();
            match chain.head().height > last {
                true => chain.head().height,
                false => chain.produce(0).height,
            }
        });
        let Ok(height) = made.await else {
            tracing::error!("making a tipset failed; the chain stands still");
            return;
        };
        last = height;
    }
}

/// Gives the winner of the epoch after `last` time for its block, unless it is there already.
async fn wait_for_miners(node: &Arc<Node>, last: ChainEpoch) {
    let patience = node.options.miner_patience;
    if patience.is_zero() {
        return;
    }
    let asked = node.clone();
    let won = tokio::task::spawn_blocking(move || {
        let chain = asked.chain();
        (chain.head().height <= last && chain.is_won_next()).then(|| (chain.head().height, chain.heights()))
    });
    let Ok(Some((height, mut heights))) = won.await else { return };
    // Whether the block came or the patience ended, the clock goes on.
    let _ = tokio::time::timeout(patience, heights.wait_for(|head| *head > height)).await;
}
