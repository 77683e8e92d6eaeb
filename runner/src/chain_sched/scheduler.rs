//! Handing heads out: one task that reads the head changes, and one for each watcher and handler.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use curio_chain::notify::Update;
use curio_chain::types::{HeadChange, TipSet};
use curio_core::Epoch;
use futures::{Stream, StreamExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::inbox::Inbox;
use super::{HeadHandler, HeadUpdate, survive};

/// Epochs after which the chain counts as settled. When the way between two heads is not known, everything above
/// may have been reverted.
const FINALITY_EPOCHS: i64 = 900;

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// One call of a handler.
    pub call: Duration,
    /// How long the watchers wait for the gate to be through with a head, and the handlers for the watchers.
    pub watchers: Duration,
    /// Pause before a call that failed is made again; a new head makes it at once.
    pub again: Duration,
}

impl Bounds {
    /// Bounds for a chain with this time between epochs.
    pub fn of(block_delay: Duration) -> Bounds {
        let share = |parts: u32, longest: u64| {
            (block_delay / parts).clamp(Duration::from_millis(100), Duration::from_secs(longest))
        };
        Bounds { call: Duration::from_secs(120), watchers: share(6, 1), again: share(3, 5) }
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CallEnd {
    Done,
    Failed,
    /// It took too long.
    Late,
    /// The head that it was called with was reverted.
    Overtaken,
}

impl CallEnd {
    /// A closed word for metrics.
    pub const fn word(self) -> &'static str {
        match self {
            CallEnd::Done => "done",
            CallEnd::Failed => "failed",
            CallEnd::Late => "late",
            CallEnd::Overtaken => "overtaken",
        }
    }
}

/// How a handler is doing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HandlerStatus {
    /// Calls by their end.
    pub calls: BTreeMap<CallEnd, u64>,
    /// Time spent in all calls.
    pub busy: Duration,
    /// Height of the newest head that was handled well.
    pub epoch: Option<Epoch>,
    /// Why the last call did not end well; none when it did.
    pub error: Option<String>,
}

/// How the scheduler is doing.
#[derive(Clone, Debug, Default)]
pub struct ChainStatus {
    /// Height of the newest head, and when its epoch began: a node that is behind tells new heads all the time.
    pub head: Option<(Epoch, SystemTime)>,
    /// By name.
    pub handlers: BTreeMap<&'static str, HandlerStatus>,
}

/// Shared status. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct StatusHandle(Arc<Mutex<ChainStatus>>);

impl StatusHandle {
    pub fn read(&self) -> ChainStatus {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, ChainStatus> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Gate, watchers and handlers, before the start.
pub struct ChainScheduler {
    bounds: Bounds,
    gate: Arc<dyn HeadHandler>,
    watchers: Vec<Arc<dyn HeadHandler>>,
    handlers: Vec<Arc<dyn HeadHandler>>,
}

impl ChainScheduler {
    /// Without anybody but the gate, which sees a head before all others.
    pub fn new(gate: Arc<dyn HeadHandler>, bounds: Bounds) -> ChainScheduler {
        ChainScheduler { bounds, gate, watchers: Vec::new(), handlers: Vec::new() }
    }

    /// Adds somebody who sees a head before the handlers do, and after the gate.
    pub fn watcher(mut self, watcher: Arc<dyn HeadHandler>) -> ChainScheduler {
        self.watchers.push(watcher);
        self
    }

    pub fn handler(mut self, handler: Arc<dyn HeadHandler>) -> ChainScheduler {
        self.handlers.push(handler);
        self
    }

    /// Starts handing `updates` out. Ends when they end or when cancelled.
    pub fn start<S>(self, updates: S, cancel: &CancellationToken) -> Scheduled
    where
        S: Stream<Item = Update> + Send + 'static,
    {
        let ChainScheduler { bounds, gate, watchers, handlers } = self;
        let status = StatusHandle::default();
        let (tell, heads) = watch::channel(None);
        let mut tasks = Vec::new();
        let mut spawn = |handler: Arc<dyn HeadHandler>| {
            let inbox = Arc::new(Inbox::new());
            status.lock().handlers.insert(handler.name(), HandlerStatus::default());
            let worker = Worker { handler, inbox: Arc::clone(&inbox), status: status.clone(), bounds };
            let cancel = cancel.clone();
            tasks.push(tokio::spawn(async move {
                cancel.run_until_cancelled(worker.run()).await;
            }));
            inbox
        };
        let dispatcher = Dispatcher {
            gate: spawn(gate),
            watchers: watchers.into_iter().map(&mut spawn).collect(),
            handlers: handlers.into_iter().map(&mut spawn).collect(),
            heads: tell,
            status: status.clone(),
            wait: bounds.watchers,
        };
        let cancel = cancel.clone();
        tasks.push(tokio::spawn(async move {
            cancel.run_until_cancelled(dispatcher.run(updates)).await;
        }));
        Scheduled { heads, status, tasks }
    }
}

/// A running scheduler.
pub struct Scheduled {
    heads: watch::Receiver<Option<TipSet>>,
    status: StatusHandle,
    tasks: Vec<JoinHandle<()>>,
}

impl Scheduled {
    /// The newest head, as soon as the gate has seen it; none before the first.
    pub fn heads(&self) -> watch::Receiver<Option<TipSet>> {
        self.heads.clone()
    }

    pub fn status(&self) -> StatusHandle {
        self.status.clone()
    }

    /// The tasks, for whoever waits for their end after the cancellation.
    pub fn into_tasks(self) -> Vec<JoinHandle<()>> {
        self.tasks
    }
}

/// Reads head changes and hands them out.
struct Dispatcher {
    gate: Arc<Inbox>,
    watchers: Vec<Arc<Inbox>>,
    handlers: Vec<Arc<Inbox>>,
    heads: watch::Sender<Option<TipSet>>,
    status: StatusHandle,
    /// Longest wait for the gate, and for the watchers.
    wait: Duration,
}

impl Dispatcher {
    async fn run(self, updates: impl Stream<Item = Update>) {
        let mut updates = std::pin::pin!(updates);
        let mut known: Option<Epoch> = None;
        while let Some(Update { changes, head }) = updates.next().await {
            let update = HeadUpdate { reverted_to: reverted_to(known, &changes), head };
            known = Some(update.head.height);
            self.status.lock().head = Some((update.head.height, began(&update.head)));
            self.hand_out(&update).await;
        }
    }

    /// To the gate, then to the watchers, then to the handlers. Each waits for those before it, for so long.
    async fn hand_out(&self, update: &HeadUpdate) {
        self.and_wait("the gate is", std::slice::from_ref(&self.gate), update).await;
        self.heads.send_replace(Some(update.head.clone()));
        self.and_wait("the watchers are", &self.watchers, update).await;
        for inbox in &self.handlers {
            inbox.put(update.clone());
        }
    }

    async fn and_wait(&self, who: &str, inboxes: &[Arc<Inbox>], update: &HeadUpdate) {
        let told: Vec<_> = inboxes.iter().map(|inbox| (inbox, inbox.put(update.clone()))).collect();
        let all_done = async {
            for (inbox, number) in told {
                inbox.until_done(number).await;
            }
        };
        if timeout(self.wait, all_done).await.is_err() {
            debug!(epoch = update.head.height.0, "{who} not through with epoch {} yet", update.head.height);
        }
    }
}

/// When the epoch of a tipset began; long ago when that is no time at all.
fn began(tipset: &TipSet) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_secs(tipset.timestamp())).unwrap_or(UNIX_EPOCH)
}

