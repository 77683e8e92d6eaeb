//! WinPost: one election of one miner, and the block that it may win.
//!
//! Reads its row of `mining_tasks` and the base. Stores the win before anything is signed, and the signed block, checked against
//! what was asked for, before it is submitted. After a crash the next attempt goes on from what is stored: it
//! submits the identical block, or makes one when none was stored.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use curio_chain::address::id_address;
use curio_chain::election::{ticket_quality, winning_post_randomness};
use curio_chain::types::{BlockMsg, BlockTemplate, ElectionProof, MiningBaseInfo, PoStProof, TipSet};
use curio_core::resources::MIB;
use curio_core::{Classify, Epoch, Failure, Resources, SealProof, SpId};
use curio_harmony::{Backoff, Claim, Class, Spec, Task, TaskId, TaskName};
use curio_pipeline::kind;
use curio_proofs::params::Circuit;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

use super::block::{self, Wrong};
use super::elect;
use super::proof::{self, Tools};
use super::record::{self, Job, Kept, Lost, Made, Stage};
use super::refusal::Refusal;
use super::round::Pace;
use crate::deps::Deps;
use crate::post::ask::AskError;
use crate::seal::placement::limit;

/// Longest wait for the chain node before tasks are left to other machines: the engine gives nothing else out meanwhile.
const ANSWER: Duration = Duration::from_secs(2);

/// The task kind.
pub struct WinPost {
    deps: Deps,
    pace: Pace,
    /// Proof types of miners; they never change.
    proofs: Mutex<HashMap<SpId, SealProof>>,
}

#[derive(Debug, thiserror::Error)]
enum MineError {
    #[error(transparent)]
    Wrong(#[from] Wrong),
    #[error("the signature of the block just made for {sp} is not of its worker key; it is thrown away")]
    Signature { sp: SpId },
    #[error(
        "the block of {sp} for epoch {epoch} is due in {wait:?}, which is too far off: compare this machine's clock with the chain node's"
    )]
    Clock { sp: SpId, epoch: Epoch, wait: Duration },
}

impl Classify for MineError {
    fn classify(self) -> Failure {
        match self {
            MineError::Wrong(_) | MineError::Signature { .. } => Failure::Retry(Box::new(self)),
            MineError::Clock { .. } => Failure::Unavailable(Box::new(self)),
        }
    }
}

impl WinPost {
    pub fn new(deps: &Deps) -> WinPost {
        WinPost { deps: deps.clone(), pace: Pace::of(deps.network.block_delay), proofs: Mutex::default() }
    }

    /// Holds the election and makes the block; none when there is nothing to submit.
    async fn make(&self, claim: &Claim, job: &Job, chosen: Instant) -> Result<Option<BlockMsg>, Failure> {
        self.deps.fence.check().await?;
        if self.head(job.sp).await?.height > job.epoch {
            return self.lose(claim, job, Lost::Late).await;
        }
        let Job { sp, epoch, base, .. } = job;
        let chain = &self.deps.chain;
        let base = chain.chain_get_tip_set(base).await.map_err(AskError::about("the base of an election", *sp))?;
        let info = chain.miner_get_base_info(&id_address(*sp), *epoch, base.key()).await;
        let Some(info) =
            info.map_err(AskError::about("its part in an election", *sp))?.filter(|i| i.eligible_for_mining)
        else {
            return self.lose(claim, job, Lost::NotEligible).await;
        };
        let Some(draw) = elect::draw(chain, *sp, *epoch, &info).await? else {
            return self.lose(claim, job, Lost::NotWon).await;
        };
        if !self.note_win(claim, job, &draw).await? {
            return Ok(None);
        }
        self.deps.fault_pause.reached("WinPostWon", claim.cancelled()).await;
        let post = self.prove(claim, job, &info).await?;
        let head = self.look_again(claim, job, chosen).await?;
        if head.height > *epoch {
            return self.lose(claim, job, Lost::Late).await;
        }
        let timestamp = self.pace.timestamp(&base, *epoch);
        let base = block::without_dropped(&base, &head, &id_address(*sp));
        let block = self.sign(job, &base, info, draw, post, timestamp).await?;
        match record::keep_block(claim, Made::on(&base, *sp, &block)).await? {
            Kept::Stored => Ok(Some(block)),
            Kept::Decided => Ok(None),
            Kept::Beside => self.lose(claim, job, Lost::Late).await,
        }
    }

