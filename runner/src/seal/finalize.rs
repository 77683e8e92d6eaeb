//! Finalize: keeps the unsealed data where a piece wants it, and drops what proving does not need.
//!
//! Runs where the cache lies. Writes the unsealed file and its location first, then clears the cache:
//! after a crash in between, the copy is there and is not made from a tree that is gone.

use std::time::Duration;

use curio_core::resources::MIB;
use curio_core::{Failure, Resources};
use curio_harmony::{Backoff, Claim, Reserved, Spec, Task, TaskId, TaskName};
use curio_pipeline::kind;
use curio_pipeline::stage::Stage;
use curio_proofs::child::Request;

use super::pipeline::{self, Job, note_end};
use super::placement::{self, limit};
use crate::deps::Deps;
use crate::storage::{LocalPath, Need, SectorFile, durable, location};

/// The task kind.
pub struct Finalize {
    deps: Deps,
}

impl Finalize {
    pub fn new(deps: &Deps) -> Finalize {
        Finalize { deps: deps.clone() }
    }

    /// Writes the unsealed copy, unless it is there.
    async fn keep_data(&self, claim: &Claim, job: &Job, path: &LocalPath) -> Result<(), Failure> {
        if self.deps.storage.find_local(job.sector, SectorFile::Unsealed).await?.is_some() {
            return Ok(());
        }
        let cache = path.file(SectorFile::Cache, job.sector);
        let unsealed = path.temp(SectorFile::Unsealed, job.sector, &claim.attempt().to_string());
        let request = Request::UnsealedCopy { proof: job.proof, cache, unsealed: unsealed.clone() };
        self.deps.prover.call(&request, claim.cancelled()).await?;
        durable::publish(&unsealed, &path.file(SectorFile::Unsealed, job.sector)).await?;
        let declared = self.deps.storage.settle(path, job.sector, SectorFile::Unsealed).await?;
        claim
            .store("unsealed copy kept", move |tx| {
                let declared = declared.clone();
                Box::pin(async move { location::declare(tx, &declared).await })
            })
            .await
    }
}

impl Task for Finalize {
    const NAME: TaskName = kind::FINALIZE;

    fn spec(&self) -> Spec {
        Spec {
            cost: Resources { cpu: 0, ram_bytes: 100 * MIB, gpu_milli: 0 },
            max_running: limit(self.deps.config.subsystems.finalize_max_tasks),
            max_failures: Some(10),
            backoff: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60)),
            order: Stage::Finalize.order(),
            filtered: true,
            ..Spec::default()
        }
    }

    async fn can_accept(&self, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        placement::where_cache_lies(&self.deps, offered).await
    }

    async fn reserve(&self, task: TaskId) -> Result<Reserved, Failure> {
        let keep = match pipeline::of_task(&self.deps.db, task).await? {
            Some(job) => keeps_data(&self.deps, &job).await?,
            None => false,
        };
        placement::reserve(&self.deps, task, |job| Need::finalize(job.sector, job.proof, keep)).await
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(job) = pipeline::of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let sector = job.sector;
        let path = self.deps.storage.expect_local(sector, &[SectorFile::Cache, SectorFile::Sealed]).await?;
        if keeps_data(&self.deps, &job).await? {
            self.keep_data(claim, &job, &path).await?;
        }
        let request = Request::ClearCache { proof: job.proof, cache: path.file(SectorFile::Cache, sector) };
        self.deps.prover.call(&request, claim.cancelled()).await?;
        let declared = self.deps.storage.settle(&path, sector, SectorFile::Cache).await?;
        let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, claim.task().0);
        let changed = claim
            .store("Finalize done", move |tx| {
                let declared = declared.clone();
                Box::pin(async move {
                    location::declare(tx, &declared).await?;
                    let done = sqlx::query!(
                        "UPDATE sectors_sdr_pipeline SET after_finalize = TRUE, task_id_finalize = NULL
                         WHERE sp_id = $1 AND sector_number = $2 AND task_id_finalize = $3",
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

/// Whether any piece of the sector keeps its unsealed data.
pub(super) async fn keeps_data(deps: &Deps, job: &Job) -> Result<bool, Failure> {
    Ok(pipeline::pieces(&deps.db, job.sector).await?.iter().any(|piece| piece.keep))
}
