//! The row of `chain_fence`.

use chrono::{DateTime, Utc};
use curio_core::Epoch;
use curio_harmony::{Db, DbError, TxError};
use serde::Serialize;

use super::Seen;

/// What the database knows of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Record {
    /// Highest epoch that any runner has seen.
    pub epoch: i64,
    /// Grows with every change of this row: a smaller one than before tells that the database was set back.
    pub revision: i64,
    pub recorded_at: DateTime<Utc>,
    /// Since when, and why, nothing is sent or mined until a person confirms.
    pub held_since: Option<DateTime<Utc>>,
    pub held_reason: Option<String>,
    pub confirmed_epoch: Option<i64>,
    pub confirmed_by: Option<String>,
    pub confirmed_at: Option<DateTime<Utc>>,
}

impl Record {
    /// What a runner that reads the record now has seen of it.
    pub fn seen(&self) -> Seen {
        Seen {
            epoch: Epoch(self.epoch),
            revision: self.revision,
            confirmed_at: self.confirmed_at.map(|at| at.timestamp_micros()),
        }
    }
}

/// The record of a network; none before the first head.
///
/// # Errors
/// Database trouble.
pub async fn record(db: &Db, network: &str) -> Result<Option<Record>, DbError> {
    Ok(sqlx::query_as!(
        Record,
        "SELECT epoch, revision, recorded_at, held_since, held_reason, confirmed_epoch, confirmed_by, confirmed_at
         FROM chain_fence WHERE network = $1",
        network
    )
    .fetch_optional(db.pool())
    .await?)
}

/// A person says that the database may be trusted with the chain's head where it is now. Runners go on at once.
///
/// # Errors
/// Database trouble.
pub async fn confirm(db: &Db, network: &str, head: Epoch, by: &str) -> Result<Record, TxError> {
    let (network, by) = (network.to_owned(), by.to_owned());
    db.transaction("confirm chain", move |tx| {
        let (network, by) = (network.clone(), by.clone());
        Box::pin(async move {
            Ok(sqlx::query_as!(
                Record,
                "INSERT INTO chain_fence (network, epoch, confirmed_epoch, confirmed_by, confirmed_at)
                 VALUES ($1, $2, $2, $3, now())
                 ON CONFLICT (network) DO UPDATE
                 SET epoch = excluded.epoch, revision = chain_fence.revision + 1, recorded_at = now(),
                     held_since = NULL, held_reason = NULL,
                     confirmed_epoch = excluded.confirmed_epoch, confirmed_by = excluded.confirmed_by,
                     confirmed_at = excluded.confirmed_at
                 RETURNING epoch, revision, recorded_at, held_since, held_reason, confirmed_epoch, confirmed_by, confirmed_at",
                network,
                head.0,
                by
            )
            .fetch_one(&mut *tx)
            .await?)
        })
    })
    .await
}

/// Raises the record from the state that was judged. None when somebody else has changed it since: they have seen as much.
pub(super) async fn raise(db: &Db, network: &str, head: Epoch, judged: Option<Seen>) -> Result<Option<Seen>, TxError> {
    let network = network.to_owned();
    db.transaction("see head", move |tx| {
        let network = network.clone();
        Box::pin(async move {
            let raised = match judged {
                Some(Seen { revision, .. }) => {
                    sqlx::query_as!(
                        Record,
                        "UPDATE chain_fence SET epoch = $2, revision = revision + 1, recorded_at = now()
                         WHERE network = $1 AND revision = $3 AND epoch < $2 AND held_reason IS NULL
                         RETURNING epoch, revision, recorded_at, held_since, held_reason,
                                   confirmed_epoch, confirmed_by, confirmed_at",
                        network,
                        head.0,
                        revision
                    )
                    .fetch_optional(&mut *tx)
                    .await?
                }
                None => {
                    sqlx::query_as!(
                        Record,
                        "INSERT INTO chain_fence (network, epoch) VALUES ($1, $2) ON CONFLICT (network) DO NOTHING
                         RETURNING epoch, revision, recorded_at, held_since, held_reason,
                                   confirmed_epoch, confirmed_by, confirmed_at",
                        network,
                        head.0
                    )
                    .fetch_optional(&mut *tx)
                    .await?
                }
            };
            Ok(raised.as_ref().map(Record::seen))
        })
    })
    .await
}

/// Holds the record that was judged, for all runners, until a person confirms. A record that was held or confirmed
/// meanwhile is left as it is.
pub(super) async fn doubt(db: &Db, network: &str, reason: &str, judged: Option<Seen>) -> Result<(), TxError> {
    let (network, reason) = (network.to_owned(), reason.to_owned());
    db.transaction("doubt database", move |tx| {
        let (network, reason) = (network.clone(), reason.clone());
        Box::pin(async move {
            match judged {
                Some(Seen { revision, .. }) => {
                    sqlx::query!(
                        "UPDATE chain_fence SET held_since = now(), held_reason = $2, revision = revision + 1
                         WHERE network = $1 AND revision = $3 AND held_reason IS NULL",
                        network,
                        reason,
                        revision
                    )
                    .execute(&mut *tx)
                    .await?
                }
                // A database that has forgotten everything has seen nothing.
                None => {
                    sqlx::query!(
                        "INSERT INTO chain_fence (network, epoch, held_since, held_reason) VALUES ($1, 0, now(), $2)
                         ON CONFLICT (network) DO NOTHING",
                        network,
                        reason
                    )
                    .execute(&mut *tx)
                    .await?
                }
            };
            Ok(())
        })
    })
    .await
}
