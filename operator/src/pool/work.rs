//! What every database says about work, looked at once a second for all pools together: which runner has which
//! tasks, what waits, which runner holds data that nobody else has.
//!
//! Reads the databases that can be used; keeps the last look at each in memory; says which clusters' pools have
//! something to do about it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use curio_harmony::machines::{self, MachineRow, MachineState};
use curio_harmony::tasks::{self, KindLoad};
use curio_harmony::{Db, DbError};
use curio_pipeline::pinned::{self, Pinned};
use curio_pipeline::{request, windows};
use futures::stream::{self, StreamExt};
use futures::{FutureExt, Stream};
use tokio::sync::broadcast;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::databases::{ClusterKey, Databases};

/// Work that appears is seen after at most this long.
const PERIOD: Duration = Duration::from_secs(1);
/// A database that takes longer is as good as away for this look.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);
/// A look that is older says nothing about now.
const FRESH: Duration = Duration::from_secs(10);
/// Databases that are looked at at the same time.
const AT_ONCE: usize = 8;
/// Changes that a listener may be behind; it sees the newest look of each anyway.
const CHANGES_KEPT: usize = 256;

/// One look at one database.
#[derive(Clone, Debug, PartialEq)]
pub struct Work {
    /// Every machine that the database knows, by name.
    pub machines: BTreeMap<String, Machine>,
    pub queue: Vec<KindLoad>,
    /// Requests for sectors that no runner has taken up.
    pub requests: u64,
    /// Partitions that are to be proven, or whose proof is on its way to the chain.
    pub proofs_due: u64,
}

/// One machine, with what it has to do and to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// What its process runs in: the UID of the pod, or nothing for a machine outside.
    pub instance: String,
    /// It stopped in order or its lease ran out.
    pub gone: bool,
    /// For how long it takes nothing new, by the database's clock.
    pub cordoned_for: Option<Duration>,
    /// Kinds of the tasks that it owns.
    pub tasks: Vec<String>,
    pub pinned: Pinned,
}

impl Work {
    /// Looks. The machines are read first: whatever one of them claimed before it was seen cordoned is seen, too.
    ///
    /// # Errors
    /// Database trouble.
    pub async fn look(db: &Db) -> Result<Work, DbError> {
        let machines = machines::list(db).await?;
        let running = tasks::running(db).await?;
        let mut pinned = pinned::by_machine(db).await?;
        let queue = tasks::load(db).await?;
        let requests = request::waiting(db).await?;
        let proofs_due = windows::due(db).await?;
        let mut kinds: HashMap<String, Vec<String>> = HashMap::new();
        for task in running {
            kinds.entry(task.machine).or_default().push(task.kind);
        }
        let machines = machines.into_iter().map(|row| {
            let machine = Machine {
                gone: matches!(row.state, MachineState::Stopped | MachineState::Lost),
                cordoned_for: row.cordoned_at.map(|since| age(since, &row)),
                tasks: kinds.remove(&row.name).unwrap_or_default(),
                pinned: pinned.remove(&row.name).unwrap_or_default(),
                instance: row.instance,
            };
            (row.name, machine)
        });
        Ok(Work { machines: machines.collect(), queue, requests, proofs_due })
    }

    /// As it is for whoever waits for a change: the ages, which change with every look, are left out.
    fn essence(&self) -> Work {
        let mut work = self.clone();
        for kind in &mut work.queue {
            kind.oldest_wait_s = 0.0;
        }
        for machine in work.machines.values_mut() {
            machine.tasks.sort_unstable();
            machine.cordoned_for = machine.cordoned_for.map(|since| since.min(super::plan::CORDON_SETTLES));
        }
        work
    }
}

/// How long ago by the clock of the server, which has set both times that it is told from.
fn age(since: DateTime<Utc>, row: &MachineRow) -> Duration {
    let until_contact = (row.last_contact - since).as_seconds_f64();
    Duration::try_from_secs_f64(until_contact + row.contact_age_s).unwrap_or_default()
}

