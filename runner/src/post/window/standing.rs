//! How the windows stand that are not over: for `/metrics` and whoever watches.

use curio_core::{Epoch, SpId};
use curio_harmony::{Db, DbError};

use crate::storage::from_column;

/// A window whose proofs are not all on the chain yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub sp: SpId,
    pub deadline: u64,
    pub open: Epoch,
    /// First epoch that is too late.
    pub close: Epoch,
    /// Partitions with something to prove, those that have a proof, and those whose proof is on the chain.
    pub partitions: u64,
    pub proven: u64,
    pub landed: u64,
}

/// All such windows, the one that closes first before others.
///
/// # Errors
/// Database trouble.
pub async fn standing(db: &Db) -> Result<Vec<Standing>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT t.sp_id, t.deadline_index, min(t.open_epoch) AS "open!", min(t.close_epoch) AS "close!",
                  count(*) AS "partitions!", count(p.proof) AS "proven!",
                  count(*) FILTER (WHERE t.outcome = 'landed') AS "landed!"
           FROM wdpost_partition_tasks t
           LEFT JOIN wdpost_proofs p ON p.sp_id = t.sp_id AND p.proving_period_start = t.proving_period_start
                                    AND p.deadline = t.deadline_index AND p.partition = t.partition_index
           WHERE EXISTS (SELECT FROM wdpost_partition_tasks o
                         WHERE o.sp_id = t.sp_id AND o.proving_period_start = t.proving_period_start
                           AND o.deadline_index = t.deadline_index AND o.outcome IS NULL)
             AND (t.outcome IS NULL OR t.outcome <> 'nothing')
           GROUP BY t.sp_id, t.proving_period_start, t.deadline_index
           ORDER BY min(t.close_epoch), t.sp_id"#
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().map(|row| Standing {
        sp: SpId(from_column(row.sp_id)),
        deadline: from_column(row.deadline_index),
        open: Epoch(row.open),
        close: Epoch(row.close),
        partitions: from_column(row.partitions),
        proven: from_column(row.proven),
        landed: from_column(row.landed),
    });
    Ok(rows.collect())
}
