//! Finding a message on the chain: where it was executed, and with what result.

use std::sync::Arc;

use cid::Cid;
use curio_chain::message::{Cbor, CreateMinerReturn};
use curio_chain::types::{Message, MsgLookup, Receipt, SignedMessage};
use curio_core::Epoch;
use fil_actors_shared::v18::STORAGE_POWER_ACTOR_ID;
use fvm_shared::clock::ChainEpoch;
use serde_json::{Value, json};

use super::{Chain, Refused, Tip};
use crate::actors::power::CREATE_MINER;
use crate::vm;
use curio_chain::address::to_text;

impl Chain {
    /// Looks for a message below a tipset, at most `limit` epochs down (-1 for no limit). Nothing is
    /// found in the tipset itself: results are in its child.
    ///
    /// # Errors
    /// When nobody has ever seen the message, or another message took its nonce.
    pub fn search(
        &self,
        from: &Arc<Tip>,
        cid: &Cid,
        limit: ChainEpoch,
        allow_replaced: bool,
    ) -> Result<Option<MsgLookup>, Refused> {
        let wanted = self.message(cid).cloned().ok_or_else(|| {
            Refused(format!("%!w(*errors.errorString=&{{failed to load message}}): ipld: could not find {cid}"))
        })?;
        let sender = wanted.message.from;
        let lowest = match limit {
            -1 => 0,
            limit => from.height - limit,
        };
        let mut child = from.clone();
        while child.height > lowest {
            // The nonce in the state below the child tells whether the search can still succeed.
            let executed =
                child.before.lookup(&sender).is_some_and(|(_, account)| account.nonce > wanted.message.nonce);
            let parent = self.parent(&child).cloned();
            let (true, Some(parent)) = (executed, parent) else { return Ok(None) };
            let position = parent.messages.iter().position(|message| {
                message.message.nonce == wanted.message.nonce
                    && parent.before.resolve(&message.message.from) == parent.before.resolve(&sender)
            });
            if let Some(position) = position {
                return self.found(&wanted, &parent, &child, position, allow_replaced);
            }
            child = parent;
        }
        Ok(None)
    }

    fn found(
        &self,
        wanted: &SignedMessage,
        parent: &Tip,
        child: &Tip,
        position: usize,
        allow_replaced: bool,
    ) -> Result<Option<MsgLookup>, Refused> {
        let executed = &parent.messages[position];
        if executed.message.cid() != wanted.message.cid() {
            if !same_call(&executed.message, &wanted.message) {
                return Err(Refused(format!(
                    "message was replaced: found message with equal nonce as the one we are looking for that is NOT a \
                     valid replacement message (F:{} n {}, TS: {} n{}): message was replaced",
                    wanted.cid(),
                    wanted.message.nonce,
                    executed.cid(),
                    executed.message.nonce
                )));
            }
            if !allow_replaced {
                return Ok(None);
            }
        }
        let receipt = &parent.applied[position].receipt;
        Ok(Some(MsgLookup {
            message: executed.cid(),
            receipt: wire_receipt(receipt),
            return_dec: decode_return(parent, executed, receipt),
            tip_set: child.key().clone(),
            height: Epoch(child.height),
        }))
    }
}

/// Whether two messages do the same and differ in gas only.
fn same_call(one: &Message, other: &Message) -> bool {
    let Message { version, to, from, nonce, value, method, params, gas_limit: _, gas_fee_cap: _, gas_premium: _ } = one;
    *version == other.version
        && *to == other.to
        && *from == other.from
        && *nonce == other.nonce
        && *value == other.value
        && *method == other.method
        && *params == other.params
}

/// A receipt as it goes over the wire.
pub fn wire_receipt(receipt: &vm::Receipt) -> Receipt {
    let vm::Receipt { exit_code, return_data, gas_used, events_root } = receipt;
    Receipt {
        exit_code: i64::from(*exit_code),
        r#return: return_data.clone(),
        gas_used: i64::try_from(*gas_used).unwrap_or(i64::MAX),
        events_root: *events_root,
    }
}

/// The return value spelt out, for methods that have one with names.
fn decode_return(tip: &Tip, message: &SignedMessage, receipt: &vm::Receipt) -> Value {
    let to = tip.before.resolve(&message.message.to);
    if to != Some(STORAGE_POWER_ACTOR_ID) || message.message.method != CREATE_MINER {
        return Value::Null;
    }
    match CreateMinerReturn::from_cbor(&receipt.return_data) {
        Ok(CreateMinerReturn { id_address, robust_address }) => {
            json!({ "IDAddress": to_text(&id_address), "RobustAddress": to_text(&robust_address) })
        }
        Err(_) => Value::Null,
    }
}
