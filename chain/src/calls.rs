//! The calls of a chain node, one method each, named like the node's. A null or empty tipset key
//! means the head unless the method says otherwise. Every call ends within the client's deadline.

mod mining;
mod pool;
mod randomness;
mod state;
mod wallet;

use cid::Cid;
use curio_core::Epoch;
use fvm_shared::econ::TokenAmount;
use num_bigint::BigInt;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::client::{Client, NO_PARAMS};
use crate::rpc_error::RpcError;
use crate::types::*;
use crate::wire::Json;

type Called<T> = Result<T, RpcError>;

/// The node itself.
impl Client {
    pub async fn version(&self) -> Called<Version> {
        self.call("Filecoin.Version", NO_PARAMS).await
    }

    pub async fn state_network_name(&self) -> Called<String> {
        self.call("Filecoin.StateNetworkName", NO_PARAMS).await
    }

    pub async fn state_network_version(&self, key: &TipSetKey) -> Called<u32> {
        self.call("Filecoin.StateNetworkVersion", (key,)).await
    }

    pub async fn state_get_network_params(&self) -> Called<NetworkParams> {
        self.call("Filecoin.StateGetNetworkParams", NO_PARAMS).await
    }

    /// Permissions of a token: any of `read`, `write`, `sign`, `admin`.
    ///
    /// # Errors
    /// The node answers an error for a token that it did not make.
    pub async fn auth_verify(&self, token: &str) -> Called<Vec<String>> {
        self.call("Filecoin.AuthVerify", (token,)).await
    }
}

/// Tipsets, blocks and objects.
impl Client {
    pub async fn chain_head(&self) -> Called<TipSet> {
        self.call("Filecoin.ChainHead", NO_PARAMS).await
    }

    pub async fn chain_get_genesis(&self) -> Called<TipSet> {
        self.call("Filecoin.ChainGetGenesis", NO_PARAMS).await
    }

    /// The empty key is refused by the node.
    pub async fn chain_get_tip_set(&self, key: &TipSetKey) -> Called<TipSet> {
        self.call("Filecoin.ChainGetTipSet", (key,)).await
    }

    /// The tipset at `height`, or the one before when that is a null round.
    pub async fn chain_get_tip_set_by_height(&self, height: Epoch, key: &TipSetKey) -> Called<TipSet> {
        self.call("Filecoin.ChainGetTipSetByHeight", (height, key)).await
    }

    /// The tipset at `height`, or the one after when that is a null round.
    pub async fn chain_get_tip_set_after_height(&self, height: Epoch, key: &TipSetKey) -> Called<TipSet> {
        self.call("Filecoin.ChainGetTipSetAfterHeight", (height, key)).await
    }

    /// Reverts (newest first), then applies (oldest first), that lead from one tipset to another.
    pub async fn chain_get_path(&self, from: &TipSetKey, to: &TipSetKey) -> Called<Vec<HeadChange>> {
        let path: Option<Vec<HeadChange>> = self.call("Filecoin.ChainGetPath", (from, to)).await?;
        Ok(path.unwrap_or_default())
    }

    pub async fn chain_tip_set_weight(&self, key: &TipSetKey) -> Called<BigInt> {
        Ok(self.call::<_, Json<BigInt>>("Filecoin.ChainTipSetWeight", (key,)).await?.0)
    }

    pub async fn chain_get_block(&self, block: Cid) -> Called<BlockHeader> {
        self.call("Filecoin.ChainGetBlock", (Json(block),)).await
    }

    pub async fn chain_get_block_messages(&self, block: Cid) -> Called<BlockMessages> {
        self.call("Filecoin.ChainGetBlockMessages", (Json(block),)).await
    }

    /// The messages that were executed to give the state of `block`'s parents' child.
    pub async fn chain_get_parent_messages(&self, block: Cid) -> Called<Vec<CidMessage>> {
        self.list("Filecoin.ChainGetParentMessages", (Json(block),)).await
    }

    /// Receipts in the order of [`Client::chain_get_parent_messages`].
    pub async fn chain_get_parent_receipts(&self, block: Cid) -> Called<Vec<Receipt>> {
        self.list("Filecoin.ChainGetParentReceipts", (Json(block),)).await
    }

    /// The messages of a tipset; none for the empty key.
    pub async fn chain_get_messages_in_tipset(&self, key: &TipSetKey) -> Called<Vec<CidMessage>> {
        self.list("Filecoin.ChainGetMessagesInTipset", (key,)).await
    }

    pub async fn chain_get_message(&self, message: Cid) -> Called<Message> {
        self.call("Filecoin.ChainGetMessage", (Json(message),)).await
    }

    pub async fn chain_read_obj(&self, object: Cid) -> Called<Vec<u8>> {
        Ok(self.call::<_, Json<Vec<u8>>>("Filecoin.ChainReadObj", (Json(object),)).await?.0)
    }

    pub async fn chain_has_obj(&self, object: Cid) -> Called<bool> {
        self.call("Filecoin.ChainHasObj", (Json(object),)).await
    }
}

/// Forms of answers that many calls share.
impl Client {
    /// A list; null is an empty one.
    async fn list<P: Serialize, T: DeserializeOwned>(&self, method: &'static str, params: P) -> Called<Vec<T>> {
        Ok(self.call::<P, Option<Vec<T>>>(method, params).await?.unwrap_or_default())
    }

    async fn amount<P: Serialize>(&self, method: &'static str, params: P) -> Called<TokenAmount> {
        Ok(self.call::<P, Json<TokenAmount>>(method, params).await?.0)
    }
}
