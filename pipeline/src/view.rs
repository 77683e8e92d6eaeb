//! The pipeline as the operator shows it: one flat value per sector. Three statements read everything, however many
//! sectors there are.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use curio_core::{SectorRef, SpId};
use curio_harmony::tasks::TaskState;
use curio_harmony::{Db, DbError};

use crate::row::{self, Row, Which};
use crate::stage::Step;
use crate::status::SectorState;

/// One sector.
#[derive(Clone, Debug, PartialEq)]
pub struct SectorView {
    pub sector: SectorRef,
    /// See [`crate::status::stage_of`].
    pub stage: &'static str,
    pub state: SectorState,
    /// The task that it stands at; none while it waits for the chain, or for a runner that creates the next one.
    pub task: Option<TaskView>,
    /// Attempts of its tasks that failed and count, over all stages.
    pub attempts: i32,
    /// Why the last attempt of an open task failed; none once there is nothing to worry about.
    pub last_error: Option<String>,
    pub ticket_epoch: Option<i64>,
    pub seed_epoch: Option<i64>,
    pub unsealed_cid: Option<String>,
    pub sealed_cid: Option<String>,
    pub precommit_cid: Option<String>,
    pub commit_cid: Option<String>,
    /// Deadline and partition in which the chain wants it proven, from the landing of the commit on.
    pub deadline: Option<i64>,
    pub partition: Option<i64>,
    /// The pre-commit was executed with exit code 0.
    pub precommitted: bool,
    /// The commit was executed with exit code 0.
    pub committed: bool,
    /// A short closed word.
    pub failed_reason: Option<String>,
    pub failed_message: Option<String>,
    /// The request that the sector came from.
    pub request_uid: Option<String>,
    pub created_at: DateTime<Utc>,
    /// When nothing was left to do. A failed sector has not ended: somebody has to retry or remove it.
    pub ended_at: Option<DateTime<Utc>>,
    /// For how long any machine could have taken the task; none when it runs, failed, or waits for its backoff.
    pub waiting_since_s: Option<f64>,
}

/// An open task of a sector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskView {
    pub id: i64,
    pub kind: String,
    /// The one that runs it.
    pub machine: Option<String>,
    pub state: TaskState,
}

/// Sectors in flight, failed ones, and those that ended within `ended_within`; by miner and number.
///
/// # Errors
/// Database trouble.
pub async fn sectors(db: &Db, ended_within: Duration) -> Result<Vec<SectorView>, DbError> {
    let rows = row::read(db, Which::Recent(ended_within)).await?;
    let mut tasks = open_tasks(db).await?;
    let failures = failures(db, &rows).await?;
    let views = rows.into_iter().map(|row| {
        let open = tasks.remove(&row.sector).unwrap_or_default();
        let failures = failures.get(&row.sector).copied().unwrap_or(0);
        view(row, open, failures)
    });
    Ok(views.collect())
}

/// An open task with what is known of its attempts.
#[derive(Clone, Debug)]
struct OpenTask {
    view: TaskView,
    waiting_s: f64,
    /// Of the last attempt that failed, or of the task as a whole.
    error: Option<String>,
}

fn view(row: Row, open: Vec<OpenTask>, attempts: i32) -> SectorView {
    let (state, stage) = row.stage();
    let current = foremost(open);
    SectorView {
        sector: row.sector,
        stage,
        state,
        attempts,
        waiting_since_s: current
            .as_ref()
            .filter(|task| task.view.state == TaskState::Waiting)
            .map(|task| task.waiting_s),
        last_error: current.as_ref().and_then(|task| task.error.clone()),
        task: current.map(|task| task.view),
        ticket_epoch: row.ticket_epoch,
        seed_epoch: row.seed_epoch,
        unsealed_cid: row.unsealed_cid,
        sealed_cid: row.sealed_cid,
        precommit_cid: row.precommit_cid,
        commit_cid: row.commit_cid,
        deadline: row.deadline,
        partition: row.partition,
        precommitted: row.done.has(Step::PreCommitLanded),
        committed: row.done.has(Step::CommitLanded),
        failed_reason: row.failed_reason,
        failed_message: row.failed_message,
        request_uid: row.request_uid,
        created_at: row.created_at,
        ended_at: row.ended_at,
    }
}

/// The task to show of several (a commit and a file copy go on side by side): the one in trouble, then one that
/// runs, then the oldest.
fn foremost(open: Vec<OpenTask>) -> Option<OpenTask> {
    let rank = |state: TaskState| match state {
        TaskState::Failed => 0,
        TaskState::Backoff => 1,
        TaskState::Running => 2,
        TaskState::Waiting => 3,
    };
    open.into_iter().min_by_key(|task| (rank(task.view.state), task.view.id))
}

