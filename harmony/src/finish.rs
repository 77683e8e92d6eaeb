//! The writer that stores how attempts ended.
//!
//! Ends that arrive while a statement is under way are written together by the next one, so a busy
//! machine pays one commit for many tasks and a quiet one waits for nobody. Every write names owner and
//! attempt: an end that comes too late changes no row.

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::aftermath::Aftermath;
use crate::db::{Trouble, trouble};
use crate::engine::{Completion, Core};
use crate::task::TaskId;

/// Most ends in one statement.
const BATCH: usize = 256;
/// Tries for an end that the database refuses for a reason of its own.
const TRIES: u32 = 5;
/// An attempt that ended.
pub(crate) struct Finished {
    pub(crate) task: TaskId,
    pub(crate) attempt: u32,
    pub(crate) kind: usize,
    pub(crate) aftermath: Aftermath,
    pub(crate) elapsed: Duration,
}

/// Writes ends until the last sender is gone.
pub(crate) async fn write_ends(core: Arc<Core>, mut ends: mpsc::Receiver<Finished>) {
    let mut batch = Vec::with_capacity(BATCH);
    while ends.recv_many(&mut batch, BATCH).await > 0 {
        write(&core, std::mem::take(&mut batch)).await;
    }
}

async fn write(core: &Core, batch: Vec<Finished>) {
    let (mut done, mut others, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for end in batch {
        match end.aftermath {
            Aftermath::Done => done.push(end),
            Aftermath::Again { .. } | Aftermath::Failed { .. } => others.push(end),
            Aftermath::Lost => lost.push(end),
        }
    }
    for (ends, complete) in [(done, true), (others, false)] {
        if ends.is_empty() {
            continue;
        }
        let written = write_until_known(core, &ends, complete).await;
        for end in ends {
            if written.contains(&end.task.0) {
                report(core, end);
            } else {
                lost.push(end);
            }
        }
    }
    for end in lost {
        let name = core.kinds[end.kind].name;
        info!(task.name = %name, task.id = %end.task, end.attempt, "attempt ended after its claim was lost");
        core.metrics.finished(name, "lost", end.elapsed);
        core.release(end.task, end.attempt);
        // Should the row still be ours after all, somebody must run it.
        core.request_audit();
    }
}

/// Says what was stored: log, metrics, listeners; then frees the resources.
fn report(core: &Core, end: Finished) {
    let name = core.kinds[end.kind].name;
    match &end.aftermath {
        Aftermath::Done | Aftermath::Lost => {}
        Aftermath::Again { counted: true, delay, error, .. } => {
            warn!(task.name = %name, task.id = %end.task, end.attempt, error, "{name} failed, trying again in {delay:?}");
        }
        Aftermath::Again { delay, error, .. } => {
            info!(task.name = %name, task.id = %end.task, end.attempt, error, "{name} was put back for {delay:?}");
        }
        Aftermath::Failed { reason, error } => {
            error!(task.name = %name, task.id = %end.task, end.attempt, reason, error, "{name} failed for good");
        }
    }
    core.metrics.finished(name, end.aftermath.outcome(), end.elapsed);
    core.release(end.task, end.attempt);
    if let Aftermath::Again { delay, .. } = end.aftermath {
        core.wake.look_at(delay);
    }
    let completion = Completion { kind: name, task: end.task, ok: end.aftermath == Aftermath::Done };
    // Nobody may be listening, which is fine.
    let _ = core.completions.send(completion);
}

/// Writes the ends, again and again while the database is away, and returns the tasks for which the
/// row was still ours. Ends early only when the engine gives up.
async fn write_until_known(core: &Core, ends: &[Finished], complete: bool) -> HashSet<i64> {
    let mut tries = 0;
    let mut unsure = false;
    loop {
        let refs: Vec<&Finished> = ends.iter().collect();
        match write_once(core, &refs, complete, unsure).await {
            Ok(written) => return written,
            Err(cause) if trouble(&cause) == Trouble::Statement => {
                tries += 1;
                if tries >= TRIES {
                    return write_one_by_one(core, ends, complete).await;
                }
            }
            Err(cause) if trouble(&cause) == Trouble::Conflict => {}
            // The statement may have been executed all the same; the history tells next time.
            Err(_) => unsure = true,
        }
        let wait =
            Duration::from_millis(100).saturating_mul(1 << tries.min(4)).mul_f64(0.5 + rand::rng().random::<f64>());
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = core.given_up.cancelled() => return HashSet::new(),
        }
    }
}

/// Finds the end that the database does not want, so that the others are stored.
async fn write_one_by_one(core: &Core, ends: &[Finished], complete: bool) -> HashSet<i64> {
    let mut written = HashSet::new();
    for end in ends {
        match write_once(core, &[end], complete, true).await {
            Ok(ids) => written.extend(ids),
            Err(cause) => {
                error!(task.id = %end.task, error = &cause as &dyn Error, "the end of an attempt cannot be stored");
            }
        }
    }
    written
}

