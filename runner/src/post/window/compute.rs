//! WdPost: proves one partition and stores the proof.
//!
//! Reads its row of `wdpost_partition_tasks`; writes the row of `wdpost_proofs`. Tried until the window closes, by any
//! machine that has the parameters; then it ends by itself, and nothing is stored.

use std::collections::HashMap;
use std::time::Duration;

use curio_core::resources::GIB;
use curio_core::{Classify, Epoch, Failure, Resources, SealProof, SpId};
use curio_harmony::{Backoff, Claim, Class, Db, DbError, Spec, Task, TaskId, TaskName, TxError};
use curio_pipeline::kind;
use curio_proofs::params::Circuit;
use tokio::time::Instant;
use tracing::{info, warn};

use super::prove::{PartitionProof, Patience, Question, Target, ask, prove};
use super::{Window, close, until_over};
use crate::deps::Deps;
use crate::post::ask::AskError;
use crate::post::columns::to_columns;
use crate::seal::placement::limit;
use crate::storage::{from_column, to_column};

/// The task kind.
pub struct WdPost {
    deps: Deps,
}

/// A row of `wdpost_partition_tasks`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Row {
    window: Window,
    partition: u64,
    challenge: Epoch,
    open: Epoch,
    /// First epoch that is too late.
    close: Epoch,
}

impl Row {
    fn target(&self) -> Target {
        let Row { window: Window { sp, deadline, .. }, partition, challenge, .. } = *self;
        Target { sp, deadline, partition, challenge }
    }
}

#[derive(Debug, thiserror::Error)]
enum WdPostError {
    #[error("the challenge epoch {challenge} is not reached at head {head}")]
    TooEarly { challenge: Epoch, head: Epoch },
    #[error("the window is over at head {head}: it closed at epoch {close}")]
    TooLate { close: Epoch, head: Epoch },
    #[error(
        "what the chain asks of {sp} changed {times} times while its proof was made; waiting for the chain to settle"
    )]
    Unsettled { sp: SpId, times: u32 },
}

impl Classify for WdPostError {
    fn classify(self) -> Failure {
        match self {
            // The next attempt ends the task.
            WdPostError::TooLate { .. } => Failure::Retry(Box::new(self)),
            WdPostError::TooEarly { .. } | WdPostError::Unsettled { .. } => Failure::Unavailable(Box::new(self)),
        }
    }
}

/// Proofs of one attempt; each further one answers another randomness.
const MOST_PROOFS: u32 = 3;

impl WdPost {
    pub fn new(deps: &Deps) -> WdPost {
        WdPost { deps: deps.clone() }
    }

    /// Proves and stores, over the randomness of a chain that may still change.
    async fn attempt(&self, claim: &Claim, row: Row) -> Result<(), Failure> {
        let mut question = self.question(row).await?;
        let patience = Patience { until: row.open, close: row.close };
        for _ in 0..MOST_PROOFS {
            if question.sectors.is_empty() {
                return self.store_nothing(claim, row).await;
            }
            let proof = prove(&self.deps, &question, patience, claim.cancelled()).await?;
            self.deps.fault_pause.reached("WdPostMade", claim.cancelled()).await;
            let now = self.question_again(claim, row).await?;
            if now.asks_the_same(&question) {
                return self.store(claim, row, &now, proof).await;
            }
            question = now;
            warn!(sp = %row.window.sp, deadline = row.window.deadline, partition = row.partition,
                "what the chain asks of {} changed while partition {} was proven; proving it anew", row.window, row.partition);
            self.deps.post_counters.count(|counts| *counts.remade.entry(row.window.sp).or_default() += 1);
        }
        Err(WdPostError::Unsettled { sp: row.window.sp, times: MOST_PROOFS }.into())
    }

    /// What is asked at the head, which must have reached the challenge and not the close.
    async fn question(&self, row: Row) -> Result<Question, Failure> {
        let head = self.deps.chain.chain_head().await.map_err(AskError::about("the head", row.window.sp))?;
        if head.height < row.challenge {
            return Err(WdPostError::TooEarly { challenge: row.challenge, head: head.height }.into());
        }
        if head.height >= row.close {
            return Err(WdPostError::TooLate { close: row.close, head: head.height }.into());
        }
        ask(&self.deps, row.target(), head.key()).await
    }

