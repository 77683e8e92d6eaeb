//! A storage path: its directory, its `sectorstore.json`, its rows, and attaching it.
//!
//! Attaching checks everything first, then writes the file, then the rows; what fails takes back what
//! was done before it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use curio_core::{Classify, Failure, SectorRef};
use curio_harmony::{Db, DbError, Tx, TxError};
use futures::FutureExt;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::durable::{self, FETCHING};
use super::sector_file::SectorFile;
use super::{BlockingError, blocking, from_column, to_column};

/// The file that makes a directory a storage path.
pub const SECTOR_STORE: &str = "sectorstore.json";

/// Most bytes of a `sectorstore.json` that is read; Curio's are below 1 KiB.
const SECTOR_STORE_LIMIT_BYTES: u64 = 64 << 10;

/// Curio's default weight.
pub const DEFAULT_WEIGHT: u64 = 10;

/// A storage path as this machine reaches it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LocalPath {
    pub storage_id: String,
    /// The local directory.
    pub root: PathBuf,
}

impl LocalPath {
    /// Where the sector's file of this kind lies when it is whole.
    pub fn file(&self, file: SectorFile, sector: SectorRef) -> PathBuf {
        self.root.join(file.dir_name()).join(sector.file_name())
    }

    /// A name for the same file while it is not whole; `attempt` tells attempts apart. It is in the same file
    /// system, and its directory exists since the path was attached.
    pub fn temp(&self, file: SectorFile, sector: SectorRef, attempt: &str) -> PathBuf {
        self.root.join(file.dir_name()).join(FETCHING).join(format!("{}.{attempt}", sector.file_name()))
    }
}

/// Content of `sectorstore.json`, with Curio's keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SectorStore {
    /// A UUID.
    #[serde(rename = "ID")]
    pub id: String,
    #[serde(default = "default_weight")]
    pub weight: u64,
    #[serde(default)]
    pub can_seal: bool,
    #[serde(default)]
    pub can_store: bool,
    /// Most bytes to use; 0 is no limit.
    #[serde(default)]
    pub max_storage: u64,
    #[serde(default, deserialize_with = "none_as_empty")]
    pub groups: Vec<String>,
    #[serde(default, deserialize_with = "none_as_empty")]
    pub allow_to: Vec<String>,
    #[serde(default, deserialize_with = "none_as_empty")]
    pub allow_types: Vec<String>,
    #[serde(default, deserialize_with = "none_as_empty")]
    pub deny_types: Vec<String>,
    #[serde(default, deserialize_with = "none_as_empty")]
    pub allow_miners: Vec<String>,
    #[serde(default, deserialize_with = "none_as_empty")]
    pub deny_miners: Vec<String>,
}

fn default_weight() -> u64 {
    DEFAULT_WEIGHT
}

/// Curio writes `null` for an empty list.
fn none_as_empty<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default())
}

/// What to write into a new storage path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Init {
    /// New sectors may be sealed here.
    pub can_seal: bool,
    /// Finished sectors may be kept here.
    pub can_store: bool,
    /// Preference among paths with room; larger is preferred.
    pub weight: u64,
    /// Most bytes to use; 0 is no limit.
    pub max_storage_bytes: u64,
}

/// A directory to attach to a machine.
#[derive(Clone, Copy, Debug)]
pub struct Attach<'a> {
    pub root: &'a Path,
    /// Name of the machine that reaches it.
    pub machine: &'a str,
    /// Makes a storage path of the directory; without it the directory must be one already.
    pub init: Option<Init>,
}

/// What [`attach`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attached {
    pub storage_id: String,
    /// The directory, absolute.
    pub root: PathBuf,
    /// The machine had it already, under this directory.
    pub already: bool,
}

