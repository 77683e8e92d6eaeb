//! Proofs of spacetime: that sectors are still stored.
//!
//! A *vanilla* proof is made where a sector's files lie and holds the challenged leaves with their
//! paths; a SNARK compresses those of a partition (window) or of the one elected sector (winning). It
//! reads the sealed file, tree-r-last and p_aux, which is what stays of a sector for its whole life.
//!
//! Randomness is taken as the chain gives it: like the chain's verifier, each function clears the two
//! highest bits, so that it is a field element.

mod many;

use std::collections::BTreeMap;
use std::path::Path;

use curio_core::{SealProof, SectorRef, SpId};
use serde::{Deserialize, Serialize};

pub(crate) use self::many::vanilla_posts;
pub use self::many::{PostSector, VanillaPost};
use crate::cache::{self, Cache};
use crate::params::{self, Circuit, Set};
use crate::seal::{Snark, is_commitment, require_commitment};
use crate::{Commitment, ProofError, library};

/// What a proof of spacetime is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PostKind {
    /// All sectors of a partition, once in each proving period.
    Window,
    /// One sector, for the right to make a block.
    Winning,
}

impl PostKind {
    /// The circuit that proves it.
    pub fn circuit(self) -> Circuit {
        match self {
            PostKind::Window => Circuit::WindowPost,
            PostKind::Winning => Circuit::WinningPost,
        }
    }
}

/// What a chain knows of a sector that is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicSector {
    pub number: u64,
    #[serde(with = "hex::serde")]
    pub comm_r: Commitment,
}

/// Leaves that each sector is asked for by a deadline's randomness. They do not depend on the other
/// sectors.
///
/// # Errors
/// [`ProofError::Library`].
pub fn window_challenges(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    sectors: &[u64],
) -> Result<BTreeMap<u64, Vec<u64>>, ProofError> {
    if sectors.is_empty() {
        return Ok(BTreeMap::new());
    }
    library::post::challenges(PostKind::Window, proof, sp, &field_element(randomness), sectors)
}

/// Leaves that the elected sector is asked for.
///
/// # Errors
/// [`ProofError::SectorCount`] for more or less than the one sector of an election.
pub fn winning_challenges(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    sectors: &[u64],
) -> Result<BTreeMap<u64, Vec<u64>>, ProofError> {
    require_count(PostKind::Winning, proof, sectors.len())?;
    library::post::challenges(PostKind::Winning, proof, sp, &field_element(randomness), sectors)
}

/// Which of `eligible` sectors, in the chain's order, an election asks for: one index.
///
/// # Errors
/// [`ProofError::Library`] when none is eligible.
pub fn winning_sector_indices(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    eligible: u64,
) -> Result<Vec<u64>, ProofError> {
    library::post::winning_sector_indices(proof, sp, &field_element(randomness), eligible)
}

/// The vanilla proof of one sector, checked against `comm_r`: 6 KB for a window and 37 KB for an
/// election at 2 KiB.
///
/// # Errors
/// [`ProofError::Lost`] or [`ProofError::Truncated`] with the file; [`ProofError::BadReplica`] when
/// the files are there and do not belong to `comm_r`, be it for one flipped bit below a challenge.
pub fn vanilla_post(
    kind: PostKind,
    proof: SealProof,
    sector: SectorRef,
    comm_r: &Commitment,
    cache: &Path,
    sealed: &Path,
    challenges: &[u64],
) -> Result<Vec<u8>, ProofError> {
    require_commitment("comm_r", comm_r)?;
    let files = Cache::new(proof, cache);
    require_whole(sealed, proof.sector_size())?;
    for (path, bytes) in files.tree_r_last() {
        require_whole(&path, bytes)?;
    }
    require_whole(&files.p_aux(), cache::P_AUX_BYTES)?;
    if challenges.is_empty() {
        return Err(ProofError::VanillaPost(format!("nothing is asked of sector {sector}")));
    }
    let bad = |error: anyhow::Error| ProofError::BadReplica {
        sector,
        sealed: sealed.to_path_buf(),
        cache: cache.to_path_buf(),
        reason: format!("{error:#}"),
    };
    if comm_r_of(&files)?.is_none_or(|actual| actual != *comm_r) {
        return Err(bad(anyhow::anyhow!("p_aux belongs to another replica")));
    }
    library::post::vanilla(kind, proof, sector, comm_r, cache, sealed, challenges).map_err(bad)
}

