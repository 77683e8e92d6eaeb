//! Wrong blocks, each with the words of a Lotus node for it, and what the slash filter remembers.

use curio_chain::types::BlockMsg;
use serde_json::json;

use crate::fixtures::{plain, recorded};
use crate::support::{Miner, Net, options};

/// What is wrong with a block.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// A second late, without a new signature.
    AlteredTimestamp,
    /// A second late, signed.
    Timestamp,
    /// One win too many, signed.
    Wins,
    /// Another winning PoSt, signed.
    Post,
    /// Another winning PoSt, not signed again.
    Altered,
    /// Parents that nobody knows.
    Parents,
    /// Far ahead of the clock.
    Future,
}

async fn spoil(net: &Net, miner: &Miner, wrong: Wrong) -> BlockMsg {
    const AHEAD: i64 = 100_000_000;
    let mut block = net.block(miner).await;
    let header = &mut block.header;
    match wrong {
        Wrong::AlteredTimestamp | Wrong::Timestamp => header.timestamp += 1,
        Wrong::Wins => header.election_proof.as_mut().unwrap().win_count += 1,
        Wrong::Post | Wrong::Altered => header.win_post_proof[0].proof_bytes = vec![0; 192],
        Wrong::Parents => {
            let unknown =
                recorded("SyncSubmitBlock.unknown_parents")["request"]["params"][0]["Header"]["Parents"].clone();
            header.parents = serde_json::from_value(unknown).unwrap();
        }
        Wrong::Future => {
            header.height = header.height + AHEAD;
            header.timestamp += AHEAD as u64;
        }
    }
    match wrong {
        Wrong::Timestamp | Wrong::Wins | Wrong::Post => net.sign(miner, &mut block).await,
        Wrong::AlteredTimestamp | Wrong::Altered | Wrong::Parents | Wrong::Future => {}
    }
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_block_is_told_in_the_words_of_a_lotus_node() {
    for (name, wrong) in [
        ("bad_timestamp", Wrong::AlteredTimestamp),
        ("wrong_timestamp_signed", Wrong::Timestamp),
        ("wrong_win_count", Wrong::Wins),
        ("wrong_winning_post_signed", Wrong::Post),
        ("altered_after_signing", Wrong::Altered),
        ("unknown_parents", Wrong::Parents),
        ("in_the_future", Wrong::Future),
    ] {
        let (net, miner) = Net::with_miner().await;
        let block = spoil(&net, &miner, wrong).await;
        let head = net.head();
        let answer = net.call("SyncSubmitBlock", json!([block])).await;
        assert_eq!(answer["error"]["code"], 1, "{name}: {answer}");
        let theirs = recorded(&format!("SyncSubmitBlock.{name}"));
        let theirs = plain(theirs["response"]["error"]["message"].as_str().unwrap());
        // The library's last word on bytes that are no proof; ours only says that they are none.
        let theirs = theirs.replace("not on curve", "winning post was invalid");
        assert_eq!(plain(answer["error"]["message"].as_str().unwrap()), theirs, "{name}");
        assert_eq!(net.head(), head, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_without_its_members_or_of_nobody_is_refused() {
    let (net, miner) = Net::with_miner().await;
    let whole = net.block(&miner).await;
    let idle = net.miner().await;
    type Change = fn(&mut BlockMsg);
    let changes: [(&str, Change); 5] = [
        ("nil ticket", |block| block.header.ticket = None),
        ("nil election proof", |block| block.header.election_proof = None),
        ("nil signature", |block| block.header.block_sig = None),
        ("nil bls aggregate", |block| block.header.bls_aggregate = None),
        ("messages didn't match", |block| block.header.messages = block.header.parent_state_root),
    ];
    for (why, change) in changes {
        let mut block = whole.clone();
        change(&mut block);
        // A height of its own, so that the slash filter lets it through to the check that is meant.
        let refusal = refused_first(&net, &miner, &block).await;
        assert!(refusal.contains(why), "{why}: {refusal}");
    }
    let mut block = net.block(&miner).await;
    block.header.miner = idle.address;
    let refusal = net.refusal(&block).await;
    assert!(refusal.contains("not eligible to mine"), "{refusal}");
}

/// Refusal of a block by a chain that has seen none, built as the given one was.
async fn refused_first(net: &Net, miner: &Miner, block: &BlockMsg) -> String {
    let (other, twin) = Net::with_miner().await;
    assert_eq!(twin.address, miner.address, "two chains of one seed are the same");
    other.advance_to(block.header.height.0 - 1);
    assert_eq!(other.head().key(), &block.header.parents, "below {}", net.head().height);
    other.refusal(block).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_at_all_crashes_the_method_as_in_a_lotus_node() {
    let net = Net::start(options()).await;
    for name in ["SyncSubmitBlock.null", "MinerCreateBlock.null_template"] {
        let theirs = recorded(name);
        let method = theirs["request"]["method"].as_str().unwrap().trim_start_matches("Filecoin.").to_owned();
        let answer = net.call(&method, json!([null])).await;
        assert_eq!(answer["error"], theirs["response"]["error"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_block_of_an_epoch_or_on_the_same_parents_is_refused_even_after_a_wrong_one() {
    for (name, null_rounds) in [("slash_filter_same_epoch", 0), ("slash_filter_same_parents", 2)] {
        let (net, miner) = Net::with_miner().await;
        let first = spoil(&net, &miner, Wrong::Timestamp).await;
        net.refusal(&first).await;
        let base = net.head();
        let template = net.template(&miner, &base, base.height + 1 + null_rounds).await;
        let mut template =
            template.unwrap_or_else(|| panic!("{name}: the seed of the chain makes this epoch a won one"));
        template.winning_post_proof[0].proof_bytes.reverse();
        let second = net.client.miner_create_block(&template).await.unwrap();
        let theirs = recorded(&format!("SyncSubmitBlock.{name}"));
        let answer = net.call("SyncSubmitBlock", json!([second])).await;
        let words = |value: &serde_json::Value| plain(value["error"]["message"].as_str().unwrap_or_default());
        assert_eq!(words(&answer), words(&theirs["response"]), "{name}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(&first.header.cid().to_string()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_cannot_be_made_is_refused_in_the_words_of_a_lotus_node() {
    let (net, miner) = Net::with_miner().await;
    let good = serde_json::to_value(net.winning_template(&miner).await).unwrap();
    for (name, member) in [("bad_parents", "Parents"), ("empty_parents", "Parents"), ("unknown_miner", "Miner")] {
        let theirs = recorded(&format!("MinerCreateBlock.{name}"));
        let mut template = good.clone();
        template[member] = theirs["request"]["params"][0][member].clone();
        let answer = net.call("MinerCreateBlock", json!([template])).await;
        let words = |value: &serde_json::Value| plain(value["error"]["message"].as_str().unwrap_or_default());
        assert_eq!(words(&answer), words(&theirs["response"]), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_made_block_has_the_members_of_a_lotus_nodes() {
    let (net, miner) = Net::with_miner().await;
    let block = serde_json::to_value(net.block(&miner).await).unwrap();
    let theirs = &recorded("MinerCreateBlock.ok")["response"]["result"];
    assert_eq!(crate::fixtures::shape(&block), crate::fixtures::shape(theirs));
}