/// Why a directory was not attached. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("{} does not exist; create the directory, or mount the volume, first", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    #[error("{} cannot be written ({source}); make it writable for this user, or mount it read-write", path.display())]
    ReadOnly { path: PathBuf, source: io::Error },
    #[error("{} is full ({source}); make room there first", path.display())]
    Full { path: PathBuf, source: io::Error },
    #[error("{} is a storage path already (id {id}); attach it without --init", path.display())]
    Initialised { path: PathBuf, id: String },
    #[error("{} is no storage path yet (it has no {SECTOR_STORE}); attach it with --init and --seal or --store", .0.display())]
    NotInitialised(PathBuf),
    #[error("a new storage path is for sealing, for storing, or both; add --seal, --store")]
    NoUse,
    #[error("{} is not a valid {SECTOR_STORE}: {reason}", path.display())]
    BadStore { path: PathBuf, reason: String },
    #[error("failed to {what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Blocking(#[from] BlockingError),
    #[error("failed to store the path in the database")]
    Db(#[source] TxError),
}

impl Classify for AttachError {
    fn classify(self) -> Failure {
        match self {
            AttachError::Db(error) => error.classify(),
            error => Failure::Permanent { reason: "storage-path", cause: Box::new(error) },
        }
    }
}

/// Attaches a directory to a machine: with `init` writes a fresh `sectorstore.json`, in any case creates the
/// directories of the file kinds and writes the rows. A running runner of that machine finds it at its next
/// health report. Attaching the same directory again changes nothing; another directory for the same id moves
/// it; a second machine shares the volume.
///
/// # Errors
/// Each is one sentence that says what to do; nothing was changed then.
pub async fn attach(db: &Db, request: &Attach<'_>) -> Result<Attached, AttachError> {
    let (root, init) = (request.root.to_owned(), request.init);
    let made = blocking("attaching a storage path", move || prepare(&root, init)).await??;
    match insert(db, request.machine, &made).await {
        Ok(already) => Ok(Attached { storage_id: made.store.id, root: made.root, already }),
        Err(error) => {
            blocking("taking back a storage path", move || made.take_back()).await?;
            Err(AttachError::Db(error))
        }
    }
}

/// A directory that is a storage path now, and what was created to make it one.
struct Prepared {
    root: PathBuf,
    store: SectorStore,
    created: Vec<PathBuf>,
    wrote_store: bool,
}

