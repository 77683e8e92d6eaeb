//! Named, repeatable transactions.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use curio_core::failure::Cause;
use curio_core::{Classify, Failure};
use futures::future::BoxFuture;
use rand::Rng;
use sqlx::Acquire;
use tracing::debug;

use crate::claim::{Fence, still_ours};
use crate::db::{Db, DbError, Trouble, trouble};

/// The connection inside a transaction: `.execute(&mut *tx)`.
pub type Tx = sqlx::PgConnection;

/// Most runs of one transaction, the first included.
const MAX_RUNS: u32 = 10;
/// How long one run may take; a connection that says nothing for longer is given up.
const RUN_TIMEOUT: Duration = Duration::from_secs(60);
/// No further run is started after this time: a person or a task waits for the answer.
const GIVE_UP: Duration = Duration::from_secs(30);
const FIRST_WAIT: Duration = Duration::from_millis(10);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Why a transaction changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum TxError {
    #[error(transparent)]
    Db(#[from] DbError),
    #[error("{0}")]
    Failure(Failure),
    /// The closure asked to undo everything.
    #[error("the transaction was undone on request")]
    Rollback,
}

impl From<sqlx::Error> for TxError {
    fn from(error: sqlx::Error) -> TxError {
        TxError::Db(DbError::from(error))
    }
}

impl From<Failure> for TxError {
    /// A failure whose cause is the database becomes that error again, so that it is repeated or
    /// recognised as what it is.
    fn from(failure: Failure) -> TxError {
        match failure {
            Failure::Retry(cause) => {
                database_cause(cause).unwrap_or_else(|cause| TxError::Failure(Failure::Retry(cause)))
            }
            Failure::Unavailable(cause) => {
                database_cause(cause).unwrap_or_else(|cause| TxError::Failure(Failure::Unavailable(cause)))
            }
            other => TxError::Failure(other),
        }
    }
}

fn database_cause(cause: Cause) -> Result<TxError, Cause> {
    cause.downcast::<DbError>().map(|error| TxError::Db(*error))
}

impl TxError {
    /// A row with the same unique key is there already: somebody else did the same before.
    pub fn is_unique_violation(&self) -> bool {
        matches!(self, TxError::Db(error) if error.is_unique_violation())
    }
}

impl Classify for TxError {
    fn classify(self) -> Failure {
        match self {
            TxError::Db(error) => error.classify(),
            TxError::Failure(failure) => failure,
            TxError::Rollback => Failure::Retry(Box::new(TxError::Rollback)),
        }
    }
}

/// What a transaction tells `tasks::add`, and what it learns from it.
pub(crate) struct Scope {
    pub(crate) machine: Option<i64>,
    pub(crate) previous_task: Option<i64>,
    pub(crate) added: Cell<bool>,
}

tokio::task_local! {
    pub(crate) static SCOPE: Scope;
}

impl Db {
    /// Runs `f` in a transaction, again when the server asks for that or the connection is lost before
    /// the commit; at most ten times, with growing waits. The closure may run more than once: it touches
    /// nothing but its connection.
    ///
    /// # Errors
    /// What the closure returned; [`TxError::Db`] when the database stays away or refuses a statement.
    /// [`DbError::CommitUnknown`] when the connection broke during the commit.
    pub async fn transaction<T, F>(&self, name: &'static str, f: F) -> Result<T, TxError>
    where
        F: for<'c> Fn(&'c mut Tx) -> BoxFuture<'c, Result<T, TxError>> + Send + Sync,
        T: Send,
    {
        self.transaction_of(name, None, f).await
    }

    /// As [`Db::transaction`], under a fence: nothing is changed once the claim is lost, and tasks added
    /// inside are marked as followers of the claimed one.
    pub(crate) async fn transaction_of<T, F>(
        &self,
        name: &'static str,
        fence: Option<Fence>,
        f: F,
    ) -> Result<T, TxError>
    where
        F: for<'c> Fn(&'c mut Tx) -> BoxFuture<'c, Result<T, TxError>> + Send + Sync,
        T: Send,
    {
        let started = Instant::now();
        let mut run = 1;
        let result = loop {
            let committing = AtomicBool::new(false);
            let attempt = tokio::time::timeout(RUN_TIMEOUT, self.run_once(name, fence, &committing, &f)).await;
            let result = attempt.unwrap_or_else(|_| Err(TxError::Db(silent(name, committing.into_inner()))));
            match result {
                Err(TxError::Db(error)) if error.is_repeatable() && run < MAX_RUNS && started.elapsed() < GIVE_UP => {
                    let wait = wait_before(run, rand::rng().random());
                    debug!(tx = name, run, error = &error as &dyn std::error::Error, "repeating a transaction");
                    self.shared().metrics.repeated(name);
                    tokio::time::sleep(wait).await;
                    run += 1;
                }
                other => break other,
            }
        };
        self.shared().metrics.ended(name, result.is_ok(), started.elapsed());
        result
    }

    async fn run_once<T, F>(
        &self,
        name: &'static str,
        fence: Option<Fence>,
        committing: &AtomicBool,
        f: &F,
    ) -> Result<T, TxError>
    where
        F: for<'c> Fn(&'c mut Tx) -> BoxFuture<'c, Result<T, TxError>> + Send + Sync,
        T: Send,
    {
        let mut connection = self.pool().acquire().await?;
        let mut tx = connection.begin().await?;
        if let Some(fence) = fence
            && !still_ours(&mut tx, fence).await?
        {
            let _ = tx.rollback().await;
            return Err(TxError::Failure(Failure::Lost));
        }
        let previous_task = fence.map(|fence| fence.task);
        let scope = Scope { machine: self.shared().machine(), previous_task, added: Cell::new(false) };
        let (result, added) = SCOPE
            .scope(scope, async {
                let result = f(&mut tx).await;
                (result, SCOPE.with(|scope| scope.added.get()))
            })
            .await;
        let value = match result {
            Ok(value) => value,
            Err(error) => {
                // Dropping it would undo it as well, at the next use of the connection; locks end now.
                let _ = tx.rollback().await;
                return Err(error);
            }
        };
        committing.store(true, Ordering::Relaxed);
        match tx.commit().await {
            Ok(()) => {}
            Err(source) if trouble(&source) == Trouble::Away => {
                return Err(TxError::Db(DbError::CommitUnknown { name, source }));
            }
            Err(error) => return Err(error.into()),
        }
        if added {
            self.shared().added.send_modify(|count| *count += 1);
        }
        Ok(value)
    }
}