    /// [`WdPost::question`] for a proof that is made already: a chain node that is away, or has gone back, is waited for
    /// rather than the proof thrown away. Not longer than the whole window takes.
    async fn question_again(&self, claim: &Claim, row: Row) -> Result<Question, Failure> {
        let block_delay = self.deps.network.block_delay;
        let epochs = u32::try_from(row.close - row.challenge).unwrap_or_default();
        let give_up = Instant::now() + block_delay * epochs;
        loop {
            let failure = match self.question(row).await {
                Err(Failure::Unavailable(cause)) if Instant::now() < give_up => Failure::Unavailable(cause),
                outcome => return outcome,
            };
            info!(sp = %row.window.sp, deadline = row.window.deadline, partition = row.partition,
                "the proof of partition {} of {} is kept until the chain can be asked again: {failure}", row.partition, row.window);
            let pause = tokio::time::sleep(close::pause(block_delay));
            if claim.cancelled().run_until_cancelled(pause).await.is_none() {
                return Err(Failure::Stopping);
            }
        }
    }

    async fn store(&self, claim: &Claim, row: Row, question: &Question, proof: PartitionProof) -> Result<(), Failure> {
        let Row { window, partition, .. } = row;
        let PartitionProof { post, proven, skipped, recovering } = proof;
        let (sp, period, deadline) = window.columns();
        let task = claim.task().0;
        let (proven_numbers, skipped_numbers) =
            (to_columns(&proven), to_columns(&skipped.keys().copied().collect::<Vec<u64>>()));
        let (randomness, proof_type) = (question.randomness, question.proof.window_post());
        let machine = self.deps.machine.clone();
        let stored = claim
            .store("window PoSt made", move |tx| {
                let (post, proven, skipped, machine) =
                    (post.clone(), proven_numbers.clone(), skipped_numbers.clone(), machine.clone());
                Box::pin(async move {
                    // A row that names another task was queued anew meanwhile.
                    let done = sqlx::query!(
                        "INSERT INTO wdpost_proofs
                             (sp_id, proving_period_start, deadline, partition, challenge_epoch, challenge_rand,
                              submit_at_epoch, submit_by_epoch, post_proof_type, proof, proven_sectors, skipped_sectors,
                              recovering, made_by)
                         SELECT $1, $2, $3, $4, challenge_epoch, $5, submit_epoch, close_epoch, $6, $7, $8, $9, $10, $11
                         FROM wdpost_partition_tasks
                         WHERE sp_id = $1 AND proving_period_start = $2 AND deadline_index = $3 AND partition_index = $4
                           AND task_id = $12
                         ON CONFLICT (sp_id, proving_period_start, deadline, partition) DO UPDATE
                         SET challenge_rand = excluded.challenge_rand, proof = excluded.proof,
                             proven_sectors = excluded.proven_sectors, skipped_sectors = excluded.skipped_sectors,
                             recovering = excluded.recovering, made_at = now(), made_by = excluded.made_by
                         WHERE wdpost_proofs.proof IS NULL",
                        sp,
                        period,
                        deadline,
                        to_column(partition),
                        &randomness[..],
                        proof_type,
                        post,
                        &proven,
                        &skipped,
                        recovering,
                        &*machine,
                        task
                    )
                    .execute(&mut *tx)
                    .await?;
                    Ok(done.rows_affected())
                })
            })
            .await?;
        if stored == 0 {
            info!(sp = %window.sp, deadline = window.deadline, partition, "partition {partition} of {window} has a proof already");
            return Ok(());
        }
        for (number, sentence) in &skipped {
            warn!(sp = %window.sp, sector = number, "sector {number} of {} is left out of its proof and becomes faulty: {sentence}", window.sp);
        }
        info!(sp = %window.sp, deadline = window.deadline, partition, proven = proven.len(), skipped = skipped.len(),
            "partition {partition} of {window} is proven: {} sectors, {} left out", proven.len(), skipped.len());
        self.deps.post_counters.count(|counts| {
            *counts.proofs.entry(window.sp).or_default() += 1;
            *counts.skipped_sectors.entry(window.sp).or_default() += skipped.len() as u64;
        });
        Ok(())
    }

