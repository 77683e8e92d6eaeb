//! DisputeWindowedPoSt: anybody may have an accepted window PoSt verified once its deadline is over. A bad one
//! costs the miner a fee and the power of its partitions, and the sender gets a reward.

use fil_actor_miner_state::v18::{
    DeadlineInfo, DisputeWindowedPoStParams, Sectors, State, deadline_available_for_optimistic_post_dispute,
    new_deadline_info, pledge_penalty_for_invalid_windowpost, reward_for_disputed_window_post,
};
use fil_actors_shared::v18::runtime::Policy;
use fvm_shared::clock::ChainEpoch;

use super::post::holds;
use super::submit::check_deadline;
use super::{burn, check_balance, notify_pledge, notify_power};
use crate::actors::reward;
use crate::vm::Call;
use crate::vm::abort::{Abort, Within};
use crate::vm::gas::Work;

pub(super) fn dispute_windowed_post(
    call: &mut Call<'_, '_>,
    params: DisputeWindowedPoStParams,
) -> Result<Vec<u8>, Abort> {
    let DisputeWindowedPoStParams { deadline: index, post_index } = params;
    let world = call.world();
    let (policy, store, epoch) = (&world.network.policy, world.store, world.epoch);
    check_deadline(policy, index)?;
    let (reward, qa_smoothed) = (reward::estimate(), call.vm.power()?.qa_smoothed);
    let mut state: State = call.state()?;
    let now = state.deadline_info(policy, epoch);
    if !deadline_available_for_optimistic_post_dispute(policy, now.period_start, index, epoch) {
        return Err(Abort::forbidden(format!(
            "can only dispute window posts during the dispute window ({} epochs after the challenge window closes)",
            policy.wpost_dispute_window
        )));
    }

    let info = state.get_info(store)?;
    let target = last_closed(policy, &now, index, epoch);
    let mut deadlines = state.load_deadlines(store)?;
    let mut deadline = deadlines.load_deadline(store, index)?;
    let (partitions, proofs) =
        deadline.take_post_proofs(store, post_index).within(|| "failed to load proof for dispute".to_owned())?;
    let mut disputed = deadline
        .load_partitions_for_dispute(store, partitions)
        .within(|| "failed to load partition for dispute".to_owned())?;
    let sectors = Sectors::load(store, &deadline.sectors_snapshot).map_err(anyhow::Error::from)?;
    let infos = sectors
        .load_for_proof(&disputed.all_sector_nos, &disputed.ignored_sector_nos)
        .within(|| "failed to load sectors to dispute window post".to_owned())?;
    call.count(Work { posts: 1, ..Work::default() });
    if holds(world, call.receiver, target.challenge, &infos, &proofs) {
        return Err(Abort::illegal_argument("failed to dispute valid post"));
    }

    let power_delta = deadline
        .record_faults(
            store,
            &sectors,
            info.sector_size,
            target.quant_spec(),
            target.last() + policy.fault_max_age,
            &mut disputed.disputed_sectors,
        )
        .within(|| "failed to declare faults".to_owned())?;
    deadlines
        .update_deadline(policy, store, index, &deadline)
        .within(|| format!("failed to update deadline {index}"))?;
    state.save_deadlines(store, deadlines)?;

    // The reward comes out of what the miner can pay of fee and reward together.
    let penalty = pledge_penalty_for_invalid_windowpost(&reward, &qa_smoothed, &disputed.disputed_power.qa);
    let wanted = reward_for_disputed_window_post(info.window_post_proof_type, disputed.disputed_power);
    state.apply_penalty(&(&penalty + &wanted))?;
    let (paid, unlocked) = state.repay_partial_debt_in_priority_order(store, epoch, &call.balance())?;
    let rewarded = wanted.min(paid.clone());
    call.save(&state);

    notify_power(call, &power_delta)?;
    if !rewarded.is_zero() {
        let (miner, reporter) = (call.receiver, call.caller);
        call.vm.transfer(miner, reporter, &rewarded)?;
    }
    burn(call, &(paid - rewarded))?;
    notify_pledge(call, &-unlocked)?;
    check_balance(call, &state)?;
    Ok(Vec::new())
}

/// The newest occurrence of a deadline that is over, seen from an epoch at which it is not open.
pub fn last_closed(policy: &Policy, now: &DeadlineInfo, index: u64, epoch: ChainEpoch) -> DeadlineInfo {
    let period_start = match now.index < index {
        true => now.period_start - policy.wpost_proving_period,
        false => now.period_start,
    };
    new_deadline_info(policy, period_start, index, epoch)
}
