//! Asking a kind about tasks that are not ours yet: does it want them, and has it room for them? Answers take as long
//! as a kind's disks and networks do, so each has a bound, and work without a deadline is not asked on while deadline
//! work has come.

use std::collections::HashSet;

use curio_core::Failure;
use tracing::{debug, warn};

use crate::decide::Refusal;
use crate::engine::Core;
use crate::task::{Class, Reserved, TaskId};

/// How an answer came, or not.
enum Answer<T> {
    Given(T),
    Refused(Failure),
    Late,
    /// Deadline work came; the next look asks again.
    Interrupted,
}

impl Core {
    /// Those of the offered tasks that the kind takes here; none at all when deadline work came before the answer.
    pub(crate) async fn accepted(&self, kind: usize, offered: &[TaskId]) -> Option<Vec<TaskId>> {
        let this = &self.kinds[kind];
        let accepted = match self.answer(kind, this.task.can_accept(offered)).await {
            Answer::Given(accepted) => accepted,
            Answer::Refused(failure) => {
                warn!(task.name = %this.name, error = %failure, "can_accept of {} failed", this.name);
                return Some(Vec::new());
            }
            Answer::Late => {
                warn!(task.name = %this.name, "can_accept took longer than {:?}", self.timing.accept);
                return Some(Vec::new());
            }
            Answer::Interrupted => return None,
        };
        // Only what was offered, and each once.
        let mut known: HashSet<TaskId> = offered.iter().copied().collect();
        Some(accepted.into_iter().filter(|task| known.remove(task)).collect())
    }

    /// What the kind reserved for the task; none when it could not, and the task is left to others for a while.
    pub(crate) async fn reserved(&self, kind: usize, task: TaskId) -> Option<Reserved> {
        let this = &self.kinds[kind];
        match self.answer(kind, this.task.reserve(task)).await {
            Answer::Given(Reserved::NoRoom(why)) => {
                debug!(task.name = %this.name, task.id = %task, why, "no room");
                self.metrics.refused(this.name, Refusal::Storage);
                self.cool_down(task);
                None
            }
            Answer::Given(reservation) => Some(reservation),
            Answer::Refused(failure) => {
                warn!(task.name = %this.name, error = %failure, "reserve of {} failed", this.name);
                self.metrics.refused(this.name, Refusal::Storage);
                self.cool_down(task);
                None
            }
            Answer::Late => {
                warn!(task.name = %this.name, task.id = %task, "reserve took longer than {:?}", self.timing.accept);
                self.cool_down(task);
                None
            }
            Answer::Interrupted => None,
        }
    }

    async fn answer<T>(&self, kind: usize, question: impl Future<Output = Result<T, Failure>>) -> Answer<T> {
        let interrupted = async {
            match self.kinds[kind].spec.class {
                Class::Deadline => std::future::pending().await,
                Class::Normal => self.wake.urgent.notified().await,
            }
        };
        tokio::select! {
            answer = tokio::time::timeout(self.timing.accept, question) => match answer {
                Ok(Ok(answer)) => Answer::Given(answer),
                Ok(Err(failure)) => Answer::Refused(failure),
                Err(_) => Answer::Late,
            },
            () = interrupted => Answer::Interrupted,
        }
    }
}
