//! Making a miner: its addresses, the place of its proving period, and the creation deposit.

use curio_chain::message::miner_entropy;
use curio_core::SpId;
use fil_actor_miner_state::v18::{MinerInfo, QuantSpec, REWARD_VESTING_SPEC, State};
use fil_actors_shared::v18::runtime::Policy;
use fvm_shared::ActorID;
use fvm_shared::address::{Address, Protocol};
use fvm_shared::clock::ChainEpoch;
use fvm_shared::error::ExitCode;

use super::{Prices, check_balance};
use crate::actors::power::CreateMinerParams;
use crate::vm::Call;
use crate::vm::abort::Abort;

/// The miner's constructor, called with the creation deposit as value.
pub(in crate::actors) fn construct(call: &mut Call<'_, '_>, params: CreateMinerParams) -> Result<(), Abort> {
    let CreateMinerParams { owner, worker, window_post_proof_type, peer, multiaddrs } = params;
    let (network, store) = (call.world().network, call.world().store);
    let policy = &network.policy;
    if !policy.valid_post_proof_type.contains(window_post_proof_type) {
        let text = format!("proof type {window_post_proof_type:?} not allowed for new miner actors");
        return Err(Abort::illegal_argument(text));
    }
    if peer.len() > policy.max_peer_id_length {
        let text = format!("peer ID size of {} exceeds maximum size of {}", peer.len(), policy.max_peer_id_length);
        return Err(Abort::illegal_argument(text));
    }
    let owner = account(call, &owner)?;
    let worker = bls_account(call, &worker)?;

    let epoch = call.world().epoch;
    let offset = proving_period_offset(policy, call.receiver, epoch);
    let period = QuantSpec { unit: policy.wpost_proving_period, offset };
    let period_start = period.quantize_down(epoch);
    let deadline = u64::try_from((epoch - period_start) / policy.wpost_challenge_window)
        .expect("a period starts at or before the epoch");

    let deposit = Prices::now(call.vm)?.creation_deposit();
    let balance = call.balance();
    if balance < deposit {
        let text = format!(
            "not enough balance to lock for create miner deposit: sent balance {} < deposit {}",
            balance.atto(),
            deposit.atto()
        );
        return Err(Abort::insufficient_funds(text));
    }

    let info = MinerInfo::new(owner, worker, Vec::new(), peer, multiaddrs, window_post_proof_type)?;
    let mut state = State::new(policy, store, store.put(&info), period_start, deadline)?;
    state.add_locked_funds(store, epoch, &deposit, &REWARD_VESTING_SPEC)?;
    check_balance(call, &state)?;
    call.save(&state);
    call.vm.add_pledge(&deposit)
}

/// An account on this chain.
fn account(call: &Call<'_, '_>, address: &Address) -> Result<ActorID, Abort> {
    match call.vm.tree.lookup(address) {
        Some((id, actor)) if actor.kind == crate::state::Kind::Account => Ok(id),
        Some((id, _)) => Err(Abort::illegal_argument(format!("owner actor type must be a principal, was f0{id}"))),
        None => Err(Abort::illegal_argument(format!("unable to resolve address: {address}"))),
    }
}

/// An account with a BLS key, as a worker must be.
fn bls_account(call: &Call<'_, '_>, address: &Address) -> Result<ActorID, Abort> {
    let id = account(call, address)?;
    let key = call.vm.tree.actor(id).and_then(|actor| actor.robust);
    match key.map(|key| key.protocol()) {
        Some(Protocol::BLS) => Ok(id),
        protocol => {
            let protocol = protocol.map_or(0, |protocol| protocol as u8);
            Err(Abort::new(
                ExitCode::USR_ILLEGAL_ARGUMENT,
                format!("worker account {id} must have BLS pubkey, was {protocol}"),
            ))
        }
    }
}

/// Where in the proving period a miner starts: by hash of address and epoch, so that miners spread out.
fn proving_period_offset(policy: &Policy, miner: ActorID, epoch: ChainEpoch) -> ChainEpoch {
    let mut seed = miner_entropy(SpId(miner));
    seed.extend_from_slice(&epoch.to_be_bytes());
    let hash = blake2b_simd::Params::new().hash_length(32).hash(&seed);
    let mut first = [0; 8];
    first.copy_from_slice(&hash.as_bytes()[..8]);
    let period = policy.wpost_proving_period.unsigned_abs();
    i64::try_from(u64::from_be_bytes(first) % period).expect("less than a proving period")
}
