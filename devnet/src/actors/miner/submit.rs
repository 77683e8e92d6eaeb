//! SubmitWindowedPoSt: the sectors of some partitions are proven for this proving period. A proof is taken
//! unseen and can be disputed when the deadline is over; only one by which sectors recover is verified.
//! Checks come in the order of the v18 actor, because the first one that fails names the exit code.

use curio_chain::message::RandomnessTag;
use fil_actor_miner_state::v18::{
    DeadlineInfo, MinerInfo, PoStResult, Sectors, State, SubmitWindowedPoStParams, load_partitions_sectors_max,
};
use fil_actors_shared::v18::runtime::Policy;

use super::post::holds;
use super::{check_balance, controllers, notify_power};
use crate::vm::abort::{Abort, Within};
use crate::vm::gas::Work;
use crate::vm::{Call, World};

/// Bytes of randomness that a message may carry.
const RANDOMNESS_BYTES: usize = 32;

pub(super) fn submit_windowed_post(
    call: &mut Call<'_, '_>,
    params: SubmitWindowedPoStParams,
) -> Result<Vec<u8>, Abort> {
    let world = call.world();
    check_form(&world.network.policy, &params)?;
    let mut state: State = call.state()?;
    let info = state.get_info(world.store)?;
    call.only(controllers(&info))?;
    check_against_miner(&world.network.policy, &info, &params)?;
    let deadline = state.deadline_info(&world.network.policy, world.epoch);
    check_time(world, &deadline, &params)?;

    let result = record(call, &mut state, &info, &deadline, params)?;
    call.save(&state);
    notify_power(call, &result.power_delta)?;
    check_balance(call, &state)?;
    Ok(Vec::new())
}

/// What can be judged from the parameters alone.
fn check_form(policy: &Policy, params: &SubmitWindowedPoStParams) -> Result<(), Abort> {
    let SubmitWindowedPoStParams { deadline, partitions: _, proofs, chain_commit_epoch: _, chain_commit_rand } = params;
    let [proof] = proofs.as_slice() else {
        return Err(Abort::illegal_argument(format!("expected exactly one proof, got {}", proofs.len())));
    };
    if !policy.valid_post_proof_type.contains(proof.post_proof) {
        return Err(Abort::illegal_argument(format!("proof type {:?} not allowed", proof.post_proof)));
    }
    check_deadline(policy, *deadline)?;
    let bytes = chain_commit_rand.0.len();
    if bytes > RANDOMNESS_BYTES {
        let text = format!("expected at most {RANDOMNESS_BYTES} bytes of randomness, got {bytes}");
        return Err(Abort::illegal_argument(text));
    }
    Ok(())
}

/// The deadline exists.
pub(super) fn check_deadline(policy: &Policy, deadline: u64) -> Result<(), Abort> {
    match deadline < policy.wpost_period_deadlines {
        true => Ok(()),
        false => {
            let text = format!("invalid deadline {deadline} of {}", policy.wpost_period_deadlines);
            Err(Abort::illegal_argument(text))
        }
    }
}

/// Proof type, proof size and number of partitions.
fn check_against_miner(policy: &Policy, info: &MinerInfo, params: &SubmitWindowedPoStParams) -> Result<(), Abort> {
    let (proof, partitions) = (&params.proofs[0], params.partitions.len());
    if proof.post_proof != info.window_post_proof_type {
        let (expected, got) = (info.window_post_proof_type, proof.post_proof);
        return Err(Abort::illegal_argument(format!("expected proof of type {expected:?}, got {got:?}")));
    }
    let largest = info.window_post_proof_type.proof_size().map_err(Abort::illegal_argument)? * partitions;
    if proof.proof_bytes.len() > largest {
        return Err(Abort::illegal_argument(format!("expected proof to be smaller than {largest} bytes")));
    }
    let limit = load_partitions_sectors_max(policy, info.window_post_partition_sectors);
    let limit = limit.min(policy.posted_partitions_max);
    if partitions as u64 > limit {
        return Err(Abort::illegal_argument(format!("too many partitions {partitions}, limit {limit}")));
    }
    Ok(())
}

/// The deadline is open, and the proof was made on this chain since its challenge.
fn check_time(world: World<'_>, open: &DeadlineInfo, params: &SubmitWindowedPoStParams) -> Result<(), Abort> {
    let (epoch, committed) = (world.epoch, params.chain_commit_epoch);
    if !open.is_open() {
        let text = format!("proving period {} not yet open at {epoch}", open.period_start);
        return Err(Abort::illegal_state(text));
    }
    if params.deadline != open.index {
        let (deadline, expected) = (params.deadline, open.index);
        return Err(Abort::illegal_argument(format!(
            "invalid deadline {deadline} at epoch {epoch}, expected {expected}"
        )));
    }
    if committed < open.challenge {
        let text = format!("expected chain commit epoch {committed} to be after {}", open.challenge);
        return Err(Abort::illegal_argument(text));
    }
    if committed >= epoch {
        let text = format!("chain commit epoch {committed} must be less than the current epoch {epoch}");
        return Err(Abort::illegal_argument(text));
    }
    let randomness = world.ticket_randomness(RandomnessTag::PoStChainCommit, committed, &[]);
    match params.chain_commit_rand.0 == randomness {
        true => Ok(()),
        false => Err(Abort::illegal_argument("post commit randomness mismatched")),
    }
}

/// Marks the partitions as proven and the skipped sectors as faulty, and keeps the proof for a dispute, unless
/// sectors recover by it: then it is verified here.
fn record(
    call: &mut Call<'_, '_>,
    state: &mut State,
    info: &MinerInfo,
    open: &DeadlineInfo,
    params: SubmitWindowedPoStParams,
) -> Result<PoStResult, Abort> {
    let world = call.world();
    let (policy, store) = (&world.network.policy, world.store);
    let SubmitWindowedPoStParams { deadline: index, mut partitions, proofs, .. } = params;
    let sectors = Sectors::load(store, &state.sectors).map_err(anyhow::Error::from)?;
    let mut deadlines = state.load_deadlines(store)?;
    let mut deadline = deadlines.load_deadline(store, index)?;
    let result = deadline
        .record_proven_sectors(
            store,
            &sectors,
            info.sector_size,
            open.quant_spec(),
            open.last() + policy.fault_max_age,
            &mut partitions,
        )
        .within(|| format!("failed to process post submission for deadline {index}"))?;
    if (&result.sectors - &result.ignored_sectors).is_empty() {
        return Err(Abort::illegal_argument("cannot prove partitions with no active sectors"));
    }
    let skipped = partitions.iter().map(|partition| partition.skipped.len()).sum();
    call.count(Work { skipped, ..Work::default() });

    if result.recovered_power.is_zero() {
        deadline
            .record_post_proofs(store, &result.partitions, &proofs)
            .within(|| "failed to record proof for optimistic verification".to_owned())?;
    } else {
        let infos = sectors
            .load_for_proof(&result.sectors, &result.ignored_sectors)
            .within(|| "failed to load sectors for post verification".to_owned())?;
        call.count(Work { posts: 1, ..Work::default() });
        if !holds(world, call.receiver, open.challenge, &infos, &proofs) {
            return Err(Abort::illegal_argument("invalid post was submitted"));
        }
    }
    deadlines
        .update_deadline(policy, store, index, &deadline)
        .within(|| format!("failed to update deadline {index}"))?;
    state.save_deadlines(store, deadlines)?;
    Ok(result)
}
