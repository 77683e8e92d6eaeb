//! Creates the WdPost tasks of each window, from its challenge epoch on.
//!
//! Reads the deadlines and partitions of every miner of this cluster. Writes `wdpost_partition_tasks`: one row and one task
//! for each partition with something to prove. What may be in a window is settled before its challenge (the
//! fault cutoff lies ahead of it, and new sectors never enter the open or the next deadline), so a window that has
//! rows has all of them.

use std::collections::HashSet;

use curio_chain::address::id_address;
use curio_chain::types::{DeadlineInfo, TipSet};
use curio_core::epoch::EpochDelta;
use curio_core::{Classify, Epoch, Failure, SealProof, SpId};
use curio_harmony::{Tx, TxError, tasks};
use curio_pipeline::kind;
use futures::future::BoxFuture;
use tracing::info;

use super::{Window, remake, select};
use crate::chain_sched::{HeadHandler, HeadUpdate};
use crate::deps::Deps;
use crate::post::ask::AskError;
use crate::post::miners::{self, Troubles};
use crate::storage::to_column;

/// Rows are kept for this many proving periods, for whoever asks what happened.
const KEPT_PERIODS: EpochDelta = 30;

/// The handler.
pub struct Create {
    deps: Deps,
}

#[derive(Debug, thiserror::Error)]
#[error("{sp} has sectors of {bytes} bytes, which this program cannot prove")]
struct UnknownSize {
    sp: SpId,
    bytes: u64,
}

impl Classify for UnknownSize {
    fn classify(self) -> Failure {
        Failure::Permanent { reason: "sector-size", cause: Box::new(self) }
    }
}

impl Create {
    pub fn new(deps: &Deps) -> Create {
        Create { deps: deps.clone() }
    }

    async fn look(&self, update: &HeadUpdate) -> Result<(), Failure> {
        let mut troubles = Troubles::default();
        for sp in miners::of(&self.deps.db, &self.deps.config).await? {
            troubles.note(sp, self.look_at(sp, update).await);
        }
        troubles.into_result()
    }

    async fn look_at(&self, sp: SpId, update: &HeadUpdate) -> Result<(), Failure> {
        let head = &update.head;
        let (miner, about) = (id_address(sp), |what| AskError::about(what, sp));
        let chain = &self.deps.chain;
        let now = chain.state_miner_proving_deadline(&miner, head.key()).await.map_err(about("the deadlines"))?;
        // The answer of a node that has gone on meanwhile would be of another head.
        let now = now.seen_from(head.height);
        let mut first = Ok(());
        for deadline in now.provable() {
            // What goes wrong with one window must not keep the next from being proven.
            let looked = self.look_at_window(sp, &deadline, update).await;
            first = first.and(looked);
        }
        // For the metrics alone, and so after what has a deadline.
        let faulty =
            chain.state_miner_sector_count(&miner, head.key()).await.map_err(about("the sector count"))?.faulty;
        self.deps.post_counters.count(|counts| *counts.faulty_sectors.entry(sp).or_default() = faulty);
        first
    }

    async fn look_at_window(&self, sp: SpId, deadline: &DeadlineInfo, update: &HeadUpdate) -> Result<(), Failure> {
        let (window, head) = (Window::of(sp, deadline), &update.head);
        if !self.has_rows(window).await? {
            self.create(window, deadline, head).await
        } else if update.reverted_to.is_some() {
            remake::where_changed(&self.deps, window, deadline.challenge, head.key()).await
        } else {
            Ok(())
        }
    }

