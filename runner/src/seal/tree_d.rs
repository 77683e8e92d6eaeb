//! TreeD: brings the pieces' data, checks it, and builds the tree over the unsealed data.
//!
//! Reads the pieces and the cache of SDR; runs where that lies. Writes `tree_d_cid`, `after_tree_d`.

use std::time::Duration;

use curio_chain::message::unsealed_cid;
use curio_core::resources::GIB;
use curio_core::{Failure, Resources};
use curio_harmony::{Backoff, Claim, Reserved, Spec, Task, TaskId, TaskName};
use curio_pipeline::kind;
use curio_pipeline::stage::Stage;
use curio_proofs::PieceFile;
use curio_proofs::child::Request;

use super::piece_data::{self, Fetched};
use super::pipeline::{self, Job, note_end};
use super::placement::{self, limit};
use super::sdr::data_commitment;
use crate::deps::Deps;
use crate::storage::{LocalPath, Need, SectorFile, location};

/// The task kind.
pub struct TreeD {
    deps: Deps,
}

impl TreeD {
    pub fn new(deps: &Deps) -> TreeD {
        TreeD { deps: deps.clone() }
    }

    /// The pieces' data in files, checked. Downloads vanish when the values are dropped.
    async fn data(&self, claim: &Claim, job: &Job, path: &LocalPath) -> Result<Vec<Fetched>, Failure> {
        let mut files = Vec::new();
        for piece in pipeline::pieces(claim.db(), job.sector).await? {
            let attempt = format!("{}.piece{}", claim.attempt(), piece.index);
            let target = path.temp(SectorFile::Unsealed, job.sector, &attempt);
            let fetched = piece_data::fetch(&self.deps.http, &piece, &target, claim.cancelled()).await?;
            piece_data::check(&self.deps.prover, &piece, &fetched, claim.cancelled()).await?;
            files.push(fetched);
        }
        Ok(files)
    }
}

impl Task for TreeD {
    const NAME: TaskName = kind::TREE_D;

    fn spec(&self) -> Spec {
        Spec {
            cost: Resources { cpu: 1, ram_bytes: GIB, gpu_milli: 0 },
            max_running: limit(self.deps.config.subsystems.seal_sdr_trees_max_tasks),
            max_failures: Some(3),
            backoff: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60)),
            order: Stage::TreeD.order(),
            filtered: true,
            preemptible: true,
            ..Spec::default()
        }
    }

    async fn can_accept(&self, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        placement::where_cache_lies(&self.deps, offered).await
    }

    async fn reserve(&self, task: TaskId) -> Result<Reserved, Failure> {
        placement::reserve(&self.deps, task, |job| Need::tree_d(job.sector, job.proof)).await
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(job) = pipeline::of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let sector = job.sector;
        let specs = pipeline::specs(sector, &pipeline::pieces(claim.db(), sector).await?)?;
        let comm_d = data_commitment(&job, &specs)?;
        let path = self.deps.storage.expect_local(sector, &[SectorFile::Cache]).await?;
        let files = self.data(claim, &job, &path).await?;
        let pieces = files
            .iter()
            .map(|file| PieceFile { path: file.path.clone(), raw_size: file.raw_size, padded_size: file.padded_size })
            .collect();
        let request = Request::TreeD { proof: job.proof, pieces, comm_d, cache: path.file(SectorFile::Cache, sector) };
        self.deps.prover.call(&request, claim.cancelled()).await?;
        drop(files);
        let declared = self.deps.storage.settle(&path, sector, SectorFile::Cache).await?;
        let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, claim.task().0);
        let cid = unsealed_cid(&comm_d).to_string();
        let changed = claim
            .store("TreeD done", move |tx| {
                let (declared, cid) = (declared.clone(), cid.clone());
                Box::pin(async move {
                    location::declare(tx, &declared).await?;
                    let done = sqlx::query!(
                        "UPDATE sectors_sdr_pipeline SET after_tree_d = TRUE, task_id_tree_d = NULL, tree_d_cid = $4
                         WHERE sp_id = $1 AND sector_number = $2 AND task_id_tree_d = $3",
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