/// What p_aux says; none when it has no roots in it.
fn comm_r_of(files: &Cache<'_>) -> Result<Option<Commitment>, ProofError> {
    let path = files.p_aux();
    let roots = std::fs::read(&path).map_err(ProofError::io("read", &path))?;
    let (roots, _) = roots.as_chunks::<32>();
    Ok(match roots {
        [comm_c, comm_r_last] => library::post::comm_r(comm_c, comm_r_last).ok(),
        _ => None,
    })
}

/// The file is there and has this length. Nothing makes it again: the sector's layers are long gone.
fn require_whole(path: &Path, expected: u64) -> Result<(), ProofError> {
    match cache::file_size(path)? {
        Some(actual) if actual == expected => Ok(()),
        Some(actual) => Err(ProofError::Truncated { path: path.to_path_buf(), expected, actual }),
        None => Err(ProofError::Lost { path: path.to_path_buf() }),
    }
}

/// The SNARK of the sectors of one partition, in whatever order their vanilla proofs come: 192 bytes;
/// 3 CPU-seconds at 2 KiB. The library verifies the vanilla proofs, and the caller verifies the result
/// by what the chain knows.
///
/// Where in a deadline the partition is does not matter: see [`merge_window_posts`].
///
/// # Errors
/// [`ProofError::Params`] before anything else; [`ProofError::SectorCount`] for no sector or more than
/// a partition has; [`ProofError::VanillaPost`] for bytes that are no vanilla proof, and for a sector
/// that is there twice; [`ProofError::Library`] when a vanilla proof does not verify.
pub fn window_post_partition(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    vanilla: &[Vec<u8>],
) -> Result<Vec<u8>, ProofError> {
    use_params(PostKind::Window, proof)?;
    require_count(PostKind::Window, proof, vanilla.len())?;
    library::post::window_partition(proof, sp, &field_element(randomness), &ascending(vanilla)?)
}

/// Vanilla proofs in the order in which every verifier has the sectors.
fn ascending(vanilla: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, ProofError> {
    let numbered = vanilla.iter().map(|bytes| Ok((number_of(bytes)?, bytes)));
    let mut numbered = numbered.collect::<Result<Vec<_>, ProofError>>()?;
    numbered.sort_by_key(|(number, _)| *number);
    match numbered.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        Some(pair) => Err(ProofError::VanillaPost(format!("sector {} is there twice", pair[0].0))),
        None => Ok(numbered.into_iter().map(|(_, bytes)| bytes.clone()).collect()),
    }
}

/// A vanilla proof begins with the number of its sector.
fn number_of(vanilla: &[u8]) -> Result<u64, ProofError> {
    let number = vanilla.first_chunk().ok_or_else(|| ProofError::VanillaPost("one is too short".to_owned()))?;
    Ok(u64::from_le_bytes(*number))
}

/// The proof of several partitions for one message.
///
/// The verifier knows no partitions: it takes all sectors of the message in ascending order and cuts
/// them into as many as a partition may have. So the merged proof holds exactly when these pieces are
/// the sectors of the partitions, in their order: each partition but the last is full, and the numbers
/// ascend from partition to partition.
pub fn merge_window_posts(partitions: &[Vec<u8>]) -> Vec<u8> {
    partitions.concat()
}

/// Verifies as a chain does, with the verifying key in the parameter folder of this process. Anything
/// wrong with proof or sectors is `false`, also no sector and a sector that is there twice.
///
/// # Errors
/// [`ProofError::Params`] when the verifying key is missing or damaged.
pub fn verify_window_post(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    sectors: &[PublicSector],
    post: &[u8],
) -> Result<bool, ProofError> {
    use_verifying_key(PostKind::Window, proof)?;
    if sectors.is_empty() || !sectors.iter().all(|sector| is_commitment(&sector.comm_r)) {
        return Ok(false);
    }
    library::post::verify_window(proof, sp, &field_element(randomness), sectors, post)
}

