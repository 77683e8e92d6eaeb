//! Head changes of the chain, followed over a WebSocket through reconnects, other nodes and reorgs.
//!
//! One task reads `ChainNotify` and keeps a backlog; the consumer takes all of it at once with
//! [`Follower::next`], however slow it is. After a lost connection the way from the head known before
//! to the new one is asked with `ChainGetPath`, so that the changes stay without a gap; when the way
//! is not to be had, a [`HeadChange::Current`] says so. A node that refuses WebSockets is polled.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::{self, Message as WsMessage};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::backlog::{Backlog, end_of};
use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::health::Health;
pub use crate::types::HeadChange;
use crate::types::TipSet;

/// Bounds of following.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// For connecting and subscribing.
    pub connect_timeout: Duration,
    /// A connection on which nothing at all came for this long, pings and their answers included, is
    /// dead.
    pub dead_after: Duration,
    /// When no head change came for this long, the head is asked; if it moved, the stream is stuck.
    pub quiet_after: Duration,
    /// Pause before the next connection; doubles while none works.
    pub backoff: Duration,
    pub backoff_max: Duration,
    /// How often the head is asked of a node that refuses WebSockets.
    pub poll_every: Duration,
    /// How long it is polled before a WebSocket is tried again.
    pub poll_for: Duration,
}

impl Default for FollowOptions {
    fn default() -> FollowOptions {
        FollowOptions {
            connect_timeout: Duration::from_secs(10),
            dead_after: Duration::from_secs(30),
            quiet_after: Duration::from_secs(90),
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(10),
            poll_every: Duration::from_secs(3),
            poll_for: Duration::from_secs(300),
        }
    }
}

/// Everything that changed since the update before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// In order. Only the first can be [`HeadChange::Current`]: at the start, and when the way from
    /// the head before is not known; then everything is to be derived anew.
    pub changes: Vec<HeadChange>,
    pub head: TipSet,
}

/// Farthest that a way between two heads is asked for, in epochs.
const MAX_PATH_EPOCHS: i64 = 900;
/// Id of the subscribing request on its connection, by which it is cancelled.
const SUBSCRIBE_ID: u64 = 1;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("failed to connect to {url}")]
    Connect {
        url: String,
        #[source]
        source: Box<tungstenite::Error>,
    },
    #[error("failed to connect to {url} within {after:?}")]
    ConnectTimeout { url: String, after: Duration },
    #[error("the chain node at {url} refused the token")]
    Unauthorized { url: String },
    #[error("{url} refuses WebSockets (HTTP {status})")]
    NoWebSocket { url: String, status: u16 },
    #[error("the chain node at {url} refused ChainNotify: {message}")]
    Subscribe { url: String, message: String },
    #[error("the connection to {url} was lost")]
    Lost {
        url: String,
        #[source]
        source: Box<tungstenite::Error>,
    },
    #[error("{url} ended the stream of head changes")]
    Closed { url: String },
    #[error("nothing came from {url} for {after:?}")]
    Dead { url: String, after: Duration },
    #[error("no head change came from {url} for {after:?} although the head moved")]
    Stuck { url: String, after: Duration },
    #[error("failed to read a frame of {url}")]
    Frame {
        url: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("following was cancelled")]
    Cancelled,
}

/// Follows the head until `cancel`, or until the follower is dropped. Must be called within a tokio
/// runtime. The first update is the current head.
pub fn follow(client: Client, options: FollowOptions, cancel: CancellationToken) -> Follower {
    let shared = Arc::new(Shared { backlog: Mutex::new(Backlog::default()), changed: Notify::new() });
    let cancel = cancel.child_token();
    let health = Health::new(client.endpoints().len());
    let reader = Reader { client, options, cancel: cancel.clone(), shared: shared.clone(), health };
    Follower { shared, task: tokio::spawn(reader.run()), cancel: cancel.drop_guard() }
}

/// The consumer's side of [`follow`].
#[derive(Debug)]
pub struct Follower {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
    cancel: DropGuard,
}

#[derive(Debug)]
struct Shared {
    backlog: Mutex<Backlog>,
    changed: Notify,
}

