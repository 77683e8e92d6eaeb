//! The state of this machine's paths: looked at every ten seconds, written for others to see, and asked before
//! anything new is put anywhere.
//!
//! A path whose `sectorstore.json` is missing or another's is unwell: the volume is not mounted, or a wrong
//! one is. Nothing is written there and nothing is forgotten about it.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use curio_core::SectorRef;
use curio_harmony::{Db, DbError};
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::durable::disk_bytes;
use super::path::{LocalPath, is_full, probe_write, read_store};
use super::room::{self, PathUse, Promise};
use super::sector_file::{SectorFile, of_bits};
use super::{Storage, StorageTiming, blocking, from_column, to_column};

/// A path of this machine as the database knows it.
#[derive(Clone, Debug)]
pub struct PathState {
    pub path: LocalPath,
    pub can_seal: bool,
    pub can_store: bool,
    pub weight: u64,
    pub max_storage_bytes: u64,
    pub allow_types: Vec<String>,
    pub deny_types: Vec<String>,
    pub allow_miners: Vec<String>,
    pub deny_miners: Vec<String>,
    /// Why nothing new may be put here: no fresh report, or the error of the last one.
    pub unwell: Option<String>,
}

/// The paths that a machine reaches.
pub async fn paths_of(db: &Db, machine: &str, timing: &StorageTiming) -> Result<Vec<PathState>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT p.storage_id, m.local_path, p.can_seal, p.can_store, p.weight, p.max_storage, p.allow_types,
                  p.deny_types, p.allow_miners, p.deny_miners, p.heartbeat_err,
                  COALESCE(p.last_heartbeat > now() - make_interval(secs => $2), false) AS "fresh!"
           FROM storage_path_machines m JOIN storage_path p ON p.storage_id = m.storage_id
           WHERE m.machine_name = $1 ORDER BY p.storage_id"#,
        machine,
        timing.heartbeat_lifetime.as_secs_f64()
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| PathState {
            path: LocalPath { storage_id: row.storage_id, root: PathBuf::from(row.local_path) },
            can_seal: row.can_seal,
            can_store: row.can_store,
            weight: from_column(row.weight),
            max_storage_bytes: from_column(row.max_storage),
            allow_types: row.allow_types,
            deny_types: row.deny_types,
            allow_miners: row.allow_miners,
            deny_miners: row.deny_miners,
            unwell: match (row.heartbeat_err, row.fresh) {
                (Some(error), _) => Some(error),
                (None, false) => Some("no runner has reported on it lately".to_owned()),
                (None, true) => None,
            },
        })
        .collect())
}

/// What one look at a path found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    pub capacity_bytes: u64,
    pub fs_available_bytes: u64,
    /// Bytes on disk of all sector files; counted only where a limit needs it, else 0.
    pub used_bytes: u64,
    /// What the given promises will still take.
    pub promised_bytes: u64,
    /// What the asking sector's files take already.
    pub own_bytes: u64,
}

/// Why a path is unwell.
#[derive(Debug, thiserror::Error)]
pub enum UnwellError {
    #[error("{} has no sectorstore.json; is the volume mounted?", .0.display())]
    NotMounted(PathBuf),
    #[error("{} is another storage path ({found} instead of {expected}); is the right volume mounted?", root.display())]
    AnotherPath { root: PathBuf, expected: String, found: String },
    #[error("its sectorstore.json cannot be read: {0}")]
    BadStore(String),
    #[error("it cannot be written: {0}")]
    ReadOnly(io::Error),
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    #[error("it did not answer within {} s", .0.as_secs_f64())]
    Hangs(Duration),
    #[error("{0}")]
    Blocking(String),
}

/// One turn for each path: see [`Storage::look`].
#[derive(Default)]
pub(super) struct Looks {
    turns: Mutex<HashMap<PathBuf, Arc<Semaphore>>>,
}

impl Looks {
    fn semaphore(&self, path: &LocalPath) -> Arc<Semaphore> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.entry(path.root.clone()).or_insert_with(|| Arc::new(Semaphore::new(1))).clone()
    }
}

