//! The calls of a chain node, one method each, named like the node's. A null or empty tipset key
//! means the head unless the method says otherwise. Every call ends within the client's deadline.

use std::time::Duration;

use cid::Cid;
use curio_core::{Epoch, SpId};
use fvm_ipld_bitfield::BitField;
use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;
use num_bigint::BigInt;

use crate::address::id_address;
use crate::client::{Client, NO_PARAMS, Repeat};
use crate::message::{RandomnessTag, miner_entropy};
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

    async fn list<P: serde::Serialize, T: serde::de::DeserializeOwned>(
        &self,
        method: &'static str,
        params: P,
    ) -> Called<Vec<T>> {
        Ok(self.call::<P, Option<Vec<T>>>(method, params).await?.unwrap_or_default())
    }
}

/// Actors and miners.
impl Client {
    pub async fn state_get_actor(&self, actor: &Address, key: &TipSetKey) -> Called<Actor> {
        self.call("Filecoin.StateGetActor", (Json(*actor), key)).await
    }

    pub async fn state_read_state(&self, actor: &Address, key: &TipSetKey) -> Called<ActorState> {
        self.call("Filecoin.StateReadState", (Json(*actor), key)).await
    }

    /// The key address behind an account's id address; a key address is echoed.
    pub async fn state_account_key(&self, account: &Address, key: &TipSetKey) -> Called<Address> {
        Ok(self.call::<_, Json<Address>>("Filecoin.StateAccountKey", (Json(*account), key)).await?.0)
    }

    /// The id address of an actor. An id address is echoed even when no such actor exists.
    pub async fn state_lookup_id(&self, actor: &Address, key: &TipSetKey) -> Called<Address> {
        Ok(self.call::<_, Json<Address>>("Filecoin.StateLookupID", (Json(*actor), key)).await?.0)
    }

    pub async fn state_lookup_robust_address(&self, actor: &Address, key: &TipSetKey) -> Called<Address> {
        Ok(self.call::<_, Json<Address>>("Filecoin.StateLookupRobustAddress", (Json(*actor), key)).await?.0)
    }

    pub async fn state_list_miners(&self, key: &TipSetKey) -> Called<Vec<Address>> {
        Ok(self.call::<_, Json<Vec<Address>>>("Filecoin.StateListMiners", (key,)).await?.0)
    }

    /// # Errors
    /// [`RpcError::is_actor_not_found`] when there is no such actor; another answer of the node when
    /// the actor is no miner.
    pub async fn state_miner_info(&self, miner: &Address, key: &TipSetKey) -> Called<MinerInfo> {
        self.call("Filecoin.StateMinerInfo", (Json(*miner), key)).await
    }

    /// Zeros and the network's total for an actor that is no miner or does not exist.
    pub async fn state_miner_power(&self, miner: &Address, key: &TipSetKey) -> Called<MinerPower> {
        self.call("Filecoin.StateMinerPower", (Json(*miner), key)).await
    }

    /// Every sector number that was ever used.
    pub async fn state_miner_allocated(&self, miner: &Address, key: &TipSetKey) -> Called<BitField> {
        Ok(self.call::<_, Json<BitField>>("Filecoin.StateMinerAllocated", (Json(*miner), key)).await?.0)
    }

    pub async fn state_miner_sector_allocated(&self, miner: &Address, number: u64, key: &TipSetKey) -> Called<bool> {
        self.call("Filecoin.StateMinerSectorAllocated", (Json(*miner), number, key)).await
    }

    /// Sectors on chain, terminated ones too; `filter` none is all. A filter that names a sector which
    /// is not there is refused by the node.
    pub async fn state_miner_sectors(
        &self,
        miner: &Address,
        filter: Option<&BitField>,
        key: &TipSetKey,
    ) -> Called<Vec<SectorOnChainInfo>> {
        self.list("Filecoin.StateMinerSectors", (Json(*miner), Json(filter.cloned()), key)).await
    }

    pub async fn state_miner_active_sectors(&self, miner: &Address, key: &TipSetKey) -> Called<Vec<SectorOnChainInfo>> {
        self.list("Filecoin.StateMinerActiveSectors", (Json(*miner), key)).await
    }

    pub async fn state_miner_sector_count(&self, miner: &Address, key: &TipSetKey) -> Called<MinerSectors> {
        self.call("Filecoin.StateMinerSectorCount", (Json(*miner), key)).await
    }

    pub async fn state_miner_faults(&self, miner: &Address, key: &TipSetKey) -> Called<BitField> {
        Ok(self.call::<_, Json<BitField>>("Filecoin.StateMinerFaults", (Json(*miner), key)).await?.0)
    }

