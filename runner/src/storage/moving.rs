//! Bringing a sector's files to a path for storing.
//!
//! Every file is brought under a temporary name, made durable and renamed; then one transaction declares the new copies
//! and marks the old ones for removal; then the old ones go. Each step looks at what is there, so a task that was
//! cut off anywhere is simply run again. An old copy goes only after a new one is durable and declared.

use curio_core::{Classify, Failure, SectorRef};
use curio_harmony::{Claim, DbError, TaskId, TxError};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::location::{self, Declared, Location};
use super::path::LocalPath;
use super::remote::client::RemoteError;
use super::reserve::ReserveError;
use super::sector_file::SectorFile;
use super::{BlockingError, FileError, Storage, blocking, durable, health};

/// What a move did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// New copies; none when the files were on a path for storing already.
    pub brought: Vec<Declared>,
    /// Old copies that were removed.
    pub removed: Vec<(String, SectorFile)>,
}

/// A sector's files were not all moved. What was moved stays moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    #[error("failed to find {file} of {sector} on any storage path")]
    Lost { sector: SectorRef, file: SectorFile },
    #[error("failed to remove {file} of {sector} from {storage_id}: no running machine reaches it")]
    Unreachable { sector: SectorRef, file: SectorFile, storage_id: String },
    #[error("failed to use {root}: {reason}")]
    Unwell { root: String, reason: String },
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

impl Classify for MoveError {
    fn classify(self) -> Failure {
        match self {
            MoveError::Reserve(error) => error.classify(),
            MoveError::Remote(error) => error.classify(),
            MoveError::File(error) => error.classify(),
            MoveError::Db(error) => error.classify(),
            MoveError::Blocking(error) => error.classify(),
            error @ MoveError::Unreachable { .. } => Failure::Unavailable(Box::new(error)),
            error => Failure::Retry(Box::new(error)),
        }
    }
}

/// What proving needs for the rest of the sector's life.
const NEEDED: [SectorFile; 2] = [SectorFile::Cache, SectorFile::Sealed];

/// One step of a move.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// No copy of this file has to be brought: it lies on a path for storing.
    Stay { storage_id: String },
    /// Bring it from one of these paths.
    Bring { from: Vec<String> },
}

/// What is to be done with each file that the sector has. Where one path for storing holds what proving needs, the
/// sector lives there already, also when that is another machine's; else everything goes to the destination.
fn plan(
    sector: SectorRef,
    locations: &[Location],
    destination: Option<&str>,
) -> Result<Vec<(SectorFile, Step)>, MoveError> {
    let copies = |file: SectorFile| locations.iter().filter(move |copy| copy.file == file && !copy.going);
    let lies_on = |file: SectorFile, storage_id: &str| copies(file).any(|copy| copy.storage_id == storage_id);
    let home = copies(SectorFile::Sealed)
        .filter(|copy| copy.can_store && NEEDED.iter().all(|&file| lies_on(file, &copy.storage_id)))
        .map(|copy| copy.storage_id.as_str())
        .max_by_key(|storage_id| Some(*storage_id) == destination)
        .or(destination);
    let mut steps = Vec::new();
    for file in SectorFile::ALL {
        let from: Vec<String> = copies(file).map(|copy| copy.storage_id.clone()).collect();
        match home {
            _ if from.is_empty() && NEEDED.contains(&file) => return Err(MoveError::Lost { sector, file }),
            _ if from.is_empty() => {}
            Some(home) if lies_on(file, home) => steps.push((file, Step::Stay { storage_id: home.to_owned() })),
            _ => steps.push((file, Step::Bring { from })),
        }
    }
    Ok(steps)
}

