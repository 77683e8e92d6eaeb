//! Proofs whose randomness a reorganisation changed are made anew.

use curio_chain::types::TipSetKey;
use curio_core::{Classify, Epoch, Failure};
use curio_harmony::{Tx, TxError, tasks};
use curio_pipeline::kind;
use tracing::warn;

use super::Window;
use crate::deps::Deps;
use crate::post::ask::AskError;

/// Compares the randomness of a window as the chain has it now with that of its stored proofs, and queues anew those
/// that answer another one. A proof whose message was asked for already is left alone: the chain refuses a message
/// that commits to another chain, and the proof comes back here by that.
///
/// # Errors
/// Chain or database away.
pub async fn where_changed(deps: &Deps, window: Window, challenge: Epoch, key: &TipSetKey) -> Result<(), Failure> {
    if !has_unsent(deps, window).await? {
        return Ok(());
    }
    let drawn = deps.chain.window_post_randomness(window.sp, challenge, key).await;
    let randomness = drawn.map_err(AskError::about("the randomness", window.sp))?;
    let remade = deps
        .db
        .transaction("remake window PoSts", move |tx| Box::pin(async move { in_tx(tx, window, &randomness).await }))
        .await
        .map_err(Classify::classify)?;
    note(deps, window, remade);
    Ok(())
}

/// Says and counts what [`in_tx`] did.
pub fn note(deps: &Deps, window: Window, remade: u64) {
    if remade > 0 {
        warn!(sp = %window.sp, deadline = window.deadline,
            "a reorganisation changed the randomness of {window}: {remade} proofs are made anew");
        deps.post_counters.count(|counts| *counts.remade.entry(window.sp).or_default() += remade);
    }
}

async fn has_unsent(deps: &Deps, window: Window) -> Result<bool, Failure> {
    let (sp, period, deadline) = window.columns();
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM wdpost_proofs
                          WHERE sp_id = $1 AND proving_period_start = $2 AND deadline = $3
                            AND proof IS NOT NULL AND send_id IS NULL AND landed_epoch IS NULL) AS "found!""#,
        sp,
        period,
        deadline
    )
    .fetch_one(deps.db.pool())
    .await
    .map_err(curio_harmony::DbError::from)?;
    Ok(found)
}

/// Queues the unsent proofs of a window anew that answer other randomness. Returns how many.
pub async fn in_tx(tx: &mut Tx, window: Window, randomness: &[u8; 32]) -> Result<u64, TxError> {
    let (sp, period, deadline) = window.columns();
    let stale = sqlx::query_scalar!(
        "UPDATE wdpost_proofs SET proof = NULL, submit_task_id = NULL, message_generation = message_generation + 1
         WHERE sp_id = $1 AND proving_period_start = $2 AND deadline = $3 AND challenge_rand <> $4
           AND proof IS NOT NULL AND send_id IS NULL AND landed_epoch IS NULL
         RETURNING partition",
        sp,
        period,
        deadline,
        &randomness[..]
    )
    .fetch_all(&mut *tx)
    .await?;
    for partition in &stale {
        let task = tasks::add(tx, kind::WD_POST).await?;
        sqlx::query!(
            "UPDATE wdpost_partition_tasks SET task_id = $5
             WHERE sp_id = $1 AND proving_period_start = $2 AND deadline_index = $3 AND partition_index = $4",
            sp,
            period,
            deadline,
            partition,
            task.0
        )
        .execute(&mut *tx)
        .await?;
    }
    Ok(stale.len() as u64)
}
