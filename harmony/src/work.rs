//! One attempt, from the claim to its end.

use std::sync::Arc;
use std::time::Duration;

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
    pub(crate) room: Room,
}

/// The room of an attempt that is about to start.
pub(crate) enum Room {
    /// Cores, memory and devices are free; what else the task needs is still to be reserved.
    Free,
    /// All of it was reserved before the claim.
    Reserved(Reserved),
    /// Other work was asked to leave it.
    Awaited,
}

/// How long other work may take to leave. It bears being ended, so that it takes a moment.
const LEAVING: Duration = Duration::from_secs(10);

/// Runs the attempt and hands its end to the writer.
pub(crate) async fn work(core: Arc<Core>, start: Start, ends: mpsc::Sender<Finished>) {
    let Start { claim, kind, failures, room } = start;
    let this = &core.kinds[kind];
    let span = info_span!("task.run", task.name = %this.name, task.id = %claim.task, attempt = claim.attempt);
    let began = Instant::now();
    let attempt = async {
        if matches!(room, Room::Awaited) {
            match claim.cancelled.run_until_cancelled(core.until_room(LEAVING)).await {
                Some(true) => {}
                Some(false) => return Ok(Ended::NoRoom(format!("other work did not end within {LEAVING:?}"))),
                None => return Err(Failure::Stopping),
            }
        }
        let reserved = match room {
            Room::Reserved(reserved) => reserved,
            Room::Free | Room::Awaited => this.task.reserve(claim.task).await?,
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
            let delay = Duration::ZERO;
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
