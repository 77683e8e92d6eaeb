//! MoveStorage: brings a finished sector's files to a long-term path of this machine.
//!
//! Reads the files' locations; the storage module copies, declares and removes. Writes
//! `after_move_storage`.

use std::time::Duration;

use curio_core::resources::MIB;
use curio_core::{Failure, Resources};
use curio_harmony::{Backoff, Claim, Reserved, Spec, Task, TaskId, TaskName};
use curio_pipeline::kind;
use curio_pipeline::stage::Stage;

use super::finalize::keeps_data;
use super::pipeline::{self, note_end};
use super::placement::{self, limit};
use crate::deps::Deps;
use crate::storage::{Need, PathUse};

/// The task kind.
pub struct MoveStorage {
    deps: Deps,
}

impl MoveStorage {
    pub fn new(deps: &Deps) -> MoveStorage {
        MoveStorage { deps: deps.clone() }
    }
}

impl Task for MoveStorage {
    const NAME: TaskName = kind::MOVE_STORAGE;

    fn spec(&self) -> Spec {
        let max_running = limit(self.deps.config.subsystems.move_storage_max_tasks);
        // Where a number limits the copies, cores need not.
        let cpu = if max_running.is_some() { 0 } else { 1 };
        Spec {
            cost: Resources { cpu, ram_bytes: 128 * MIB, gpu_milli: 0 },
            max_running,
            max_failures: Some(10),
            backoff: Backoff::exponential(Duration::from_secs(2), Duration::from_secs(120)),
            order: Stage::MoveStorage.order(),
            filtered: true,
            ..Spec::default()
        }
    }

    async fn can_accept(&self, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        placement::with_path(&self.deps, PathUse::Store, offered).await
    }

    async fn reserve(&self, task: TaskId) -> Result<Reserved, Failure> {
        let keep = match pipeline::of_task(&self.deps.db, task).await? {
            Some(job) => keeps_data(&self.deps, &job).await?,
            None => false,
        };
        placement::reserve(&self.deps, task, |job| Need::move_storage(job.sector, job.proof, keep)).await
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(job) = pipeline::of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let sector = job.sector;
        self.deps.storage.move_to_store(claim, sector).await?;
        let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, claim.task().0);
        let changed = claim
            .store("MoveStorage done", move |tx| {
                Box::pin(async move {
                    // The later one of this and the commit ends the sector.
                    let done = sqlx::query!(
                        "UPDATE sectors_sdr_pipeline
                         SET after_move_storage = TRUE, task_id_move_storage = NULL,
                             ended_at = CASE WHEN after_commit_msg_success THEN now() END
                         WHERE sp_id = $1 AND sector_number = $2 AND task_id_move_storage = $3",
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
        note_end(changed, sector, Self::NAME.as_str());
        Ok(())
    }
}