impl Shared {
    fn backlog(&self) -> MutexGuard<'_, Backlog> {
        // Held for single calls that leave the backlog whole, so a panic elsewhere cannot break it.
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Follower {
    /// Waits for changes and takes all there are. None after cancellation. May be dropped and called
    /// again: nothing is lost.
    pub async fn next(&mut self) -> Option<Update> {
        loop {
            {
                let mut backlog = self.shared.backlog();
                if let Some(update) = backlog.take() {
                    return Some(update);
                }
                if backlog.is_closed() {
                    return None;
                }
            }
            self.shared.changed.notified().await;
        }
    }

    /// The newest head known, taken or not.
    pub fn head(&self) -> Option<TipSet> {
        self.shared.backlog().head().cloned()
    }

    /// Stops following and waits for the connection to be closed.
    pub async fn stop(self) {
        let Follower { shared: _, task, cancel } = self;
        drop(cancel);
        // An error would be a panic of the reading task, which was reported when it happened.
        let _ = task.await;
    }
}

/// The task behind a follower.
struct Reader {
    client: Client,
    options: FollowOptions,
    cancel: CancellationToken,
    shared: Arc<Shared>,
    /// Of the WebSockets; a node may answer calls and refuse these.
    health: Health,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Reader {
    /// Ends when cancelled.
    async fn run(mut self) {
        let mut backoff = self.options.backoff;
        loop {
            let index = self.health.order(Instant::now().into_std())[0];
            let endpoint = self.client.endpoints()[index].clone();
            let mut listened = false;
            let ended = self.listen(&endpoint, &mut listened).await;
            if listened {
                self.health.answered(index);
                backoff = self.options.backoff;
            }
            self.health.failed(index, Instant::now().into_std());
            match ended {
                Ended::Cancelled => break,
                ended @ Ended::NoWebSocket { .. } => {
                    let every = self.options.poll_every;
                    warn!(
                        node.url = endpoint.shown(),
                        error = &ended as &dyn std::error::Error,
                        "no WebSocket for head changes, asking for the head every {every:?}"
                    );
                    self.poll().await;
                }
                ended => {
                    info!(
                        node.url = endpoint.shown(),
                        error = &ended as &dyn std::error::Error,
                        "head changes interrupted, connecting again in {backoff:?}"
                    );
                }
            }
            tokio::select! {
                () = self.cancel.cancelled() => break,
                () = tokio::time::sleep(backoff) => {}
            }
            backoff = (backoff * 2).min(self.options.backoff_max);
        }
        self.shared.backlog().close();
        self.shared.changed.notify_one();
    }

    /// Connects, subscribes and reads until something ends it.
    async fn listen(&self, endpoint: &Endpoint, listened: &mut bool) -> Ended {
        let connecting = timeout(self.options.connect_timeout, connect(endpoint));
        let mut socket = tokio::select! {
            () = self.cancel.cancelled() => return Ended::Cancelled,
            socket = connecting => match socket {
                Ok(Ok(socket)) => socket,
                Ok(Err(ended)) => return ended,
                Err(_) => {
                    return Ended::ConnectTimeout { url: endpoint.shown(), after: self.options.connect_timeout };
                }
            },
        };
        let ended = self.read(endpoint, &mut socket, listened).await;
        // Good manners, bounded: the node drops the subscription with the connection anyway.
        let goodbye = async {
            let cancel = format!(r#"{{"jsonrpc":"2.0","method":"xrpc.cancel","params":[{SUBSCRIBE_ID}]}}"#);
            if matches!(ended, Ended::Cancelled) && socket.send(WsMessage::text(cancel)).await.is_ok() {
                let _ = socket.close(None).await;
            }
        };
        let _ = timeout(Duration::from_millis(500), goodbye).await;
        ended
    }

    async fn read(&self, endpoint: &Endpoint, socket: &mut Socket, listened: &mut bool) -> Ended {
        let url = || endpoint.shown();
        let dead_after = self.options.dead_after;
        let quiet_after = self.options.quiet_after;
        let mut pings = tokio::time::interval(dead_after / 3);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut dead_at = Instant::now() + dead_after;
        let mut quiet_at = Instant::now() + quiet_after;
        loop {
            let message = tokio::select! {
                // What came before this task was late is read first: a busy machine is no dead connection.
                biased;
                () = self.cancel.cancelled() => return Ended::Cancelled,
                message = socket.next() => message,
                () = tokio::time::sleep_until(dead_at) => return Ended::Dead { url: url(), after: dead_after },
                () = tokio::time::sleep_until(quiet_at) => {
                    tokio::select! {
                        () = self.cancel.cancelled() => return Ended::Cancelled,
                        moved = self.head_moved() => if moved {
                            return Ended::Stuck { url: url(), after: quiet_after };
                        },
                    }
                    dead_at = Instant::now() + dead_after;
                    quiet_at = Instant::now() + quiet_after;
                    continue;
                }
                _ = pings.tick() => match socket.send(WsMessage::Ping(Vec::new().into())).await {
                    Ok(()) => continue,
                    Err(source) => return Ended::Lost { url: url(), source: Box::new(source) },
                },
            };
            dead_at = Instant::now() + dead_after;
            let text = match message {
                None | Some(Ok(WsMessage::Close(_))) => return Ended::Closed { url: url() },
                Some(Err(source)) => return Ended::Lost { url: url(), source: Box::new(source) },
                Some(Ok(WsMessage::Text(text))) => text,
                Some(Ok(_)) => continue,
            };
            match Frame::parse(&text) {
                Ok(Frame::Subscribed | Frame::Other) => {}
                Ok(Frame::Refused(message)) => return Ended::Subscribe { url: url(), message },
                Ok(Frame::Ended) => return Ended::Closed { url: url() },
                Ok(Frame::Changes(changes)) => {
                    *listened = true;
                    tokio::select! {
                        () = self.cancel.cancelled() => return Ended::Cancelled,
                        () = self.take_in(changes) => {}
                    }
                    // Anew: bridging a gap may have taken longer than either bound.
                    dead_at = Instant::now() + dead_after;
                    quiet_at = Instant::now() + quiet_after;
                }
                Err(source) => return Ended::Frame { url: url(), source },
            }
        }
    }

    /// Asks for the head until a WebSocket is worth another try.
    async fn poll(&self) {
        let end = Instant::now() + self.options.poll_for;
        let mut ticks = tokio::time::interval(self.options.poll_every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < end {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                _ = ticks.tick() => {}
            }
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = self.look() => {}
            }
        }
    }

    /// Asks for the head once.
    async fn look(&self) {
        match self.client.chain_head().await {
            Ok(head) => self.go_to(head).await,
            Err(error) => debug!(error = &error as &dyn std::error::Error, "asking for the head failed"),
        }
    }

    /// Takes one notification in. One that does not follow from the known head (always the first of a
    /// connection) is bridged.
    async fn take_in(&self, changes: Vec<HeadChange>) {
        let Some(last) = changes.last() else { return };
        let known = self.shared.backlog().head().map(|head| head.key().clone());
        let follows = known.and_then(|known| end_of(&known, &changes));
        match (follows, last) {
            (Some(_), HeadChange::Applied(_)) => self.push(changes),
            // Reverts alone: the head went back, and the new one is to be asked for.
            (Some(key), _) => match self.client.chain_get_tip_set(&key).await {
                Ok(head) => self.push_with_head(changes, head),
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the head went back to {key}, which is not to be had"
                    );
                }
            },
            (None, HeadChange::Reverted(tipset)) => match self.client.chain_get_tip_set(tipset.parents()).await {
                Ok(head) => self.go_to(head).await,
                Err(error) => {
                    warn!(
                        error = &error as &dyn std::error::Error,
                        "the head went back to {}, which is not to be had",
                        tipset.parents()
                    );
                }
            },
            (None, last) => self.go_to(last.tipset().clone()).await,
        }
    }

