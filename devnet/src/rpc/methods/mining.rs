//! Making blocks: what an election is held with, a block from a template, and handing one in.

use curio_chain::types::{BlockMsg, BlockTemplate, SignedMessage, TipSetKey};
use fvm_shared::address::Address;
use serde_json::Value;

use super::at;
use crate::auth::Permission;
use crate::chain::Refused;
use crate::clock::unix_seconds;
use crate::node::Node;
use crate::rpc::fault::Fault;
use crate::rpc::table::{Answer, Table, answer};

pub(super) fn register(table: &mut Table) {
    table
        .read("MinerGetBaseInfo", miner_get_base_info)
        .sync("MinerCreateBlock", Permission::Write, miner_create_block)
        .sync("SyncSubmitBlock", Permission::Write, sync_submit_block)
        .read("MpoolSelect", mpool_select);
}

/// Null for a miner without power at the lookback.
fn miner_get_base_info(node: &Node, (miner, epoch, key): (Address, i64, TipSetKey)) -> Answer {
    let chain = node.chain();
    let base = chain
        .tip_of_key(&key)
        .map_err(|Refused(why)| Fault::other(format!("failed to load tipset for mining base: {why}")))?;
    answer(chain.base_info(&miner, epoch, &base)?)
}

fn miner_create_block(node: &Node, (template,): (Option<BlockTemplate>,)) -> Answer {
    let template = template.ok_or_else(|| nil_pointer("MinerCreateBlock"))?;
    answer(node.chain().create_block(&template)?)
}

fn sync_submit_block(node: &Node, (block,): (Option<BlockMsg>,)) -> Answer {
    let block = block.ok_or_else(|| nil_pointer("SyncSubmitBlock"))?;
    let now = unix_seconds();
    node.chain().submit(&block, now)?;
    Ok(Value::Null)
}

/// What a Lotus node answers when it is given nothing.
fn nil_pointer(method: &str) -> Fault {
    Fault::panic(format!(
        "fatal error calling 'Filecoin.{method}': panic in rpc method 'Filecoin.{method}': runtime error: invalid memory \
         address or nil pointer dereference"
    ))
}

/// Null when there is nothing to select. The quality of the ticket, by which a node leaves messages to the
/// block that comes first, is not looked at: a pool of this chain fits into one block.
fn mpool_select(node: &Node, (key, _): (TipSetKey, f64)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    let selected: Vec<SignedMessage> = chain.pool.select(&tip.after);
    match selected.is_empty() {
        true => Ok(Value::Null),
        false => answer(selected),
    }
}
