//! What happens at the end of a miner's deadline, whether or not it did anything: funds vest, expired
//! pre-commits burn their deposit, sectors without a proof become faulty, fees are taken.

use fil_actor_miner_state::v18::{
    CRON_EVENT_PROCESS_EARLY_TERMINATIONS, CRON_EVENT_PROVING_DEADLINE, PowerPair, State, daily_proof_fee_payable,
    expected_reward_for_power, pledge_penalty_for_continued_fault, pledge_penalty_for_termination, power_for_sectors,
};
use fil_actors_shared::v18::network::EPOCHS_IN_DAY;
use fil_actors_shared::v18::reward::FilterEstimate;
use fvm_shared::econ::TokenAmount;
use num_traits::Zero;

use super::{burn, check_balance, notify_pledge, notify_power};
use crate::vm::Call;
use crate::vm::abort::Abort;

/// Runs a callback that the miner had asked for.
pub fn run(
    call: &mut Call<'_, '_>,
    event: i64,
    reward: &FilterEstimate,
    qa_smoothed: &FilterEstimate,
) -> Result<(), Abort> {
    match event {
        CRON_EVENT_PROVING_DEADLINE => deadline_end(call, reward, qa_smoothed),
        CRON_EVENT_PROCESS_EARLY_TERMINATIONS => early_terminations(call, reward, qa_smoothed),
        _ => Ok(()),
    }
}

fn deadline_end(call: &mut Call<'_, '_>, reward: &FilterEstimate, qa_smoothed: &FilterEstimate) -> Result<(), Abort> {
    let world = call.world();
    let (policy, store, epoch) = (&world.network.policy, world.store, world.epoch);
    let mut state: State = call.state()?;
    let had_terminations = !state.early_terminations.is_empty();

    let mut pledge_delta = -state.unlock_vested_funds(store, epoch)?;
    let burnt_deposits = state.cleanup_expired_pre_commits(policy, store, epoch)?;
    state.apply_penalty(&burnt_deposits)?;
    let ended = state.advance_deadline(policy, store, epoch)?;
    pledge_delta += &ended.pledge_delta;
    state.apply_penalty(&pledge_penalty_for_continued_fault(reward, qa_smoothed, &ended.previously_faulty_power.qa))?;
    let day_reward = expected_reward_for_power(reward, qa_smoothed, &ended.live_power.qa, EPOCHS_IN_DAY);
    state.apply_penalty(&daily_proof_fee_payable(policy, &ended.daily_fee, &day_reward))?;
    let (to_burn, unlocked) = state.repay_partial_debt_in_priority_order(store, epoch, &call.balance())?;
    pledge_delta -= unlocked;
    let goes_on = state.continue_deadline_cron();
    state.deadline_cron_active = goes_on;
    call.save(&state);

    notify_power(call, &ended.power_delta)?;
    burn(call, &to_burn)?;
    notify_pledge(call, &pledge_delta)?;
    let miner = call.receiver;
    if goes_on {
        let next = state.deadline_info(policy, epoch + 1).last();
        call.vm.enroll_cron(miner, next, CRON_EVENT_PROVING_DEADLINE)?;
    }
    if !had_terminations && !state.early_terminations.is_empty() {
        early_terminations(call, reward, qa_smoothed)?;
    }
    check_balance(call, &call.state()?)
}

/// Takes the fee for sectors that were faulty for too long, a bounded number per epoch.
fn early_terminations(
    call: &mut Call<'_, '_>,
    reward: &FilterEstimate,
    qa_smoothed: &FilterEstimate,
) -> Result<(), Abort> {
    let world = call.world();
    let (policy, store, epoch) = (&world.network.policy, world.store, world.epoch);
    let mut state: State = call.state()?;
    let info = state.get_info(store)?;
    let (result, more) =
        state.pop_early_terminations(policy, store, policy.addressed_partitions_max, policy.addressed_sectors_max)?;
    let mut fee = TokenAmount::zero();
    let mut pledge = TokenAmount::zero();
    for (_, numbers) in result.iter() {
        for sector in state.load_sector_infos(store, numbers)? {
            let PowerPair { qa, .. } = power_for_sectors(info.sector_size, std::slice::from_ref(&sector));
            let fault_fee = pledge_penalty_for_continued_fault(reward, qa_smoothed, &qa);
            let age = epoch - sector.activation;
            fee += pledge_penalty_for_termination(&sector.initial_pledge, age, &fault_fee);
            pledge += &sector.initial_pledge;
        }
    }
    state.apply_penalty(&fee)?;
    state.add_initial_pledge(&-pledge.clone())?;
    let (to_burn, unlocked) = state.repay_partial_debt_in_priority_order(store, epoch, &call.balance())?;
    call.save(&state);
    burn(call, &to_burn)?;
    notify_pledge(call, &-(pledge + unlocked))?;
    if more {
        let miner = call.receiver;
        call.vm.enroll_cron(miner, epoch + 1, CRON_EVENT_PROCESS_EARLY_TERMINATIONS)?;
    }
    Ok(())
}
