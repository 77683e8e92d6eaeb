//! Windows of window PoSts that are not over for a partition, for the operator, which must not stop those who prove.

use curio_harmony::{Db, DbError};

/// Partitions whose challenge is drawn and whose proof the chain does not have yet: it is being made, waits for its window or its
/// message, or the message is on its way. No task need be there meanwhile. A window that closed without a proof counts
/// until a runner has seen that.
///
/// # Errors
/// Database trouble.
pub async fn due(db: &Db) -> Result<u64, DbError> {
    let due = sqlx::query_scalar!(r#"SELECT count(*) AS "due!" FROM wdpost_partition_tasks WHERE outcome IS NULL"#)
        .fetch_one(db.pool())
        .await?;
    Ok(u64::try_from(due).unwrap_or(0))
}
