//! Where sectors stand, for people and programs: the answers of `curio sector list` and `status`.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use curio_core::{SealProof, SectorRef, SpId};
use curio_harmony::{Db, DbError};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use crate::message;
use crate::row::{self, Row, Which};
use crate::stage::{PIPELINE, Step, Steps};

/// The state of a sector as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SectorState {
    Sealing,
    /// The commit was executed with exit code 0, and the files lie in long-term storage.
    Proven,
    Failed,
}

/// One sector. Missing values are null.
#[derive(Clone, Debug, Serialize)]
pub struct SectorStatus {
    pub miner: String,
    pub number: u64,
    pub state: SectorState,
    /// The stage it is at; see [`stage_of`].
    pub stage: &'static str,
    pub seal_proof: i64,
    /// Padded bytes.
    pub sector_size: Option<u64>,
    pub is_cc: bool,
    pub created_at: DateTime<Utc>,
    pub ticket_epoch: Option<i64>,
    pub seed_epoch: Option<i64>,
    pub unsealed_cid: Option<String>,
    pub sealed_cid: Option<String>,
    pub precommit_cid: Option<String>,
    pub commit_cid: Option<String>,
    /// Deadline and partition in which the chain wants it proven, from the landing of the commit on.
    pub deadline: Option<i64>,
    pub partition: Option<i64>,
    /// How often it was sealed anew with another ticket.
    pub reseals: i64,
    pub failed_at: Option<DateTime<Utc>>,
    pub failed_reason: Option<String>,
    pub failed_message: Option<String>,
}

/// One sector with everything that happened to it.
#[derive(Clone, Debug, Serialize)]
pub struct SectorDetail {
    #[serde(flatten)]
    pub sector: SectorStatus,
    pub stages: StageRuns,
    pub messages: Vec<MessageStatus>,
    pub pieces: Vec<PieceStatus>,
}

/// The tasks of a sector, by task name in pipeline order.
#[derive(Clone, Debug)]
pub struct StageRuns(pub Vec<(&'static str, StageRun)>);

impl StageRuns {
    pub fn get(&self, task: &str) -> Option<&StageRun> {
        self.0.iter().find(|(name, _)| *name == task).map(|(_, run)| run)
    }
}

impl Serialize for StageRuns {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, run) in &self.0 {
            map.serialize_entry(name, run)?;
        }
        map.end()
    }
}

/// The newest task of a stage.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StageRun {
    pub task_id: Option<i64>,
    pub state: RunState,
    pub machine: Option<String>,
    /// Attempts of all tasks of this stage, the running one included.
    pub attempts: u32,
    /// Work of the last attempt so far.
    pub seconds: Option<f64>,
    pub started: Option<DateTime<Utc>>,
    pub ended: Option<DateTime<Utc>>,
    /// Of the last attempt that failed; none once one succeeded.
    pub error: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Not created yet.
    #[default]
    Waiting,
    /// In the queue.
    Pending,
    Running,
    /// In the queue again after a failed attempt.
    Retrying,
    Done,
    Failed,
}

/// A message of the sector.
#[derive(Clone, Debug, Serialize)]
pub struct MessageStatus {
    pub purpose: String,
    pub cid: Option<String>,
    /// Epoch of the tipset that holds the result.
    pub epoch: Option<i64>,
    pub exit_code: Option<i64>,
    pub send_error: Option<String>,
}

/// A piece of the sector.
#[derive(Clone, Debug, Serialize)]
pub struct PieceStatus {
    pub piece_cid: String,
    pub padded_size: i64,
    pub raw_size: i64,
    pub data_url: String,
    pub keep: bool,
}

/// All sectors, by miner and number; those of one miner when `sp` is given.
///
/// # Errors
/// Database trouble.
pub async fn list(db: &Db, sp: Option<SpId>) -> Result<Vec<SectorStatus>, DbError> {
    let which = sp.map_or(Which::All, Which::OfMiner);
    Ok(row::read(db, which).await?.into_iter().map(SectorStatus::from).collect())
}

