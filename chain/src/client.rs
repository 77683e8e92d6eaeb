//! The way to a chain node: JSON-RPC over HTTP with a deadline on every call, and another node when
//! one fails. A node's own answer, good or bad, is final; only failures of reaching one are tried
//! again. The typed calls are in `calls`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::endpoint::Endpoint;
use crate::health::Health;
use crate::rpc_error::RpcError;
use crate::types::Version;

/// Bounds of a call.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// For a whole call, all nodes and repetitions together.
    pub call_deadline: Duration,
    /// For one answer of one node.
    pub attempt_timeout: Duration,
    pub connect_timeout: Duration,
    /// How often all nodes are asked before a call is given up.
    pub rounds: u32,
    /// Pause after the first round; doubles.
    pub backoff: Duration,
    pub backoff_max: Duration,
}

impl Default for ClientOptions {
    fn default() -> ClientOptions {
        ClientOptions {
            call_deadline: Duration::from_secs(90),
            attempt_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            rounds: 4,
            backoff: Duration::from_millis(250),
            backoff_max: Duration::from_secs(2),
        }
    }
}

/// The nodes could not be used for a client at all.
#[derive(Debug, thiserror::Error)]
pub enum NewClientError {
    #[error("no chain node is configured; name at least one, like TOKEN:http://host:1234/rpc/v1")]
    NoEndpoint,
    #[error("failed to set up the HTTP client")]
    Http(#[source] reqwest::Error),
}

/// Client of one or several chain nodes of the same network. Clones share connections and memory of
/// which node is well.
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    endpoints: Vec<Endpoint>,
    options: ClientOptions,
    http: reqwest::Client,
    health: Mutex<Health>,
    next_id: AtomicU64,
}

/// Largest answer that is read. All sectors of a large miner are some tens of megabytes.
const MAX_ANSWER_BYTES: usize = 512 << 20;
/// How long a connection may idle, and how often a waiting one is probed.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// How much of a strange answer is shown.
const EXCERPT_CHARS: usize = 120;

/// Whether a call may reach a node twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It reads, or doing it twice is doing it once.
    Safe,
    /// Once it may have reached a node, it is not sent again.
    Never,
}

