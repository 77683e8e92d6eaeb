//! HTTP: tokens, single requests and batches, and the statuses that go with them.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{DefaultBodyLimit, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde::Deserialize;
use serde_json::Value;

use super::fault::Fault;
use super::table::{ApiVersion, Table};
use super::{Mode, Outcome, failed, handle, websocket};
use crate::auth::Access;
use crate::control;
use crate::node::Node;

/// Largest request body, bytes.
const MAX_BODY_BYTES: usize = 64 << 20;

/// What the routes share.
#[derive(Clone)]
pub struct Server {
    pub node: Arc<Node>,
    pub table: Arc<Table>,
}

#[derive(Deserialize)]
pub struct TokenQuery {
    token: Option<String>,
}

/// All routes of the node.
pub fn router(server: Server) -> Router {
    Router::new()
        // A node answers 404 here; a bare address in a summary is enough to ask this one.
        .route("/", any(v1))
        .route("/rpc/v1", any(v1))
        .route("/rpc/v0", any(v0))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/health/livez", get(|| async { StatusCode::OK }))
        .route("/health/readyz", get(|| async { StatusCode::OK }))
        .merge(control::routes())
        .fallback(|| async {
            let plain =
                [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
            (StatusCode::NOT_FOUND, plain, "404 page not found\n")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(server)
}

/// Whether the chain has all that it was started with; the health routes of a node say nothing of that.
async fn ready(server: State<Server>) -> (StatusCode, &'static str) {
    match server.node.is_ready() {
        true => (StatusCode::OK, "ready\n"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the first miner is being made\n"),
    }
}

async fn v1(server: State<Server>, query: Query<TokenQuery>, request: Request) -> Response {
    serve(server.0, ApiVersion::V1, &query.0, request).await
}

async fn v0(server: State<Server>, query: Query<TokenQuery>, request: Request) -> Response {
    serve(server.0, ApiVersion::V0, &query.0, request).await
}

/// Who calls: by header or by query, or nobody in particular.
///
/// # Errors
/// 401 with an empty body for a token that is not good, or an authorization that is no bearer token.
pub fn access(node: &Node, headers: &HeaderMap, query: &TokenQuery) -> Result<Access, StatusCode> {
    let token = match headers.get(header::AUTHORIZATION) {
        Some(value) => {
            let value = value.to_str().map_err(|_| StatusCode::UNAUTHORIZED)?;
            Some(value.strip_prefix("Bearer ").ok_or(StatusCode::UNAUTHORIZED)?)
        }
        None => query.token.as_deref(),
    };
    match token {
        Some(token) => node.auth.verify(token).map_err(|_| StatusCode::UNAUTHORIZED),
        None => Ok(Access::anonymous()),
    }
}

async fn serve(server: Server, version: ApiVersion, query: &TokenQuery, request: Request) -> Response {
    use axum::extract::FromRequest;
    server.node.answering().await;
    let access = match access(&server.node, request.headers(), query) {
        Ok(access) => access,
        Err(status) => return status.into_response(),
    };
    if request.headers().contains_key(header::UPGRADE) {
        return match WebSocketUpgrade::from_request(request, &server).await {
            Ok(upgrade) => {
                let upgrade = upgrade.max_message_size(MAX_BODY_BYTES);
                upgrade.on_upgrade(move |socket| websocket::serve(server, access, version, socket)).into_response()
            }
            Err(refused) => refused.into_response(),
        };
    }
    match Bytes::from_request(request, &server).await {
        Ok(body) => answer(&server, &access, version, &body).await,
        Err(refused) => refused.into_response(),
    }
}

async fn answer(server: &Server, access: &Access, version: ApiVersion, body: &[u8]) -> Response {
    let body = body.trim_ascii();
    if body.is_empty() {
        return alone(failed(Value::Null, &Fault::invalid_request()));
    }
    let Server { node, table } = server;
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Array(requests)) if requests.is_empty() => alone(failed(Value::Null, &Fault::invalid_request())),
        Ok(Value::Array(requests)) => {
            let mut answers = Vec::with_capacity(requests.len());
            for request in &requests {
                if let Outcome::Answer { body, .. } = handle(table, node, access, version, Mode::Http, request).await {
                    answers.push(format!("{body}\n"));
                }
            }
            json(StatusCode::OK, format!("[{}]", answers.join(",")))
        }
        Ok(request @ Value::Object(_)) => alone(handle(table, node, access, version, Mode::Http, &request).await),
        _ => alone(failed(Value::Null, &Fault::parse("Parse error"))),
    }
}

fn alone(outcome: Outcome) -> Response {
    match outcome {
        Outcome::Answer { status, body } => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            json(status, format!("{body}\n"))
        }
        Outcome::Silent | Outcome::Channel { .. } => json(StatusCode::OK, String::new()),
    }
}

fn json(status: StatusCode, body: String) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
