//! Points at which a fault test holds a task, to kill its runner there: labels of a 2 KiB sector take
//! milliseconds, too little to aim at. Nothing of it is in a release build.

#[cfg(debug_assertions)]
use std::path::PathBuf;
#[cfg(debug_assertions)]
use std::sync::Arc;
#[cfg(debug_assertions)]
use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// `CURIO_FAULT_PAUSE=SDR:/path/flag`: a task that reaches the point writes the file and waits until it
/// is gone.
#[cfg(debug_assertions)]
pub const VARIABLE: &str = "CURIO_FAULT_PAUSE";

/// The point to hold at, if any.
#[derive(Clone, Debug, Default)]
pub struct FaultPause {
    #[cfg(debug_assertions)]
    at: Option<Arc<(String, PathBuf)>>,
}

impl FaultPause {
    /// Reads the environment; malformed text is no pause.
    #[cfg(debug_assertions)]
    pub fn from_env() -> FaultPause {
        let at = std::env::var(VARIABLE).ok().and_then(|text| {
            let (point, file) = text.split_once(':')?;
            Some(Arc::new((point.to_owned(), PathBuf::from(file))))
        });
        FaultPause { at }
    }

    /// No pauses in a release build.
    #[cfg(not(debug_assertions))]
    pub fn from_env() -> FaultPause {
        FaultPause::default()
    }

    /// Holds the caller when `point` is the one asked for, until the file is gone or `cancelled`.
    #[cfg(debug_assertions)]
    pub async fn reached(&self, point: &str, cancelled: &CancellationToken) {
        let Some((_, file)) = self.at.as_deref().filter(|(wanted, _)| wanted == point) else {
            return;
        };
        tracing::warn!("fault test: holding {point} until {} is removed", file.display());
        if let Err(error) = std::fs::write(file, point) {
            tracing::warn!(error = &error as &dyn std::error::Error, "fault test: failed to write {}", file.display());
            return;
        }
        while file.exists() && !cancelled.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[cfg(not(debug_assertions))]
    pub async fn reached(&self, _point: &str, _cancelled: &CancellationToken) {}
}