#[derive(Serialize)]
struct Request<P> {
    jsonrpc: &'static str,
    method: &'static str,
    params: P,
    id: u64,
}

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    error: Option<ErrorBody>,
    // A plain Option would read the result `null` as absent.
    #[serde(default, deserialize_with = "present")]
    result: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct ErrorBody {
    code: i64,
    message: String,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

/// How one attempt ended without a result.
struct Miss {
    error: RpcError,
    /// The request may have reached the node.
    sent: bool,
}

impl Client {
    /// A client of the given nodes, asked in this order while all are well. Connects to nothing.
    ///
    /// Sets the process's TLS provider when none is set: the HTTP library asks for one even for plain
    /// `http` addresses.
    ///
    /// # Errors
    /// When the list is empty or the HTTP client cannot be set up.
    pub fn new(endpoints: Vec<Endpoint>, options: ClientOptions) -> Result<Client, NewClientError> {
        if endpoints.is_empty() {
            return Err(NewClientError::NoEndpoint);
        }
        // An error means that the binary chose one before, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(options.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(KEEPALIVE)
            // Shorter than any node's own bound, so that a call seldom meets a connection just closed.
            .pool_idle_timeout(KEEPALIVE)
            // A redirected POST would arrive as a GET, and the token is for the configured node only.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(NewClientError::Http)?;
        let health = Mutex::new(Health::new(endpoints.len()));
        Ok(Client { inner: Arc::new(Inner { endpoints, options, http, health, next_id: AtomicU64::new(1) }) })
    }

    /// The configured nodes.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.inner.endpoints
    }

    pub(crate) fn options(&self) -> &ClientOptions {
        &self.inner.options
    }

    pub(crate) fn health(&self) -> MutexGuard<'_, Health> {
        // The guard is held for single assignments only, so a panic cannot leave them half done.
        self.inner.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks every node that can be reached for its network and API, once, at the start.
    ///
    /// # Errors
    /// When no node can be reached, one of those reached refuses its token, is no Filecoin node, or
    /// is on another network than `network`, or than the first one when that is none.
    pub async fn check(&self, network: Option<&str>) -> Result<CheckedNetwork, RpcError> {
        let mut found: Option<CheckedNetwork> = None;
        let mut unreachable = None;
        for endpoint in &self.inner.endpoints {
            let (name, version) = match self.identify(endpoint).await {
                Ok(answer) => answer,
                Err(error) if error.is_passing() => {
                    warn!(
                        node.url = endpoint.shown(),
                        error = &error as &dyn std::error::Error,
                        "skipping a chain node"
                    );
                    unreachable = Some(error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            check_api(endpoint, &version)?;
            let expected = network.or(found.as_ref().map(|found| found.network.as_str())).unwrap_or(&name);
            if name != expected {
                let expected = expected.to_owned();
                return Err(RpcError::WrongNetwork { url: endpoint.shown(), network: name, expected });
            }
            found.get_or_insert(CheckedNetwork { network: name, version });
        }
        match (found, unreachable) {
            (Some(found), _) => Ok(found),
            (None, Some(error)) => Err(error),
            (None, None) => unreachable!("a client has at least one node"),
        }
    }

    async fn identify(&self, endpoint: &Endpoint) -> Result<(String, Version), RpcError> {
        let timeout = self.options().attempt_timeout;
        let name = self.ask(endpoint, "Filecoin.StateNetworkName", &NO_PARAMS, timeout).await;
        let name = parse("Filecoin.StateNetworkName", &name.map_err(|miss| miss.error)?)?;
        let version = self.ask(endpoint, "Filecoin.Version", &NO_PARAMS, timeout).await;
        let version = parse("Filecoin.Version", &version.map_err(|miss| miss.error)?)?;
        Ok((name, version))
    }

    /// Calls a method that may be sent twice, within the usual deadline.
    pub(crate) async fn call<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: P,
    ) -> Result<R, RpcError> {
        self.call_with(method, params, Repeat::Safe, self.options().attempt_timeout, self.options().call_deadline).await
    }

    /// Calls a method within `deadline`, waiting for each answer up to `attempt_timeout`.
    pub(crate) async fn call_with<P: Serialize, R: DeserializeOwned>(
        &self,
        method: &'static str,
        params: P,
        repeat: Repeat,
        attempt_timeout: Duration,
        deadline: Duration,
    ) -> Result<R, RpcError> {
        let end = Instant::now() + deadline;
        let mut backoff = self.options().backoff;
        let mut round = 1;
        loop {
            let mut passing = false;
            let mut last = None;
            let order = self.health().order(Instant::now().into_std());
            for index in order {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() && last.is_some() {
                    break;
                }
                let endpoint = &self.inner.endpoints[index];
                let miss = match self.ask(endpoint, method, &params, attempt_timeout.min(left)).await {
                    Ok(result) => {
                        self.health().answered(index);
                        return parse(method, &result);
                    }
                    Err(Miss { error, .. }) if error.is_answer() => {
                        self.health().answered(index);
                        return Err(error);
                    }
                    Err(miss) => miss,
                };
                self.health().failed(index, Instant::now().into_std());
                debug!(rpc.method = method, error = &miss.error as &dyn std::error::Error, "a chain node failed");
                if repeat == Repeat::Never && miss.sent {
                    return Err(miss.error);
                }
                passing |= miss.error.is_passing();
                last = Some(miss.error);
            }
            let error = last.expect("a client has at least one node, and the first is always asked");
            let left = end.saturating_duration_since(Instant::now());
            if !passing || round >= self.options().rounds || left.is_zero() {
                return Err(error);
            }
            tokio::time::sleep(backoff.min(left)).await;
            backoff = (backoff * 2).min(self.options().backoff_max);
            round += 1;
        }
    }

    /// Sends one request to one node and reads its answer, whatever the HTTP status says.
    async fn ask<P: Serialize>(
        &self,
        endpoint: &Endpoint,
        method: &'static str,
        params: P,
        timeout: Duration,
    ) -> Result<Box<RawValue>, Miss> {
        let id = self.inner.next_id.fetch_add(1, Ordering::Relaxed);
        let body = serde_json::to_vec(&Request { jsonrpc: "2.0", method, params, id })
            .expect("parameters are numbers, texts, lists and structs of these");
        match tokio::time::timeout(timeout, self.exchange(endpoint, method, body)).await {
            Ok(outcome) => outcome,
            Err(_) => {
                Err(Miss { error: RpcError::TimedOut { url: endpoint.shown(), method, after: timeout }, sent: true })
            }
        }
    }

    async fn exchange(&self, endpoint: &Endpoint, method: &'static str, body: Vec<u8>) -> Result<Box<RawValue>, Miss> {
        let lost = |error: reqwest::Error| Miss {
            sent: !error.is_connect(),
            error: RpcError::Unreachable { url: endpoint.shown(), source: Box::new(error.without_url()) },
        };
        let mut request = self.inner.http.post(endpoint.url.clone());
        request = request.header(CONTENT_TYPE, "application/json").body(body);
        if let Some(token) = &endpoint.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .expect("an endpoint's token is printable ASCII");
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let mut bytes = Vec::new();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            bytes.extend_from_slice(&chunk.map_err(lost)?);
            if bytes.len() > MAX_ANSWER_BYTES {
                let excerpt = format!("an answer of more than {MAX_ANSWER_BYTES} bytes");
                let error = RpcError::NotANode { url: endpoint.shown(), status: status.as_u16(), excerpt };
                return Err(Miss { error, sent: true });
            }
        }
        judge(endpoint, method, status, &bytes).map_err(|error| Miss { error, sent: true })
    }
}

/// The network that all reachable nodes are on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedNetwork {
    pub network: String,
    /// Of the first node that answered.
    pub version: Version,
}

