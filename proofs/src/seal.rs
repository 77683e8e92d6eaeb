//! From layers and data to a proof: TreeRC, C1, C2, verification, and what stays afterwards.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use curio_core::{SealProof, SectorRef};
use filecoin_proofs_api::seal::SealCommitPhase1Output;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::cache::{self, Cache};
use crate::params::{Circuit, Set};
use crate::pieces::{NODE_BYTES, PieceSpec, truncated};
use crate::{Commitment, ProofError, library, params, pieces};

/// What a vanilla proof is made from.
#[derive(Clone, Copy, Debug)]
pub struct C1Input<'a> {
    pub proof: SealProof,
    pub sector: SectorRef,
    pub ticket: [u8; 32],
    pub comm_d: Commitment,
    pub comm_r: Commitment,
    /// Pieces in order, fillers not among them; empty for a sector without data.
    pub pieces: &'a [PieceSpec],
    /// Folder with layers and trees.
    pub cache: &'a Path,
    /// The replica.
    pub sealed: &'a Path,
}

/// What a chain knows of a sector when it verifies its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyInput {
    pub proof: SealProof,
    pub sector: SectorRef,
    pub ticket: [u8; 32],
    pub seed: [u8; 32],
    pub comm_d: Commitment,
    pub comm_r: Commitment,
}

/// How C2 makes its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Snark {
    /// By the prover, with parameters.
    Real,
    /// From the secrets of the test parameters, which every verifier of a test network accepts.
    /// Does not exist in a release build.
    #[cfg(debug_assertions)]
    Simulated,
}

/// Encodes the data with the last layer into `sealed` and writes tree-c, tree-r-last and the files
/// that name their roots into `cache`. Returns comm_r.
///
/// May be run again after a crash at any point, or after success: the replica is made from the data
/// tree under a temporary name each time, and gets its name last. Same input, same comm_r.
///
/// # Errors
/// [`ProofError::Missing`] or [`ProofError::WrongSize`] for layers and data tree,
/// [`ProofError::CommD`] when the data tree is of other data, [`ProofError::Busy`]; io.
pub fn tree_rc(proof: SealProof, comm_d: &Commitment, cache: &Path, sealed: &Path) -> Result<Commitment, ProofError> {
    let cache = Cache::new(proof, cache);
    cache.require_dir()?;
    let _lock = cache.lock()?;
    cache.require_layers()?;
    cache.require_tree_d()?;
    require_root(&cache, comm_d)?;

    // The library would take over trees of an earlier, unfinished run.
    for (path, _) in cache.tree_c().into_iter().chain(cache.tree_r_last()) {
        cache::remove(&path)?;
    }
    cache::remove(&cache.p_aux())?;
    cache::remove(&cache.t_aux())?;

    let (temporary, mut replica) = cache::create_temporary(sealed, proof.sector_size())?;
    let made = copy_data(&cache, &mut replica, &temporary)
        .and_then(|()| library::pre_commit_phase2(cache, comm_d, &temporary))
        .and_then(|comm_r| {
            cache.require_trees()?;
            let trees = cache.tree_c().into_iter().chain(cache.tree_r_last()).map(|(path, _)| path);
            for path in trees.chain([cache.p_aux(), cache.t_aux()]) {
                File::open(&path).and_then(|file| file.sync_all()).map_err(ProofError::io("write", &path))?;
            }
            cache::sync_dir(&cache.p_aux()).map_err(ProofError::io("write", cache.dir))?;
            cache::keep(&replica, &temporary, sealed)?;
            Ok(comm_r)
        });
    if made.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    made
}

/// The root, the last node of the data tree, is comm_d.
fn require_root(cache: &Cache<'_>, comm_d: &Commitment) -> Result<(), ProofError> {
    let path = cache.tree_d();
    let mut root = [0; NODE_BYTES];
    File::open(&path)
        .and_then(|file| file.read_exact_at(&mut root, cache.tree_d_bytes() - NODE_BYTES as u64))
        .map_err(ProofError::io("read", &path))?;
    if root == *comm_d {
        return Ok(());
    }
    Err(ProofError::CommD { path, expected: hex::encode(comm_d), actual: hex::encode(root) })
}

