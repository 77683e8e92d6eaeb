//! Creates the WdPostRecover tasks: before the fault cutoff of each window somebody looks at the files of its faulty
//! sectors, and at healthy ones whose files are nowhere.
//!
//! Writes `wdpost_recovery_tasks`: one row for each such partition; the partitions of one declaration share a task. A
//! partition is looked at again after a while, as long as the cutoff has not passed: a disk may come back in between.

use std::collections::BTreeMap;

use curio_chain::address::id_address;
use curio_chain::message::{MAX_PARTITIONS_PER_DECLARATION, MAX_SECTORS_PER_DECLARATION};
use curio_chain::types::{DeadlineInfo, Partition, TipSet};
use curio_core::epoch::EpochDelta;
use curio_core::{Classify, Epoch, Failure, SpId};
use curio_harmony::{Db, DbError, Tx, TxError, tasks};
use curio_pipeline::kind;
use futures::future::BoxFuture;
use tracing::debug;

use super::{Window, first_landing, select};
use crate::chain_sched::{HeadHandler, HeadUpdate};
use crate::deps::Deps;
use crate::post::ask::AskError;
use crate::post::columns::to_columns;
use crate::post::miners::{self, Troubles};
use crate::post::sent::{Fate, fates};
use crate::storage::{from_column, to_column};

/// How far ahead of its cutoff a window is looked at, in windows. One is too little: a task that begins late would have no
/// time left.
const WINDOWS_AHEAD: EpochDelta = 2;

/// A partition is looked at again after this part of a window.
const AGAIN_AFTER: EpochDelta = 4;

/// The handler.
pub struct Check {
    deps: Deps,
}

/// A partition that was looked at, or is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    task: i64,
    /// Head at which it was looked at; none before.
    checked: Option<Epoch>,
    /// Messages that were asked for.
    sends: Vec<i64>,
}

impl Check {
    pub fn new(deps: &Deps) -> Check {
        Check { deps: deps.clone() }
    }

    async fn look(&self, head: &TipSet) -> Result<(), Failure> {
        let mut troubles = Troubles::default();
        for sp in miners::of(&self.deps.db, &self.deps.config).await? {
            troubles.note(sp, self.look_at(sp, head).await);
        }
        troubles.into_result()
    }

    async fn look_at(&self, sp: SpId, head: &TipSet) -> Result<(), Failure> {
        let (chain, miner) = (&self.deps.chain, id_address(sp));
        let about = |what| AskError::about(what, sp);
        let now = chain.state_miner_proving_deadline(&miner, head.key()).await.map_err(about("the deadlines"))?;
        for deadline in before_cutoff(&now.seen_from(head.height)) {
            let partitions = chain.state_miner_partitions(&miner, deadline.index, head.key()).await;
            let partitions = partitions.map_err(about("the partitions"))?;
            self.look_at_deadline(sp, &deadline, &partitions).await?;
        }
        Ok(())
    }

