//! The engine of one machine: looks at the queue, claims what fits, runs it, keeps the machine alive.

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use curio_core::Resources;
use rand::Rng;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::claim::Claim;
use crate::cycle::Scheduler;
use crate::db::{Db, DbError, Trouble, trouble};
use crate::finish::{Aftermath, Finished, write_ends};
use crate::hints::{self, Wake};
use crate::machine::{self, MachineSpec};
use crate::metrics::Metrics;
use crate::pick::{self, Identity};
use crate::propose::propose_followers;
use crate::registry::{Kind, Registry};
use crate::task::{TaskId, TaskName};
use crate::work::{Start, work};

/// How often the engine does what. The defaults are for production; tests shorten them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Next look after one that took something.
    pub poll_busy: Duration,
    /// Next look after one that found nothing.
    pub poll_idle: Duration,
    /// Least time between two looks that hints ask for.
    pub hint_gap: Duration,
    /// Steady pace of looks that hints ask for; faster hints share a look.
    pub hint_every: Duration,
    /// Looks that hints may cause at once before the pace applies.
    pub hint_burst: u32,
    pub heartbeat: Duration,
    /// A machine without a heartbeat for this long loses its tasks. At least three heartbeats.
    pub lease: Duration,
    /// How long a task is left alone after `reserve` found no room for it.
    pub cool_down: Duration,
    /// How long `can_accept` or `reserve` may take before the engine goes on without the kind.
    pub accept: Duration,
    /// How long one statement of the engine may take, waiting for a connection included.
    pub statement: Duration,
    /// Most tasks of one kind to take in one look.
    pub turn: u32,
}

impl Default for Timing {
    fn default() -> Timing {
        Timing {
            poll_busy: Duration::from_millis(100),
            poll_idle: Duration::from_secs(3),
            hint_gap: Duration::from_millis(5),
            hint_every: Duration::from_millis(40),
            hint_burst: 8,
            heartbeat: Duration::from_secs(15),
            lease: Duration::from_secs(60),
            cool_down: Duration::from_secs(10),
            accept: Duration::from_secs(30),
            statement: Duration::from_secs(12),
            turn: 64,
        }
    }
}

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
    identity: Mutex<Identity>,
    slots: Mutex<Slots>,
    audit: AtomicBool,
}

#[derive(Default)]
struct Slots {
    running: HashMap<TaskId, Slot>,
    cool: HashMap<TaskId, Instant>,
}

struct Slot {
    kind: usize,
    attempt: u32,
    cancel: CancellationToken,
    abort: Option<AbortHandle>,
}

/// What runs at one moment.
pub(crate) struct Load {
    /// Tasks of each kind.
    pub(crate) running: Vec<u32>,
    pub(crate) free: Resources,
    /// Tasks that must not be claimed now: cooling down, or still winding down here after they were lost.
    pub(crate) excluded: Vec<i64>,
}

impl Core {
    pub(crate) fn identity(&self) -> Identity {
        *self.identity.lock().expect("nothing panics under this lock")
    }

    fn set_identity(&self, identity: Identity) {
        *self.identity.lock().expect("nothing panics under this lock") = identity;
        self.db.shared().set_machine(identity.machine);
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().expect("nothing panics under this lock")
    }

    pub(crate) fn load(&self) -> Load {
        let now = Instant::now();
        let mut slots = self.slots();
        slots.cool.retain(|_, until| *until > now);
        let mut running = vec![0; self.kinds.len()];
        let mut free = self.spec.resources;
        for slot in slots.running.values() {
            running[slot.kind] += 1;
            free = free.minus(&self.kinds[slot.kind].spec.cost, 1);
        }
        let lost = slots.running.iter().filter(|(_, slot)| slot.cancel.is_cancelled()).map(|(task, _)| task);
        let excluded = lost.chain(slots.cool.keys()).map(|task| task.0).collect();
        Load { running, free, excluded }
    }

    /// Tasks that run here or whose end is being stored.
    pub(crate) fn known(&self) -> Vec<i64> {
        self.slots().running.keys().map(|task| task.0).collect()
    }

