//! The machines of the cluster, for whoever looks after them: what they are, and what is decided about them
//! from outside.

use serde::Serialize;
use sqlx::types::chrono::{DateTime, Utc};

use crate::db::{Db, DbError};
use crate::machine::{self, Gone};
use crate::transaction::TxError;

/// A machine as the database knows it.
#[derive(Clone, Debug, Serialize)]
pub struct MachineRow {
    pub id: i64,
    pub name: String,
    pub incarnation: i64,
    pub address: String,
    pub cpu: i32,
    pub ram_bytes: i64,
    pub gpu_milli: i32,
    pub kinds: Vec<String>,
    pub layers: Vec<String>,
    pub labels: Vec<String>,
    pub version: String,
    pub started_at: DateTime<Utc>,
    pub last_contact: DateTime<Utc>,
    /// Age of the last heartbeat by the server's clock.
    pub contact_age_s: f64,
    /// Tasks that it owns.
    pub running: i64,
    pub state: MachineState,
    /// What its process runs in, such as the UID of a pod; empty when nobody said.
    pub instance: String,
    /// By the clock of its node.
    pub process_started_at: Option<DateTime<Utc>>,
    /// Since when it claims nothing new.
    pub cordoned_at: Option<DateTime<Utc>>,
}

/// Whether a machine can be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    Up,
    /// No heartbeat for longer than two should take; its tasks are still its own.
    Late,
    /// It stopped in order.
    Stopped,
    /// Its lease ran out, or its process was reported dead, and its tasks were released.
    Lost,
}

impl MachineState {
    pub const fn as_str(self) -> &'static str {
        match self {
            MachineState::Up => "up",
            MachineState::Late => "late",
            MachineState::Stopped => "stopped",
            MachineState::Lost => "lost",
        }
    }
}

/// A heartbeat older than this is late: two periods and a little.
const LATE_S: f64 = 35.0;

/// All machines by name.
pub async fn list(db: &Db) -> Result<Vec<MachineRow>, DbError> {
    let rows = sqlx::query!(
        r#"
        SELECT m.id, m.name, m.incarnation, m.host_and_port, m.cpu, m.ram, m.gpu_milli, m.kinds, m.layers, m.labels,
            m.version, m.started_at, m.last_contact, m.stopped_at, m.evicted_at, m.instance, m.process_started_at,
            m.cordoned_at,
            extract(epoch FROM now() - m.last_contact)::float8 AS "contact_age_s!",
            (SELECT count(*) FROM harmony_task t WHERE t.owner_id = m.id) AS "running!"
        FROM harmony_task_machines m
        ORDER BY m.name
        "#,
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().map(|row| MachineRow {
        id: row.id,
        name: row.name,
        incarnation: row.incarnation,
        address: row.host_and_port,
        cpu: row.cpu,
        ram_bytes: row.ram,
        gpu_milli: row.gpu_milli,
        kinds: row.kinds,
        layers: row.layers,
        labels: row.labels,
        version: row.version,
        started_at: row.started_at,
        last_contact: row.last_contact,
        contact_age_s: row.contact_age_s,
        running: row.running,
        state: match (row.stopped_at, row.evicted_at) {
            (Some(_), _) => MachineState::Stopped,
            (None, Some(_)) => MachineState::Lost,
            (None, None) if row.contact_age_s > LATE_S => MachineState::Late,
            (None, None) => MachineState::Up,
        },
        instance: row.instance,
        process_started_at: row.process_started_at,
        cordoned_at: row.cordoned_at,
    });
    Ok(rows.collect())
}

/// A process that has ended for certain, as whoever watched it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadProcess {
    /// Name of the machine.
    pub name: String,
    /// The instance that it ran in.
    pub instance: String,
    /// By the clock of its node. Round down: a process that has started since then in the same instance is
    /// another one, and alive.
    pub ended_at: DateTime<Utc>,
}

/// A machine that was released, and what it held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Released {
    pub machine: i64,
    pub tasks: Vec<ReleasedTask>,
}

/// A task that was taken from a dead machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReleasedTask {
    pub id: i64,
    pub kind: String,
    /// The attempt that died.
    pub attempt: i32,
    /// It was the last one that the task had.
    pub failed: bool,
}

/// Releases the tasks of a process that has ended, without waiting for its lease; each counts as an attempt that
/// failed. None when the machine's row speaks of another process, or is stopped or evicted already: nothing
/// is changed then.
///
/// The guard and the release are one transaction that holds the machine's row. A heartbeat, a registration, or a
/// completion that is being written goes first; whatever the dead process has on its way comes too late,
/// and a claim of it that is stored still later is found by the heartbeats of the others.
///
/// # Errors
/// Database trouble.
pub async fn release_dead(db: &Db, dead: &DeadProcess) -> Result<Option<Released>, TxError> {
    let dead = dead.clone();
    db.transaction("machine-release-dead", move |tx| {
        let DeadProcess { name, instance, ended_at } = dead.clone();
        Box::pin(async move {
            let machine = sqlx::query_scalar!(
                r#"
                UPDATE harmony_task_machines
                SET evicted_at = now(), running = 0
                WHERE name = $1 AND instance = $2 AND instance <> '' AND process_started_at <= $3
                    AND evicted_at IS NULL AND stopped_at IS NULL
                RETURNING id
                "#,
                name,
                instance,
                ended_at,
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some(machine) = machine else { return Ok(None) };
            let tasks = machine::release(tx, machine, Gone::Evicted).await?;
            Ok(Some(Released { machine, tasks }))
        })
    })
    .await
}

/// Keeps the machine from claiming anything new, or lets it claim again; what it owns is its own either way. Says
/// whether there is such a machine.
///
/// # Errors
/// Database trouble.
pub async fn cordon(db: &Db, name: &str, cordoned: bool) -> Result<bool, TxError> {
    let name = name.to_owned();
    db.transaction("machine-cordon", move |tx| {
        let name = name.clone();
        Box::pin(async move {
            let done = sqlx::query!(
                r#"
                UPDATE harmony_task_machines
                SET cordoned_at = CASE WHEN $2 THEN coalesce(cordoned_at, now()) END
                WHERE name = $1
                "#,
                name,
                cordoned,
            )
            .execute(tx)
            .await?;
            Ok(done.rows_affected() == 1)
        })
    })
    .await
}

/// Removes the row of a machine that stopped or was lost, and owns nothing. Says whether it did.
///
/// # Errors
/// Database trouble.
pub async fn forget(db: &Db, name: &str) -> Result<bool, TxError> {
    let name = name.to_owned();
    db.transaction("machine-forget", move |tx| {
        let name = name.clone();
        Box::pin(async move {
            let done = sqlx::query!(
                r#"
                DELETE FROM harmony_task_machines m
                WHERE m.name = $1 AND (m.stopped_at IS NOT NULL OR m.evicted_at IS NOT NULL)
                    AND NOT EXISTS (SELECT FROM harmony_task t WHERE t.owner_id = m.id)
                "#,
                name,
            )
            .execute(tx)
            .await?;
            Ok(done.rows_affected() == 1)
        })
    })
    .await
}