    pub async fn state_miner_recoveries(&self, miner: &Address, key: &TipSetKey) -> Called<BitField> {
        Ok(self.call::<_, Json<BitField>>("Filecoin.StateMinerRecoveries", (Json(*miner), key)).await?.0)
    }

    pub async fn state_miner_proving_deadline(&self, miner: &Address, key: &TipSetKey) -> Called<DeadlineInfo> {
        self.call("Filecoin.StateMinerProvingDeadline", (Json(*miner), key)).await
    }

    pub async fn state_miner_deadlines(&self, miner: &Address, key: &TipSetKey) -> Called<Vec<Deadline>> {
        self.list("Filecoin.StateMinerDeadlines", (Json(*miner), key)).await
    }

    /// `deadline` is 0 to 47.
    pub async fn state_miner_partitions(
        &self,
        miner: &Address,
        deadline: u64,
        key: &TipSetKey,
    ) -> Called<Vec<Partition>> {
        self.list("Filecoin.StateMinerPartitions", (Json(*miner), deadline, key)).await
    }

    pub async fn state_miner_available_balance(&self, miner: &Address, key: &TipSetKey) -> Called<TokenAmount> {
        self.amount("Filecoin.StateMinerAvailableBalance", (Json(*miner), key)).await
    }

    /// What must come with the message that makes a miner.
    pub async fn state_miner_creation_deposit(&self, key: &TipSetKey) -> Called<TokenAmount> {
        self.amount("Filecoin.StateMinerCreationDeposit", (key,)).await
    }

    /// 110 % of the deposit that the chain will take.
    pub async fn state_miner_pre_commit_deposit_for_power(
        &self,
        miner: &Address,
        sector: &SectorPreCommitInfo,
        key: &TipSetKey,
    ) -> Called<TokenAmount> {
        self.amount("Filecoin.StateMinerPreCommitDepositForPower", (Json(*miner), sector, key)).await
    }

    /// 110 % of the pledge that the chain will take.
    pub async fn state_miner_initial_pledge_collateral(
        &self,
        miner: &Address,
        sector: &SectorPreCommitInfo,
        key: &TipSetKey,
    ) -> Called<TokenAmount> {
        self.amount("Filecoin.StateMinerInitialPledgeCollateral", (Json(*miner), sector, key)).await
    }

    /// 110 % of the pledge that the chain will take. Sizes in padded bytes.
    pub async fn state_miner_initial_pledge_for_sector(
        &self,
        duration_epochs: i64,
        sector_size: u64,
        verified_size: u64,
        key: &TipSetKey,
    ) -> Called<TokenAmount> {
        let params = (duration_epochs, sector_size, verified_size, key);
        self.amount("Filecoin.StateMinerInitialPledgeForSector", params).await
    }

    async fn amount<P: serde::Serialize>(&self, method: &'static str, params: P) -> Called<TokenAmount> {
        Ok(self.call::<P, Json<TokenAmount>>(method, params).await?.0)
    }
}

/// Single sectors.
impl Client {
    /// None for a sector that is not pre-committed, or proven already.
    pub async fn state_sector_pre_commit_info(
        &self,
        miner: &Address,
        number: u64,
        key: &TipSetKey,
    ) -> Called<Option<SectorPreCommitOnChainInfo>> {
        self.call("Filecoin.StateSectorPreCommitInfo", (Json(*miner), number, key)).await
    }

    /// None for a sector that is not proven. A terminated one is still there.
    pub async fn state_sector_get_info(
        &self,
        miner: &Address,
        number: u64,
        key: &TipSetKey,
    ) -> Called<Option<SectorOnChainInfo>> {
        self.call("Filecoin.StateSectorGetInfo", (Json(*miner), number, key)).await
    }

    pub async fn state_sector_expiration(
        &self,
        miner: &Address,
        number: u64,
        key: &TipSetKey,
    ) -> Called<SectorExpiration> {
        self.call("Filecoin.StateSectorExpiration", (Json(*miner), number, key)).await
    }

    /// # Errors
    /// The node's answer for a sector that is not proven.
    pub async fn state_sector_partition(
        &self,
        miner: &Address,
        number: u64,
        key: &TipSetKey,
    ) -> Called<SectorLocation> {
        self.call("Filecoin.StateSectorPartition", (Json(*miner), number, key)).await
    }
}

/// Randomness.
impl Client {
    /// Randomness of the tickets at `epoch`, 32 bytes. The empty key is refused by the node, and so is
    /// an epoch above the key's. Negative epochs are answered.
    pub async fn state_get_randomness_from_tickets(
        &self,
        tag: i64,
        epoch: Epoch,
        entropy: &[u8],
        key: &TipSetKey,
    ) -> Called<[u8; 32]> {
        self.draw("Filecoin.StateGetRandomnessFromTickets", tag, epoch, entropy, key).await
    }