    async fn lose(&self, claim: &Claim, job: &Job, because: Lost) -> Result<Option<BlockMsg>, Failure> {
        let Job { sp, epoch, .. } = job;
        record::lose(claim, because).await?;
        match job.stage {
            Stage::Won => {
                warn!(miner = %sp, epoch = epoch.0, "the win of {sp} for epoch {epoch} is lost: {}", because.as_str());
            }
            Stage::Undecided | Stage::Made(_) | Stage::Over => {
                debug!(miner = %sp, epoch = epoch.0, "no block of {sp} for epoch {epoch}: {}", because.as_str());
            }
        }
        Ok(None)
    }

    /// Stores the win; false when somebody else decided the election.
    async fn note_win(&self, claim: &Claim, job: &Job, draw: &ElectionProof) -> Result<bool, Failure> {
        let Job { sp, epoch, .. } = job;
        if !record::win(claim).await? {
            return Ok(false);
        }
        // A later attempt at the same election finds the win stored.
        if matches!(job.stage, Stage::Undecided) {
            info!(miner = %sp, epoch = epoch.0, win_count = draw.win_count, "{sp} won the election for epoch {epoch}");
            self.deps.post_counters.count(|counts| *counts.wins.entry(*sp).or_default() += 1);
        }
        Ok(true)
    }

    async fn prove(&self, claim: &Claim, job: &Job, info: &MiningBaseInfo) -> Result<PoStProof, Failure> {
        let Deps { storage, prover, config, snark, network, .. } = &self.deps;
        let tools =
            Tools { storage, prover, snark: *snark, proving: &config.proving, block_delay: network.block_delay };
        let proof = proof::of_size(job.sp, info.sector_size)?;
        let randomness = winning_post_randomness(info.beacon(), job.epoch, job.sp);
        proof::winning_post(tools, job.sp, proof, randomness, &info.sectors, claim.cancelled()).await
    }

    /// The head, not sooner than a second block of somebody who signs two has had its time to arrive.
    async fn look_again(&self, claim: &Claim, job: &Job, chosen: Instant) -> Result<TipSet, Failure> {
        wait_until(chosen + self.pace.equivocation, claim).await?;
        self.head(job.sp).await
    }

    async fn head(&self, sp: SpId) -> Result<TipSet, Failure> {
        Ok(self.deps.chain.chain_head().await.map_err(AskError::about("the head, for a block", sp))?)
    }

    /// Has the node make and sign the block, and checks that it is the one asked for.
    async fn sign(
        &self,
        job: &Job,
        base: &TipSet,
        info: MiningBaseInfo,
        eproof: ElectionProof,
        post: PoStProof,
        timestamp: u64,
    ) -> Result<BlockMsg, Failure> {
        let Job { sp, epoch, .. } = job;
        let chain = &self.deps.chain;
        let ticket = elect::ticket(chain, *sp, *epoch, &info, base).await?;
        let messages = chain.mpool_select(base.key(), ticket_quality(&ticket)).await;
        let template = BlockTemplate {
            miner: id_address(*sp),
            parents: base.key().clone(),
            ticket,
            eproof,
            beacon_values: info.beacon_entries,
            messages: messages.map_err(AskError::about("messages for a block", *sp))?,
            epoch: *epoch,
            timestamp,
            winning_post_proof: vec![post],
        };
        let made = chain.miner_create_block(&template).await.map_err(AskError::about("a block", *sp))?;
        block::check(&template, &made).map_err(MineError::from)?;
        let signature = made.header.block_sig.as_ref().ok_or(MineError::Signature { sp: *sp })?;
        let verified = chain.wallet_verify(&info.worker_key, &made.header.signing_bytes(), signature).await;
        match verified.map_err(AskError::about("the check of a block's signature", *sp))? {
            true => Ok(made),
            false => Err(MineError::Signature { sp: *sp }.into()),
        }
    }

    /// Submits the stored block when its time has come.
    async fn submit(&self, claim: &Claim, job: &Job, block: &BlockMsg) -> Result<(), Failure> {
        let Job { sp, epoch, .. } = job;
        self.deps.fault_pause.reached("WinPost", claim.cancelled()).await;
        self.until_due(claim, job, block.header.timestamp).await?;
        if self.head(*sp).await?.height > *epoch {
            return self.drop_block(claim, job, Lost::Late).await;
        }
        self.deps.fence.check().await?;
        if !record::is_to_be_submitted(claim, block).await? {
            return Ok(());
        }
        let cid = block.header.cid();
        match self.deps.chain.sync_submit_block(block).await {
            Ok(()) => {
                info!(miner = %sp, epoch = epoch.0, block = %cid, "submitted block {cid} of {sp} for epoch {epoch}");
                record::submitted(claim).await
            }
            Err(error) => match Refusal::of(&error) {
                Refusal::Never => {
                    error!(miner = %sp, epoch = epoch.0, block = %cid, error = &error as &dyn std::error::Error,
                           "the chain node refuses block {cid} of {sp} for epoch {epoch}: it knows another one of this miner");
                    self.drop_block(claim, job, Lost::Refused).await
                }
                Refusal::TooEarly => Err(Failure::Unavailable(Box::new(error))),
                Refusal::Other => Err(AskError::about("the network to take a block", *sp)(error).into()),
            },
        }
    }

