//! The node itself: versions, tokens, identity.

use std::sync::Arc;

use curio_chain::types::Version;
use serde_json::{Value, json};

use crate::auth::{Access, Permission};
use crate::node::Node;
use crate::rpc::fault::Fault;
use crate::rpc::params::go_kind;
use crate::rpc::table::{Answer, ApiVersion, Table, answer};

/// API versions of the two endpoints, as a Lotus node of network version 28 tells them.
const API_VERSION_V0: u32 = 66_816;
const API_VERSION_V1: u32 = 131_840;
/// A peer id in form only: this node has no peers.
const PEER_ID: &str = "12D3KooWEii1vMBjjbd7M1KhChQB9adfYB9wxJybufZZLAiods74";

pub(super) fn register(table: &mut Table) {
    table
        .insert("Version", Permission::Read, version)
        .read("ID", |_, (): ()| Ok(json!(PEER_ID)))
        .read("Session", |node: &Node, (): ()| answer(node.session))
        .read("NetAddrsListen", |_, (): ()| Ok(json!({ "ID": PEER_ID, "Addrs": [] })))
        .sync("AuthNew", Permission::Admin, auth_new)
        .read("AuthVerify", auth_verify)
        .read("ChainPutObj", |_, _: (Unreadable,)| Err(Fault::parse("objects cannot be put over JSON")));
}

async fn version(node: Arc<Node>, api: ApiVersion, (): ()) -> Answer {
    answer(Version {
        version: concat!("curio-devnet-", env!("CARGO_PKG_VERSION"), "+2k (stand-in for a chain)").to_owned(),
        api_version: match api {
            ApiVersion::V0 => API_VERSION_V0,
            ApiVersion::V1 => API_VERSION_V1,
        },
        block_delay: node.options.block_delay_seconds(),
        agent: "curio-devnet".to_owned(),
    })
}

/// The token comes as bytes, in base64 like all bytes.
fn auth_new(node: &Node, (allow,): (Vec<String>,)) -> Answer {
    let token = node.auth.token(&Access { allow });
    answer(curio_chain::wire::Json(token.into_bytes()))
}

fn auth_verify(node: &Node, (token,): (String,)) -> Answer {
    match node.auth.verify(&token) {
        Ok(access) => answer(access.allow),
        Err(error) => Err(Fault::other(error.to_string())),
    }
}

/// The parameter of a method that no JSON fits.
struct Unreadable;

impl crate::rpc::params::Param for Unreadable {
    const KIND: &'static str = "*blocks.Block";

    fn read(value: &Value) -> Result<Unreadable, String> {
        Err(format!("json: cannot unmarshal {} into Go value of type blocks.Block", go_kind(value)))
    }
}