    /// Makes `head` the head, by the changes on the way to it when they are to be had.
    async fn go_to(&self, head: TipSet) {
        let known = self.shared.backlog().head().cloned();
        let Some(known) = known else { return self.push(vec![HeadChange::Current(head)]) };
        if known.key() == head.key() {
            return;
        }
        if (head.height - known.height).abs() <= MAX_PATH_EPOCHS {
            match self.client.chain_get_path(known.key(), head.key()).await {
                Ok(path) if end_of(known.key(), &path).as_ref() == Some(head.key()) => {
                    return self.push_with_head(path, head);
                }
                Ok(_) => warn!("the way from {} to {} is not whole", known.key(), head.key()),
                Err(error) => {
                    warn!(error = &error as &dyn std::error::Error, "the way to the new head is not to be had");
                }
            }
        }
        self.push(vec![HeadChange::Current(head)]);
    }

    async fn head_moved(&self) -> bool {
        match self.client.chain_head().await {
            Ok(head) => self.shared.backlog().head().is_none_or(|known| known.key() != head.key()),
            Err(error) => {
                debug!(error = &error as &dyn std::error::Error, "asking for the head failed");
                true
            }
        }
    }

    /// Hands on changes that end in an applied or current tipset.
    fn push(&self, changes: Vec<HeadChange>) {
        if let Some(head) = changes.last().map(|last| last.tipset().clone()) {
            self.push_with_head(changes, head);
        }
    }

