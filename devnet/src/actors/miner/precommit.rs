//! PreCommitSectorBatch2: sectors are announced with their commitments and a deposit is locked.
//! Checks come in the order of the v18 actor, because the first one that fails names the exit code.

use std::collections::BTreeSet;

use cid::Cid;
use fil_actor_miner_state::v18::{
    CRON_EVENT_PROVING_DEADLINE, CollisionPolicy, MinerInfo, PreCommitSectorBatchParams2, SectorPreCommitInfo,
    SectorPreCommitOnChainInfo, State, can_pre_commit_seal_proof, is_sealed_sector, is_unsealed_sector,
    max_prove_commit_duration, qa_power_max, seal_proof_sector_maximum_lifetime,
};
use fil_actors_shared::v18::EventBuilder;
use fil_actors_shared::v18::runtime::Policy;
use fil_actors_shared::v18::runtime::policy_constants::MAX_SECTOR_NUMBER;
use fvm_ipld_bitfield::BitField;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use fvm_shared::error::ExitCode;
use fvm_shared::sector::{RegisteredSealProof, SectorNumber};

use super::{Prices, burn, check_balance, controllers};
use crate::vm::Call;
use crate::vm::abort::Abort;
use crate::vm::gas::Work;

pub(super) fn pre_commit_sectors(
    call: &mut Call<'_, '_>,
    PreCommitSectorBatchParams2 { sectors }: PreCommitSectorBatchParams2,
) -> Result<Vec<u8>, Abort> {
    let world = call.world();
    let (policy, store, epoch) = (&world.network.policy, world.store, world.epoch);
    call.count(Work { sectors: sectors.len() as u64, ..Work::default() });
    let numbers = check_sectors(policy, epoch, &sectors)?;
    // There is no market behind this chain, so no deal id means anything; the real market refuses
    // deals of somebody else with the same code.
    if sectors.iter().any(|sector| !sector.deal_ids.is_empty()) {
        return Err(Abort::forbidden("send aborted with code 18"));
    }

    let mut state: State = call.state()?;
    let balance = call.balance();
    let available = state.get_available_balance(&balance)?;
    let debt = state.repay_debts(&balance)?;
    let info = state.get_info(store)?;
    call.only(controllers(&info))?;
    if epoch <= info.consensus_fault_elapsed {
        return Err(Abort::forbidden("pre-commit not allowed during active consensus fault"));
    }

    let deposit = Prices::now(call.vm)?.pre_commit_deposit(&qa_power_max(info.sector_size));
    let mut announced = Vec::with_capacity(sectors.len());
    let mut clean_ups = Vec::with_capacity(sectors.len());
    let mut total = TokenAmount::default();
    for sector in sectors {
        check_against_miner(&info, &sector)?;
        let window = max_prove_commit_duration(policy, sector.seal_proof)
            .ok_or_else(|| Abort::illegal_argument(format!("no max seal duration for {:?}", sector.seal_proof)))?;
        clean_ups.push((epoch + window + policy.expired_pre_commit_clean_up_delay, sector.sector_number));
        total += &deposit;
        announced.push(SectorPreCommitOnChainInfo {
            info: sector,
            pre_commit_deposit: deposit.clone(),
            pre_commit_epoch: epoch,
        });
    }
    if available < total {
        let text = format!("insufficient funds {available} for pre-commit deposit: {total}");
        return Err(Abort::insufficient_funds(text));
    }

    let events: Vec<SectorNumber> = announced.iter().map(|sector| sector.info.sector_number).collect();
    state.add_pre_commit_deposit(&total)?;
    state.allocate_sector_numbers(store, &numbers, CollisionPolicy::DenyCollisions)?;
    state.put_precommitted_sectors(store, announced)?;
    state.add_pre_commit_clean_ups(policy, store, clean_ups)?;
    let starts_cron = !state.deadline_cron_active;
    state.deadline_cron_active = true;
    call.save(&state);

    burn(call, &debt)?;
    check_balance(call, &state)?;
    if starts_cron {
        let last = state.deadline_info(policy, epoch).last();
        let miner = call.receiver;
        call.vm.enroll_cron(miner, last, CRON_EVENT_PROVING_DEADLINE)?;
    }
    for number in events {
        call.emit(EventBuilder::new().typ("sector-precommitted").field_indexed("sector", &number).build()?);
    }
    Ok(Vec::new())
}