    /// Leaves the task to others for a while.
    pub(crate) fn cool_down(&self, task: TaskId) {
        self.slots().cool.insert(task, Instant::now() + self.timing.cool_down);
        self.wake.look_at(self.timing.cool_down);
    }

    /// Frees what the attempt used.
    pub(crate) fn release(&self, task: TaskId, attempt: u32) {
        let mut slots = self.slots();
        if slots.running.get(&task).is_some_and(|slot| slot.attempt == attempt)
            && let Some(slot) = slots.running.remove(&task)
        {
            let name = self.kinds[slot.kind].name;
            let left = slots.running.values().filter(|other| other.kind == slot.kind).count();
            self.metrics.running(name, u32::try_from(left).unwrap_or(u32::MAX));
        }
        drop(slots);
        self.wake.look_soon();
    }

    /// Asks for a look at rows that are ours in the database and unknown here.
    pub(crate) fn request_audit(&self) {
        self.audit.store(true, Ordering::Relaxed);
    }

    pub(crate) fn take_audit(&self) -> bool {
        self.audit.swap(false, Ordering::Relaxed)
    }

    fn running_count(&self) -> usize {
        self.slots().running.len()
    }

    fn cancel_all(&self) {
        for slot in self.slots().running.values() {
            slot.cancel.cancel();
        }
    }

    /// Starts the attempt in a task of its own.
    pub(crate) fn begin(self: &Arc<Core>, start: Start, ends: &mpsc::Sender<Finished>) {
        let (task, kind, attempt) = (start.claim.task, start.kind, start.claim.attempt);
        let name = self.kinds[kind].name;
        let slot = Slot { kind, attempt, cancel: start.claim.cancelled.clone(), abort: None };
        let mut slots = self.slots();
        slots.running.insert(task, slot);
        let count = slots.running.values().filter(|slot| slot.kind == kind).count();
        drop(slots);
        self.metrics.running(name, u32::try_from(count).unwrap_or(u32::MAX));
        let handle = tokio::spawn(work(self.clone(), start, ends.clone())).abort_handle();
        if let Some(slot) = self.slots().running.get_mut(&task).filter(|slot| slot.attempt == attempt) {
            slot.abort = Some(handle);
        }
        // The runner may have begun to stop between the claim and now.
        if self.stopping.is_cancelled() {
            self.cancel_all();
        }
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

    /// Runs a statement of the engine with its time limit.
    pub(crate) async fn bounded<T>(
        &self,
        statement: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, DbError> {
        match tokio::time::timeout(self.timing.statement, statement).await {
            Ok(result) => result.map_err(DbError::from),
            Err(_) => Err(DbError::Timeout(self.timing.statement)),
        }
    }
}

/// A running engine. Dropping it without [`Engine::shutdown`] leaves its tasks to the lease.
pub struct Engine {
    core: Arc<Core>,
    parts: JoinSet<()>,
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
        let kind_names: Vec<String> = names.iter().map(|name| name.as_str().to_owned()).collect();
        let identity = after_conflicts(|| machine::register(db.engine_pool(), &machine, &kind_names))
            .await
            .map_err(|source| StartError::Register { name: machine.name.clone(), source: source.into() })?;
        db.shared().set_machine(identity.machine);
        info!(machine.id = identity.machine, identity.incarnation, "registered as '{}'", machine.name);
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
            identity: Mutex::new(identity),
            slots: Mutex::default(),
            audit: AtomicBool::new(false),
        });
        let (ends, received) = mpsc::channel(1024);
        let scheduler = Scheduler::new(core.clone(), ends.clone());
        let left = after_conflicts(|| pick::take_back(core.db.engine_pool(), identity, &[], true))
            .await
            .map_err(|source| StartError::TakeBack(source.into()))?;