    /// Every sector of the partition is faulty or terminated by now.
    async fn store_nothing(&self, claim: &Claim, row: Row) -> Result<(), Failure> {
        let (task, window, partition) = (claim.task().0, row.window, row.partition);
        claim
            .store("no sector to prove", move |tx| {
                Box::pin(async move {
                    sqlx::query!("UPDATE wdpost_partition_tasks SET outcome = 'nothing' WHERE task_id = $1", task)
                        .execute(&mut *tx)
                        .await?;
                    Ok::<(), TxError>(())
                })
            })
            .await?;
        info!(sp = %window.sp, deadline = window.deadline, partition, "partition {partition} of {window} has no sector to prove");
        Ok(())
    }
}

impl Task for WdPost {
    const NAME: TaskName = kind::WD_POST;

    fn spec(&self) -> Spec {
        let cost = if self.deps.network.is_test() {
            Resources { cpu: 1, ram_bytes: GIB, gpu_milli: 0 }
        } else {
            Resources { cpu: 1, ram_bytes: 25 * GIB, gpu_milli: 1000 }
        };
        Spec {
            cost,
            max_running: limit(self.deps.config.subsystems.window_post_max_tasks),
            // Until the window closes: then the task ends itself.
            max_failures: None,
            backoff: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(15)),
            class: Class::Deadline,
            filtered: true,
            ..Spec::default()
        }
    }

    /// Those whose proof parameters are here, the window that closes first before others. Windows that are over are
    /// taken by anybody, to be ended.
    async fn can_accept(&self, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        let rows = offered_rows(&self.deps.db, offered).await?;
        let mut accepted: Vec<TaskId> = offered
            .iter()
            .filter(|task| {
                rows.get(task).is_none_or(|(_, proof)| self.deps.parameters.is_ready(Circuit::WindowPost, *proof))
            })
            .copied()
            .collect();
        accepted.sort_by_key(|task| rows.get(task).map(|(close, _)| *close));
        Ok(accepted)
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(row) = of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let head = self.deps.chain.chain_head().await.map_err(AskError::about("the head", row.window.sp))?;
        if head.height >= row.close {
            note_closed(row, head.height);
            return Ok(());
        }
        let closed = close::reached(&self.deps.chain, row.close, self.deps.network.block_delay);
        tokio::select! {
            head = closed => {
                note_closed(row, head);
                Ok(())
            }
            outcome = self.attempt(claim, row) => until_over(outcome),
        }
    }
}

fn note_closed(row: Row, head: Epoch) {
    let Row { window, partition, .. } = row;
    warn!(sp = %window.sp, deadline = window.deadline, partition,
        "{window} closed before partition {partition} was proven (head {head})");
}

async fn of_task(db: &Db, task: TaskId) -> Result<Option<Row>, DbError> {
    let row = sqlx::query!(
        "SELECT sp_id, proving_period_start, deadline_index, partition_index, challenge_epoch, open_epoch, close_epoch
         FROM wdpost_partition_tasks WHERE task_id = $1",
        task.0
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(row.map(|row| Row {
        window: Window {
            sp: SpId(from_column(row.sp_id)),
            period_start: Epoch(row.proving_period_start),
            deadline: from_column(row.deadline_index),
        },
        partition: from_column(row.partition_index),
        challenge: Epoch(row.challenge_epoch),
        open: Epoch(row.open_epoch),
        close: Epoch(row.close_epoch),
    }))
}

/// Close and proof of the tasks that prove something known.
async fn offered_rows(db: &Db, offered: &[TaskId]) -> Result<HashMap<TaskId, (Epoch, SealProof)>, DbError> {
    let ids: Vec<i64> = offered.iter().map(|task| task.0).collect();
    let rows = sqlx::query!(
        "SELECT task_id, close_epoch, reg_seal_proof FROM wdpost_partition_tasks WHERE task_id = ANY ($1)",
        &ids
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().filter_map(|row| {
        let proof = SealProof::from_number(row.reg_seal_proof.into()).ok()?;
        Some((TaskId(row.task_id), (Epoch(row.close_epoch), proof)))
    });
    Ok(rows.collect())
}