/// One sector; none when it is not in the pipeline.
///
/// # Errors
/// Database trouble.
pub async fn sector(db: &Db, sector: SectorRef) -> Result<Option<SectorDetail>, DbError> {
    let Some(row) = row::read(db, Which::One(sector)).await?.pop() else {
        return Ok(None);
    };
    let stages = stages(db, sector).await?;
    let messages = messages(db, sector).await?;
    let pieces = pieces(db, sector).await?;
    Ok(Some(SectorDetail { sector: row.into(), stages, messages, pieces }))
}

impl From<Row> for SectorStatus {
    fn from(row: Row) -> SectorStatus {
        let (state, stage) = row.stage();
        SectorStatus {
            miner: row.sector.sp.to_string(),
            number: row.sector.number,
            state,
            stage,
            seal_proof: row.seal_proof,
            sector_size: SealProof::from_number(row.seal_proof).ok().map(SealProof::sector_size),
            is_cc: row.is_cc,
            created_at: row.created_at,
            ticket_epoch: row.ticket_epoch,
            seed_epoch: row.seed_epoch,
            unsealed_cid: row.unsealed_cid,
            sealed_cid: row.sealed_cid,
            precommit_cid: row.precommit_cid,
            commit_cid: row.commit_cid,
            deadline: row.deadline,
            partition: row.partition,
            reseals: row.reseals,
            failed_at: row.failed_at,
            failed_reason: row.failed_reason,
            failed_message: row.failed_message,
        }
    }
}

/// Waiting for the pre-commit to be executed.
pub const WAIT_PRECOMMIT: &str = "WaitPreCommit";
/// Waiting for the seed epoch, and for the head to be far enough above it.
pub const WAIT_SEED: &str = "WaitSeed";
/// Waiting for the commit to be executed.
pub const WAIT_COMMIT: &str = "WaitCommit";

/// A sector's state, and the word for the stage it is at: a task name, one of the `Wait...` words,
/// `Done` or `Failed`.
pub fn stage_of(done: Steps, failed: bool, porep_open: bool) -> (SectorState, &'static str) {
    if failed {
        return (SectorState::Failed, "Failed");
    }
    if done.has_all(&[Step::CommitLanded, Step::MoveStorage]) {
        return (SectorState::Proven, "Done");
    }
    let order = [
        (Step::Sdr, "SDR"),
        (Step::TreeD, "TreeD"),
        (Step::TreeR, "TreeRC"),
        (Step::PreCommitSent, "PreCommitSubmit"),
        (Step::PreCommitLanded, WAIT_PRECOMMIT),
        (Step::PoRep, if porep_open { "PoRep" } else { WAIT_SEED }),
        (Step::CommitSent, "CommitSubmit"),
        (Step::Finalize, "Finalize"),
        (Step::MoveStorage, "MoveStorage"),
    ];
    let stage = order.into_iter().find(|(step, _)| !done.has(*step)).map_or(WAIT_COMMIT, |(_, word)| word);
    (SectorState::Sealing, stage)
}

