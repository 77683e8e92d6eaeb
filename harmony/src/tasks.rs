//! Adding tasks, and looking at them.

use serde::Serialize;
use sqlx::types::chrono::{DateTime, Utc};

use crate::db::{Db, DbError};
use crate::hints;
use crate::task::{TaskId, TaskName};
use crate::transaction::{SCOPE, Tx, TxError};

/// Adds one task and returns its id. Write the id into the row that asks for the task, in the same
/// transaction: the unique key there, or the check that its column is still null, keeps it to one task.
///
/// Machines learn of it when the transaction commits.
pub async fn add(tx: &mut Tx, kind: TaskName) -> Result<TaskId, TxError> {
    let ids = add_many(tx, kind, 1).await?;
    Ok(ids[0])
}

/// Adds `count` tasks of one kind with one statement.
pub async fn add_many(tx: &mut Tx, kind: TaskName, count: u32) -> Result<Vec<TaskId>, TxError> {
    let (machine, previous) = SCOPE
        .try_with(|scope| {
            scope.added.set(true);
            (scope.machine, scope.previous_task)
        })
        .unwrap_or((None, None));
    let ids = sqlx::query_scalar!(
        r#"
        WITH added AS (
            INSERT INTO harmony_task (name, added_by, previous_task)
            SELECT $1, $2, $3 FROM generate_series(1, $4::int)
            RETURNING id
        ),
        -- One other machine that runs the kind is woken at the commit; the rest find out by their poll. The
        -- time of the transaction chooses, so that all its tasks wake the same one, and with one hint:
        -- equal notifications of a transaction are sent once. While a task of the kind that came in the last
        -- 100 ms still waits, its hint is under way and serves for this one, too. Of work that has a deadline all
        -- machines are told, at once and always, ours included: whoever has room takes it.
        preferred AS (
            SELECT id, deadline_kinds @> ARRAY[$1::text] AS urgent, row_number() OVER (
                ORDER BY id IS NOT DISTINCT FROM $2,
                    ((extract(epoch FROM now()) * 1000000)::bigint + id * 7919) % 1009, id
            ) AS place
            FROM harmony_task_machines
            WHERE kinds @> ARRAY[$1::text] AND evicted_at IS NULL AND stopped_at IS NULL
                AND cordoned_at IS NULL AND last_contact > now() - interval '60 seconds'
                AND current_setting('curio.hints', true) = 'on'
                AND (deadline_kinds @> ARRAY[$1::text] OR $5 AND NOT EXISTS (
                    SELECT FROM harmony_task w
                    WHERE w.name = $1 AND w.owner_id IS NULL AND w.failed_at IS NULL
                        AND w.run_after > now() - interval '100 milliseconds' AND w.run_after <= now()
                ))
        ),
        hint AS MATERIALIZED (
            SELECT pg_notify('curio_machine_' || id, CASE WHEN urgent THEN 'deadline' ELSE 'task' END)::text AS sent
            FROM preferred
            WHERE urgent OR (place = 1 AND id IS DISTINCT FROM $2)
        )
        SELECT id AS "id!" FROM added WHERE (SELECT count(sent) FROM hint) >= 0
        "#,
        kind.as_str(),
        machine,
        previous,
        i32::try_from(count).unwrap_or(i32::MAX),
        hints::may_send(),
    )
    .fetch_all(tx)
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

/// A task as the queue has it.
#[derive(Clone, Debug, Serialize)]
pub struct TaskRow {
    pub id: i64,
    pub kind: String,
    pub state: TaskState,
    /// Name of the machine that runs it.
    pub machine: Option<String>,
    pub posted_at: DateTime<Utc>,
    /// When a waiting task may start.
    pub run_after: DateTime<Utc>,
    pub claimed_at: Option<DateTime<Utc>>,
    pub attempt: i32,
    /// Failed attempts that count.
    pub failures: i32,
    pub max_failures: Option<i32>,
    /// Empty unless the task failed for good.
    pub failed_reason: String,
    pub failed_error: String,
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    /// Any machine may take it.
    Waiting,
    /// An attempt failed and its backoff is not over.
    Backoff,
    Running,
    /// No attempt is left; `curio task retry` starts over.
    Failed,
}

impl TaskState {
    pub const fn as_str(self) -> &'static str {
        match self {
            TaskState::Waiting => "waiting",
            TaskState::Backoff => "backoff",
            TaskState::Running => "running",
            TaskState::Failed => "failed",
        }
    }
}

