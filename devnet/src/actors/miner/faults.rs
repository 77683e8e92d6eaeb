//! DeclareFaults and DeclareFaultsRecovered: sectors that will not be proven, and faulty ones that will be.

use fil_actor_miner_state::v18::{
    DeclareFaultsParams, DeclareFaultsRecoveredParams, FaultDeclaration, PowerPair, RecoveryDeclaration, Sectors, State,
};

use super::declared::{Declaration, before_cutoff, grouped};
use super::{burn, check_balance, controllers, notify_power};
use crate::vm::Call;
use crate::vm::abort::{Abort, Within};
use crate::vm::gas::Work;

/// Power is lost at once, the fee is taken at the end of the deadline.
pub(super) fn declare_faults(
    call: &mut Call<'_, '_>,
    DeclareFaultsParams { faults }: DeclareFaultsParams,
) -> Result<Vec<u8>, Abort> {
    let world = call.world();
    let (policy, store, epoch) = (&world.network.policy, world.store, world.epoch);
    call.count(Work { declarations: faults.len() as u64, ..Work::default() });
    let declarations = faults.into_iter().map(|declared| {
        let FaultDeclaration { deadline, partition, sectors } = declared;
        Declaration { deadline, partition, sectors }
    });
    let mut by_deadline = grouped(policy, declarations)?;

    let mut state: State = call.state()?;
    let info = state.get_info(store)?;
    call.only(controllers(&info))?;
    let mut deadlines = state.load_deadlines(store)?;
    let sectors = Sectors::load(store, &state.sectors).map_err(anyhow::Error::from)?;
    let mut power_delta = PowerPair::zero();
    for (index, partitions) in by_deadline.iter() {
        let target = before_cutoff(policy, "fault", &state, index, epoch)?;
        let mut deadline = deadlines.load_deadline(store, index)?;
        power_delta += &deadline
            .record_faults(
                store,
                &sectors,
                info.sector_size,
                target.quant_spec(),
                target.last() + policy.fault_max_age,
                partitions,
            )
            .within(|| format!("failed to declare faults for deadline {index}"))?;
        deadlines
            .update_deadline(policy, store, index, &deadline)
            .within(|| format!("failed to store deadline {index} partitions"))?;
    }
    state.save_deadlines(store, deadlines)?;
    call.save(&state);
    notify_power(call, &power_delta)?;
    Ok(Vec::new())
}

/// Power comes back with the next proof. The miner must pay its debts first.
pub(super) fn declare_recovered(
    call: &mut Call<'_, '_>,
    DeclareFaultsRecoveredParams { recoveries }: DeclareFaultsRecoveredParams,
) -> Result<Vec<u8>, Abort> {
    let world = call.world();
    let (policy, store, epoch) = (&world.network.policy, world.store, world.epoch);
    let declarations = recoveries.into_iter().map(|declared| {
        let RecoveryDeclaration { deadline, partition, sectors } = declared;
        Declaration { deadline, partition, sectors }
    });
    let mut by_deadline = grouped(policy, declarations)?;

    let mut state: State = call.state()?;
    let debt = state.repay_debts(&call.balance())?;
    let info = state.get_info(store)?;
    call.only(controllers(&info))?;
    if epoch <= info.consensus_fault_elapsed {
        return Err(Abort::forbidden("recovery not allowed during active consensus fault"));
    }
    let mut deadlines = state.load_deadlines(store)?;
    let sectors = Sectors::load(store, &state.sectors).map_err(anyhow::Error::from)?;
    for (index, partitions) in by_deadline.iter() {
        before_cutoff(policy, "recovery", &state, index, epoch)?;
        let mut deadline = deadlines.load_deadline(store, index)?;
        deadline
            .declare_faults_recovered(store, &sectors, info.sector_size, partitions)
            .within(|| format!("failed to declare recoveries for deadline {index}"))?;
        deadlines
            .update_deadline(policy, store, index, &deadline)
            .within(|| format!("failed to store deadline {index}"))?;
    }
    state.save_deadlines(store, deadlines)?;
    call.save(&state);
    burn(call, &debt)?;
    check_balance(call, &state)?;
    Ok(Vec::new())
}
