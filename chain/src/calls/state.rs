//! Actors, miners and their sectors.

use curio_core::SpId;
use fvm_ipld_bitfield::BitField;
use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;

use super::Called;
use crate::address::id_address;
use crate::client::Client;
use crate::types::*;
use crate::wire::Json;

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

    /// [`Client::state_miner_info`] of a storage provider at the head.
    pub async fn miner_info(&self, sp: SpId) -> Called<MinerInfo> {
        self.state_miner_info(&id_address(sp), &TipSetKey::HEAD).await
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
