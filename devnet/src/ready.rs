//! The ready file: what a parent process needs to know once the chain serves.

use std::io::Write;
use std::path::Path;

use cid::Cid;
use curio_chain::wire::Json;
use serde_json::{Value, json};

use crate::devnet::Devnet;

/// Describes a running chain: url, token (admin), default_address, genesis, network, and the first miner if one was
/// asked for.
pub fn describe(devnet: &Devnet) -> Value {
    let genesis: Vec<Json<Cid>> = devnet.genesis().cids.0.into_iter().map(Json).collect();
    json!({
        "url": devnet.url.as_str().trim_end_matches('/'),
        "rpc": devnet.url.join("/rpc/v1").map(|url| url.to_string()).unwrap_or_default(),
        "token": devnet.token,
        "default_address": devnet.default_address,
        "network": devnet.network_name(),
        "genesis": genesis,
        "miner": devnet.first_miner,
        "pid": std::process::id(),
    })
}

/// Writes the description so that a reader sees all of it or nothing.
///
/// # Errors
/// When the folder cannot be written to.
pub fn write(path: &Path, devnet: &Devnet) -> std::io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let mut file = std::fs::File::create(&temporary)?;
    writeln!(file, "{:#}", describe(devnet))?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}
