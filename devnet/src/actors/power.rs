//! The power actor: makes miners, knows everybody's power and pledge, and calls miners back at the end
//! of their deadlines. Its state is ours (the published state machine covers the miner only).

use std::collections::BTreeMap;

use fil_actor_miner_state::v18::PowerPair;
use fil_actors_shared::v18::reward::FilterEstimate;
use fil_actors_shared::v18::reward::smooth::{AlphaBetaFilter, DEFAULT_ALPHA, DEFAULT_BETA};
use fil_actors_shared::v18::{INIT_ACTOR_ID, STORAGE_POWER_ACTOR_ID};
use fvm_ipld_encoding::tuple::*;
use fvm_ipld_encoding::{BytesDe, RawBytes, strict_bytes};
use fvm_shared::ActorID;
use fvm_shared::address::Address;
use fvm_shared::bigint::{BigInt, bigint_ser};
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use fvm_shared::sector::{RegisteredPoStProof, StoragePower};
use num_traits::Zero;

use super::{decode, miner, unknown_method};
use crate::vm::abort::Abort;
use crate::vm::{Call, Vm};

/// Method number of CreateMiner.
pub const CREATE_MINER: u64 = 2;
/// Method numbers of the calls between init, power and miner actor, as they appear in backtraces.
const INIT_EXEC: u64 = 2;
const CONSTRUCTOR: u64 = 1;

/// Power of a network that the miners of this chain are a small part of, bytes. Only the smoothed estimate counts it,
/// and by it prices are steady. On a network that has no power but theirs the estimate swings around zero: within some
/// epochs a deposit doubles, and a message that brings the one told before is refused. Twice the estimate with which
/// the v18 power actor starts makes deposits like those of the recorded node (0.9e12 attoFIL for 2 KiB).
const NETWORK_POWER_BYTES: u128 = 1_500_000 * (32 << 30);

/// Power of one miner.
#[derive(Clone, Debug, Default, Serialize_tuple, Deserialize_tuple)]
pub struct Claim {
    #[serde(with = "bigint_ser")]
    pub raw: StoragePower,
    #[serde(with = "bigint_ser")]
    pub qa: StoragePower,
}

/// A callback that a miner asked for.
#[derive(Clone, Debug, Serialize_tuple, Deserialize_tuple)]
struct CronEvent {
    miner: ActorID,
    event: i64,
}

/// State of the power actor.
#[derive(Clone, Debug, Serialize_tuple, Deserialize_tuple)]
pub struct State {
    #[serde(with = "bigint_ser")]
    pub total_raw: StoragePower,
    #[serde(with = "bigint_ser")]
    pub total_qa: StoragePower,
    pub total_pledge: TokenAmount,
    pub qa_smoothed: FilterEstimate,
    claims: Vec<(ActorID, Claim)>,
    cron: Vec<(ChainEpoch, Vec<CronEvent>)>,
    /// First epoch whose callbacks have not run.
    first_cron_epoch: ChainEpoch,
}

/// Parameters of CreateMiner.
#[derive(Clone, Debug, Serialize_tuple, Deserialize_tuple)]
pub struct CreateMinerParams {
    pub owner: Address,
    pub worker: Address,
    pub window_post_proof_type: RegisteredPoStProof,
    #[serde(with = "strict_bytes")]
    pub peer: Vec<u8>,
    pub multiaddrs: Vec<BytesDe>,
}

/// Return of CreateMiner.
#[derive(Clone, Debug, Serialize_tuple, Deserialize_tuple)]
pub struct CreateMinerReturn {
    pub id_address: Address,
    pub robust_address: Address,
}

impl State {
    /// State at genesis.
    pub fn genesis() -> State {
        State {
            total_raw: BigInt::zero(),
            total_qa: BigInt::zero(),
            total_pledge: TokenAmount::zero(),
            qa_smoothed: FilterEstimate::new(BigInt::from(NETWORK_POWER_BYTES), BigInt::zero()),
            claims: Vec::new(),
            cron: Vec::new(),
            first_cron_epoch: 0,
        }
    }

    /// Power of a miner; nothing for anybody else.
    pub fn claim(&self, miner: ActorID) -> Option<&Claim> {
        self.claims.iter().find(|(id, _)| *id == miner).map(|(_, claim)| claim)
    }

    /// Miners by the order of their making.
    pub fn miners(&self) -> impl Iterator<Item = ActorID> {
        self.claims.iter().map(|(id, _)| *id)
    }
}

/// Calls a method of the power actor.
pub(super) fn invoke(call: &mut Call<'_, '_>, method: u64, params: &[u8]) -> Result<Vec<u8>, Abort> {
    match method {
        CREATE_MINER => create_miner(call, decode(params)?),
        3 | 4 | 6 | 8 | 9 => {
            // Calls of miner actors; a plain account gets as far as its parameters.
            decode::<(BytesDe, BytesDe)>(params)?;
            Err(Abort::forbidden(format!("caller f0{} is not a miner actor", call.caller)))
        }
        _ => Err(unknown_method(method)),
    }
}

