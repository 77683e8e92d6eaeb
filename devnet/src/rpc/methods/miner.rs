//! Miners: information, money, power, deadlines and partitions.

use std::sync::Arc;

use curio_chain::types::{Deadline, DeadlineInfo, MinerInfo, MinerPower, MinerSectors, Partition, Power, TipSetKey};
use curio_chain::wire::Json;
use curio_core::Epoch;
use fil_actor_miner_state::v18 as actor;
use fil_actors_shared::v18::STORAGE_POWER_ACTOR_ID;
use fvm_ipld_bitfield::BitField;
use fvm_shared::ActorID;
use fvm_shared::address::Address;
use num_traits::Zero;
use serde_json::{Value, json};

use super::at;
use super::state::unresolved;
use crate::actors::power;
use crate::chain::{Chain, Refused, Tip};
use crate::node::Node;
use crate::rpc::fault::Fault;
use crate::rpc::table::{Answer, Table, answer};
use crate::state::Kind;

pub(super) fn register(table: &mut Table) {
    table
        .read("StateMinerInfo", state_miner_info)
        .read("StateMinerPower", state_miner_power)
        .read("StateMinerAvailableBalance", state_miner_available_balance)
        .read("StateMinerProvingDeadline", state_miner_proving_deadline)
        .read("StateMinerDeadlines", state_miner_deadlines)
        .read("StateMinerPartitions", state_miner_partitions)
        .read("StateMinerFaults", |node: &Node, (miner, key): (Address, TipSetKey)| {
            sectors_of_partitions(node, &miner, &key, |partition| partition.faults.clone())
        })
        .read("StateMinerRecoveries", |node: &Node, (miner, key): (Address, TipSetKey)| {
            sectors_of_partitions(node, &miner, &key, |partition| partition.recoveries.clone())
        })
        .read("StateMinerSectorCount", state_miner_sector_count);
}

/// A miner's state at a tipset.
pub(super) struct Miner {
    pub tip: Arc<Tip>,
    pub id: ActorID,
    pub state: actor::State,
}

/// Loads a miner. The words differ from method to method, in what comes before these.
pub(super) fn load(chain: &Chain, miner: &Address, key: &TipSetKey) -> Result<Miner, Fault> {
    let tip = chain.tip_or_head(key).map_err(|Refused(why)| Fault::other(format!("failed to load tipset: {why}")))?;
    let id = tip
        .before
        .resolve(miner)
        .ok_or_else(|| Fault::other(format!("failed to load miner actor: {}", unresolved(miner))))?;
    let Some(found) = tip.before.actor(id) else {
        return Err(Fault::other("failed to load miner actor: actor not found"));
    };
    if found.kind != Kind::Miner {
        let name = found.kind.name();
        return Err(Fault::other(format!("failed to load miner actor state: actor code is not miner: {name}")));
    }
    let state = chain.store.load(&found.head)?;
    Ok(Miner { tip, id, state })
}

/// The same for the methods that say less when there is no actor.
pub(super) fn load_bare(chain: &Chain, miner: &Address, key: &TipSetKey) -> Result<Miner, Fault> {
    load(chain, miner, key).map_err(|fault| match fault.message.as_str() {
        "failed to load miner actor: actor not found" => Fault::other("actor not found"),
        _ => fault,
    })
}

fn state_miner_info(node: &Node, (miner, key): (Address, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, &miner, &key)?;
    let actor::MinerInfo {
        owner,
        worker,
        control_addresses,
        pending_worker_key,
        peer_id,
        multi_address,
        window_post_proof_type,
        sector_size,
        window_post_partition_sectors,
        consensus_fault_elapsed,
        pending_owner_address,
        beneficiary,
        beneficiary_term,
        pending_beneficiary_term: _,
    } = state.get_info(&chain.store)?;
    answer(MinerInfo {
        owner,
        worker,
        new_worker: pending_worker_key.as_ref().map(|change| change.new_worker),
        control_addresses,
        worker_change_epoch: Epoch(pending_worker_key.map_or(-1, |change| change.effective_at)),
        peer_id: (!peer_id.is_empty()).then(|| base58(&peer_id)),
        multiaddrs: multi_address.into_iter().map(|address| address.0).collect(),
        window_po_st_proof_type: window_post_proof_type.into(),
        sector_size: sector_size as u64,
        window_po_st_partition_sectors: window_post_partition_sectors,
        consensus_fault_elapsed: Epoch(consensus_fault_elapsed),
        pending_owner_address,
        beneficiary,
        beneficiary_term: Some(curio_chain::types::BeneficiaryTerm {
            quota: beneficiary_term.quota,
            used_quota: beneficiary_term.used_quota,
            expiration: Epoch(beneficiary_term.expiration),
        }),
        pending_beneficiary_term: None,
    })
}

/// Bytes as base58 text, the way libp2p writes peer ids.
fn base58(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let (_, digits) = num_bigint::BigUint::from_bytes_be(bytes).to_radix_be(58).into_iter().fold(
        (true, Vec::new()),
        |(leading, mut digits), digit| {
            if !(leading && digit == 0) {
                digits.push(digit);
                return (false, digits);
            }
            (true, digits)
        },
    );
    let ones = std::iter::repeat_n('1', zeros);
    ones.chain(digits.into_iter().map(|digit| char::from(ALPHABET[usize::from(digit)]))).collect()
}

