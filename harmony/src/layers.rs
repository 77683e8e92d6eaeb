//! Configuration layers as stored: named text documents. What is in them is the reader's business.

use serde::Serialize;
use sqlx::types::chrono::{DateTime, Utc};

use crate::db::{Db, DbError};
use crate::transaction::TxError;

/// A layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Layer {
    pub title: String,
    /// TOML.
    pub config: String,
    pub changed_at: DateTime<Utc>,
}

/// The layer of this title.
pub async fn get(db: &Db, title: &str) -> Result<Option<Layer>, DbError> {
    let layer = sqlx::query_as!(
        Layer,
        r#"SELECT title, config, timestamp AS changed_at FROM harmony_config WHERE title = $1"#,
        title,
    )
    .fetch_optional(db.pool())
    .await?;
    Ok(layer)
}

/// Writes the layer, new or not.
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

/// All layers by title.
pub async fn list(db: &Db) -> Result<Vec<Layer>, DbError> {
    let layers =
        sqlx::query_as!(Layer, r#"SELECT title, config, timestamp AS changed_at FROM harmony_config ORDER BY title"#,)
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