/// Makes a miner actor: power actor, then init actor, then the miner's constructor, with the whole value.
fn create_miner(call: &mut Call<'_, '_>, params: CreateMinerParams) -> Result<Vec<u8>, Abort> {
    let value = call.value.clone();
    call.vm.transfer(STORAGE_POWER_ACTOR_ID, INIT_ACTOR_ID, &value)?;
    let robust = call.vm.new_robust_address();
    let store = call.world().store;
    let id = call.vm.tree.add_miner(store, robust);
    call.vm.transfer(INIT_ACTOR_ID, id, &value)?;

    let mut constructor = Call { vm: call.vm, caller: INIT_ACTOR_ID, receiver: id, method: CONSTRUCTOR, value };
    miner::construct(&mut constructor, params).map_err(|abort| {
        let code = abort.code.value();
        abort.through(id, CONSTRUCTOR, format!("constructor failed: send aborted with code {code}")).through(
            INIT_ACTOR_ID,
            INIT_EXEC,
            format!("send aborted with code {code}"),
        )
    })?;

    let mut state: State = call.state()?;
    state.claims.push((id, Claim::default()));
    call.save(&state);
    let result = CreateMinerReturn { id_address: Address::new_id(id), robust_address: robust };
    Ok(RawBytes::serialize(&result)?.to_vec())
}

impl Vm<'_> {
    /// State of the power actor.
    pub fn power(&self) -> Result<State, Abort> {
        Ok(self.tree.load(self.world.store, STORAGE_POWER_ACTOR_ID)?)
    }

    fn save_power(&mut self, state: &State) {
        let head = self.world.store.put(state);
        if let Some(actor) = self.tree.actor_mut(STORAGE_POWER_ACTOR_ID) {
            actor.head = head;
        }
    }

    /// Adds to (or takes from) the power of a miner.
    pub fn add_power(&mut self, miner: ActorID, delta: &PowerPair) -> Result<(), Abort> {
        if delta.is_zero() {
            return Ok(());
        }
        let mut state = self.power()?;
        if let Some((_, claim)) = state.claims.iter_mut().find(|(id, _)| *id == miner) {
            claim.raw += &delta.raw;
            claim.qa += &delta.qa;
        }
        state.total_raw += &delta.raw;
        state.total_qa += &delta.qa;
        self.save_power(&state);
        Ok(())
    }

    /// Adds to (or takes from) the pledge of the whole network.
    pub fn add_pledge(&mut self, delta: &TokenAmount) -> Result<(), Abort> {
        if delta.is_zero() {
            return Ok(());
        }
        let mut state = self.power()?;
        state.total_pledge += delta;
        self.save_power(&state);
        Ok(())
    }

    /// Has a miner called back at the end of an epoch.
    pub fn enroll_cron(&mut self, miner: ActorID, epoch: ChainEpoch, event: i64) -> Result<(), Abort> {
        let mut state = self.power()?;
        let mut cron: BTreeMap<_, _> = std::mem::take(&mut state.cron).into_iter().collect();
        cron.entry(epoch).or_default().push(CronEvent { miner, event });
        state.cron = cron.into_iter().collect();
        self.save_power(&state);
        Ok(())
    }

    /// End of an epoch: callbacks that are due, then the estimate of the network's power.
    ///
    /// # Errors
    /// Only when the chain's own state cannot be read. A miner whose callback fails loses its power, as
    /// with the v18 power actor.
    pub fn tick(&mut self) -> Result<(), Abort> {
        let epoch = self.world.epoch;
        let mut state = self.power()?;
        let (due, later) = std::mem::take(&mut state.cron).into_iter().partition(|(at, _)| *at <= epoch);
        let due: Vec<(ChainEpoch, Vec<CronEvent>)> = due;
        let (reward, qa_smoothed) = (super::reward::estimate(), state.qa_smoothed.clone());
        state.cron = later;
        state.first_cron_epoch = epoch + 1;
        self.save_power(&state);

        for CronEvent { miner, event } in due.into_iter().flat_map(|(_, events)| events) {
            let before = self.tree.clone();
            let value = TokenAmount::zero();
            let mut call = Call { vm: self, caller: STORAGE_POWER_ACTOR_ID, receiver: miner, method: 12, value };
            if let Err(abort) = miner::cron::run(&mut call, event, &reward, &qa_smoothed) {
                tracing::error!(
                    miner,
                    error = abort.backtrace(),
                    "the cron of miner f0{miner} failed; it loses its power"
                );
                self.tree = before;
                self.drop_claim(miner)?;
            }
        }

        let mut state = self.power()?;
        let filter = AlphaBetaFilter::load(&state.qa_smoothed, &DEFAULT_ALPHA, &DEFAULT_BETA);
        state.qa_smoothed = filter.next_estimate(&(&state.total_qa + NETWORK_POWER_BYTES), 1);
        self.save_power(&state);
        Ok(())
    }

    fn drop_claim(&mut self, miner: ActorID) -> Result<(), Abort> {
        let mut state = self.power()?;
        if let Some((_, claim)) = state.claims.iter_mut().find(|(id, _)| *id == miner) {
            let Claim { raw, qa } = std::mem::take(claim);
            state.total_raw -= raw;
            state.total_qa -= qa;
        }
        self.save_power(&state);
        Ok(())
    }
}
