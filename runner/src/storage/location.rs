//! Which path holds which sector file: the index, and how it is kept true.
//!
//! A row is written after its file is durable under its proper name, in the transaction that records what the file
//! is for. A copy that is to go is first marked, in the transaction that declares the other copy; then its
//! file is removed, then its row.

use std::collections::HashMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use curio_core::{Classify, Failure, SectorRef, SpId};
use curio_harmony::{DbError, Tx, TxError};
use serde::Serialize;
use tracing::{info, warn};

use super::durable::{self, FileError};
use super::path::{LocalPath, read_store};
use super::sector_file::SectorFile;
use super::{BlockingError, Storage, blocking, from_column, to_column};

/// A sector file that is whole and durable, ready to be named in the index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declared {
    pub storage_id: String,
    pub sector: SectorRef,
    pub file: SectorFile,
    pub size_bytes: u64,
}

/// A row of the index, with who reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Location {
    pub storage_id: String,
    pub file: SectorFile,
    pub size_bytes: u64,
    pub can_seal: bool,
    pub can_store: bool,
    /// To be removed and no longer read.
    pub going: bool,
    pub machines: Vec<String>,
    pub declared_at: DateTime<Utc>,
}

/// The files a task works on are not here.
#[derive(Debug, thiserror::Error)]
pub enum LocateError {
    #[error("failed to find {what} of {sector} on one path of {machine}; {known}")]
    NotHere { sector: SectorRef, what: String, machine: String, known: String },
    #[error(transparent)]
    Db(#[from] DbError),
}

impl Classify for LocateError {
    fn classify(self) -> Failure {
        match self {
            LocateError::Db(error) => error.classify(),
            error @ LocateError::NotHere { .. } => Failure::Retry(Box::new(error)),
        }
    }
}

/// Names a sector file in the index. Declaring again updates the size and keeps the copy.
pub async fn declare(tx: &mut Tx, declared: &Declared) -> Result<(), TxError> {
    sqlx::query!(
        "INSERT INTO sector_location (miner_id, sector_num, sector_filetype, storage_id, size_bytes)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (miner_id, sector_num, sector_filetype, storage_id) DO UPDATE
         SET size_bytes = EXCLUDED.size_bytes, declared_at = now(), removal_requested_at = NULL",
        to_column(declared.sector.sp.0),
        to_column(declared.sector.number),
        declared.file.bit(),
        declared.storage_id,
        to_column(declared.size_bytes)
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Takes a sector file out of the index. Its file is the caller's to remove, afterwards.
pub async fn undeclare(tx: &mut Tx, sector: SectorRef, file: SectorFile, storage_id: &str) -> Result<(), TxError> {
    sqlx::query!(
        "DELETE FROM sector_location
         WHERE miner_id = $1 AND sector_num = $2 AND sector_filetype = $3 AND storage_id = $4",
        to_column(sector.sp.0),
        to_column(sector.number),
        file.bit(),
        storage_id
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// Marks every other copy of a file for removal. Only valid in the transaction that declares the copy at
/// `keep`: the statement changes nothing unless that one is in the index.
pub async fn request_removal_of_others(
    tx: &mut Tx,
    sector: SectorRef,
    file: SectorFile,
    keep: &str,
) -> Result<(), TxError> {
    sqlx::query!(
        "UPDATE sector_location l SET removal_requested_at = now()
         WHERE miner_id = $1 AND sector_num = $2 AND sector_filetype = $3 AND storage_id <> $4
           AND removal_requested_at IS NULL
           AND EXISTS (SELECT 1 FROM sector_location k
                       WHERE k.miner_id = $1 AND k.sector_num = $2 AND k.sector_filetype = $3
                         AND k.storage_id = $4 AND k.removal_requested_at IS NULL)",
        to_column(sector.sp.0),
        to_column(sector.number),
        file.bit(),
        keep
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

impl Storage {
    /// Makes a file that was worked on under its proper name durable and measures it: a cache after its trees, a
    /// replica. Declare the result in the transaction that records the work.
    pub async fn settle(&self, path: &LocalPath, sector: SectorRef, file: SectorFile) -> Result<Declared, FileError> {
        let place = path.file(file, sector);
        let size_bytes = blocking("making a sector file durable", move || {
            let size_bytes = durable::sync_tree(&place)?;
            durable::sync_parent(&place)?;
            Ok::<u64, FileError>(size_bytes)
        })
        .await??;
        Ok(Declared { storage_id: path.storage_id.clone(), sector, file, size_bytes })
    }

    /// All copies of a sector's files, those that are going included.
    pub async fn locations(&self, sector: SectorRef) -> Result<Vec<Location>, DbError> {
        let rows = sqlx::query!(
            r#"SELECT l.storage_id, l.sector_filetype, l.size_bytes, p.can_seal, p.can_store, l.declared_at,
                      l.removal_requested_at IS NOT NULL AS "going!",
                      COALESCE((SELECT array_agg(m.machine_name ORDER BY m.machine_name)
                                FROM storage_path_machines m WHERE m.storage_id = l.storage_id), '{}') AS "machines!"
               FROM sector_location l JOIN storage_path p ON p.storage_id = l.storage_id
               WHERE l.miner_id = $1 AND l.sector_num = $2
               ORDER BY l.sector_filetype, l.storage_id"#,
            to_column(sector.sp.0),
            to_column(sector.number)
        )
        .fetch_all(self.db().pool())
        .await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| {
                Some(Location {
                    storage_id: row.storage_id,
                    file: SectorFile::from_bit(row.sector_filetype)?,
                    size_bytes: from_column(row.size_bytes),
                    can_seal: row.can_seal,
                    can_store: row.can_store,
                    going: row.going,
                    machines: row.machines,
                    declared_at: row.declared_at,
                })
            })
            .collect())
    }

    /// The path of this machine that holds the sector's file, if one does.
    pub async fn find_local(&self, sector: SectorRef, file: SectorFile) -> Result<Option<LocalPath>, DbError> {
        Ok(self.find_local_all(sector, &[file]).await?.into_iter().next())
    }

    /// The one path of this machine that holds all these files of a sector.
    ///
    /// # Errors
    /// [`LocateError::NotHere`] (retryable) says where they are known to be.
    pub async fn expect_local(&self, sector: SectorRef, files: &[SectorFile]) -> Result<LocalPath, LocateError> {
        if let Some(path) = self.find_local_all(sector, files).await?.into_iter().next() {
            return Ok(path);
        }
        let known: Vec<String> = self
            .locations(sector)
            .await?
            .into_iter()
            .filter(|location| files.contains(&location.file) && !location.going)
            .map(|location| {
                format!("{} is on {} ({})", location.file, location.storage_id, location.machines.join(", "))
            })
            .collect();
        let what = files.iter().map(|file| file.dir_name()).collect::<Vec<_>>().join(" and ");
        let known = if known.is_empty() { "none is declared".to_owned() } else { known.join("; ") };
        Err(LocateError::NotHere { sector, what, machine: self.machine().to_owned(), known })
    }

    /// Paths of this machine that hold all these files of a sector; more than one when copies exist.
    async fn find_local_all(&self, sector: SectorRef, files: &[SectorFile]) -> Result<Vec<LocalPath>, DbError> {
        let bits: Vec<i32> = files.iter().map(|file| file.bit()).collect();
        let rows = sqlx::query!(
            r#"SELECT m.storage_id, m.local_path
               FROM storage_path_machines m
               WHERE m.machine_name = $1
                 AND (SELECT count(*) FROM sector_location l
                      WHERE l.storage_id = m.storage_id AND l.miner_id = $2 AND l.sector_num = $3
                        AND l.sector_filetype = ANY($4) AND l.removal_requested_at IS NULL) = $5
               ORDER BY m.storage_id"#,
            self.machine(),
            to_column(sector.sp.0),
            to_column(sector.number),
            &bits,
            to_column(bits.len() as u64)
        )
        .fetch_all(self.db().pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| LocalPath { storage_id: row.storage_id, root: PathBuf::from(row.local_path) })
            .collect())
    }

    /// Ids of the paths of this machine that hold all these files; none when no file is asked for.
    pub(super) async fn paths_holding(&self, sector: SectorRef, files: &[SectorFile]) -> Result<Vec<String>, DbError> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        let paths = self.find_local_all(sector, files).await?;
        Ok(paths.into_iter().map(|path| path.storage_id).collect())
    }

    /// Those of the sectors whose file lies on a well path of this machine, in the order given. For `can_accept`.
    pub async fn holding(&self, sectors: &[SectorRef], file: SectorFile) -> Result<Vec<SectorRef>, DbError> {
        let miners: Vec<i64> = sectors.iter().map(|sector| to_column(sector.sp.0)).collect();
        let numbers: Vec<i64> = sectors.iter().map(|sector| to_column(sector.number)).collect();
        let rows = sqlx::query!(
            "SELECT DISTINCT l.miner_id, l.sector_num
             FROM sector_location l
             JOIN storage_path_machines m ON m.storage_id = l.storage_id AND m.machine_name = $1
             JOIN storage_path p ON p.storage_id = l.storage_id
             WHERE (l.miner_id, l.sector_num) IN (SELECT * FROM UNNEST($2::bigint[], $3::bigint[]))
               AND l.sector_filetype = $4 AND l.removal_requested_at IS NULL
               AND p.heartbeat_err IS NULL AND p.last_heartbeat > now() - make_interval(secs => $5)",
            self.machine(),
            &miners,
            &numbers,
            file.bit(),
            self.timing().heartbeat_lifetime.as_secs_f64()
        )
        .fetch_all(self.db().pool())
        .await?;
        let here: Vec<SectorRef> = rows
            .into_iter()
            .map(|row| SectorRef::new(SpId(from_column(row.miner_id)), from_column(row.sector_num)))
            .collect();
        Ok(sectors.iter().filter(|sector| here.contains(sector)).copied().collect())
    }

    /// A path of this machine by its id.
    pub(super) async fn local_path(&self, storage_id: &str) -> Result<Option<LocalPath>, DbError> {
        let root = sqlx::query_scalar!(
            "SELECT local_path FROM storage_path_machines WHERE storage_id = $1 AND machine_name = $2",
            storage_id,
            self.machine()
        )
        .fetch_optional(self.db().pool())
        .await?;
        Ok(root.map(|root| LocalPath { storage_id: storage_id.to_owned(), root: PathBuf::from(root) }))
    }

    /// Whether this copy is in the index and not going.
    pub(super) async fn is_declared(
        &self,
        sector: SectorRef,
        file: SectorFile,
        storage_id: &str,
    ) -> Result<bool, DbError> {
        Ok(self.copy_state(sector, file, storage_id).await? == CopyState::Declared)
    }

    /// What the index says about one copy.
    pub(super) async fn copy_state(
        &self,
        sector: SectorRef,
        file: SectorFile,
        storage_id: &str,
    ) -> Result<CopyState, DbError> {
        let going = sqlx::query_scalar!(
            r#"SELECT removal_requested_at IS NOT NULL AS "going!" FROM sector_location
               WHERE miner_id = $1 AND sector_num = $2 AND sector_filetype = $3 AND storage_id = $4"#,
            to_column(sector.sp.0),
            to_column(sector.number),
            file.bit(),
            storage_id
        )
        .fetch_optional(self.db().pool())
        .await?;
        Ok(match going {
            None => CopyState::Unknown,
            Some(false) => CopyState::Declared,
            Some(true) => CopyState::Going,
        })
    }

    /// Takes a copy that was marked for removal out of the index, once its file is gone.
    pub(super) async fn forget_removed(
        &self,
        sector: SectorRef,
        file: SectorFile,
        storage_id: &str,
    ) -> Result<(), DbError> {
        sqlx::query!(
            "DELETE FROM sector_location
             WHERE miner_id = $1 AND sector_num = $2 AND sector_filetype = $3 AND storage_id = $4
               AND removal_requested_at IS NOT NULL",
            to_column(sector.sp.0),
            to_column(sector.number),
            file.bit(),
            storage_id
        )
        .execute(self.db().pool())
        .await?;
        Ok(())
    }

    /// Compares the index with what lies on this machine's paths, once at start. Files that are declared but
    /// missing leave the index; files that are there but not declared are reported and left alone (an unfinished
    /// cache is one of them, and SDR goes on with it). A path that is not mounted is passed over.
    pub async fn redeclare(&self) -> Result<Redeclared, RedeclareError> {
        let mut total = Redeclared::default();
        for state in super::health::paths_of(self.db(), self.machine(), self.timing()).await? {
            let path = state.path;
            let scanned = path.clone();
            let there = match blocking("scanning a storage path", move || scan(&scanned)).await? {
                Ok(there) => there,
                Err(reason) => {
                    warn!(path = %path.root.display(), "storage path {} was not compared with the index: {reason}",
                        path.root.display());
                    continue;
                }
            };
            self.compare(&path, there, &mut total).await?;
        }
        Ok(total)
    }

    async fn compare(
        &self,
        path: &LocalPath,
        mut there: HashMap<(SectorRef, SectorFile), PathBuf>,
        total: &mut Redeclared,
    ) -> Result<(), RedeclareError> {
        let rows = sqlx::query!(
            "SELECT miner_id, sector_num, sector_filetype FROM sector_location WHERE storage_id = $1",
            path.storage_id
        )
        .fetch_all(self.db().pool())
        .await
        .map_err(DbError::from)?;
        for row in rows {
            let Some(file) = SectorFile::from_bit(row.sector_filetype) else { continue };
            let sector = SectorRef::new(SpId(from_column(row.miner_id)), from_column(row.sector_num));
            if there.remove(&(sector, file)).is_some() {
                total.kept += 1;
                continue;
            }
            // Looked for once more by name: the scan may be older than the declaration.
            let place = path.file(file, sector);
            if blocking("looking for a sector file", move || place.symlink_metadata().is_err()).await? {
                warn!(sector.sp = %sector.sp, sector.number = sector.number,
                    "{file} of {sector} is declared on {} but not there; it leaves the index", path.root.display());
                self.drop_row(sector, file, &path.storage_id).await?;
                total.dropped.push(Declared { storage_id: path.storage_id.clone(), sector, file, size_bytes: 0 });
            }
        }
        for ((sector, file), place) in there {
            info!(sector.sp = %sector.sp, sector.number = sector.number,
                "{} is not in the index: unfinished work, or a file of another cluster; it stays", place.display());
            total.undeclared.push((sector, file, place));
        }
        Ok(())
    }

    async fn drop_row(&self, sector: SectorRef, file: SectorFile, storage_id: &str) -> Result<(), DbError> {
        sqlx::query!(
            "DELETE FROM sector_location
             WHERE miner_id = $1 AND sector_num = $2 AND sector_filetype = $3 AND storage_id = $4",
            to_column(sector.sp.0),
            to_column(sector.number),
            file.bit(),
            storage_id
        )
        .execute(self.db().pool())
        .await?;
        Ok(())
    }
}

/// What the index says about one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyState {
    Unknown,
    Declared,
    /// Marked for removal: another copy is declared.
    Going,
}

/// What [`Storage::redeclare`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redeclared {
    pub kept: u64,
    pub dropped: Vec<Declared>,
    pub undeclared: Vec<(SectorRef, SectorFile, PathBuf)>,
}

/// The comparison was not made.
#[derive(Debug, thiserror::Error)]
pub enum RedeclareError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// Sector files under their proper names.
fn scan(path: &LocalPath) -> Result<HashMap<(SectorRef, SectorFile), PathBuf>, String> {
    match read_store(&path.root) {
        Ok(Some(store)) if store.id == path.storage_id => {}
        Ok(Some(store)) => return Err(format!("another storage path is mounted there ({})", store.id)),
        Ok(None) => return Err("it has no sectorstore.json; is the volume mounted?".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    let mut there = HashMap::new();
    for file in SectorFile::ALL {
        let directory = path.root.join(file.dir_name());
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(format!("{} cannot be read: {error}", directory.display())),
        };
        for entry in entries {
            let entry = entry.map_err(|error| format!("{} cannot be read: {error}", directory.display()))?;
            let name = entry.file_name();
            let sector = name.to_str().filter(|name| name.starts_with("s-")).and_then(|name| name.parse().ok());
            if let Some(sector) = sector {
                there.insert((sector, file), entry.path());
            }
        }
    }
    Ok(there)
}
