//! Sectors of a miner, and what new ones cost.

use curio_chain::types::{
    SectorExpiration, SectorLocation, SectorOnChainInfo, SectorPreCommitInfo, SectorPreCommitOnChainInfo, TipSetKey,
};
use curio_chain::wire::Json;
use curio_core::Epoch;
use fil_actor_miner_state::v18 as actor;
use fil_actors_shared::v18::Array;
use fvm_ipld_bitfield::BitField;
use fvm_shared::address::Address;
use fvm_shared::bigint::BigInt;
use fvm_shared::econ::TokenAmount;
use fvm_shared::sector::{RegisteredSealProof, SectorSize};
use serde_json::{Value, json};

use super::at;
use super::miner::{Miner, each_partition, load, load_bare};
use crate::actors::miner::Prices;
use crate::chain::Chain;
use crate::node::Node;
use crate::rpc::fault::Fault;
use crate::rpc::params::{PricedSector, Sectors};
use crate::rpc::table::{Answer, Table, answer};

/// What the node adds to prices, so that they still suffice when the message is executed, percent.
const PRICE_PERCENT: u64 = 110;

pub(super) fn register(table: &mut Table) {
    table
        .read("StateMinerSectors", state_miner_sectors)
        .read("StateMinerActiveSectors", state_miner_active_sectors)
        .read("StateMinerAllocated", state_miner_allocated)
        .read("StateMinerSectorAllocated", state_miner_sector_allocated)
        .read("StateSectorGetInfo", state_sector_get_info)
        .read("StateSectorPreCommitInfo", state_sector_pre_commit_info)
        .read("StateSectorPartition", state_sector_partition)
        .read("StateSectorExpiration", state_sector_expiration)
        .read("StateMinerPreCommitDepositForPower", pre_commit_deposit)
        .read("StateMinerInitialPledgeCollateral", initial_pledge_collateral)
        .read("StateMinerInitialPledgeForSector", initial_pledge_for_sector)
        .read("StateMinerCreationDeposit", creation_deposit);
}

fn wire_sector(sector: &actor::SectorOnChainInfo) -> SectorOnChainInfo {
    let actor::SectorOnChainInfo {
        sector_number,
        seal_proof,
        sealed_cid,
        deprecated_deal_ids: _,
        activation,
        expiration,
        deal_weight,
        verified_deal_weight,
        initial_pledge,
        expected_day_reward,
        expected_storage_pledge,
        power_base_epoch,
        replaced_day_reward,
        sector_key_cid,
        flags,
        daily_fee,
    } = sector.clone();
    SectorOnChainInfo {
        sector_number,
        seal_proof: seal_proof.into(),
        sealed_cid,
        activation: Epoch(activation),
        expiration: Epoch(expiration),
        deal_weight,
        verified_deal_weight,
        initial_pledge,
        expected_day_reward,
        expected_storage_pledge,
        power_base_epoch: Epoch(power_base_epoch),
        replaced_day_reward,
        sector_key_cid,
        flags: u64::from(flags.bits()),
        daily_fee,
    }
}

/// Sectors of a miner: all, or those of a bit field, all of which must exist.
fn sectors(chain: &Chain, state: &actor::State, filter: Option<&BitField>) -> Result<Vec<SectorOnChainInfo>, Fault> {
    let mut list = Vec::new();
    match filter {
        None => state.for_each_sector(&chain.store, |sector| {
            list.push(wire_sector(sector));
            Ok(())
        })?,
        Some(filter) => {
            for number in filter.iter() {
                let sector = state.get_sector(&chain.store, number)?;
                let Some(sector) = sector else {
                    return Err(Fault::other(format!("failed to load sectors: can't find sector {number}")));
                };
                list.push(wire_sector(&sector));
            }
        }
    }
    Ok(list)
}

fn state_miner_sectors(node: &Node, (miner, Sectors(filter), key): (Address, Sectors, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, &miner, &key)?;
    answer(sectors(&chain, &state, filter.as_ref())?)
}

fn state_miner_active_sectors(node: &Node, (miner, key): (Address, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, &miner, &key)?;
    let mut active = BitField::new();
    each_partition(&chain, &state, |_, _, partition| active |= &partition.active_sectors())?;
    answer(sectors(&chain, &state, Some(&active))?)
}

fn allocated(chain: &Chain, state: &actor::State) -> Result<BitField, Fault> {
    Ok(chain.store.load(&state.allocated_sectors)?)
}