/// The SNARK of the elected sector: 192 bytes; 10 CPU-seconds at 2 KiB. The caller verifies it by what
/// the chain knows.
///
/// # Errors
/// As [`window_post_partition`], for one sector.
pub fn winning_post(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    vanilla: &[Vec<u8>],
    snark: Snark,
) -> Result<Vec<u8>, ProofError> {
    let [vanilla] = vanilla else {
        return Err(ProofError::SectorCount { most: 1, actual: vanilla.len() });
    };
    let randomness = field_element(randomness);
    match snark {
        Snark::Real => {
            use_params(PostKind::Winning, proof)?;
            library::post::winning(proof, sp, &randomness, std::slice::from_ref(vanilla))
        }
        #[cfg(debug_assertions)]
        Snark::Simulated => {
            let dir = params::default_dir();
            params::use_dir(&dir)?;
            Ok(crate::simulated::SimulatedProof::of_winning_post(&dir, proof, sp, &randomness, vanilla)?.into_bytes())
        }
    }
}

/// [`verify_window_post`] for an election.
///
/// # Errors
/// [`ProofError::Params`] when the verifying key is missing or damaged.
pub fn verify_winning_post(
    proof: SealProof,
    sp: SpId,
    randomness: &[u8; 32],
    sectors: &[PublicSector],
    post: &[u8],
) -> Result<bool, ProofError> {
    use_verifying_key(PostKind::Winning, proof)?;
    if !sectors.iter().all(|sector| is_commitment(&sector.comm_r)) {
        return Ok(false);
    }
    library::post::verify_winning(proof, sp, &field_element(randomness), sectors, post)
}

fn field_element(randomness: &[u8; 32]) -> [u8; 32] {
    let mut element = *randomness;
    element[31] &= 0x3f;
    element
}

fn require_count(kind: PostKind, proof: SealProof, actual: usize) -> Result<(), ProofError> {
    let most = library::post::sector_count(kind, proof);
    if (1..=most).contains(&actual) {
        return Ok(());
    }
    Err(ProofError::SectorCount { most, actual })
}

fn use_params(kind: PostKind, proof: SealProof) -> Result<(), ProofError> {
    let dir = params::default_dir();
    params::use_dir(&dir)?;
    Ok(params::check(&dir, Set { circuit: kind.circuit(), proof })?)
}

fn use_verifying_key(kind: PostKind, proof: SealProof) -> Result<(), ProofError> {
    let dir = params::default_dir();
    params::use_dir(&dir)?;
    Ok(params::check_verifying_key(&dir, Set { circuit: kind.circuit(), proof })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_have_as_many_sectors_as_on_chain() {
        for proof in SealProof::ALL {
            assert_eq!(library::post::sector_count(PostKind::Window, proof), proof.partition_sectors(), "{proof:?}");
            assert_eq!(library::post::sector_count(PostKind::Winning, proof), 1, "{proof:?}");
        }
    }

    #[test]
    fn a_sector_is_asked_the_same_leaves_whoever_is_beside_it() {
        let proof = SealProof::StackedDrg32GiBV1_1;
        let asked = |sectors: &[u64]| window_challenges(proof, SpId(1000), &[0xff; 32], sectors).unwrap();
        let alone = asked(&[7]);
        assert_eq!(alone[&7].len(), 10);
        assert!(alone[&7].iter().all(|leaf| *leaf < proof.sector_size() / 32));
        let many: Vec<u64> = (0..5000).rev().collect();
        assert_eq!(asked(&many)[&7], alone[&7]);
        assert_eq!(asked(&[]), BTreeMap::new());
    }

    #[test]
    fn an_election_asks_one_sector_for_66_leaves() {
        let proof = SealProof::StackedDrg2KiBV1_1;
        let indices = winning_sector_indices(proof, SpId(1000), &[9; 32], 12).unwrap();
        assert!(indices.len() == 1 && indices[0] < 12, "{indices:?}");
        assert_eq!(winning_challenges(proof, SpId(1000), &[9; 32], &[3]).unwrap()[&3].len(), 66);
        for sectors in [&[][..], &[3, 4]] {
            let error = winning_challenges(proof, SpId(1000), &[9; 32], sectors).unwrap_err();
            assert!(matches!(error, ProofError::SectorCount { most: 1, .. }), "{error}");
        }
        assert!(winning_sector_indices(proof, SpId(1000), &[9; 32], 0).is_err(), "nobody is eligible");
    }
}