/// The last look at each database. A clone is the same.
#[derive(Clone)]
pub struct Board {
    looks: Arc<Mutex<HashMap<ClusterKey, Look>>>,
    changes: broadcast::Sender<ClusterKey>,
}

#[derive(Clone)]
struct Look {
    at: Instant,
    work: Arc<Work>,
}

impl Default for Board {
    fn default() -> Board {
        Board { looks: Arc::default(), changes: broadcast::Sender::new(CHANGES_KEPT) }
    }
}

impl Board {
    /// The work of a cluster; none while its database is away.
    pub fn get(&self, key: &ClusterKey) -> Option<Arc<Work>> {
        self.looks().get(key).filter(|look| look.at.elapsed() < FRESH).map(|look| Arc::clone(&look.work))
    }

    /// A cluster whenever its work has changed. One that a slow listener misses, it is told of with the next change.
    pub fn changes(&self) -> impl Stream<Item = ClusterKey> + Send + use<> {
        stream::unfold(self.changes.subscribe(), async |mut receiver| {
            loop {
                match receiver.recv().await {
                    Ok(key) => return Some((key, receiver)),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return None,
                }
            }
        })
    }

    /// Looks at all databases once a second until `stop`.
    pub async fn keep(&self, databases: &Databases, stop: &CancellationToken) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            // Boxed and collected first: a closure that is kept across the wait would make this future not `Send`.
            let looks: Vec<_> = databases.ready().into_iter().map(|(key, db)| self.look(key, db).boxed()).collect();
            let looks = stream::iter(looks).buffer_unordered(AT_ONCE).collect::<()>();
            if stop.run_until_cancelled(looks).await.is_none() {
                return;
            }
        }
    }

    /// A database that does not answer leaves the last look to age: its keeper finds and says what is wrong.
    async fn look(&self, key: ClusterKey, db: Db) {
        match tokio::time::timeout(LOOK_TIMEOUT, Work::look(&db)).await {
            Ok(Ok(work)) => self.note(key, work),
            Ok(Err(error)) => debug!(error = &error as &dyn std::error::Error, "failed to read the work of {key}"),
            Err(_) => debug!("reading the work of {key} took longer than {LOOK_TIMEOUT:?}"),
        }
    }

    fn note(&self, key: ClusterKey, work: Work) {
        let essence = work.essence();
        let look = Look { at: Instant::now(), work: Arc::new(work) };
        let before = self.looks().insert(key.clone(), look);
        let same = before.is_some_and(|before| before.at.elapsed() < FRESH && before.work.essence() == essence);
        if !same {
            // Nobody listens before the controller has started.
            let _ = self.changes.send(key);
        }
    }

    fn looks(&self) -> MutexGuard<'_, HashMap<ClusterKey, Look>> {
        // A look is a plain value, right after a panic elsewhere, too.
        self.looks.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ClusterKey {
        ClusterKey::new("ns", "curio")
    }

    fn work(oldest_wait_s: f64, waiting: i64) -> Work {
        let load = KindLoad { kind: "PoRep".to_owned(), waiting, oldest_wait_s, running: 0, backing_off: 0, failed: 0 };
        Work { machines: BTreeMap::new(), queue: vec![load], requests: 0, proofs_due: 0 }
    }

    #[tokio::test]
    async fn only_a_look_that_differs_in_more_than_ages_is_told() {
        let board = Board::default();
        let mut changes = board.changes.subscribe();
        board.note(key(), work(1.0, 1));
        board.note(key(), work(2.0, 1));
        board.note(key(), work(3.0, 2));
        assert_eq!(changes.len(), 2);
        assert_eq!(changes.recv().await.expect("the board lives"), key());
        assert_eq!(board.get(&key()).expect("just looked").queue[0].waiting, 2);
        assert!(board.get(&ClusterKey::new("ns", "other")).is_none());
    }
}