/// Looks at a path: is it the right one, how full is it, what is promised. Blocking.
pub fn figures(
    path: &LocalPath,
    max_storage_bytes: u64,
    promises: &[Promise],
    own: Option<(SectorRef, i32)>,
) -> Result<Figures, UnwellError> {
    match read_store(&path.root) {
        Ok(Some(store)) if store.id == path.storage_id => {}
        Ok(Some(store)) => {
            let (root, expected) = (path.root.clone(), path.storage_id.clone());
            return Err(UnwellError::AnotherPath { root, expected, found: store.id });
        }
        Ok(None) => return Err(UnwellError::NotMounted(path.root.clone())),
        Err(error) => return Err(UnwellError::BadStore(error.to_string())),
    }
    let fs = rustix::fs::statvfs(&path.root).map_err(|errno| UnwellError::Unreadable(errno.into()))?;
    let mut unreadable = None;
    let mut on_disk = |sector, file| {
        disk_bytes(&path.file(file, sector)).unwrap_or_else(|error| {
            unreadable = Some(error);
            0
        })
    };
    let promised_bytes = room::promised(promises, own.map(|(sector, _)| sector), &mut on_disk);
    let own_bytes = own.map_or(0, |(sector, files)| of_bits(files).into_iter().map(|file| on_disk(sector, file)).sum());
    let used_bytes = if max_storage_bytes > 0 { used_bytes(path).map_err(UnwellError::Unreadable)? } else { 0 };
    match unreadable {
        Some(error) => Err(UnwellError::Unreadable(error)),
        None => Ok(Figures {
            capacity_bytes: fs.f_blocks.saturating_mul(fs.f_frsize),
            fs_available_bytes: fs.f_bavail.saturating_mul(fs.f_frsize),
            used_bytes,
            promised_bytes,
            own_bytes,
        }),
    }
}

fn used_bytes(path: &LocalPath) -> io::Result<u64> {
    SectorFile::ALL
        .into_iter()
        .try_fold(0u64, |sum, file| Ok(sum.saturating_add(disk_bytes(&path.root.join(file.dir_name()))?)))
}

/// What a report said about one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathHealth {
    pub storage_id: String,
    pub root: PathBuf,
    pub available_bytes: u64,
    /// Why nothing new is put here, if so.
    pub error: Option<String>,
}

