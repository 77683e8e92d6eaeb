//! What the messages of window PoSts came to: landed, or asked for again while the window is open; and which windows
//! closed without a proof.

use std::collections::BTreeMap;

use curio_chain::address::id_address;
use curio_chain::types::TipSet;
use curio_core::epoch::{CHAIN_FINALITY, EpochDelta};
use curio_core::{Classify, Epoch, Failure, SpId};
use curio_harmony::{DbError, Tx, TxError};
use tracing::{info, warn};

use super::{Window, first_landing};
use crate::deps::Deps;
use crate::post::ask::AskError;
use crate::post::columns::to_columns;
use crate::post::sent::{Fate, fates};
use crate::storage::from_column;

/// Epochs beyond the message confidence before a window without a result counts as missed: the result of a message
/// of its last epoch is in the tipset after it.
const RESULT_EPOCHS: EpochDelta = 2;

/// A message on its way, with the partitions that it carries.
#[derive(Clone, Debug)]
struct Carried {
    window: Window,
    /// First epoch that is too late.
    close: Epoch,
    partitions: Vec<u64>,
}

/// Acts on the answers to messages of window PoSts.
///
/// # Errors
/// Chain or database away, or the first of those about one miner: the answers stay, and the next head acts on them.
pub async fn settle(deps: &Deps, head: &TipSet) -> Result<(), Failure> {
    let carried = on_their_way(deps, head.height - CHAIN_FINALITY).await?;
    let ids: Vec<i64> = carried.keys().copied().collect();
    let fates = fates(&deps.db, &ids).await?;
    let mut first = Ok(());
    for (send_id, message) in carried {
        let acted = match fates.get(&send_id) {
            Some(Fate::Landed(epoch)) => landed(deps, &message, &message.partitions, *epoch).await,
            Some(Fate::Failed(why)) => failed(deps, head, send_id, &message, why).await,
            Some(Fate::Pending) | None => Ok(()),
        };
        // One miner's trouble must not keep the answers of the others.
        first = first.and(acted);
    }
    first
}

/// Those of windows that closed after `since`; what has no answer long after is not asked for again.
async fn on_their_way(deps: &Deps, since: Epoch) -> Result<BTreeMap<i64, Carried>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT send_id AS "send_id!", sp_id, proving_period_start, deadline, partition, submit_by_epoch
           FROM wdpost_proofs
           WHERE landed_epoch IS NULL AND send_id IS NOT NULL AND error = '' AND submit_by_epoch > $1
           ORDER BY send_id, partition"#,
        since.0
    )
    .fetch_all(deps.db.pool())
    .await?;
    let mut carried: BTreeMap<i64, Carried> = BTreeMap::new();
    for row in rows {
        let sp = SpId(from_column(row.sp_id));
        let (period_start, deadline) = (Epoch(row.proving_period_start), from_column(row.deadline));
        let message = carried.entry(row.send_id).or_insert_with(|| Carried {
            window: Window { sp, period_start, deadline },
            close: Epoch(row.submit_by_epoch),
            partitions: Vec::new(),
        });
        message.partitions.push(from_column(row.partition));
    }
    Ok(carried)
}

async fn landed(deps: &Deps, message: &Carried, partitions: &[u64], epoch: Epoch) -> Result<(), Failure> {
    let (window, partitions) = (message.window, partitions.to_vec());
    let numbers = to_columns(&partitions);
    let changed = deps
        .db
        .transaction("window PoSt landed", move |tx| {
            let numbers = numbers.clone();
            Box::pin(async move { note_landed(tx, window, &numbers, epoch).await })
        })
        .await
        .map_err(Classify::classify)?;
    if changed > 0 {
        info!(sp = %window.sp, deadline = window.deadline, epoch = epoch.0,
            "the chain took the proofs of partitions {partitions:?} of {window} at epoch {epoch}");
    }
    Ok(())
}

