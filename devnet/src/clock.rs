//! The clock of a chain that runs: an epoch after each period, made by a miner of the chain or by the process.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fvm_shared::clock::ChainEpoch;
use tokio_util::sync::CancellationToken;

use crate::node::Node;

/// Seconds since 1970.
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Sees to it that there is a tipset after each period, until the token is cancelled.
///
/// An epoch that a miner has made a block for needs none of ours. Where a miner wins, its block is waited for
/// as long as the options say. When the machine or a miner is too slow the chain runs later, as a real one
/// does; it never skips an epoch.
pub async fn run(node: Arc<Node>, period: Duration, stop: CancellationToken) {
    let mut last = node.chain().head().height;
    // With a whole second, as timestamps have them: in the middle of one, miners would find every epoch begun already.
    let mut began = UNIX_EPOCH + Duration::from_secs(unix_seconds());
    loop {
        let rest = (began + period).duration_since(SystemTime::now()).unwrap_or_default();
        tokio::select! {
            () = stop.cancelled() => return,
            // Not longer, should somebody set the machine's clock back.
            () = tokio::time::sleep(rest.min(period)) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = wait_for_miners(&node, last) => {}
        }
        let node = node.clone();
        let made = tokio::task::spawn_blocking(move || {
            let mut chain = node.chain();
            match chain.head().height > last {
                true => (chain.head().height, None),
                false => {
                    let now = unix_seconds();
                    (chain.produce_at(now).height, Some(now))
                }
            }
        });
        let Ok((height, made)) = made.await else {
            tracing::error!("making a tipset failed; the chain stands still");
            return;
        };
        began = next_began(began, period, made);
        last = height;
    }
}

/// When the newest epoch began. One that a miner made late began in time, so that the next one is due at once; one that the
/// process `made` late began in the second in which it was made.
fn next_began(began: SystemTime, period: Duration, made: Option<u64>) -> SystemTime {
    let in_time = began + period;
    made.map_or(in_time, |second| in_time.max(UNIX_EPOCH + Duration::from_secs(second)))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Once the epochs of a chain that was started in the middle of a second, or that had waited for a block, had begun
    /// before miners saw them: each of their elections was for an epoch too late, and no block of theirs in the chain.
    #[test]
    fn epochs_begin_with_their_timestamps() {
        let at = |seconds: f64| UNIX_EPOCH + Duration::from_secs_f64(seconds);
        let second = Duration::from_secs(1);
        let table = [
            ("in time", 10.0, second, Some(11), 11.0),
            ("the machine stood still", 10.0, second, Some(15), 15.0),
            ("a miner was waited for", 10.0, second, None, 11.0),
            ("and the epoch after its block", 11.0, second, Some(16), 16.0),
            ("a part of a second", 10.25, second / 4, Some(10), 10.5),
            ("a part of a second, late", 10.25, second / 4, Some(11), 11.0),
        ];
        for (case, began, period, made, expected) in table {
            assert_eq!(next_began(at(began), period, made), at(expected), "{case}");
        }
    }
}
