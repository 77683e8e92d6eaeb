//! The actors that this chain has handlers for. Their state is that of the published v18 state
//! machine; the handlers here decide as the v18 actors do, in the same order, with the same exit codes.

pub mod miner;
pub mod power;
pub mod reward;

use fvm_shared::error::ExitCode;
use serde::de::DeserializeOwned;

use crate::state::Kind;
use crate::vm::Call;
use crate::vm::abort::Abort;

/// First method number that any caller may use on any account (FRC-0042).
const FIRST_EXPORTED_METHOD: u64 = 1 << 24;

/// Calls a method of the receiving actor.
pub fn invoke(call: &mut Call<'_, '_>, params: &[u8]) -> Result<Vec<u8>, Abort> {
    let kind = call.vm.tree.actor(call.receiver).map(|actor| actor.kind);
    match (kind, call.method) {
        (Some(Kind::Miner), method) => miner::invoke(call, method, params),
        (Some(Kind::Power), method) => power::invoke(call, method, params),
        (Some(Kind::Account), method) if method >= FIRST_EXPORTED_METHOD => Ok(Vec::new()),
        (_, method) => Err(unknown_method(method)),
    }
}

fn unknown_method(method: u64) -> Abort {
    Abort::new(ExitCode::USR_UNHANDLED_MESSAGE, format!("invalid method: {method}"))
}

/// Reads a method's parameters.
fn decode<T: DeserializeOwned>(params: &[u8]) -> Result<T, Abort> {
    Ok(fvm_ipld_encoding::from_slice(params)?)
}
