//! ProveCommitSectors3: proofs are verified, pre-committed sectors become sectors of the miner, the
//! deposits turn into pledges. Power comes later, with the first window PoSt.

use curio_chain::message::{RandomnessTag, comm_d, comm_r, miner_entropy};
use curio_core::{SectorRef, SpId};
use fil_actor_miner_state::v18::{
    ProveCommitSectors3Params, ProveCommitSectors3Return, SectorActivationManifest, SectorOnChainInfo,
    SectorOnChainInfoFlags, SectorPreCommitOnChainInfo, State, max_prove_commit_duration, qa_power_for_weight,
};
use fil_actors_shared::v18::{BatchReturn, EventBuilder};
use fvm_ipld_encoding::RawBytes;
use fvm_shared::bigint::BigInt;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use fvm_shared::error::ExitCode;
use fvm_shared::sector::SectorNumber;

use super::manifest::check_pieces;
use super::{Prices, check_balance, controllers, notify_pledge};
use crate::proof::SealClaim;
use crate::vm::abort::Abort;
use crate::vm::gas::Work;
use crate::vm::{Call, World};

/// One sector of the message on its way through the checks.
struct Candidate {
    pre_commit: SectorPreCommitOnChainInfo,
    manifest: SectorActivationManifest,
    proof: RawBytes,
}

pub(super) fn prove_commit_sectors(
    call: &mut Call<'_, '_>,
    params: ProveCommitSectors3Params,
) -> Result<Vec<u8>, Abort> {
    let world = call.world();
    call.count(Work { sectors: params.sector_activations.len() as u64, ..Work::default() });
    let state: State = call.state()?;
    let info = state.get_info(world.store)?;
    call.only(controllers(&info))?;
    let required = params.require_activation_success;
    let candidates = candidates(&state, world, params)?;

    // Sectors in time, then with a good proof, then with pieces that make up their data.
    let mut codes = vec![ExitCode::OK; candidates.len()];
    for (candidate, code) in candidates.iter().zip(&mut codes) {
        *code = check_time(world, &candidate.pre_commit)?;
    }
    refuse_partial("pre-commit", &candidates, &codes, required)?;
    for (candidate, code) in candidates.iter().zip(&mut codes) {
        if code.is_success() && !proof_holds(world, call.receiver, candidate) {
            *code = ExitCode::USR_ILLEGAL_ARGUMENT;
        }
    }
    refuse_partial("proof", &candidates, &codes, required)?;
    if codes.iter().all(|code| !code.is_success()) {
        return Err(Abort::illegal_argument("no valid proofs specified"));
    }

    let mut proven = Vec::with_capacity(candidates.len());
    for (candidate, code) in candidates.into_iter().zip(&codes) {
        let Candidate { pre_commit, manifest, .. } = candidate;
        if code.is_success() {
            let info = &pre_commit.info;
            let bytes = check_pieces(
                world.verifier,
                info.sector_number,
                info.seal_proof,
                &manifest.pieces,
                &info.unsealed_cid,
            )?;
            proven.push((pre_commit, manifest, bytes));
        }
    }
    activate(call, proven)?;
    let result = ProveCommitSectors3Return { activation_results: BatchReturn::of(&codes) };
    Ok(RawBytes::serialize(&result)?.to_vec())
}

