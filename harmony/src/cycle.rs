//! The loop that looks at the queue: decide, claim, begin.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::db::DbError;
use crate::decide::{Offer, Refusal, Verdict, decide, order};
use crate::engine::{Core, EngineState};
use crate::finish::Finished;
use crate::hints::Allowance;
use crate::pick::{self, Ask, PEEK, Place, Seen, Taken};
use crate::propose::propose;
use crate::task::{Class, Event, Reserved, TaskId};
use crate::work::{Room, Start};

/// The loop and what it remembers from look to look.
pub(crate) struct Scheduler {
    pub(crate) core: Arc<Core>,
    ends: mpsc::Sender<Finished>,
    /// Grows with every look; equal kinds take turns by it.
    cycle: usize,
    allowance: Allowance,
    /// Where to go on with a filtered kind whose first candidates were all refused.
    places: HashMap<usize, Place>,
    /// Filtered kinds that held capacity back in the last look and did not use it.
    skip_once: HashSet<usize>,
    /// When each kind was last asked for ideas.
    proposed: HashMap<usize, Instant>,
}

/// What a look did, as far as the next one is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Looked {
    accepted: usize,
    /// Something was refused for want of capacity, so the end of an attempt is worth a look.
    blocked: bool,
    /// There is more to see at once.
    again: bool,
}

impl Scheduler {
    pub(crate) fn new(core: Arc<Core>, ends: mpsc::Sender<Finished>) -> Scheduler {
        let allowance = Allowance::new(core.timing.hint_every, core.timing.hint_burst, Instant::now());
        Scheduler {
            core,
            ends,
            cycle: 0,
            allowance,
            places: HashMap::new(),
            skip_once: HashSet::new(),
            proposed: HashMap::new(),
        }
    }

    /// Runs until the engine stops. `left` are tasks of this machine's last run, ours already.
    pub(crate) async fn run(mut self, left: Vec<Taken>) {
        let core = self.core.clone();
        if let Err(error) = self.resume(left, "recover").await {
            warn!(error = &error as &dyn Error, "tasks of the last run could not be given back yet");
            core.request_audit();
        }
        let mut away = false;
        loop {
            let began = Instant::now();
            core.wake.forget_due(began);
            // Never cut off by a stop: a claim whose answer is not read would be ours without being run.
            let next = match self.look().await {
                Ok(looked) => {
                    if std::mem::take(&mut away) {
                        info!("the database answers again");
                    }
                    let soon = looked.accepted > 0 || looked.again;
                    let wait = if soon { core.timing.poll_busy } else { core.poll_idle() };
                    (Instant::now() + wait, looked.blocked)
                }
                Err(error) if error.is_conflict() => {
                    let wait = core.timing.poll_busy.mul_f64(0.5 + rand::rng().random::<f64>());
                    (Instant::now() + wait, false)
                }
                Err(error) => {
                    core.request_audit();
                    if !std::mem::replace(&mut away, true) {
                        warn!(error = &error as &dyn Error, "failed to look for tasks, trying again");
                    }
                    let wait = Duration::from_millis(300).mul_f64(0.5 + rand::rng().random::<f64>());
                    (Instant::now() + wait, false)
                }
            };
            if !self.wait(began, next.0, next.1).await {
                return;
            }
        }
    }

    /// Sleeps until the next look is due, earlier for a hint. False when the engine stops.
    async fn wait(&mut self, began: Instant, mut due: Instant, blocked: bool) -> bool {
        let core = &self.core;
        let mut hinted = false;
        loop {
            if core.wake.take_now() {
                let allowed = self.allowance.next().max(began + core.timing.hint_gap);
                hinted |= allowed < due;
                due = due.min(allowed);
            }
            if let Some(look) = core.wake.next_look() {
                due = due.min(look.max(began + core.timing.hint_gap));
            }
            tokio::select! {
                () = core.stopping.cancelled() => return false,
                () = tokio::time::sleep_until(due) => {
                    if hinted {
                        self.allowance.spend(Instant::now());
                    }
                    return true;
                }
                () = core.wake.notify.notified() => {
                    if blocked {
                        due = due.min(began + core.timing.poll_busy);
                    }
                }
            }
        }
    }

