//! The engine of one machine: looks at the queue, claims what fits, runs it, keeps the machine alive.

use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use curio_core::Resources;
use curio_core::resources::Shortage;
use rand::Rng;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::aftermath::Aftermath;
use crate::alive::keep_alive;
use crate::claim::Claim;
use crate::cycle::Scheduler;
use crate::db::{Db, DbError, Trouble, trouble};
use crate::finish::{Finished, write_ends};
use crate::hints::{self, Wake};
use crate::machine::{self, MachineSpec, Offered};
use crate::metrics::Metrics;
use crate::pick::{self, Identity};
use crate::propose::propose_followers;
use crate::registry::{Kind, Registry};
use crate::slots::{Running, Slots};
use crate::task::{Class, TaskId, TaskName};
use crate::timing::Timing;

/// An attempt that ended and was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    pub kind: TaskName,
    pub task: TaskId,
    /// True when the task is finished, false when the attempt failed or was put back.
    pub ok: bool,
}

/// Whether the engine does its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineState {
    /// Registered, claiming, heard.
    Running,
    /// The last heartbeat could not be written.
    DatabaseAway,
    /// Another process took over the machine's name. Nothing is claimed any more.
    Replaced,
    Stopping,
}

/// The engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("failed to register this machine as '{name}'")]
    Register {
        name: String,
        #[source]
        source: DbError,
    },
    #[error("failed to take back the tasks of this machine's last run")]
    TakeBack(#[source] DbError),
}

/// What all parts of the engine share.
pub(crate) struct Core {
    pub(crate) db: Db,
    pub(crate) spec: MachineSpec,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) timing: Timing,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) completions: broadcast::Sender<Completion>,
    pub(crate) wake: Wake,
    /// No new work; running work is asked to end.
    pub(crate) stopping: CancellationToken,
    /// The engine ends now, written or not.
    pub(crate) given_up: CancellationToken,
    pub(crate) state: watch::Sender<EngineState>,
    pub(crate) slots: Mutex<Slots>,
    /// An attempt has ended and uses nothing any more.
    pub(crate) released: Notify,
    identity: Mutex<Identity>,
    audit: AtomicBool,
}

impl Core {
    pub(crate) fn identity(&self) -> Identity {
        *self.identity.lock().expect("nothing panics under this lock")
    }

    pub(crate) fn set_identity(&self, identity: Identity) {
        *self.identity.lock().expect("nothing panics under this lock") = identity;
        self.db.shared().set_machine(identity.machine);
    }

