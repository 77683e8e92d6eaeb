//! The clock of a chain whose epochs pass by themselves, where miners make blocks.

use std::time::Duration;

use curio_devnet::Options;

use crate::support::{DEADLINE, Miner, Net, options};

/// Blocks this fast leave a miner no time of its own.
const PERIOD: Duration = Duration::from_millis(20);

/// A chain with a miner that wins most epochs, running.
async fn start(patience: Duration) -> (Net, Miner) {
    let mut net = Net::start(Options { miner_patience: patience, ..options() }).await;
    let miner = net.powerful_miner().await;
    net.devnet.let_run(PERIOD);
    (net, miner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patient_chain_waits_for_the_block_of_the_winner() {
    const BLOCKS: usize = 3;
    let (net, miner) = start(DEADLINE).await;
    let mut mined = 0;
    while mined < BLOCKS {
        // The head stands still at an epoch that the miner wins, so that what is made on it comes in time.
        let base = net.head();
        let Some(template) = net.template(&miner, &base, base.height + 1).await else {
            net.wait_above(base.height).await;
            continue;
        };
        let block = net.client.miner_create_block(&template).await.unwrap();
        net.client.sync_submit_block(&block).await.unwrap();
        let at = net.client.chain_get_tip_set_by_height(base.height + 1, net.head().key()).await.unwrap();
        let miners: Vec<_> = at.blocks.iter().map(|block| block.miner).collect();
        assert_eq!(miners, [miner.address], "the process made no block beside ours at {}", at.height);
        mined += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_goes_on_without_a_winner_that_does_not_come() {
    const PATIENCE: Duration = Duration::from_millis(50);
    let (net, _) = start(PATIENCE).await;
    let height = net.head().height;
    net.wait_above(height + 5).await;
}
