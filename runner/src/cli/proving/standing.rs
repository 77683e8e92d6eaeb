//! What the cluster did about the partitions of a miner: our rows of the newest window of each deadline.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use curio_core::SpId;
use curio_harmony::{Db, DbError};
use serde::Serialize;

/// How far the newest proof of a partition is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct PartitionStanding {
    pub partition: u64,
    /// First epoch of its window.
    pub open_epoch: i64,
    /// `landed`, `nothing` or `missed`, once it is known.
    pub outcome: Option<String>,
    /// Machine that makes the proof now.
    pub machine: Option<String>,
    pub attempts: i32,
    /// Why the task failed for good.
    pub problem: Option<String>,
    pub made_at: Option<DateTime<Utc>>,
    pub made_by: Option<String>,
    pub skipped_sectors: Vec<i64>,
    pub message_cid: Option<String>,
    pub landed_epoch: Option<i64>,
}

impl PartitionStanding {
    /// One phrase for a table.
    pub(super) fn phrase(&self) -> String {
        let skipped = match self.skipped_sectors.len() {
            0 => String::new(),
            skipped => format!(", {skipped} skipped"),
        };
        let made_by = || self.made_by.as_deref().unwrap_or("a machine");
        match (self.outcome.as_deref(), self.landed_epoch) {
            (Some("nothing"), _) => return "nothing to prove".to_owned(),
            (Some("missed"), _) => return "missed".to_owned(),
            (_, Some(epoch)) => return format!("landed at {epoch}, made by {}{skipped}", made_by()),
            (Some(_), None) => return format!("landed, made by {}{skipped}", made_by()),
            (None, None) => {}
        }
        match (&self.message_cid, self.made_at, &self.machine, &self.problem) {
            (Some(_), _, _, _) => format!("sent, made by {}{skipped}", made_by()),
            (None, Some(_), _, _) => format!("made by {}, not sent yet{skipped}", made_by()),
            (None, None, Some(machine), _) => format!("being made by {machine}, attempt {}", self.attempts),
            (None, None, None, Some(problem)) => format!("failed for good: {problem}"),
            (None, None, None, None) => "waits for a machine".to_owned(),
        }
    }
}

/// The partitions of one deadline, in the newest window that the cluster knows.
///
/// # Errors
/// Database trouble.
pub(super) async fn of_deadline(db: &Db, sp: SpId, deadline: u64) -> Result<Vec<PartitionStanding>, DbError> {
    let rows = sqlx::query!(
        r#"
        SELECT t.partition_index, t.open_epoch, t.outcome, m.name AS "machine?", q.attempt AS "attempt?",
            q.failed_error AS "failed_error?", p.made_at AS "made_at?", p.made_by AS "made_by?",
            p.skipped_sectors AS "skipped_sectors?", p.landed_epoch AS "landed_epoch?", s.signed_cid AS "signed_cid?"
        FROM wdpost_partition_tasks t
        LEFT JOIN wdpost_proofs p ON p.sp_id = t.sp_id AND p.proving_period_start = t.proving_period_start
            AND p.deadline = t.deadline_index AND p.partition = t.partition_index
        LEFT JOIN message_sends s ON s.send_id = p.send_id
        LEFT JOIN harmony_task q ON q.id = t.task_id
        LEFT JOIN harmony_task_machines m ON m.id = q.owner_id
        WHERE t.sp_id = $1 AND t.deadline_index = $2
            AND t.proving_period_start = (
                SELECT max(newest.proving_period_start) FROM wdpost_partition_tasks newest
                WHERE newest.sp_id = t.sp_id AND newest.deadline_index = t.deadline_index)
        ORDER BY t.partition_index
        "#,
        i64::try_from(sp.0).unwrap_or(i64::MAX),
        i64::try_from(deadline).unwrap_or(i64::MAX),
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().map(|row| PartitionStanding {
        partition: u64::try_from(row.partition_index).unwrap_or(0),
        open_epoch: row.open_epoch,
        outcome: row.outcome,
        machine: row.machine,
        attempts: row.attempt.unwrap_or(0),
        problem: row.failed_error.filter(|error| !error.is_empty()),
        made_at: row.made_at,
        made_by: row.made_by,
        skipped_sectors: row.skipped_sectors.unwrap_or_default(),
        message_cid: row.signed_cid,
        landed_epoch: row.landed_epoch,
    });
    Ok(rows.collect())
}

/// How the newest window of a deadline went, in partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct WindowResult {
    pub open_epoch: i64,
    pub landed: i64,
    pub missed: i64,
    pub nothing: i64,
    /// Without an outcome yet.
    pub underway: i64,
}

