//! Makes the window PoSt of one partition: randomness, challenges, vanilla proofs from wherever the files lie, SNARK here,
//! verified. Writes nothing: the task stores the result, and `curio test window-post` shows it.

use std::collections::BTreeMap;
use std::time::Duration;

use curio_chain::address::id_address;
use curio_chain::message::{NotACommitment, comm_r};
use curio_chain::types::{Partition, SectorOnChainInfo, TipSetKey};
use curio_core::epoch::EpochDelta;
use curio_core::{Classify, Epoch, Failure, SealProof, SpId};
use curio_proofs::child::{Request, Response};
use curio_proofs::{PostKind, ProofError, PublicSector};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::select;
use crate::deps::Deps;
use crate::post::ask::AskError;
use crate::prove::ProveError;
use crate::storage::{BlockingError, ChallengedSector, PostLimits, VanillaPosts, blocking};

/// A partition and the epoch whose randomness is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    pub sp: SpId,
    pub deadline: u64,
    pub partition: u64,
    pub challenge: Epoch,
}

/// What the chain asks of a partition.
#[derive(Clone, Debug)]
pub struct Question {
    pub target: Target,
    pub proof: SealProof,
    pub randomness: [u8; 32],
    /// Ascending by number; empty when there is nothing to prove.
    pub sectors: Vec<ChallengedSector>,
    partition: Partition,
}

impl Question {
    /// Whether a proof for the one is a proof for the other.
    pub fn asks_the_same(&self, other: &Question) -> bool {
        self.randomness == other.randomness && self.sectors == other.sectors
    }
}

/// How long sectors that cannot be read are waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// They are tried again until the head is here, as a storage machine may be starting anew.
    pub until: Epoch,
    /// The end of the window: no try takes so long that the others could not be proven any more.
    pub close: Epoch,
}

/// A verified window PoSt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionProof {
    pub post: Vec<u8>,
    /// Ascending, not empty.
    pub proven: Vec<u64>,
    /// Sectors left out, and why.
    pub skipped: BTreeMap<u64, String>,
    /// Whether sectors recover by it.
    pub recovering: bool,
}

#[derive(Debug, thiserror::Error)]
enum PartitionError {
    #[error("deadline {deadline} of {sp} has no partition {partition} at this head")]
    NoPartition { sp: SpId, deadline: u64, partition: u64 },
    #[error("the chain names {known} of {asked} sectors of partition {partition} of deadline {deadline} of {sp}")]
    UnknownSectors { sp: SpId, deadline: u64, partition: u64, asked: usize, known: usize },
    #[error("window PoSt {number} of {sp} is of a kind that this program cannot prove")]
    UnknownProof { sp: SpId, number: i64 },
    #[error("failed to read the sealed CID of sector {number} of {sp}")]
    Commitment {
        sp: SpId,
        number: u64,
        #[source]
        source: NotACommitment,
    },
    #[error("failed to choose the challenges of {sp}")]
    Challenges {
        sp: SpId,
        #[source]
        source: ProofError,
    },
    #[error(
        "none of the {count} sectors of partition {partition} of deadline {deadline} of {sp} can be read; sector {number}: {sentence}"
    )]
    AllBad { sp: SpId, deadline: u64, partition: u64, count: usize, number: u64, sentence: String },
    #[error("the window PoSt just made for partition {partition} of deadline {deadline} of {sp} does not verify")]
    DoesNotVerify { sp: SpId, deadline: u64, partition: u64 },
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

impl Classify for PartitionError {
    fn classify(self) -> Failure {
        match self {
            PartitionError::Blocking(error) => error.classify(),
            // Everything else may be different at the next head, or when a disk is back.
            error => Failure::Retry(Box::new(error)),
        }
    }
}