    /// One look at the queue.
    async fn look(&mut self) -> Result<Looked, DbError> {
        let core = self.core.clone();
        if *core.state.borrow() == EngineState::Replaced {
            return Ok(Looked::default());
        }
        core.metrics.cycles.inc();
        // Whatever it was, this look sees it.
        core.wake.forget_urgency();
        self.cycle = self.cycle.wrapping_add(1);
        if core.take_audit() {
            self.audit().await.inspect_err(|_| core.request_audit())?;
        }
        let load = core.load();
        core.metrics.reserved(&core.spec.resources, &load.free);
        let mut looked = Looked::default();
        let mut asks = Vec::new();
        let mut asked = Vec::new();
        let skipped = std::mem::take(&mut self.skip_once);
        let ranks: Vec<(Class, u16)> = core.kinds.iter().map(|kind| (kind.spec.class, kind.spec.order)).collect();
        for index in order(&ranks, self.cycle) {
            let kind = &core.kinds[index];
            let usable = self.usable(&load, index);
            let cap = match decide(&usable, &self.offer(index, load.running[index]), u32::MAX) {
                Verdict::Consider(_) if skipped.contains(&index) => continue,
                Verdict::Consider(cap) => cap,
                Verdict::Refused(refusal) => {
                    looked.blocked = true;
                    core.metrics.refused(kind.name, refusal);
                    let wants_room = matches!(refusal, Refusal::Cpu | Refusal::Ram | Refusal::Gpu);
                    if !wants_room || kind.spec.class != Class::Deadline {
                        continue;
                    }
                    0
                }
            };
            asked.push(index);
            asks.push(Ask {
                name: kind.name.as_str(),
                cap,
                cost: kind.spec.cost,
                max_failures: limit(kind.spec.max_failures),
                usable,
                filtered: kind.spec.filtered || cap == 0,
                after: self.places.get(&index).copied(),
            });
        }
        if asks.is_empty() {
            return Ok(looked);
        }
        let claim = pick::claim(core.db.engine_pool(), core.identity(), &asks, &load.excluded);
        let seen = core.bounded(claim).await?;

        let mut candidates: Vec<Vec<Seen>> = asked.iter().map(|_| Vec::new()).collect();
        let mut held_back = false;
        for seen in seen {
            let place = usize::try_from(seen.ask).unwrap_or(usize::MAX);
            let Some(&kind) = asked.get(place) else { continue };
            match seen.attempt {
                Some(attempt) => {
                    looked.accepted += 1;
                    self.begin(kind, seen.id, attempt, seen.retries, seen.waited_s, Room::Free);
                }
                None if asks[place].filtered => candidates[place].push(seen),
                None => held_back = true,
            }
        }
        for (place, seen) in candidates.into_iter().enumerate() {
            let kind = asked[place];
            let full = seen.len() >= PEEK;
            let end = seen.last().map(|seen| (seen.run_after, seen.id));
            if seen.is_empty() {
                // Nothing there, or nothing beyond what was refused: from the front next time, without haste.
                self.places.remove(&kind);
                continue;
            }
            if asks[place].cap == 0 {
                looked.accepted += usize::from(self.take_and_make_room(kind, &seen).await?);
                self.places.remove(&kind);
                continue;
            }
            let Some(accepted) = self.consider(kind, &seen, &mut looked).await? else {
                looked.again = true;
                break;
            };
            looked.accepted += accepted;
            match (accepted, full, end) {
                (0, true, Some(end)) => {
                    self.places.insert(kind, end);
                    looked.again = true;
                }
                _ => {
                    self.places.remove(&kind);
                }
            }
            if accepted == 0 && held_back {
                self.skip_once.insert(kind);
                looked.again = true;
            }
        }
        looked.blocked |= held_back;
        if looked.accepted == 0 && !looked.again {
            self.propose_idle().await;
        }
        Ok(looked)
    }

