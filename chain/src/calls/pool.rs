//! Messages: estimating, sending and finding them.

use std::time::Duration;

use cid::Cid;
use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;

use super::Called;
use crate::client::{Client, Repeat};
use crate::types::*;
use crate::wire::Json;

/// Search and wait without a limit of epochs.
const NO_LIMIT: i64 = -1;

impl Client {
    /// Where a message was executed, looking down from `key` at most `limit` epochs (none: no limit).
    /// None when it is known and not executed there; `key` must be above the inclusion.
    ///
    /// # Errors
    /// [`RpcError::is_not_yet`] when the node does not know the message at all;
    /// [`RpcError::is_message_replaced`] when another one took its nonce.
    pub async fn state_search_msg(
        &self,
        key: &TipSetKey,
        message: Cid,
        limit: Option<i64>,
        allow_replaced: bool,
    ) -> Called<Option<MsgLookup>> {
        let params = (key, Json(message), limit.unwrap_or(NO_LIMIT), allow_replaced);
        self.call("Filecoin.StateSearchMsg", params).await
    }

    /// Waits until a message has been executed and `confidence` epochs are on top. The node would wait
    /// for ever for a message that never lands; `deadline` bounds it.
    pub async fn state_wait_msg(
        &self,
        message: Cid,
        confidence: u64,
        limit: Option<i64>,
        allow_replaced: bool,
        deadline: Duration,
    ) -> Called<MsgLookup> {
        let params = (Json(message), confidence, limit.unwrap_or(NO_LIMIT), allow_replaced);
        self.call_with("Filecoin.StateWaitMsg", params, Repeat::Safe, deadline, deadline).await
    }

    /// Executes a message on a tipset without sending it.
    pub async fn state_call(&self, message: &Message, key: &TipSetKey) -> Called<InvocResult> {
        self.call("Filecoin.StateCall", (message, key)).await
    }

    /// Fills gas limit, fee cap and premium where they are zero, by executing the message on the head
    /// and the pending messages of its sender.
    ///
    /// # Errors
    /// [`RpcError::exit_code`] tells when the message would fail.
    pub async fn gas_estimate_message_gas(
        &self,
        message: &Message,
        spec: Option<&MessageSendSpec>,
        key: &TipSetKey,
    ) -> Called<Message> {
        self.call("Filecoin.GasEstimateMessageGas", (message, spec, key)).await
    }

    /// Premium with which a message is expected to land within `blocks` blocks.
    pub async fn gas_estimate_gas_premium(
        &self,
        blocks: u64,
        sender: &Address,
        gas_limit: i64,
        key: &TipSetKey,
    ) -> Called<TokenAmount> {
        self.amount("Filecoin.GasEstimateGasPremium", (blocks, Json(*sender), gas_limit, key)).await
    }

    /// Fee cap good for `max_queue_blocks`; the message's limit and premium must be filled.
    pub async fn gas_estimate_fee_cap(
        &self,
        message: &Message,
        max_queue_blocks: i64,
        key: &TipSetKey,
    ) -> Called<TokenAmount> {
        self.amount("Filecoin.GasEstimateFeeCap", (message, max_queue_blocks, key)).await
    }

    /// Next nonce of a sender, pending messages counted. Lags the chain by seconds.
    pub async fn mpool_get_nonce(&self, sender: &Address) -> Called<u64> {
        self.call("Filecoin.MpoolGetNonce", (Json(*sender),)).await
    }

    /// Gives a signed message to the pool. Safe to repeat: the pool refuses the very same message
    /// ([`RpcError::is_already_in_mpool`]), which may happen here when an answer was lost.
    pub async fn mpool_push(&self, message: &SignedMessage) -> Called<Cid> {
        Ok(self.call::<_, Json<Cid>>("Filecoin.MpoolPush", (message,)).await?.0)
    }

    /// Estimates, gives a nonce, signs and pushes, all in the node. Sent again after a lost answer only
    /// when the spec carries a `MsgUuid`, by which the node recognises it.
    pub async fn mpool_push_message(&self, message: &Message, spec: Option<&MessageSendSpec>) -> Called<SignedMessage> {
        let repeat = match spec {
            Some(spec) if spec.msg_uuid != NO_UUID => Repeat::Safe,
            _ => Repeat::Never,
        };
        let options = self.options();
        let (timeout, deadline) = (options.attempt_timeout, options.call_deadline);
        self.call_with("Filecoin.MpoolPushMessage", (message, spec), repeat, timeout, deadline).await
    }

    /// Messages of the pool; executed ones may still be listed for some seconds.
    pub async fn mpool_pending(&self, key: &TipSetKey) -> Called<Vec<SignedMessage>> {
        self.list("Filecoin.MpoolPending", (key,)).await
    }
}
