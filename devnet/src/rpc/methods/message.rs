//! Messages: gas, the pool, searching and waiting.

use std::sync::Arc;
use std::time::Instant;

use cid::Cid;
use curio_chain::address::to_text;
use curio_chain::types::{InvocResult, Message, MsgGasCost, NO_UUID, SignedMessage, TipSetKey};
use curio_chain::wire::Json;
use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;
use num_traits::Zero;
use serde_json::{Value, json};

use super::at;
use super::state::account_key;
use crate::auth::Permission;
use crate::chain::estimate::premium;
use crate::chain::search::wire_receipt;
use crate::chain::{Chain, Refused};
use crate::node::Node;
use crate::rpc::fault::Fault;
use crate::rpc::params::{SomeMessage, SomeSignedMessage, Spec};
use crate::rpc::table::{Answer, ApiVersion, Table, answer};

pub(super) fn register(table: &mut Table) {
    table
        .read("GasEstimateMessageGas", gas_estimate_message_gas)
        .read("GasEstimateGasLimit", gas_estimate_gas_limit)
        .read("GasEstimateGasPremium", |node: &Node, (blocks, _, _, key): (u64, Address, i64, TipSetKey)| {
            answer(Json(premium(blocks, at(&node.chain(), &key)?.height)))
        })
        .read("GasEstimateFeeCap", gas_estimate_fee_cap)
        .read("StateCall", state_call)
        .read("MpoolGetNonce", |node: &Node, (address,): (Address,)| Ok(json!(node.chain().next_nonce(&address)?)))
        .read("MpoolPending", |node: &Node, _: (TipSetKey,)| answer(node.chain().pool.all()))
        .read("MpoolGetConfig", |_, (): ()| {
            Ok(json!({
                "PriorityAddrs": null,
                "SizeLimitHigh": 30_000,
                "SizeLimitLow": 20_000,
                "ReplaceByFeeRatio": 1.25,
                "PruneCooldown": 60_000_000_000_u64,
                "GasLimitOverestimation": 1.25,
            }))
        })
        .sync("MpoolPush", Permission::Write, mpool_push)
        .sync("MpoolPushMessage", Permission::Sign, mpool_push_message)
        .sync("MpoolClear", Permission::Write, |node: &Node, _: (bool,)| {
            node.chain().pool.clear();
            Ok(Value::Null)
        })
        .read("StateSearchMsg", state_search_msg)
        .insert("StateWaitMsg", Permission::Read, state_wait_msg);
}

fn whole(message: SomeMessage) -> Result<Message, Fault> {
    message.0.map_err(|member| Fault::other(format!("message has no '{member}' address")))
}

fn gas_estimate_message_gas(node: &Node, (message, Spec(spec), key): (SomeMessage, Spec, TipSetKey)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    answer(chain.estimate_message(whole(message)?, &spec, &tip)?)
}

fn gas_estimate_gas_limit(node: &Node, (message, key): (SomeMessage, TipSetKey)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    Ok(json!(chain.estimate_gas_limit(&whole(message)?, &tip)?))
}

fn gas_estimate_fee_cap(node: &Node, (message, blocks, key): (SomeMessage, u64, TipSetKey)) -> Answer {
    let chain = node.chain();
    at(&chain, &key)?;
    answer(Json(chain.fee_cap(&whole(message)?.gas_premium, blocks)))
}

