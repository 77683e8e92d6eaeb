//! Staying alive in the eyes of the others: heartbeats, what they tell us, and the way back after an eviction.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::time::Instant;
use tracing::{error, warn};

use crate::db::DbError;
use crate::engine::{Core, EngineState, within};
use crate::machine::{self, Beat, Beating, Offered};
use crate::pick::{self, Identity};

/// Heartbeats until the engine has stopped; registers anew after an eviction.
pub(crate) async fn keep_alive(core: Arc<Core>, offered: Offered) {
    let mut wait = core.timing.heartbeat;
    let mut limit = core.timing.heartbeat_limit();
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = core.given_up.cancelled() => return,
        }
        let began = Instant::now();
        let identity = core.identity();
        let result = match beat(&core, identity, limit).await {
            Ok(true) => Ok(()),
            Ok(false) => return_to_life(&core, identity, &offered).await,
            Err(error) => Err(error),
        };
        wait = match result {
            Ok(()) if *core.state.borrow() == EngineState::Replaced => return,
            Ok(()) => {
                set_state(&core, EngineState::Running);
                limit = core.timing.heartbeat_limit();
                // From beginning to beginning: on a busy machine the beats themselves take a while.
                core.timing.heartbeat.saturating_sub(began.elapsed()).max(core.timing.heartbeat / 4)
            }
            Err(error) => {
                set_state(&core, EngineState::DatabaseAway);
                warn!(error = &error as &dyn Error, "heartbeat failed, trying again soon");
                // One that hung is given up early, because its connection may be dead. A database that is merely slow
                // must not cost a machine its lease.
                limit = core.timing.statement;
                // Soon, so that the lease outlives a short outage; not all machines in step.
                (core.timing.heartbeat / 15).mul_f64(0.5 + rand::rng().random::<f64>())
            }
        };
    }
}

/// One heartbeat, and what it found. False when we are not among the living.
async fn beat(core: &Core, identity: Identity, limit: Duration) -> Result<bool, DbError> {
    let running = core.running();
    let beating = Beating { running: &running, lease: core.timing.lease, deadline_lease: core.timing.deadline_lease };
    let heartbeat = machine::heartbeat(core.db.engine_pool(), identity, &beating);
    let Beat { alive, evicted, silent, released, lost } = within(limit, heartbeat).await?;
    if !evicted.is_empty() || !silent.is_empty() || released > 0 {
        let (machines, silent) = (evicted.join(", "), silent.join(", "));
        warn!(machines, silent, released, "machines were lost, or silent for too long, and their tasks released");
        core.wake.look_now();
    }
    // Released while we were silent. Whatever they would store is refused; they need not go on until then.
    for attempt in running.into_iter().filter(|attempt| lost.contains(&attempt.task.0)) {
        core.cancel(attempt);
    }
    Ok(alive)
}

fn set_state(core: &Core, state: EngineState) {
    core.state.send_if_modified(|current| {
        let change = *current != state && !matches!(*current, EngineState::Stopping | EngineState::Replaced);
        if change {
            *current = state;
        }
        change
    });
}

/// Our row is gone, evicted, or belongs to another process: nothing that runs here is ours any more.
async fn return_to_life(core: &Arc<Core>, identity: Identity, offered: &Offered) -> Result<(), DbError> {
    core.cancel_all();
    if core.bounded(machine::is_replaced(core.db.engine_pool(), identity)).await? {
        error!("another process has registered as '{}'; this one stops working", core.spec.name);
        set_state(core, EngineState::Replaced);
        return Ok(());
    }
    warn!("this machine was evicted; its work was cancelled and it registers anew");
    let new = core.bounded(machine::register(core.db.engine_pool(), &core.spec, offered)).await?;
    core.set_identity(new);
    if new.machine != identity.machine {
        // Our row had been removed, so nobody else would ever release what the old id still owns.
        core.bounded(pick::release_all(core.db.engine_pool(), identity.machine)).await?;
    }
    // Anything that a claim under way took after the eviction.
    core.request_audit();
    core.wake.look_now();
    Ok(())
}
