//! Data that keeps a machine from going away: files that nobody else reaches.

use std::collections::BTreeMap;

use curio_harmony::{Db, DbError};

use crate::sector_file::SectorFile;

/// How many sectors only this machine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Sectors that are being sealed, or failed, and whose only cache lies here: without it they start anew, or
    /// never end.
    pub in_flight: u32,
    /// Sectors whose only long-term copy lies here: without it nobody can prove them.
    pub only_copies: u32,
}

/// The machines that hold such sectors, by name. A path that two machines reach pins to neither; one that no
/// machine reaches does not count as a copy.
///
/// # Errors
/// Database trouble.
pub async fn by_machine(db: &Db) -> Result<BTreeMap<String, Pinned>, DbError> {
    let rows = sqlx::query!(
        r#"WITH held AS (
               SELECT l.miner_id, l.sector_num, l.sector_filetype, bool_or(p.can_store) AS stored,
                   min(m.machine_name) AS machine
               FROM sector_location l
               JOIN storage_path p ON p.storage_id = l.storage_id
               JOIN storage_path_machines m ON m.storage_id = l.storage_id
               WHERE l.removal_requested_at IS NULL AND l.sector_filetype IN ($1, $2)
               GROUP BY l.miner_id, l.sector_num, l.sector_filetype
               HAVING count(DISTINCT m.machine_name) = 1
           )
           SELECT h.machine AS "machine!",
               count(*) FILTER (WHERE h.sector_filetype = $1 AND s.sp_id IS NOT NULL AND NOT s.after_move_storage)
                   AS "in_flight!",
               count(*) FILTER (WHERE h.sector_filetype = $2 AND h.stored
                   AND (s.sp_id IS NULL OR s.after_move_storage)) AS "only_copies!"
           FROM held h
           LEFT JOIN sectors_sdr_pipeline s ON s.sp_id = h.miner_id AND s.sector_number = h.sector_num
           GROUP BY h.machine"#,
        SectorFile::Cache.bit(),
        SectorFile::Sealed.bit()
    )
    .fetch_all(db.pool())
    .await?;
    let count = |found: i64| u32::try_from(found).unwrap_or(u32::MAX);
    let pinned = rows
        .into_iter()
        .map(|row| (row.machine, Pinned { in_flight: count(row.in_flight), only_copies: count(row.only_copies) }));
    Ok(pinned.filter(|(_, pinned)| *pinned != Pinned::default()).collect())
}
