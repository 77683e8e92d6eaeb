//! Configuration layers as stored: named text documents. What is in them is the reader's business.

use serde::Serialize;
use sqlx::types::chrono::{DateTime, Utc};

use crate::db::{Db, DbError};
use crate::transaction::{Tx, TxError};

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    pub title: String,
    /// TOML.
    pub config: String,
    pub changed_at: DateTime<Utc>,
    /// Program that keeps the layer; none is a person.
    pub managed_by: Option<String>,
    /// What a program last wrote. A layer whose `config` differs was edited by a person since.
    pub managed_config: Option<String>,
}

impl Layer {
    /// Whether there is text that no program wrote.
    pub fn is_edited(&self) -> bool {
        self.config.trim() != self.managed_config.as_deref().unwrap_or_default().trim()
    }
}

/// What [`apply`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The layer had this text already; it is the manager's from now on.
    Unchanged,
    Written,
    /// A person wrote something else, and it stays.
    EditedByHand {
        found: String,
    },
}

/// The layer of this title.
pub async fn get(db: &Db, title: &str) -> Result<Option<Layer>, DbError> {
    let layer = sqlx::query_as!(
        Layer,
        r#"SELECT title, config, timestamp AS changed_at, managed_by, managed_config FROM harmony_config WHERE title = $1"#,
        title,
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(layer)
}

/// Writes the layer, new or not, for a person: a layer that a program keeps counts as edited from now on.
pub async fn set(db: &Db, title: &str, config: &str) -> Result<(), TxError> {
    let (title, config) = (title.to_owned(), config.to_owned());
    db.transaction("layer-set", move |tx| {
        let (title, config) = (title.clone(), config.clone());
        Box::pin(async move {
            sqlx::query!(
                r#"
                INSERT INTO harmony_config (title, config) VALUES ($1, $2)
                ON CONFLICT (title) DO UPDATE SET config = excluded.config, timestamp = now()
                "#,
                title,
                config,
            )
            .execute(tx)
            .await?;
            Ok(())
        })
    })
    .await
}

/// Writes the layer for a program, `manager`, unless a person has edited it; with `overwrite` even then.
///
/// A layer that nobody has written to is taken over: one that is empty or as a migration made it, and one that was
/// left as another manager wrote it.
///
/// # Errors
/// Database trouble.
pub async fn apply(db: &Db, title: &str, config: &str, manager: &str, overwrite: bool) -> Result<Applied, TxError> {
    let wanted = Wanted { title: title.to_owned(), config: config.to_owned(), manager: manager.to_owned() };
    db.transaction("layer-apply", move |tx| {
        let wanted = wanted.clone();
        Box::pin(async move {
            // An empty layer first, so that there is a row to hold until the decision is written.
            sqlx::query!(
                "INSERT INTO harmony_config (title, config) VALUES ($1, '') ON CONFLICT (title) DO NOTHING",
                wanted.title,
            )
            .execute(&mut *tx)
            .await?;
            let found = sqlx::query_as!(
                Layer,
                r#"
                SELECT title, config, timestamp AS changed_at, managed_by, managed_config
                FROM harmony_config WHERE title = $1 FOR UPDATE
                "#,
                wanted.title,
            )
            .fetch_one(&mut *tx)
            .await?;
            let applied = judge(&found, &wanted, overwrite);
            if !matches!(applied, Applied::EditedByHand { .. }) {
                keep(tx, &wanted).await?;
            }
            Ok(applied)
        })
    })
    .await
}

/// A layer as its manager wants it.
#[derive(Clone, Debug)]
struct Wanted {
    title: String,
    config: String,
    manager: String,
}

fn judge(found: &Layer, wanted: &Wanted, overwrite: bool) -> Applied {
    if found.config == wanted.config {
        Applied::Unchanged
    } else if found.is_edited() && !overwrite {
        Applied::EditedByHand { found: found.config.clone() }
    } else {
        Applied::Written
    }
}

/// Writes text and manager; the time of the change only when the text changes.
async fn keep(tx: &mut Tx, wanted: &Wanted) -> Result<(), TxError> {
    sqlx::query!(
        r#"
        UPDATE harmony_config
        SET config = $2, managed_by = $3, managed_config = $2,
            timestamp = CASE WHEN config = $2 THEN timestamp ELSE now() END
        WHERE title = $1
            AND (config <> $2 OR managed_by IS DISTINCT FROM $3 OR managed_config IS DISTINCT FROM $2)
        "#,
        wanted.title,
        wanted.config,
        wanted.manager,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// All layers by title.
pub async fn list(db: &Db) -> Result<Vec<Layer>, DbError> {
    let layers = sqlx::query_as!(
        Layer,
        r#"SELECT title, config, timestamp AS changed_at, managed_by, managed_config FROM harmony_config ORDER BY title"#,
    )
    .fetch_all(db.pool())
    .await?;
    Ok(layers)
}

/// Removes a layer and says whether there was one.
pub async fn remove(db: &Db, title: &str) -> Result<bool, TxError> {
    let title = title.to_owned();
    db.transaction("layer-remove", move |tx| {
        let title = title.clone();
        Box::pin(async move {
            let done = sqlx::query!("DELETE FROM harmony_config WHERE title = $1", title).execute(tx).await?;
            Ok(done.rows_affected() == 1)
        })
    })
    .await
}
