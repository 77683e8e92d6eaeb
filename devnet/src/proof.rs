//! Judging proofs. The chain believes nothing: every proof in a message is verified by the library
//! with the verifying key of its sector size.

use std::path::Path;

use curio_core::{SealProof, SectorRef, SpId};
use curio_proofs::params::{self, ParamsError};
use curio_proofs::{PieceSpec, ProofError, PublicSector, VerifyInput};
use fvm_shared::sector::RegisteredSealProof;

/// What a proof of replication claims.
#[derive(Clone, Debug)]
pub struct SealClaim<'a> {
    pub proof_type: RegisteredSealProof,
    pub sector: SectorRef,
    /// Randomness that the replica is bound to.
    pub ticket: [u8; 32],
    /// Randomness that chose the challenges.
    pub seed: [u8; 32],
    /// Commitment to the sector's data.
    pub comm_d: [u8; 32],
    /// Commitment to the replica.
    pub comm_r: [u8; 32],
    pub proof: &'a [u8],
}

/// What a proof of spacetime claims: these sectors are still stored.
#[derive(Clone, Debug)]
pub struct PostClaim<'a> {
    pub proof: SealProof,
    pub sp: SpId,
    /// As the chain draws it; the verifier makes a field element of it.
    pub randomness: [u8; 32],
    /// Each once, in any order.
    pub sectors: &'a [PublicSector],
    pub post: &'a [u8],
}

/// A piece of a sector's data, in the order of the message.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub comm_p: [u8; 32],
    /// Power of two, padded bytes.
    pub padded_bytes: u64,
}

/// Cryptography that the miner actor and the judges of blocks ask for. Everything that is wrong with a proof is
/// `false`, as in the actor.
pub trait ProofVerifier: Send + Sync {
    fn verify_seal(&self, claim: &SealClaim<'_>) -> bool;

    fn verify_window_post(&self, claim: &PostClaim<'_>) -> bool;

    fn verify_winning_post(&self, claim: &PostClaim<'_>) -> bool;

    /// Which of `eligible` sectors an election asks for; none when nobody is eligible.
    fn winning_sector_indices(&self, proof: SealProof, sp: SpId, randomness: &[u8; 32], eligible: u64) -> Vec<u64>;

    /// Commitment to a sector that holds these pieces, filled up with zeros.
    ///
    /// # Errors
    /// A sentence, when the pieces do not fit into the sector.
    fn comm_d(&self, proof_type: RegisteredSealProof, pieces: &[Piece]) -> Result<[u8; 32], String>;
}

/// The real thing: filecoin-proofs, with the verifying keys of a parameter folder.
pub struct LibraryVerifier(());

impl LibraryVerifier {
    /// Verifier with the keys in `params`. Keys of test sizes are made there when they are missing
    /// (seconds for 2 KiB). A process has one such folder.
    ///
    /// # Errors
    /// When a key is missing and cannot be made, when one is damaged, or when this process already
    /// uses another folder.
    pub fn open(params: &Path, sizes: &[SealProof]) -> Result<LibraryVerifier, ParamsError> {
        params::use_dir(params)?;
        for &proof in sizes {
            params::ensure_verifying_keys(params, proof)?;
        }
        Ok(LibraryVerifier(()))
    }
}

impl ProofVerifier for LibraryVerifier {
    fn verify_seal(&self, claim: &SealClaim<'_>) -> bool {
        let SealClaim { proof_type, sector, ticket, seed, comm_d, comm_r, proof } = *claim;
        let Ok(seal_proof) = SealProof::from_number(proof_type.into()) else {
            tracing::warn!(%sector, "proofs of type {proof_type:?} are not verified by this chain");
            return false;
        };
        let input = VerifyInput { proof: seal_proof, sector, ticket, seed, comm_d, comm_r };
        curio_proofs::verify_seal(&input, proof).unwrap_or_else(|error| {
            tracing::error!(%sector, error = &error as &dyn std::error::Error, "a proof could not be verified");
            false
        })
    }

    fn verify_window_post(&self, claim: &PostClaim<'_>) -> bool {
        let PostClaim { proof, sp, ref randomness, sectors, post } = *claim;
        post_holds(sp, curio_proofs::verify_window_post(proof, sp, randomness, sectors, post))
    }

    fn verify_winning_post(&self, claim: &PostClaim<'_>) -> bool {
        let PostClaim { proof, sp, ref randomness, sectors, post } = *claim;
        post_holds(sp, curio_proofs::verify_winning_post(proof, sp, randomness, sectors, post))
    }

    fn winning_sector_indices(&self, proof: SealProof, sp: SpId, randomness: &[u8; 32], eligible: u64) -> Vec<u64> {
        if eligible == 0 {
            return Vec::new();
        }
        curio_proofs::winning_sector_indices(proof, sp, randomness, eligible).unwrap_or_else(|error| {
            tracing::error!(%sp, error = &error as &dyn std::error::Error, "a sector could not be elected");
            Vec::new()
        })
    }

    fn comm_d(&self, proof_type: RegisteredSealProof, pieces: &[Piece]) -> Result<[u8; 32], String> {
        let seal_proof = SealProof::from_number(proof_type.into()).map_err(|error| error.to_string())?;
        let pieces: Vec<PieceSpec> =
            pieces.iter().map(|piece| PieceSpec { comm_p: piece.comm_p, padded_size: piece.padded_bytes }).collect();
        curio_proofs::comm_d(seal_proof, &pieces).map_err(|error| error.to_string())
    }
}

/// A proof that cannot be verified is refused, and said why.
fn post_holds(sp: SpId, verified: Result<bool, ProofError>) -> bool {
    verified.unwrap_or_else(|error| {
        tracing::error!(%sp, error = &error as &dyn std::error::Error, "a proof of spacetime could not be verified");
        false
    })
}
