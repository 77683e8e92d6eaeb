//! The end of a window, for work that must not outlive it.

use std::time::Duration;

use curio_chain::Client;
use curio_core::Epoch;
use tracing::debug;

/// Longest pause between two looks at the head.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Ends when the head has reached `epoch`, and gives the head. A chain node that is away, or has gone back, says
/// nothing about the window: only a head ends it.
pub async fn reached(chain: &Client, epoch: Epoch, block_delay: Duration) -> Epoch {
    let pause = pause(block_delay);
    loop {
        match chain.chain_head().await {
            Ok(head) if head.height >= epoch => return head.height,
            Ok(_) => {}
            Err(error) => debug!("the head is not known while a proof is made: {error}"),
        }
        tokio::time::sleep(pause).await;
    }
}

/// Between two looks at the head.
pub fn pause(block_delay: Duration) -> Duration {
    block_delay.clamp(Duration::from_millis(100), LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_looked_at_once_an_epoch_and_every_few_seconds() {
        for (delay_ms, pause_ms) in [(0, 100), (250, 250), (4000, 4000), (30_000, 5000)] {
            assert_eq!(pause(Duration::from_millis(delay_ms)), Duration::from_millis(pause_ms));
        }
    }
}