/// The open tasks of all sectors: those in the columns of their rows, and those that send their messages.
async fn open_tasks(db: &Db) -> Result<HashMap<SectorRef, Vec<OpenTask>>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT p.sp_id, p.sector_number, q.id, q.name, q.owner_id, q.failed_at, q.failed_error, m.name AS "machine?",
                  q.run_after > now() AS "backoff!", extract(epoch FROM now() - q.run_after)::float8 AS "waiting_s!",
                  (SELECT h.err FROM harmony_task_history h WHERE h.task_id = q.id AND NOT h.result AND h.counted
                   ORDER BY h.attempt DESC, h.id DESC LIMIT 1) AS "last_error?"
           FROM sectors_sdr_pipeline p
           LEFT JOIN message_sends ps ON ps.send_id = p.precommit_send_id AND NOT p.after_precommit_msg_success
           LEFT JOIN message_sends cs ON cs.send_id = p.commit_send_id AND NOT p.after_commit_msg_success
           JOIN harmony_task q
             ON q.id = ANY (ARRAY[p.task_id_sdr, p.task_id_tree_d, p.task_id_tree_c, p.task_id_tree_r, p.task_id_precommit_msg,
                                  p.task_id_porep, p.task_id_finalize, p.task_id_move_storage, p.task_id_commit_msg,
                                  ps.send_task_id, cs.send_task_id])
           LEFT JOIN harmony_task_machines m ON m.id = q.owner_id
           WHERE p.ended_at IS NULL"#
    )
    .fetch_all(db.pool())
    .await?;
    let mut tasks: HashMap<SectorRef, Vec<OpenTask>> = HashMap::new();
    for row in rows {
        let state = match (row.failed_at, row.owner_id, row.backoff) {
            (Some(_), _, _) => TaskState::Failed,
            (None, Some(_), _) => TaskState::Running,
            (None, None, true) => TaskState::Backoff,
            (None, None, false) => TaskState::Waiting,
        };
        let error = row.last_error.or_else(|| Some(row.failed_error).filter(|error| !error.is_empty()));
        let sector = SectorRef::new(SpId(row.sp_id as u64), row.sector_number as u64);
        tasks.entry(sector).or_default().push(OpenTask {
            view: TaskView { id: row.id, kind: row.name, machine: row.machine, state },
            waiting_s: row.waiting_s,
            error,
        });
    }
    Ok(tasks)
}

/// Failed attempts of the sectors' tasks, all stages together; sectors without any are absent.
async fn failures(db: &Db, rows: &[Row]) -> Result<HashMap<SectorRef, i32>, DbError> {
    let miners: Vec<i64> = rows.iter().map(|row| row.sector.sp.0 as i64).collect();
    let numbers: Vec<i64> = rows.iter().map(|row| row.sector.number as i64).collect();
    let counts = sqlx::query!(
        r#"SELECT t.sp_id, t.sector_number, count(*)::int AS "failures!"
           FROM unnest($1::bigint[], $2::bigint[]) AS s(sp_id, sector_number)
           JOIN sectors_pipeline_tasks t ON t.sp_id = s.sp_id AND t.sector_number = s.sector_number
           JOIN harmony_task_history h ON h.task_id = t.task_id
           WHERE NOT h.result AND h.counted
           GROUP BY t.sp_id, t.sector_number"#,
        &miners,
        &numbers
    )
    .fetch_all(db.pool())
    .await?;
    let counts = counts.into_iter().map(|row| {
        let sector = SectorRef::new(SpId(row.sp_id as u64), row.sector_number as u64);
        (sector, row.failures)
    });
    Ok(counts.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(id: i64, state: TaskState) -> OpenTask {
        OpenTask {
            view: TaskView { id, kind: "Finalize".to_owned(), machine: None, state },
            waiting_s: 0.0,
            error: None,
        }
    }

    #[test]
    fn of_several_tasks_the_one_in_trouble_is_shown_then_a_running_one_then_the_oldest() {
        use TaskState::{Backoff, Failed, Running, Waiting};
        type Case<'a> = (&'a [(i64, TaskState)], Option<i64>);
        let table: [Case; 6] = [
            (&[], None),
            (&[(2, Waiting), (1, Waiting)], Some(1)),
            (&[(1, Waiting), (2, Running)], Some(2)),
            (&[(1, Running), (2, Backoff)], Some(2)),
            (&[(1, Backoff), (2, Failed)], Some(2)),
            (&[(1, Running), (2, Running)], Some(1)),
        ];
        for (open, shown) in table {
            let open: Vec<OpenTask> = open.iter().map(|(id, state)| task(*id, *state)).collect();
            assert_eq!(foremost(open.clone()).map(|task| task.view.id), shown, "of {open:?}");
        }
    }
}
