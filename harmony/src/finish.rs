//! How attempts end: the judgement, and the writer that stores it.
//!
//! Ends that arrive while a statement is under way are written together by the next one, so a busy
//! machine pays one commit for many tasks and a quiet one waits for nobody. Every write names owner and
//! attempt: an end that comes too late changes no row.

use std::collections::HashSet;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use curio_core::Failure;
use rand::Rng;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::db::{Trouble, trouble};
use crate::engine::{Completion, Core};
use crate::task::{Spec, TaskId};

/// Most ends in one statement.
const BATCH: usize = 256;
/// Longest error text that is stored, in bytes.
const LONGEST_ERROR: usize = 8 << 10;
/// Width of `failed_reason`.
const LONGEST_REASON: usize = 20;
/// Tries for an end that the database refuses for a reason of its own.
const TRIES: u32 = 5;
/// Longest backoff after infrastructure trouble: it ends at any moment.
const AWAY_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What becomes of a task after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aftermath {
    Done,
    /// It runs again.
    Again {
        counted: bool,
        delay: Duration,
        error: String,
        outcome: &'static str,
    },
    /// It stays as a failed row.
    Failed {
        reason: String,
        error: String,
    },
    /// It was not ours any more.
    Lost,
}

impl Aftermath {
    /// The word in metrics.
    fn outcome(&self) -> &'static str {
        match self {
            Aftermath::Done => "done",
            Aftermath::Again { outcome, .. } => outcome,
            Aftermath::Failed { .. } => "failed",
            Aftermath::Lost => "lost",
        }
    }
}

/// Judges an attempt. `failures` counts the failed attempts before this one, `attempt` is its fencing
/// number, `stopping` says that the runner is shutting down, `chance` in 0..1 spreads the backoff.
pub(crate) fn aftermath(
    spec: &Spec,
    result: Result<(), Failure>,
    failures: u32,
    attempt: u32,
    stopping: bool,
    chance: f64,
) -> Aftermath {
    let failure = match result {
        Ok(()) => return Aftermath::Done,
        Err(failure) => failure,
    };
    let error = storable(&failure.to_string(), LONGEST_ERROR);
    match failure {
        Failure::Lost => Aftermath::Lost,
        Failure::Permanent { reason, .. } => Aftermath::Failed { reason: storable(reason, LONGEST_REASON), error },
        // While the runner stops, children are killed and calls are cut short: whatever an attempt says of
        // it, the task has not failed.
        Failure::Retry(_) | Failure::Stopping if stopping => {
            Aftermath::Again { counted: false, delay: Duration::ZERO, error, outcome: "stopping" }
        }
        Failure::Stopping => {
            Aftermath::Again { counted: false, delay: spec.backoff.delay(1, chance), error, outcome: "stopping" }
        }
        Failure::Unavailable(_) => {
            let delay = spec.backoff.delay(attempt, chance).min(AWAY_BACKOFF_MAX);
            Aftermath::Again { counted: false, delay, error, outcome: "unavailable" }
        }
        Failure::Retry(_) => {
            let failures = failures.saturating_add(1);
            if spec.max_failures.is_some_and(|max| failures >= max) {
                Aftermath::Failed { reason: "max-failures".to_owned(), error }
            } else {
                let delay = spec.backoff.delay(failures, chance);
                Aftermath::Again { counted: true, delay, error, outcome: "retry" }
            }
        }
    }
}

/// Text that a column takes: without NUL, at most `max` bytes, cut at a character.
fn storable(text: &str, max: usize) -> String {
    let clean = text.replace('\0', " ");
    let mut end = clean.len().min(max);
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    clean[..end].to_owned()
}

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
            RETURNING t.id, t.name, t.attempt, t.posted_time, t.claimed_at, f.counted, f.error
        )
        INSERT INTO harmony_task_history (task_id, name, attempt, posted, work_start, result, counted, err,
            completed_by_machine, completed_by_host_and_port)
        SELECT id, name, attempt, posted_time, coalesce(claimed_at, now()), false, counted, error, $8, $9
        FROM released
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

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::task::Backoff;

    fn spec(max_failures: Option<u32>) -> Spec {
        let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(100));
        Spec { max_failures, backoff, ..Spec::default() }
    }

    fn judge(result: Result<(), Failure>, failures: u32, stopping: bool) -> Aftermath {
        aftermath(&spec(Some(3)), result, failures, failures + 1, stopping, 0.0)
    }

    fn again(counted: bool, seconds: u64, error: &str, outcome: &'static str) -> Aftermath {
        Aftermath::Again { counted, delay: Duration::from_secs(seconds), error: error.to_owned(), outcome }
    }

    #[rstest]
    #[case::success(Ok(()), 2, false, Aftermath::Done)]
    #[case::success_while_stopping(Ok(()), 0, true, Aftermath::Done)]
    #[case::first_failure(Err(Failure::retry("no")), 0, false, again(true, 1, "no", "retry"))]
    #[case::second_failure(Err(Failure::retry("no")), 1, false, again(true, 2, "no", "retry"))]
    #[case::third_of_three(
        Err(Failure::retry("no")), 2, false,
        Aftermath::Failed { reason: "max-failures".into(), error: "no".into() }
    )]
    #[case::permanent_at_once(
        Err(Failure::permanent("too-late", "too old")), 0, false,
        Aftermath::Failed { reason: "too-late".into(), error: "too-late: too old".into() }
    )]
    #[case::killed_while_stopping(
        Err(Failure::retry("child died")),
        2,
        true,
        again(false, 0, "child died", "stopping")
    )]
    #[case::stopping(Err(Failure::Stopping), 2, true, again(false, 0, "the runner is stopping", "stopping"))]
    #[case::away(Err(Failure::unavailable("network away")), 2, false, again(false, 4, "network away", "unavailable"))]
    #[case::lost(Err(Failure::Lost), 0, true, Aftermath::Lost)]
    fn an_attempt_is_judged(
        #[case] result: Result<(), Failure>,
        #[case] failures: u32,
        #[case] stopping: bool,
        #[case] expected: Aftermath,
    ) {
        assert_eq!(judge(result, failures, stopping), expected);
    }

    #[test]
    fn without_a_limit_a_task_is_tried_for_ever() {
        let after = aftermath(&spec(None), Err(Failure::retry("no")), 1_000_000, 1, false, 0.0);
        assert!(matches!(after, Aftermath::Again { counted: true, .. }), "{after:?}");
    }

    #[test]
    fn waiting_for_infrastructure_is_never_long() {
        let after = aftermath(&spec(None), Err(Failure::unavailable("away")), 0, 1_000, false, 0.0);
        assert_eq!(after, again(false, 30, "away", "unavailable"));
    }

    #[test]
    fn stored_text_has_no_nul_and_ends_at_a_character() {
        assert_eq!(storable("a\0b", 10), "a b");
        assert_eq!(storable("aé", 2), "a");
    }
}