/// Anybody who is no miner has no power, and no error either.
fn state_miner_power(node: &Node, (miner, key): (Address, TipSetKey)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    let state: power::State = tip.before.load(&chain.store, STORAGE_POWER_ACTOR_ID)?;
    let claim = tip.before.resolve(&miner).and_then(|id| state.claim(id)).cloned().unwrap_or_default();
    let has_min_power = !claim.raw.is_zero() && claim.raw >= chain.network.policy.minimum_consensus_power;
    answer(MinerPower {
        miner_power: Power { raw_byte_power: claim.raw, quality_adj_power: claim.qa },
        total_power: Power {
            raw_byte_power: state.total_raw + node.options.other_power,
            quality_adj_power: state.total_qa + node.options.other_power,
        },
        has_min_power,
    })
}

fn state_miner_available_balance(node: &Node, (miner, key): (Address, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { tip, id, state } = load(&chain, &miner, &key)?;
    let vested = state.check_vested_funds(&chain.store, tip.height)?;
    let available = state.get_available_balance(&tip.before.balance(id))?;
    answer(Json(available + vested))
}

/// The deadline as the state has it, moved on by whole proving periods: for a miner without cron this
/// is the next occurrence of the deadline at which it was made.
fn state_miner_proving_deadline(node: &Node, (miner, key): (Address, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { tip, state, .. } = load(&chain, &miner, &key)?;
    let info = state.recorded_deadline_info(&chain.network.policy, tip.height).next_not_elapsed();
    let actor::DeadlineInfo {
        current_epoch,
        period_start,
        index,
        open,
        close,
        challenge,
        fault_cutoff,
        w_post_period_deadlines,
        w_post_proving_period,
        w_post_challenge_window,
        w_post_challenge_lookback,
        fault_declaration_cutoff,
    } = info;
    answer(DeadlineInfo {
        current_epoch: Epoch(current_epoch),
        period_start: Epoch(period_start),
        index,
        open: Epoch(open),
        close: Epoch(close),
        challenge: Epoch(challenge),
        fault_cutoff: Epoch(fault_cutoff),
        wpost_period_deadlines: w_post_period_deadlines,
        wpost_proving_period: w_post_proving_period,
        wpost_challenge_window: w_post_challenge_window,
        wpost_challenge_lookback: w_post_challenge_lookback,
        fault_declaration_cutoff,
    })
}

fn state_miner_deadlines(node: &Node, (miner, key): (Address, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, &miner, &key)?;
    let mut deadlines = Vec::new();
    state.load_deadlines(&chain.store)?.for_each(&chain.store, |_, deadline| {
        deadlines.push(Deadline {
            disputable_proof_count: deadline.optimistic_proofs_snapshot_amt(&chain.store)?.count(),
            post_submissions: deadline.partitions_posted,
            daily_fee: deadline.daily_fee,
        });
        Ok(())
    })?;
    answer(deadlines)
}

/// Null for a deadline without partitions.
fn state_miner_partitions(node: &Node, (miner, index, key): (Address, u64, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, &miner, &key)?;
    if index >= chain.network.policy.wpost_period_deadlines {
        return Err(Fault::other(format!("failed to load the deadline: invalid deadline {index}")));
    }
    let deadline = state.load_deadlines(&chain.store)?.load_deadline(&chain.store, index)?;
    let mut partitions = Vec::new();
    deadline.for_each(&chain.store, |_, partition| {
        partitions.push(Partition {
            live_sectors: partition.live_sectors(),
            active_sectors: partition.active_sectors(),
            all_sectors: partition.sectors.clone(),
            faulty_sectors: partition.faults.clone(),
            recovering_sectors: partition.recoveries.clone(),
        });
        Ok(())
    })?;
    match partitions.is_empty() {
        true => Ok(Value::Null),
        false => answer(partitions),
    }
}

/// Visits every partition of a miner.
pub(super) fn each_partition(
    chain: &Chain,
    state: &actor::State,
    mut visit: impl FnMut(u64, u64, &actor::Partition),
) -> Result<(), Fault> {
    state.load_deadlines(&chain.store)?.for_each(&chain.store, |deadline_index, deadline| {
        deadline.for_each(&chain.store, |index, partition| {
            visit(deadline_index, index, partition);
            Ok(())
        })
    })?;
    Ok(())
}

fn sectors_of_partitions(
    node: &Node,
    miner: &Address,
    key: &TipSetKey,
    sectors: fn(&actor::Partition) -> BitField,
) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load(&chain, miner, key)?;
    let mut all = BitField::new();
    each_partition(&chain, &state, |_, _, partition| all |= &sectors(partition))?;
    answer(Json(all))
}

fn state_miner_sector_count(node: &Node, (miner, key): (Address, TipSetKey)) -> Answer {
    let chain = node.chain();
    let Miner { state, .. } = load_bare(&chain, &miner, &key)?;
    let mut count = MinerSectors { live: 0, active: 0, faulty: 0 };
    each_partition(&chain, &state, |_, _, partition| {
        count.live += partition.live_sectors().len();
        count.active += partition.active_sectors().len();
        count.faulty += partition.faults.len();
    })?;
    Ok(json!(count))
}

#[cfg(test)]
mod tests {
    use super::base58;

    #[test]
    fn peer_ids_are_written_in_base58() {
        for (bytes, text) in [(&b""[..], ""), (b"\0\0", "11"), (b"hello world", "StV1DL6CwTryKyV"), (b"\0a", "12g")] {
            assert_eq!(base58(bytes), text);
        }
    }
}
