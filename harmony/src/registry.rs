//! The task kinds of one machine.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use curio_core::Failure;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::claim::Claim;
use crate::task::{Event, Reserved, Spec, Task, TaskId, TaskName, Triggers};
use crate::transaction::Tx;

/// Task kinds in the order of registration.
#[derive(Default)]
pub struct Registry {
    pub(crate) kinds: Vec<Kind>,
}

/// A registered kind.
#[derive(Clone)]
pub(crate) struct Kind {
    pub(crate) name: TaskName,
    pub(crate) spec: Spec,
    pub(crate) triggers: Triggers,
    pub(crate) task: Arc<dyn AnyTask>,
}

impl Registry {
    /// No kinds.
    pub fn new() -> Registry {
        Registry::default()
    }

    /// Adds a kind.
    ///
    /// # Panics
    /// When a kind of the same name is registered already: a programming error that must not pass a start.
    pub fn register<T: Task>(&mut self, task: T) -> &mut Registry {
        assert!(self.names().all(|name| name != T::NAME), "task kind {} is registered twice", T::NAME);
        let (spec, triggers) = (task.spec(), task.triggers());
        self.kinds.push(Kind { name: T::NAME, spec, triggers, task: Arc::new(task) });
        self
    }

    /// Names of the kinds.
    pub fn names(&self) -> impl Iterator<Item = TaskName> + '_ {
        self.kinds.iter().map(|kind| kind.name)
    }
}

/// [`Task`] without its static parts, so that kinds of different types lie in one list.
pub(crate) trait AnyTask: Send + Sync {
    fn can_accept<'a>(&'a self, offered: &'a [TaskId]) -> BoxFuture<'a, Result<Vec<TaskId>, Failure>>;
    fn reserve(&self, task: TaskId) -> BoxFuture<'_, Result<Reserved, Failure>>;
    fn run<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), Failure>>;
    fn propose<'a>(&'a self, tx: &'a mut Tx, event: &'a Event) -> BoxFuture<'a, Result<u32, Failure>>;
}

// A kind's code may panic. That must cost the answer it was asked for, not the loop that asked.
impl<T: Task> AnyTask for T {
    fn can_accept<'a>(&'a self, offered: &'a [TaskId]) -> BoxFuture<'a, Result<Vec<TaskId>, Failure>> {
        Box::pin(survive(async move { Task::can_accept(self, offered).await }))
    }

    fn reserve(&self, task: TaskId) -> BoxFuture<'_, Result<Reserved, Failure>> {
        Box::pin(survive(async move { Task::reserve(self, task).await }))
    }

    fn run<'a>(&'a self, claim: &'a Claim) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(survive(async move { Task::run(self, claim).await }))
    }

    fn propose<'a>(&'a self, tx: &'a mut Tx, event: &'a Event) -> BoxFuture<'a, Result<u32, Failure>> {
        Box::pin(survive(async move { Task::propose(self, tx, event).await }))
    }
}

/// Turns a panic into a failure like any other.
async fn survive<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // What the panic left half changed belongs to the kind itself, which must bear repeating.
    AssertUnwindSafe(future)
        .catch_unwind()
        .await
        .unwrap_or_else(|panic| Err(Failure::retry(format!("the task panicked: {}", said(&*panic)))))
}

/// The message of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