    async fn has_rows(&self, window: Window) -> Result<bool, Failure> {
        let (sp, period, deadline) = window.columns();
        let found = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM wdpost_partition_tasks
                              WHERE sp_id = $1 AND proving_period_start = $2 AND deadline_index = $3) AS "found!""#,
            sp,
            period,
            deadline
        )
        .fetch_one(self.deps.db.pool())
        .await
        .map_err(curio_harmony::DbError::from)?;
        Ok(found)
    }

    async fn create(&self, window: Window, deadline: &DeadlineInfo, head: &TipSet) -> Result<(), Failure> {
        let (sp, chain, miner) = (window.sp, &self.deps.chain, id_address(window.sp));
        let about = |what| AskError::about(what, sp);
        let partitions =
            chain.state_miner_partitions(&miner, deadline.index, head.key()).await.map_err(about("the partitions"))?;
        let mut due: Vec<u64> = (0..)
            .zip(&partitions)
            .filter(|(_, partition)| !select::to_prove(partition).is_empty())
            .map(|(index, _)| index)
            .collect();
        if deadline.is_open() && !due.is_empty() {
            // Proven already, by whoever proved for this miner before us.
            let deadlines = chain.state_miner_deadlines(&miner, head.key()).await.map_err(about("the submissions"))?;
            let done: HashSet<u64> = deadlines
                .get(deadline.index as usize)
                .map(|deadline| deadline.post_submissions.iter().collect())
                .unwrap_or_default();
            due.retain(|index| !done.contains(index));
        }
        if due.is_empty() {
            return Ok(());
        }
        let bytes = chain.state_miner_info(&miner, head.key()).await.map_err(about("the sector size"))?.sector_size;
        let proof = SealProof::of_sector_size(bytes).ok_or(UnknownSize { sp, bytes })?;
        let submit = deadline.submit_from(self.deps.config.proving.submit_confidence);
        let (deadline, partitions) = (*deadline, due.len());
        let created = self
            .deps
            .db
            .transaction("create window PoSt tasks", move |tx| {
                let due = due.clone();
                Box::pin(async move { insert(tx, (window, &deadline, submit), proof, &due).await })
            })
            .await;
        match created {
            Ok(()) => {
                info!(sp = %sp, deadline = window.deadline, "{partitions} partitions of {window} are to be proven until epoch {}", deadline.last());
                Ok(())
            }
            // Another runner saw the same head.
            Err(error) if error.is_unique_violation() => Ok(()),
            Err(error) => Err(error.classify()),
        }
    }
}

async fn insert(
    tx: &mut Tx,
    (window, deadline, submit): (Window, &DeadlineInfo, Epoch),
    proof: SealProof,
    partitions: &[u64],
) -> Result<(), TxError> {
    let (sp, period, index) = window.columns();
    let tasks = tasks::add_many(tx, kind::WD_POST, u32::try_from(partitions.len()).unwrap_or(u32::MAX)).await?;
    for (partition, task) in partitions.iter().zip(tasks) {
        sqlx::query!(
            "INSERT INTO wdpost_partition_tasks
                 (sp_id, proving_period_start, deadline_index, partition_index, task_id, reg_seal_proof,
                  challenge_epoch, open_epoch, submit_epoch, close_epoch)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            sp,
            period,
            index,
            to_column(*partition),
            task.0,
            proof.number() as i32,
            deadline.challenge.0,
            deadline.open.0,
            submit.0,
            deadline.close.0
        )
        .execute(&mut *tx)
        .await?;
    }
    let kept = deadline.period_start - KEPT_PERIODS * deadline.wpost_proving_period;
    sqlx::query!("DELETE FROM wdpost_partition_tasks WHERE sp_id = $1 AND proving_period_start < $2", sp, kept.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("DELETE FROM wdpost_proofs WHERE sp_id = $1 AND proving_period_start < $2", sp, kept.0)
        .execute(&mut *tx)
        .await?;
    sqlx::query!("DELETE FROM wdpost_recovery_tasks WHERE sp_id = $1 AND proving_period_start < $2", sp, kept.0)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

impl HeadHandler for Create {
    fn name(&self) -> &'static str {
        "wdpost-create"
    }

    fn on_head<'a>(&'a self, update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.look(update))
    }
}
