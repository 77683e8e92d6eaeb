//! Waiting for the database: a program that starts beside its server, or before the migration, asks
//! again instead of ending.

use std::time::Duration;

use curio_harmony::{ConnectError, Db, SchemaError};
use tokio::time::Instant;
use tracing::warn;

use crate::cli::sentence;

/// Pause between two tries; doubles up to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
}

impl OpenError {
    /// Whether it may pass without a change of what this process was told. A refused user does not: the address with
    /// the password came with the start, and the next start reads it anew.
    fn may_pass(&self) -> bool {
        match self {
            OpenError::Connect(
                ConnectError::Unreachable { .. } | ConnectError::NoDatabase { .. } | ConnectError::Other { .. },
            )
            | OpenError::Schema(SchemaError::Missing | SchemaError::Old { .. } | SchemaError::Unreadable(_)) => true,
            OpenError::Connect(ConnectError::Address(_) | ConnectError::Refused { .. })
            | OpenError::Schema(SchemaError::New { .. } | SchemaError::Changed { .. }) => false,
        }
    }
}

/// Connects to a database with the schema of this version; asks until it is there. `told` gets the reason for each
/// further wait. Drop the future to end it.
///
/// # Errors
/// What waiting does not cure.
pub async fn wait_until_usable(url: &str, application: &str, mut told: impl FnMut(String)) -> Result<Db, OpenError> {
    let open = async || {
        let db = Db::connect(url, application).await?;
        db.check_schema().await?;
        Ok(db)
    };
    again_and_again(open, None, |problem, pause| {
        warn!("{problem}; no task is taken before; asking again in {pause:?}");
        told(problem);
    })
    .await
}

/// Connects to a database whatever its schema, and asks again for at most `patience`.
///
/// # Errors
/// The last answer, or what waiting does not cure.
pub async fn connect_within(url: &str, application: &str, patience: Duration) -> Result<Db, OpenError> {
    let due = Some(Instant::now() + patience);
    let connect = async || Ok(Db::connect(url, application).await?);
    again_and_again(connect, due, |problem, pause| warn!("{problem}; asking again in {pause:?}")).await
}

async fn again_and_again(
    ask: impl AsyncFn() -> Result<Db, OpenError>,
    due: Option<Instant>,
    mut waits: impl FnMut(String, Duration),
) -> Result<Db, OpenError> {
    let (mut pause, longest) = RETRY;
    loop {
        match ask().await {
            Ok(db) => return Ok(db),
            Err(error) if !error.may_pass() || due.is_some_and(|due| Instant::now() + pause > due) => {
                return Err(error);
            }
            Err(error) => waits(sentence(&error), pause),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}
