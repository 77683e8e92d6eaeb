//! The lock of a sending key, so that two tasks do not choose the same nonce. It is a lease: a sender that died keeps
//! nobody out for longer than a minute.

use std::time::Duration;

use curio_chain::{Address, address};
use curio_core::Failure;
use curio_harmony::{Claim, Db};
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::SendError;

/// How long to wait for another sender of the same key before giving the attempt back.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(20);
const LOCK_RETRY: Duration = Duration::from_millis(100);

/// Takes the lock; waits a while for whoever has it.
///
/// # Errors
/// [`SendError::Locked`] when another task sends with the key all the time; [`Failure::Stopping`].
pub(super) async fn take(claim: &Claim, from: &Address) -> Result<(), Failure> {
    let key = address::to_mainnet_text(from);
    let give_up = Instant::now() + LOCK_PATIENCE;
    loop {
        let (task, row) = (claim.task().0, key.clone());
        let taken = claim
            .store("lock sending key", move |tx| {
                let row = row.clone();
                Box::pin(async move {
                    let done = sqlx::query!(
                        "INSERT INTO message_send_locks (from_key, task_id, claimed_at, expires_at)
                         VALUES ($1, $2, now(), now() + interval '60 seconds')
                         ON CONFLICT (from_key) DO UPDATE
                         SET task_id = excluded.task_id, claimed_at = excluded.claimed_at, expires_at = excluded.expires_at
                         WHERE message_send_locks.task_id = excluded.task_id OR message_send_locks.expires_at < now()",
                        row,
                        task
                    )
                    .execute(&mut *tx)
                    .await?;
                    Ok(done.rows_affected())
                })
            })
            .await?;
        if taken == 1 {
            return Ok(());
        }
        if Instant::now() >= give_up {
            return Err(SendError::Locked { from: key }.into());
        }
        tokio::select! {
            () = sleep(LOCK_RETRY) => {}
            () = claim.cancelled().cancelled() => return Err(Failure::Stopping),
        }
    }
}

/// Gives the lock back. When this fails the lease ends by itself.
pub(super) async fn give_back(db: &Db, claim: &Claim) {
    let done =
        sqlx::query!("DELETE FROM message_send_locks WHERE task_id = $1", claim.task().0).execute(db.pool()).await;
    if let Err(error) = done {
        warn!(
            task.id = claim.task().0,
            error = &error as &dyn std::error::Error,
            "failed to give a sending lock back; it expires within a minute"
        );
    }
}