impl Storage {
    /// Looks after this machine's paths at every interval, those attached meanwhile included, until cancelled: reports
    /// on them, and removes what is left there of removed sectors.
    pub async fn look_after_paths(self, cancel: CancellationToken) {
        let mut interval = tokio::time::interval(self.timing().health_interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last: Vec<PathHealth> = Vec::new();
        while cancel.run_until_cancelled(interval.tick()).await.is_some() {
            match self.report_health_once().await {
                Ok(now) => {
                    log_changes(&last, &now);
                    last = now;
                }
                Err(error) => warn!(error = %error, "failed to report on the storage paths"),
            }
            if let Err(error) = self.remove_abandoned().await {
                warn!(error = %error, "failed to look for files of removed sectors");
            }
        }
    }

    /// Looks at every path of this machine once and writes what it found. Call it before tasks are taken, so
    /// that the first one finds its room.
    pub async fn report_health_once(&self) -> Result<Vec<PathHealth>, DbError> {
        let paths = paths_of(self.db(), self.machine(), self.timing()).await?;
        let looks = paths.into_iter().map(|state| self.report_path(state));
        futures::future::join_all(looks).await.into_iter().collect()
    }

    /// Looks at a path in a blocking thread, with a bound. A file system that hangs keeps its thread, so a path that
    /// is still being looked at is not looked at again.
    pub(super) async fn look(
        &self,
        path: &LocalPath,
        look: impl FnOnce(&LocalPath) -> Result<Figures, UnwellError> + Send + 'static,
    ) -> Result<Figures, UnwellError> {
        let turn = self.looks().semaphore(path);
        let timeout = self.timing().health_timeout;
        let looked = async {
            let turn = turn.acquire_owned().await.map_err(|_| UnwellError::Hangs(timeout))?;
            let path = path.clone();
            let work = move || {
                let found = look(&path);
                drop(turn);
                found
            };
            blocking("looking at a storage path", work)
                .await
                .map_err(|error| UnwellError::Blocking(error.to_string()))?
        };
        tokio::time::timeout(timeout, looked).await.unwrap_or(Err(UnwellError::Hangs(timeout)))
    }

    async fn report_path(&self, state: PathState) -> Result<PathHealth, DbError> {
        let promises = super::reserve::promises_of(self.db(), &state).await?;
        let limit = state.max_storage_bytes;
        let looked = self.look(&state.path, move |path| {
            let mut seen = figures(path, limit, &promises, None)?;
            match probe_write(&path.root) {
                Ok(()) => Ok(seen),
                // A full path is well: what makes room on it, Finalize and the moves, must go on.
                Err(error) if is_full(&error) => {
                    seen.fs_available_bytes = 0;
                    Ok(seen)
                }
                Err(error) => Err(UnwellError::ReadOnly(error)),
            }
        });
        let looked = looked.await.map_err(|error| error.to_string());
        let available_bytes = match &looked {
            Ok(seen) => room::free_bytes(seen.fs_available_bytes, limit, seen.used_bytes, seen.promised_bytes),
            Err(_) => 0,
        };
        write_report(self.db(), &state.path.storage_id, &looked, available_bytes).await?;
        Ok(PathHealth {
            storage_id: state.path.storage_id,
            root: state.path.root,
            available_bytes,
            error: looked.err(),
        })
    }

    /// Whether this machine has a well path for this use.
    pub async fn has_path(&self, usage: PathUse) -> Result<bool, DbError> {
        let paths = paths_of(self.db(), self.machine(), self.timing()).await?;
        Ok(paths.iter().any(|path| {
            let serves = match usage {
                PathUse::Seal => path.can_seal,
                PathUse::Store => path.can_store,
            };
            serves && path.unwell.is_none()
        }))
    }
}

fn log_changes(last: &[PathHealth], now: &[PathHealth]) {
    for path in now {
        let before = last.iter().find(|old| old.storage_id == path.storage_id);
        match (&path.error, before.map(|old| &old.error)) {
            (Some(error), Some(Some(old))) if error == old => {}
            (Some(error), _) => {
                warn!(path = %path.root.display(), "storage path {} is unwell: {error}", path.root.display());
            }
            (None, Some(Some(_))) => {
                info!(path = %path.root.display(), "storage path {} is well again", path.root.display());
            }
            (None, None) => info!(path = %path.root.display(), id = %path.storage_id,
                "storage path {} is in use", path.root.display()),
            (None, Some(None)) => {}
        }
    }
}

/// Without a limit the used bytes are those declared: walking a long-term path every ten seconds would cost more
/// than the figure is worth.
async fn write_report(
    db: &Db,
    storage_id: &str,
    looked: &Result<Figures, String>,
    available_bytes: u64,
) -> Result<(), DbError> {
    match looked {
        Ok(seen) => {
            sqlx::query!(
                "UPDATE storage_path SET capacity = $2, fs_available = $3, available = $4, reserved = $5,
                     used = CASE WHEN max_storage > 0 THEN $6 ELSE COALESCE(
                         (SELECT sum(size_bytes)::bigint FROM sector_location WHERE storage_id = $1), 0) END,
                     last_heartbeat = now(), heartbeat_err = NULL
                 WHERE storage_id = $1",
                storage_id,
                to_column(seen.capacity_bytes),
                to_column(seen.fs_available_bytes),
                to_column(available_bytes),
                to_column(seen.promised_bytes),
                to_column(seen.used_bytes)
            )
            .execute(db.pool())
            .await?;
        }
        Err(error) => {
            sqlx::query!(
                "UPDATE storage_path SET heartbeat_err = $2, last_heartbeat = now(), available = 0
                 WHERE storage_id = $1",
                storage_id,
                error
            )
            .execute(db.pool())
            .await?;
        }
    }
    Ok(())
}
