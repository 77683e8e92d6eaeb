//! PoRep: draws the seed, fetches the vanilla proof from where the cache lies, makes the SNARK here.
//!
//! Needs no storage. Verifies the proof as the chain will, then writes `seed_value`, `porep_proof`,
//! `after_porep`.

use std::time::Duration;

use curio_chain::RpcError;
use curio_chain::types::TipSetKey;
use curio_core::epoch::EpochDelta;
use curio_core::resources::GIB;
use curio_core::{Classify, Epoch, Failure, Resources, SealProof, SectorRef};
use curio_harmony::{Backoff, Claim, Spec, Task, TaskId, TaskName};
use curio_pipeline::kind;
use curio_pipeline::stage::Stage;
use curio_proofs::child::{Request, Response};
use curio_proofs::params::Circuit;

use super::pipeline::{self, Job, note_end};
use super::placement::limit;
use super::ticket::seed_epoch;
use crate::deps::Deps;
use crate::prove::ProveError;
use crate::storage::VanillaPorep;

/// The task kind.
pub struct PoRep {
    deps: Deps,
}

#[derive(Debug, thiserror::Error)]
enum PoRepError {
    #[error("failed to learn the seed of sector {sector}")]
    Seed {
        sector: SectorRef,
        #[source]
        source: RpcError,
    },
    #[error("sector {sector} is not pre-committed at the head; waiting for the chain to settle")]
    NotPreCommitted { sector: SectorRef },
    #[error("the seed of sector {sector} (epoch {seed}) is not settled yet at head {head}")]
    TooEarly { sector: SectorRef, seed: Epoch, head: Epoch },
    #[error("the proof just made for sector {sector} does not verify")]
    DoesNotVerify { sector: SectorRef },
}

impl Classify for PoRepError {
    fn classify(self) -> Failure {
        match self {
            PoRepError::DoesNotVerify { .. } => Failure::Retry(Box::new(self)),
            PoRepError::Seed { .. } | PoRepError::NotPreCommitted { .. } | PoRepError::TooEarly { .. } => {
                Failure::Unavailable(Box::new(self))
            }
        }
    }
}

/// The seed and where it was drawn.
struct Seed {
    epoch: Epoch,
    value: [u8; 32],
}

impl PoRep {
    pub fn new(deps: &Deps) -> PoRep {
        PoRep { deps: deps.clone() }
    }

    /// Draws the seed. The epoch is derived from the chain again: a reorganisation may have moved the
    /// pre-commit since it landed first.
    async fn seed(&self, job: &Job) -> Result<Seed, PoRepError> {
        let sector = job.sector;
        let error = |source| PoRepError::Seed { sector, source };
        let chain = &self.deps.chain;
        let info =
            chain.state_sector_pre_commit_info(&job.miner(), sector.number, &TipSetKey::HEAD).await.map_err(error)?;
        let info = info.ok_or(PoRepError::NotPreCommitted { sector })?;
        let epoch = seed_epoch(info.pre_commit_epoch, self.deps.network.challenge_delay);
        let head = chain.chain_head().await.map_err(error)?;
        if head.height < epoch + EpochDelta::from(self.deps.config.seal.seed_confidence) {
            return Err(PoRepError::TooEarly { sector, seed: epoch, head: head.height });
        }
        let value = chain.seal_seed(sector.sp, epoch, head.key()).await.map_err(error)?;
        Ok(Seed { epoch, value })
    }

    async fn prove(&self, claim: &Claim, job: &Job, seed: &Seed) -> Result<Vec<u8>, Failure> {
        let sector = job.sector;
        let (ticket, comm_d, comm_r) = (job.ticket()?.value, job.comm_d()?, job.comm_r()?);
        let vanilla = VanillaPorep {
            sector,
            proof: job.proof,
            ticket,
            seed: seed.value,
            comm_d,
            comm_r,
            pieces: pipeline::specs(sector, &pipeline::pieces(claim.db(), sector).await?)?,
        };
        let vanilla_proof = self.deps.storage.vanilla_porep(&self.deps.prover, &vanilla, claim.cancelled()).await?;
        self.deps.fault_pause.reached("PoRep", claim.cancelled()).await;
        let request = Request::C2 { sector, vanilla_proof, snark: self.deps.snark };
        let Response::C2 { porep } = self.deps.prover.call(&request, claim.cancelled()).await? else {
            return Err(ProveError::Unexpected("something else than a proof").into());
        };
        // Against our own record, and not against what came along with the vanilla proof.
        let request = Request::Verify {
            proof: job.proof,
            sector,
            ticket,
            seed: seed.value,
            comm_d,
            comm_r,
            porep: porep.clone(),
        };
        match self.deps.prover.call(&request, claim.cancelled()).await? {
            Response::Verify { valid: true } => Ok(porep),
            _ => Err(PoRepError::DoesNotVerify { sector }.into()),
        }
    }
}

impl Task for PoRep {
    const NAME: TaskName = kind::POREP;

    fn spec(&self) -> Spec {
        let cost = if self.deps.network.is_test() {
            Resources { cpu: 1, ram_bytes: 3 * GIB, gpu_milli: 0 }
        } else {
            Resources { cpu: 1, ram_bytes: 128 * GIB, gpu_milli: 1000 }
        };
        Spec {
            cost,
            max_running: limit(self.deps.config.subsystems.po_rep_proof_max_tasks),
            max_failures: Some(10),
            backoff: Backoff::exponential(Duration::from_secs(2), Duration::from_secs(120)),
            order: Stage::PoRep.order(),
            filtered: true,
            preemptible: true,
            ..Spec::default()
        }
    }

    /// Those whose proof parameters are here.
    async fn can_accept(&self, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        let proofs = pipeline::proofs_of(&self.deps.db, offered).await?;
        let is_ready = |proof: &SealProof| self.deps.parameters.is_ready(Circuit::Porep, *proof);
        let accepted = offered.iter().filter(|task| proofs.get(task).is_none_or(is_ready));
        Ok(accepted.copied().collect())
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(job) = pipeline::of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let sector = job.sector;
        let seed = self.seed(&job).await?;
        let porep = self.prove(claim, &job, &seed).await?;
        let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, claim.task().0);
        let changed = claim
            .store("PoRep done", move |tx| {
                let porep = porep.clone();
                Box::pin(async move {
                    let done = sqlx::query!(
                        "UPDATE sectors_sdr_pipeline
                         SET after_porep = TRUE, task_id_porep = NULL, porep_proof = $4, seed_epoch = $5, seed_value = $6
                         WHERE sp_id = $1 AND sector_number = $2 AND task_id_porep = $3",
                        sp,
                        number,
                        task,
                        porep,
                        seed.epoch.0,
                        &seed.value[..]
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