fn state_call(node: &Node, (message, key): (SomeMessage, TipSetKey)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    let started = Instant::now();
    let (tried, applied) = chain.call(&whole(message)?, &tip)?;
    let zero = TokenAmount::zero;
    answer(InvocResult {
        msg_cid: tried.cid(),
        msg_rct: wire_receipt(&applied.receipt),
        gas_cost: MsgGasCost {
            message: None,
            gas_used: num_bigint::BigInt::zero(),
            base_fee_burn: zero(),
            over_estimation_burn: zero(),
            miner_penalty: zero(),
            miner_tip: zero(),
            refund: zero(),
            total_cost: zero(),
        },
        execution_trace: json!({
            "Msg": {
                "From": Json(tried.from),
                "To": Json(tried.to),
                "Value": Json(tried.value.clone()),
                "Method": tried.method,
                "Params": Json(tried.params.clone()),
                "ParamsCodec": if tried.params.is_empty() { 0 } else { 0x51 },
                "GasLimit": tried.gas_limit,
                "ReadOnly": false,
            },
            "MsgRct": { "ExitCode": applied.receipt.exit_code, "Return": Json(applied.receipt.return_data.clone()), "ReturnCodec": 0 },
            "InvokedActor": null,
            "GasCharges": [],
            "Subcalls": null,
        }),
        msg: tried,
        error: applied.error,
        duration: i64::try_from(started.elapsed().as_nanos()).unwrap_or(i64::MAX),
    })
}

fn mpool_push(node: &Node, (message,): (SomeSignedMessage,)) -> Answer {
    let message = message.0.map_err(|member| {
        Fault::other(format!("message not valid for block inclusion: '{member}' address cannot be empty"))
    })?;
    answer(Json(node.chain().push(message)?))
}

/// Estimates, takes the next nonce, signs with the wallet's key, pushes.
fn mpool_push_message(node: &Node, (message, Spec(spec)): (SomeMessage, Spec)) -> Answer {
    let mut chain = node.chain();
    let uuid = (spec.msg_uuid != NO_UUID).then(|| spec.msg_uuid.clone());
    if let Some(known) = uuid.as_ref().and_then(|uuid| chain.pool.by_uuid.get(uuid)) {
        return answer(known);
    }
    let mut message = whole(message)?;
    if message.nonce != 0 {
        let nonce = message.nonce;
        return Err(Fault::other(format!("MpoolPushMessage expects message nonce to be 0, was {nonce}")));
    }
    let tip = chain.head().clone();
    // The estimate's own code is lost on this way; a Lotus node answers 1, too.
    message = chain
        .estimate_message(message, &spec, &tip)
        .map_err(|error| Fault::other(format!("GasEstimateMessageGas error: {error}")))?;
    message.from =
        account_key(&tip, &message.from).map_err(|why| Fault::other(format!("getting key address: {why}")))?;
    let signed = sign_and_push(&mut chain, message)?;
    if let Some(uuid) = uuid {
        chain.pool.by_uuid.insert(uuid, signed.clone());
    }
    answer(signed)
}

fn sign_and_push(chain: &mut Chain, mut message: Message) -> Result<SignedMessage, Fault> {
    let from = message.from;
    if !chain.wallet.has(&from) {
        let key = to_text(&from);
        return Err(Fault::other(format!("mpool push: failed to sign message: key not found for {key}")));
    }
    message.nonce = chain.next_nonce(&from)?;
    let signed = chain.wallet.sign_message(&from, message)?;
    chain
        .push(signed.clone())
        .map_err(|Refused(why)| Fault::other(format!("mpool push: failed to push message: {why}")))?;
    Ok(signed)
}

fn state_search_msg(node: &Node, (key, cid, limit, allow_replaced): (TipSetKey, Cid, i64, bool)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    answer(chain.search(&tip, &cid, limit, allow_replaced)?)
}

/// Waits until the message was executed and `confidence` epochs have passed on top. A message that
/// never lands is waited for until the caller gives up.
async fn state_wait_msg(
    node: Arc<Node>,
    _: ApiVersion,
    (cid, confidence, limit, allow_replaced): (Cid, u64, i64, bool),
) -> Answer {
    let mut heights = node.chain().heights();
    loop {
        heights.mark_unchanged();
        let (found, height) = {
            let chain = node.chain();
            let head = chain.head().clone();
            (chain.search(&head, &cid, limit, allow_replaced)?, head.height)
        };
        if let Some(lookup) = found
            && height - lookup.height.0 >= i64::try_from(confidence).unwrap_or(i64::MAX)
        {
            return answer(lookup);
        }
        if heights.changed().await.is_err() {
            return Err(Fault::other("the node is stopping"));
        }
    }
}
