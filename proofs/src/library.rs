//! The generic calls into `filecoin-proofs`, once for each shape of trees that our sectors have:
//! 2 KiB, 8 MiB and 512 MiB share one, 32 GiB and 64 GiB have theirs. Also what else is easier said
//! in the library's types.

pub(crate) mod post;

use std::path::Path;

use bellperson::groth16::Proof;
use blstrs::{Bls12, Scalar};
use curio_core::{SealProof, SectorRef, SpId};
use filecoin_hashers::poseidon::PoseidonHasher;
use filecoin_proofs::constants::{DefaultPieceHasher, SectorShape32GiB, SectorShape64GiB, SectorShapeBase, TEST_SEED};
use filecoin_proofs::{
    DRG_DEGREE, EXP_DEGREE, Labels, PaddedBytesAmount, PieceInfo, PoRepConfig, SealPreCommitOutput,
    SealPreCommitPhase1Output, StoreConfig,
};
use filecoin_proofs_api::seal::{SealCommitPhase1Output, VanillaSealProof};
use filecoin_proofs_api::{RegisteredSealProof, SectorId, seal};
use rand_08::SeedableRng;
use rand_xorshift::XorShiftRng;
use storage_proofs_core::compound_proof::CompoundProof;
use storage_proofs_porep::stacked::{StackedBucketGraph, StackedCompound, StackedDrg};

use crate::cache::Cache;
use crate::groth16::{Keep, Setup, Told, Trapdoor};
use crate::params::{Circuit, ParamsError, Set};
use crate::pieces::{self, PieceSpec};
use crate::post::PostKind;
use crate::seal::{C1Input, VerifyInput};
use crate::{Commitment, ProofError};

/// Evaluates an expression with `Tree` as the shape of the proof's sector.
macro_rules! with_shape {
    ($proof:expr, $tree:ident => $body:expr) => {
        match $proof {
            SealProof::StackedDrg2KiBV1_1 | SealProof::StackedDrg8MiBV1_1 | SealProof::StackedDrg512MiBV1_1 => {
                type $tree = SectorShapeBase;
                $body
            }
            SealProof::StackedDrg32GiBV1_1 => {
                type $tree = SectorShape32GiB;
                $body
            }
            SealProof::StackedDrg64GiBV1_1 => {
                type $tree = SectorShape64GiB;
                $body
            }
        }
    };
}

/// The graph in which a label's parents are looked up. It depends on the proof kind only.
pub(crate) type Graph = StackedBucketGraph<PoseidonHasher>;

pub(crate) fn registered(proof: SealProof) -> RegisteredSealProof {
    match proof {
        SealProof::StackedDrg2KiBV1_1 => RegisteredSealProof::StackedDrg2KiBV1_1,
        SealProof::StackedDrg8MiBV1_1 => RegisteredSealProof::StackedDrg8MiBV1_1,
        SealProof::StackedDrg512MiBV1_1 => RegisteredSealProof::StackedDrg512MiBV1_1,
        SealProof::StackedDrg32GiBV1_1 => RegisteredSealProof::StackedDrg32GiBV1_1,
        SealProof::StackedDrg64GiBV1_1 => RegisteredSealProof::StackedDrg64GiBV1_1,
    }
}

fn config(proof: SealProof) -> PoRepConfig {
    registered(proof).as_v1_config()
}

/// Distinguishes proof kinds in every hash of a replica.
pub(crate) fn porep_id(proof: SealProof) -> [u8; 32] {
    config(proof).porep_id
}

/// Bytes of the SNARKs of one sector.
pub(crate) fn porep_bytes(proof: SealProof) -> usize {
    filecoin_proofs::SINGLE_PARTITION_PROOF_LEN * usize::from(config(proof).partitions)
}