    async fn until_due(&self, claim: &Claim, job: &Job, timestamp: u64) -> Result<(), Failure> {
        let due = UNIX_EPOCH + Duration::from_secs(timestamp);
        let wait = due.duration_since(SystemTime::now()).unwrap_or_default();
        // An election begins after the epoch before its own has begun, so a block is due within an epoch.
        if wait > self.pace.block_delay * 2 {
            return Err(MineError::Clock { sp: job.sp, epoch: job.epoch, wait }.into());
        }
        wait_until(Instant::now() + wait, claim).await
    }

    async fn drop_block(&self, claim: &Claim, job: &Job, because: Lost) -> Result<(), Failure> {
        let Job { sp, epoch, .. } = job;
        warn!(miner = %sp, epoch = epoch.0, "the block of {sp} for epoch {epoch} is not submitted: {}", because.as_str());
        record::drop_block(claim, because).await
    }

    /// Whether the chain is beyond the epoch, or parameters are here and the chain node knows the base: nodes of one cluster may
    /// be on different forks.
    async fn can_end(&self, job: &Job) -> Result<bool, Failure> {
        if self.head(job.sp).await?.height > job.epoch {
            return Ok(true);
        }
        if !self.deps.parameters.is_ready(Circuit::WinningPost, self.proof_of(job.sp).await?) {
            return Ok(false);
        }
        match self.deps.chain.chain_get_tip_set(&job.base).await {
            Ok(_) => Ok(true),
            Err(error) if error.node_message().is_some() => Ok(false),
            Err(error) => Err(AskError::about("the base of an election", job.sp)(error).into()),
        }
    }

    async fn proof_of(&self, sp: SpId) -> Result<SealProof, Failure> {
        let known = || self.proofs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(proof) = known().get(&sp) {
            return Ok(*proof);
        }
        let info = self.deps.chain.miner_info(sp).await.map_err(AskError::about("the sector size", sp))?;
        let proof = proof::of_size(sp, info.sector_size)?;
        known().insert(sp, proof);
        Ok(proof)
    }
}

async fn wait_until(moment: Instant, claim: &Claim) -> Result<(), Failure> {
    let waited = claim.cancelled().run_until_cancelled(tokio::time::sleep_until(moment)).await;
    waited.ok_or(Failure::Stopping)
}

impl Task for WinPost {
    const NAME: TaskName = kind::WIN_POST;

    fn spec(&self) -> Spec {
        let ram_bytes = if self.deps.network.is_test() { 512 * MIB } else { 2048 * MIB };
        Spec {
            cost: Resources { cpu: 1, ram_bytes, gpu_milli: 0 },
            max_running: limit(self.deps.config.subsystems.winning_post_max_tasks),
            max_failures: Some(5),
            // There are seconds, not minutes; what the chain has passed is noticed by the attempt itself.
            backoff: Backoff::exponential(Duration::from_millis(200), Duration::from_secs(2)),
            class: Class::Deadline,
            // Nothing else is worth as much per second.
            order: u16::MAX,
            filtered: true,
            ..Spec::default()
        }
    }

    /// Those that an attempt here would end. One that it would only put back would be taken from a machine that can end it,
    /// again and again.
    async fn can_accept(&self, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        let mut accepted = Vec::new();
        if self.deps.fence.check().await.is_err() {
            return Ok(accepted);
        }
        for task in offered {
            let can_end = match record::of_task(&self.deps.db, *task).await? {
                Some(job) => match timeout(ANSWER, self.can_end(&job)).await {
                    Ok(can_end) => can_end?,
                    Err(_) => break,
                },
                None => true,
            };
            if can_end {
                accepted.push(*task);
            }
        }
        Ok(accepted)
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(job) = record::of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let now = Instant::now();
        let chosen = now.checked_sub(job.base_age).unwrap_or(now);
        let block = match &job.stage {
            Stage::Undecided | Stage::Won => self.make(claim, &job, chosen).await?,
            Stage::Made(block) => Some((**block).clone()),
            Stage::Over => None,
        };
        match block {
            Some(block) => self.submit(claim, &job, &block).await,
            None => Ok(()),
        }
    }
}
