//! Good blocks: alone, with others in one tipset, over null rounds, too late.

use curio_chain::TokenAmount;
use curio_chain::types::{Message, TipSetKey};
use curio_devnet::{Options, PostPolicy};

use crate::support::{Miner, Net, options, told};

#[tokio::test(flavor = "multi_thread")]
async fn a_block_of_a_miner_becomes_the_head_at_once() {
    let (net, miner) = Net::with_miner().await;
    let block = net.block(&miner).await;
    let mut follower = net.devnet.follow();
    let below = net.head();
    net.client.sync_submit_block(&block).await.unwrap();

    let head = net.head();
    assert_eq!(head.cids, TipSetKey(vec![block.header.cid()]));
    assert_eq!((head.height, head.parents()), (below.height + 1, below.key()));
    let served = net.client.chain_get_tip_set(head.key()).await.unwrap();
    assert_eq!(served.blocks, [block.header]);
    assert_eq!(told(&follower.recv().await.unwrap()), format!("current {}", below.height));
    assert_eq!(told(&follower.recv().await.unwrap()), format!("apply {}", head.height));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_goes_on_above_a_block_of_a_miner() {
    let (net, miner) = Net::with_miner().await;
    let block = net.block(&miner).await;
    net.client.sync_submit_block(&block).await.unwrap();
    let mined = net.head();
    net.devnet.advance(3);
    let found = net.client.chain_get_tip_set_by_height(mined.height, &TipSetKey::HEAD).await.unwrap();
    assert_eq!(found, mined);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_a_miner_selects_is_executed_in_its_block() {
    let (net, miner) = Net::with_miner().await;
    let mut template = net.winning_template(&miner).await;
    let to = net.client.wallet_new("bls").await.unwrap();
    let message = Message::new(net.rich(), to, 0, TokenAmount::from_whole(1), Vec::new());
    let signed = net.client.mpool_push_message(&message, None).await.unwrap();
    template.messages = net.client.mpool_select(&template.parents, 0.5).await.unwrap();
    assert_eq!(template.messages, std::slice::from_ref(&signed));

    let block = net.client.miner_create_block(&template).await.unwrap();
    net.client.sync_submit_block(&block).await.unwrap();
    let mined = net.head();
    assert!(net.devnet.pending().is_empty());
    net.devnet.advance(1);
    let found = net.client.state_search_msg(&TipSetKey::HEAD, signed.cid(), None, true).await.unwrap().unwrap();
    assert_eq!((found.height, found.receipt.exit_code), (mined.height + 1, 0));
    assert_eq!(net.client.wallet_balance(&to).await.unwrap(), TokenAmount::from_whole(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_of_two_miners_on_the_same_parents_are_one_tipset_and_their_messages_count_once() {
    // Long enough for one miner's proof to last while the other one is made and proven.
    let post = PostPolicy { challenge_window: 60, ..options().post };
    let net = Net::start(Options { post, ..options() }).await;
    let miners: [Miner; 2] = net.powerful_miners().await;
    let mut templates = net.winning_templates(&miners).await;
    let to = net.client.wallet_new("bls").await.unwrap();
    let message = Message::new(net.rich(), to, 0, TokenAmount::from_whole(1), Vec::new());
    net.client.mpool_push_message(&message, None).await.unwrap();
    let base = net.head();
    let mut follower = net.devnet.follow();
    for template in &mut templates {
        template.messages = net.client.mpool_select(base.key(), 0.5).await.unwrap();
        let block = net.client.miner_create_block(template).await.unwrap();
        net.client.sync_submit_block(&block).await.unwrap();
    }

    let head = net.head();
    let mut from: Vec<_> = head.blocks.iter().map(|block| block.miner).collect();
    from.sort();
    assert_eq!(from, miners.map(|miner| miner.address));
    let height = head.height;
    follower.recv().await.unwrap();
    assert_eq!(told(&follower.recv().await.unwrap()), format!("apply {height}"));
    assert_eq!(told(&follower.recv().await.unwrap()), format!("revert {height}, apply {height}"));

    net.devnet.advance(1);
    let above = net.head();
    assert_eq!(above.parents(), head.key());
    let messages = net.client.chain_get_parent_messages(above.cids.0[0]).await.unwrap();
    assert_eq!(messages.len(), 1, "one message in two blocks");
    assert_eq!(net.client.wallet_balance(&to).await.unwrap(), TokenAmount::from_whole(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_comes_after_the_chains_own_joins_it() {
    let (net, miner) = Net::with_miner().await;
    let block = net.block(&miner).await;
    net.devnet.advance(1);
    let own = net.head();
    net.client.sync_submit_block(&block).await.unwrap();

    let head = net.head();
    assert_eq!(head.height, own.height);
    assert_eq!(head.blocks.len(), 2);
    assert!(head.cids.0.contains(&block.header.cid()) && head.cids.0.contains(&own.cids.0[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_that_comes_an_epoch_late_is_taken_and_lost() {
    let (net, miner) = Net::with_miner().await;
    let block = net.block(&miner).await;
    net.devnet.advance(2);
    let head = net.head();
    net.client.sync_submit_block(&block).await.unwrap();
    assert_eq!(net.head(), head);
    let at = net.client.chain_get_tip_set_by_height(block.header.height, &TipSetKey::HEAD).await.unwrap();
    assert!(!at.cids.0.contains(&block.header.cid()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_over_null_rounds_carries_a_beacon_entry_for_each_epoch() {
    const NULL_ROUNDS: i64 = 3;
    let (net, miner) = Net::with_miner().await;
    let block = loop {
        let base = net.head();
        if let Some(template) = net.template(&miner, &base, base.height + 1 + NULL_ROUNDS).await {
            break net.client.miner_create_block(&template).await.unwrap();
        }
        net.devnet.advance(1);
    };
    let below = net.head();
    net.client.sync_submit_block(&block).await.unwrap();
    let head = net.head();
    assert_eq!(head.height, below.height + 1 + NULL_ROUNDS);
    assert_eq!(head.blocks[0].beacon_entries.len() as i64, NULL_ROUNDS + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_block_may_be_handed_in_again() {
    let (net, miner) = Net::with_miner().await;
    let block = net.block(&miner).await;
    net.client.sync_submit_block(&block).await.unwrap();
    let head = net.head();
    net.client.sync_submit_block(&block).await.unwrap();
    assert_eq!(net.head(), head);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_miner_wins_in_proportion_to_its_power() {
    const EPOCHS: i64 = 400;
    // Three times the miner's power is with others: a quarter of five wins in an epoch.
    let net = Net::start(Options { other_power: 3 * 2048, ..options() }).await;
    let miner = net.powerful_miner().await;
    let base = net.head();
    let mut wins = 0;
    for epoch in 1..=EPOCHS {
        let template = net.template(&miner, &base, base.height + epoch).await;
        wins += template.map_or(0, |template| template.eproof.win_count);
    }
    // The draws follow from the chain's seed, so this is no game of chance: five deviations around 500.
    assert!((390..=610).contains(&wins), "{wins} wins");
    let power = net.client.state_miner_power(&miner.address, &TipSetKey::HEAD).await.unwrap();
    assert_eq!(power.total_power.quality_adj_power, (4 * 2048).into());
}
