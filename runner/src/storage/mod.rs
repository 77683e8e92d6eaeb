//! Sector files: where they lie, how much room is promised, how they travel.
//!
//! A *storage path* is a directory with a `sectorstore.json`; which machine reaches it under which
//! local directory is a relation in the database. A sector file is written under a temporary name,
//! made durable, renamed, and only then declared: what `sector_location` names can be read whole.
//!
//! Reads and writes `storage_path`, `storage_path_machines`, `sector_location`,
//! `storage_reservations`; reads `harmony_task_machines` for addresses and `sectors_sdr_pipeline` for
//! the room that sectors in flight still need.

pub mod durable;
pub mod health;
pub mod location;
pub mod moving;
pub mod path;
pub mod places;
pub mod posts;
pub mod remote;
pub mod removal;
pub mod reserve;
pub mod room;
pub mod sector_file;
pub mod vanilla;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use curio_core::{Classify, Failure};
use curio_harmony::Db;

pub use durable::FileError;
pub use location::{Declared, LocateError, Location};
pub use path::LocalPath;
pub use posts::{ChallengedSector, PostLimits, VanillaOutcomes, VanillaPosts};
pub use remote::client::Remote;
pub use remote::token::{SecretError, StorageSecret};
pub use reserve::{Need, Reservation, ReserveError};
pub use room::PathUse;
pub use sector_file::SectorFile;
pub use vanilla::VanillaPorep;

/// How often and how long. The defaults are Curio's where Curio has one.
#[derive(Clone, Copy, Debug)]
pub struct StorageTiming {
    /// Between two health reports of a path.
    pub health_interval: Duration,
    /// A path whose last report is older than this gets no new files.
    pub heartbeat_lifetime: Duration,
    /// How long one look at a path may take before the path counts as hanging.
    pub health_timeout: Duration,
    /// How long a reservation outlives a runner that stopped renewing it.
    pub reservation_lease: Duration,
    /// Between two renewals of a held reservation.
    pub reservation_renewal: Duration,
}

impl Default for StorageTiming {
    fn default() -> StorageTiming {
        StorageTiming {
            health_interval: Duration::from_secs(10),
            heartbeat_lifetime: Duration::from_secs(50),
            health_timeout: Duration::from_secs(20),
            reservation_lease: Duration::from_secs(90),
            reservation_renewal: Duration::from_secs(20),
        }
    }
}

/// What a machine's storage needs to know beside the database.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    /// Name of this machine, the one it registers under.
    pub machine: String,
    /// Shared secret of all runners (`Apis.StorageRPCSecret`). Without one this runner neither serves
    /// files to others nor fetches from them.
    pub secret: Option<StorageSecret>,
    pub timing: StorageTiming,
}

/// The sector files of the cluster as one machine sees them. A clone is the same storage.
#[derive(Clone)]
pub struct Storage {
    inner: Arc<Inner>,
}

struct Inner {
    db: Db,
    options: StorageOptions,
    remote: Remote,
    looks: health::Looks,
    /// When a lack of room was last said in the log.
    no_room_said: Mutex<Option<Instant>>,
}

impl Storage {
    /// Storage of the machine named in `options`.
    pub fn new(db: Db, options: StorageOptions) -> Storage {
        let remote = Remote::new(options.machine.clone(), options.secret.clone());
        Storage {
            inner: Arc::new(Inner {
                db,
                options,
                remote,
                looks: health::Looks::default(),
                no_room_said: Mutex::default(),
            }),
        }
    }

    pub fn db(&self) -> &Db {
        &self.inner.db
    }

    /// Name of this machine.
    pub fn machine(&self) -> &str {
        &self.inner.options.machine
    }

    pub fn timing(&self) -> &StorageTiming {
        &self.inner.options.timing
    }

    /// The secret that tokens are signed with, if this machine has one.
    pub fn secret(&self) -> Option<&StorageSecret> {
        self.inner.options.secret.as_ref()
    }

    fn looks(&self) -> &health::Looks {
        &self.inner.looks
    }

    /// The client side of `/remote`.
    pub fn remote(&self) -> &Remote {
        &self.inner.remote
    }
}

/// A blocking call did not come back: it panicked, or the runner is shutting down.
#[derive(Debug, thiserror::Error)]
#[error("failed to finish {what} in a blocking thread")]
pub struct BlockingError {
    pub what: &'static str,
    #[source]
    pub source: tokio::task::JoinError,
}

impl Classify for BlockingError {
    fn classify(self) -> Failure {
        if self.source.is_cancelled() { Failure::Stopping } else { Failure::Retry(Box::new(self)) }
    }
}

/// Runs file work away from the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, BlockingError> {
    tokio::task::spawn_blocking(work).await.map_err(|source| BlockingError { what, source })
}

/// A byte count for a `bigint` column. Sizes of files stay far below 2^63; a larger one is cut there.
pub(crate) fn to_column(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A byte count from a `bigint` column; a negative one, which nobody writes, reads as zero.
pub(crate) fn from_column(bytes: i64) -> u64 {
    u64::try_from(bytes).unwrap_or(0)
}