/// Parameters of a method that has none.
pub(crate) const NO_PARAMS: [(); 0] = [];

/// The v1 API's major version, as the upper half of `APIVersion`.
const API_MAJOR: u32 = 2;

fn check_api(endpoint: &Endpoint, version: &Version) -> Result<(), RpcError> {
    if version.api_version >> 16 == API_MAJOR {
        return Ok(());
    }
    let [_, major, minor, patch] = version.api_version.to_be_bytes();
    Err(RpcError::WrongApi { url: endpoint.shown(), version: format!("{major}.{minor}.{patch}"), wanted: "2.x" })
}

/// What an HTTP answer means. The body decides: a node answers errors with 200, 400 and 500.
fn judge(
    endpoint: &Endpoint,
    method: &'static str,
    status: StatusCode,
    body: &[u8],
) -> Result<Box<RawValue>, RpcError> {
    if status == StatusCode::UNAUTHORIZED {
        return Err(RpcError::Unauthorized { url: endpoint.shown() });
    }
    match serde_json::from_slice(body) {
        Ok(Response { error: Some(ErrorBody { code, message }), .. }) => Err(RpcError::Node { method, code, message }),
        Ok(Response { result: Some(result), .. }) => Ok(result),
        // A proxy whose node is away, or one that asks for patience.
        _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Err(RpcError::Unreachable {
            url: endpoint.shown(),
            source: format!("HTTP {}: {}", status.as_u16(), excerpt(body)).into(),
        }),
        _ => Err(RpcError::NotANode { url: endpoint.shown(), status: status.as_u16(), excerpt: excerpt(body) }),
    }
}

fn excerpt(body: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(body).chars().take(EXCERPT_CHARS).collect();
    match text.trim() {
        "" => "an empty body".to_owned(),
        text => text.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

fn parse<R: DeserializeOwned>(method: &'static str, result: &RawValue) -> Result<R, RpcError> {
    serde_json::from_str(result.get()).map_err(|source| RpcError::Result { method, source })
}
