//! What a person decides about a sector: to try a failed task again, and to remove a sector that will not end.

use curio_core::SectorRef;
use curio_harmony::{Db, DbError, TaskId, Tx, TxError, tasks};

use crate::message;
use crate::sector_file::SectorFile;

/// What [`retry`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Tasks that got all their attempts again; none when there was nothing to try again.
    pub tasks: Vec<TaskId>,
}

/// Gives the sector's tasks that failed, or wait for their backoff, a fresh start, and lets a sector go on that failed
/// with one of them.
///
/// A sector that failed for a reason of its own (what the chain said cannot be undone) has nothing to retry.
///
/// # Errors
/// Database trouble.
pub async fn retry(db: &Db, sector: SectorRef) -> Result<Retried, TxError> {
    db.transaction("sector-retry", move |tx| {
        Box::pin(async move {
            let mut retried = Retried::default();
            for task in open_tasks(tx, sector).await? {
                if (task.failed || task.backing_off) && tasks::retry_in(tx, task.id).await? {
                    retried.tasks.push(task.id);
                }
            }
            revive(tx).await?;
            Ok(retried)
        })
    })
    .await
}

/// Lets sectors go on that failed with a task which is not failed any more, because somebody retried or removed it.
/// Returns how many.
///
/// # Errors
/// Database trouble.
pub async fn revive(tx: &mut Tx) -> Result<u64, TxError> {
    let done = sqlx::query!(
        "UPDATE sectors_sdr_pipeline p
         SET failed = FALSE, failed_at = NULL, failed_reason = '', failed_reason_msg = '', failed_task_id = NULL
         WHERE p.failed AND p.failed_task_id IS NOT NULL
           AND NOT EXISTS (SELECT 1 FROM harmony_task h WHERE h.id = p.failed_task_id AND h.failed_at IS NOT NULL)"
    )
    .execute(tx)
    .await?;
    Ok(done.rows_affected())
}

/// What a removal would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovalPreview {
    pub allowed: bool,
    /// Why, or what it costs: one sentence.
    pub reason: String,
    /// Files that would be marked for removal, and where they lie.
    pub files: Vec<String>,
    /// A pre-commit or a commit of the sector is on chain.
    pub on_chain: bool,
}

/// Says what [`remove`] would do, without doing it.
///
/// # Errors
/// Database trouble.
pub async fn preview_removal(db: &Db, sector: SectorRef) -> Result<RemovalPreview, DbError> {
    let mut connection = db.pool().acquire().await?;
    let standing = standing(&mut connection, sector).await?;
    let files = files(db, sector).await?;
    let (allowed, reason) = match &standing {
        None => (false, format!("there is no sector {sector} in the pipeline")),
        Some(standing) => match judge(standing) {
            Ok(cost) => (true, cost.to_owned()),
            Err(refusal) => (false, refusal.to_owned()),
        },
    };
    let on_chain =
        standing.is_some_and(|standing| standing.precommit == OnChain::Yes || standing.commit == OnChain::Yes);
    Ok(RemovalPreview { allowed, reason, files, on_chain })
}

/// What [`remove`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// The row is gone, now or already before, and the files are marked for removal.
    Done,
    /// Nothing new is started for the sector, but something of it still runs, as the sentence says: ask again later.
    Waiting(String),
    /// It may not be removed; the sentence says why.
    Refused(String),
}

/// Removes a sector that failed, or was never pre-committed: its row goes, its files are marked for removal, its
/// number is never used again. What is on chain with a commit, or may come there, stays.
///
/// # Errors
/// Database trouble.
pub async fn remove(db: &Db, sector: SectorRef) -> Result<Removed, TxError> {
    db.transaction("sector-remove", move |tx| {
        Box::pin(async move {
            // Held to the end: a task that asks for a message, and the poller, find the sector as it is afterwards.
            let Some(standing) = lock_and_stand(tx, sector).await? else { return Ok(Removed::Done) };
            if let Err(refusal) = judge(&standing) {
                return Ok(Removed::Refused(refusal.to_owned()));
            }
            let mut running = None;
            for task in open_tasks(tx, sector).await? {
                if !tasks::remove_in(tx, task.id).await? {
                    running = Some(task);
                }
            }
            if let Some(task) = running {
                stop(tx, sector).await?;
                let machine = task.machine.as_deref().unwrap_or("a machine");
                return Ok(Removed::Waiting(format!(
                    "{} runs on {machine}; the sector goes when it has ended",
                    task.kind
                )));
            }
            forget(tx, sector).await?;
            Ok(Removed::Done)
        })
    })
    .await
}