/// Asks the chain, on the tipset of `key`, what is to be proven.
///
/// # Errors
/// Chain away; a chain that does not know the partition or its sectors.
pub async fn ask(deps: &Deps, target: Target, key: &TipSetKey) -> Result<Question, Failure> {
    let Target { sp, deadline, partition: index, challenge } = target;
    let (chain, miner) = (&deps.chain, id_address(sp));
    let about = |what| AskError::about(what, sp);
    let number = chain.state_miner_info(&miner, key).await.map_err(about("the proof type"))?.window_po_st_proof_type;
    let proof = SealProof::of_window_post(number).ok_or(PartitionError::UnknownProof { sp, number })?;
    let partitions = chain.state_miner_partitions(&miner, deadline, key).await.map_err(about("the partitions"))?;
    let partition = usize::try_from(index).ok().and_then(|index| partitions.into_iter().nth(index));
    let partition = partition.ok_or(PartitionError::NoPartition { sp, deadline, partition: index })?;
    let wanted = select::to_prove(&partition);
    let randomness = chain.window_post_randomness(sp, challenge, key).await.map_err(about("the randomness"))?;
    if wanted.is_empty() {
        return Ok(Question { target, proof, randomness, sectors: Vec::new(), partition });
    }
    let infos = chain.state_miner_sectors(&miner, Some(&select::bits(&wanted)), key).await;
    let infos = infos.map_err(about("the sectors"))?;
    if infos.len() != wanted.len() {
        let (asked, known) = (wanted.len(), infos.len());
        return Err(PartitionError::UnknownSectors { sp, deadline, partition: index, asked, known }.into());
    }
    let sectors = challenged(sp, proof, randomness, infos).await?;
    Ok(Question { target, proof, randomness, sectors, partition })
}

/// The sectors with their challenges, ascending.
///
/// # Errors
/// A sector whose sealed CID is none; challenges that cannot be drawn.
pub async fn challenged(
    sp: SpId,
    proof: SealProof,
    randomness: [u8; 32],
    mut infos: Vec<SectorOnChainInfo>,
) -> Result<Vec<ChallengedSector>, Failure> {
    infos.sort_by_key(|info| info.sector_number);
    let numbers: Vec<u64> = infos.iter().map(|info| info.sector_number).collect();
    let drawn =
        blocking("choosing challenges", move || curio_proofs::window_challenges(proof, sp, &randomness, &numbers));
    let drawn = drawn.await.map_err(PartitionError::from)?;
    let mut challenges = drawn.map_err(|source| PartitionError::Challenges { sp, source })?;
    let mut sectors = Vec::with_capacity(infos.len());
    for info in &infos {
        let number = info.sector_number;
        let comm_r = comm_r(&info.sealed_cid).map_err(|source| PartitionError::Commitment { sp, number, source })?;
        sectors.push(ChallengedSector { number, comm_r, challenges: challenges.remove(&number).unwrap_or_default() });
    }
    Ok(sectors)
}

/// Epochs between two tries of sectors that cannot be read.
const RETRY_EPOCHS: u32 = 4;

/// The least time for reading, however soon the window closes: to start a process takes a busy machine seconds.
const LEAST_READING: Duration = Duration::from_secs(10);

/// Most time for reading when so many epochs are left: half of them, as the rest of the work takes its time, too.
pub fn reading_time(left: EpochDelta, block_delay: Duration) -> Duration {
    (block_delay * u32::try_from(left).unwrap_or_default() / 2).max(LEAST_READING)
}

