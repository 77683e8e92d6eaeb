//! The rules of the transport, several nodes, deadlines, and the sentences that people read.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use curio_chain::types::{Message, MessageSendSpec, TipSetKey};
use curio_chain::{Address, Client, ClientOptions, Endpoint, RpcError, TokenAmount};
use curio_core::{Failure, SpId};
use serde_json::json;

use crate::fake_node::{Call, FakeNode, Reply, client, dead_endpoint};
use crate::fixtures;

fn network_name(_: &Call) -> Reply {
    Reply::result(json!("labnet2k"))
}

/// An error and its causes in one line.
fn whole(error: impl Into<anyhow::Error>) -> String {
    format!("{:#}", error.into())
}

#[tokio::test]
async fn the_body_decides_and_not_the_status() {
    // Recorded answers to requests of all kinds, given here to one and the same call.
    for (name, wanted) in [
        ("Transport.no_jsonrpc_member", Ok("labnet2k")),
        ("Transport.bad_address", Err("(code -32700)")),
        ("Transport.method_not_found", Err("method 'Filecoin.NoSuchMethod' not found (code -32601)")),
        ("Transport.too_many_params", Err("wrong param count (method 'Filecoin.ChainHead'): 1 != 0 (code -32602)")),
        ("Transport.empty_body", Err("Invalid request (code -32600)")),
        ("Transport.no_token_write", Err("missing permission to invoke 'MpoolPush' (need 'write') (code 1)")),
        ("Transport.invalid_token", Err("refused the token")),
        ("Transport.garbage_token", Err("refused the token")),
        ("Transport.not_bearer", Err("refused the token")),
        ("Transport.unknown_path", Err("is not one of a Filecoin node (HTTP 404: 404 page not found)")),
        ("Transport.id_null", Err("is not one of a Filecoin node (HTTP 200: an empty body)")),
        ("Transport.batch", Err("is not one of a Filecoin node (HTTP 200: [{")),
        ("Transport.get_readyz", Err("failed to reach the chain node at")),
        ("Transport.id_string", Err("failed to read the chain node's answer to Filecoin.StateNetworkName")),
    ] {
        let recorded = fixtures::one("rpc", name);
        let body = match recorded.content["response_raw"].as_str() {
            Some(raw) => raw.to_owned(),
            None => recorded.body(),
        };
        let status = recorded.status();
        let node = FakeNode::start(move |_| Reply::Body(status, body.clone())).await;
        let outcome = node.client().state_network_name().await;
        match (outcome, wanted) {
            (Ok(found), Ok(wanted)) => assert_eq!(found, wanted, "{name}"),
            (Err(error), Err(wanted)) => {
                let text = whole(error);
                assert!(text.contains(wanted), "{name}: {text}");
            }
            (outcome, _) => panic!("{name}: {outcome:?}"),
        }
        let repeated = name == "Transport.get_readyz";
        assert_eq!(node.calls().len(), if repeated { 3 } else { 1 }, "{name}");
    }
}

#[tokio::test]
async fn a_node_that_is_away_is_named_in_one_sentence() {
    let dead = dead_endpoint().await;
    let error = client(std::slice::from_ref(&dead)).chain_head().await.unwrap_err();
    let failure = Failure::from(error);
    let text = failure.to_string();
    assert!(text.starts_with(&format!("failed to reach the chain node at {}: ", dead.url)), "{text}");
    assert!(text.contains("refused"), "{text}");
    assert!(matches!(failure, Failure::Unavailable(_)));
}

#[tokio::test]
async fn another_node_is_asked_when_one_is_away_and_remembered() {
    let node = FakeNode::start(network_name).await;
    let client = client(&[dead_endpoint().await, node.endpoint()]);
    assert_eq!(client.state_network_name().await.unwrap(), "labnet2k");
    assert_eq!(client.state_network_name().await.unwrap(), "labnet2k");
    assert_eq!(node.calls().len(), 2);
}

#[tokio::test]
async fn a_node_that_fails_is_left_alone_for_a_while() {
    let sick = FakeNode::start(|_| Reply::Body(502, "<html>bad gateway</html>".into())).await;
    let well = FakeNode::start(network_name).await;
    let client = client(&[sick.endpoint(), well.endpoint()]);
    for _ in 0..5 {
        client.state_network_name().await.unwrap();
    }
    assert_eq!((sick.calls().len(), well.calls().len()), (1, 5));
}

#[tokio::test]
async fn a_token_that_one_node_refuses_may_be_good_for_another() {
    let strict = FakeNode::start(|_| Reply::Body(401, String::new())).await;
    let well = FakeNode::start(network_name).await;
    let both = client(&[strict.endpoint(), well.endpoint()]);
    assert_eq!(both.state_network_name().await.unwrap(), "labnet2k");
    let error = strict.client().state_network_name().await.unwrap_err();
    assert!(matches!(error, RpcError::Unauthorized { .. }));
    assert_eq!(strict.calls().len(), 2, "asking again with the same token is no use");
}

