//! Frames on the websocket as a Lotus node sends them.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::{Lab, fixture, fixtures};

/// Bound on the wait for a frame.
const PATIENCE: Duration = Duration::from_secs(20);

struct Socket(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Socket {
    async fn open(lab: &Lab) -> Socket {
        Socket(tokio_tungstenite::connect_async(address(lab)).await.unwrap().0)
    }

    async fn say(&mut self, text: impl Into<String>) {
        self.0.send(Message::text(text.into())).await.unwrap();
    }

    async fn subscribe(&mut self, id: Value) {
        let request = json!({ "jsonrpc": "2.0", "method": "Filecoin.ChainNotify", "params": [], "id": id });
        self.say(request.to_string()).await;
    }

    async fn next(&mut self) -> Message {
        tokio::time::timeout(PATIENCE, self.0.next()).await.expect("a frame in time").unwrap().unwrap()
    }

    /// The next text frame.
    async fn hear(&mut self) -> String {
        let text = async {
            loop {
                // Pings come all the time; they are no answer.
                if let Some(Ok(Message::Text(text))) = self.0.next().await {
                    return text.to_string();
                }
            }
        };
        tokio::time::timeout(PATIENCE, text).await.expect("a text frame in time")
    }

    /// Hears as many frames as are expected, and compares. Channels do not wait for each other.
    async fn expect(&mut self, name: &str, base: i64, expected: &mut Vec<(i64, Value)>) {
        let mut heard = Vec::new();
        for _ in 0..expected.len() {
            heard.push(outline(&self.hear_json().await, base));
        }
        heard.sort_by_key(|(channel, _)| *channel);
        expected.sort_by_key(|(channel, _)| *channel);
        assert_eq!(heard, *expected, "{name}");
        expected.clear();
    }

    async fn hear_json(&mut self) -> Value {
        serde_json::from_str(&self.hear().await).unwrap()
    }

    /// Channel, type and height of the next value.
    async fn hear_value(&mut self) -> (i64, String, i64) {
        let frame = self.hear_json().await;
        assert_eq!(frame["method"], "xrpc.ch.val", "{frame}");
        assert!(frame.get("id").is_none(), "values carry no id");
        let change = &frame["params"][1][0];
        let kind = change["Type"].as_str().unwrap().to_owned();
        (frame["params"][0].as_i64().unwrap(), kind, change["Val"]["Height"].as_i64().unwrap())
    }
}

fn address(lab: &Lab) -> String {
    lab.devnet.url.join("/rpc/v1").unwrap().to_string().replace("http://", "ws://")
}

/// Recorded conversations that are not replayed, and why.
const EXCLUDED: &[(&str, &str)] = &[("ChainNotify.invalid_token", "a handshake without frames; tested below")];

/// A frame as far as it is the same on every chain: who it is for (0 for answers), and what it says, with
/// heights counted from the first one told.
fn outline(frame: &Value, base: i64) -> (i64, Value) {
    if frame["method"].is_null() {
        let members: Vec<&String> = frame.as_object().unwrap().keys().collect();
        return (0, json!([frame["id"], frame["error"], frame["result"].is_number(), members]));
    }
    let changes: Vec<Value> = match frame["params"][1].as_array() {
        None => Vec::new(),
        Some(changes) => {
            // In a reorganisation the new fork's heights depend on where its null rounds are.
            let exact = changes.len() == 1;
            let height = |change: &Value| exact.then(|| change["Val"]["Height"].as_i64().unwrap() - base);
            changes.iter().map(|change| json!([change["Type"], height(change)])).collect()
        }
    };
    (frame["params"][0].as_i64().unwrap(), json!([frame["method"], frame["id"], changes]))
}

/// Height of the last change that a frame tells.
fn height_of(frame: &Value) -> i64 {
    let changes = frame["params"][1].as_array().unwrap();
    changes.last().unwrap()["Val"]["Height"].as_i64().unwrap()
}

/// Moves the chain so that it has what the recorded frame tells.
fn follow(lab: &Lab, frame: &Value, theirs: &mut i64) {
    let changes = frame["params"][1].as_array().unwrap();
    let of_type = |kind: &str| changes.iter().filter(|change| change["Type"] == kind).count();
    let newest = height_of(frame);
    match of_type("revert") {
        0 => {
            lab.devnet.advance_over(u32::try_from(newest - *theirs - 1).unwrap());
        }
        reverts => {
            lab.devnet.reorganise(reverts, of_type("apply")).unwrap();
        }
    }
    *theirs = newest;
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_conversations_go_the_same_way() {
    const TEXT_FRAME: u64 = 1;
    let mut replayed = 0;
    for name in fixtures("rpc") {
        if !name.starts_with("ChainNotify.") || EXCLUDED.iter().any(|(excluded, _)| *excluded == name) {
            continue;
        }
        replayed += 1;
        let lab = Lab::start().await;
        lab.advance(3);
        let our_base = lab.devnet.head().height.0;
        let recorded = fixture("rpc", &name);
        let frames = recorded["frames"].as_array().unwrap();
        let mut socket = Socket::open(&lab).await;
        if frames[0]["dir"].is_null() {
            // This record has what was heard only.
            socket.subscribe(json!(1)).await;
        }
        let (mut base, mut theirs) = (0, 0);
        let mut expected: Vec<(i64, Value)> = Vec::new();
        for frame in frames.iter().chain([&json!({ "dir": "send", "raw": null })]) {
            if frame["dir"] == "send" {
                socket.expect(&name, our_base, &mut expected).await;
                if let Some(raw) = frame["raw"].as_str() {
                    socket.say(raw).await;
                }
            } else if frame["opcode"].as_u64().unwrap_or(TEXT_FRAME) == TEXT_FRAME && frame["dir"] != "client closed" {
                let raw: Value = serde_json::from_str(frame["raw"].as_str().unwrap()).unwrap();
                if raw["params"][1][0]["Type"] == "current" && base == 0 {
                    base = raw["params"][1][0]["Val"]["Height"].as_i64().unwrap();
                    theirs = base;
                }
                // What was told before must have been heard before the chain moves on.
                if raw["params"][1].is_array() && height_of(&raw) > theirs {
                    socket.expect(&name, our_base, &mut expected).await;
                    follow(&lab, &raw, &mut theirs);
                }
                expected.push(outline(&raw, base));
            }
        }
    }
    assert!(replayed >= 7, "only {replayed} conversations");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channel_tells_the_head_then_every_change_until_its_request_is_cancelled() {
    let lab = Lab::start().await;
    let mut socket = Socket::open(&lab).await;
    socket.subscribe(json!(1)).await;
    // The exact bytes of the record, newline included.
    assert_eq!(socket.hear().await, "{\"id\":1,\"jsonrpc\":\"2.0\",\"result\":1}\n");
    assert_eq!(socket.hear_value().await, (1, "current".to_owned(), 0));
    lab.advance(2);
    assert_eq!(socket.hear_value().await, (1, "apply".to_owned(), 1));
    assert_eq!(socket.hear_value().await, (1, "apply".to_owned(), 2));

    // A second channel has its own number; a string id is as good.
    socket.subscribe(json!("second")).await;
    assert_eq!(socket.hear().await, "{\"id\":\"second\",\"jsonrpc\":\"2.0\",\"result\":2}\n");
    assert_eq!(socket.hear_value().await, (2, "current".to_owned(), 2));

    // Cancelled is the request, not the channel; what is not known is ignored.
    for params in [json!([2]), json!(["nobody"])] {
        socket.say(json!({ "jsonrpc": "2.0", "method": "xrpc.cancel", "params": params }).to_string()).await;
    }
    socket.say(json!({ "jsonrpc": "2.0", "method": "xrpc.cancel", "params": ["second"] }).to_string()).await;
    assert_eq!(socket.hear().await, "{\"jsonrpc\":\"2.0\",\"method\":\"xrpc.ch.close\",\"params\":[2]}\n");
    lab.advance(1);
    assert_eq!(socket.hear_value().await, (1, "apply".to_owned(), 3));
    socket.say(json!({ "jsonrpc": "2.0", "method": "xrpc.cancel", "params": [1], "id": 7 }).to_string()).await;
    assert_eq!(socket.hear().await, "{\"jsonrpc\":\"2.0\",\"method\":\"xrpc.ch.close\",\"params\":[1]}\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reorganisation_is_one_frame() {
    let lab = Lab::start().await;
    lab.advance(4);
    let mut socket = Socket::open(&lab).await;
    socket.subscribe(json!(1)).await;
    socket.hear().await;
    assert_eq!(socket.hear_value().await, (1, "current".to_owned(), 4));

    lab.devnet.reorganise(1, 2).unwrap();

    let frame = socket.hear_json().await;
    let changes: Vec<(String, i64)> = frame["params"][1]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["Type"].as_str().unwrap().to_owned(), change["Val"]["Height"].as_i64().unwrap()))
        .collect();
    assert_eq!(changes, [("revert".to_owned(), 4), ("apply".to_owned(), 4), ("apply".to_owned(), 5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_share_the_connection_and_nonsense_gets_no_answer() {
    let lab = Lab::start().await;
    let mut socket = Socket::open(&lab).await;
    socket.say("{nonsense").await;
    socket.say(json!({ "jsonrpc": "2.0", "method": "Filecoin.NoSuch", "params": [], "id": 1 }).to_string()).await;
    assert_eq!(
        socket.hear().await,
        "{\"error\":{\"code\":-32601,\"message\":\"method 'Filecoin.NoSuch' not found\"},\"id\":1,\"jsonrpc\":\"2.0\"}\n"
    );
    socket
        .say(json!({ "jsonrpc": "2.0", "method": "Filecoin.StateNetworkName", "params": [], "id": 2 }).to_string())
        .await;
    assert_eq!(socket.hear_json().await["result"], lab.devnet.network_name());
    // Without a token only reading is allowed.
    socket
        .say(json!({ "jsonrpc": "2.0", "method": "Filecoin.WalletNew", "params": ["bls"], "id": 3 }).to_string())
        .await;
    assert_eq!(socket.hear_json().await["error"]["code"], 1);
    // The server pings after five quiet seconds.
    assert!(matches!(socket.next().await, Message::Ping(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_gets_no_websocket() {
    let lab = Lab::start().await;
    let refused = tokio_tungstenite::connect_async(format!("{}?token=nonsense", address(&lab))).await;
    match refused {
        Err(Error::Http(response)) => assert_eq!(response.status().as_u16(), 401),
        other => panic!("expected 401, got {other:?}"),
    }
}