/// Copies the padded data, which the data tree begins with.
fn copy_data(cache: &Cache<'_>, to: &mut File, to_path: &Path) -> Result<(), ProofError> {
    let path = cache.tree_d();
    let mut from = File::open(&path).map_err(ProofError::io("open", &path))?;
    let mut buffer = vec![0; (4 << 20).min(cache.proof.sector_size() as usize)];
    let mut left = cache.proof.sector_size();
    while left > 0 {
        let chunk = &mut buffer[..left.min(4 << 20) as usize];
        from.read_exact(chunk).map_err(ProofError::io("read", &path))?;
        to.write_all(chunk).map_err(ProofError::io("write", to_path))?;
        left -= chunk.len() as u64;
    }
    Ok(())
}

/// How many vanilla proofs check a new replica.
const CHECKS: u8 = 3;

/// Makes vanilla proofs for three seeds derived from `entropy`, which the caller draws at random, and
/// lets the library verify them: a bad layer or tree is found before a deposit is paid.
///
/// # Errors
/// As [`c1`].
pub fn check_c1(input: &C1Input<'_>, entropy: &[u8; 32]) -> Result<(), ProofError> {
    (0..CHECKS).try_for_each(|check| {
        let mut seed = Sha256::new();
        seed.update(entropy);
        seed.update([check]);
        vanilla_proof(input, &truncated(seed)).map(drop)
    })
}

/// The vanilla proof for a seed, verified, as the JSON that Lotus and Curio exchange: 100 KB at 2
/// KiB, 16 MiB and more at 32 GiB.
///
/// # Errors
/// [`ProofError::Missing`] or [`ProofError::WrongSize`] with the file and the task that writes it;
/// [`ProofError::Library`] when the proof of this cache does not verify.
pub fn c1(input: &C1Input<'_>, seed: &[u8; 32]) -> Result<Vec<u8>, ProofError> {
    let output = vanilla_proof(input, seed)?;
    serde_json::to_vec(&output).map_err(|error| ProofError::VanillaProof(error.to_string()))
}

fn vanilla_proof(input: &C1Input<'_>, seed: &[u8; 32]) -> Result<SealCommitPhase1Output, ProofError> {
    let cache = Cache::new(input.proof, input.cache);
    cache.require_dir()?;
    cache.require_layers()?;
    cache.require_tree_d()?;
    cache.require_trees()?;
    cache::require(input.sealed, input.proof.sector_size(), "TreeRC")?;
    require_commitment("comm_d", &input.comm_d)?;
    require_commitment("comm_r", &input.comm_r)?;
    let of_pieces = pieces::comm_d(input.proof, input.pieces)?;
    if of_pieces != input.comm_d {
        let (expected, actual) = (hex::encode(input.comm_d), hex::encode(of_pieces));
        return Err(ProofError::CommD { path: cache.tree_d(), expected, actual });
    }
    library::commit_phase1(input, seed)
}

pub(crate) fn require_commitment(what: &'static str, value: &Commitment) -> Result<(), ProofError> {
    if is_commitment(value) {
        return Ok(());
    }
    Err(ProofError::NotACommitment { what, value: hex::encode(value) })
}

/// Whether the bytes may be a comm_d or comm_r.
pub(crate) fn is_commitment(value: &Commitment) -> bool {
    *value != [0; 32] && library::is_field_element(value)
}