/// Makes the proof. Sectors that cannot be read are left out when the patience is over.
///
/// # Errors
/// No sector at all can be read; a proof that does not verify; database away; [`Failure::Stopping`].
pub async fn prove(
    deps: &Deps,
    question: &Question,
    patience: Patience,
    cancelled: &CancellationToken,
) -> Result<PartitionProof, Failure> {
    let Question { target: Target { sp, deadline, partition, challenge: _ }, proof, randomness, sectors, .. } =
        question;
    let (sp, deadline, partition, proof, randomness) = (*sp, *deadline, *partition, *proof, *randomness);
    let (good, skipped) = read(deps, question, patience, cancelled).await?;
    if good.is_empty() {
        let (number, sentence) = skipped.into_iter().next().unwrap_or((0, "there is no sector".to_owned()));
        return Err(PartitionError::AllBad { sp, deadline, partition, count: sectors.len(), number, sentence }.into());
    }
    deps.fault_pause.reached("WdPost", cancelled).await;
    let (proven, vanilla): (Vec<u64>, Vec<Vec<u8>>) = good.into_iter().unzip();
    let request = Request::WindowPost { proof, sp, randomness, vanilla };
    let Response::WindowPost { post } = deps.prover.call(&request, cancelled).await? else {
        return Err(ProveError::Unexpected("something else than a window PoSt").into());
    };
    let public = sectors.iter().filter(|sector| proven.binary_search(&sector.number).is_ok());
    let public = public.map(|sector| PublicSector { number: sector.number, comm_r: sector.comm_r }).collect();
    let request = Request::VerifyWindowPost { proof, sp, randomness, sectors: public, post: post.clone() };
    match deps.prover.call(&request, cancelled).await? {
        Response::Verify { valid: true } => {}
        _ => return Err(PartitionError::DoesNotVerify { sp, deadline, partition }.into()),
    }
    let recovering = select::recovers(&question.partition, &proven);
    Ok(PartitionProof { post, proven, skipped, recovering })
}

/// Vanilla proofs, and for the other sectors a sentence each.
async fn read(
    deps: &Deps,
    question: &Question,
    patience: Patience,
    cancelled: &CancellationToken,
) -> Result<(BTreeMap<u64, Vec<u8>>, BTreeMap<u64, String>), Failure> {
    let Question { target, proof, sectors, .. } = question;
    let Patience { until, close } = patience;
    let (mut good, mut bad) = (BTreeMap::new(), BTreeMap::new());
    let mut open = sectors.clone();
    loop {
        let configured = PostLimits::of(&deps.config.proving);
        let limits = match deps.chain.chain_head().await {
            Ok(head) => configured.within(reading_time(close - head.height, deps.network.block_delay)),
            Err(_) => configured,
        };
        let request = VanillaPosts { kind: PostKind::Window, proof: *proof, sp: target.sp, sectors: open };
        let mut outcomes = deps.storage.vanilla_posts(&deps.prover, &request, &limits, cancelled).await?;
        // What is neither proven nor left out would make the proof one of another partition.
        for number in request.sectors.iter().map(|sector| sector.number) {
            match outcomes.remove(&number).unwrap_or_else(|| Err("nobody answered".to_owned())) {
                Ok(vanilla) => {
                    bad.remove(&number);
                    good.insert(number, vanilla);
                }
                Err(sentence) => drop(bad.insert(number, sentence)),
            }
        }
        // A chain that is away says nothing of the time: the rest must not wait for it.
        let may_wait = matches!(deps.chain.chain_head().await, Ok(head) if head.height < until);
        if bad.is_empty() || !may_wait {
            return Ok((good, bad));
        }
        if let Some((number, sentence)) = bad.first_key_value() {
            info!(sp = %target.sp, deadline = target.deadline, partition = target.partition,
                "{} sectors of partition {} of deadline {} of {} cannot be read, the first of them {number} ({sentence}); trying them again until epoch {until}",
                bad.len(), target.partition, target.deadline, target.sp);
        }
        let pause = tokio::time::sleep(deps.network.block_delay * RETRY_EPOCHS);
        if cancelled.run_until_cancelled(pause).await.is_none() {
            return Err(Failure::Stopping);
        }
        open = sectors.iter().filter(|sector| bad.contains_key(&sector.number)).cloned().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_takes_half_of_what_is_left_and_never_less_than_seconds() {
        let delay = Duration::from_secs(30);
        for (left, seconds) in [(80, 1200), (60, 900), (10, 150), (1, 15), (0, 10), (-3, 10)] {
            assert_eq!(reading_time(left, delay), Duration::from_secs(seconds), "{left} epochs");
        }
    }
}
