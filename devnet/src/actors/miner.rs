//! The miner actor: state and arithmetic of the published v18 state machine, handlers of our own.

mod construct;
pub mod cron;
mod declared;
pub mod dispute;
mod extend;
mod faults;
mod manifest;
pub mod post;
mod precommit;
mod prove;
mod submit;
mod terminate;

use fil_actor_miner_state::v18::{Method, MinerInfo, PowerPair, State};
use fil_actors_shared::v18::network::EPOCHS_IN_DAY;
use fil_actors_shared::v18::reward::FilterEstimate;
use fvm_shared::econ::TokenAmount;
use fvm_shared::sector::StoragePower;

use super::{decode, reward, unknown_method};
use crate::vm::abort::Abort;
use crate::vm::{Call, Vm, World};

pub(super) use construct::construct;

/// Calls a method of a miner actor.
pub(super) fn invoke(call: &mut Call<'_, '_>, method: u64, params: &[u8]) -> Result<Vec<u8>, Abort> {
    const SUBMIT_POST: u64 = Method::SubmitWindowedPoSt as u64;
    const TERMINATE: u64 = Method::TerminateSectors as u64;
    const FAULTS: u64 = Method::DeclareFaults as u64;
    const RECOVERED: u64 = Method::DeclareFaultsRecovered as u64;
    const DISPUTE: u64 = Method::DisputeWindowedPoSt as u64;
    const PRE_COMMIT: u64 = Method::PreCommitSectorBatch2 as u64;
    const EXTEND: u64 = Method::ExtendSectorExpiration2 as u64;
    const PROVE_COMMIT: u64 = Method::ProveCommitSectors3 as u64;

    match method {
        SUBMIT_POST => submit::submit_windowed_post(call, decode(params)?),
        TERMINATE => terminate::terminate_sectors(call, decode(params)?),
        FAULTS => faults::declare_faults(call, decode(params)?),
        RECOVERED => faults::declare_recovered(call, decode(params)?),
        DISPUTE => dispute::dispute_windowed_post(call, decode(params)?),
        EXTEND => extend::extend_expirations(call, decode(params)?),
        PRE_COMMIT => precommit::pre_commit_sectors(call, decode(params)?),
        PROVE_COMMIT => prove::prove_commit_sectors(call, decode(params)?),
        _ => Err(unknown_method(method)),
    }
}

/// Pledge, deposit and fee of a network at one epoch.
pub struct Prices<'a> {
    world: World<'a>,
    reward: FilterEstimate,
    qa_smoothed: FilterEstimate,
}

impl<'a> Prices<'a> {
    /// Prices as a message sees them now.
    pub fn now(vm: &Vm<'a>) -> Result<Prices<'a>, Abort> {
        Ok(Prices { world: vm.world, reward: reward::estimate(), qa_smoothed: vm.power()?.qa_smoothed })
    }

    /// Deposit for pre-committing one sector with this power.
    pub fn pre_commit_deposit(&self, qa_power: &StoragePower) -> TokenAmount {
        fil_actor_miner_state::v18::pre_commit_deposit_for_power(&self.reward, &self.qa_smoothed, qa_power)
    }

    /// Pledge for this power.
    pub fn initial_pledge(&self, qa_power: &StoragePower) -> TokenAmount {
        // The ramp of FIP-0081 is long over at network version 28.
        const RAMP_START_PASSED: i64 = i64::MAX;
        const RAMP_EPOCHS: u64 = 365 * EPOCHS_IN_DAY as u64;
        fil_actor_miner_state::v18::initial_pledge_for_power(
            qa_power,
            &reward::baseline_power(),
            &self.reward,
            &self.qa_smoothed,
            self.world.circulating,
            RAMP_START_PASSED,
            RAMP_EPOCHS,
        )
    }

    /// Deposit for making a miner.
    pub fn creation_deposit(&self) -> TokenAmount {
        self.initial_pledge(&self.world.network.create_miner_deposit_power())
    }

    /// Fee per day for this power.
    pub fn daily_fee(&self, qa_power: &StoragePower) -> TokenAmount {
        fil_actor_miner_state::v18::daily_proof_fee(&self.world.network.policy, self.world.circulating, qa_power)
    }
}

/// Owner, worker and control addresses.
fn controllers(info: &MinerInfo) -> impl Iterator<Item = &fvm_shared::address::Address> {
    info.control_addresses.iter().chain([&info.worker, &info.owner])
}

/// Refuses to leave a miner with less money than its state has locked.
fn check_balance(call: &Call<'_, '_>, state: &State) -> Result<(), Abort> {
    Ok(state.check_balance_invariants(&call.balance())?)
}

/// Tells the power actor about a change of pledge.
fn notify_pledge(call: &mut Call<'_, '_>, delta: &TokenAmount) -> Result<(), Abort> {
    call.vm.add_pledge(delta)
}

/// Tells the power actor about a change of power.
fn notify_power(call: &mut Call<'_, '_>, delta: &PowerPair) -> Result<(), Abort> {
    let miner = call.receiver;
    call.vm.add_power(miner, delta)
}

/// Burns, if there is something to burn.
fn burn(call: &mut Call<'_, '_>, amount: &TokenAmount) -> Result<(), Abort> {
    match amount.is_positive() {
        true => call.burn(amount),
        false => Ok(()),
    }
}