impl Prepared {
    fn take_back(&self) {
        // Best effort on the way out of an error that is reported anyway. Only empty directories go.
        if self.wrote_store {
            let _ = fs::remove_file(self.root.join(SECTOR_STORE));
        }
        for directory in self.created.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn prepare(root: &Path, init: Option<Init>) -> Result<Prepared, AttachError> {
    let root = match fs::canonicalize(root) {
        Ok(root) => root,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(AttachError::Missing(root.to_owned())),
        Err(source) => return Err(AttachError::Io { what: "look at", path: root.to_owned(), source }),
    };
    if !root.is_dir() {
        return Err(AttachError::NotADirectory(root));
    }
    let found = read_store(&root)?;
    let store = match (init, found) {
        (None, Some(store)) => store,
        (None, None) => return Err(AttachError::NotInitialised(root)),
        (Some(_), Some(store)) => return Err(AttachError::Initialised { path: root, id: store.id }),
        (Some(init), None) if !init.can_seal && !init.can_store => return Err(AttachError::NoUse),
        (Some(init), None) => SectorStore {
            id: Uuid::new_v4().to_string(),
            weight: init.weight,
            can_seal: init.can_seal,
            can_store: init.can_store,
            max_storage: init.max_storage_bytes,
            groups: Vec::new(),
            allow_to: Vec::new(),
            allow_types: Vec::new(),
            deny_types: Vec::new(),
            allow_miners: Vec::new(),
            deny_miners: Vec::new(),
        },
    };
    probe_write(&root).map_err(|source| {
        let path = root.clone();
        if is_full(&source) { AttachError::Full { path, source } } else { AttachError::ReadOnly { path, source } }
    })?;
    let mut made = Prepared { root, store, created: Vec::new(), wrote_store: false };
    let outcome = (|| {
        for file in SectorFile::ALL {
            let directory = made.root.join(file.dir_name());
            make_dir(&directory, &mut made.created)?;
            make_dir(&directory.join(FETCHING), &mut made.created)?;
        }
        if init.is_some() {
            let path = made.root.join(SECTOR_STORE);
            let text = serde_json::to_vec_pretty(&made.store).expect("strings and numbers always serialise");
            durable::write_whole(&path, &text, true).map_err(|source| AttachError::Io {
                what: "write",
                path,
                source,
            })?;
            made.wrote_store = true;
        }
        Ok(())
    })();
    match outcome {
        Ok(()) => Ok(made),
        Err(error) => {
            made.take_back();
            Err(error)
        }
    }
}

fn make_dir(directory: &Path, created: &mut Vec<PathBuf>) -> Result<(), AttachError> {
    match fs::create_dir(directory) {
        Ok(()) => created.push(directory.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => {}
        Err(source) => return Err(AttachError::Io { what: "create", path: directory.to_owned(), source }),
    }
    Ok(())
}

/// Reads the `sectorstore.json` of a directory; none there is `None`.
pub fn read_store(root: &Path) -> Result<Option<SectorStore>, AttachError> {
    let path = root.join(SECTOR_STORE);
    let metadata = match fs::metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(AttachError::Io { what: "read", path, source }),
    };
    let bad = |reason: String| AttachError::BadStore { path: path.clone(), reason };
    if !metadata.is_file() || metadata.len() > SECTOR_STORE_LIMIT_BYTES {
        return Err(bad(format!("it is not a file of at most {SECTOR_STORE_LIMIT_BYTES} bytes")));
    }
    let text = fs::read(&path).map_err(|source| AttachError::Io { what: "read", path: path.clone(), source })?;
    let store: SectorStore = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    if Uuid::parse_str(&store.id).is_err() {
        return Err(bad(format!("its ID '{}' is not a UUID", store.id)));
    }
    Ok(Some(store))
}

/// Whether a write failed for lack of room, which is no fault of the path.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Writes, makes durable and removes a small file: a full or failing disk shows here.
pub(super) fn probe_write(root: &Path) -> io::Result<()> {
    // One name for each process, so that one killed here leaves at most one file, which the next one writes over.
    let path = root.join(format!(".probe-{}", std::process::id()));
    let outcome = (|| {
        let file = fs::File::create(&path)?;
        io::Write::write_all(&mut &file, b"probe")?;
        file.sync_all()
    })();
    let removed = match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    };
    outcome.and(removed)
}

/// Writes the rows of a path; true when the machine had it under this directory already.
async fn insert(db: &Db, machine: &str, made: &Prepared) -> Result<bool, TxError> {
    match insert_once(db, machine, made).await {
        // Whether it was committed is unknown; writing the same rows again makes it certain.
        Err(TxError::Db(DbError::CommitUnknown { .. })) => insert_once(db, machine, made).await,
        outcome => outcome,
    }
}

async fn insert_once(db: &Db, machine: &str, made: &Prepared) -> Result<bool, TxError> {
    let (machine, store) = (machine.to_owned(), made.store.clone());
    let root = made.root.to_string_lossy().into_owned();
    db.transaction("attach storage path", move |tx| {
        let (machine, store, root) = (machine.clone(), store.clone(), root.clone());
        async move {
            upsert_path(tx, &store).await?;
            let before = local_path_of(tx, &store.id, &machine).await?;
            upsert_machine(tx, &store.id, &machine, &root).await?;
            Ok(before.as_deref() == Some(root.as_str()))
        }
        .boxed()
    })
    .await
}

async fn upsert_path(tx: &mut Tx, store: &SectorStore) -> Result<(), TxError> {
    sqlx::query!(
        "INSERT INTO storage_path (storage_id, weight, max_storage, can_seal, can_store, groups, allow_to,
                                   allow_types, deny_types, allow_miners, deny_miners)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (storage_id) DO UPDATE SET weight = EXCLUDED.weight, max_storage = EXCLUDED.max_storage,
             can_seal = EXCLUDED.can_seal, can_store = EXCLUDED.can_store, groups = EXCLUDED.groups,
             allow_to = EXCLUDED.allow_to, allow_types = EXCLUDED.allow_types, deny_types = EXCLUDED.deny_types,
             allow_miners = EXCLUDED.allow_miners, deny_miners = EXCLUDED.deny_miners",
        store.id,
        to_column(store.weight),
        to_column(store.max_storage),
        store.can_seal,
        store.can_store,
        &store.groups,
        &store.allow_to,
        &store.allow_types,
        &store.deny_types,
        &store.allow_miners,
        &store.deny_miners,
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

async fn local_path_of(tx: &mut Tx, storage_id: &str, machine: &str) -> Result<Option<String>, TxError> {
    Ok(sqlx::query_scalar!(
        "SELECT local_path FROM storage_path_machines WHERE storage_id = $1 AND machine_name = $2",
        storage_id,
        machine
    )
    .fetch_optional(&mut *tx)
    .await?)
}

async fn upsert_machine(tx: &mut Tx, storage_id: &str, machine: &str, root: &str) -> Result<(), TxError> {
    sqlx::query!(
        "INSERT INTO storage_path_machines (storage_id, machine_name, local_path) VALUES ($1, $2, $3)
         ON CONFLICT (storage_id, machine_name) DO UPDATE SET local_path = EXCLUDED.local_path",
        storage_id,
        machine,
        root
    )
    .execute(&mut *tx)
    .await?;
    Ok(())
}

/// One line of `curio storage list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathRow {
    pub storage_id: String,
    pub can_seal: bool,
    pub can_store: bool,
    pub weight: u64,
    /// 0 is no limit.
    pub max_storage_bytes: u64,
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub fs_available_bytes: u64,
    pub reserved_bytes: u64,
    pub used_bytes: u64,
    /// Since the last health report; none was ever made when absent.
    pub heartbeat_age: Option<Duration>,
    pub heartbeat_error: Option<String>,
    /// Which machine reaches it, under which directory.
    pub machines: Vec<(String, PathBuf)>,
    /// Declared sector files.
    pub sector_files: u64,
}

/// All storage paths of the cluster, by id.
pub async fn list(db: &Db) -> Result<Vec<PathRow>, DbError> {
    let rows = sqlx::query!(
        r#"SELECT p.storage_id, p.can_seal, p.can_store, p.weight, p.max_storage, p.capacity, p.available,
                  p.fs_available, p.reserved, p.used, p.heartbeat_err,
                  EXTRACT(EPOCH FROM now() - p.last_heartbeat)::float8 AS heartbeat_age_s,
                  (SELECT count(*) FROM sector_location l WHERE l.storage_id = p.storage_id) AS "sector_files!",
                  COALESCE((SELECT array_agg(m.machine_name ORDER BY m.machine_name)
                            FROM storage_path_machines m WHERE m.storage_id = p.storage_id), '{}') AS "machines!",
                  COALESCE((SELECT array_agg(m.local_path ORDER BY m.machine_name)
                            FROM storage_path_machines m WHERE m.storage_id = p.storage_id), '{}') AS "roots!"
           FROM storage_path p ORDER BY p.storage_id"#
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| PathRow {
            storage_id: row.storage_id,
            can_seal: row.can_seal,
            can_store: row.can_store,
            weight: from_column(row.weight),
            max_storage_bytes: from_column(row.max_storage),
            capacity_bytes: from_column(row.capacity),
            available_bytes: from_column(row.available),
            fs_available_bytes: from_column(row.fs_available),
            reserved_bytes: from_column(row.reserved),
            used_bytes: from_column(row.used),
            heartbeat_age: row.heartbeat_age_s.map(|age| Duration::from_secs_f64(age.max(0.0))),
            heartbeat_error: row.heartbeat_err,
            machines: row.machines.into_iter().zip(row.roots.into_iter().map(PathBuf::from)).collect(),
            sector_files: from_column(row.sector_files),
        })
        .collect())
}
