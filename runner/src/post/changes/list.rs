//! What was asked for, by whom, and what became of it.

use std::fmt;

use chrono::{DateTime, Utc};
use curio_core::{Epoch, SectorRef, SpId};
use curio_harmony::{Db, DbError};
use serde::Serialize;

use super::ChangeKind;
use crate::post::sent::{Fate, fates};
use crate::storage::from_column;

/// One change of one sector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeStatus {
    pub sector: SectorRef,
    pub change: ChangeKind,
    /// Of an extension.
    pub new_expiration: Option<Epoch>,
    pub asked_at: DateTime<Utc>,
    pub asked_by: String,
    pub approved_at: Option<DateTime<Utc>>,
    pub approved_by: Option<String>,
    pub state: ChangeState,
}

/// How far a change has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeState {
    /// Waits for somebody's approval.
    Asked,
    /// Approved; its message has no result yet.
    Sent,
    /// Executed, with its result in the tipset of this epoch.
    Landed(Epoch),
    /// The sentence says why. Ask again to try again.
    Failed(String),
}

impl fmt::Display for ChangeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeState::Asked => f.write_str("asked"),
            ChangeState::Sent => f.write_str("sent"),
            ChangeState::Landed(epoch) => write!(f, "landed at {epoch}"),
            ChangeState::Failed(why) => write!(f, "failed: {why}"),
        }
    }
}

/// All changes, the one asked for last first.
///
/// # Errors
/// Database trouble.
pub async fn list(db: &Db) -> Result<Vec<ChangeStatus>, DbError> {
    let rows = sqlx::query!(
        "SELECT sp_id, sector_number, change, new_expiration, asked_at, asked_by, approved_at, approved_by, send_id
         FROM sector_changes ORDER BY asked_at DESC, sp_id, sector_number"
    )
    .fetch_all(db.pool())
    .await?;
    let sends: Vec<i64> = rows.iter().filter_map(|row| row.send_id).collect();
    let fates = fates(db, &sends).await?;
    let rows = rows.into_iter().map(|row| ChangeStatus {
        sector: SectorRef::new(SpId(from_column(row.sp_id)), from_column(row.sector_number)),
        change: if row.new_expiration.is_some() { ChangeKind::Extend } else { ChangeKind::Terminate },
        new_expiration: row.new_expiration.map(Epoch),
        asked_at: row.asked_at,
        asked_by: row.asked_by,
        approved_at: row.approved_at,
        approved_by: row.approved_by,
        state: state(row.send_id.map(|send| fates.get(&send))),
    });
    Ok(rows.collect())
}

fn state(fate: Option<Option<&Fate>>) -> ChangeState {
    match fate {
        None => ChangeState::Asked,
        Some(Some(Fate::Pending) | None) => ChangeState::Sent,
        Some(Some(Fate::Landed(epoch))) => ChangeState::Landed(*epoch),
        Some(Some(Fate::Failed(why))) => ChangeState::Failed(why.clone()),
    }
}
