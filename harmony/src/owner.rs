//! Who manages this database. One row: a second manager learns of the first one instead of undoing its work.

use serde::Serialize;
use sqlx::types::chrono::{DateTime, Utc};

use crate::db::Db;
use crate::transaction::TxError;

/// A manager.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    /// Never used again for another one.
    pub uid: String,
    /// For people.
    pub name: String,
    pub since: DateTime<Utc>,
}

/// Whose database it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    Ours,
    Other(Owner),
}

/// Takes the database for `uid`, unless another one has it.
///
/// # Errors
/// Database trouble.
pub async fn claim(db: &Db, uid: &str, name: &str) -> Result<Ownership, TxError> {
    let (uid, name) = (uid.to_owned(), name.to_owned());
    db.transaction("owner-claim", move |tx| {
        let (uid, name) = (uid.clone(), name.clone());
        Box::pin(async move {
            // Always one row, and it is locked: whoever claims at the same time waits here.
            let owner = sqlx::query_as!(
                Owner,
                r#"
                INSERT INTO harmony_owner AS o (uid, name) VALUES ($1, $2)
                ON CONFLICT (id) DO UPDATE
                SET name = CASE WHEN o.uid = excluded.uid THEN excluded.name ELSE o.name END
                RETURNING uid, name, since
                "#,
                uid,
                name,
            )
            .fetch_one(tx)
            .await?;
            Ok(if owner.uid == uid { Ownership::Ours } else { Ownership::Other(owner) })
        })
    })
    .await
}

/// Gives the database up, so that another manager may take it. Says whether `uid` had it.
///
/// # Errors
/// Database trouble.
pub async fn release(db: &Db, uid: &str) -> Result<bool, TxError> {
    let uid = uid.to_owned();
    db.transaction("owner-release", move |tx| {
        let uid = uid.clone();
        Box::pin(async move {
            let done = sqlx::query!("DELETE FROM harmony_owner WHERE uid = $1", uid).execute(tx).await?;
            Ok(done.rows_affected() == 1)
        })
    })
    .await
}
