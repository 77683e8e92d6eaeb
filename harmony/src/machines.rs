//! Looking at the machines of the cluster.

use serde::Serialize;
use sqlx::types::chrono::{DateTime, Utc};

use crate::db::{Db, DbError};

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
    /// Its lease ran out and its tasks were released.
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
            m.version, m.started_at, m.last_contact, m.stopped_at, m.evicted_at,
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
    });
    Ok(rows.collect())
}