impl WindowResult {
    /// One phrase for a table.
    pub(super) fn phrase(&self) -> String {
        let WindowResult { open_epoch: _, landed, missed, nothing: _, underway } = *self;
        let part = |count: i64, word: &str| (count > 0).then(|| format!("{count} {word}"));
        let parts = [part(missed, "missed"), part(underway, "underway"), part(landed, "landed")];
        match parts.into_iter().flatten().collect::<Vec<_>>() {
            parts if parts.is_empty() => "nothing to prove".to_owned(),
            parts => parts.join(", "),
        }
    }
}

/// The newest window of every deadline that the cluster knows, by the deadline's index.
///
/// # Errors
/// Database trouble.
pub(super) async fn of_miner(db: &Db, sp: SpId) -> Result<BTreeMap<u64, WindowResult>, DbError> {
    let rows = sqlx::query!(
        r#"
        SELECT t.deadline_index, max(t.open_epoch) AS "open_epoch!",
            count(*) FILTER (WHERE t.outcome = 'landed') AS "landed!",
            count(*) FILTER (WHERE t.outcome = 'missed') AS "missed!",
            count(*) FILTER (WHERE t.outcome = 'nothing') AS "nothing!",
            count(*) FILTER (WHERE t.outcome IS NULL) AS "underway!"
        FROM wdpost_partition_tasks t
        WHERE t.sp_id = $1
            AND t.proving_period_start = (
                SELECT max(newest.proving_period_start) FROM wdpost_partition_tasks newest
                WHERE newest.sp_id = t.sp_id AND newest.deadline_index = t.deadline_index)
        GROUP BY t.deadline_index
        "#,
        i64::try_from(sp.0).unwrap_or(i64::MAX),
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().map(|row| {
        let result = WindowResult {
            open_epoch: row.open_epoch,
            landed: row.landed,
            missed: row.missed,
            nothing: row.nothing,
            underway: row.underway,
        };
        (u64::try_from(row.deadline_index).unwrap_or(0), result)
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting() -> PartitionStanding {
        PartitionStanding {
            partition: 0,
            open_epoch: 100,
            outcome: None,
            machine: None,
            attempts: 0,
            problem: None,
            made_at: None,
            made_by: None,
            skipped_sectors: Vec::new(),
            message_cid: None,
            landed_epoch: None,
        }
    }

    #[test]
    fn a_proof_is_told_by_how_far_it_is() {
        let running = PartitionStanding { machine: Some("post-0".to_owned()), attempts: 1, ..waiting() };
        let failed = PartitionStanding { attempts: 2, problem: Some("no files".to_owned()), ..waiting() };
        let made = PartitionStanding {
            made_at: Some(DateTime::UNIX_EPOCH),
            made_by: Some("post-0".to_owned()),
            skipped_sectors: vec![3],
            ..waiting()
        };
        let sent = PartitionStanding { message_cid: Some("bafy".to_owned()), ..made.clone() };
        let landed = PartitionStanding { outcome: Some("landed".to_owned()), landed_epoch: Some(107), ..sent.clone() };
        let table = [
            (waiting(), "waits for a machine"),
            (running, "being made by post-0, attempt 1"),
            (failed, "failed for good: no files"),
            (made, "made by post-0, not sent yet, 1 skipped"),
            (sent, "sent, made by post-0, 1 skipped"),
            (landed, "landed at 107, made by post-0, 1 skipped"),
            (PartitionStanding { outcome: Some("missed".to_owned()), ..waiting() }, "missed"),
            (PartitionStanding { outcome: Some("nothing".to_owned()), ..waiting() }, "nothing to prove"),
        ];
        for (standing, phrase) in table {
            assert_eq!(standing.phrase(), phrase);
        }
    }

    #[test]
    fn a_window_is_told_worst_first() {
        let result = WindowResult { open_epoch: 100, landed: 2, missed: 1, nothing: 1, underway: 0 };
        assert_eq!(result.phrase(), "1 missed, 2 landed");
        assert_eq!(WindowResult { nothing: 1, ..WindowResult::default() }.phrase(), "nothing to prove");
    }
}