async fn write_once(
    core: &Core,
    ends: &[&Finished],
    complete: bool,
    unsure: bool,
) -> Result<HashSet<i64>, sqlx::Error> {
    let statement = async {
        let pool = core.db.engine_pool();
        let mut written: HashSet<i64> =
            if complete { store_done(core, pool, ends).await? } else { store_others(core, pool, ends).await? }
                .into_iter()
                .collect();
        if unsure && written.len() < ends.len() {
            written.extend(read_stored(core, pool, ends).await?);
        }
        Ok(written)
    };
    tokio::time::timeout(core.timing.statement, statement).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

fn keys(ends: &[&Finished]) -> (Vec<i64>, Vec<i32>) {
    ends.iter().map(|end| (end.task.0, i32::try_from(end.attempt).unwrap_or(i32::MAX))).unzip()
}

/// Deletes finished tasks that are still ours and writes their history.
async fn store_done(core: &Core, pool: &PgPool, ends: &[&Finished]) -> Result<Vec<i64>, sqlx::Error> {
    let (ids, attempts) = keys(ends);
    sqlx::query_scalar!(
        r#"
        WITH done AS (
            DELETE FROM harmony_task t
            USING unnest($2::bigint[], $3::int[]) AS f(id, attempt)
            WHERE t.id = f.id AND t.owner_id = $1 AND t.attempt = f.attempt
            RETURNING t.id, t.name, t.attempt, t.posted_time, t.claimed_at
        )
        INSERT INTO harmony_task_history (task_id, name, attempt, posted, work_start, result,
            completed_by_machine, completed_by_host_and_port)
        SELECT id, name, attempt, posted_time, coalesce(claimed_at, now()), true, $4, $5 FROM done
        RETURNING task_id
        "#,
        core.identity().machine,
        &ids,
        &attempts,
        core.spec.name,
        core.spec.address,
    )
    .fetch_all(pool)
    .await
}

/// Releases tasks that are still ours, or marks them as failed for good, and writes their history.
async fn store_others(core: &Core, pool: &PgPool, ends: &[&Finished]) -> Result<Vec<i64>, sqlx::Error> {
    let (ids, attempts) = keys(ends);
    let (mut counted, mut delays_ms, mut reasons, mut errors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for end in ends {
        let (counts, delay, reason, error) = match &end.aftermath {
            Aftermath::Again { counted, delay, error, .. } => (*counted, *delay, "", error.as_str()),
            Aftermath::Failed { reason, error } => (true, Duration::ZERO, reason.as_str(), error.as_str()),
            Aftermath::Done | Aftermath::Lost => (false, Duration::ZERO, "", ""),
        };
        counted.push(counts);
        delays_ms.push(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX));
        reasons.push(reason.to_owned());
        errors.push(error.to_owned());
    }
    sqlx::query_scalar!(
        r#"
        WITH released AS (
            UPDATE harmony_task t
            SET owner_id = NULL, update_time = now(), retries = t.retries + f.counted::int,
                run_after = now() + f.delay_ms * interval '1 millisecond',
                failed_at = CASE WHEN f.reason <> '' THEN now() END,
                failed_reason = f.reason,
                failed_error = CASE WHEN f.reason <> '' THEN f.error ELSE '' END
            FROM unnest($2::bigint[], $3::int[], $4::bool[], $5::bigint[], $6::text[], $7::text[])
                AS f(id, attempt, counted, delay_ms, reason, error)
            WHERE t.id = f.id AND t.owner_id = $1 AND t.attempt = f.attempt
            RETURNING t.id, t.name, t.attempt, t.posted_time, t.claimed_at, f.counted, f.error,
                t.failed_at IS NULL AND t.run_after <= now() AS runnable
        ),
        -- Work that has a deadline must not wait for the next poll of a machine that could go on with it.
        hint AS MATERIALIZED (
            SELECT pg_notify('curio_machine_' || m.id, 'deadline')::text AS sent FROM harmony_task_machines m
            WHERE m.deadline_kinds && ARRAY(SELECT name::text FROM released WHERE runnable)
                AND m.id <> $1 AND m.evicted_at IS NULL AND m.stopped_at IS NULL AND m.cordoned_at IS NULL
                AND current_setting('curio.hints', true) = 'on'
        )
        INSERT INTO harmony_task_history (task_id, name, attempt, posted, work_start, result, counted, err,
            completed_by_machine, completed_by_host_and_port)
        SELECT id, name, attempt, posted_time, coalesce(claimed_at, now()), false, counted, error, $8, $9
        FROM released
        WHERE (SELECT count(sent) FROM hint) >= 0
        RETURNING task_id
        "#,
        core.identity().machine,
        &ids,
        &attempts,
        &counted,
        &delays_ms,
        &reasons,
        &errors,
        core.spec.name,
        core.spec.address,
    )
    .fetch_all(pool)
    .await
}

/// Which of the ends have their history row from us already: an earlier try was executed although
/// its answer never came.
async fn read_stored(core: &Core, pool: &PgPool, ends: &[&Finished]) -> Result<Vec<i64>, sqlx::Error> {
    let (ids, attempts) = keys(ends);
    sqlx::query_scalar!(
        r#"
        SELECT h.task_id
        FROM harmony_task_history h JOIN unnest($1::bigint[], $2::int[]) AS f(id, attempt)
            ON h.task_id = f.id AND h.attempt = f.attempt
        WHERE h.completed_by_machine = $3 AND h.completed_by_host_and_port = $4
        "#,
        &ids,
        &attempts,
        core.spec.name,
        core.spec.address,
    )
    .fetch_all(pool)
    .await
}
