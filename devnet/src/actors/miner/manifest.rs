//! The pieces that a prove-commit declares for a sector, and the data commitment that follows from them.

use cid::Cid;
use curio_chain::message::{comm_d, unsealed_cid};
use fil_actor_miner_state::v18::{CompactCommD, PieceActivationManifest};
use fvm_shared::sector::{RegisteredSealProof, SectorNumber};

use crate::proof::{Piece, ProofVerifier};
use crate::vm::abort::Abort;

/// Checks the declared pieces against the data commitment of the pre-commit; answers the bytes in
/// pieces (padded, fillers not counted).
pub(super) fn check_pieces(
    verifier: &dyn ProofVerifier,
    number: SectorNumber,
    seal_proof: RegisteredSealProof,
    pieces: &[PieceActivationManifest],
    declared: &CompactCommD,
) -> Result<u64, Abort> {
    // Claims and notifications need the verified registry and the market, which are not part of this chain.
    if let Some(piece) = pieces.iter().find(|piece| piece.verified_allocation_key.is_some()) {
        let text = format!("failed to claim allocation of piece {} in sector {number}: no allocations here", piece.cid);
        return Err(Abort::illegal_argument(text));
    }
    if pieces.iter().any(|piece| !piece.notify.is_empty()) {
        return Err(Abort::illegal_argument(format!("sector {number} notifies an actor that takes no notifications")));
    }
    let computed = match pieces.is_empty() {
        true => CompactCommD::empty(),
        false => CompactCommD::of(commitment(verifier, number, seal_proof, pieces)?),
    };
    let (computed, declared) = (computed.get_cid(seal_proof)?, declared.get_cid(seal_proof)?);
    match computed == declared {
        true => Ok(pieces.iter().map(|piece| piece.size.0).sum()),
        false => Err(Abort::illegal_argument(format!(
            "unsealed CID does not match pieces for sector {number}, computed {computed:?} declared {declared:?}"
        ))),
    }
}

fn commitment(
    verifier: &dyn ProofVerifier,
    number: SectorNumber,
    seal_proof: RegisteredSealProof,
    pieces: &[PieceActivationManifest],
) -> Result<Cid, Abort> {
    let failed = |why: String| {
        Abort::illegal_argument(format!("failed to compute unsealed sector CID of sector {number}: {why}"))
    };
    let pieces: Vec<Piece> = pieces
        .iter()
        .map(|piece| {
            piece.size.validate().map_err(|error| failed(error.to_owned()))?;
            let comm_p = comm_d(&piece.cid).map_err(|error| failed(error.to_string()))?;
            Ok(Piece { comm_p, padded_bytes: piece.size.0 })
        })
        .collect::<Result<_, Abort>>()?;
    verifier.comm_d(seal_proof, &pieces).map(|comm_d| unsealed_cid(&comm_d)).map_err(failed)
}
