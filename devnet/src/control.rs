//! Control, which no real node has, all with POST and an admin token:
//!
//! - `/control/advance?epochs=N[&null=K]`: tipsets at once, with null rounds below the first of them;
//! - `/control/reorg?depth=D[&length=L][&beacon=true]`: another fork, with another beacon if wanted;
//! - `/control/rewind?depth=D`: the head goes backwards;
//! - `/control/silence?on=true`: nothing is answered any more, until `on=false`;
//! - `/control/hang-up`: every websocket is closed;
//! - `/control/premium?least=ATTO`: messages that offer less per unit of gas are in no block.

use std::sync::Arc;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use fvm_shared::econ::TokenAmount;
use serde::Deserialize;
use serde_json::json;

use crate::auth::Permission;
use crate::chain::{Chain, OtherBeacon, Refused, Tip};
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
    #[serde(default)]
    beacon: bool,
}

#[derive(Deserialize)]
struct Rewind {
    depth: usize,
}

#[derive(Deserialize)]
struct Silence {
    on: bool,
}

#[derive(Deserialize)]
struct Premium {
    /// AttoFIL per unit of gas.
    least: u64,
}

/// The control routes.
pub fn routes() -> Router<Server> {
    Router::new()
        .route("/control/advance", post(advance))
        .route("/control/reorg", post(reorg))
        .route("/control/rewind", post(rewind))
        .route("/control/silence", post(silence))
        .route("/control/hang-up", post(hang_up))
        .route("/control/premium", post(premium))
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
    Query(Reorg { depth, length, beacon }): Query<Reorg>,
) -> Response {
    let length = length.unwrap_or(depth + 1);
    let beacon = if beacon { OtherBeacon::Yes } else { OtherBeacon::No };
    change_head(server, headers, token, move |chain| chain.reorganise(depth, length, beacon)).await
}

async fn rewind(
    State(server): State<Server>,
    headers: HeaderMap,
    token: Query<TokenQuery>,
    Query(Rewind { depth }): Query<Rewind>,
) -> Response {
    change_head(server, headers, token, move |chain| chain.rewind(depth)).await
}

async fn change_head(
    server: Server,
    headers: HeaderMap,
    token: Query<TokenQuery>,
    change: impl FnOnce(&mut Chain) -> Result<Arc<Tip>, Refused> + Send + 'static,
) -> Response {
    if let Err(refused) = admin(&server, &headers, &token) {
        return refused.into_response();
    }
    let node = server.node;
    match tokio::task::spawn_blocking(move || change(&mut node.chain())).await {
        Ok(Ok(tip)) => head(&tip),
        Ok(Err(Refused(why))) => (StatusCode::BAD_REQUEST, format!("{why}\n")).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn silence(
    State(server): State<Server>,
    headers: HeaderMap,
    token: Query<TokenQuery>,
    Query(Silence { on }): Query<Silence>,
) -> Result<(), StatusCode> {
    admin(&server, &headers, &token)?;
    server.node.silence(on);
    Ok(())
}

async fn hang_up(State(server): State<Server>, headers: HeaderMap, token: Query<TokenQuery>) -> Result<(), StatusCode> {
    admin(&server, &headers, &token)?;
    server.node.hang_up();
    Ok(())
}

async fn premium(
    State(server): State<Server>,
    headers: HeaderMap,
    token: Query<TokenQuery>,
    Query(Premium { least }): Query<Premium>,
) -> Result<(), StatusCode> {
    admin(&server, &headers, &token)?;
    server.node.chain().pool.exclusion.below_premium = TokenAmount::from_atto(least);
    Ok(())
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
