//! What an attempt writes about its election, each under the claim of its task.

use curio_chain::types::BlockMsg;
use curio_core::Failure;
use curio_harmony::Claim;

use super::{Lost, free_parents};

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

/// Stores the block that is going to be submitted. From here on no other block can come of this election. False when there is
/// one already, or the election is over.
///
/// # Errors
/// As [`Claim::store`].
pub async fn keep_block(claim: &Claim, block: &BlockMsg) -> Result<bool, Failure> {
    let (task, cid) = (claim.task().0, block.header.cid().to_string());
    let json = serde_json::to_value(block).expect("a block came as JSON and goes as JSON");
    claim
        .store("block made", move |tx| {
            let (cid, json) = (cid.clone(), json.clone());
            Box::pin(async move {
                let done = sqlx::query!(
                    "UPDATE mining_tasks SET mined_cid = $2, mined_block = $3, mined_at = now()
                     WHERE task_id = $1 AND won AND lost_because IS NULL AND mined_block IS NULL",
                    task,
                    cid,
                    json
                )
                .execute(&mut *tx)
                .await?;
                Ok(done.rows_affected() == 1)
            })
        })
        .await
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
