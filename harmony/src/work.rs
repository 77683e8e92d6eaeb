//! One attempt, from the claim to its end.

use std::sync::Arc;

use curio_core::Failure;
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{Instrument, info_span};

use crate::aftermath::{Aftermath, aftermath};
use crate::claim::Claim;
use crate::decide::Refusal;
use crate::engine::Core;
use crate::finish::Finished;
use crate::task::Reserved;

/// A claim that is about to be worked on.
pub(crate) struct Start {
    pub(crate) claim: Claim,
    pub(crate) kind: usize,
    /// Failed attempts before this one.
    pub(crate) failures: u32,
    /// What was reserved before the claim; absent when that is still to be done.
    pub(crate) reserved: Option<Reserved>,
}

/// Runs the attempt and hands its end to the writer.
pub(crate) async fn work(core: Arc<Core>, start: Start, ends: mpsc::Sender<Finished>) {
    let Start { claim, kind, failures, reserved } = start;
    let this = &core.kinds[kind];
    let span = info_span!("task.run", task.name = %this.name, task.id = %claim.task, attempt = claim.attempt);
    let began = Instant::now();
    let attempt = async {
        let reserved = match reserved {
            Some(reserved) => reserved,
            None => this.task.reserve(claim.task).await?,
        };
        // Held until the attempt has ended, whatever way it ends.
        let held = match reserved {
            Reserved::Nothing => None,
            Reserved::Held(held) => Some(held),
            Reserved::NoRoom(why) => return Ok(Ended::NoRoom(why)),
        };
        let result = this.task.run(&claim).await;
        drop(held);
        result.map(|()| Ended::Done)
    };
    let result = attempt.instrument(span).await;

    let after = match result {
        Ok(Ended::Done) => judge(&core, kind, Ok(()), failures, &claim),
        Ok(Ended::NoRoom(why)) => {
            core.metrics.refused(this.name, Refusal::Storage);
            core.cool_down(claim.task);
            let delay = std::time::Duration::ZERO;
            Aftermath::Again { counted: false, delay, error: format!("no room: {why}"), outcome: "refused" }
        }
        Err(failure) => judge(&core, kind, Err(failure), failures, &claim),
    };
    let end = Finished { task: claim.task, attempt: claim.attempt, kind, aftermath: after, elapsed: began.elapsed() };
    // The writer outlives all attempts; should it be gone, the row is released by the lease.
    let _ = ends.send(end).await;
}

enum Ended {
    Done,
    NoRoom(String),
}

fn judge(core: &Core, kind: usize, result: Result<(), Failure>, failures: u32, claim: &Claim) -> Aftermath {
    let asked = core.asked(claim.task, claim.attempt);
    aftermath(&core.kinds[kind].spec, result, failures, claim.attempt, asked, rand::rng().random())
}