/// Which rows to list.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub task: Option<TaskId>,
    pub kind: Option<String>,
    /// Most rows; 0 means 1000.
    pub limit: u32,
}

impl Filter {
    fn limit(&self) -> i64 {
        if self.limit == 0 { 1000 } else { self.limit.into() }
    }
}

/// Tasks that are not finished: failed ones first, then running ones, then by time.
pub async fn list(db: &Db, filter: &Filter) -> Result<Vec<TaskRow>, DbError> {
    let rows = sqlx::query!(
        r#"
        SELECT t.id, t.name, t.posted_time, t.run_after, t.run_after > now() AS "backoff!", t.owner_id, t.claimed_at,
            t.attempt, t.retries, t.max_failures, t.failed_at, t.failed_reason, t.failed_error,
            m.name AS "machine?"
        FROM harmony_task t LEFT JOIN harmony_task_machines m ON m.id = t.owner_id
        WHERE ($1::bigint IS NULL OR t.id = $1) AND ($2::text IS NULL OR t.name = $2)
        ORDER BY t.failed_at IS NULL, t.owner_id IS NULL, t.posted_time, t.id
        LIMIT $3
        "#,
        filter.task.map(|task| task.0),
        filter.kind.as_deref(),
        filter.limit(),
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().map(|row| TaskRow {
        id: row.id,
        kind: row.name,
        state: match (row.failed_at, row.owner_id, row.backoff) {
            (Some(_), _, _) => TaskState::Failed,
            (None, Some(_), _) => TaskState::Running,
            (None, None, true) => TaskState::Backoff,
            (None, None, false) => TaskState::Waiting,
        },
        machine: row.machine.or_else(|| row.owner_id.map(|id| format!("machine {id}"))),
        posted_at: row.posted_time,
        run_after: row.run_after,
        claimed_at: row.claimed_at,
        attempt: row.attempt,
        failures: row.retries,
        max_failures: row.max_failures,
        failed_reason: row.failed_reason,
        failed_error: row.failed_error,
    });
    Ok(rows.collect())
}

/// One attempt that ended.
#[derive(Clone, Debug, Serialize)]
pub struct HistoryRow {
    pub task_id: i64,
    pub kind: String,
    pub attempt: i32,
    pub posted_at: DateTime<Utc>,
    pub work_start: DateTime<Utc>,
    pub work_end: DateTime<Utc>,
    pub ok: bool,
    /// False for an attempt that did not count: the runner stopped, infrastructure was away.
    pub counted: bool,
    /// Why it failed; empty when it did not.
    pub error: String,
    pub machine: String,
    pub address: String,
}

/// Attempts, newest first.
pub async fn history(db: &Db, filter: &Filter) -> Result<Vec<HistoryRow>, DbError> {
    let rows = sqlx::query_as!(
        HistoryRow,
        r#"
        SELECT task_id, name AS kind, attempt, posted AS posted_at, work_start, work_end, result AS ok, counted,
            err AS error, completed_by_machine AS machine, completed_by_host_and_port AS address
        FROM harmony_task_history
        WHERE ($1::bigint IS NULL OR task_id = $1) AND ($2::text IS NULL OR name = $2)
        ORDER BY work_end DESC, id DESC
        LIMIT $3
        "#,
        filter.task.map(|task| task.0),
        filter.kind.as_deref(),
        filter.limit(),
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows)
}

/// Gives a task that failed for good, or waits for its backoff, a fresh start: all attempts, at once.
/// Says whether there was such a task; a running one is left alone.
pub async fn retry(db: &Db, task: TaskId) -> Result<bool, TxError> {
    db.transaction("task-retry", move |tx| Box::pin(retry_in(tx, task))).await
}

/// [`retry`] inside the caller's transaction.
pub async fn retry_in(tx: &mut Tx, task: TaskId) -> Result<bool, TxError> {
    let done = sqlx::query!(
        r#"
        UPDATE harmony_task
        SET failed_at = NULL, failed_reason = '', failed_error = '', retries = 0, run_after = now(), update_time = now()
        WHERE id = $1 AND owner_id IS NULL
        "#,
        task.0,
    )
    .execute(tx)
    .await?;
    let found = done.rows_affected() == 1;
    if found {
        // A transaction outside `Db::transaction` has no scope; the poll finds the task then.
        let _ = SCOPE.try_with(|scope| scope.added.set(true));
    }
    Ok(found)
}

/// Why a task failed for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedTask {
    pub id: i64,
    pub kind: String,
    pub reason: String,
    pub error: String,
}

