//! Lotus JSON-RPC: one port, `/rpc/v1` and `/rpc/v0`, over HTTP and websocket. The transport rules are
//! those of a Lotus node (measured), odd ones included, because clients meet them in the wild.

pub mod fault;
pub mod methods;
pub mod params;
pub mod table;
pub mod transport;
pub mod websocket;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::auth::Access;
use crate::node::Node;
use fault::Fault;
use table::{ApiVersion, Entry, Table};

/// What became of one request.
pub enum Outcome {
    /// A notification: nothing is answered.
    Silent,
    /// An answer, with the HTTP status that it has when it travels alone.
    Answer { status: u16, body: Value },
    /// A channel method on a websocket: the caller opens the channel and answers its id.
    Channel { id: Value },
}

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Http,
    Websocket,
}

/// A method whose answers come as a stream.
const CHANNEL_METHOD: &str = "Filecoin.ChainNotify";

/// Handles one request object.
pub async fn handle(
    table: &Table,
    node: &Arc<Node>,
    access: &Access,
    version: ApiVersion,
    mode: Mode,
    request: &Value,
) -> Outcome {
    let id = match request.get("id") {
        None | Some(Value::Null) => None,
        Some(id @ (Value::String(_) | Value::Number(_))) => Some(id.clone()),
        Some(other) => {
            let kind = match other {
                Value::Object(_) => "map[string]interface {}",
                Value::Array(_) => "[]interface {}",
                _ => "bool",
            };
            return failed(Value::Null, &Fault::parse(format!("failed to parse ID: invalid id type: {kind}")));
        }
    };
    let method = request.get("method").and_then(Value::as_str).unwrap_or_default();
    let outcome = match (method, mode) {
        (CHANNEL_METHOD, Mode::Websocket) => return Outcome::Channel { id: id.unwrap_or(Value::Null) },
        (CHANNEL_METHOD, Mode::Http) => {
            Err(Fault::no_method(format!("method '{method}' not supported in this mode (no out channel support)")))
        }
        _ => call(table, node, access, version, method, request.get("params")).await,
    };
    match (id, outcome) {
        (None, _) => Outcome::Silent,
        (Some(id), Ok(result)) => {
            Outcome::Answer { status: 200, body: json!({ "id": id, "jsonrpc": "2.0", "result": result }) }
        }
        (Some(id), Err(fault)) => failed(id, &fault),
    }
}

/// An error answer.
pub fn failed(id: Value, fault: &Fault) -> Outcome {
    Outcome::Answer { status: fault.http_status(), body: json!({ "error": fault, "id": id, "jsonrpc": "2.0" }) }
}

async fn call(
    table: &Table,
    node: &Arc<Node>,
    access: &Access,
    version: ApiVersion,
    method: &str,
    params: Option<&Value>,
) -> Result<Value, Fault> {
    let name = method.strip_prefix("Filecoin.");
    let Some((name, entry)) = name.and_then(|name| Some((name, table.entry(name)?))) else {
        return Err(Fault::no_method(format!("method '{method}' not found")));
    };
    let Entry { permission, arity, handler } = entry;
    let params: &[Value] = match params {
        None | Some(Value::Null) => &[],
        Some(Value::Array(params)) => params,
        Some(other) => {
            let kind = params::go_kind(other);
            return Err(Fault::parse(format!(
                "unmarshaling param array: json: cannot unmarshal {kind} into Go value of type []jsonrpc.param"
            )));
        }
    };
    if params.len() != *arity {
        let got = params.len();
        return Err(Fault::param_count(format!("wrong param count (method '{method}'): {got} != {arity}")));
    }
    // Parameters are read before the permission is looked at, as the Go server does.
    let ready = handler(params).map_err(|params::ParamError { kind, why }| {
        Fault::parse(format!("unmarshaling params for '{method}' (param: {kind}): {why}"))
    })?;
    if !access.allows(*permission) {
        let need = permission.name();
        return Err(Fault::other(format!("missing permission to invoke '{name}' (need '{need}')")));
    }
    let running = tokio::spawn(ready(node.clone(), version));
    match running.await {
        Ok(result) => result,
        Err(error) if error.is_panic() => {
            let panic = error.into_panic();
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown");
            Err(Fault::panic(format!("fatal error calling '{method}': panic in rpc method '{method}': {text}")))
        }
        Err(_) => Err(Fault::other("the node is stopping".to_owned())),
    }
}
