//! Proofs of spacetime in the library's types.
//!
//! Through the library's interface that is not generic, which has been compiled for every shape
//! already: the same calls with our own shapes would double the time that this crate takes to compile.

use std::collections::BTreeMap;
use std::path::Path;

use bellperson::groth16::Proof;
use blstrs::Bls12;
use curio_core::{SealProof, SectorRef, SpId};
use filecoin_hashers::poseidon::{PoseidonDomain, PoseidonFunction};
use filecoin_hashers::{Domain, HashFunction};
use filecoin_proofs::constants::SectorShapeBase;
use filecoin_proofs::{PartitionSnarkProof, SINGLE_PARTITION_PROOF_LEN};
use filecoin_proofs_api::{PrivateReplicaInfo, PublicReplicaInfo, RegisteredPoStProof, SectorId, post};
use storage_proofs_core::compound_proof::CompoundProof;
use storage_proofs_post::fallback::{FallbackPoSt, FallbackPoStCircuit, FallbackPoStCompound, PublicParams};

use super::{prover_id, test_trapdoor};
use crate::groth16::{Keep, Setup, Told};
use crate::params::ParamsError;
use crate::post::{PostKind, PublicSector};
use crate::{Commitment, ProofError};

/// The registered proofs that all networks take now. The window family of version 1.2 has the number
/// on chain whose name ends in V1P1; its challenges do not depend on a sector's place among others.
fn registered(kind: PostKind, proof: SealProof) -> RegisteredPoStProof {
    match (kind, proof) {
        (PostKind::Window, SealProof::StackedDrg2KiBV1_1) => RegisteredPoStProof::StackedDrgWindow2KiBV1_2,
        (PostKind::Window, SealProof::StackedDrg8MiBV1_1) => RegisteredPoStProof::StackedDrgWindow8MiBV1_2,
        (PostKind::Window, SealProof::StackedDrg512MiBV1_1) => RegisteredPoStProof::StackedDrgWindow512MiBV1_2,
        (PostKind::Window, SealProof::StackedDrg32GiBV1_1) => RegisteredPoStProof::StackedDrgWindow32GiBV1_2,
        (PostKind::Window, SealProof::StackedDrg64GiBV1_1) => RegisteredPoStProof::StackedDrgWindow64GiBV1_2,
        (PostKind::Winning, SealProof::StackedDrg2KiBV1_1) => RegisteredPoStProof::StackedDrgWinning2KiBV1,
        (PostKind::Winning, SealProof::StackedDrg8MiBV1_1) => RegisteredPoStProof::StackedDrgWinning8MiBV1,
        (PostKind::Winning, SealProof::StackedDrg512MiBV1_1) => RegisteredPoStProof::StackedDrgWinning512MiBV1,
        (PostKind::Winning, SealProof::StackedDrg32GiBV1_1) => RegisteredPoStProof::StackedDrgWinning32GiBV1,
        (PostKind::Winning, SealProof::StackedDrg64GiBV1_1) => RegisteredPoStProof::StackedDrgWinning64GiBV1,
    }
}

/// Name of the circuit in parameter files.
pub(crate) fn circuit_id(kind: PostKind, proof: SealProof) -> String {
    registered(kind, proof).circuit_identifier().expect("all our proofs are of versions that have circuits")
}

/// Most sectors of one proof.
pub(crate) fn sector_count(kind: PostKind, proof: SealProof) -> usize {
    registered(kind, proof).sector_count()
}

/// Leaves that each sector is asked for.
pub(crate) fn challenges(
    kind: PostKind,
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    sectors: &[u64],
) -> Result<BTreeMap<u64, Vec<u64>>, ProofError> {
    let ids: Vec<SectorId> = sectors.iter().copied().map(SectorId::from).collect();
    let made = post::generate_fallback_sector_challenges(registered(kind, proof), randomness, &ids, prover_id(sp));
    let made = made.map_err(ProofError::library("generate_fallback_sector_challenges"))?;
    Ok(made.into_iter().map(|(sector, challenges)| (sector.into(), challenges)).collect())
}

/// Which of the eligible sectors an election asks for.
pub(crate) fn winning_sector_indices(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    eligible: u64,
) -> Result<Vec<u64>, ProofError> {
    let registered = registered(PostKind::Winning, proof);
    post::generate_winning_post_sector_challenge(registered, randomness, eligible, prover_id(sp))
        .map_err(ProofError::library("generate_winning_post_sector_challenge"))
}

/// Paths of the challenged leaves, which the library checks against the root in p_aux.
pub(crate) fn vanilla(
    kind: PostKind,
    proof: SealProof,
    sector: SectorRef,
    comm_r: &Commitment,
    cache: &Path,
    sealed: &Path,
    challenges: &[u64],
) -> anyhow::Result<Vec<u8>> {
    let registered = registered(kind, proof);
    let replica = PrivateReplicaInfo::new(registered, *comm_r, cache.to_path_buf(), sealed.to_path_buf());
    post::generate_single_vanilla_proof(registered, sector.number.into(), &replica, challenges)
}

/// comm_r of the two roots in p_aux.
pub(crate) fn comm_r(comm_c: &[u8; 32], comm_r_last: &[u8; 32]) -> anyhow::Result<Commitment> {
    let roots = (PoseidonDomain::try_from_bytes(comm_c)?, PoseidonDomain::try_from_bytes(comm_r_last)?);
    let mut root = [0; 32];
    PoseidonFunction::hash2(&roots.0, &roots.1).write_bytes(&mut root)?;
    Ok(root)
}

