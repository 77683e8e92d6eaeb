//! Window PoSt: every partition of every deadline proven once in its window.
//!
//! ```text
//! head ─▶ create ─▶ WdPost ─▶ wdpost_proofs ─▶ outgoing ─▶ WdPostSubmit ─▶ outbox ⇢ chain ⇢ landing
//! head ─▶ check  ─▶ WdPostRecover ─▶ outbox ⇢ chain
//! ```
//!
//! Heads make work: the handlers here look at the chain's state and write rows, which unique keys keep to one among all
//! runners. Work never outlives its window: it ends itself, and what came to nothing is counted as missed.

mod check;
mod close;
pub mod compute;
mod create;
mod declaration;
pub mod group;
mod landing;
mod outgoing;
pub mod prove;
pub mod recover;
mod remake;
pub mod select;
mod standing;
pub mod submit;

use std::sync::Arc;

use curio_chain::types::DeadlineInfo;
use curio_core::{Epoch, Failure, SpId};

pub use self::standing::{Standing, standing};
use crate::chain_sched::HeadHandler;
use crate::deps::Deps;
use crate::storage::to_column;

/// The handlers of a runner that proves windows; none on another.
pub fn handlers(deps: &Deps) -> Vec<Arc<dyn HeadHandler>> {
    if !deps.config.subsystems.enable_window_post {
        return Vec::new();
    }
    vec![
        Arc::new(create::Create::new(deps)),
        Arc::new(outgoing::Outgoing::new(deps)),
        Arc::new(check::Check::new(deps)),
    ]
}

/// The end of a window's task, which ends itself when its time is over: nothing before that is final, as another machine,
/// or another moment, may do better.
fn until_over(outcome: Result<(), Failure>) -> Result<(), Failure> {
    match outcome {
        Err(Failure::Permanent { cause, .. }) => Err(Failure::Retry(cause)),
        outcome => outcome,
    }
}

/// Epoch of the first tipset that a message of now can be in.
fn first_landing(head: Epoch) -> Epoch {
    head + 1
}

/// One window of a miner's deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Window {
    pub sp: SpId,
    pub period_start: Epoch,
    pub deadline: u64,
}

impl Window {
    pub fn of(sp: SpId, info: &DeadlineInfo) -> Window {
        Window { sp, period_start: info.period_start, deadline: info.index }
    }

    /// As the columns `sp_id`, `proving_period_start` and the deadline's index.
    fn columns(&self) -> (i64, i64, i64) {
        (to_column(self.sp.0), self.period_start.0, to_column(self.deadline))
    }
}

impl std::fmt::Display for Window {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "deadline {} of {} (period {})", self.deadline, self.sp, self.period_start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_final_before_the_end_of_a_window() {
        let permanent = Failure::permanent("proof-type", "nobody can prove this");
        assert!(matches!(until_over(Err(permanent)), Err(Failure::Retry(_))));
        assert!(matches!(until_over(Err(Failure::Stopping)), Err(Failure::Stopping)));
        assert!(until_over(Ok(())).is_ok());
    }
}
