//! A task kind made of closures, machines made of nothing, and waits with a bound.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::sync::Arc;
use std::time::Duration;

use curio_core::resources::GIB;
use curio_core::{Failure, Resources};
use curio_harmony::testing::TestDb;
use curio_harmony::{
    Backoff, Claim, Class, Completion, Db, Engine, Event, MachineSpec, Refusal, Registry, Reserved, Spec, Task, TaskId,
    TaskName, Timing, Triggers, Tx, TxError, tasks,
};
use futures::future::BoxFuture;
use sqlx::types::chrono::Utc;
use tokio::sync::{broadcast, mpsc};

/// Bound of every wait. Reached only when something is broken.
pub const LONG: Duration = Duration::from_secs(30);

pub const KINDS: [TaskName; 4] =
    [TaskName::new("Alpha"), TaskName::new("Beta"), TaskName::new("Gamma"), TaskName::new("Delta")];
pub const ALPHA: TaskName = KINDS[0];
pub const BETA: TaskName = KINDS[1];
pub const GAMMA: TaskName = KINDS[2];

type Run = Arc<dyn Fn(Claim) -> BoxFuture<'static, Result<(), Failure>> + Send + Sync>;
type Accept = Arc<dyn Fn(&[TaskId]) -> Result<Vec<TaskId>, Failure> + Send + Sync>;
type Reserve = Arc<dyn Fn(TaskId) -> Result<Reserved, Failure> + Send + Sync>;
type Propose = Arc<dyn for<'c> Fn(&'c mut Tx, Event) -> BoxFuture<'c, Result<u32, Failure>> + Send + Sync>;

/// The kind with name `KINDS[K]`, made of closures.
pub struct Probe<const K: usize> {
    spec: Spec,
    triggers: Triggers,
    run: Run,
    accept: Option<Accept>,
    reserve: Option<Reserve>,
    propose: Option<Propose>,
}

impl<const K: usize> Probe<K> {
    pub fn new<F, R>(spec: Spec, run: F) -> Probe<K>
    where
        F: Fn(Claim) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let run: Run = Arc::new(move |claim| Box::pin(run(claim)));
        Probe { spec, triggers: Triggers::default(), run, accept: None, reserve: None, propose: None }
    }

    /// Succeeds at once.
    pub fn idle(spec: Spec) -> Probe<K> {
        Probe::new(spec, |_| async { Ok(()) })
    }

    pub fn accept(
        mut self,
        accept: impl Fn(&[TaskId]) -> Result<Vec<TaskId>, Failure> + Send + Sync + 'static,
    ) -> Self {
        self.accept = Some(Arc::new(accept));
        self
    }

    pub fn reserve(mut self, reserve: impl Fn(TaskId) -> Result<Reserved, Failure> + Send + Sync + 'static) -> Self {
        self.reserve = Some(Arc::new(reserve));
        self
    }

    pub fn propose(
        mut self,
        triggers: Triggers,
        propose: impl for<'c> Fn(&'c mut Tx, Event) -> BoxFuture<'c, Result<u32, Failure>> + Send + Sync + 'static,
    ) -> Self {
        self.triggers = triggers;
        self.propose = Some(Arc::new(propose));
        self
    }
}

impl<const K: usize> Task for Probe<K> {
    const NAME: TaskName = KINDS[K];

    fn spec(&self) -> Spec {
        self.spec
    }

    fn triggers(&self) -> Triggers {
        self.triggers
    }

    async fn can_accept(&self, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        self.accept.as_ref().map_or_else(|| Ok(offered.to_vec()), |accept| accept(offered))
    }

    async fn reserve(&self, task: TaskId) -> Result<Reserved, Failure> {
        self.reserve.as_ref().map_or(Ok(Reserved::Nothing), |reserve| reserve(task))
    }

    async fn run(&self, claim: &Claim) -> Result<(), Failure> {
        (self.run)(claim.clone()).await
    }

    async fn propose(&self, tx: &mut Tx, event: &Event) -> Result<u32, Failure> {
        match &self.propose {
            Some(propose) => propose(tx, *event).await,
            None => Ok(0),
        }
    }
}

pub fn machine(name: &str) -> MachineSpec {
    MachineSpec {
        name: name.to_owned(),
        address: format!("{name}:12300"),
        resources: Resources { cpu: 8, ram_bytes: 16 * GIB, gpu_milli: 1000 },
        layers: vec!["base".to_owned()],
        version: "test".to_owned(),
        labels: Vec::new(),
        instance: String::new(),
        process_started_at: Utc::now(),
    }
}

/// Fast polls; no heartbeat during a test.
pub fn timing() -> Timing {
    Timing {
        poll_busy: Duration::from_millis(10),
        poll_idle: Duration::from_millis(50),
        heartbeat: Duration::from_secs(3600),
        lease: Duration::from_secs(3600),
        deadline_heartbeat: Duration::from_secs(3600),
        cool_down: Duration::from_millis(50),
        ..Timing::default()
    }
}

