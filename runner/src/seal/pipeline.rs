//! One sector's row in `sectors_sdr_pipeline`, as its tasks read and end it.
//!
//! A task finds its sector by its own id and ends by a statement that names both: when the row no longer
//! holds this task (an operator removed the sector, or sent it back), nothing is changed.

use std::collections::HashMap;

use curio_chain::message::{NotACommitment, comm_d, comm_r};
use curio_chain::{Address, Cid, address};
use curio_core::seal_proof::UnsupportedSealProof;
use curio_core::{Classify, Epoch, Failure, SealProof, SectorRef, SpId};
use curio_harmony::{Db, DbError, TaskId, Tx, TxError};
use curio_proofs::{Commitment, PieceSpec};
use tracing::warn;

use super::ticket::Ticket;

/// What a task needs to know of its sector.
#[derive(Clone, Debug)]
pub struct Job {
    pub sector: SectorRef,
    pub proof: SealProof,
    pub ticket: Option<Ticket>,
    pub unsealed_cid: Option<Cid>,
    pub sealed_cid: Option<Cid>,
    pub seed_epoch: Option<Epoch>,
    pub seed_value: Option<[u8; 32]>,
    pub porep_proof: Option<Vec<u8>>,
    pub precommit_cid: Option<String>,
    pub ticket_generation: i64,
    pub precommit_generation: i64,
    pub porep_generation: i64,
    pub commit_generation: i64,
}

/// Client data of a sector.
#[derive(Clone, Debug)]
pub struct Piece {
    pub index: i64,
    pub cid: Cid,
    pub padded_size: u64,
    pub raw_size: u64,
    /// `file:///PATH` or `http(s)://`.
    pub url: String,
    /// Whether the unsealed copy is kept.
    pub keep: bool,
}