async fn note_landed(tx: &mut Tx, window: Window, partitions: &[i64], epoch: Epoch) -> Result<u64, TxError> {
    let (sp, period, deadline) = window.columns();
    let done = sqlx::query!(
        "UPDATE wdpost_proofs SET landed_epoch = $5
         WHERE sp_id = $1 AND proving_period_start = $2 AND deadline = $3 AND partition = ANY ($4) AND landed_epoch IS NULL",
        sp,
        period,
        deadline,
        partitions,
        epoch.0
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "UPDATE wdpost_partition_tasks SET outcome = 'landed'
         WHERE sp_id = $1 AND proving_period_start = $2 AND deadline_index = $3 AND partition_index = ANY ($4)",
        sp,
        period,
        deadline,
        partitions
    )
    .execute(&mut *tx)
    .await?;
    Ok(done.rows_affected())
}

/// The message came to nothing. While the window is open the chain is asked whether it has the proofs by another
/// message; what it does not have is sent again.
async fn failed(deps: &Deps, head: &TipSet, send_id: i64, message: &Carried, why: &str) -> Result<(), Failure> {
    let Carried { window, close, partitions } = message;
    warn!(sp = %window.sp, deadline = window.deadline,
        "the message with partitions {partitions:?} of {window} came to nothing: {why}");
    if head.height < *close {
        let submitted = deps.chain.state_miner_deadlines(&id_address(window.sp), head.key()).await;
        let submitted = submitted.map_err(AskError::about("the submissions", window.sp))?;
        let submitted = usize::try_from(window.deadline).ok().and_then(|index| submitted.get(index));
        let is_done = |partition: &u64| submitted.is_some_and(|deadline| deadline.post_submissions.get(*partition));
        let done: Vec<u64> = partitions.iter().copied().filter(is_done).collect();
        if !done.is_empty() {
            landed(deps, message, &done, head.height).await?;
        }
    }
    match first_landing(head.height) < *close {
        true => send_again(deps, send_id).await,
        false => note_failed(deps, send_id, why).await,
    }
}

/// Leaves the reason with the proofs; their window is over.
async fn note_failed(deps: &Deps, send_id: i64, why: &str) -> Result<(), Failure> {
    sqlx::query!(
        "UPDATE wdpost_proofs SET error = $2 WHERE send_id = $1 AND landed_epoch IS NULL AND error = ''",
        send_id,
        why
    )
    .execute(deps.db.pool())
    .await
    .map_err(DbError::from)?;
    Ok(())
}

async fn send_again(deps: &Deps, send_id: i64) -> Result<(), Failure> {
    sqlx::query!(
        "UPDATE wdpost_proofs
         SET send_id = NULL, submit_task_id = NULL, message_generation = message_generation + 1
         WHERE send_id = $1 AND landed_epoch IS NULL",
        send_id
    )
    .execute(deps.db.pool())
    .await
    .map_err(DbError::from)?;
    Ok(())
}

/// Counts windows that closed without a result, once among all runners.
///
/// # Errors
/// Database trouble.
pub async fn close_windows(deps: &Deps, head: Epoch) -> Result<(), Failure> {
    let over = head - EpochDelta::from(deps.config.chain.message_confidence) - RESULT_EPOCHS;
    let missed = sqlx::query!(
        "UPDATE wdpost_partition_tasks SET outcome = 'missed'
         WHERE outcome IS NULL AND close_epoch <= $1
         RETURNING sp_id, deadline_index, partition_index",
        over.0
    )
    .fetch_all(deps.db.pool())
    .await
    .map_err(DbError::from)?;
    for row in missed {
        let sp = SpId(from_column(row.sp_id));
        warn!(sp = %sp, deadline = row.deadline_index, partition = row.partition_index,
            "partition {} of deadline {} of {sp} was not proven in its window", row.partition_index, row.deadline_index);
        deps.post_counters.count(|counts| *counts.missed.entry(sp).or_default() += 1);
    }
    Ok(())
}
