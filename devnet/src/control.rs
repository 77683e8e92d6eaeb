//! Control of the clock, which no real node has: `POST /control/advance?epochs=N[&null=K]` and
//! `POST /control/reorg?depth=D[&length=L]`, both with an admin token.

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;

use crate::auth::Permission;
use crate::chain::{Refused, Tip};
use crate::rpc::transport::{Server, TokenQuery, access};

/// Most tipsets that one call makes.
const MAX_EPOCHS: u32 = 100_000;

#[derive(Deserialize)]
struct Advance {
    epochs: u32,
    /// Null rounds below the first of the new tipsets.
    #[serde(default)]
    null: u32,
}

#[derive(Deserialize)]
struct Reorg {
    depth: usize,
    length: Option<usize>,
}

/// The control routes.
pub fn routes() -> Router<Server> {
    Router::new().route("/control/advance", post(advance)).route("/control/reorg", post(reorg))
}

async fn advance(
    State(server): State<Server>,
    headers: HeaderMap,
    token: Query<TokenQuery>,
    Query(Advance { epochs, null }): Query<Advance>,
) -> Response {
    if let Err(refused) = admin(&server, &headers, &token) {
        return refused.into_response();
    }
    if epochs == 0 || epochs > MAX_EPOCHS {
        return (StatusCode::BAD_REQUEST, format!("epochs must be 1 to {MAX_EPOCHS}\n")).into_response();
    }
    let node = server.node;
    let made = tokio::task::spawn_blocking(move || {
        let mut tip = node.chain().produce(null);
        for _ in 1..epochs {
            tip = node.chain().produce(0);
        }
        tip
    });
    match made.await {
        Ok(tip) => head(&tip),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn reorg(
    State(server): State<Server>,
    headers: HeaderMap,
    token: Query<TokenQuery>,
    Query(Reorg { depth, length }): Query<Reorg>,
) -> Response {
    if let Err(refused) = admin(&server, &headers, &token) {
        return refused.into_response();
    }
    let node = server.node;
    let length = length.unwrap_or(depth + 1);
    let made = tokio::task::spawn_blocking(move || node.chain().reorganise(depth, length));
    match made.await {
        Ok(Ok(tip)) => head(&tip),
        Ok(Err(Refused(why))) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn admin(server: &Server, headers: &HeaderMap, token: &TokenQuery) -> Result<(), StatusCode> {
    match access(&server.node, headers, token)?.allows(Permission::Admin) {
        true => Ok(()),
        false => Err(StatusCode::FORBIDDEN),
    }
}

fn head(tip: &Tip) -> Response {
    Json(json!({ "height": tip.height, "key": tip.key() })).into_response()
}
