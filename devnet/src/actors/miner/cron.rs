//! What happens at the end of a miner's deadline, whether or not it did anything: funds vest, expired
//! pre-commits burn their deposit, sectors without a proof become faulty, fees are taken.

use fil_actor_miner_state::v18::{
    CRON_EVENT_PROCESS_EARLY_TERMINATIONS, CRON_EVENT_PROVING_DEADLINE, State, daily_proof_fee_payable,
    expected_reward_for_power, pledge_penalty_for_continued_fault,
};
use fil_actors_shared::v18::network::EPOCHS_IN_DAY;
use fil_actors_shared::v18::reward::FilterEstimate;

use super::{burn, check_balance, notify_pledge, notify_power, terminate};
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

/// Takes the fees of sectors that ended early, a bounded number per epoch.
fn early_terminations(
    call: &mut Call<'_, '_>,
    reward: &FilterEstimate,
    qa_smoothed: &FilterEstimate,
) -> Result<(), Abort> {
    match terminate::take_fees(call, reward, qa_smoothed)? {
        true => terminate::schedule(call),
        false => Ok(()),
    }
}
