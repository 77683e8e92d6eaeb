//! What to do with which slot: a pure function from what is there and what is wanted.
//!
//! It keeps four promises. A runner that has work, or holds data that nobody else has, never leaves because there are
//! too many; in hibernation that data rests on its claims, and only work keeps a runner. Whom the proofs of an
//! open deadline need stays until the chain has them. At most one runner is on its way out at a time. And a runner that
//! goes has been told to take nothing new, and was idle after that: the cordon comes first, then a look, then the
//! deletion.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use super::slot::{Health, Process, Slot, SlotPod};

/// A claim that began before the cordon has ended this long after it.
pub const CORDON_SETTLES: Duration = Duration::from_secs(1);
/// A pod that is still there this long after its time to stop is stuck on a node that nobody hears from. It does not keep the
/// others from leaving.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What the pool is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Goal {
    /// How many runners.
    pub runners: u32,
    /// Whether all that are idle go, and none comes: not even for pinned data, which rests on its claims meanwhile.
    pub hibernate: bool,
    /// Whether idle runners of an older template are replaced.
    pub replace: bool,
    pub needed: Needed,
    pub now: Timestamp,
}

/// Whom the proofs of an open deadline need at any moment: those stay, idle or not, as long as they work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needed {
    /// The chain lacks no proof.
    Nobody,
    /// Whoever alone holds finished sectors: a sector that gives no vanilla proof meanwhile is declared faulty.
    Holders,
    /// All runners of the pool, because they make and send the proofs.
    Everyone,
}

impl Needed {
    fn includes(self, slot: &Slot) -> bool {
        match self {
            Needed::Nobody => false,
            Needed::Holders => slot.pinned.only_copies > 0,
            Needed::Everyone => true,
        }
    }
}

/// What to do now. The next look finds out what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Slots that get their claims and a pod.
    pub create: Vec<u32>,
    /// Slots whose runner takes nothing new from now on.
    pub cordon: Vec<u32>,
    /// Slots whose runner may take work again.
    pub uncordon: Vec<u32>,
    /// Slots whose pod is deleted; the claims stay.
    pub delete: Vec<u32>,
    /// Slots whose machine is removed from the database.
    pub forget: Vec<u32>,
    /// The slot that is on its way out, if one is.
    pub leaving: Option<Leaving>,
    /// What a person should know of a slot.
    pub said: BTreeMap<u32, String>,
}

/// The slot that is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    pub number: u32,
    pub why: Why,
}

/// Why a slot is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    TooMany,
    Outdated,
}

impl Why {
    pub fn sentence(self) -> &'static str {
        match self {
            Why::TooMany => "there are more runners than there are to be",
            Why::Outdated => "it was made from an older template",
        }
    }
}

/// Decides.
pub fn plan(slots: &[Slot], goal: &Goal) -> Plan {
    let mut plan = Plan::default();
    for slot in slots {
        if let Some(complaint) = slot.pod.as_ref().and_then(|pod| pod.health.complaint()) {
            plan.said.insert(slot.number, complaint.to_owned());
        }
    }
    remove_ended(slots, &mut plan);
    create(slots, goal, &mut plan);
    leave(slots, goal, &mut plan);
    explain(slots, goal, &mut plan);
    forget(slots, &mut plan);
    plan
}

/// A pod that has ended does not come back; its name is free once it is gone.
fn remove_ended(slots: &[Slot], plan: &mut Plan) {
    let ended = slots.iter().filter(|slot| {
        slot.pod.as_ref().is_some_and(|pod| pod.ends_at.is_none() && matches!(pod.health, Health::Ended(_)))
    });
    plan.delete.extend(ended.map(|slot| slot.number));
}