    pub(crate) fn offer(&self, kind: usize, running: u32) -> Offer {
        let spec = &self.core.kinds[kind].spec;
        Offer { cost: spec.cost, max_running: spec.max_running, running, turn: self.core.timing.turn }
    }

    /// Asks a filtered kind about candidates, reserves for those it accepts, and claims those that got their
    /// reservation. Returns how many became ours; none at all when deadline work came before the kind had answered.
    async fn consider(&self, kind: usize, seen: &[Seen], looked: &mut Looked) -> Result<Option<usize>, DbError> {
        let core = &self.core;
        let this = &core.kinds[kind];
        let load = core.load();
        let pending = u32::try_from(seen.len()).unwrap_or(u32::MAX);
        let wanted = match decide(&self.usable(&load, kind), &self.offer(kind, load.running[kind]), pending) {
            Verdict::Consider(wanted) => wanted as usize,
            Verdict::Refused(refusal) => {
                looked.blocked = true;
                core.metrics.refused(this.name, refusal);
                return Ok(Some(0));
            }
        };
        let offered: Vec<TaskId> = seen.iter().map(|seen| TaskId(seen.id)).collect();
        let Some(accepted) = core.accepted(kind, &offered).await else { return Ok(None) };
        if accepted.is_empty() {
            core.metrics.refused(this.name, Refusal::CanAccept);
            return Ok(Some(0));
        }
        let mut reserved: HashMap<i64, Reserved> = HashMap::new();
        for task in accepted {
            if reserved.len() >= wanted {
                break;
            }
            if let Some(reservation) = core.reserved(kind, task).await {
                reserved.insert(task.0, reservation);
            }
        }
        if reserved.is_empty() {
            return Ok(Some(0));
        }
        let ids: Vec<i64> = reserved.keys().copied().collect();
        let claim = pick::claim_these(core.db.engine_pool(), core.identity(), &ids, limit(this.spec.max_failures));
        // On an error all reservations are dropped; rows that became ours all the same are found by the audit.
        let taken = core.bounded(claim).await?;
        for task in &taken {
            let room = reserved.remove(&task.id).map_or(Room::Free, Room::Reserved);
            self.begin(kind, task.id, task.attempt, task.retries, task.waited_s, room);
        }
        let raced = reserved.len();
        drop(reserved);
        for _ in 0..raced {
            core.metrics.refused(this.name, Refusal::Raced);
        }
        Ok(Some(taken.len()))
    }

    pub(crate) fn begin(&self, kind: usize, id: i64, attempt: i32, failures: i32, waited_s: f64, room: Room) {
        let claim = self.core.claim_of(kind, id, attempt);
        self.core.metrics.started(self.core.kinds[kind].name, waited_s);
        let failures = u32::try_from(failures).unwrap_or(0);
        self.core.begin(Start { claim, kind, failures, room }, &self.ends);
    }

    /// Asks kinds that have room for ideas, each at most as often as it wants.
    async fn propose_idle(&mut self) {
        let core = self.core.clone();
        let load = core.load();
        for (index, kind) in core.kinds.iter().enumerate() {
            let Some(every) = kind.triggers.idle_every else { continue };
            let fresh = self.proposed.get(&index).is_some_and(|last| last.elapsed() < every);
            let room = decide(&self.usable(&load, index), &self.offer(index, load.running[index]), 0);
            if fresh || matches!(room, Verdict::Refused(_)) {
                continue;
            }
            self.proposed.insert(index, Instant::now());
            // Tasks that it adds wake the engine like all others.
            propose(&core, kind, Event::Idle).await;
        }
    }
}

pub(crate) fn limit(max_failures: Option<u32>) -> Option<i32> {
    max_failures.map(|max| i32::try_from(max).unwrap_or(i32::MAX))
}