    /// Asks for a look at rows that are ours in the database and unknown here.
    pub(crate) fn request_audit(&self) {
        self.audit.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_audit(&self) -> bool {
        self.audit.swap(false, Ordering::Relaxed)
    }

    pub(crate) fn claim_of(&self, kind: usize, id: i64, attempt: i32) -> Claim {
        Claim {
            task: TaskId(id),
            kind: self.kinds[kind].name,
            attempt: u32::try_from(attempt).unwrap_or(0),
            machine: self.identity().machine,
            db: self.db.clone(),
            cancelled: CancellationToken::new(),
        }
    }

    /// Whether this machine runs work that has a deadline.
    pub(crate) fn runs_deadlines(&self) -> bool {
        self.kinds.iter().any(|kind| kind.spec.class == Class::Deadline)
    }

    /// Time to the next look after one that found nothing.
    pub(crate) fn poll_idle(&self) -> Duration {
        let deaf = self.metrics.listening.get() == 0;
        if deaf && self.runs_deadlines() {
            self.timing.poll_idle.min(self.timing.poll_deaf)
        } else {
            self.timing.poll_idle
        }
    }

    /// Runs a statement of the engine with its time limit.
    pub(crate) async fn bounded<T>(
        &self,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, DbError> {
        within(self.timing.statement, statement).await
    }
}

/// Runs a statement for as long as `limit`.
pub(crate) async fn within<T>(
    limit: Duration,
    statement: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, DbError> {
    match tokio::time::timeout(limit, statement).await {
        Ok(result) => result.map_err(DbError::from),
        Err(_) => Err(DbError::Timeout(limit)),
    }
}

/// A running engine. Dropping it without [`Engine::shutdown`] leaves its tasks to the lease.
pub struct Engine {
    core: Arc<Core>,
    /// What claims and listens: ends when the engine begins to stop.
    parts: JoinSet<()>,
    /// The heartbeat: goes on until the last attempt has ended, or others would take the attempts for lost.
    alive: JoinSet<()>,
    writer: tokio::task::JoinHandle<()>,
    ends: mpsc::Sender<Finished>,
}

impl Engine {
    /// Registers the machine, takes back what its last run left behind, and begins to claim.
    ///
    /// # Errors
    /// When the database cannot be written; nothing runs then.
    pub async fn start(db: Db, registry: Registry, machine: MachineSpec, timing: Timing) -> Result<Engine, StartError> {
        let names: Vec<TaskName> = registry.names().collect();
        let offered = Offered::of(&registry);
        let timing = timing.of_machine(!offered.deadline_kinds.is_empty());
        let identity = after_conflicts(|| machine::register(db.engine_pool(), &machine, &offered))
            .await
            .map_err(|source| StartError::Register { name: machine.name.clone(), source: source.into() })?;
        db.shared().set_machine(identity.machine);
        info!(machine.id = identity.machine, identity.incarnation, "registered as '{}'", machine.name);
        warn_of_misfits(&registry.kinds, &machine.resources);
        let metrics = Arc::new(Metrics::new(names, db.metrics().clone()));
        let core = Arc::new(Core {
            db,
            spec: machine,
            kinds: registry.kinds,
            timing,
            metrics,
            completions: broadcast::Sender::new(1024),
            wake: Wake::default(),
            stopping: CancellationToken::new(),
            given_up: CancellationToken::new(),
            state: watch::Sender::new(EngineState::Running),
            slots: Mutex::default(),
            released: Notify::new(),
            identity: Mutex::new(identity),
            audit: AtomicBool::new(false),
        });
        let (ends, received) = mpsc::channel(1024);
        let scheduler = Scheduler::new(core.clone(), ends.clone());
        let left = after_conflicts(|| pick::take_back(core.db.engine_pool(), identity, &[], true))
            .await
            .map_err(|source| StartError::TakeBack(source.into()))?;

        let (mut parts, mut alive) = (JoinSet::new(), JoinSet::new());
        let writer = tokio::spawn(write_ends(core.clone(), received));
        parts.spawn(hints::follow_own(core.clone()));
        parts.spawn(hints::follow_others(core.clone()));
        parts.spawn(propose_followers(core.clone(), core.completions.subscribe()));
        alive.spawn(keep_alive(core.clone(), offered));
        parts.spawn(scheduler.run(left));
        Ok(Engine { core, parts, alive, writer, ends })
    }

    /// Id of this machine in the database; another one after the row was removed by hand.
    pub fn machine_id(&self) -> i64 {
        self.core.identity().machine
    }

    /// Ends of attempts on this machine, after they were stored. A receiver that falls more than a thousand
    /// behind misses some.
    pub fn completions(&self) -> broadcast::Receiver<Completion> {
        self.core.completions.subscribe()
    }

    /// Looks at the queue now.
    pub fn nudge(&self) {
        self.core.wake.look_now();
    }

    /// Tasks that run at this moment.
    pub fn running(&self) -> usize {
        self.core.running_count()
    }

    /// The state, and its changes.
    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.core.state.subscribe()
    }

    pub fn metrics(&self) -> Arc<Metrics> {
        self.core.metrics.clone()
    }

    /// Claims nothing more, asks running tasks to end, waits for them up to `grace`, gives the rest back
    /// and signs off. What is given back does not count as an attempt that failed.
    pub async fn shutdown(mut self, grace: Duration) {
        self.core.state.send_replace(EngineState::Stopping);
        self.core.stopping.cancel();
        self.core.cancel_all();
        let until = Instant::now() + grace;
        // The parts end by themselves. The scheduler goes last: what it claimed meanwhile is asked to end, too.
        let ended = async { while self.parts.join_next().await.is_some() {} };
        if tokio::time::timeout_at(until, ended).await.is_err() {
            self.parts.shutdown().await;
        }
        let mut completions = self.core.completions.subscribe();
        while self.core.running_count() > 0 && Instant::now() < until {
            // An end that was stored before the subscription has freed its slot already, and lost ones are not
            // announced, so this looks again now and then.
            let step = until.min(Instant::now() + Duration::from_millis(200));
            let _ = tokio::time::timeout_at(step, completions.recv()).await;
        }
        self.abort_rest().await;
        drop(self.ends);
        let written = tokio::time::timeout(Duration::from_secs(5), &mut self.writer).await.is_ok();
        self.core.given_up.cancel();
        if !written {
            warn!("the database did not answer in time; tasks of this machine wait for its next start or the lease");
            let _ = self.writer.await;
            return;
        }
        // A heartbeat that is under way must not come after the sign-off.
        let _ = tokio::time::timeout(Duration::from_secs(5), self.alive.join_next()).await;
        let identity = self.core.identity();
        if let Err(error) = self.core.bounded(machine::stop(self.core.db.engine_pool(), identity)).await {
            warn!(error = &error as &dyn Error, "failed to sign off; the lease will");
        }
    }

    /// Gives back what did not end in time.
    async fn abort_rest(&self) {
        for Running { task, kind, attempt } in self.core.abort_all() {
            warn!(task.id = %task, "attempt did not end in time and was cut off");
            let error = "the runner stopped before the attempt ended".to_owned();
            let aftermath = Aftermath::Again { counted: false, delay: Duration::ZERO, error, outcome: "stopping" };
            let end = Finished { task, attempt, kind, aftermath, elapsed: Duration::ZERO };
            // While the database is away the queue may be full; the row is swept up at the end, or by the lease.
            let _ = tokio::time::timeout(Duration::from_millis(100), self.ends.send(end)).await;
        }
    }
}

/// Says which kinds this machine is too small for: their tasks would wait here without a word.
fn warn_of_misfits(kinds: &[Kind], resources: &Resources) {
    for Kind { name, spec, .. } in kinds {
        let Err(shortage) = resources.fits(&spec.cost, 1) else { continue };
        let lacking = match shortage {
            Shortage::Cpu => "cores",
            Shortage::Ram => "memory",
            Shortage::Gpu => "graphics devices",
        };
        warn!(task.name = %name, "{name} never runs here: a task of it needs more {lacking} than this machine has");
    }
}

/// Runs a statement again while the server lets others go first.
async fn after_conflicts<T, F>(statement: impl Fn() -> F) -> Result<T, sqlx::Error>
where
    F: Future<Output = Result<T, sqlx::Error>>,
{
    const TRIES: u32 = 20;
    let mut tries = 1;
    loop {
        match statement().await {
            Err(error) if trouble(&error) == Trouble::Conflict && tries < TRIES => {
                tokio::time::sleep(Duration::from_millis(20).mul_f64(rand::rng().random())).await;
                tries += 1;
            }
            other => return other,
        }
    }
}