    async fn look_at_deadline(
        &self,
        sp: SpId,
        deadline: &DeadlineInfo,
        partitions: &[Partition],
    ) -> Result<(), Failure> {
        let window = Window::of(sp, deadline);
        let mut wanted: Vec<u64> = Vec::new();
        for (index, partition) in (0..).zip(partitions) {
            let faulty = !select::to_recover(partition).is_empty();
            if faulty || !self.lost(sp, &select::healthy(partition)).await?.is_empty() {
                wanted.push(index);
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let known = known(&self.deps.db, window).await?;
        let sends: Vec<i64> = known.values().flat_map(|known| known.sends.clone()).collect();
        let fates = fates(&self.deps.db, &sends).await?;
        let pause = (deadline.wpost_challenge_window / AGAIN_AFTER).max(1);
        wanted.retain(|index| {
            known.get(index).is_none_or(|known| {
                let pending = known.sends.iter().any(|send| matches!(fates.get(send), Some(Fate::Pending)));
                is_due(known.checked, pending, deadline.current_epoch, pause)
            })
        });
        let configured = self.deps.config.proving.max_partitions_per_recovery_message;
        let largest = partitions.iter().map(|partition| partition.all_sectors.len()).max().unwrap_or_default();
        for batch in wanted.chunks(most_of_message(configured, largest)) {
            let batch = batch.iter().map(|index| (*index, known.get(index).map(|known| known.task))).collect();
            self.create(window, deadline.fault_cutoff, batch).await?;
        }
        Ok(())
    }

    async fn lost(&self, sp: SpId, healthy: &[u64]) -> Result<Vec<u64>, DbError> {
        if self.deps.config.proving.disable_wd_po_st_pre_checks {
            return Ok(Vec::new());
        }
        lost_among(&self.deps.db, sp, healthy).await
    }

    /// One task for these partitions; each comes with the task that it had before.
    async fn create(&self, window: Window, cutoff: Epoch, batch: Vec<(u64, Option<i64>)>) -> Result<(), Failure> {
        let count = batch.len();
        let created = self
            .deps
            .db
            .transaction("create recovery task", move |tx| {
                let batch = batch.clone();
                Box::pin(async move { insert(tx, window, cutoff, &batch).await })
            })
            .await;
        match created {
            Ok(()) => {
                debug!(sp = %window.sp, deadline = window.deadline, "{count} partitions of {window} are looked at before epoch {cutoff}");
                Ok(())
            }
            // Another runner saw the same head.
            Err(TxError::Rollback) => Ok(()),
            Err(error) => Err(error.classify()),
        }
    }
}

/// Partitions that one declaration may name: as configured (0 is no limit), and as many as the chain takes, which counts
/// their sectors, too. `largest` are the sectors of the largest.
fn most_of_message(configured: u32, largest: u64) -> usize {
    let configured = if configured == 0 { usize::MAX } else { configured as usize };
    let by_sectors = MAX_SECTORS_PER_DECLARATION / largest.max(1);
    configured.min(MAX_PARTITIONS_PER_DECLARATION).min(usize::try_from(by_sectors).unwrap_or(usize::MAX)).max(1)
}

/// The windows whose cutoff comes next, while a declaration can still land before it.
fn before_cutoff(now: &DeadlineInfo) -> impl Iterator<Item = DeadlineInfo> + use<> {
    let landing = first_landing(now.current_epoch);
    let until = now.current_epoch + WINDOWS_AHEAD * now.wpost_challenge_window;
    let is_next = move |deadline: &DeadlineInfo| {
        !deadline.seen_from(landing).fault_cutoff_passed() && deadline.fault_cutoff <= until
    };
    now.upcoming().filter(is_next)
}

/// Whether a partition that is known already is looked at once more.
fn is_due(checked: Option<Epoch>, pending: bool, now: Epoch, pause: EpochDelta) -> bool {
    checked.is_some_and(|checked| !pending && now - checked >= pause)
}

async fn known(db: &Db, window: Window) -> Result<BTreeMap<u64, Known>, DbError> {
    let (sp, period, deadline) = window.columns();
    let rows = sqlx::query!(
        "SELECT partition_index, task_id, checked_epoch, recover_send_id, fault_send_id FROM wdpost_recovery_tasks
         WHERE sp_id = $1 AND proving_period_start = $2 AND deadline_index = $3",
        sp,
        period,
        deadline
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().map(|row| {
        let sends = [row.recover_send_id, row.fault_send_id].into_iter().flatten().collect();
        (from_column(row.partition_index), Known { task: row.task_id, checked: row.checked_epoch.map(Epoch), sends })
    });
    Ok(rows.collect())
}

/// Sectors sealed here whose sealed file or cache is in no path's index, ascending: it was there, and was found gone. A
/// machine that is down keeps its place in the index.
pub(super) async fn lost_among(db: &Db, sp: SpId, sectors: &[u64]) -> Result<Vec<u64>, DbError> {
    let rows = sqlx::query_scalar!(
        "SELECT m.sector_num FROM sectors_meta m
         WHERE m.sp_id = $1 AND m.sector_num = ANY ($2) AND m.msg_cid_commit IS NOT NULL
           AND NOT EXISTS (SELECT FROM sectors_sdr_pipeline p
                           WHERE p.sp_id = m.sp_id AND p.sector_number = m.sector_num
                             AND NOT (p.after_commit_msg_success AND p.after_move_storage))
           AND (NOT EXISTS (SELECT FROM sector_location l
                            WHERE l.miner_id = $1 AND l.sector_num = m.sector_num AND l.sector_filetype = 2)
             OR NOT EXISTS (SELECT FROM sector_location l
                            WHERE l.miner_id = $1 AND l.sector_num = m.sector_num AND l.sector_filetype = 4))
         ORDER BY m.sector_num",
        to_column(sp.0),
        &to_columns(sectors)
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows.into_iter().map(from_column).collect())
}

/// Puts the partitions under one new task, all of them or none: each must be as it was read.
async fn insert(tx: &mut Tx, window: Window, cutoff: Epoch, batch: &[(u64, Option<i64>)]) -> Result<(), TxError> {
    let (sp, period, deadline) = window.columns();
    let task = tasks::add(tx, kind::WD_POST_RECOVER).await?;
    for (partition, before) in batch {
        let done = sqlx::query!(
            "INSERT INTO wdpost_recovery_tasks
                 (sp_id, proving_period_start, deadline_index, partition_index, task_id, fault_cutoff_epoch)
             VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (sp_id, proving_period_start, deadline_index, partition_index) DO UPDATE
             SET task_id = excluded.task_id, checked_epoch = NULL, recover_send_id = NULL, fault_send_id = NULL,
                 generation = wdpost_recovery_tasks.generation + 1
             WHERE wdpost_recovery_tasks.task_id = $7",
            sp,
            period,
            deadline,
            to_column(*partition),
            task.0,
            cutoff.0,
            *before
        )
        .execute(&mut *tx)
        .await?;
        if done.rows_affected() != 1 {
            return Err(TxError::Rollback);
        }
    }
    Ok(())
}

impl HeadHandler for Check {
    fn name(&self) -> &'static str {
        "wdpost-recover"
    }

    fn on_head<'a>(&'a self, update: &'a HeadUpdate) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(self.look(&update.head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declaration_names_no_more_than_the_chain_takes() {
        for (configured, largest, most) in
            [(0, 2349, 10), (0, 2300, 10), (4, 2349, 4), (0, 2, 3000), (0, 0, 3000), (0, 30_000, 1)]
        {
            assert_eq!(most_of_message(configured, largest), most, "{configured} configured, {largest} sectors");
        }
    }

    /// The open deadline of a period that starts at 0, on the public networks.
    fn seen_from(epoch: i64) -> DeadlineInfo {
        DeadlineInfo::of_public_networks(Epoch(0), epoch as u64 / 60, Epoch(epoch))
    }

    #[test]
    fn every_window_is_looked_at_for_two_windows_before_its_cutoff() {
        let looked_at = |epoch| before_cutoff(&seen_from(epoch)).map(|deadline| deadline.index).collect::<Vec<_>>();
        // Deadline 2 opens at 120 and is cut off at 50, deadline 3 at 110, deadline 4 at 170. A message of epoch 49 is
        // executed at epoch 50.
        let table: [(i64, &[u64]); 6] =
            [(0, &[2, 3]), (48, &[2, 3]), (49, &[3]), (50, &[3, 4]), (108, &[3, 4]), (110, &[4, 5])];
        for (epoch, expected) in table {
            assert_eq!(looked_at(epoch), expected, "epoch {epoch}");
        }
    }

    #[test]
    fn a_partition_is_looked_at_again_after_a_while_unless_its_message_is_on_the_way() {
        let table = [
            (None, false, 100, false),
            (Some(100), false, 100, false),
            (Some(100), false, 114, false),
            (Some(100), false, 115, true),
            (Some(100), true, 115, false),
        ];
        for (checked, pending, now, due) in table {
            assert_eq!(is_due(checked.map(Epoch), pending, Epoch(now), 15), due, "{checked:?}, {pending}, {now}");
        }
    }
}
