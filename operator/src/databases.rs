//! The databases: one per CurioCluster, each looked after by one keeper. The controller of the cluster says
//! which database it is; everybody else asks here whether it can be used, and if not, why not.

mod keeper;
mod standing;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use curio_harmony::{Db, TxError, owner};
use futures::Stream;
use futures::stream;
use tokio::sync::broadcast;
use tokio_util::task::AbortOnDropHandle;

use self::keeper::Keeper;
pub use self::standing::{ClusterKey, Standing};

/// Changes that a subscriber may be behind before it is told of all databases instead.
const CHANGES_KEPT: usize = 256;
/// How long giving a database up may take.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);

/// Whose database it is to be, and where it is.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Of the CurioCluster: the database belongs to this one object.
    pub uid: String,
    /// The URL, or why there is none.
    pub url: Result<String, NoUrl>,
    /// Name of an owner that a person says is gone for good: the database is taken from it.
    pub take_from: Option<String>,
}

/// Why a CurioCluster names no database: one sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoUrl(pub String);

/// A database could not be given up.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("failed to reach the database")]
    Away,
    #[error("failed to give the database up")]
    Transaction(#[source] TxError),
}

/// All databases. A clone is the same.
#[derive(Clone)]
pub struct Databases {
    shared: Arc<Shared>,
}

struct Shared {
    kept: Mutex<HashMap<ClusterKey, Kept>>,
    changes: broadcast::Sender<ClusterKey>,
    generations: AtomicU64,
}

struct Kept {
    wanted: Wanted,
    /// Which entry of this key it is: a keeper that is ending must not write into the next one.
    generation: u64,
    standing: Standing,
    /// The connection, also while the database cannot be used for what its standing says.
    connected: Option<Db>,
    /// Ends with this entry. None while there is nothing to connect to.
    _keeper: Option<AbortOnDropHandle<()>>,
}

impl Default for Databases {
    fn default() -> Databases {
        let changes = broadcast::Sender::new(CHANGES_KEPT);
        let shared = Shared { kept: Mutex::default(), changes, generations: AtomicU64::new(0) };
        Databases { shared: Arc::new(shared) }
    }
}

impl Databases {
    /// Whether the database of this cluster can be used, and if so, the database.
    pub fn get(&self, key: &ClusterKey) -> Standing {
        self.shared.kept().get(key).map_or(Standing::Unknown, |kept| kept.standing.clone())
    }

    /// All databases that can be used now.
    pub fn ready(&self) -> Vec<(ClusterKey, Db)> {
        let kept = self.shared.kept();
        kept.iter().filter_map(|(key, kept)| Some((key.clone(), kept.standing.db()?.clone()))).collect()
    }

    /// A cluster whenever the standing of its database has changed. Ends with the process.
    pub fn changes(&self) -> impl Stream<Item = ClusterKey> + Send + use<> {
        let state = (self.shared.clone(), self.shared.changes.subscribe(), VecDeque::new());
        stream::unfold(state, async |(shared, mut receiver, mut missed)| {
            loop {
                if let Some(key) = missed.pop_front() {
                    return Some((key, (shared, receiver, missed)));
                }
                match receiver.recv().await {
                    Ok(key) => return Some((key, (shared, receiver, missed))),
                    Err(broadcast::error::RecvError::Lagged(_)) => missed.extend(shared.keys()),
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
    }

    /// Says which database a cluster has. Its keeper starts, or starts anew when something differs.
    pub fn want(&self, key: &ClusterKey, wanted: Wanted) {
        let mut kept = self.shared.kept();
        if kept.get(key).is_some_and(|kept| kept.wanted == wanted) {
            return;
        }
        let standing = match &wanted.url {
            Ok(_) => Standing::Unknown,
            Err(NoUrl(sentence)) => Standing::SecretMissing(sentence.clone()),
        };
        let generation = self.shared.generations.fetch_add(1, Ordering::Relaxed);
        let keeper = wanted.url.clone().ok().map(|url| {
            let keeper = Keeper {
                key: key.clone(),
                uid: wanted.uid.clone(),
                url,
                take_from: wanted.take_from.clone(),
                generation,
                databases: Arc::downgrade(&self.shared),
            };
            AbortOnDropHandle::new(tokio::spawn(keeper.run()))
        });
        kept.insert(key.clone(), Kept { wanted, generation, standing, connected: None, _keeper: keeper });
        drop(kept);
        self.shared.told(key);
    }

    /// Gives a database up, so that another CurioCluster may have it. Says whether it was ours. Until
    /// [`forget`](Databases::forget) the keeper may take it again, so forget it first or soon.
    ///
    /// # Errors
    /// The database is away; it stays ours there.
    pub async fn release(&self, key: &ClusterKey) -> Result<bool, ReleaseError> {
        let found = self.shared.kept().get(key).map(|kept| (kept.wanted.uid.clone(), kept.connected.clone()));
        let Some((uid, connected)) = found else { return Ok(false) };
        let db = connected.ok_or(ReleaseError::Away)?;
        match tokio::time::timeout(RELEASE_TIMEOUT, owner::release(&db, &uid)).await {
            Ok(Ok(ours)) => Ok(ours),
            Ok(Err(error)) => Err(ReleaseError::Transaction(error)),
            Err(_) => Err(ReleaseError::Away),
        }
    }

    /// Ends the keeper of a cluster that is gone.
    pub fn forget(&self, key: &ClusterKey) {
        let gone = self.shared.kept().remove(key).is_some();
        if gone {
            self.shared.told(key);
        }
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, HashMap<ClusterKey, Kept>> {
        // An entry is a plain value, right after a panic elsewhere, too.
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn keys(&self) -> Vec<ClusterKey> {
        self.kept().keys().cloned().collect()
    }

    fn told(&self, key: &ClusterKey) {
        // Nobody listens before the controllers have started.
        let _ = self.changes.send(key.clone());
    }
}

#[cfg(test)]
mod tests;
