//! Forks with another beacon, a head that goes backwards, a node that is silent, messages that do not land.

use curio_chain::TokenAmount;
use curio_chain::types::{Message, TipSetKey};
use curio_core::Epoch;
use futures::future::ready;
use futures::{FutureExt, SinkExt, StreamExt, TryStreamExt};

use crate::support::{DEADLINE, Net, options, told};

#[tokio::test(flavor = "multi_thread")]
async fn another_beacon_changes_the_randomness_of_the_epochs_above_the_fork_only() {
    let net = Net::start(options()).await;
    net.devnet.advance(20);
    let old = net.head();
    let draw = async |epoch: i64, key: &TipSetKey| {
        net.client.state_get_randomness_from_beacon(4, Epoch(epoch), &[], key).await.unwrap()
    };
    let entry = async |epoch: i64| net.client.state_get_beacon_entry(Epoch(epoch)).await.unwrap();
    let (below, above, ahead) = (draw(14, old.key()).await, draw(15, old.key()).await, entry(40).await);

    let new = net.devnet.reorganise_with_other_beacon(6, 7).unwrap();
    assert_eq!(new.height, Epoch(21));
    assert_eq!(draw(14, new.key()).await, below);
    assert_ne!(draw(15, new.key()).await, above);
    assert_eq!(draw(15, old.key()).await, above, "seen from the tipset that left the chain");
    assert_ne!(entry(40).await, ahead, "the entries to come are others, too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_reorganisation_leaves_the_beacon_as_it_is() {
    let net = Net::start(options()).await;
    net.devnet.advance(20);
    let before = net.client.state_get_beacon_entry(Epoch(18)).await.unwrap();
    net.devnet.reorganise(6, 7).unwrap();
    assert_eq!(net.client.state_get_beacon_entry(Epoch(18)).await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_goes_backwards_gives_its_messages_back() {
    let net = Net::start(options()).await;
    net.devnet.advance(5);
    let to = net.client.wallet_new("bls").await.unwrap();
    let message = Message::new(net.rich(), to, 0, TokenAmount::from_whole(1), Vec::new());
    let signed = net.client.mpool_push_message(&message, None).await.unwrap();
    net.devnet.advance(3);
    let mut follower = net.devnet.follow();

    net.devnet.rewind(4).unwrap();
    assert_eq!(net.head().height, Epoch(4));
    follower.recv().await.unwrap();
    assert_eq!(told(&follower.recv().await.unwrap()), "revert 8, revert 7, revert 6, revert 5");
    assert_eq!(net.devnet.pending(), [signed.cid().to_string()]);
    let at = net.client.chain_get_tip_set_by_height(Epoch(5), &TipSetKey::HEAD).await;
    assert!(at.is_err(), "nothing is left above the head");

    net.devnet.advance(2);
    let found = net.client.state_search_msg(&TipSetKey::HEAD, signed.cid(), None, true).await.unwrap();
    assert_eq!(found.unwrap().height, Epoch(6));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_below_the_premium_that_blocks_ask_for_lands_only_after_it_offers_more() {
    let net = Net::start(options()).await;
    net.devnet.advance(2);
    let message = Message::new(net.rich(), net.rich(), 0, TokenAmount::default(), Vec::new());
    let low = net.client.mpool_push_message(&message, None).await.unwrap();
    let asked = low.message.gas_premium.clone() * 2;
    net.devnet.hold_back_below(asked.clone());
    net.devnet.advance(3);
    assert_eq!(net.devnet.pending(), [low.cid().to_string()]);

    let fee_cap = low.message.gas_fee_cap.clone() + &asked;
    let more = Message { gas_premium: asked, gas_fee_cap: fee_cap, ..low.message.clone() };
    let more = net.client.wallet_sign_message(&net.rich(), &more).await.unwrap();
    net.client.mpool_push(&more).await.unwrap();
    net.devnet.advance(2);
    let found = net.client.state_search_msg(&TipSetKey::HEAD, low.cid(), None, true).await.unwrap();
    assert_eq!(found.map(|found| found.message), Some(more.cid()), "the replacement answers for the first one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_held_back_lands_when_nothing_is_held_back_any_more() {
    let net = Net::start(options()).await;
    net.devnet.advance(2);
    let message = Message::new(net.rich(), net.rich(), 0, TokenAmount::default(), Vec::new());
    let signed = net.client.mpool_push_message(&message, None).await.unwrap();
    net.devnet.hold_back(signed.cid());
    net.devnet.advance(3);
    assert_eq!(net.devnet.pending(), [signed.cid().to_string()]);
    net.devnet.hold_nothing_back();
    net.devnet.advance(1);
    assert!(net.devnet.pending().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_answers_when_the_silence_ends() {
    let net = Net::start(options()).await;
    let silence = net.devnet.silence();
    let client = net.client.clone();
    let asked = tokio::spawn(async move { client.chain_head().await });
    net.devnet.advance(3);
    assert!(!asked.is_finished());
    drop(silence);
    let head = tokio::time::timeout(DEADLINE, asked).await.unwrap().unwrap().unwrap();
    assert_eq!(head.height, Epoch(3), "the call was taken up after the silence");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_is_as_silent_as_its_node_and_ends_when_the_node_hangs_up() {
    const NOTIFY: &str = r#"{"jsonrpc":"2.0","method":"Filecoin.ChainNotify","params":[],"id":1}"#;
    let net = Net::start(options()).await;
    let mut url = net.devnet.url.join("/rpc/v1").unwrap();
    url.set_scheme("ws").unwrap();
    let (socket, _) = tokio_tungstenite::connect_async(url.as_str()).await.unwrap();
    let (mut requests, answers) = socket.split();
    // Pings come in between.
    let mut frames = answers.try_filter(|frame| ready(frame.is_text()));
    requests.send(NOTIFY.into()).await.unwrap();
    for told in ["\"result\":1", "\"current\""] {
        let frame = frames.next().await.unwrap().unwrap();
        assert!(frame.to_text().unwrap().contains(told), "{frame}");
    }

    let silence = net.devnet.silence();
    net.devnet.advance(2);
    assert!(frames.next().now_or_never().is_none(), "a silent node tells nothing");
    drop(silence);
    for height in [1, 2] {
        let frame = tokio::time::timeout(DEADLINE, frames.next()).await.unwrap().unwrap().unwrap();
        assert!(frame.to_text().unwrap().contains(&format!("\"Height\":{height},")), "{frame}");
    }

    net.devnet.hang_up();
    let end = async { while let Some(Ok(_)) = frames.next().await {} };
    tokio::time::timeout(DEADLINE, end).await.expect("the connection ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_over_http_needs_an_admin_and_does_what_the_test_calls_do() {
    let net = Net::start(options()).await;
    net.devnet.advance(5);
    let control = async |path: &str, token: &str| {
        let url = net.devnet.url.join(path).unwrap();
        net.http.post(url).bearer_auth(token).send().await.unwrap().status().as_u16()
    };
    let admin = &net.devnet.token;
    let reader = net.call("AuthNew", serde_json::json!([["read"]])).await["result"].as_str().unwrap().to_owned();
    use base64::Engine;
    let reader = String::from_utf8(base64::engine::general_purpose::STANDARD.decode(reader).unwrap()).unwrap();
    for path in [
        "/control/rewind?depth=1",
        "/control/reorg?depth=1&beacon=true",
        "/control/silence?on=false",
        "/control/hang-up",
        "/control/premium?least=0",
    ] {
        assert_eq!(control(path, &reader).await, 403, "{path}");
        assert_eq!(control(path, admin).await, 200, "{path}");
    }
    // Back by one, then two on another fork in the place of one.
    assert_eq!(net.head().height, Epoch(5));
    assert_eq!(control("/control/rewind?depth=9", admin).await, 400);
}
