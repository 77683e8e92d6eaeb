//! What runs on this machine at this moment: begun, asked to end, freed.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use curio_core::Resources;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::aftermath::Asked;
use crate::deadline::{self, Occupant};
use crate::engine::Core;
use crate::finish::Finished;
use crate::task::{Class, TaskId, TaskName};
use crate::work::{Start, work};

/// Attempts that run here, and tasks that are left to others for a while.
#[derive(Default)]
pub(crate) struct Slots {
    running: HashMap<TaskId, Slot>,
    cool: HashMap<TaskId, Instant>,
}

struct Slot {
    kind: usize,
    attempt: u32,
    began: Instant,
    cancel: CancellationToken,
    /// The deadline kind that it was ended for.
    preempted: Option<TaskName>,
    abort: Option<AbortHandle>,
}

/// What runs at one moment.
pub(crate) struct Load {
    /// Tasks of each kind.
    pub(crate) running: Vec<u32>,
    pub(crate) free: Resources,
    /// Tasks that must not be claimed now: cooling down, or still here in an attempt that may have been lost.
    pub(crate) excluded: Vec<i64>,
}

/// An attempt that runs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) task: TaskId,
    pub(crate) kind: usize,
    pub(crate) attempt: u32,
}

impl Core {
    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().expect("nothing panics under this lock")
    }

    pub(crate) fn load(&self) -> Load {
        let now = Instant::now();
        let mut slots = self.slots();
        slots.cool.retain(|_, until| *until > now);
        let mut running = vec![0; self.kinds.len()];
        let mut free = self.spec.resources;
        for slot in slots.running.values() {
            running[slot.kind] += 1;
            free = free.minus(&self.kinds[slot.kind].spec.cost, 1);
        }
        let excluded = slots.running.keys().chain(slots.cool.keys()).map(|task| task.0).collect();
        Load { running, free, excluded }
    }

    /// Attempts that run here or whose end is being stored.
    pub(crate) fn running(&self) -> Vec<Running> {
        let slots = self.slots();
        slots
            .running
            .iter()
            .map(|(task, slot)| Running { task: *task, kind: slot.kind, attempt: slot.attempt })
            .collect()
    }

    pub(crate) fn running_count(&self) -> usize {
        self.slots().running.len()
    }

    /// Leaves the task to others for a while.
    pub(crate) fn cool_down(&self, task: TaskId) {
        self.slots().cool.insert(task, Instant::now() + self.timing.cool_down);
        self.wake.look_at(self.timing.cool_down);
    }

    /// Starts the attempt in a task of its own.
    pub(crate) fn begin(self: &Arc<Core>, start: Start, ends: &mpsc::Sender<Finished>) {
        let (task, kind, attempt) = (start.claim.task, start.kind, start.claim.attempt);
        let name = self.kinds[kind].name;
        let cancel = start.claim.cancelled.clone();
        let slot = Slot { kind, attempt, began: Instant::now(), cancel, preempted: None, abort: None };
        let mut slots = self.slots();
        slots.running.insert(task, slot);
        let count = slots.running.values().filter(|slot| slot.kind == kind).count();
        drop(slots);
        self.metrics.running(name, u32::try_from(count).unwrap_or(u32::MAX));
        let handle = tokio::spawn(work(self.clone(), start, ends.clone())).abort_handle();
        if let Some(slot) = self.slots().running.get_mut(&task).filter(|slot| slot.attempt == attempt) {
            slot.abort = Some(handle);
        }
        // The runner may have begun to stop between the claim and now.
        if self.stopping.is_cancelled() {
            self.cancel_all();
        }
    }

    /// Asks one attempt to end: it is not ours any more.
    pub(crate) fn cancel(&self, lost: Running) {
        if let Some(slot) = self.slots().running.get(&lost.task).filter(|slot| slot.attempt == lost.attempt) {
            slot.cancel.cancel();
        }
    }

    pub(crate) fn cancel_all(&self) {
        for slot in self.slots().running.values() {
            slot.cancel.cancel();
        }
    }

    /// Whether `need` can be made free by asking attempts to end.
    pub(crate) fn can_make_room(&self, need: &Resources) -> bool {
        deadline::preempt(&self.spec.resources, need, &self.occupants(&self.slots())).is_some()
    }

    /// Asks attempts to end so that `need` is free for a task of `kind`, as far as that can be. Returns what was asked to
    /// end and for how long it had been running.
    pub(crate) fn preempt_for(&self, kind: usize, need: &Resources) -> Vec<(TaskId, TaskName, Duration)> {
        let mut slots = self.slots();
        let victims = deadline::preempt(&self.spec.resources, need, &self.occupants(&slots)).unwrap_or_default();
        let mut ended = Vec::with_capacity(victims.len());
        for task in victims {
            let Some(slot) = slots.running.get_mut(&task) else { continue };
            slot.preempted = Some(self.kinds[kind].name);
            slot.cancel.cancel();
            ended.push((task, self.kinds[slot.kind].name, slot.began.elapsed()));
        }
        ended
    }

    fn occupants(&self, slots: &Slots) -> Vec<Occupant> {
        let occupant = |(task, slot): (&TaskId, &Slot)| {
            let spec = &self.kinds[slot.kind].spec;
            Occupant {
                task: *task,
                cost: spec.cost,
                preemptible: spec.preemptible && spec.class == Class::Normal,
                leaving: slot.cancel.is_cancelled(),
                age: slot.began.elapsed(),
            }
        };
        slots.running.iter().map(occupant).collect()
    }

    /// Waits until all that runs here fits the machine: a task for which others were asked to end is among it before
    /// they have. False when they take longer than `limit`.
    pub(crate) async fn until_room(&self, limit: Duration) -> bool {
        let fits = async {
            loop {
                let mut released = std::pin::pin!(self.released.notified());
                // From here on a release is noticed, also one that comes before the wait.
                released.as_mut().enable();
                if self.all_fit() {
                    return;
                }
                released.await;
            }
        };
        tokio::time::timeout(limit, fits).await.is_ok()
    }

    fn all_fit(&self) -> bool {
        let slots = self.slots();
        let costs = slots.running.values().map(|slot| &self.kinds[slot.kind].spec.cost);
        let used = costs.fold(Resources::default(), |sum, cost| deadline::plus(&sum, cost));
        self.spec.resources.fits(&used, 1).is_ok()
    }

    /// Who asked an attempt to end, if anybody did.
    pub(crate) fn asked(&self, task: TaskId, attempt: u32) -> Asked {
        if self.stopping.is_cancelled() {
            return Asked::Stop;
        }
        let slots = self.slots();
        let slot = slots.running.get(&task).filter(|slot| slot.attempt == attempt);
        slot.and_then(|slot| slot.preempted).map_or(Asked::Nobody, Asked::Deadline)
    }

    /// Cuts all attempts off where they are, and returns them.
    pub(crate) fn abort_all(&self) -> Vec<Running> {
        for slot in self.slots().running.values() {
            if let Some(abort) = &slot.abort {
                abort.abort();
            }
        }
        self.running()
    }

    /// Frees what the attempt used.
    pub(crate) fn release(&self, task: TaskId, attempt: u32) {
        let mut slots = self.slots();
        if slots.running.get(&task).is_some_and(|slot| slot.attempt == attempt)
            && let Some(slot) = slots.running.remove(&task)
        {
            let name = self.kinds[slot.kind].name;
            let left = slots.running.values().filter(|other| other.kind == slot.kind).count();
            self.metrics.running(name, u32::try_from(left).unwrap_or(u32::MAX));
        }
        drop(slots);
        self.released.notify_waiters();
        self.wake.look_soon();
    }
}