/// Lowest height that these changes revert, seen from a known head; none at the first head.
fn reverted_to(known: Option<Epoch>, changes: &[HeadChange]) -> Option<Epoch> {
    let known = known?;
    changes
        .iter()
        .filter_map(|change| match change {
            HeadChange::Applied(_) => None,
            HeadChange::Reverted(tipset) => Some(tipset.height),
            // Nobody knows the way here.
            HeadChange::Current(tipset) => Some(Epoch((known.min(tipset.height).0 - FINALITY_EPOCHS).max(0))),
        })
        .min()
}

/// Calls one handler.
struct Worker {
    handler: Arc<dyn HeadHandler>,
    inbox: Arc<Inbox>,
    status: StatusHandle,
    bounds: Bounds,
}

impl Worker {
    /// Until dropped.
    async fn run(self) {
        // A chain that goes back all the time must not keep a slow handler from ever getting through.
        let mut overtaken = false;
        loop {
            let (update, number) = self.inbox.take().await;
            let started = Instant::now();
            let (end, error) = self.call(&update, overtaken).await;
            self.note(&update, end, error, started.elapsed());
            overtaken = end == CallEnd::Overtaken;
            // The watchers' turn is over, however it ended: handlers do not wait for a repetition.
            self.inbox.done(number);
            match end {
                CallEnd::Done => {}
                CallEnd::Overtaken => self.inbox.put_back(update),
                CallEnd::Failed | CallEnd::Late => {
                    self.inbox.put_back(update);
                    let _ = timeout(self.bounds.again, self.inbox.changed()).await;
                }
            }
        }
    }

    /// One call; `to_the_end` is one that a revert does not interrupt.
    async fn call(&self, update: &HeadUpdate, to_the_end: bool) -> (CallEnd, Option<String>) {
        let overtaken = async {
            if to_the_end {
                std::future::pending::<()>().await;
            }
            self.inbox.overtaken(update.head.height).await;
        };
        tokio::select! {
            // What has ended has ended, also when its head was reverted in the same moment.
            biased;
            called = timeout(self.bounds.call, survive(async { self.handler.on_head(update).await })) => match called {
                Ok(Some(Ok(()))) => (CallEnd::Done, None),
                Ok(Some(Err(failure))) => (CallEnd::Failed, Some(failure.to_string())),
                Ok(None) => (CallEnd::Failed, Some("it panicked".to_owned())),
                Err(_) => (CallEnd::Late, Some(format!("it took longer than {} s", self.bounds.call.as_secs()))),
            },
            () = overtaken => (CallEnd::Overtaken, Some("the chain went back meanwhile".to_owned())),
        }
    }

    fn note(&self, update: &HeadUpdate, end: CallEnd, error: Option<String>, took: Duration) {
        let (name, epoch) = (self.handler.name(), update.head.height);
        let mut status = self.status.lock();
        let handler = status.handlers.entry(name).or_default();
        // The same trouble at every head is said once.
        let is_news = handler.error != error;
        *handler.calls.entry(end).or_default() += 1;
        handler.busy += took;
        if end == CallEnd::Done {
            handler.epoch = Some(epoch);
        }
        handler.error.clone_from(&error);
        drop(status);
        match error {
            Some(error) if is_news => warn!(epoch = epoch.0, handler = name, "{name} failed at epoch {epoch}: {error}"),
            Some(_) | None => {}
        }
    }
}

#[cfg(test)]
mod tests;
