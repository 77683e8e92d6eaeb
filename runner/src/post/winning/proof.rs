//! The winning PoSt: that the sectors which the election names are here.

use std::time::Duration;

use curio_chain::message::{NotACommitment, comm_r};
use curio_chain::types::{ExtendedSectorInfo, PoStProof};
use curio_core::config::Proving;
use curio_core::{Classify, Failure, SealProof, SectorRef, SpId};
use curio_proofs::child::{Request, Response};
use curio_proofs::{PostKind, PublicSector, Snark, winning_challenges};
use tokio_util::sync::CancellationToken;

use crate::prove::{ProveError, Prover};
use crate::storage::Storage;
use crate::storage::posts::{ChallengedSector, PostLimits, VanillaPosts};

/// Longest that sectors are read for a winning PoSt where epochs are shorter than this; otherwise it is the time between epochs.
const MIN_PATIENCE: Duration = Duration::from_secs(10);

/// What proofs are made with.
#[derive(Clone, Copy)]
pub struct Tools<'a> {
    pub storage: &'a Storage,
    pub prover: &'a Prover,
    pub snark: Snark,
    pub proving: &'a Proving,
    pub block_delay: Duration,
}

/// No winning PoSt.
#[derive(Debug, thiserror::Error)]
pub enum WinningPostError {
    #[error("the chain names sectors of {size} bytes for {sp}; that is no size of ours")]
    Size { sp: SpId, size: u64 },
    #[error("failed to read the sealed CID that the chain has of sector {sector}")]
    Commitment {
        sector: SectorRef,
        #[source]
        source: Box<NotACommitment>,
    },
    #[error("failed to choose the challenges of a winning PoSt of {sp}")]
    Challenges {
        sp: SpId,
        #[source]
        source: curio_proofs::ProofError,
    },
    #[error("no winning PoSt of {sp}: sector {sector} cannot be read: {why}")]
    Sector { sp: SpId, sector: SectorRef, why: String },
    #[error("the winning PoSt just made for {sp} does not verify")]
    DoesNotVerify { sp: SpId },
}

impl Classify for WinningPostError {
    fn classify(self) -> Failure {
        match self {
            WinningPostError::Size { .. } | WinningPostError::Commitment { .. } => {
                Failure::Permanent { reason: "bad-sector", cause: Box::new(self) }
            }
            WinningPostError::Challenges { .. }
            | WinningPostError::Sector { .. }
            | WinningPostError::DoesNotVerify { .. } => Failure::Retry(Box::new(self)),
        }
    }
}

/// The proof type of a miner's sectors.
///
/// # Errors
/// [`WinningPostError::Size`].
pub fn of_size(sp: SpId, size: u64) -> Result<SealProof, WinningPostError> {
    SealProof::of_sector_size(size).ok_or(WinningPostError::Size { sp, size })
}

/// Makes the proof and verifies it as the chain will.
///
/// # Errors
/// A sector that cannot be read, or proofs that fail.
pub async fn winning_post(
    tools: Tools<'_>,
    sp: SpId,
    proof: SealProof,
    randomness: [u8; 32],
    sectors: &[ExtendedSectorInfo],
    cancelled: &CancellationToken,
) -> Result<PoStProof, Failure> {
    let public = sectors.iter().map(|sector| public(sp, sector)).collect::<Result<Vec<_>, _>>()?;
    let vanilla = vanilla(tools, sp, proof, &randomness, &public, cancelled).await?;
    let request = Request::WinningPost { proof, sp, randomness, vanilla, snark: tools.snark };
    let Response::WinningPost { post } = tools.prover.call(&request, cancelled).await? else {
        return Err(ProveError::Unexpected("something else than a winning PoSt").into());
    };
    let request = Request::VerifyWinningPost { proof, sp, randomness, sectors: public, post: post.clone() };
    match tools.prover.call(&request, cancelled).await? {
        Response::Verify { valid: true } => Ok(PoStProof { post_proof: proof.winning_post(), proof_bytes: post }),
        _ => Err(WinningPostError::DoesNotVerify { sp }.into()),
    }
}

fn public(sp: SpId, sector: &ExtendedSectorInfo) -> Result<PublicSector, WinningPostError> {
    let number = sector.sector_number;
    let commitment = comm_r(&sector.sealed_cid).map_err(|source| WinningPostError::Commitment {
        sector: SectorRef::new(sp, number),
        source: Box::new(source),
    })?;
    Ok(PublicSector { number, comm_r: commitment })
}

async fn vanilla(
    tools: Tools<'_>,
    sp: SpId,
    proof: SealProof,
    randomness: &[u8; 32],
    public: &[PublicSector],
    cancelled: &CancellationToken,
) -> Result<Vec<Vec<u8>>, Failure> {
    let numbers: Vec<u64> = public.iter().map(|sector| sector.number).collect();
    let mut challenges = winning_challenges(proof, sp, randomness, &numbers)
        .map_err(|source| WinningPostError::Challenges { sp, source })?;
    let sectors = public
        .iter()
        .map(|sector| ChallengedSector {
            number: sector.number,
            comm_r: sector.comm_r,
            challenges: challenges.remove(&sector.number).unwrap_or_default(),
        })
        .collect();
    let request = VanillaPosts { kind: PostKind::Winning, proof, sp, sectors };
    let limits = limits(tools.proving, tools.block_delay);
    let mut outcomes = tools.storage.vanilla_posts(tools.prover, &request, &limits, cancelled).await?;
    let vanilla = numbers.into_iter().map(|number| {
        let outcome = outcomes.remove(&number).unwrap_or_else(|| Err("nobody answered".to_owned()));
        outcome.map_err(|why| WinningPostError::Sector { sp, sector: SectorRef::new(sp, number), why })
    });
    Ok(vanilla.collect::<Result<_, _>>()?)
}

/// The configured limits, and never longer than the win is worth anything.
fn limits(proving: &Proving, block_delay: Duration) -> PostLimits {
    PostLimits::of(proving).within(block_delay.max(MIN_PATIENCE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_is_given_up_within_an_epoch_and_within_ten_seconds_on_short_ones() {
        let table = [(1, 5, 10), (30, 15, 30)];
        for (delay, single, whole) in table {
            let limits = limits(&Proving::default(), Duration::from_secs(delay));
            let expected = (Duration::from_secs(single), Duration::from_secs(whole));
            assert_eq!((limits.single, limits.whole), expected, "{delay} s");
        }
    }

    #[test]
    fn sectors_of_an_unknown_size_are_refused() {
        assert!(matches!(of_size(SpId(1000), 4096), Err(WinningPostError::Size { size: 4096, .. })));
        assert!(matches!(of_size(SpId(1000), 2048), Ok(SealProof::StackedDrg2KiBV1_1)));
    }
}
