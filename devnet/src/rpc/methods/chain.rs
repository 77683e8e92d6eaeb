//! Tipsets, blocks, their messages and receipts, and objects by CID.

use std::sync::Arc;

use cid::Cid;
use curio_chain::types::{BlockMessages, CidMessage, Receipt, SIGNATURE_BLS, SignedMessage, TipSetKey};
use curio_chain::wire::Json;
use fvm_ipld_blockstore::Blockstore;
use serde_json::{Value, json};

use super::at;
use crate::chain::block::Block;
use crate::chain::search::wire_receipt;
use crate::chain::{Chain, Refused, Tip};
use crate::node::Node;
use crate::rpc::fault::Fault;
use crate::rpc::table::{Answer, Table, answer};

/// Depth at which a Lotus node calls a tipset final, epochs.
const FINALITY: i64 = 900;

pub(super) fn register(table: &mut Table) {
    table
        .read("ChainHead", |node: &Node, (): ()| answer(&node.chain().head().tipset))
        .read("ChainGetGenesis", |node: &Node, (): ()| answer(&node.chain().genesis().tipset))
        .read("ChainGetTipSet", chain_get_tip_set)
        .read("ChainGetTipSetByHeight", |node: &Node, (height, key): (i64, TipSetKey)| {
            at_height(&node.chain(), height, &key, false)
        })
        .read("ChainGetTipSetAfterHeight", |node: &Node, (height, key): (i64, TipSetKey)| {
            at_height(&node.chain(), height, &key, true)
        })
        .read("ChainGetFinalizedTipSet", |node: &Node, (): ()| {
            let chain = node.chain();
            let height = chain.head().height - FINALITY;
            at_height(&chain, height, &TipSetKey::HEAD, false)
        })
        .read("ChainTipSetWeight", |node: &Node, (key,): (TipSetKey,)| {
            answer(Json(at(&node.chain(), &key)?.weight.clone()))
        })
        .read("ChainGetBlock", chain_get_block)
        .read("ChainGetBlockMessages", chain_get_block_messages)
        .read("ChainGetMessage", chain_get_message)
        .read("ChainGetMessagesInTipset", chain_get_messages_in_tipset)
        .read("ChainGetParentMessages", chain_get_parent_messages)
        .read("ChainGetParentReceipts", chain_get_parent_receipts)
        .read("ChainGetPath", chain_get_path)
        .read("ChainReadObj", chain_read_obj)
        .read("ChainHasObj", |node: &Node, (cid,): (Cid,)| Ok(json!(node.chain().store.has(&cid).unwrap_or_default())));
}

fn chain_get_tip_set(node: &Node, (key,): (TipSetKey,)) -> Answer {
    answer(&node.chain().tip_of_key(&key)?.tipset)
}

fn at_height(chain: &Chain, height: i64, key: &TipSetKey, after: bool) -> Answer {
    let from = at(chain, key)?;
    answer(&chain.at_height(height, &from, after)?.tipset)
}

fn block(chain: &Chain, cid: &Cid) -> Result<Arc<Block>, Fault> {
    chain.block(cid).cloned().ok_or_else(|| Fault::other(format!("ipld: could not find {cid}")))
}

fn chain_get_block(node: &Node, (cid,): (Cid,)) -> Answer {
    answer(&block(&node.chain(), &cid)?.header)
}

fn chain_get_block_messages(node: &Node, (cid,): (Cid,)) -> Answer {
    let block = block(&node.chain(), &cid)?;
    let (bls, other): (Vec<_>, Vec<_>) =
        block.messages.iter().cloned().partition(|message| message.signature.kind == SIGNATURE_BLS);
    answer(BlockMessages {
        cids: block.messages.iter().map(SignedMessage::cid).collect(),
        bls_messages: bls.into_iter().map(|message| message.message).collect(),
        secpk_messages: other,
    })
}

fn chain_get_message(node: &Node, (cid,): (Cid,)) -> Answer {
    match node.chain().message(&cid) {
        Some(message) => answer(&message.message),
        None => Err(Fault::other(format!("ipld: could not find {cid}"))),
    }
}

fn cid_messages(tip: &Tip) -> Vec<CidMessage> {
    tip.messages.iter().map(|message| CidMessage { cid: message.cid(), message: message.message.clone() }).collect()
}

/// Null when there are none.
fn chain_get_messages_in_tipset(node: &Node, (key,): (TipSetKey,)) -> Answer {
    let tip = node.chain().tip_or_head(&key)?;
    null_if_empty(cid_messages(&tip))
}

/// The tipset below a block; none below genesis.
fn parent(chain: &Chain, cid: &Cid) -> Result<Option<Arc<Tip>>, Fault> {
    Ok(chain.tip(&block(chain, cid)?.header.parents).cloned())
}

/// Null when there are none.
fn chain_get_parent_messages(node: &Node, (cid,): (Cid,)) -> Answer {
    let parent = parent(&node.chain(), &cid)?;
    null_if_empty(parent.map(|parent| cid_messages(&parent)).unwrap_or_default())
}

/// An empty list when there are none, unlike the messages.
fn chain_get_parent_receipts(node: &Node, (cid,): (Cid,)) -> Answer {
    let parent = parent(&node.chain(), &cid)?;
    let receipts: Vec<Receipt> = parent
        .map(|parent| parent.applied.iter().map(|applied| wire_receipt(&applied.receipt)).collect())
        .unwrap_or_default();
    answer(receipts)
}

fn chain_get_path(node: &Node, (from, to): (TipSetKey, TipSetKey)) -> Answer {
    let chain = node.chain();
    let load = |what: &str, key: &TipSetKey| {
        chain.tip_of_key(key).map_err(|Refused(why)| Fault::other(format!("loading {what} tipset {key}: {why}")))
    };
    answer(chain.path(&load("from", &from)?, &load("to", &to)?))
}

fn chain_read_obj(node: &Node, (cid,): (Cid,)) -> Answer {
    match node.chain().store.bytes(&cid) {
        Some(bytes) => answer(Json(bytes.to_vec())),
        None => Err(Fault::other(format!("blockstore get: ipld: could not find {cid}"))),
    }
}

fn null_if_empty(messages: Vec<CidMessage>) -> Answer {
    match messages.is_empty() {
        true => Ok(Value::Null),
        false => answer(messages),
    }
}
