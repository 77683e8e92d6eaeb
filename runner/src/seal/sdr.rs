//! SDR: draws the ticket and labels the layers.
//!
//! Reads the pieces' commitments and the chain's head. Writes the ticket before any hashing, so that a
//! later attempt goes on with finished layers, and at the end `after_sdr`. A ticket that would run out
//! before the pre-commit is replaced: the layers are removed first, then the new ticket is stored.

use std::time::Duration;

use curio_chain::RpcError;
use curio_chain::types::TipSet;
use curio_core::resources::GIB;
use curio_core::{Classify, Failure, Resources, SectorRef};
use curio_harmony::{Backoff, Claim, Reserved, Spec, Task, TaskId, TaskName, TxError};
use curio_pipeline::kind;
use curio_pipeline::stage::Stage;
use curio_proofs::child::Request;
use curio_proofs::{Commitment, PieceSpec, comm_d, zero_comm_d};
use tracing::{info, warn};

use super::pipeline::{self, Job, note_end};
use super::placement::{self, limit};
use super::ticket::{SDR_NEEDS_EPOCHS, Ticket, epochs_left, ticket_epoch};
use crate::cpu;
use crate::deps::Deps;
use crate::storage::{LocalPath, Need, PathUse, SectorFile, location};

/// The task kind.
pub struct Sdr {
    deps: Deps,
}

#[derive(Debug, thiserror::Error)]
enum SdrError {
    #[error("failed to draw a ticket for sector {sector}")]
    Ticket {
        sector: SectorRef,
        #[source]
        source: RpcError,
    },
    #[error("failed to prepare {path}")]
    Prepare {
        path: String,
        #[source]
        source: std::io::Error,
    },
}

impl Classify for SdrError {
    fn classify(self) -> Failure {
        match self {
            SdrError::Ticket { .. } => Failure::Unavailable(Box::new(self)),
            SdrError::Prepare { .. } => Failure::Retry(Box::new(self)),
        }
    }
}

impl Sdr {
    pub fn new(deps: &Deps) -> Sdr {
        Sdr { deps: deps.clone() }
    }

    /// The stored ticket while it is good; otherwise a fresh one, stored.
    async fn ticket(&self, claim: &Claim, job: &Job, path: &LocalPath) -> Result<Ticket, Failure> {
        let sector = job.sector;
        let error = |source| SdrError::Ticket { sector, source };
        let head = self.deps.chain.chain_head().await.map_err(error)?;
        if let Some(ticket) = job.ticket {
            if is_good(&ticket, &head) {
                info!(sector.sp = %sector.sp, sector.number, epoch = ticket.epoch.0, "SDR of sector {sector} goes on with its ticket of epoch {}", ticket.epoch);
                return Ok(ticket);
            }
            warn!(sector.sp = %sector.sp, sector.number, "the ticket of sector {sector} (epoch {}) is no good at head {}; labelling starts anew", ticket.epoch, head.height);
        }
        // Labels on disk belong to an older ticket, if any are there. They go first: a crash in between
        // then finds neither labels nor ticket, and never new ticket with old labels.
        remove_labels(path, sector).await?;
        let epoch = ticket_epoch(head.height);
        let value = self.deps.chain.seal_ticket(sector.sp, epoch, head.key()).await.map_err(error)?;
        let ticket = Ticket { epoch, value };
        self.store_ticket(claim, job, ticket, &path.storage_id).await?;
        Ok(ticket)
    }

    async fn store_ticket(&self, claim: &Claim, job: &Job, ticket: Ticket, storage_id: &str) -> Result<(), Failure> {
        let (sp, number, task) = (job.sector.sp.0 as i64, job.sector.number as i64, claim.task().0);
        let replaced = i64::from(job.ticket.is_some());
        let storage_id = storage_id.to_owned();
        claim
            .store("store ticket", move |tx| {
                let storage_id = storage_id.clone();
                Box::pin(async move {
                    // Files of an older replica are not this sector's any more: those on this path are
                    // removed already, copies elsewhere are to be.
                    sqlx::query!(
                        "DELETE FROM sector_location WHERE miner_id = $1 AND sector_num = $2 AND storage_id = $3",
                        sp,
                        number,
                        storage_id
                    )
                    .execute(&mut *tx)
                    .await?;
                    sqlx::query!(
                        "UPDATE sector_location SET removal_requested_at = now()
                         WHERE miner_id = $1 AND sector_num = $2 AND removal_requested_at IS NULL",
                        sp,
                        number
                    )
                    .execute(&mut *tx)
                    .await?;
                    let done = sqlx::query!(
                        "UPDATE sectors_sdr_pipeline
                         SET ticket_epoch = $4, ticket_value = $5, ticket_generation = ticket_generation + $6
                         WHERE sp_id = $1 AND sector_number = $2 AND task_id_sdr = $3 AND NOT after_sdr",
                        sp,
                        number,
                        task,
                        ticket.epoch.0,
                        &ticket.value[..],
                        replaced
                    )
                    .execute(&mut *tx)
                    .await?;
                    // The sector was taken away from this task between its start and now.
                    if done.rows_affected() == 1 { Ok(()) } else { Err(TxError::Rollback) }
                })
            })
            .await
    }
}

