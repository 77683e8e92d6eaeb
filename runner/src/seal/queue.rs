//! Turning a ready stage into a task, and a vanished task into a ready stage. Every statement names the
//! state it expects, so any number of pollers may do this at once.

use curio_core::SectorRef;
use curio_harmony::{Db, TaskId, Tx, TxError, tasks};
use curio_pipeline::stage::Stage;

/// Creates the task of a stage, in one transaction with the mark on the sector. None when another poller
/// was faster, or the sector moved on.
///
/// # Errors
/// Database trouble.
pub async fn create(db: &Db, sector: SectorRef, stage: Stage) -> Result<Option<TaskId>, TxError> {
    let created = db
        .transaction("create stage task", move |tx| {
            Box::pin(async move {
                let task = tasks::add(tx, stage.row().task).await?;
                if mark(tx, sector, stage, task).await? != 1 {
                    return Err(TxError::Rollback);
                }
                remember(tx, sector, stage, task).await?;
                Ok(task)
            })
        })
        .await;
    match created {
        Ok(task) => Ok(Some(task)),
        Err(TxError::Rollback) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the task into the stage's columns, if they are empty and the stage may start. One checked
/// statement per stage: columns cannot be parameters.
async fn mark(tx: &mut Tx, sector: SectorRef, stage: Stage, task: TaskId) -> Result<u64, TxError> {
    let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, task.0);
    let query = match stage {
        Stage::Sdr => sqlx::query!(
            "UPDATE sectors_sdr_pipeline SET task_id_sdr = $3
             WHERE sp_id = $1 AND sector_number = $2 AND NOT failed AND task_id_sdr IS NULL AND NOT after_sdr",
            sp, number, task
        ),
        Stage::TreeD => sqlx::query!(
            "UPDATE sectors_sdr_pipeline SET task_id_tree_d = $3
             WHERE sp_id = $1 AND sector_number = $2 AND NOT failed AND task_id_tree_d IS NULL AND NOT after_tree_d AND after_sdr",
            sp, number, task
        ),
        Stage::TreeRc => sqlx::query!(
            "UPDATE sectors_sdr_pipeline SET task_id_tree_c = $3, task_id_tree_r = $3
             WHERE sp_id = $1 AND sector_number = $2 AND NOT failed AND task_id_tree_c IS NULL AND task_id_tree_r IS NULL
               AND NOT after_tree_c AND NOT after_tree_r AND after_sdr AND after_tree_d",
            sp, number, task
        ),
        Stage::PreCommit => sqlx::query!(
            "UPDATE sectors_sdr_pipeline SET task_id_precommit_msg = $3
             WHERE sp_id = $1 AND sector_number = $2 AND NOT failed AND task_id_precommit_msg IS NULL AND NOT after_precommit_msg
               AND after_tree_d AND after_tree_c AND after_tree_r",
            sp, number, task
        ),
        Stage::PoRep => sqlx::query!(
            "UPDATE sectors_sdr_pipeline SET task_id_porep = $3
             WHERE sp_id = $1 AND sector_number = $2 AND NOT failed AND task_id_porep IS NULL AND NOT after_porep
               AND after_precommit_msg_success AND seed_epoch IS NOT NULL",
            sp, number, task
        ),
        Stage::Finalize => sqlx::query!(
            "UPDATE sectors_sdr_pipeline SET task_id_finalize = $3
             WHERE sp_id = $1 AND sector_number = $2 AND NOT failed AND task_id_finalize IS NULL AND NOT after_finalize AND after_porep",
            sp, number, task
        ),
        Stage::MoveStorage => sqlx::query!(
            "UPDATE sectors_sdr_pipeline SET task_id_move_storage = $3
             WHERE sp_id = $1 AND sector_number = $2 AND NOT failed AND task_id_move_storage IS NULL AND NOT after_move_storage
               AND after_finalize",
            sp, number, task
        ),
        Stage::Commit => sqlx::query!(
            "UPDATE sectors_sdr_pipeline SET task_id_commit_msg = $3
             WHERE sp_id = $1 AND sector_number = $2 AND NOT failed AND task_id_commit_msg IS NULL AND NOT after_commit_msg
               AND after_porep AND porep_proof IS NOT NULL",
            sp, number, task
        ),
    };
    Ok(query.execute(&mut *tx).await?.rows_affected())
}

async fn remember(tx: &mut Tx, sector: SectorRef, stage: Stage, task: TaskId) -> Result<(), TxError> {
    sqlx::query!(
        "INSERT INTO sectors_pipeline_tasks (task_id, sp_id, sector_number, task_name) VALUES ($1, $2, $3, $4)",
        task.0,
        sector.sp.0 as i64,
        sector.number as i64,
        stage.row().task.as_str()
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Forgets a task that is gone from the queue although its stage is not done, so that it is created
/// again. Whether it did so: not when the task is there after all, or ended its stage meanwhile. A task
/// stores its result before it leaves the queue, so a row without the task shows the result as well.
///
/// # Errors
/// Database trouble.
pub async fn forget_vanished(db: &Db, sector: SectorRef, task: TaskId) -> Result<bool, TxError> {
    let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, task.0);
    let changed = db
        .transaction("forget vanished task", move |tx| {
            Box::pin(async move {
                let done = sqlx::query!(
                    "UPDATE sectors_sdr_pipeline
                     SET task_id_sdr = NULLIF(task_id_sdr, $3), task_id_tree_d = NULLIF(task_id_tree_d, $3),
                         task_id_tree_c = NULLIF(task_id_tree_c, $3), task_id_tree_r = NULLIF(task_id_tree_r, $3),
                         task_id_precommit_msg = NULLIF(task_id_precommit_msg, $3), task_id_porep = NULLIF(task_id_porep, $3),
                         task_id_finalize = NULLIF(task_id_finalize, $3), task_id_move_storage = NULLIF(task_id_move_storage, $3),
                         task_id_commit_msg = NULLIF(task_id_commit_msg, $3)
                     WHERE sp_id = $1 AND sector_number = $2
                       AND $3 IN (task_id_sdr, task_id_tree_d, task_id_tree_c, task_id_tree_r, task_id_precommit_msg,
                                  task_id_porep, task_id_finalize, task_id_move_storage, task_id_commit_msg)
                       AND NOT EXISTS (SELECT 1 FROM harmony_task WHERE id = $3)",
                    sp,
                    number,
                    task
                )
                .execute(&mut *tx)
                .await?;
                Ok(done.rows_affected())
            })
        })
        .await?;
    Ok(changed == 1)
}