/// The SNARK of one partition, whose vanilla proofs ascend by sector.
pub(crate) fn window_partition(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    vanilla: &[Vec<u8>],
) -> Result<Vec<u8>, ProofError> {
    let registered = registered(PostKind::Window, proof);
    // The number of the partition counts for the old window family only.
    post::generate_single_window_post_with_vanilla(registered, randomness, prover_id(sp), vanilla, 0)
        .map(|PartitionSnarkProof(bytes)| bytes)
        .map_err(ProofError::library("generate_single_window_post_with_vanilla"))
}

/// The SNARK of an election.
pub(crate) fn winning(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    vanilla: &[Vec<u8>],
) -> Result<Vec<u8>, ProofError> {
    let registered = registered(PostKind::Winning, proof);
    post::generate_winning_post_with_vanilla(registered, randomness, prover_id(sp), vanilla)
        .map(|posts| posts.into_iter().flat_map(|(_, bytes)| bytes).collect())
        .map_err(ProofError::library("generate_winning_post_with_vanilla"))
}

/// Verifies as a chain does. Bytes that are no proof are an invalid proof, not an error.
pub(crate) fn verify_window(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    sectors: &[PublicSector],
    bytes: &[u8],
) -> Result<bool, ProofError> {
    let (registered, replicas) = public(PostKind::Window, proof, sectors);
    if replicas.len() != sectors.len() || !is_well_formed(bytes, sectors.len().div_ceil(registered.sector_count())) {
        return Ok(false);
    }
    post::verify_window_post(randomness, &[(registered, bytes)], &replicas, prover_id(sp))
        .map_err(ProofError::library("verify_window_post"))
}

/// Verifies as a chain does. Bytes that are no proof are an invalid proof, not an error.
pub(crate) fn verify_winning(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    sectors: &[PublicSector],
    bytes: &[u8],
) -> Result<bool, ProofError> {
    let (registered, replicas) = public(PostKind::Winning, proof, sectors);
    if sectors.len() != registered.sector_count() || !is_well_formed(bytes, 1) {
        return Ok(false);
    }
    post::verify_winning_post(randomness, bytes, &replicas, prover_id(sp))
        .map_err(ProofError::library("verify_winning_post"))
}

fn public(
    kind: PostKind,
    proof: SealProof,
    sectors: &[PublicSector],
) -> (RegisteredPoStProof, BTreeMap<SectorId, PublicReplicaInfo>) {
    let registered = registered(kind, proof);
    let replica =
        |sector: &PublicSector| (SectorId::from(sector.number), PublicReplicaInfo::new(registered, sector.comm_r));
    (registered, sectors.iter().map(replica).collect())
}

/// Whether the bytes are that many points of the curves.
fn is_well_formed(bytes: &[u8], partitions: usize) -> bool {
    bytes.len() == partitions * SINGLE_PARTITION_PROOF_LEN
        && bytes.chunks(SINGLE_PARTITION_PROOF_LEN).all(|part| Proof::<Bls12>::read(part).is_ok())
}

/// Evaluates the circuit of a test size at the secrets of the test parameters.
pub(crate) fn evaluate(kind: PostKind, proof: SealProof, keep: Keep, told: Told<'_>) -> Result<Setup, ParamsError> {
    type Compound = FallbackPoStCompound<SectorShapeBase>;
    type Circuit = FallbackPoStCircuit<SectorShapeBase>;
    let public = circuit_params(kind, proof).map_err(|error| ParamsError::Circuit(format!("{error:#}")))?;
    let blank = || <Compound as CompoundProof<'_, FallbackPoSt<'_, SectorShapeBase>, Circuit>>::blank_circuit(&public);
    Setup::evaluate(blank, test_trapdoor(), keep, told).map_err(|error| ParamsError::Circuit(error.to_string()))
}

fn circuit_params(kind: PostKind, proof: SealProof) -> anyhow::Result<PublicParams> {
    let config = registered(kind, proof).as_v1_config();
    match kind {
        PostKind::Window => filecoin_proofs::parameters::window_post_public_params::<SectorShapeBase>(&config),
        PostKind::Winning => filecoin_proofs::parameters::winning_post_public_params::<SectorShapeBase>(&config),
    }
}

/// Public inputs of a test size's winning circuit for a vanilla proof, which is verified.
#[cfg(debug_assertions)]
pub(crate) fn winning_public_inputs(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    vanilla: &[u8],
) -> Result<Vec<blstrs::Scalar>, ProofError> {
    use filecoin_proofs::{FallbackPoStSectorProof, as_safe_commitment, partition_vanilla_proofs};
    use storage_proofs_post::fallback::{PublicInputs, PublicSector};

    let vanilla: FallbackPoStSectorProof<SectorShapeBase> =
        bincode::deserialize(vanilla).map_err(|error| ProofError::VanillaPost(error.to_string()))?;
    let inputs = || {
        let config = registered(PostKind::Winning, proof).as_v1_config();
        let params = circuit_params(PostKind::Winning, proof)?;
        // The circuit asks for one leaf of each of its sectors, which are all the same one.
        let sector = PublicSector { id: vanilla.sector_id, comm_r: vanilla.comm_r };
        let inputs = PublicInputs {
            randomness: as_safe_commitment(randomness, "randomness")?,
            prover_id: as_safe_commitment(&prover_id(sp), "prover_id")?,
            sectors: vec![sector; params.sector_count],
            k: None,
        };
        // With the inputs of the circuit it verifies all leaves; the prover's own call, which has one
        // sector only, verifies one leaf and leaves the others to the circuit.
        partition_vanilla_proofs::<SectorShapeBase>(&config, &params, &inputs, 1, &[vanilla])?;
        FallbackPoStCompound::<SectorShapeBase>::generate_public_inputs(&inputs, &params, Some(0))
    };
    inputs().map_err(ProofError::library("partition_vanilla_proofs"))
}