/// A row that does not hold what it must at this stage.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error("failed to read sector {sector}: its {column} is missing")]
    Missing { sector: SectorRef, column: &'static str },
    #[error("failed to read sector {sector}: its {column} is not of the expected form")]
    Form { sector: SectorRef, column: &'static str },
    #[error("failed to read sector {sector}")]
    Proof {
        sector: SectorRef,
        #[source]
        source: UnsupportedSealProof,
    },
    #[error("failed to read a commitment of sector {sector}")]
    Commitment {
        sector: SectorRef,
        #[source]
        source: Box<NotACommitment>,
    },
}

impl Classify for PipelineError {
    fn classify(self) -> Failure {
        // The row was written by a program, not by chance: no further attempt reads it better.
        Failure::Permanent { reason: "bad-row", cause: Box::new(self) }
    }
}

impl Job {
    /// Address of the miner actor.
    pub fn miner(&self) -> Address {
        address::id_address(self.sector.sp)
    }

    pub fn ticket(&self) -> Result<Ticket, PipelineError> {
        self.ticket.ok_or(PipelineError::Missing { sector: self.sector, column: "ticket" })
    }

    pub fn unsealed_cid(&self) -> Result<Cid, PipelineError> {
        self.unsealed_cid.ok_or(PipelineError::Missing { sector: self.sector, column: "tree_d_cid" })
    }

    pub fn sealed_cid(&self) -> Result<Cid, PipelineError> {
        self.sealed_cid.ok_or(PipelineError::Missing { sector: self.sector, column: "tree_r_cid" })
    }

    pub fn comm_d(&self) -> Result<Commitment, PipelineError> {
        comm_d(&self.unsealed_cid()?)
            .map_err(|source| PipelineError::Commitment { sector: self.sector, source: Box::new(source) })
    }

    pub fn comm_r(&self) -> Result<Commitment, PipelineError> {
        comm_r(&self.sealed_cid()?)
            .map_err(|source| PipelineError::Commitment { sector: self.sector, source: Box::new(source) })
    }
}

impl Piece {
    /// The piece as the proofs take it.
    ///
    /// # Errors
    /// A CID that is no piece commitment.
    pub fn spec(&self, sector: SectorRef) -> Result<PieceSpec, PipelineError> {
        let comm_p =
            comm_d(&self.cid).map_err(|source| PipelineError::Commitment { sector, source: Box::new(source) })?;
        Ok(PieceSpec { comm_p, padded_size: self.padded_size })
    }
}

/// All pieces as the proofs take them.
pub fn specs(sector: SectorRef, pieces: &[Piece]) -> Result<Vec<PieceSpec>, PipelineError> {
    pieces.iter().map(|piece| piece.spec(sector)).collect()
}

/// The sector that waits for this task; none when no row holds the task any more.
///
/// # Errors
/// Database trouble; [`PipelineError`] for a row that cannot be read.
pub async fn of_task(db: &Db, task: TaskId) -> Result<Option<Job>, Failure> {
    let row = sqlx::query!(
        r#"SELECT p.sp_id, p.sector_number, p.reg_seal_proof, p.ticket_epoch, p.ticket_value, p.tree_d_cid, p.tree_r_cid,
                  p.seed_epoch, p.seed_value, p.porep_proof, p.precommit_msg_cid,
                  p.ticket_generation, p.precommit_generation, p.porep_generation, p.commit_generation
           FROM sectors_pipeline_tasks t
           JOIN sectors_sdr_pipeline p ON p.sp_id = t.sp_id AND p.sector_number = t.sector_number
           WHERE t.task_id = $1
             AND $1 IN (p.task_id_sdr, p.task_id_tree_d, p.task_id_tree_c, p.task_id_tree_r, p.task_id_precommit_msg,
                        p.task_id_porep, p.task_id_finalize, p.task_id_move_storage, p.task_id_commit_msg)"#,
        task.0
    )
    .fetch_optional(db.pool())
    .await
    .map_err(DbError::from)?;
    let Some(row) = row else {
        warn!(task.id = task.0, "no sector waits for task {} any more", task.0);
        return Ok(None);
    };
    let sector = SectorRef::new(SpId(row.sp_id as u64), row.sector_number as u64);
    let proof =
        SealProof::from_number(row.reg_seal_proof.into()).map_err(|source| PipelineError::Proof { sector, source })?;
    let ticket = match (row.ticket_epoch, row.ticket_value) {
        (Some(epoch), Some(value)) => {
            Some(Ticket { epoch: Epoch(epoch), value: bytes32(sector, "ticket_value", value)? })
        }
        _ => None,
    };
    Ok(Some(Job {
        sector,
        proof,
        ticket,
        unsealed_cid: row.tree_d_cid.map(|text| cid(sector, "tree_d_cid", &text)).transpose()?,
        sealed_cid: row.tree_r_cid.map(|text| cid(sector, "tree_r_cid", &text)).transpose()?,
        seed_epoch: row.seed_epoch.map(Epoch),
        seed_value: row.seed_value.map(|value| bytes32(sector, "seed_value", value)).transpose()?,
        porep_proof: row.porep_proof,
        precommit_cid: row.precommit_msg_cid,
        ticket_generation: row.ticket_generation,
        precommit_generation: row.precommit_generation,
        porep_generation: row.porep_generation,
        commit_generation: row.commit_generation,
    }))
}

/// The sectors of these tasks, for `can_accept`; tasks that no sector knows are absent.
pub async fn sectors_of(db: &Db, tasks: &[TaskId]) -> Result<HashMap<TaskId, SectorRef>, DbError> {
    let ids: Vec<i64> = tasks.iter().map(|task| task.0).collect();
    let rows =
        sqlx::query!("SELECT task_id, sp_id, sector_number FROM sectors_pipeline_tasks WHERE task_id = ANY($1)", &ids)
            .fetch_all(db.pool())
            .await?;
    Ok(rows
        .into_iter()
        .map(|row| (TaskId(row.task_id), SectorRef::new(SpId(row.sp_id as u64), row.sector_number as u64)))
        .collect())
}

/// The seal proofs of these tasks' sectors; tasks that no sector knows, or with a proof that is not ours,
/// are absent.
pub async fn proofs_of(db: &Db, tasks: &[TaskId]) -> Result<HashMap<TaskId, SealProof>, DbError> {
    let ids: Vec<i64> = tasks.iter().map(|task| task.0).collect();
    let rows = sqlx::query!(
        "SELECT t.task_id, p.reg_seal_proof
         FROM sectors_pipeline_tasks t JOIN sectors_sdr_pipeline p ON p.sp_id = t.sp_id AND p.sector_number = t.sector_number
         WHERE t.task_id = ANY($1)",
        &ids
    )
    .fetch_all(db.pool())
    .await?;
    let proofs = rows
        .into_iter()
        .filter_map(|row| Some((TaskId(row.task_id), SealProof::from_number(row.reg_seal_proof.into()).ok()?)));
    Ok(proofs.collect())
}

/// Pieces of a sector, in order.
pub async fn pieces(db: &Db, sector: SectorRef) -> Result<Vec<Piece>, Failure> {
    let rows = sqlx::query!(
        "SELECT piece_index, piece_cid, piece_size, data_raw_size, data_url, data_delete_on_finalize
         FROM sectors_sdr_initial_pieces WHERE sp_id = $1 AND sector_number = $2 ORDER BY piece_index",
        sector.sp.0 as i64,
        sector.number as i64
    )
    .fetch_all(db.pool())
    .await
    .map_err(DbError::from)?;
    rows.into_iter()
        .map(|row| {
            Ok(Piece {
                index: row.piece_index,
                cid: cid(sector, "piece_cid", &row.piece_cid)?,
                padded_size: row.piece_size as u64,
                raw_size: row.data_raw_size as u64,
                url: row.data_url,
                keep: !row.data_delete_on_finalize,
            })
        })
        .collect()
}

fn cid(sector: SectorRef, column: &'static str, text: &str) -> Result<Cid, PipelineError> {
    Cid::try_from(text).map_err(|_| PipelineError::Form { sector, column })
}

fn bytes32(sector: SectorRef, column: &'static str, value: Vec<u8>) -> Result<[u8; 32], PipelineError> {
    value.try_into().map_err(|_| PipelineError::Form { sector, column })
}

/// Says so when a task's end changed nothing because its sector no longer waits for it.
pub fn note_end(changed: u64, sector: SectorRef, what: &str) {
    if changed == 0 {
        warn!(sector.sp = %sector.sp, sector.number, "{what} of sector {sector} ended, but the sector no longer waits for it");
    }
}

/// Gives the ticket up: SDR and trees start anew, with another ticket. Returns rows changed.
///
/// The files on disk stay; the next SDR removes them before it stores its ticket.
pub async fn reseal(tx: &mut Tx, sector: SectorRef) -> Result<u64, TxError> {
    let done = sqlx::query!(
        "UPDATE sectors_sdr_pipeline
         SET ticket_epoch = NULL, ticket_value = NULL, ticket_generation = ticket_generation + 1,
             task_id_sdr = NULL, after_sdr = FALSE,
             tree_d_cid = NULL, task_id_tree_d = NULL, after_tree_d = FALSE,
             task_id_tree_c = NULL, after_tree_c = FALSE, tree_r_cid = NULL, task_id_tree_r = NULL, after_tree_r = FALSE,
             precommit_msg_cid = NULL, task_id_precommit_msg = NULL, after_precommit_msg = FALSE,
             precommit_send_id = NULL, precommit_generation = precommit_generation + 1
         WHERE sp_id = $1 AND sector_number = $2 AND NOT failed AND NOT after_precommit_msg_success",
        sector.sp.0 as i64,
        sector.number as i64
    )
    .execute(&mut *tx)
    .await?;
    Ok(done.rows_affected())
}

/// Ends the sector with a reason (at most 20 bytes) and a sentence; `task` is the one that ran out of
/// attempts, if that was it. Returns rows changed: none when it had failed before.
pub async fn fail(
    tx: &mut Tx,
    sector: SectorRef,
    reason: &str,
    message: &str,
    task: Option<TaskId>,
) -> Result<u64, TxError> {
    let done = sqlx::query!(
        "UPDATE sectors_sdr_pipeline SET failed = TRUE, failed_at = now(), failed_reason = $3, failed_reason_msg = $4, failed_task_id = $5
         WHERE sp_id = $1 AND sector_number = $2 AND NOT failed",
        sector.sp.0 as i64,
        sector.number as i64,
        reason,
        message,
        task.map(|task| task.0)
    )
    .execute(&mut *tx)
    .await?;
    Ok(done.rows_affected())
}
