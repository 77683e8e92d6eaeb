//! Wins, some epochs later; and elections so old that nobody asks for them.

use curio_chain::Cid;
use curio_core::{Epoch, Failure, SpId};
use curio_harmony::{Db, DbError, TaskId, TxError, tasks};

use super::{Lost, RowError, cid};

/// A decided win of which nobody has looked yet whether its block is in the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlooked {
    pub task: TaskId,
    pub sp: SpId,
    pub epoch: Epoch,
    /// None when no block was made.
    pub block: Option<Cid>,
}

/// Wins of `before` and earlier that were not looked at, the oldest first, at most `limit`.
///
/// # Errors
/// Database trouble; a row that cannot be read.
pub async fn unlooked(db: &Db, before: Epoch, limit: i64) -> Result<Vec<Unlooked>, Failure> {
    let rows = sqlx::query!(
        "SELECT task_id, sp_id, epoch, mined_cid FROM mining_tasks
         WHERE won AND included IS NULL AND epoch <= $1 AND (mined_block IS NOT NULL OR lost_because IS NOT NULL)
         ORDER BY epoch LIMIT $2",
        before.0,
        limit
    )
    .fetch_all(db.pool())
    .await
    .map_err(DbError::from)?;
    let wins = rows.into_iter().map(|row| {
        let (sp, epoch) = (SpId(row.sp_id.unsigned_abs()), Epoch(row.epoch));
        let block = row.mined_cid.map(|text| cid(&text, RowError { sp, epoch, column: "mined_cid" })).transpose()?;
        Ok(Unlooked { task: TaskId(row.task_id), sp, epoch, block })
    });
    wins.collect()
}

/// Stores what was found, and answers why the win is lost if it is; none when another machine was faster. A task that could not
/// submit its block goes: why it failed is in the history.
///
/// # Errors
/// Database trouble.
pub async fn looked(db: &Db, win: &Unlooked, included: bool) -> Result<Option<Verdict>, TxError> {
    let task = win.task;
    db.transaction("look at a win", move |tx| {
        Box::pin(async move {
            let row = sqlx::query!(
                "UPDATE mining_tasks
                 SET included = $2, lost_because = CASE WHEN $2 THEN NULL ELSE coalesce(lost_because, $3) END
                 WHERE task_id = $1 AND included IS NULL
                 RETURNING lost_because",
                task.0,
                included,
                Lost::NotIncluded.as_str()
            )
            .fetch_optional(&mut *tx)
            .await?;
            tasks::remove_in(tx, task).await?;
            Ok(row.map(|row| match row.lost_because {
                None => Verdict::Included,
                Some(word) => Verdict::Lost(Lost::of(&word)),
            }))
        })
    })
    .await
}

/// What became of a win in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Included,
    Lost(Lost),
}

/// Forgets elections that were not won, of epochs before `before`. Wins are kept.
///
/// # Errors
/// Database trouble.
pub async fn prune(db: &Db, before: Epoch) -> Result<u64, DbError> {
    let done =
        sqlx::query!("DELETE FROM mining_tasks WHERE NOT won AND lost_because IS NOT NULL AND epoch < $1", before.0)
            .execute(db.pool())
            .await?;
    Ok(done.rows_affected())
}
