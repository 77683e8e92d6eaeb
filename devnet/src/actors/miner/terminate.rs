//! TerminateSectors, and the fees of sectors that end before their time, whether their miner says so or they were
//! faulty for too long.

use fil_actor_miner_state::v18::{
    CRON_EVENT_PROCESS_EARLY_TERMINATIONS, PowerPair, Sectors, State, TerminateSectorsParams, TerminateSectorsReturn,
    TerminationDeclaration, deadline_is_mutable, pledge_penalty_for_continued_fault, pledge_penalty_for_termination,
    power_for_sectors,
};
use fil_actors_shared::v18::EventBuilder;
use fil_actors_shared::v18::reward::FilterEstimate;
use fvm_ipld_encoding::RawBytes;
use fvm_shared::econ::TokenAmount;
use num_traits::Zero;

use super::declared::{Declaration, grouped};
use super::{burn, check_balance, controllers, notify_pledge, notify_power};
use crate::actors::reward;
use crate::vm::Call;
use crate::vm::abort::{Abort, Within};

pub(super) fn terminate_sectors(
    call: &mut Call<'_, '_>,
    TerminateSectorsParams { terminations }: TerminateSectorsParams,
) -> Result<Vec<u8>, Abort> {
    let world = call.world();
    let (policy, store, epoch) = (&world.network.policy, world.store, world.epoch);
    let declarations = terminations.into_iter().map(|declared| {
        let TerminationDeclaration { deadline, partition, sectors } = declared;
        Declaration { deadline, partition, sectors }
    });
    let mut by_deadline = grouped(policy, declarations)?;

    let mut state: State = call.state()?;
    let had_terminations = !state.early_terminations.is_empty();
    let info = state.get_info(store)?;
    call.only(controllers(&info))?;
    let mut deadlines = state.load_deadlines(store)?;
    let sectors = Sectors::load(store, &state.sectors).map_err(anyhow::Error::from)?;
    let period_start = state.current_proving_period_start(policy, epoch);
    let mut power_delta = PowerPair::zero();
    for (index, partitions) in by_deadline.iter() {
        if !deadline_is_mutable(policy, period_start, index, epoch) {
            return Err(Abort::illegal_argument(format!("cannot terminate sectors in immutable deadline {index}")));
        }
        let quant = state.quant_spec_for_deadline(policy, index);
        let mut deadline = deadlines.load_deadline(store, index)?;
        power_delta -= &deadline
            .terminate_sectors(policy, store, &sectors, epoch, partitions, info.sector_size, quant)
            .within(|| format!("failed to terminate sectors in deadline {index}"))?;
        state.early_terminations.set(index);
        deadlines
            .update_deadline(policy, store, index, &deadline)
            .within(|| format!("failed to update deadline {index}"))?;
    }
    state.save_deadlines(store, deadlines)?;
    call.save(&state);

    let (reward, qa_smoothed) = (reward::estimate(), call.vm.power()?.qa_smoothed);
    let more = take_fees(call, &reward, &qa_smoothed)?;
    if more && !had_terminations {
        schedule(call)?;
    }
    check_balance(call, &call.state()?)?;
    notify_power(call, &power_delta)?;
    Ok(RawBytes::serialize(TerminateSectorsReturn { done: !more })?.to_vec())
}

/// Takes the fees of sectors that ended early, for a bounded number of them; answers whether more are left.
pub(super) fn take_fees(
    call: &mut Call<'_, '_>,
    reward: &FilterEstimate,
    qa_smoothed: &FilterEstimate,
) -> Result<bool, Abort> {
    let world = call.world();
    let (policy, store, epoch) = (&world.network.policy, world.store, world.epoch);
    let mut state: State = call.state()?;
    let info = state.get_info(store)?;
    let (result, more) =
        state.pop_early_terminations(policy, store, policy.addressed_partitions_max, policy.addressed_sectors_max)?;
    if result.is_empty() {
        // A declaration of no sectors has marked its deadline; unless the mark goes, no cron takes fees ever again.
        call.save(&state);
        return Ok(more);
    }
    let mut fee = TokenAmount::zero();
    let mut pledge = TokenAmount::zero();
    for (ended, numbers) in result.iter() {
        for sector in state.load_sector_infos(store, numbers)? {
            let PowerPair { qa, .. } = power_for_sectors(info.sector_size, std::slice::from_ref(&sector));
            let fault_fee = pledge_penalty_for_continued_fault(reward, qa_smoothed, &qa);
            fee += pledge_penalty_for_termination(&sector.initial_pledge, ended - sector.activation, &fault_fee);
            pledge += &sector.initial_pledge;
            let event = EventBuilder::new().typ("sector-terminated").field_indexed("sector", &sector.sector_number);
            call.emit(event.build()?);
        }
    }
    state.apply_penalty(&fee)?;
    state.add_initial_pledge(&-pledge.clone())?;
    let (to_burn, unlocked) = state.repay_partial_debt_in_priority_order(store, epoch, &call.balance())?;
    call.save(&state);
    burn(call, &to_burn)?;
    notify_pledge(call, &-(pledge + unlocked))?;
    Ok(more)
}

/// Has the rest of the fees taken in the next epoch.
pub(super) fn schedule(call: &mut Call<'_, '_>) -> Result<(), Abort> {
    let (miner, next) = (call.receiver, call.world().epoch + 1);
    call.vm.enroll_cron(miner, next, CRON_EVENT_PROCESS_EARLY_TERMINATIONS)
}