#[tokio::test]
async fn the_token_goes_in_the_header_and_is_never_shown() {
    let node = FakeNode::start(network_name).await;
    let endpoint = Endpoint::parse(&format!("sec.ret.token:{}", node.url)).unwrap();
    let client = client(&[endpoint]);
    client.state_network_name().await.unwrap();
    assert_eq!(node.calls()[0].authorization.as_deref(), Some("Bearer sec.ret.token"));
    assert!(!format!("{client:?}").contains("sec.ret"));
    node.client().state_network_name().await.unwrap();
    assert_eq!(node.calls()[1].authorization, None);
}

#[tokio::test]
async fn a_call_ends_at_its_deadline() {
    let node = FakeNode::start(|_| Reply::Hang).await;
    let options = ClientOptions {
        call_deadline: Duration::from_millis(200),
        attempt_timeout: Duration::from_millis(150),
        backoff: Duration::from_millis(1),
        ..ClientOptions::default()
    };
    let client = Client::new(vec![node.endpoint()], options).unwrap();
    let call = tokio::time::timeout(Duration::from_secs(5), client.chain_head());
    let error = call.await.expect("the deadline holds").unwrap_err();
    assert!(whole(error).contains("did not answer within"));
}

fn message() -> Message {
    Message::new(Address::new_id(1), Address::new_id(2), 0, TokenAmount::from_atto(1), vec![])
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_is_not_sent_again_unless_the_node_would_know_it() {
    let lost = Arc::new(AtomicUsize::new(0));
    let counter = lost.clone();
    let sick = FakeNode::start(move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Reply::Body(502, String::new())
    })
    .await;
    let well = FakeNode::start(|call| {
        let mut message = call.body["params"][0].clone();
        message["Nonce"] = json!(7);
        Reply::result(json!({"Message": message, "Signature": {"Type": 2, "Data": "AQ=="}}))
    })
    .await;
    let both = [sick.endpoint(), well.endpoint()];

    assert!(client(&both).mpool_push_message(&message(), None).await.is_err());
    assert_eq!((lost.load(Ordering::SeqCst), well.calls().len()), (1, 0));

    let spec = MessageSendSpec { msg_uuid: "7f3bb2a8-58a8-4c1e-9d6b-0123456789ab".into(), ..Default::default() };
    let signed = client(&both).mpool_push_message(&message(), Some(&spec)).await.unwrap();
    assert_eq!(signed.message.nonce, 7);
    assert_eq!((lost.load(Ordering::SeqCst), well.calls().len()), (2, 1));

    // Not even connected: nothing can have been sent.
    let client = client(&[dead_endpoint().await, well.endpoint()]);
    assert!(client.mpool_push_message(&message(), None).await.is_ok());
}

#[tokio::test]
async fn the_check_at_the_start_names_what_is_wrong() {
    fn node(network: &'static str, api: u32) -> impl Fn(&Call) -> Reply + Send + Sync + 'static {
        move |call| match call.method() {
            "Filecoin.StateNetworkName" => Reply::result(json!(network)),
            "Filecoin.Version" => {
                Reply::result(json!({"Version": "v", "APIVersion": api, "BlockDelay": 1, "Agent": "lotus"}))
            }
            other => panic!("{other} is not part of the check"),
        }
    }
    let (v1, v0) = (131_840, 66_816);
    let test = FakeNode::start(node("labnet2k", v1)).await;
    let main = FakeNode::start(node("mainnet", v1)).await;
    let old = FakeNode::start(node("labnet2k", v0)).await;
    let dead = dead_endpoint().await;

    let checked = client(&[dead.clone(), test.endpoint()]).check(None).await.unwrap();
    assert_eq!(checked.network, "labnet2k");
    let error = client(&[test.endpoint(), main.endpoint()]).check(None).await.unwrap_err();
    assert!(whole(error).contains("is on the network 'mainnet', but 'labnet2k' is wanted"));
    let error = test.client().check(Some("mainnet")).await.unwrap_err();
    assert!(whole(error).contains("is on the network 'labnet2k', but 'mainnet' is wanted"));
    let error = old.client().check(None).await.unwrap_err();
    assert!(whole(error).contains("speaks API version 1.5.0"));
    let error = client(&[dead]).check(None).await.unwrap_err();
    assert!(whole(error).starts_with("failed to reach the chain node at http://127.0.0.1:"));
}

#[test]
fn a_client_without_a_node_is_refused() {
    let error = Client::new(vec![], ClientOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no chain node is configured"));
}

#[tokio::test]
async fn randomness_of_another_length_is_refused() {
    let node = FakeNode::start(|_| Reply::result(json!("AQID"))).await;
    let error = node.client().seal_ticket(SpId(1000), curio_core::Epoch(1), &TipSetKey::HEAD).await.unwrap_err();
    assert!(whole(error).contains("randomness of 3 bytes, 32 are expected"));
}