/// Whether a message of a sector has had its effect on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OnChain {
    No,
    /// It is signed, and nobody knows yet what becomes of it.
    Maybe,
    Yes,
}

/// What a removal depends on.
#[derive(Clone, Debug)]
struct Standing {
    failed: bool,
    precommit: OnChain,
    commit: OnChain,
}

/// What a removal costs, or why there is none.
fn judge(standing: &Standing) -> Result<&'static str, &'static str> {
    match (standing.commit, standing.precommit, standing.failed) {
        (OnChain::Yes, _, _) => Err("it is on chain, and its files are needed to prove it"),
        (OnChain::Maybe, _, _) => Err("its commit was sent and may still be executed; wait for the chain's answer"),
        (OnChain::No, OnChain::Yes | OnChain::Maybe, false) => {
            Err("it is pre-committed and goes on; only a failed sector is removed after its pre-commit")
        }
        (OnChain::No, OnChain::Yes | OnChain::Maybe, true) => {
            Ok("it failed after its pre-commit, whose deposit is lost when the pre-commit expires")
        }
        (OnChain::No, OnChain::No, true) => Ok("it failed before its pre-commit; nothing is lost but the work"),
        (OnChain::No, OnChain::No, false) => Ok("it is not pre-committed yet; nothing is lost but the work"),
    }
}

async fn lock_and_stand(tx: &mut Tx, sector: SectorRef) -> Result<Option<Standing>, TxError> {
    sqlx::query_scalar!(
        "SELECT sector_number FROM sectors_sdr_pipeline WHERE sp_id = $1 AND sector_number = $2 FOR UPDATE",
        sector.sp.0 as i64,
        sector.number as i64
    )
    .fetch_optional(&mut *tx)
    .await?;
    Ok(standing(tx, sector).await?)
}

async fn standing(tx: &mut Tx, sector: SectorRef) -> Result<Option<Standing>, DbError> {
    // A message counts from its signature on, and while its task runs: whoever signs it may have pushed it.
    let row = sqlx::query!(
        r#"SELECT p.failed, p.after_precommit_msg_success, p.after_commit_msg_success,
                  EXISTS (SELECT FROM message_sends s LEFT JOIN message_waits w ON w.signed_message_cid = s.signed_cid
                          WHERE s.idempotency_key LIKE $3 AND s.send_success IS NOT FALSE AND coalesce(w.executed_rcpt_exitcode, 0) = 0
                            AND (s.signed_data IS NOT NULL
                                 OR EXISTS (SELECT FROM harmony_task q WHERE q.id = s.send_task_id AND q.owner_id IS NOT NULL))) AS "precommit_sent!",
                  EXISTS (SELECT FROM message_sends s LEFT JOIN message_waits w ON w.signed_message_cid = s.signed_cid
                          WHERE s.idempotency_key LIKE $4 AND s.send_success IS NOT FALSE AND coalesce(w.executed_rcpt_exitcode, 0) = 0
                            AND (s.signed_data IS NOT NULL
                                 OR EXISTS (SELECT FROM harmony_task q WHERE q.id = s.send_task_id AND q.owner_id IS NOT NULL))) AS "commit_sent!"
           FROM sectors_sdr_pipeline p WHERE p.sp_id = $1 AND p.sector_number = $2"#,
        sector.sp.0 as i64,
        sector.number as i64,
        message::any_of("precommit", sector),
        message::any_of("commit", sector)
    )
    .fetch_optional(tx)
    .await?;
    let on_chain = |landed: bool, sent: bool| match (landed, sent) {
        (true, _) => OnChain::Yes,
        (false, true) => OnChain::Maybe,
        (false, false) => OnChain::No,
    };
    Ok(row.map(|row| Standing {
        failed: row.failed,
        precommit: on_chain(row.after_precommit_msg_success, row.precommit_sent),
        commit: on_chain(row.after_commit_msg_success, row.commit_sent),
    }))
}

/// A task of the sector that is in the queue.
struct OpenTask {
    id: TaskId,
    kind: String,
    machine: Option<String>,
    failed: bool,
    backing_off: bool,
}