fn is_good(ticket: &Ticket, head: &TipSet) -> bool {
    ticket.epoch < head.height && epochs_left(ticket.epoch, head.height) >= SDR_NEEDS_EPOCHS
}

/// Removes the cache and the sealed file of a sector that is labelled anew.
async fn remove_labels(path: &LocalPath, sector: SectorRef) -> Result<(), SdrError> {
    let absent = |source: &std::io::Error| source.kind() == std::io::ErrorKind::NotFound;
    for file in [path.file(SectorFile::Cache, sector), path.file(SectorFile::Sealed, sector)] {
        let removed = match tokio::fs::metadata(&file).await {
            Ok(found) if found.is_dir() => tokio::fs::remove_dir_all(&file).await,
            Ok(_) => tokio::fs::remove_file(&file).await,
            Err(error) => Err(error),
        };
        match removed {
            Err(source) if !absent(&source) => {
                return Err(SdrError::Prepare { path: file.display().to_string(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Commitment of the sector's data, known before the data is.
pub(super) fn data_commitment(job: &Job, specs: &[PieceSpec]) -> Result<Commitment, Failure> {
    if specs.is_empty() {
        return Ok(zero_comm_d(job.proof));
    }
    comm_d(job.proof, specs).map_err(|error| Failure::Permanent { reason: "bad-pieces", cause: Box::new(error) })
}

impl Task for Sdr {
    const NAME: TaskName = kind::SDR;

    fn spec(&self) -> Spec {
        let cost = if self.deps.network.is_test() {
            Resources { cpu: 1, ram_bytes: GIB, gpu_milli: 0 }
        } else {
            Resources { cpu: 4, ram_bytes: 64 * GIB + GIB / 4, gpu_milli: 0 }
        };
        Spec {
            cost,
            max_running: limit(self.deps.config.subsystems.seal_sdr_max_tasks),
            // The next attempt goes on after the last finished layer, so a runner that is killed costs minutes and
            // not hours, and each time counts as a failure: two would give a sector up after two restarts of a node.
            max_failures: Some(5),
            backoff: Backoff::exponential(Duration::from_secs(1), Duration::from_secs(60)),
            order: Stage::Sdr.order(),
            filtered: true,
            preemptible: true,
            ..Spec::default()
        }
    }

    async fn can_accept(&self, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        let proofs = pipeline::proofs_of(&self.deps.db, offered).await?;
        // Without SHA instructions a large sector takes days. A task that no sector knows is accepted, so that it ends.
        let fit = |task: &&TaskId| proofs.get(task).is_none_or(|proof| cpu::takes_sdr_of(&self.deps.config, *proof));
        let fit: Vec<TaskId> = offered.iter().filter(fit).copied().collect();
        placement::with_path(&self.deps, PathUse::Seal, &fit).await
    }

    async fn reserve(&self, task: TaskId) -> Result<Reserved, Failure> {
        placement::reserve(&self.deps, task, |job| Need::sdr(job.sector, job.proof)).await
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        let Some(job) = pipeline::of_task(claim.db(), claim.task()).await? else {
            return Ok(());
        };
        let sector = job.sector;
        let specs = pipeline::specs(sector, &pipeline::pieces(claim.db(), sector).await?)?;
        let comm_d = data_commitment(&job, &specs)?;
        let path = self.deps.storage.reserved_path(claim.task()).await?;
        let ticket = self.ticket(claim, &job, &path).await?;
        let cache = path.file(SectorFile::Cache, sector);
        tokio::fs::create_dir_all(&cache)
            .await
            .map_err(|source| SdrError::Prepare { path: cache.display().to_string(), source })?;
        self.deps.fault_pause.reached("SDR", claim.cancelled()).await;
        let request = Request::Sdr { proof: job.proof, sector, ticket: ticket.value, comm_d, cache };
        self.deps.prover.call(&request, claim.cancelled()).await?;
        let declared = self.deps.storage.settle(&path, sector, SectorFile::Cache).await?;
        let (sp, number, task) = (sector.sp.0 as i64, sector.number as i64, claim.task().0);
        let changed = claim
            .store("SDR done", move |tx| {
                let declared = declared.clone();
                Box::pin(async move {
                    location::declare(tx, &declared).await?;
                    // The ticket is compared: labels of another one are worth nothing.
                    let done = sqlx::query!(
                        "UPDATE sectors_sdr_pipeline SET after_sdr = TRUE, task_id_sdr = NULL
                         WHERE sp_id = $1 AND sector_number = $2 AND task_id_sdr = $3 AND ticket_epoch = $4",
                        sp,
                        number,
                        task,
                        ticket.epoch.0
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

#[cfg(test)]
mod tests {
    use curio_core::Epoch;

    use super::*;

    fn head(height: i64) -> TipSet {
        TipSet { cids: Default::default(), blocks: Vec::new(), height: Epoch(height) }
    }

    #[test]
    fn a_stored_ticket_is_kept_while_half_of_its_day_is_left() {
        let ticket = Ticket { epoch: Epoch(100), value: [7; 32] };
        let table = [(1000, true), (2440, true), (2441, false), (4000, false), (100, false), (50, false)];
        for (height, good) in table {
            assert_eq!(is_good(&ticket, &head(height)), good, "at {height}");
        }
    }
}