/// Nothing but hints and explicit nudges makes this machine look.
pub fn deaf_timing() -> Timing {
    let never = Duration::from_secs(3600);
    Timing { poll_busy: never, poll_idle: never, poll_deaf: never, ..timing() }
}

pub async fn start(db: Db, name: &str, timing: Timing, fill: impl FnOnce(&mut Registry)) -> Engine {
    let mut registry = Registry::new();
    fill(&mut registry);
    Engine::start(db, registry, machine(name), timing).await.expect("the engine starts")
}

/// Adds tasks in one transaction.
pub async fn add(db: &Db, kind: TaskName, count: u32) -> Vec<TaskId> {
    let added: Result<_, TxError> =
        db.transaction("test-add", move |tx| Box::pin(async move { tasks::add_many(tx, kind, count).await })).await;
    added.expect("tasks are added")
}

pub async fn add_one(db: &Db, kind: TaskName) -> TaskId {
    add(db, kind, 1).await[0]
}

/// Waits for something, but not for ever.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LONG, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {LONG:?}"),
    }
}

/// Starts of attempts, in their order.
pub type Starts = mpsc::UnboundedReceiver<(TaskId, u32)>;

/// A kind that tells every start and goes on until it is cancelled.
pub fn endless<const K: usize>(spec: Spec) -> (Probe<K>, Starts) {
    let (started, starts) = mpsc::unbounded_channel();
    let probe = Probe::new(spec, move |claim: Claim| {
        let started = started.clone();
        async move {
            // The test may have heard enough.
            let _ = started.send((claim.task(), claim.attempt()));
            claim.cancelled().cancelled().await;
            Err(Failure::Stopping)
        }
    });
    (probe, starts)
}

/// A kind that tells every start and is done at once.
pub fn brief<const K: usize>(spec: Spec) -> (Probe<K>, Starts) {
    let (started, starts) = mpsc::unbounded_channel();
    let probe = Probe::new(spec, move |claim: Claim| {
        let _ = started.send((claim.task(), claim.attempt()));
        async { Ok(()) }
    });
    (probe, starts)
}

/// Work of so many of a machine's eight cores.
pub fn cores(cpu: u32) -> Spec {
    Spec { cost: Resources { cpu, ram_bytes: 0, gpu_milli: 0 }, backoff: Backoff::NONE, ..Spec::default() }
}

/// The same with a deadline.
pub fn urgent(cpu: u32) -> Spec {
    Spec { class: Class::Deadline, ..cores(cpu) }
}

/// Work that may be ended for work with a deadline.
pub fn preemptible(cpu: u32) -> Spec {
    Spec { preemptible: true, ..cores(cpu) }
}

/// The next start.
pub async fn started(starts: &mut Starts) -> (TaskId, u32) {
    within("a task starts", starts.recv()).await.expect("the machine runs")
}

/// Waits until a machine has refused a kind for this reason.
pub async fn until_refused(engine: &Engine, kind: TaskName, reason: Refusal) {
    within("the kind is refused", async {
        while engine.metrics().refusals(kind).iter().all(|(refusal, _)| *refusal != reason) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Waits until a machine hears hints.
pub async fn until_listening(engine: &Engine) {
    within("the machine listens", async {
        while !engine.metrics().encode().contains("curio_engine_listening 1") {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// The next end of an attempt.
pub async fn next(completions: &mut broadcast::Receiver<Completion>) -> Completion {
    within("an attempt ends", completions.recv()).await.expect("the engine runs")
}

/// Waits until `count` attempts have ended; returns them.
pub async fn ends(completions: &mut broadcast::Receiver<Completion>, count: usize) -> Vec<Completion> {
    let mut all = Vec::with_capacity(count);
    while all.len() < count {
        all.push(next(completions).await);
    }
    all
}

pub async fn history(db: &Db) -> Vec<tasks::HistoryRow> {
    let mut rows = tasks::history(db, &tasks::Filter { limit: 100_000, ..Default::default() }).await.expect("history");
    rows.sort_by_key(|row| (row.task_id, row.attempt));
    rows
}

pub async fn queue(db: &Db) -> Vec<tasks::TaskRow> {
    tasks::list(db, &tasks::Filter { limit: 100_000, ..Default::default() }).await.expect("queue")
}

/// Runs a statement that changes a test's world, such as a clock that went on.
pub async fn sql(db: &Db, statement: &'static str) -> u64 {
    sqlx::query(statement).execute(db.pool()).await.expect(statement).rows_affected()
}

/// A database, and its handle.
pub async fn database() -> (TestDb, Db) {
    let test = TestDb::new().await;
    let db = test.db().clone();
    (test, db)
}

/// The address with one more server option, such as `-cname=value`.
pub fn url_with_option(url: &str, option: &str) -> String {
    let mut url = url::Url::parse(url).expect("an address");
    url.query_pairs_mut().append_pair("options", option);
    url.to_string()
}
