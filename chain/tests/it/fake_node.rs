//! A fake chain node: a local server that answers what a test tells it. There is no chain behind it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket};
use axum::extract::{State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use curio_chain::{Client, ClientOptions, Endpoint};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc};

/// A call that reached the node.
#[derive(Clone, Debug)]
pub struct Call {
    pub body: Value,
    pub authorization: Option<String>,
}

impl Call {
    pub fn method(&self) -> &str {
        self.body["method"].as_str().unwrap()
    }
}

pub enum Reply {
    Body(u16, String),
    /// Never answers.
    Hang,
}

impl Reply {
    pub fn result(result: Value) -> Reply {
        Reply::Body(200, serde_json::json!({"id": 1, "jsonrpc": "2.0", "result": result}).to_string())
    }

    pub fn error(code: i64, message: &str) -> Reply {
        let error = serde_json::json!({"code": code, "message": message});
        Reply::Body(200, serde_json::json!({"error": error, "id": 1, "jsonrpc": "2.0"}).to_string())
    }
}

/// What the node does on one WebSocket, in order.
pub enum Step {
    Send(String),
    /// Waits for a text frame.
    Receive,
    /// Waits until the test says so.
    Await(Arc<Notify>),
    /// Reads and answers pings until the client goes.
    Hold,
    /// Neither reads nor writes, and answers no pings.
    Freeze,
}

/// One WebSocket of a client: refused with a status, or the steps. The connection drops after the last.
pub enum Socket {
    Refuse(u16),
    Steps(Vec<Step>),
}

type Answer = dyn Fn(&Call) -> Reply + Send + Sync;

struct Shared {
    answer: Box<Answer>,
    calls: Mutex<Vec<Call>>,
    sockets: Mutex<VecDeque<Socket>>,
    received: mpsc::UnboundedSender<String>,
}

pub struct FakeNode {
    pub url: String,
    shared: Arc<Shared>,
    /// Text frames of all WebSockets.
    pub received: mpsc::UnboundedReceiver<String>,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeNode {
    /// A node that answers calls with `answer` and refuses WebSockets.
    pub async fn start(answer: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> FakeNode {
        FakeNode::with_sockets(answer, vec![]).await
    }

    /// A node whose WebSockets behave as told, one after another; further ones are refused with 404.
    pub async fn with_sockets(
        answer: impl Fn(&Call) -> Reply + Send + Sync + 'static,
        sockets: Vec<Socket>,
    ) -> FakeNode {
        let (sender, received) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            answer: Box::new(answer),
            calls: Mutex::default(),
            sockets: Mutex::new(sockets.into()),
            received: sender,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/rpc/v1", listener.local_addr().unwrap());
        let router = Router::new().route("/rpc/v1", get(upgrade).post(call)).with_state(shared.clone());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        FakeNode { url, shared, received, server }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::parse(&self.url).unwrap()
    }

    pub fn client(&self) -> Client {
        client(&[self.endpoint()])
    }

    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }
}

/// A client with pauses and bounds short enough for tests.
pub fn client(endpoints: &[Endpoint]) -> Client {
    let options = ClientOptions {
        call_deadline: Duration::from_secs(10),
        attempt_timeout: Duration::from_secs(5),
        connect_timeout: Duration::from_secs(2),
        rounds: 3,
        backoff: Duration::from_millis(1),
        backoff_max: Duration::from_millis(2),
    };
    Client::new(endpoints.to_vec(), options).unwrap()
}

/// An endpoint on which nothing listens.
pub async fn dead_endpoint() -> Endpoint {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    Endpoint::parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap()
}

async fn call(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    let call = Call { body: serde_json::from_slice(&body).unwrap(), authorization };
    let reply = (shared.answer)(&call);
    shared.calls.lock().unwrap().push(call);
    match reply {
        Reply::Body(status, body) => (StatusCode::from_u16(status).unwrap(), body).into_response(),
        Reply::Hang => std::future::pending().await,
    }
}

async fn upgrade(State(shared): State<Arc<Shared>>, upgrade: WebSocketUpgrade) -> Response {
    let socket = shared.sockets.lock().unwrap().pop_front();
    match socket.unwrap_or(Socket::Refuse(404)) {
        Socket::Refuse(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Socket::Steps(steps) => upgrade.on_upgrade(move |socket| perform(shared, socket, steps)),
    }
}

async fn perform(shared: Arc<Shared>, mut socket: WebSocket, steps: Vec<Step>) {
    for step in steps {
        match step {
            Step::Send(text) => socket.send(Message::Text(text.into())).await.unwrap(),
            Step::Receive => loop {
                match socket.recv().await {
                    Some(Ok(Message::Text(text))) => {
                        let _ = shared.received.send(text.to_string());
                        break;
                    }
                    Some(Ok(_)) => {}
                    _ => return,
                }
            },
            Step::Await(go) => go.notified().await,
            Step::Hold => {
                while let Some(Ok(message)) = socket.recv().await {
                    if let Message::Text(text) = message {
                        let _ = shared.received.send(text.to_string());
                    }
                }
            }
            Step::Freeze => std::future::pending().await,
        }
    }
}