    /// Randomness of the beacon at `epoch`, 32 bytes.
    pub async fn state_get_randomness_from_beacon(
        &self,
        tag: i64,
        epoch: Epoch,
        entropy: &[u8],
        key: &TipSetKey,
    ) -> Called<[u8; 32]> {
        self.draw("Filecoin.StateGetRandomnessFromBeacon", tag, epoch, entropy, key).await
    }

    /// The ticket of a sector: bound into SDR. `key` must be that of a real tipset at or above `epoch`.
    pub async fn seal_ticket(&self, sp: SpId, epoch: Epoch, key: &TipSetKey) -> Called<[u8; 32]> {
        let tag = RandomnessTag::SealRandomness.number();
        self.state_get_randomness_from_tickets(tag, epoch, &miner_entropy(sp), key).await
    }

    /// The seed that chooses the challenges of a PoRep.
    pub async fn seal_seed(&self, sp: SpId, epoch: Epoch, key: &TipSetKey) -> Called<[u8; 32]> {
        let tag = RandomnessTag::InteractiveSealChallengeSeed.number();
        self.state_get_randomness_from_beacon(tag, epoch, &miner_entropy(sp), key).await
    }

    pub async fn state_get_beacon_entry(&self, epoch: Epoch) -> Called<BeaconEntry> {
        self.call("Filecoin.StateGetBeaconEntry", (epoch,)).await
    }

    async fn draw(
        &self,
        method: &'static str,
        tag: i64,
        epoch: Epoch,
        entropy: &[u8],
        key: &TipSetKey,
    ) -> Called<[u8; 32]> {
        let Json(bytes): Json<Vec<u8>> = self.call(method, (tag, epoch, Json(entropy.to_vec()), key)).await?;
        let length = bytes.len();
        bytes.try_into().map_err(|_| RpcError::Result {
            method,
            source: serde::de::Error::custom(format!("randomness of {length} bytes, 32 are expected")),
        })
    }
}

/// Messages.
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

/// The node's wallet.
impl Client {
    /// Makes a key: `bls` or `secp256k1`.
    pub async fn wallet_new(&self, kind: &str) -> Called<Address> {
        let options = self.options();
        let (timeout, deadline) = (options.attempt_timeout, options.call_deadline);
        let made: Json<Address> =
            self.call_with("Filecoin.WalletNew", (kind,), Repeat::Never, timeout, deadline).await?;
        Ok(made.0)
    }

    pub async fn wallet_list(&self) -> Called<Vec<Address>> {
        Ok(self.call::<_, Json<Vec<Address>>>("Filecoin.WalletList", NO_PARAMS).await?.0)
    }

    pub async fn wallet_default_address(&self) -> Called<Address> {
        Ok(self.call::<_, Json<Address>>("Filecoin.WalletDefaultAddress", NO_PARAMS).await?.0)
    }

    /// Zero for an address that the chain never saw.
    pub async fn wallet_balance(&self, address: &Address) -> Called<TokenAmount> {
        self.amount("Filecoin.WalletBalance", (Json(*address),)).await
    }

    /// Whether the wallet holds the key; ask with the key address, an id address is never held.
    pub async fn wallet_has(&self, address: &Address) -> Called<bool> {
        self.call("Filecoin.WalletHas", (Json(*address),)).await
    }

    /// Signs bytes with the key of an address, which may be an id address.
    pub async fn wallet_sign(&self, address: &Address, data: &[u8]) -> Called<Signature> {
        self.call("Filecoin.WalletSign", (Json(*address), Json(data.to_vec()))).await
    }

    /// Signs a message as it is. The node does not check that `signer` is the sender.
    pub async fn wallet_sign_message(&self, signer: &Address, message: &Message) -> Called<SignedMessage> {
        self.call("Filecoin.WalletSignMessage", (Json(*signer), message)).await
    }

    /// False for every signature that does not fit, never an error.
    pub async fn wallet_verify(&self, signer: &Address, data: &[u8], signature: &Signature) -> Called<bool> {
        self.call("Filecoin.WalletVerify", (Json(*signer), Json(data.to_vec()), signature)).await
    }
}

/// Search and wait without a limit of epochs.
const NO_LIMIT: i64 = -1;

impl Client {
    /// [`Client::state_miner_info`] of a storage provider at the head.
    pub async fn miner_info(&self, sp: SpId) -> Called<MinerInfo> {
        self.state_miner_info(&id_address(sp), &TipSetKey::HEAD).await
    }
}
