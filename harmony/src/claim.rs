//! A claim: the right to work on one task, as long as nobody else has it.

use curio_core::{Classify, Failure};
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::db::Db;
use crate::task::{TaskId, TaskName};
use crate::transaction::{Tx, TxError};

/// One attempt at a task. What the attempt writes goes through [`Claim::store`].
#[derive(Clone)]
pub struct Claim {
    pub(crate) task: TaskId,
    pub(crate) kind: TaskName,
    pub(crate) attempt: u32,
    pub(crate) machine: i64,
    pub(crate) db: Db,
    pub(crate) cancelled: CancellationToken,
}

impl Claim {
    pub fn task(&self) -> TaskId {
        self.task
    }

    pub fn kind(&self) -> TaskName {
        self.kind
    }

    /// Fencing number of this attempt. Grows with every claim, also with those that do not count as
    /// a failure; starts at 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    pub fn db(&self) -> &Db {
        &self.db
    }

    /// Fires when the work should end soon: the runner stops, or the claim was lost. Return
    /// [`Failure::Stopping`] then; another error is taken for it while the runner stops.
    pub fn cancelled(&self) -> &CancellationToken {
        &self.cancelled
    }

    /// Runs `f` in a transaction that changes something only while the claim is ours: the row of the task
    /// is locked and its owner and attempt are compared first. Tasks added inside follow this one.
    ///
    /// The closure may run more than once: it touches nothing but its connection.
    ///
    /// # Errors
    /// [`Failure::Lost`] when the claim is no longer ours; nothing was changed. Otherwise as
    /// [`Db::transaction`].
    pub async fn store<T, F>(&self, name: &'static str, f: F) -> Result<T, Failure>
    where
        F: for<'c> Fn(&'c mut Tx) -> BoxFuture<'c, Result<T, TxError>> + Send + Sync,
        T: Send,
    {
        let fence = Fence { task: self.task.0, machine: self.machine, attempt: self.attempt };
        self.db.transaction_of(name, Some(fence), f).await.map_err(Classify::classify)
    }
}

/// What must still hold for a claim to be ours.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fence {
    pub(crate) task: i64,
    machine: i64,
    attempt: u32,
}

/// Locks the task's row until the end of the transaction, so that it cannot be released in between.
pub(crate) async fn still_ours(tx: &mut Tx, fence: Fence) -> Result<bool, sqlx::Error> {
    let Fence { task, machine, attempt } = fence;
    let row = sqlx::query_scalar!(
        r#"
        SELECT id FROM harmony_task
        WHERE id = $1 AND owner_id = $2 AND attempt = $3
        -- Waits for a release that is under way, and makes a later one wait for us.
        FOR UPDATE
        "#,
        task,
        machine,
        i32::try_from(attempt).unwrap_or(i32::MAX),
    )
    .fetch_optional(tx)
    .await?;
    Ok(row.is_some())
}