/// The SNARK of a vanilla proof; it verifies. Real ones of 2 KiB take 110 CPU-seconds and 2.7 GB.
///
/// # Errors
/// [`ProofError::Params`] before anything else when parameters are missing or damaged;
/// [`ProofError::VanillaProof`] for something else than the output of [`c1`].
pub fn c2(sector: SectorRef, vanilla_proof: &[u8], snark: Snark) -> Result<Vec<u8>, ProofError> {
    let phase1: SealCommitPhase1Output =
        serde_json::from_slice(vanilla_proof).map_err(|error| ProofError::VanillaProof(error.to_string()))?;
    let proof = SealProof::ALL
        .into_iter()
        .find(|proof| library::registered(*proof) == phase1.registered_proof)
        .ok_or_else(|| ProofError::VanillaProof(format!("{:?} is not a proof we make", phase1.registered_proof)))?;
    let input = VerifyInput {
        proof,
        sector,
        ticket: phase1.ticket,
        seed: phase1.seed,
        comm_d: phase1.comm_d,
        comm_r: phase1.comm_r,
    };
    let dir = params::default_dir();
    params::use_dir(&dir)?;
    let porep = match snark {
        Snark::Real => {
            params::check(&dir, Set { circuit: Circuit::Porep, proof })?;
            library::commit_phase2(sector, phase1)?
        }
        #[cfg(debug_assertions)]
        Snark::Simulated => crate::simulated::SimulatedProof::of_porep(&dir, &input)?.into_bytes(),
    };
    if verify_seal(&input, &porep)? {
        return Ok(porep);
    }
    Err(ProofError::DoesNotVerify { sector: sector.to_string() })
}

/// Verifies a proof as a chain does, with the verifying key in the parameter folder of this process
/// ([`params::default_dir`]; see [`params::use_dir`]). Anything wrong with proof or commitments is `false`.
///
/// # Errors
/// [`ProofError::Params`] when the verifying key is missing or damaged.
pub fn verify_seal(input: &VerifyInput, porep: &[u8]) -> Result<bool, ProofError> {
    let dir = params::default_dir();
    params::use_dir(&dir)?;
    params::check_verifying_key(&dir, Set { circuit: Circuit::Porep, proof: input.proof })?;
    if ![&input.comm_d, &input.comm_r].into_iter().all(is_commitment) {
        return Ok(false);
    }
    library::verify_seal(input, porep)
}

/// Copies the padded data of a sector out of its data tree: what an unsealed sector file is.
///
/// When the data tree is gone and `unsealed` is whole, an earlier call did it.
///
/// # Errors
/// [`ProofError::Missing`] or [`ProofError::WrongSize`] for the data tree; io.
pub fn unsealed_copy(proof: SealProof, cache: &Path, unsealed: &Path) -> Result<(), ProofError> {
    let cache = Cache::new(proof, cache);
    let done = cache::file_size(unsealed)? == Some(proof.sector_size());
    if done && cache::file_size(&cache.tree_d())?.is_none() {
        return Ok(());
    }
    cache.require_tree_d()?;
    let (temporary, mut file) = cache::create_temporary(unsealed, proof.sector_size())?;
    let copied = copy_data(&cache, &mut file, &temporary).and_then(|()| cache::keep(&file, &temporary, unsealed));
    if copied.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    copied
}

/// Removes layers, data tree and tree-c, and what unfinished calls left. p_aux, t_aux and
/// tree-r-last stay, which is what later proofs read.
///
/// # Errors
/// [`ProofError::Missing`] when what later proofs need is not there; nothing is removed then.
pub fn clear_cache(proof: SealProof, cache: &Path) -> Result<(), ProofError> {
    let cache = Cache::new(proof, cache);
    cache.require_dir()?;
    let _lock = cache.lock()?;
    for (path, bytes) in cache.tree_r_last() {
        cache::require(&path, bytes, "TreeRC")?;
    }
    cache::require(&cache.p_aux(), cache::P_AUX_BYTES, "TreeRC")?;
    let layers = (1..=proof.layers()).map(|layer| cache.layer(layer));
    let trees = cache.tree_c().into_iter().map(|(path, _)| path);
    for path in layers.chain(trees).chain([cache.tree_d(), cache.replica_id()]) {
        cache::remove(&path)?;
    }
    let entries = fs::read_dir(cache.dir).map_err(ProofError::io("read the cache folder", cache.dir))?;
    for entry in entries {
        let path = entry.map_err(ProofError::io("read the cache folder", cache.dir))?.path();
        if path.extension().is_some_and(|extension| extension == &cache::TEMPORARY[1..]) {
            cache::remove(&path)?;
        }
    }
    cache::sync_dir(&cache.p_aux()).map_err(ProofError::io("write", cache.dir))
}
