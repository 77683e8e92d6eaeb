//! The rules of the transport as a Lotus node has them: statuses, error codes, tokens, batches, ids.

use serde_json::{Value, json};

use crate::support::{Lab, fixture, fixtures, plain};

/// Rules that this node does not keep, and why.
const EXCLUDED: &[(&str, &str)] = &[("Transport.get_readyz", "a Lotus node without peers is not ready; this one is")];

/// How the recorded request names its caller.
async fn authorization(lab: &Lab, name: &str) -> Option<String> {
    let with = |token: &str| Some(format!("Bearer {token}"));
    match name {
        "Transport.invalid_token" => with("eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJBbGxvdyI6WyJyZWFkIl19.AAAA"),
        "Transport.garbage_token" => with("garbage"),
        "Transport.not_bearer" => Some("Basic Zm9vOmJhcg==".to_owned()),
        "Transport.token_in_query" => None,
        _ if name.starts_with("Transport.no_token") => None,
        "Transport.read_token_admin" => {
            use base64::Engine;
            let encoded = lab.ok("AuthNew", json!([["read"]])).await;
            let token = base64::engine::general_purpose::STANDARD.decode(encoded.as_str().unwrap()).unwrap();
            with(std::str::from_utf8(&token).unwrap())
        }
        _ => with(&lab.devnet.token),
    }
}

/// Members of an answer, without the values of its result.
fn outline(body: &Value) -> Value {
    match body {
        Value::Array(answers) => answers.iter().map(outline).collect(),
        Value::Object(_) => {
            let mut members: Vec<&String> = body.as_object().unwrap().keys().collect();
            members.sort();
            json!({
                "members": members,
                "id": if body["id"].is_number() { json!("number") } else { body["id"].clone() },
                "code": body["error"]["code"],
                "words": match body["error"]["code"].as_i64() {
                    Some(-32700) | None => Value::Null,
                    Some(_) => json!(plain(body["error"]["message"].as_str().unwrap_or_default())),
                },
            })
        }
        other => other.clone(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transport_keeps_the_recorded_rules() {
    let lab = Lab::start().await;
    let worker = lab.funded(10).await;
    let miner = lab.miner(worker).await;
    lab.advance(3);
    let mut differences = Vec::new();
    let mut kept = 0;
    for name in fixtures("rpc") {
        if !name.starts_with("Transport.") || EXCLUDED.iter().any(|(excluded, _)| *excluded == name) {
            continue;
        }
        let recorded = fixture("rpc", &name);
        let raw = match recorded["request"].as_str() {
            Some(get) => lab.get(get.strip_prefix("GET ").unwrap()).await,
            None => {
                let authorization = authorization(&lab, &name).await;
                let headers: Vec<(&str, &str)> =
                    authorization.iter().map(|value| ("Authorization", value.as_str())).collect();
                let body = match recorded["request_raw"].as_str() {
                    Some(raw) => raw.to_owned(),
                    None => recorded["request"]
                        .to_string()
                        .replace("f01000", &curio_chain::address::to_mainnet_text(&miner)),
                };
                let path = match name.as_str() {
                    "Transport.token_in_query" => format!("/rpc/v1?token={}", lab.devnet.token),
                    _ => recorded["http"]["path"].as_str().unwrap_or("/rpc/v1").to_owned(),
                };
                lab.post(&path, &headers, body).await
            }
        };
        kept += 1;
        if recorded["http"]["status"] != u64::from(raw.status) {
            differences.push(format!("{name}: status {} instead of {}", raw.status, recorded["http"]["status"]));
        }
        let ours = if raw.body.starts_with(['{', '[']) { outline(&raw.json()) } else { json!(raw.body) };
        let theirs = match &recorded["response"] {
            Value::Null => match recorded["response_raw"].as_str().unwrap_or_default() {
                text if text.starts_with('{') => outline(&serde_json::from_str(text).unwrap()),
                text => json!(text),
            },
            response => outline(response),
        };
        if ours != theirs {
            differences.push(format!("{name}\n    ours:   {ours}\n    theirs: {theirs}"));
        }
        if !raw.body.is_empty() && raw.body.starts_with('{') && !raw.body.ends_with('\n') {
            differences.push(format!("{name}: no newline at the end"));
        }
    }
    println!("{kept} recorded rules kept");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_is_moved_by_an_administrator_only() {
    let lab = Lab::start().await;
    let before = lab.devnet.head().height;
    assert_eq!(lab.post("/control/advance?epochs=1", &[], "").await.status, 403);
    let reader = [("Authorization", "Bearer nonsense")];
    assert_eq!(lab.post("/control/advance?epochs=1", &reader, "").await.status, 401);
    assert_eq!(lab.devnet.head().height, before);

    let bearer = format!("Bearer {}", lab.devnet.token);
    let admin = [("Authorization", bearer.as_str())];
    let moved = lab.post("/control/advance?epochs=3&null=2", &admin, "").await;
    assert_eq!((moved.status, moved.json()["height"].clone()), (200, json!(before.0 + 5)));
    let reorganised = lab.post("/control/reorg?depth=1&length=2", &admin, "").await;
    assert_eq!((reorganised.status, reorganised.json()["height"].clone()), (200, json!(before.0 + 6)));
    assert_eq!(lab.post("/control/advance?epochs=0", &admin, "").await.status, 400);
    assert_eq!(lab.post("/control/reorg?depth=99", &admin, "").await.status, 400);
}
