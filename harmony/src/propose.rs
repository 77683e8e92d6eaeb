//! Asking kinds for new tasks: after a completion, and when there is nothing to do.

use std::error::Error;
use std::sync::Arc;

use curio_core::Failure;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tracing::{debug, warn};

use crate::engine::{Completion, Core};
use crate::registry::Kind;
use crate::task::Event;
use crate::transaction::TxError;

/// Asks the kinds that follow others; ends with the engine.
pub(crate) async fn propose_followers(core: Arc<Core>, mut completions: broadcast::Receiver<Completion>) {
    loop {
        let completion = tokio::select! {
            completion = completions.recv() => completion,
            () = core.stopping.cancelled() => return,
        };
        match completion {
            Ok(Completion { kind, task, ok: true }) => {
                for follower in core.kinds.iter().filter(|other| other.triggers.completed.contains(&kind)) {
                    propose(&core, follower, Event::Completed { kind, task }).await;
                }
            }
            Ok(Completion { ok: false, .. }) => {}
            // What was missed is proposed by the next completion, or when the machine is idle.
            Err(RecvError::Lagged(missed)) => warn!(missed, "too many completions at once to follow each"),
            Err(RecvError::Closed) => return,
        }
    }
}

/// Asks one kind, and returns how many tasks it added.
pub(crate) async fn propose(core: &Core, kind: &Kind, event: Event) -> u32 {
    let task = kind.task.clone();
    let proposal = core.db.transaction("propose", move |tx| {
        let task = task.clone();
        Box::pin(async move { task.propose(tx, &event).await.map_err(TxError::from) })
    });
    let Ok(result) = tokio::time::timeout(core.timing.accept, proposal).await else {
        warn!(task.name = %kind.name, "propose of {} took longer than {:?}", kind.name, core.timing.accept);
        return 0;
    };
    match result {
        Ok(count) => count,
        Err(error) if error.is_unique_violation() => {
            debug!(task.name = %kind.name, "another machine proposed the same");
            0
        }
        Err(TxError::Failure(Failure::Unavailable(_)) | TxError::Rollback) => 0,
        Err(error) => {
            warn!(task.name = %kind.name, error = &error as &dyn Error, "{} could not propose", kind.name);
            0
        }
    }
}