        let mut parts = JoinSet::new();
        let writer = tokio::spawn(write_ends(core.clone(), received));
        parts.spawn(hints::follow_own(core.clone()));
        parts.spawn(hints::follow_others(core.clone()));
        parts.spawn(propose_followers(core.clone(), core.completions.subscribe()));
        parts.spawn(keep_alive(core.clone(), kind_names));
        parts.spawn(scheduler.run(left));
        Ok(Engine { core, parts, writer, ends })
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
        let identity = self.core.identity();
        if let Err(error) = self.core.bounded(machine::stop(self.core.db.engine_pool(), identity)).await {
            warn!(error = &error as &dyn Error, "failed to sign off; the lease will");
        }
    }

    /// Gives back what did not end in time.
    async fn abort_rest(&self) {
        let rest: Vec<(TaskId, usize, u32)> = {
            let slots = self.core.slots();
            for slot in slots.running.values() {
                if let Some(abort) = &slot.abort {
                    abort.abort();
                }
            }
            slots.running.iter().map(|(task, slot)| (*task, slot.kind, slot.attempt)).collect()
        };
        for (task, kind, attempt) in rest {
            warn!(task.id = %task, "attempt did not end in time and was cut off");
            let error = "the runner stopped before the attempt ended".to_owned();
            let aftermath = Aftermath::Again { counted: false, delay: Duration::ZERO, error, outcome: "stopping" };
            let end = Finished { task, attempt, kind, aftermath, elapsed: Duration::ZERO };
            // While the database is away the queue may be full; the row is swept up at the end, or by the lease.
            let _ = tokio::time::timeout(Duration::from_millis(100), self.ends.send(end)).await;
        }
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

/// Heartbeats until the engine stops; registers anew after an eviction.
async fn keep_alive(core: Arc<Core>, kinds: Vec<String>) {
    let mut wait = core.timing.heartbeat;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = core.stopping.cancelled() => return,
        }
        let identity = core.identity();
        let running = i32::try_from(core.running_count()).unwrap_or(i32::MAX);
        let beat = machine::heartbeat(core.db.engine_pool(), identity, running, core.timing.lease);
        let result = match core.bounded(beat).await {
            Ok(beat) => {
                if !beat.evicted.is_empty() || beat.released > 0 {
                    let machines = beat.evicted.join(", ");
                    warn!(machines, beat.released, "machines were lost and their tasks released");
                    core.wake.look_now();
                }
                if beat.alive { Ok(()) } else { return_to_life(&core, identity, &kinds).await }
            }
            Err(error) => Err(error),
        };
        wait = match result {
            Ok(()) if *core.state.borrow() == EngineState::Replaced => return,
            Ok(()) => {
                set_state(&core, EngineState::Running);
                core.timing.heartbeat
            }
            Err(error) => {
                set_state(&core, EngineState::DatabaseAway);
                warn!(error = &error as &dyn Error, "heartbeat failed, trying again soon");
                // Soon, so that the lease outlives a short outage; not all machines in step.
                (core.timing.heartbeat / 15).mul_f64(0.5 + rand::rng().random::<f64>())
            }
        };
    }
}

fn set_state(core: &Core, state: EngineState) {
    core.state.send_if_modified(|current| {
        let change = *current != state && !matches!(*current, EngineState::Stopping | EngineState::Replaced);
        if change {
            *current = state;
        }
        change
    });
}

/// Our row is gone, evicted, or belongs to another process: nothing that runs here is ours any more.
async fn return_to_life(core: &Arc<Core>, identity: Identity, kinds: &[String]) -> Result<(), DbError> {
    core.cancel_all();
    if core.bounded(machine::is_replaced(core.db.engine_pool(), identity)).await? {
        error!("another process has registered as '{}'; this one stops working", core.spec.name);
        set_state(core, EngineState::Replaced);
        return Ok(());
    }
    warn!("this machine was evicted; its work was cancelled and it registers anew");
    let new = core.bounded(machine::register(core.db.engine_pool(), &core.spec, kinds)).await?;
    core.set_identity(new);
    if new.machine != identity.machine {
        // Our row had been removed, so nobody else would ever release what the old id still owns.
        core.bounded(pick::release_all(core.db.engine_pool(), identity.machine)).await?;
    }
    // Anything that a claim under way took after the eviction.
    core.request_audit();
    core.wake.look_now();
    Ok(())
}
