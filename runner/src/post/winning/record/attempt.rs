//! What an attempt writes about its election, each under the claim of its task.

use curio_chain::types::{BlockMsg, TipSet};
use curio_core::{Epoch, Failure, SpId};
use curio_harmony::{Claim, TaskId, Tx, TxError};
use serde_json::Value;

use super::{Lost, close_older, free_parents, id, texts};

/// Stores that the election was won, before anything is signed for it. False when it was decided otherwise meanwhile.
///
/// # Errors
/// As [`Claim::store`].
pub async fn win(claim: &Claim) -> Result<bool, Failure> {
    let task = claim.task().0;
    claim
        .store("election won", move |tx| {
            Box::pin(async move {
                let done = sqlx::query!(
                    "UPDATE mining_tasks SET won = TRUE
                     WHERE task_id = $1 AND lost_because IS NULL AND mined_block IS NULL",
                    task
                )
                .execute(&mut *tx)
                .await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
}

/// Stores that no block comes of the election. Other elections may be held on its parents then.
///
/// # Errors
/// As [`Claim::store`].
pub async fn lose(claim: &Claim, because: Lost) -> Result<(), Failure> {
    let task = claim.task().0;
    claim
        .store("election lost", move |tx| {
            Box::pin(async move {
                let done = sqlx::query!(
                    "UPDATE mining_tasks SET lost_because = $2
                     WHERE task_id = $1 AND lost_because IS NULL AND mined_block IS NULL",
                    task,
                    because.as_str()
                )
                .execute(&mut *tx)
                .await?;
                if done.rows_affected() == 1 {
                    free_parents(tx, task).await?;
                }
                Ok(())
            })
        })
        .await
}

/// A block to be stored.
#[derive(Clone, Debug)]
pub struct Made {
    pub sp: SpId,
    pub epoch: Epoch,
    /// Height of its base.
    pub height: Epoch,
    pub cid: String,
    pub parents: Vec<String>,
    pub json: Value,
}

impl Made {
    pub fn on(base: &TipSet, sp: SpId, block: &BlockMsg) -> Made {
        Made {
            sp,
            epoch: block.header.height,
            height: base.height,
            cid: block.header.cid().to_string(),
            parents: texts(&block.header.parents),
            json: serde_json::to_value(block).expect("a block came as JSON and goes as JSON"),
        }
    }
}

/// What came of storing a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// From here on no other block can come of this election.
    Stored,
    /// The election is over, or has a block already.
    Decided,
    /// The miner has made another block meanwhile that this one would be beside, and not on top of.
    Beside,
}

/// Stores the block that is going to be submitted.
///
/// # Errors
/// As [`Claim::store`].
pub async fn keep_block(claim: &Claim, made: Made) -> Result<Kept, Failure> {
    let task = claim.task();
    claim
        .store("block made", move |tx| {
            let made = made.clone();
            Box::pin(async move { keep_in(tx, task, &made).await })
        })
        .await
}

/// [`keep_block`] in a transaction of the caller's.
///
/// Machines whose heads differ may have asked for two elections in either order, so that what was true at the asking is
/// asked again here, where it counts.
///
/// # Errors
/// Database trouble.
pub async fn keep_in(tx: &mut Tx, task: TaskId, made: &Made) -> Result<Kept, TxError> {
    let Made { sp, epoch, height, cid, parents, json } = made;
    let others = lock_from(tx, id(*sp), *height).await?;
    if others.iter().any(|(other, block)| is_beside(*other, block, *epoch, *height, parents)) {
        return Ok(Kept::Beside);
    }
    close_older(tx, id(*sp), *height).await?;
    let done = sqlx::query!(
        "UPDATE mining_tasks SET mined_cid = $2, mined_block = $3, mined_at = now()
         WHERE task_id = $1 AND won AND lost_because IS NULL AND mined_block IS NULL",
        task.0,
        cid,
        json
    )
    .execute(&mut *tx)
    .await?;
    Ok(if done.rows_affected() == 1 { Kept::Stored } else { Kept::Decided })
}

/// Epochs and blocks of the miner's elections from this epoch on, of those that have a block. All of them are locked, the
/// earliest first: whoever stores a block at the same time waits, and sees what was stored here.
async fn lock_from(tx: &mut Tx, sp: i64, from: Epoch) -> Result<Vec<(Epoch, String)>, TxError> {
    let rows = sqlx::query!(
        "SELECT epoch, mined_cid FROM mining_tasks WHERE sp_id = $1 AND epoch >= $2 ORDER BY epoch FOR UPDATE",
        sp,
        from.0
    )
    .fetch_all(&mut *tx)
    .await?;
    Ok(rows.into_iter().filter_map(|row| Some((Epoch(row.epoch), row.mined_cid?))).collect())
}

/// Whether another block of the miner forbids one for `epoch` on a base of this height. It must be on top of the one for the
/// base's epoch; and a later one would be on a base without it.
fn is_beside(other: Epoch, block: &str, epoch: Epoch, height: Epoch, parents: &[String]) -> bool {
    other > epoch || (other == height && parents.iter().all(|parent| parent != block))
}

/// Whether the row holds this very block for submission, under the claim: the last look before it leaves.
///
/// # Errors
/// As [`Claim::store`].
pub async fn is_to_be_submitted(claim: &Claim, block: &BlockMsg) -> Result<bool, Failure> {
    let (task, cid) = (claim.task().0, block.header.cid().to_string());
    claim
        .store("block about to be submitted", move |tx| {
            let cid = cid.clone();
            Box::pin(async move {
                let row = sqlx::query_scalar!(
                    "SELECT task_id FROM mining_tasks
                     WHERE task_id = $1 AND mined_cid = $2 AND lost_because IS NULL AND submitted_at IS NULL",
                    task,
                    cid
                )
                .fetch_optional(&mut *tx)
                .await?;
                Ok(row.is_some())
            })
        })
        .await
}

/// Stores that the node took the block.
///
/// # Errors
/// As [`Claim::store`].
pub async fn submitted(claim: &Claim) -> Result<(), Failure> {
    let task = claim.task().0;
    claim
        .store("block submitted", move |tx| {
            Box::pin(async move {
                sqlx::query!(
                    "UPDATE mining_tasks SET submitted_at = now() WHERE task_id = $1 AND submitted_at IS NULL",
                    task
                )
                .execute(&mut *tx)
                .await?;
                Ok(())
            })
        })
        .await
}

/// Stores that the block will not be submitted any more. It counts as made for ever: its parents stay taken.
///
/// # Errors
/// As [`Claim::store`].
pub async fn drop_block(claim: &Claim, because: Lost) -> Result<(), Failure> {
    let task = claim.task().0;
    claim
        .store("block dropped", move |tx| {
            Box::pin(async move {
                sqlx::query!(
                    "UPDATE mining_tasks SET lost_because = $2
                     WHERE task_id = $1 AND lost_because IS NULL AND submitted_at IS NULL",
                    task,
                    because.as_str()
                )
                .execute(&mut *tx)
                .await?;
                Ok(())
            })
        })
        .await
}