/// The open tasks of the sector: of its stages, and those that send its messages.
async fn open_tasks(tx: &mut Tx, sector: SectorRef) -> Result<Vec<OpenTask>, TxError> {
    let keys = [message::any_of("precommit", sector), message::any_of("commit", sector)];
    let rows = sqlx::query!(
        r#"SELECT q.id, q.name, m.name AS "machine?", q.failed_at IS NOT NULL AS "failed!",
                  q.owner_id IS NULL AND q.failed_at IS NULL AND q.run_after > now() AS "backing_off!"
           FROM harmony_task q LEFT JOIN harmony_task_machines m ON m.id = q.owner_id
           WHERE q.id IN (SELECT task_id FROM sectors_pipeline_tasks WHERE sp_id = $1 AND sector_number = $2
                          UNION ALL
                          SELECT send_task_id FROM message_sends WHERE idempotency_key LIKE ANY ($3))
           ORDER BY q.id"#,
        sector.sp.0 as i64,
        sector.number as i64,
        &keys[..]
    )
    .fetch_all(tx)
    .await?;
    let tasks = rows.into_iter().map(|row| OpenTask {
        id: TaskId(row.id),
        kind: row.name,
        machine: row.machine,
        failed: row.failed,
        backing_off: row.backing_off,
    });
    Ok(tasks.collect())
}

/// Keeps the poller from starting anything more for a sector that is about to go.
async fn stop(tx: &mut Tx, sector: SectorRef) -> Result<(), TxError> {
    sqlx::query!(
        "UPDATE sectors_sdr_pipeline
         SET failed = TRUE, failed_at = coalesce(failed_at, now()), failed_reason = 'removed',
             failed_reason_msg = 'somebody asked for its removal', failed_task_id = NULL
         WHERE sp_id = $1 AND sector_number = $2",
        sector.sp.0 as i64,
        sector.number as i64
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Takes the sector out of all tables; its history, and its number among those used, stay.
async fn forget(tx: &mut Tx, sector: SectorRef) -> Result<(), TxError> {
    let (sp, number) = (sector.sp.0 as i64, sector.number as i64);
    // Labels of an unfinished SDR are declared nowhere; they may lie on any sealing path. The machine that reaches a
    // path removes the file, if it is there, and then the row.
    sqlx::query!(
        "INSERT INTO sector_location (miner_id, sector_num, sector_filetype, storage_id, removal_requested_at)
         SELECT $1, $2, filetype, p.storage_id, now()
         FROM storage_path p CROSS JOIN unnest($3::int[]) AS filetype
         WHERE p.can_seal
         ON CONFLICT (miner_id, sector_num, sector_filetype, storage_id) DO NOTHING",
        sp,
        number,
        &[SectorFile::Cache.bit(), SectorFile::Sealed.bit()][..]
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
    let keys = [message::any_of("precommit", sector), message::any_of("commit", sector)];
    // Nobody signs it any more: its task is gone.
    sqlx::query!(
        "UPDATE message_sends SET send_success = FALSE, send_error = 'the sector was removed'
         WHERE idempotency_key LIKE ANY ($1) AND signed_data IS NULL AND send_success IS NULL",
        &keys[..]
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("DELETE FROM sectors_meta WHERE sp_id = $1 AND sector_num = $2", sp, number).execute(&mut *tx).await?;
    sqlx::query!("DELETE FROM sectors_sdr_pipeline WHERE sp_id = $1 AND sector_number = $2", sp, number)
        .execute(&mut *tx)
        .await?;
    Ok(())
}

async fn files(db: &Db, sector: SectorRef) -> Result<Vec<String>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT l.sector_filetype, l.storage_id, l.size_bytes,
                  coalesce((SELECT string_agg(m.machine_name, ', ' ORDER BY m.machine_name)
                            FROM storage_path_machines m WHERE m.storage_id = l.storage_id), 'no machine') AS "machines!"
           FROM sector_location l
           WHERE l.miner_id = $1 AND l.sector_num = $2 AND l.removal_requested_at IS NULL
           ORDER BY l.sector_filetype, l.storage_id"#,
        sector.sp.0 as i64,
        sector.number as i64
    )
    .fetch_all(db.pool())
    .await?;
    let files = rows.into_iter().map(|row| {
        let file = SectorFile::from_bit(row.sector_filetype).map_or("file", SectorFile::dir_name);
        format!("{file} of {} bytes on path {} of {}", row.size_bytes, row.storage_id, row.machines)
    });
    Ok(files.collect())
}

#[cfg(test)]
mod tests {
    use super::OnChain::{Maybe, No, Yes};
    use super::*;

    #[test]
    fn only_failed_or_never_precommitted_sectors_may_be_removed_and_nothing_that_is_on_chain() {
        let table = [
            (false, No, No, true),
            (true, No, No, true),
            (false, Maybe, No, false),
            (false, Yes, No, false),
            (true, Maybe, No, true),
            (true, Yes, No, true),
            (true, Yes, Maybe, false),
            (false, Yes, Maybe, false),
            (true, Yes, Yes, false),
            (false, Yes, Yes, false),
        ];
        for (failed, precommit, commit, allowed) in table {
            let standing = Standing { failed, precommit, commit };
            assert_eq!(judge(&standing).is_ok(), allowed, "{standing:?}");
        }
    }
}