fn create(slots: &[Slot], goal: &Goal, plan: &mut Plan) {
    if goal.hibernate {
        return;
    }
    // Data that only this slot has: its runner comes back whatever the number says, and before new ones.
    plan.create.extend(slots.iter().filter(|slot| slot.pod.is_none() && slot.is_pinned()).map(|slot| slot.number));
    // A pod that is being deleted gives its name back, for a successor or for good; until then it counts.
    let there = slots.iter().filter(|slot| slot.pod.as_ref().is_some_and(|pod| !is_stuck(pod, goal.now))).count();
    let missing = (goal.runners as usize).saturating_sub(there + plan.create.len());
    let taken: BTreeSet<u32> = slots
        .iter()
        .filter(|slot| slot.pod.is_some())
        .map(|slot| slot.number)
        .chain(plan.create.iter().copied())
        .collect();
    plan.create.extend((0..).filter(|number| !taken.contains(number)).take(missing));
}

fn leave(slots: &[Slot], goal: &Goal, plan: &mut Plan) {
    let someone_leaves =
        slots.iter().any(|slot| slot.pod.as_ref().is_some_and(|pod| pod.ends_at.is_some() && !is_stuck(pod, goal.now)));
    let victim = victim(slots, goal);
    for slot in slots.iter().filter(|slot| slot.live().is_some()) {
        let is_victim = victim.is_some_and(|victim| victim.number == slot.number);
        if !is_victim && matches!(slot.process, Process::Cordoned(_)) {
            plan.uncordon.push(slot.number);
        }
    }
    let Some(Leaving { number, why }) = victim else { return };
    let Some(slot) = slots.iter().find(|slot| slot.number == number) else { return };
    let what = match why {
        Why::TooMany => "leaves",
        Why::Outdated => "is replaced by one of the present template",
    };
    match slot.process {
        _ if someone_leaves => {
            plan.said.insert(number, format!("{what} once the one before it has gone"));
            return;
        }
        // No process could take work, or the one that is there does nothing.
        Process::Unknown | Process::Gone => plan.delete.push(number),
        _ if is_broken(slot) => plan.delete.push(number),
        Process::Working => plan.cordon.push(number),
        Process::Cordoned(since) if since < CORDON_SETTLES => {}
        Process::Cordoned(_) => plan.delete.push(number),
    }
    plan.leaving = victim;
    plan.said.insert(number, format!("takes no new work and {what}"));
}

/// The one that is to go next.
fn victim(slots: &[Slot], goal: &Goal) -> Option<Leaving> {
    let leaving = |slot: &&&Slot, why| Leaving { number: slot.number, why };
    let live: Vec<&Slot> = slots.iter().filter(|slot| slot.live().is_some()).collect();
    if live.len() > goal.runners as usize {
        let free = live.iter().filter(|slot| {
            !slot.is_busy() && (goal.hibernate || !slot.is_pinned()) && (!goal.needed.includes(slot) || is_broken(slot))
        });
        return free.max_by_key(|slot| eagerness(slot)).map(|slot| leaving(&slot, Why::TooMany));
    }
    if !goal.replace {
        return None;
    }
    let outdated = || live.iter().filter(|slot| slot.live().is_some_and(|pod| !pod.updated));
    if let Some(broken) = outdated().filter(|slot| is_broken(slot)).max_by_key(|slot| eagerness(slot)) {
        return Some(leaving(&broken, Why::Outdated));
    }
    // The last one that was replaced first has to show that it works. Pinned data is no obstacle: it lies on
    // claims, and the slot comes back to them.
    let settled = live.iter().all(|slot| slot.live().is_some_and(|pod| pod.ready || !pod.updated));
    let free = outdated().filter(|slot| settled && !slot.is_busy() && !goal.needed.includes(slot));
    let idle = free.max_by_key(|slot| eagerness(slot));
    idle.map(|slot| leaving(&slot, Why::Outdated))
}

/// Whoever is on its way already goes on; then those that do nothing; then the youngest.
fn eagerness(slot: &Slot) -> (bool, bool, bool, u32) {
    let ready = slot.live().is_some_and(|pod| pod.ready);
    (matches!(slot.process, Process::Cordoned(_)), is_broken(slot), !ready, slot.number)
}