    fn push_with_head(&self, changes: Vec<HeadChange>, head: TipSet) {
        self.shared.backlog().push(changes, head);
        self.shared.changed.notify_one();
    }
}

/// Connects and subscribes.
async fn connect(endpoint: &Endpoint) -> Result<Socket, Ended> {
    let url = endpoint.shown();
    let failed = |source: tungstenite::Error| match source {
        tungstenite::Error::Http(response) if response.status().as_u16() == 401 => {
            Ended::Unauthorized { url: url.clone() }
        }
        tungstenite::Error::Http(response) if !response.status().is_server_error() => {
            Ended::NoWebSocket { url: url.clone(), status: response.status().as_u16() }
        }
        source => Ended::Connect { url: url.clone(), source: Box::new(source) },
    };
    let mut request = endpoint.websocket_url().as_str().into_client_request().map_err(failed)?;
    if let Some(token) = &endpoint.token {
        let mut value = tungstenite::http::HeaderValue::try_from(format!("Bearer {}", token.expose()))
            .expect("an endpoint's token is printable ASCII");
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    let (mut socket, _) = connect_async(request).await.map_err(failed)?;
    let subscribe = format!(r#"{{"jsonrpc":"2.0","method":"Filecoin.ChainNotify","params":[],"id":{SUBSCRIBE_ID}}}"#);
    socket.send(WsMessage::text(subscribe)).await.map_err(failed)?;
    Ok(socket)
}

/// A text frame of a node, as far as a single subscription on its own connection needs it.
#[derive(Debug)]
enum Frame {
    Subscribed,
    Refused(String),
    Changes(Vec<HeadChange>),
    Ended,
    Other,
}

#[derive(Deserialize)]
struct RawFrame<'a> {
    #[serde(default)]
    error: Option<RawError>,
    #[serde(default)]
    method: Option<String>,
    #[serde(default, borrow)]
    params: Option<&'a RawValue>,
    #[serde(default)]
    result: Option<u64>,
}

#[derive(Deserialize)]
struct RawError {
    message: String,
}

impl Frame {
    fn parse(text: &str) -> Result<Frame, serde_json::Error> {
        let RawFrame { error, method, params, result } = serde_json::from_str(text)?;
        Ok(match (method.as_deref(), params) {
            (Some("xrpc.ch.val"), Some(params)) => {
                let (_channel, changes): (u64, Option<Vec<HeadChange>>) = serde_json::from_str(params.get())?;
                Frame::Changes(changes.unwrap_or_default())
            }
            (Some("xrpc.ch.close"), _) => Frame::Ended,
            (Some(_), _) => Frame::Other,
            (None, _) => match (error, result) {
                (Some(RawError { message }), _) => Frame::Refused(message),
                (None, Some(_)) => Frame::Subscribed,
                (None, None) => Frame::Other,
            },
        })
    }
}
