//! Null rounds and reorganisations: what followers see, and what becomes of messages.

use std::sync::Arc;

use curio_chain::TokenAmount;
use curio_chain::types::{HeadChange, Message, TipSetKey};

use crate::support::Lab;

/// Kinds and heights of a change, such as `revert 3, apply 3, apply 4`.
fn told(changes: &Arc<Vec<HeadChange>>) -> String {
    let words: Vec<String> = changes
        .iter()
        .map(|change| match change {
            HeadChange::Current(tipset) => format!("current {}", tipset.height),
            HeadChange::Applied(tipset) => format!("apply {}", tipset.height),
            HeadChange::Reverted(tipset) => format!("revert {}", tipset.height),
        })
        .collect();
    words.join(", ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_is_one_change_with_reverts_newest_first() {
    let lab = Lab::start().await;
    lab.advance(5);
    let mut follower = lab.devnet.follow();
    lab.devnet.advance_over(2);
    lab.devnet.reorganise(2, 3).unwrap();

    assert_eq!(told(&follower.recv().await.unwrap()), "current 5");
    assert_eq!(told(&follower.recv().await.unwrap()), "apply 8");
    assert_eq!(told(&follower.recv().await.unwrap()), "revert 8, revert 5, apply 5, apply 6, apply 7");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_leaves_the_chain_comes_back_in_a_later_tipset() {
    let lab = Lab::start().await;
    lab.advance(2);
    let to = lab.client.wallet_new("bls").await.unwrap();
    let message = Message::new(lab.rich(), to, 0, TokenAmount::from_whole(1), Vec::new());
    let signed = lab.client.mpool_push_message(&message, None).await.unwrap();
    let first = lab.land(&signed).await;

    lab.devnet.reorganise(2, 3).unwrap();
    let search = async || lab.client.state_search_msg(&TipSetKey::HEAD, signed.cid(), None, true).await;
    assert_eq!(search().await.unwrap(), None);
    assert_eq!(lab.devnet.pending(), [signed.cid().to_string()]);

    lab.advance(2);
    let second = search().await.unwrap().unwrap();
    assert!(second.height > first.height);
    assert_eq!(lab.client.wallet_balance(&to).await.unwrap(), TokenAmount::from_whole(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_chains_with_the_same_seed_are_the_same_and_another_fork_has_other_tickets() {
    let (one, two) = (Lab::start().await, Lab::start().await);
    one.advance(3);
    two.advance(3);
    assert_eq!(one.devnet.head(), two.devnet.head());

    let before = one.devnet.head();
    one.devnet.reorganise(1, 1).unwrap();
    let after = one.devnet.head();
    assert_eq!(after.height, before.height);
    assert_ne!(after.blocks[0].ticket, before.blocks[0].ticket);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_tipset_cannot_be_taken_back() {
    let lab = Lab::start().await;
    lab.advance(2);
    assert!(lab.devnet.reorganise(3, 4).is_err());
    assert!(lab.devnet.reorganise(2, 1).is_err());
    assert_eq!(lab.devnet.head().height.0, 2);
}
