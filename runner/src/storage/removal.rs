//! Files of sectors that somebody removed: the machine that reaches a copy takes it off its path. A sector that is
//! in the pipeline removes its own copies when it moves ([`super::moving`]).

use curio_core::{SectorRef, SpId};
use curio_harmony::DbError;
use tracing::warn;

use super::sector_file::SectorFile;
use super::{LocalPath, Storage, from_column};

/// A copy on a path of this machine.
struct Copy {
    path: LocalPath,
    sector: SectorRef,
    file: SectorFile,
}

impl Storage {
    /// Removes the copies on this machine's paths that are marked for removal and whose sector is gone. Returns how
    /// many; one that cannot be removed is logged and tried again the next time.
    ///
    /// # Errors
    /// Database trouble.
    pub async fn remove_abandoned(&self) -> Result<u64, DbError> {
        let mut removed = 0;
        for Copy { path, sector, file } in self.abandoned().await? {
            match self.remove_local(&path, sector, file).await {
                Ok(()) => removed += 1,
                Err(error) => {
                    let root = path.root.display();
                    warn!(sector.sp = %sector.sp, sector.number, "failed to remove {file} of {sector} from {root}: {error}");
                }
            }
        }
        Ok(removed)
    }

    async fn abandoned(&self) -> Result<Vec<Copy>, DbError> {
        let rows = sqlx::query!(
            "SELECT l.miner_id, l.sector_num, l.sector_filetype, l.storage_id, m.local_path
             FROM sector_location l
             JOIN storage_path_machines m ON m.storage_id = l.storage_id AND m.machine_name = $1
             WHERE l.removal_requested_at IS NOT NULL
               AND NOT EXISTS (SELECT FROM sectors_sdr_pipeline p WHERE p.sp_id = l.miner_id AND p.sector_number = l.sector_num)",
            self.machine()
        )
        .fetch_all(self.db().pool())
        .await?;
        let copies = rows.into_iter().filter_map(|row| {
            Some(Copy {
                path: LocalPath { storage_id: row.storage_id, root: row.local_path.into() },
                sector: SectorRef::new(SpId(from_column(row.miner_id)), from_column(row.sector_num)),
                file: SectorFile::from_bit(row.sector_filetype)?,
            })
        });
        Ok(copies.collect())
    }
}