/// Those of `ids` that failed for good, so that a pipeline can say so.
pub async fn failed_among(db: &Db, ids: &[TaskId]) -> Result<Vec<FailedTask>, DbError> {
    let ids: Vec<i64> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        FailedTask,
        r#"
        SELECT id, name AS kind, failed_reason AS reason, failed_error AS error
        FROM harmony_task
        WHERE id = ANY ($1) AND failed_at IS NOT NULL
        "#,
        &ids,
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows)
}

/// Removes a task that nobody runs. Says whether there was one. Pipelines that point at it must be told
/// by the caller, in the same transaction.
pub async fn remove_in(tx: &mut Tx, task: TaskId) -> Result<bool, TxError> {
    let done = sqlx::query!("DELETE FROM harmony_task WHERE id = $1 AND owner_id IS NULL", task.0).execute(tx).await?;
    Ok(done.rows_affected() == 1)
}

/// How much there is of a kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KindLoad {
    pub kind: String,
    /// Tasks that any machine may take now.
    pub waiting: i64,
    /// How long the one that waits longest could have been running; 0 when none waits.
    pub oldest_wait_s: f64,
    pub running: i64,
    /// Tasks that wait for the end of their backoff.
    pub backing_off: i64,
    /// Tasks that failed for good.
    pub failed: i64,
}

/// The queue by kind; kinds without a task are absent.
pub async fn load(db: &Db) -> Result<Vec<KindLoad>, DbError> {
    let rows = sqlx::query_as!(
        KindLoad,
        r#"
        SELECT name AS kind,
            count(*) FILTER (WHERE owner_id IS NULL AND failed_at IS NULL AND run_after <= now()) AS "waiting!",
            coalesce(extract(epoch FROM now() - min(run_after)
                FILTER (WHERE owner_id IS NULL AND failed_at IS NULL AND run_after <= now())), 0)::float8
                AS "oldest_wait_s!",
            count(*) FILTER (WHERE owner_id IS NOT NULL) AS "running!",
            count(*) FILTER (WHERE owner_id IS NULL AND failed_at IS NULL AND run_after > now()) AS "backing_off!",
            count(*) FILTER (WHERE failed_at IS NOT NULL) AS "failed!"
        FROM harmony_task
        GROUP BY name
        ORDER BY name
        "#,
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows)
}

/// A task and the machine that owns it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunningTask {
    pub id: i64,
    pub kind: String,
    /// Name of the machine.
    pub machine: String,
    pub attempt: i32,
    /// Since the claim.
    pub running_s: f64,
}

/// All tasks that run, the oldest claim first. Those of a machine whose row was removed are left out: nobody runs
/// them.
pub async fn running(db: &Db) -> Result<Vec<RunningTask>, DbError> {
    let rows = sqlx::query_as!(
        RunningTask,
        r#"
        SELECT t.id, t.name AS kind, m.name AS machine, t.attempt,
            coalesce(extract(epoch FROM now() - t.claimed_at), 0)::float8 AS "running_s!"
        FROM harmony_task t JOIN harmony_task_machines m ON m.id = t.owner_id
        ORDER BY t.claimed_at, t.id
        "#,
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows)
}