fn state_miner_allocated(node: &Node, (miner, key): (Address, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load_bare(&chain, &miner, &key)?;
    answer(Json(allocated(&chain, &state)?))
}

fn state_miner_sector_allocated(node: &Node, (miner, number, key): (Address, u64, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, &miner, &key)?;
    Ok(json!(allocated(&chain, &state)?.get(number)))
}

/// Null for a sector that is not proven yet.
fn state_sector_get_info(node: &Node, (miner, number, key): (Address, u64, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, &miner, &key).map_err(|fault| fault.within_brackets("get sset"))?;
    match state.get_sector(&chain.store, number)? {
        Some(sector) => answer(wire_sector(&sector)),
        None => Ok(Value::Null),
    }
}

/// Null for a sector that is unknown or proven.
fn state_sector_pre_commit_info(node: &Node, (miner, number, key): (Address, u64, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, &miner, &key).map_err(|fault| fault.within_brackets("get sset"))?;
    let Some(found) = state.get_precommitted_sector(&chain.store, number)? else { return Ok(Value::Null) };
    let actor::SectorPreCommitOnChainInfo { info, pre_commit_deposit, pre_commit_epoch } = found;
    let actor::SectorPreCommitInfo {
        seal_proof,
        sector_number,
        sealed_cid,
        seal_rand_epoch,
        deal_ids,
        expiration,
        unsealed_cid,
    } = info;
    answer(SectorPreCommitOnChainInfo {
        info: SectorPreCommitInfo {
            seal_proof: seal_proof.into(),
            sector_number,
            sealed_cid,
            seal_rand_epoch: Epoch(seal_rand_epoch),
            deal_ids,
            expiration: Epoch(expiration),
            unsealed_cid: unsealed_cid.0,
        },
        pre_commit_deposit,
        pre_commit_epoch: Epoch(pre_commit_epoch),
    })
}

fn state_sector_partition(node: &Node, (miner, number, key): (Address, u64, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, &miner, &key)?;
    match state.find_sector(&chain.store, number) {
        Ok((deadline, partition)) => answer(SectorLocation { deadline, partition }),
        Err(_) => Err(Fault::other(format!("sector {number} not due at any deadline"))),
    }
}

/// On time or early: what the partition's queue has for the sector.
fn state_sector_expiration(node: &Node, (miner, number, key): (Address, u64, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, &miner, &key)?;
    let missing = || Fault::other(format!("failed to find sector {number}"));
    let (deadline, partition) = state.find_sector(&chain.store, number).map_err(|_| missing())?;
    let deadline = state.load_deadlines(&chain.store)?.load_deadline(&chain.store, deadline)?;
    let partition = deadline.load_partition(&chain.store, partition)?;
    let queue = Array::<actor::ExpirationSet, _>::load(&partition.expirations_epochs, &chain.store)
        .map_err(|error| Fault::other(error.to_string()))?;
    let mut found = None;
    queue
        .for_each_while(|epoch, set| {
            let epoch = Epoch(i64::try_from(epoch)?);
            if set.on_time_sectors.get(number) {
                found = Some(SectorExpiration { on_time: epoch, early: Epoch(0) });
            } else if set.early_sectors.get(number) {
                found = Some(SectorExpiration { on_time: Epoch(0), early: epoch });
            }
            Ok(found.is_none())
        })
        .map_err(|error| Fault::other(error.to_string()))?;
    answer(found.ok_or_else(missing)?)
}

fn sector_size(sector: &PricedSector) -> Result<SectorSize, Fault> {
    let proof = RegisteredSealProof::from(sector.seal_proof);
    proof.sector_size().map_err(|_| {
        let number = sector.seal_proof;
        Fault::other(format!("failed to resolve sector size for seal proof: unsupported proof type: {number}"))
    })
}

/// Price with the node's margin.
fn price(node: &Node, key: &TipSetKey, price: impl FnOnce(&Prices<'_>) -> TokenAmount) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, key)?;
    let exact = chain.look(&tip, |vm| Prices::now(vm).map(|prices| price(&prices)))?;
    answer(Json((exact * PRICE_PERCENT).div_floor(100)))
}

fn pre_commit_deposit(node: &Node, (_, sector, key): (Address, PricedSector, TipSetKey)) -> Answer {
    let power = actor::qa_power_max(sector_size(&sector)?);
    price(node, &key, |prices| prices.pre_commit_deposit(&power))
}

fn initial_pledge_collateral(node: &Node, (_, sector, key): (Address, PricedSector, TipSetKey)) -> Answer {
    let power = BigInt::from(sector_size(&sector)? as u64);
    price(node, &key, |prices| prices.initial_pledge(&power))
}

/// Takes duration, size and verified size of a sector.
fn initial_pledge_for_sector(node: &Node, (duration, size, verified, key): (i64, u64, u64, TipSetKey)) -> Answer {
    // Verified data counts ten times.
    const VERIFIED_FACTOR: u64 = 10;
    if duration <= 0 {
        return Err(Fault::other("sector duration must greater than 0"));
    }
    if size == 0 {
        return Err(Fault::other("sector size must be non-zero"));
    }
    if verified > size {
        return Err(Fault::other("verified size must be less than or equal to sector size"));
    }
    let power = BigInt::from(size - verified) + BigInt::from(verified) * VERIFIED_FACTOR;
    price(node, &key, |prices| prices.initial_pledge(&power))
}

/// Exact, unlike the prices of sectors.
fn creation_deposit(node: &Node, (key,): (TipSetKey,)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    answer(Json(chain.look(&tip, |vm| Prices::now(vm).map(|prices| prices.creation_deposit()))?))
}