/// Pairs activations, pre-commits and proofs, after the checks of the parameters alone.
fn candidates(state: &State, world: World<'_>, params: ProveCommitSectors3Params) -> Result<Vec<Candidate>, Abort> {
    let ProveCommitSectors3Params { sector_activations, sector_proofs, aggregate_proof, .. } = params;
    if sector_activations.is_empty() {
        return Err(Abort::illegal_argument("no sectors to prove"));
    }
    if sector_proofs.is_empty() == aggregate_proof.is_empty() {
        let text = "exactly one of sector proofs or aggregate proof must be non-empty";
        return Err(Abort::illegal_argument(text));
    }
    let numbers: Vec<SectorNumber> = sector_activations.iter().map(|manifest| manifest.sector_number).collect();
    let pre_commits = state
        .get_precommitted_sectors(world.store, &numbers)
        .map_err(|error| Abort::from(error.wrap("loading precommits")))?;
    if sector_proofs.is_empty() {
        // Aggregation saves gas on a busy network; here nobody has sent one yet.
        return Err(Abort::illegal_argument("aggregate proofs are not verified by this chain"));
    }
    if sector_activations.len() != sector_proofs.len() {
        return Err(Abort::illegal_argument(format!(
            "mismatched lengths: {} sector activations, {} proofs",
            sector_activations.len(),
            sector_proofs.len()
        )));
    }
    let seal_proof = pre_commits[0].info.seal_proof;
    let longest = seal_proof.proof_size().map_err(Abort::illegal_argument)?;
    if let Some(proof) = sector_proofs.iter().find(|proof| proof.len() > longest) {
        return Err(Abort::illegal_argument(format!("sector proof size {} exceeds max {longest}", proof.len())));
    }
    if pre_commits.iter().any(|other| other.info.seal_proof != seal_proof) {
        let text = "aggregate contains mismatched seal proofs";
        return Err(Abort::new(ExitCode::USR_ILLEGAL_ARGUMENT, text));
    }
    Ok(pre_commits
        .into_iter()
        .zip(sector_activations)
        .zip(sector_proofs)
        .map(|((pre_commit, manifest), proof)| Candidate { pre_commit, manifest, proof })
        .collect())
}

/// Too early refuses the whole message; too late only this sector.
fn check_time(world: World<'_>, pre_commit: &SectorPreCommitOnChainInfo) -> Result<ExitCode, Abort> {
    let policy = &world.network.policy;
    let window = max_prove_commit_duration(policy, pre_commit.info.seal_proof).unwrap_or_default();
    if world.epoch <= seed_epoch(world, pre_commit) {
        return Err(Abort::forbidden("too early to prove sector"));
    }
    match world.epoch > pre_commit.pre_commit_epoch + window {
        true => Ok(ExitCode::USR_ILLEGAL_ARGUMENT),
        false => Ok(ExitCode::OK),
    }
}

fn seed_epoch(world: World<'_>, pre_commit: &SectorPreCommitOnChainInfo) -> ChainEpoch {
    pre_commit.pre_commit_epoch + world.network.policy.pre_commit_challenge_delay
}

/// With "require activation success" one bad sector refuses the message.
fn refuse_partial(what: &str, candidates: &[Candidate], codes: &[ExitCode], required: bool) -> Result<(), Abort> {
    let Some(bad) = codes.iter().position(|code| !code.is_success()) else { return Ok(()) };
    if !required {
        return Ok(());
    }
    let number = candidates[bad].pre_commit.info.sector_number;
    let good: Vec<bool> = codes.iter().map(|code| code.is_success()).collect();
    let text = format!("invalid {what} for sector {number} while requiring activation success: {good:?}");
    Err(Abort::illegal_argument(text))
}

/// Has the library judge the proof against the chain's own randomness and the announced commitments.
fn proof_holds(world: World<'_>, miner: u64, candidate: &Candidate) -> bool {
    let Candidate { pre_commit, proof, .. } = candidate;
    let info = &pre_commit.info;
    let entropy = miner_entropy(SpId(miner));
    let ticket = world.ticket_randomness(RandomnessTag::SealRandomness, info.seal_rand_epoch, &entropy);
    let seed_epoch = seed_epoch(world, pre_commit);
    let seed = world.beacon_randomness(RandomnessTag::InteractiveSealChallengeSeed, seed_epoch, &entropy);
    let Ok(data_cid) = info.unsealed_cid.get_cid(info.seal_proof) else { return false };
    let (Ok(comm_d), Ok(comm_r)) = (comm_d(&data_cid), comm_r(&info.sealed_cid)) else {
        return false;
    };
    world.verifier.verify_seal(&SealClaim {
        proof_type: info.seal_proof,
        sector: SectorRef::new(SpId(miner), info.sector_number),
        ticket,
        seed,
        comm_d,
        comm_r,
        proof: proof.bytes(),
    })
}

