//! Judging proofs. The chain believes nothing: every proof in a message is verified by the library
//! with the verifying key of its sector size.

use std::path::Path;

use curio_core::{SealProof, SectorRef};
use curio_proofs::params::{self, ParamsError};
use curio_proofs::{PieceSpec, VerifyInput};
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

/// A piece of a sector's data, in the order of the message.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    pub comm_p: [u8; 32],
    /// Power of two, padded bytes.
    pub padded_bytes: u64,
}

/// Cryptography that the miner actor asks for.
pub trait ProofVerifier: Send + Sync {
    /// Whether the proof holds. Everything that is wrong with it is `false`, as in the actor.
    fn verify_seal(&self, claim: &SealClaim<'_>) -> bool;

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
            params::ensure_verifying_key(params, proof)?;
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

    fn comm_d(&self, proof_type: RegisteredSealProof, pieces: &[Piece]) -> Result<[u8; 32], String> {
        let seal_proof = SealProof::from_number(proof_type.into()).map_err(|error| error.to_string())?;
        let pieces: Vec<PieceSpec> =
            pieces.iter().map(|piece| PieceSpec { comm_p: piece.comm_p, padded_size: piece.padded_bytes }).collect();
        curio_proofs::comm_d(seal_proof, &pieces).map_err(|error| error.to_string())
    }
}
