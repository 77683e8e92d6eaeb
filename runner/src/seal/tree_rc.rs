//! TreeRC: the replica and its trees, then three vanilla proofs at random as a check.
//!
//! Runs where the cache lies. Writes the sealed file, `tree_r_cid`, `after_tree_c`, `after_tree_r`. When
//! the check fails, the trees are given up and TreeD builds them anew: a bad tree must not cost a deposit.

use std::time::Duration;

use curio_chain::message::sealed_cid;
use curio_core::resources::{GIB, MIB};
use curio_core::{Failure, Resources};
use curio_harmony::{Backoff, Claim, DbError, Reserved, Spec, Task, TaskId, TaskName};
use curio_pipeline::kind;
use curio_pipeline::stage::Stage;
use curio_proofs::Commitment;
use curio_proofs::child::{Request, Response};
use tracing::warn;

use super::pipeline::{self, Job, note_end};
use super::placement::{self, limit};
use crate::deps::Deps;
use crate::prove::ProveError;
use crate::storage::{Need, SectorFile, location};

/// The task kind.
pub struct TreeRc {
    deps: Deps,
}

/// Most times that trees are built for one sector because their check failed.
const MAX_TREES: i64 = 3;

/// How the proof library calls the step in which the check runs.
const CHECK: &str = "seal_commit_phase1";

impl TreeRc {
    pub fn new(deps: &Deps) -> TreeRc {
        TreeRc { deps: deps.clone() }
    }

    /// Gives the trees up, so that TreeD builds them anew, unless that was done often enough.
    async fn reset(&self, claim: &Claim, job: &Job, error: ProveError) -> Result<(), Failure> {
        let sector = job.sector;
        let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, claim.task().0);
        let built = sqlx::query_scalar!(
            r#"SELECT count(*) AS "count!" FROM sectors_pipeline_tasks WHERE sp_id = $1 AND sector_number = $2 AND task_name = $3"#,
            sp,
            number,
            Self::NAME.as_str()
        )
        .fetch_one(claim.db().pool())
        .await
        .map_err(DbError::from)?;
        if built >= MAX_TREES {
            return Err(Failure::Permanent { reason: "bad-trees", cause: Box::new(error) });
        }
        warn!(sector.sp = %sector.sp, sector.number, error = &error as &dyn std::error::Error, "the trees of sector {sector} failed their check; they are built anew");
        let changed = claim
            .store("trees given up", move |tx| {
                Box::pin(async move {
                    let done = sqlx::query!(
                        "UPDATE sectors_sdr_pipeline
                         SET after_tree_d = FALSE, tree_d_cid = NULL, task_id_tree_c = NULL, task_id_tree_r = NULL
                         WHERE sp_id = $1 AND sector_number = $2 AND task_id_tree_r = $3",
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

    async fn build(&self, claim: &Claim, request: &Request) -> Result<Commitment, ProveError> {
        match self.deps.prover.call(request, claim.cancelled()).await? {
            Response::TreeRc { comm_r } => Ok(comm_r),
            _ => Err(ProveError::Unexpected("something else than comm_r")),
        }
    }
}

/// Whether it was the check that failed, and not the work before.
fn is_failed_check(error: &ProveError) -> bool {
    matches!(error, ProveError::Call(error) if error.retryable && error.message.contains(CHECK))
}

impl Task for TreeRc {
    const NAME: TaskName = kind::TREE_RC;

    fn spec(&self) -> Spec {
        let cost = if self.deps.network.is_test() {
            Resources { cpu: 1, ram_bytes: 512 * MIB, gpu_milli: 0 }
        } else {
            Resources { cpu: 1, ram_bytes: 8 * GIB, gpu_milli: 1000 }
        };
        Spec {
            cost,
            max_running: limit(self.deps.config.subsystems.seal_sdr_trees_max_tasks),
            max_failures: Some(3),
            backoff: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60)),
            order: Stage::TreeRc.order(),
            filtered: true,
            preemptible: true,
            ..Spec::default()
        }
    }

    async fn can_accept(&self, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        placement::where_cache_lies(&self.deps, offered).await
    }

    async fn reserve(&self, task: TaskId) -> Result<Reserved, Failure> {
        placement::reserve(&self.deps, task, |job| Need::tree_rc(job.sector, job.proof)).await
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(job) = pipeline::of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let sector = job.sector;
        let path = self.deps.storage.expect_local(sector, &[SectorFile::Cache]).await?;
        let request = Request::TreeRc {
            proof: job.proof,
            sector,
            ticket: job.ticket()?.value,
            comm_d: job.comm_d()?,
            pieces: pipeline::specs(sector, &pipeline::pieces(claim.db(), sector).await?)?,
            cache: path.file(SectorFile::Cache, sector),
            sealed: path.file(SectorFile::Sealed, sector),
            check_entropy: self.deps.chance.entropy(),
        };
        let comm_r = match self.build(claim, &request).await {
            Ok(comm_r) => comm_r,
            Err(error) if is_failed_check(&error) => return self.reset(claim, &job, error).await,
            Err(error) => return Err(error.into()),
        };
        let cache = self.deps.storage.settle(&path, sector, SectorFile::Cache).await?;
        let sealed = self.deps.storage.settle(&path, sector, SectorFile::Sealed).await?;
        let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, claim.task().0);
        let cid = sealed_cid(&comm_r).to_string();
        let changed = claim
            .store("TreeRC done", move |tx| {
                let (cache, sealed, cid) = (cache.clone(), sealed.clone(), cid.clone());
                Box::pin(async move {
                    location::declare(tx, &cache).await?;
                    location::declare(tx, &sealed).await?;
                    let done = sqlx::query!(
                        "UPDATE sectors_sdr_pipeline
                         SET after_tree_c = TRUE, after_tree_r = TRUE, task_id_tree_c = NULL, task_id_tree_r = NULL, tree_r_cid = $4
                         WHERE sp_id = $1 AND sector_number = $2 AND task_id_tree_r = $3",
                        sp,
                        number,
                        task,
                        cid
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