/// What a connection that said nothing for [`RUN_TIMEOUT`] means.
fn silent(name: &'static str, committing: bool) -> DbError {
    if committing {
        DbError::CommitUnknown { name, source: sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()) }
    } else {
        DbError::Timeout(RUN_TIMEOUT)
    }
}

/// Wait before run `run + 1`: doubling, capped, between a half and all of it by `chance` in 0..1.
fn wait_before(run: u32, chance: f64) -> Duration {
    let full = FIRST_WAIT.saturating_mul(1 << run.min(10)).min(LONGEST_WAIT);
    full.mul_f64(0.5 + chance / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_error_survives_the_way_through_a_failure() {
        let error = TxError::from(sqlx::Error::PoolTimedOut);
        let back = TxError::from(error.classify());
        assert!(matches!(&back, TxError::Db(error) if error.is_repeatable()), "{back:?}");
        let other = TxError::from(Failure::retry("no"));
        assert!(matches!(other, TxError::Failure(Failure::Retry(_))), "{other:?}");
    }

    #[test]
    fn silence_is_repeated_before_the_commit_and_reported_during_it() {
        assert!(silent("test", false).is_repeatable());
        assert!(!silent("test", true).is_repeatable());
    }

    #[test]
    fn waits_grow_and_stay_below_the_cap() {
        let waits: Vec<_> = (1..MAX_RUNS).map(|run| wait_before(run, 1.0)).collect();
        assert!(waits.is_sorted(), "{waits:?}");
        assert_eq!(waits.last(), Some(&LONGEST_WAIT));
        assert!(waits.iter().sum::<Duration>() < Duration::from_secs(15), "{waits:?}");
        assert_eq!(wait_before(1, 0.0), Duration::from_millis(10));
    }
}