/// Everything that can be judged from the parameters alone.
fn check_sectors(policy: &Policy, now: ChainEpoch, sectors: &[SectorPreCommitInfo]) -> Result<BitField, Abort> {
    if sectors.is_empty() {
        return Err(Abort::illegal_argument("batch empty"));
    }
    let oldest_ticket = now - policy.max_pre_commit_randomness_lookback;
    let mut numbers = BTreeSet::new();
    for sector in sectors {
        let SectorPreCommitInfo { seal_proof, sector_number, sealed_cid, seal_rand_epoch, expiration, .. } = sector;
        if !numbers.insert(*sector_number) {
            return Err(Abort::illegal_argument(format!("duplicate sector number {sector_number}")));
        }
        if !can_pre_commit_seal_proof(policy, *seal_proof) {
            return Err(Abort::illegal_argument(format!("unsupported seal proof type {}", i64::from(*seal_proof))));
        }
        if *sector_number > MAX_SECTOR_NUMBER {
            return Err(Abort::illegal_argument(format!("sector number {sector_number} out of range 0..(2^63-1)")));
        }
        if !is_sealed_sector(sealed_cid) {
            return Err(Abort::illegal_argument("sealed CID had wrong prefix"));
        }
        if *seal_rand_epoch >= now {
            let text = format!("seal challenge epoch {seal_rand_epoch} must be before now {now}");
            return Err(Abort::illegal_argument(text));
        }
        if *seal_rand_epoch < oldest_ticket {
            let text = format!("seal challenge epoch {seal_rand_epoch} too old, must be after {oldest_ticket}");
            return Err(Abort::illegal_argument(text));
        }
        let latest_activation = now + max_prove_commit_duration(policy, *seal_proof).unwrap_or_default();
        check_expiration(policy, now, latest_activation, *expiration, *seal_proof)?;
    }
    BitField::try_from_bits(numbers).map_err(|error| Abort::illegal_argument(format!("sector numbers: {error}")))
}

pub(super) fn check_expiration(
    policy: &Policy,
    now: ChainEpoch,
    activation: ChainEpoch,
    expiration: ChainEpoch,
    seal_proof: RegisteredSealProof,
) -> Result<(), Abort> {
    // An expiration is whatever a message says.
    let refused = match expiration.saturating_sub(activation) {
        ..=0 => format!("sector expiration {expiration} must be after activation {activation}"),
        lifetime if lifetime < policy.min_sector_expiration => format!(
            "invalid expiration {expiration}, total sector lifetime ({lifetime}) must exceed {} after activation \
             {activation}",
            policy.min_sector_expiration
        ),
        _ if expiration > now + policy.max_sector_expiration_extension => format!(
            "invalid expiration {expiration}, cannot be more than {} past current epoch {now}",
            policy.max_sector_expiration_extension
        ),
        lifetime => match seal_proof_sector_maximum_lifetime(seal_proof) {
            Some(longest) if lifetime <= longest => return Ok(()),
            Some(longest) => format!(
                "invalid expiration {expiration}, total sector lifetime ({lifetime}) cannot exceed {longest} after \
                 activation {activation}"
            ),
            None => format!("unrecognized seal proof type {seal_proof:?}"),
        },
    };
    Err(Abort::illegal_argument(refused))
}

/// What depends on the miner: its proof type, and the form of the data commitment.
fn check_against_miner(info: &MinerInfo, sector: &SectorPreCommitInfo) -> Result<(), Abort> {
    let window = sector.seal_proof.registered_window_post_proof().map_err(Abort::illegal_argument)?;
    if window != info.window_post_proof_type {
        return Err(Abort::illegal_argument(format!(
            "sector Window PoSt proof type {} must match miner Window PoSt proof type {} (seal proof type {})",
            i64::from(window),
            i64::from(info.window_post_proof_type),
            i64::from(sector.seal_proof)
        )));
    }
    let data: Option<Cid> = sector.unsealed_cid.0;
    match data.is_none_or(|cid| is_unsealed_sector(&cid)) {
        true => Ok(()),
        false => Err(Abort::new(ExitCode::USR_ILLEGAL_ARGUMENT, "unsealed CID had wrong prefix")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiration_before_all_time_is_refused_as_any_other_that_is_over() {
        let proof = RegisteredSealProof::StackedDRG2KiBV1P1;
        let refused = check_expiration(&Policy::default(), 1_000, 1_000, ChainEpoch::MIN, proof).unwrap_err();
        assert_eq!(refused.code, ExitCode::USR_ILLEGAL_ARGUMENT, "{refused:?}");
    }
}
