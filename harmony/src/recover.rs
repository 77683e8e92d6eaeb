//! Tasks that are ours without having been claimed by a look: left over from this machine's last run, or from a claim
//! whose answer was lost.

use tracing::info;

use crate::cycle::Scheduler;
use crate::db::DbError;
use crate::decide::{Refusal, Verdict, decide};
use crate::pick::{self, Taken};
use crate::task::TaskId;
use crate::work::Room;

impl Scheduler {
    /// Rows that are ours in the database and not known here: claims whose answer was lost.
    pub(crate) async fn audit(&mut self) -> Result<(), DbError> {
        let core = self.core.clone();
        let known: Vec<i64> = core.running().iter().map(|running| running.task.0).collect();
        let take = pick::take_back(core.db.engine_pool(), core.identity(), &known, false);
        let found = core.bounded(take).await?;
        self.resume(found, "audit").await
    }

    /// Begins tasks that are ours without having been claimed by a look, as far as this machine may take them;
    /// gives back the others.
    pub(crate) async fn resume(&mut self, found: Vec<Taken>, source: &'static str) -> Result<(), DbError> {
        let core = self.core.clone();
        let mut refused = Vec::new();
        for task in found {
            let Some(kind) = core.kinds.iter().position(|kind| kind.name.as_str() == task.name) else {
                info!(task.id = task.id, task.name = task.name, "left over from a run with other kinds, given back");
                refused.push((task.id, task.attempt));
                continue;
            };
            let this = &core.kinds[kind];
            let load = core.load();
            let room = match decide(&self.usable(&load, kind), &self.offer(kind, load.running[kind]), 1) {
                Verdict::Consider(_) if !this.spec.filtered => Some(Room::Free),
                Verdict::Consider(_) => {
                    let accepted = core.accepted(kind, &[TaskId(task.id)]).await;
                    if accepted.is_none_or(|accepted| accepted.is_empty()) {
                        core.metrics.refused(this.name, Refusal::CanAccept);
                        None
                    } else {
                        core.reserved(kind, TaskId(task.id)).await.map(Room::Reserved)
                    }
                }
                Verdict::Refused(refusal) => {
                    core.metrics.refused(this.name, refusal);
                    None
                }
            };
            match room {
                Some(room) => {
                    info!(task.name = %this.name, task.id = task.id, source, "{} goes on", this.name);
                    self.begin(kind, task.id, task.attempt, task.retries, task.waited_s, room);
                }
                None => refused.push((task.id, task.attempt)),
            }
        }
        if !refused.is_empty() {
            let (ids, attempts): (Vec<i64>, Vec<i32>) = refused.into_iter().unzip();
            core.bounded(pick::give_back(core.db.engine_pool(), core.identity(), &ids, &attempts, 0)).await?;
        }
        Ok(())
    }
}