/// Its container does not run, and something has to change before it will.
fn is_broken(slot: &Slot) -> bool {
    slot.live().is_some_and(|pod| match pod.health {
        Health::ImagePull(_) | Health::Unmakeable(_) | Health::Crashing(_) | Health::Unschedulable(_) => true,
        Health::Starting | Health::Running | Health::Ended(_) => false,
    })
}

fn is_stuck(pod: &SlotPod, now: Timestamp) -> bool {
    pod.ends_at
        .is_some_and(|ends_at| Duration::try_from(now.duration_since(ends_at)).is_ok_and(|late| late > STUCK_AFTER))
}

/// Until when those stay whom an open deadline needs.
const DUE: &str = "until the chain has the proofs of the open deadline";

/// Says why those stay that should not be there, or not be as they are.
fn explain(slots: &[Slot], goal: &Goal, plan: &mut Plan) {
    let live: Vec<&Slot> = slots.iter().filter(|slot| slot.live().is_some()).collect();
    let mut surplus = live.len().saturating_sub(goal.runners as usize);
    for slot in live.iter().rev() {
        let outdated = slot.live().is_some_and(|pod| !pod.updated);
        let reason = match (slot.is_busy(), slot.is_pinned()) {
            (true, _) => format!("until {} ends", kinds(slot)),
            (false, true) if !goal.hibernate => format!("because {}", holdings(slot)),
            (false, true | false) if goal.needed.includes(slot) => DUE.to_owned(),
            (false, true | false) => "until it is its turn".to_owned(),
        };
        let sentence = if surplus > 0 {
            surplus -= 1;
            format!("is one more than there are to be and stays {reason}")
        } else if outdated && goal.replace && slot.is_busy() {
            format!("was made from an older template and stays {reason}")
        } else if outdated && goal.replace && goal.needed.includes(slot) {
            format!("was made from an older template and stays {DUE}")
        } else if outdated && goal.replace {
            "was made from an older template and is replaced when it is its turn".to_owned()
        } else if outdated {
            "was made from an older template; delete its pod to replace it".to_owned()
        } else {
            continue;
        };
        plan.said.entry(slot.number).or_insert(sentence);
    }
    for slot in slots {
        match &slot.pod {
            Some(pod) if is_stuck(pod, goal.now) => {
                let node = pod.node.as_deref().unwrap_or("its node");
                let sentence =
                    format!("should have stopped by {}; look at node {node}", pod.ends_at.unwrap_or(goal.now));
                plan.said.insert(slot.number, sentence);
            }
            Some(pod) if pod.ends_at.is_some() => {
                plan.said.insert(slot.number, "stops".to_owned());
            }
            None if slot.is_pinned() && !plan.create.contains(&slot.number) => {
                plan.said.insert(slot.number, format!("has no pod, but {}", holdings(slot)));
            }
            Some(_) | None => {}
        }
    }
}

fn kinds(slot: &Slot) -> String {
    let mut kinds = slot.tasks.clone();
    kinds.dedup();
    kinds.join(" and ")
}

fn holdings(slot: &Slot) -> String {
    let counted = |count: u32, what: &str| match count {
        0 => None,
        1 => Some(format!("the {what} of 1 sector")),
        count => Some(format!("the {what} of {count} sectors")),
    };
    let parts = [counted(slot.pinned.in_flight, "only cache"), counted(slot.pinned.only_copies, "only long-term copy")];
    format!("{} lies on its volumes", parts.into_iter().flatten().collect::<Vec<_>>().join(" and "))
}

/// The rows of runners that have left. A row with data stays: its slot comes back.
fn forget(slots: &[Slot], plan: &mut Plan) {
    let gone = slots.iter().filter(|slot| {
        slot.pod.is_none()
            && slot.process == Process::Gone
            && !slot.is_busy()
            && !slot.is_pinned()
            && !plan.create.contains(&slot.number)
    });
    plan.forget.extend(gone.map(|slot| slot.number));
}

#[cfg(test)]
mod tests;