/// The prover id: the miner's actor id as an unsigned varint, zeros after it.
pub(crate) fn prover_id(sp: SpId) -> [u8; 32] {
    let mut id = [0; 32];
    let mut rest = sp.0;
    for byte in &mut id {
        *byte = (rest & 0x7f) as u8;
        rest >>= 7;
        if rest == 0 {
            break;
        }
        *byte |= 0x80;
    }
    id
}

/// Name of the circuit in parameter files.
pub(crate) fn circuit_id(proof: SealProof) -> String {
    registered(proof).circuit_identifier().expect("all our proofs are of version 1, which have circuits")
}

pub(crate) fn graph(proof: SealProof) -> Result<Graph, ProofError> {
    let PoRepConfig { porep_id, api_version, .. } = config(proof);
    let nodes = (proof.sector_size() / 32) as usize;
    Graph::new_stacked(nodes, DRG_DEGREE, EXP_DEGREE, porep_id, api_version).map_err(ProofError::library("the graph"))
}

/// Encodes `replica` (a copy of the data) in place and writes tree-c, tree-r-last, p_aux, t_aux.
pub(crate) fn pre_commit_phase2(
    cache: Cache<'_>,
    comm_d: &Commitment,
    replica: &Path,
) -> Result<Commitment, ProofError> {
    let nodes = cache.nodes() as usize;
    let store = |id: String, size| StoreConfig { path: cache.dir.into(), id, size: Some(size), rows_to_discard: 0 };
    let layers = (1..=cache.proof.layers()).map(|layer| store(format!("layer-{layer}"), nodes)).collect();
    let data_tree = store("tree-d".into(), 2 * nodes - 1);
    let config = config(cache.proof);
    let output = with_shape!(cache.proof, Tree => {
        let labels = Labels::<Tree>::new(layers);
        let phase1 = SealPreCommitPhase1Output::<Tree> { labels, config: data_tree, comm_d: *comm_d };
        filecoin_proofs::seal_pre_commit_phase2::<&Path, &Path, Tree>(&config, phase1, cache.dir, replica)
    });
    Ok(output.map_err(ProofError::library("seal_pre_commit_phase2"))?.comm_r)
}

/// The vanilla proof, verified by the library's vanilla verifier, in the form that Lotus and Curio
/// exchange.
pub(crate) fn commit_phase1(input: &C1Input<'_>, seed: &[u8; 32]) -> Result<SealCommitPhase1Output, ProofError> {
    let pieces = pieces::with_fillers(input.proof, input.pieces)?;
    let pieces = pieces.iter().map(piece_info).collect::<Result<Vec<_>, _>>()?;
    macro_rules! phase1 {
        ($tree:ty, $variant:path) => {{
            let output = filecoin_proofs::seal_commit_phase1::<&Path, $tree>(
                &config(input.proof),
                input.cache,
                input.sealed,
                prover_id(input.sector.sp),
                SectorId::from(input.sector.number),
                input.ticket,
                *seed,
                SealPreCommitOutput { comm_r: input.comm_r, comm_d: input.comm_d },
                &pieces,
            )
            .map_err(ProofError::library("seal_commit_phase1"))?;
            SealCommitPhase1Output {
                registered_proof: registered(input.proof),
                vanilla_proofs: $variant(output.vanilla_proofs),
                comm_r: output.comm_r,
                comm_d: output.comm_d,
                replica_id: output.replica_id,
                seed: output.seed,
                ticket: output.ticket,
            }
        }};
    }
    Ok(match input.proof {
        SealProof::StackedDrg2KiBV1_1 => phase1!(SectorShapeBase, VanillaSealProof::StackedDrg2KiBV1),
        SealProof::StackedDrg8MiBV1_1 => phase1!(SectorShapeBase, VanillaSealProof::StackedDrg8MiBV1),
        SealProof::StackedDrg512MiBV1_1 => phase1!(SectorShapeBase, VanillaSealProof::StackedDrg512MiBV1),
        SealProof::StackedDrg32GiBV1_1 => phase1!(SectorShape32GiB, VanillaSealProof::StackedDrg32GiBV1),
        SealProof::StackedDrg64GiBV1_1 => phase1!(SectorShape64GiB, VanillaSealProof::StackedDrg64GiBV1),
    })
}