/// Makes sectors out of pre-commits, assigns them to deadlines, and swaps deposits for pledges.
fn activate(
    call: &mut Call<'_, '_>,
    proven: Vec<(SectorPreCommitOnChainInfo, SectorActivationManifest, u64)>,
) -> Result<(), Abort> {
    let world = call.world();
    let (policy, store, epoch) = (&world.network.policy, world.store, world.epoch);
    let prices = Prices::now(call.vm)?;
    let mut state: State = call.state()?;
    let info = state.get_info(store)?;

    let mut sectors = Vec::with_capacity(proven.len());
    let mut deposits = TokenAmount::default();
    let mut pledges = TokenAmount::default();
    for (pre_commit, manifest, piece_bytes) in &proven {
        let lifetime = pre_commit.info.expiration - epoch;
        if lifetime < policy.min_sector_expiration {
            tracing::warn!(sector = pre_commit.info.sector_number, lifetime, "a proven sector's lifetime is too short");
            continue;
        }
        let power = qa_power_for_weight(info.sector_size, lifetime, &BigInt::ZERO);
        let pledge = prices.initial_pledge(&power);
        deposits += &pre_commit.pre_commit_deposit;
        pledges += &pledge;
        sectors.push(SectorOnChainInfo {
            sector_number: pre_commit.info.sector_number,
            seal_proof: pre_commit.info.seal_proof,
            sealed_cid: pre_commit.info.sealed_cid,
            deprecated_deal_ids: Vec::new(),
            activation: epoch,
            expiration: pre_commit.info.expiration,
            deal_weight: BigInt::from(*piece_bytes) * lifetime,
            verified_deal_weight: BigInt::ZERO,
            initial_pledge: pledge,
            expected_day_reward: None,
            expected_storage_pledge: None,
            power_base_epoch: epoch,
            replaced_day_reward: None,
            sector_key_cid: None,
            flags: SectorOnChainInfoFlags::SIMPLE_QA_POWER,
            daily_fee: prices.daily_fee(&power),
        });
        emit_activated(call, pre_commit, manifest)?;
    }

    let numbers: Vec<SectorNumber> = sectors.iter().map(|sector| sector.sector_number).collect();
    state.put_sectors(store, sectors.clone())?;
    state.delete_precommitted_sectors(store, &numbers)?;
    let partition = info.window_post_partition_sectors;
    state.assign_sectors_to_deadlines(policy, store, epoch, sectors, partition, info.sector_size)?;
    state.add_pre_commit_deposit(&-deposits)?;
    let unlocked = state.get_unlocked_balance(&call.balance())?;
    if unlocked < pledges {
        return Err(Abort::insufficient_funds(format!(
            "insufficient funds for aggregate initial pledge requirement {pledges}, available: {unlocked}"
        )));
    }
    state.add_initial_pledge(&pledges)?;
    check_balance(call, &state)?;
    call.save(&state);
    notify_pledge(call, &pledges)
}

fn emit_activated(
    call: &mut Call<'_, '_>,
    pre_commit: &SectorPreCommitOnChainInfo,
    manifest: &SectorActivationManifest,
) -> Result<(), Abort> {
    let mut event = EventBuilder::new()
        .typ("sector-activated")
        .field_indexed("sector", &pre_commit.info.sector_number)
        .field_indexed("unsealed-cid", &pre_commit.info.unsealed_cid.0);
    for piece in &manifest.pieces {
        event = event.field_indexed("piece-cid", &piece.cid).field("piece-size", &piece.size.0);
    }
    call.emit(event.build()?);
    Ok(())
}