async fn stages(db: &Db, sector: SectorRef) -> Result<StageRuns, DbError> {
    let (sp, number) = (sector.sp.0 as i64, sector.number as i64);
    let tasks = sqlx::query!(
        r#"SELECT t.task_id, t.task_name, q.id IS NOT NULL AS "queued!", q.failed_at AS "failed_at?", q.failed_error AS "failed_error?",
                  q.claimed_at AS "claimed_at?", q.owner_id AS "owner_id?", q.attempt AS "attempt?", m.name AS "machine?",
                  extract(epoch FROM now() - q.claimed_at)::float8 AS "running_s?"
           FROM sectors_pipeline_tasks t
           LEFT JOIN harmony_task q ON q.id = t.task_id
           LEFT JOIN harmony_task_machines m ON m.id = q.owner_id
           WHERE t.sp_id = $1 AND t.sector_number = $2
           ORDER BY t.created_at, t.task_id"#,
        sp,
        number
    )
    .fetch_all(db.pool())
    .await?;
    let attempts = sqlx::query!(
        r#"SELECT h.task_id, h.work_start, h.work_end, h.result, h.err, h.completed_by_machine,
                  extract(epoch FROM h.work_end - h.work_start)::float8 AS "seconds!"
           FROM sectors_pipeline_tasks t JOIN harmony_task_history h ON h.task_id = t.task_id
           WHERE t.sp_id = $1 AND t.sector_number = $2
           ORDER BY h.task_id, h.attempt, h.id"#,
        sp,
        number
    )
    .fetch_all(db.pool())
    .await?;
    let mut runs: HashMap<&str, StageRun> = HashMap::new();
    for task in &tasks {
        let run = runs.entry(task.task_name.as_str()).or_default();
        let earlier = run.attempts;
        *run = StageRun { task_id: Some(task.task_id), attempts: earlier, ..StageRun::default() };
        for attempt in attempts.iter().filter(|attempt| attempt.task_id == task.task_id) {
            run.attempts += 1;
            run.machine = Some(attempt.completed_by_machine.clone());
            run.started = Some(attempt.work_start);
            run.ended = Some(attempt.work_end);
            run.seconds = Some(attempt.seconds);
            run.error = (!attempt.result).then(|| attempt.err.clone());
        }
        if task.queued && task.owner_id.is_some() {
            run.attempts += 1;
            run.machine = task.machine.clone();
            run.started = task.claimed_at;
            run.ended = None;
            run.seconds = task.running_s;
        }
        run.state = match (task.queued, task.failed_at, task.owner_id, run.error.is_some()) {
            (false, ..) => RunState::Done,
            (true, Some(_), ..) => RunState::Failed,
            (true, None, Some(_), _) => RunState::Running,
            (true, None, None, true) => RunState::Retrying,
            (true, None, None, false) => RunState::Pending,
        };
    }
    let runs = PIPELINE.iter().map(|row| {
        let name = row.task.as_str();
        (name, runs.remove(name).unwrap_or_default())
    });
    Ok(StageRuns(runs.collect()))
}

async fn messages(db: &Db, sector: SectorRef) -> Result<Vec<MessageStatus>, DbError> {
    let keys = [message::any_of("precommit", sector), message::any_of("commit", sector)];
    Ok(sqlx::query_as!(
        MessageStatus,
        r#"SELECT s.send_reason AS purpose, s.signed_cid AS cid, w.executed_tsk_epoch AS "epoch?", w.executed_rcpt_exitcode AS "exit_code?",
                  s.send_error
           FROM message_sends s LEFT JOIN message_waits w ON w.signed_message_cid = s.signed_cid
           WHERE s.idempotency_key LIKE ANY($1) ORDER BY s.send_id"#,
        &keys[..]
    )
    .fetch_all(db.pool())
    .await?)
}

async fn pieces(db: &Db, sector: SectorRef) -> Result<Vec<PieceStatus>, DbError> {
    Ok(sqlx::query_as!(
        PieceStatus,
        r#"SELECT piece_cid, piece_size AS padded_size, data_raw_size AS raw_size, data_url, NOT data_delete_on_finalize AS "keep!"
           FROM sectors_sdr_initial_pieces WHERE sp_id = $1 AND sector_number = $2 ORDER BY piece_index"#,
        sector.sp.0 as i64,
        sector.number as i64
    )
    .fetch_all(db.pool())
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_is_the_first_thing_that_is_not_done() {
        let steps = [
            (Step::Sdr, "SDR"),
            (Step::TreeD, "TreeD"),
            (Step::TreeC, "TreeRC"),
            (Step::TreeR, "TreeRC"),
            (Step::PreCommitSent, "PreCommitSubmit"),
            (Step::PreCommitLanded, "WaitPreCommit"),
            (Step::PoRep, "WaitSeed"),
            (Step::CommitSent, "CommitSubmit"),
            (Step::Finalize, "Finalize"),
            (Step::MoveStorage, "MoveStorage"),
        ];
        let mut done = Steps::default();
        for (step, stage) in steps {
            assert_eq!(stage_of(done, false, false), (SectorState::Sealing, stage));
            done = done.with(step, true);
        }
        assert_eq!(stage_of(done, false, false), (SectorState::Sealing, "WaitCommit"));
        assert_eq!(stage_of(done.with(Step::CommitLanded, true), false, false), (SectorState::Proven, "Done"));
        assert_eq!(stage_of(done, true, false), (SectorState::Failed, "Failed"));
    }
}