fn piece_info(piece: &PieceSpec) -> Result<PieceInfo, ProofError> {
    PieceInfo::new(piece.comm_p, PaddedBytesAmount(piece.padded_size).into())
        .map_err(|_| ProofError::NotACommitment { what: "comm_p of a piece", value: hex::encode(piece.comm_p) })
}

/// The SNARK of a vanilla proof, verified.
pub(crate) fn commit_phase2(sector: SectorRef, phase1: SealCommitPhase1Output) -> Result<Vec<u8>, ProofError> {
    seal::seal_commit_phase2(phase1, prover_id(sector.sp), SectorId::from(sector.number))
        .map(|output| output.proof)
        .map_err(ProofError::library("seal_commit_phase2"))
}

/// Verifies as a chain does. Bytes that are no proof are an invalid proof, not an error.
pub(crate) fn verify_seal(input: &VerifyInput, porep: &[u8]) -> Result<bool, ProofError> {
    let VerifyInput { proof, sector, ticket, seed, comm_d, comm_r } = input;
    let well_formed = porep.len() == porep_bytes(*proof)
        && porep.chunks(filecoin_proofs::SINGLE_PARTITION_PROOF_LEN).all(|part| Proof::<Bls12>::read(part).is_ok());
    if !well_formed {
        return Ok(false);
    }
    let number = SectorId::from(sector.number);
    seal::verify_seal(registered(*proof), *comm_r, *comm_d, prover_id(sector.sp), number, *ticket, *seed, porep)
        .map_err(ProofError::library("verify_seal"))
}

/// Public inputs of the circuit, one list for each partition.
#[cfg(debug_assertions)]
pub(crate) fn public_inputs(input: &VerifyInput) -> Result<Vec<Vec<Scalar>>, ProofError> {
    let VerifyInput { proof, sector, ticket, seed, comm_d, comm_r } = input;
    let number = SectorId::from(sector.number);
    seal::get_seal_inputs(registered(*proof), *comm_r, *comm_d, prover_id(sector.sp), number, *ticket, *seed)
        .map_err(ProofError::library("get_seal_inputs"))
}

/// Whether the bytes are a field element, as comm_r and comm_d must be.
pub(crate) fn is_field_element(bytes: &Commitment) -> bool {
    bool::from(Scalar::from_bytes_le(bytes).is_some())
}

/// The secrets of the test parameters: those that the library's own tests use.
pub(crate) fn test_trapdoor() -> Trapdoor {
    Trapdoor::draw(&mut XorShiftRng::from_seed(TEST_SEED))
}

/// Evaluates a circuit of a test size at the secrets of the test parameters.
pub(crate) fn evaluate(set: Set, keep: Keep, told: Told<'_>) -> Result<Setup, ParamsError> {
    match set.circuit {
        Circuit::Porep => evaluate_porep(set.proof, keep, told),
        Circuit::WindowPost => post::evaluate(PostKind::Window, set.proof, keep, told),
        Circuit::WinningPost => post::evaluate(PostKind::Winning, set.proof, keep, told),
    }
}

fn evaluate_porep(proof: SealProof, keep: Keep, told: Told<'_>) -> Result<Setup, ParamsError> {
    let failed = |error: String| ParamsError::Circuit(error);
    let public = filecoin_proofs::parameters::public_params::<SectorShapeBase>(&config(proof))
        .map_err(|error| failed(format!("{error:#}")))?;
    type Compound = StackedCompound<SectorShapeBase, DefaultPieceHasher>;
    let blank =
        || <Compound as CompoundProof<StackedDrg<'_, SectorShapeBase, DefaultPieceHasher>, _>>::blank_circuit(&public);
    Setup::evaluate(blank, test_trapdoor(), keep, told).map_err(|error| failed(error.to_string()))
}