impl Storage {
    /// Moves all declared files of a sector to the path that was reserved for the task, and removes the copies
    /// elsewhere. Files that lie on a path for storing already stay.
    ///
    /// # Errors
    /// Retryable or unavailable, with what is missing; a move that was cut off goes on where it was.
    pub async fn move_to_store(&self, claim: &Claim, sector: SectorRef) -> Result<Moved, Failure> {
        let store = |declared: Vec<Declared>| -> BoxFuture<'_, Result<(), Failure>> {
            async move {
                claim
                    .store("declare moved files", move |tx| {
                        let declared = declared.clone();
                        async move { record(tx, &declared).await }.boxed()
                    })
                    .await
            }
            .boxed()
        };
        self.move_files(claim.task(), claim.attempt(), sector, claim.cancelled(), store).await
    }

    /// [`Storage::move_to_store`] with the fenced write as a parameter: `store` runs [`record`].
    pub(super) async fn move_files<'a>(
        &self,
        task: TaskId,
        attempt: u32,
        sector: SectorRef,
        cancelled: &CancellationToken,
        store: impl Fn(Vec<Declared>) -> BoxFuture<'a, Result<(), Failure>>,
    ) -> Result<Moved, Failure> {
        let destination = match self.reserved_path(task).await {
            Ok(path) => Some(path),
            Err(ReserveError::NotReserved { .. }) => None,
            Err(error) => return Err(error.into()),
        };
        let locations = self.locations(sector).await?;
        let steps = plan(sector, &locations, destination.as_ref().map(|path| path.storage_id.as_str()))?;
        let mut declared = Vec::new();
        let mut moved = Moved::default();
        for (file, step) in steps {
            match step {
                Step::Stay { storage_id } => {
                    let size_bytes = locations
                        .iter()
                        .find(|copy| copy.file == file && copy.storage_id == storage_id)
                        .map_or(0, |copy| copy.size_bytes);
                    declared.push(Declared { storage_id, sector, file, size_bytes });
                }
                Step::Bring { from } => {
                    let Some(destination) = &destination else {
                        let machine = self.machine().to_owned();
                        return Err(ReserveError::NotReserved { task, machine }.into());
                    };
                    let temp = format!("{task}-{attempt}");
                    let brought = self.bring(sector, file, &from, destination, &temp, cancelled).await?;
                    declared.push(brought.clone());
                    moved.brought.push(brought);
                }
            }
        }
        store(declared).await?;
        moved.removed = self.remove_going(sector).await?;
        Ok(moved)
    }

    /// Brings one file to its proper name on the destination. Not declared yet.
    async fn bring(
        &self,
        sector: SectorRef,
        file: SectorFile,
        from: &[String],
        destination: &LocalPath,
        attempt: &str,
        cancelled: &CancellationToken,
    ) -> Result<Declared, MoveError> {
        let (temp, target) = (destination.temp(file, sector, attempt), destination.file(file, sector));
        let sweep = (destination.clone(), temp.clone());
        blocking("clearing temporary files", move || clear_attempts(&sweep.0, file, sector)).await??;
        for storage_id in from {
            let Some(source) = self.local_path(storage_id).await? else { continue };
            let (source_file, copy, token) = (source.file(file, sector), temp.clone(), cancelled.clone());
            info!(sector.sp = %sector.sp, sector.number = sector.number,
                "copying {file} of {sector} from {} to {}", source.root.display(), destination.root.display());
            let duplicated = blocking("copying a sector file", move || durable::duplicate(&source_file, &copy, &token));
            return match duplicated.await? {
                Ok(()) => self.publish_brought(sector, file, destination, &temp, &target).await,
                Err(error) => Err(self.abandon(&temp, error.into()).await),
            };
        }
        let mut peers = Vec::new();
        for storage_id in from {
            peers.extend(self.peers_of(storage_id).await?);
        }
        info!(sector.sp = %sector.sp, sector.number = sector.number,
            "fetching {file} of {sector} to {}", destination.root.display());
        match self.remote().fetch(&peers, sector, file, &temp, cancelled).await {
            Ok(_) => self.publish_brought(sector, file, destination, &temp, &target).await,
            Err(error) => Err(self.abandon(&temp, error.into()).await),
        }
    }

    async fn publish_brought(
        &self,
        sector: SectorRef,
        file: SectorFile,
        destination: &LocalPath,
        temp: &std::path::Path,
        target: &std::path::Path,
    ) -> Result<Declared, MoveError> {
        match durable::publish(temp, target).await {
            Ok(()) => Ok(self.settle(destination, sector, file).await?),
            Err(error) => Err(self.abandon(temp, error.into()).await),
        }
    }

    /// Frees what a failed transfer took, and hands its error on.
    async fn abandon(&self, temp: &std::path::Path, error: MoveError) -> MoveError {
        let temp = temp.to_owned();
        // The next attempt clears it too; the first error is the one to tell.
        let _ = blocking("clearing a temporary file", move || durable::clear(&temp)).await;
        error
    }

    /// Removes every copy of the sector's files that is marked for removal.
    pub async fn remove_going(&self, sector: SectorRef) -> Result<Vec<(String, SectorFile)>, MoveError> {
        let mut removed = Vec::new();
        for copy in self.locations(sector).await?.into_iter().filter(|location| location.going) {
            let Location { storage_id, file, .. } = copy;
            match self.local_path(&storage_id).await? {
                Some(path) => self.remove_local(&path, sector, file).await?,
                None => self.remove_remote(&storage_id, sector, file).await?,
            }
            removed.push((storage_id, file));
        }
        Ok(removed)
    }

    pub(super) async fn remove_local(
        &self,
        path: &LocalPath,
        sector: SectorRef,
        file: SectorFile,
    ) -> Result<(), MoveError> {
        // A volume that is not mounted would look as if the file were gone.
        self.look(path, |path| health::figures(path, 0, &[], None))
            .await
            .map_err(|error| MoveError::Unwell { root: path.root.display().to_string(), reason: error.to_string() })?;
        let target = path.file(file, sector);
        blocking("removing a sector file", move || durable::remove(&target)).await??;
        self.forget_removed(sector, file, &path.storage_id).await?;
        info!(sector.sp = %sector.sp, sector.number = sector.number,
            "removed {file} of {sector} from {}", path.root.display());
        Ok(())
    }

    async fn remove_remote(&self, storage_id: &str, sector: SectorRef, file: SectorFile) -> Result<(), MoveError> {
        let mut last = None;
        for peer in self.peers_of(storage_id).await? {
            match self.remote().remove(&peer, sector, file).await {
                Ok(_) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(match last {
            Some(error) => error.into(),
            None => MoveError::Unreachable { sector, file, storage_id: storage_id.to_owned() },
        })
    }
}

/// Declares the copies that stay and marks all others of the same files for removal.
pub(super) async fn record(tx: &mut curio_harmony::Tx, declared: &[Declared]) -> Result<(), TxError> {
    for copy in declared {
        location::declare(tx, copy).await?;
        location::request_removal_of_others(tx, copy.sector, copy.file, &copy.storage_id).await?;
    }
    Ok(())
}

/// Removes what earlier attempts of a transfer left under their temporary names. An attempt that still runs somewhere
/// loses its directory and fails.
fn clear_attempts(path: &LocalPath, file: SectorFile, sector: SectorRef) -> Result<(), FileError> {
    let directory = path.root.join(file.dir_name()).join(durable::FETCHING);
    std::fs::create_dir_all(&directory).map_err(FileError::io("create", &directory))?;
    let prefix = format!("{}.", sector.file_name());
    for entry in std::fs::read_dir(&directory).map_err(FileError::io("read the directory", &directory))? {
        let entry = entry.map_err(FileError::io("read the directory", &directory))?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            durable::clear(&entry.path())?;
        }
    }
    Ok(())
}
