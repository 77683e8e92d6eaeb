//! The room of a machine: what a kind may use of it now, and how deadline work gets some when there is none.

use std::time::Duration;

use curio_core::Resources;
use tracing::info;

use crate::cycle::{Scheduler, limit};
use crate::db::DbError;
use crate::deadline;
use crate::decide::Refusal;
use crate::pick::{self, Seen};
use crate::slots::Load;
use crate::task::TaskId;
use crate::work::Room;

impl Scheduler {
    /// What tasks of a kind may use now: what is free, less what is kept for deadline work of other kinds.
    pub(crate) fn usable(&self, load: &Load, kind: usize) -> Resources {
        let spec = &self.core.kinds[kind].spec;
        deadline::usable(&load.free, &self.kept_from(load, kind), spec, load.running[kind])
    }

    fn kept_from(&self, load: &Load, kind: usize) -> Resources {
        let core = &self.core;
        let specs = core.kinds.iter().map(|kind| &kind.spec).zip(load.running.iter().copied());
        let others = specs.enumerate().filter(|(index, _)| *index != kind).map(|(_, other)| other);
        deadline::kept(&core.spec.resources, &core.kinds[kind].spec.cost, others)
    }

    /// Takes one of the candidates of a deadline kind that has no room, and ends other work for it. Says whether it did.
    ///
    /// The claim comes first: all machines with the kind were told of the task, and each that has no room would end work
    /// for it. What was asked to end has not ended yet when the task is ours, and from then on its room is the task's.
    ///
    /// # Errors
    /// Database trouble; nothing was ended then.
    pub(crate) async fn take_and_make_room(&self, kind: usize, seen: &[Seen]) -> Result<bool, DbError> {
        let core = &self.core;
        let this = &core.kinds[kind];
        // Machines with room were told of the task when we were. What they take costs nobody's work.
        let waited_s = seen.iter().map(|seen| seen.waited_s).fold(0.0, f64::max);
        let patience = core.timing.preempt_after.as_secs_f64() - waited_s;
        if patience > 0.0 {
            core.wake.look_at(Duration::from_secs_f64(patience));
            return Ok(false);
        }
        let load = core.load();
        let need = deadline::need(&self.kept_from(&load, kind), &this.spec, load.running[kind]);
        if !core.can_make_room(&need) {
            return Ok(false);
        }
        let mut candidates: Vec<TaskId> = seen.iter().map(|seen| TaskId(seen.id)).collect();
        if this.spec.filtered {
            candidates = core.accepted(kind, &candidates).await.unwrap_or_default();
        }
        let Some(first) = candidates.first() else {
            core.metrics.refused(this.name, Refusal::CanAccept);
            return Ok(false);
        };
        let one = [first.0];
        let claim = pick::claim_these(core.db.engine_pool(), core.identity(), &one, limit(this.spec.max_failures));
        let Some(task) = core.bounded(claim).await?.pop() else {
            core.metrics.refused(this.name, Refusal::Raced);
            return Ok(false);
        };
        for (victim, name, ran) in core.preempt_for(kind, &need) {
            info!(task.name = %name, task.id = %victim, "{name} makes room for {} after {ran:?} of work", this.name);
        }
        self.begin(kind, task.id, task.attempt, task.retries, task.waited_s, Room::Awaited);
        Ok(true)
    }
}
