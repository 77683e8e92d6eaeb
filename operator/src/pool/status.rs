//! What a pool says about itself: numbers, conditions, one line per runner. Pure.

use kube::ResourceExt;

use super::apply::Carried;
use super::desired::Desired;
use super::observe::Observed;
use super::slot::{Health, Slot};
use super::validate::{Judged, Wish};
use crate::api::RunnerPoolStatus;
use crate::api::conditions::{pool as conditions, reason};
use crate::api::runner_pool::SlotStatus;
use crate::apply::labels;
use crate::autoscale::Blind;
use crate::conditions::{Said, merge};

/// The status from what was seen, decided and done.
pub fn status(observed: &Observed, judged: &Judged, desired: &Desired, carried: &Carried) -> RunnerPoolStatus {
    let pool = &observed.pool;
    let before = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let said = said(observed, judged, desired, carried);
    let live = || desired.slots.iter().filter(|slot| slot.live().is_some());
    let count = |holds: fn(&&Slot) -> bool| i32::try_from(live().filter(holds).count()).unwrap_or(i32::MAX);
    RunnerPoolStatus {
        observed_generation: pool.metadata.generation,
        conditions: merge(before, said, pool.metadata.generation, observed.now),
        replicas: count(|_| true),
        ready_replicas: count(|slot| slot.live().is_some_and(|pod| pod.ready)),
        busy_replicas: count(|slot| slot.is_busy()),
        pinned_replicas: count(|slot| slot.is_pinned()),
        updated_replicas: count(|slot| slot.live().is_some_and(|pod| pod.updated)),
        desired_runners: i32::try_from(desired.runners).unwrap_or(i32::MAX),
        desired_reason: desired_reason(observed, judged, desired),
        selector: labels::selector(&labels::of_pool(&pool.spec.cluster, &pool.name_any())),
        slots: desired.slots.iter().filter(|slot| is_worth_a_line(slot)).map(|slot| line(slot, desired)).collect(),
    }
}

fn desired_reason(observed: &Observed, judged: &Judged, desired: &Desired) -> String {
    let decision = &desired.decision;
    match (judged.wish, &observed.pool.spec.autoscaling) {
        (Wish::Hibernate, _) => "the cluster is hibernated".to_owned(),
        (Wish::Run { .. } | Wish::Pause, Some(_)) => decision.reason.clone(),
        (Wish::Run { .. } | Wish::Pause, None) if decision.blind.is_some() => "replicas says so".to_owned(),
        (Wish::Run { .. } | Wish::Pause, None) => {
            format!("replicas says so; the work would ask for {}: {}", decision.desired, decision.reason)
        }
    }
}

/// A slot without a pod is worth one only for what it holds or has to do.
fn is_worth_a_line(slot: &Slot) -> bool {
    slot.pod.is_some() || slot.is_busy() || slot.is_pinned()
}

fn line(slot: &Slot, desired: &Desired) -> SlotStatus {
    let pod = slot.pod.as_ref();
    let plan = desired.plan.as_ref();
    let said = plan.and_then(|plan| plan.said.get(&slot.number)).cloned();
    let complaint = || pod.and_then(|pod| pod.health.complaint()).map(str::to_owned);
    SlotStatus {
        name: slot.name.clone(),
        node: pod.and_then(|pod| pod.node.clone()),
        phase: phase(slot).to_owned(),
        busy: slot.is_busy(),
        pinned: slot.is_pinned(),
        tasks: slot.tasks.clone(),
        updated: pod.is_some_and(|pod| pod.updated),
        leaving: plan.is_some_and(|plan| plan.leaving.is_some_and(|leaving| leaving.number == slot.number))
            || pod.is_some_and(|pod| pod.ends_at.is_some()),
        message: said.or_else(complaint),
    }
}

fn phase(slot: &Slot) -> &'static str {
    match &slot.pod {
        None => "Absent",
        Some(pod) if pod.ends_at.is_some() => "Stopping",
        Some(pod) if pod.ready => "Ready",
        Some(pod) => pod.health.word(),
    }
}

fn said(observed: &Observed, judged: &Judged, desired: &Desired, carried: &Carried) -> Vec<Said> {
    let cluster = &observed.pool.spec.cluster;
    let mut said = vec![ready(judged, desired, carried)];
    said.push(match &judged.cluster {
        Ok(()) => Said::yes(conditions::CLUSTER_READY, reason::OK, format!("CurioCluster {cluster} is ready")),
        Err(trouble) => Said::no(conditions::CLUSTER_READY, trouble.reason(), trouble.to_string()),
    });
    said.extend(layers_valid(observed, judged, carried));
    said.push(images_pulled(desired));
    said.push(scheduled(desired));
    said.push(autoscaling(observed, judged, desired));
    said.push(up_to_date(judged, desired));
    said
}

fn ready(judged: &Judged, desired: &Desired, carried: &Carried) -> Said {
    const TYPE: &str = conditions::READY;
    if let Err(trouble) = &judged.cluster {
        return Said::no(TYPE, trouble.reason(), trouble.to_string());
    }
    if let Some(Err(trouble)) = &judged.pool {
        return Said::no(TYPE, trouble.reason(), trouble.to_string());
    }
    if let Some((reason, message)) = worst(&desired.slots) {
        return Said::no(TYPE, reason, message);
    }
    if !carried.refused.is_empty() {
        return Said::no(TYPE, reason::RUNNERS_NOT_READY, carried.refused.join("; "));
    }
    let live: Vec<_> = desired.slots.iter().filter_map(Slot::live).collect();
    let ready = live.iter().filter(|pod| pod.ready).count();
    let wanted = desired.runners as usize;
    let message = format!("{ready} of {wanted} runners are ready");
    match judged.wish {
        Wish::Pause => Said::unknown(TYPE, reason::PAUSED, format!("{message}; the cluster is paused")),
        Wish::Hibernate if live.is_empty() => Said::yes(TYPE, reason::HIBERNATED, "no runner is left"),
        Wish::Hibernate => {
            Said::no(TYPE, reason::HIBERNATED, format!("{} left; each goes when it is idle", counted(live.len())))
        }
        Wish::Run { .. } if ready >= wanted => Said::yes(TYPE, reason::OK, message),
        Wish::Run { .. } if live.iter().any(|pod| pod.health == Health::Starting) || live.len() < wanted => {
            Said::no(TYPE, reason::PROGRESSING, message)
        }
        Wish::Run { .. } => Said::no(TYPE, reason::RUNNERS_NOT_READY, format!("{message}; their /readyz says why")),
    }
}

/// What keeps a runner from running, the first by number, in the words of whoever found it.
fn worst(slots: &[Slot]) -> Option<(&'static str, String)> {
    slots.iter().find_map(|slot| {
        let health = &slot.live()?.health;
        let reason = match health {
            Health::Starting | Health::Running | Health::Ended(_) => return None,
            Health::ImagePull(_) => reason::IMAGE_PULL,
            Health::Unschedulable(_) => reason::UNSCHEDULABLE,
            Health::Crashing(_) => reason::CRASHING,
            // `secret "x" not found`, `couldn't find key k in Secret ns/x`; a ConfigMap is told likewise.
            Health::Unmakeable(words) if words.to_ascii_lowercase().contains("secret") => reason::SECRET_MISSING,
            Health::Unmakeable(_) => reason::RUNNERS_NOT_READY,
        };
        Some((reason, format!("{}: {}", slot.name, health.complaint().unwrap_or_default())))
    })
}

/// Not said while there is no cluster whose layers could be looked at.
fn layers_valid(observed: &Observed, judged: &Judged, carried: &Carried) -> Option<Said> {
    const TYPE: &str = conditions::LAYERS_VALID;
    let valid = match judged.pool.as_ref()? {
        Ok(valid) => valid,
        Err(trouble) => return Some(Said::no(TYPE, trouble.reason(), trouble.to_string())),
    };
    let title = &valid.configuration.title;
    let said = match &carried.edited_layer {
        Some(_) => Said::no(
            TYPE,
            reason::EDITED_BY_HAND,
            format!(
                "layer '{title}' was edited in the database and stays so; to overwrite it: kubectl annotate runnerpool {} {}={title}",
                valid.name,
                super::apply::OVERWRITE_LAYER
            ),
        ),
        None if observed.work.is_none() => Said::unknown(
            TYPE,
            reason::DATABASE_AWAY,
            format!("layer '{title}' is right; the database has yet to be asked"),
        ),
        None => Said::yes(TYPE, reason::OK, format!("runners read {}", valid.configuration.names.join(", "))),
    };
    Some(said)
}

fn images_pulled(desired: &Desired) -> Said {
    const TYPE: &str = conditions::IMAGES_PULLED;
    let missing = |health: &Health| matches!(health, Health::ImagePull(_));
    match complaints(&desired.slots, missing) {
        Some(words) => Said::no(TYPE, reason::IMAGE_PULL, words),
        None if any_is_without(desired) => Said::unknown(TYPE, reason::PROGRESSING, "a runner is not there yet"),
        None => Said::yes(TYPE, reason::OK, "every runner has its image"),
    }
}

fn scheduled(desired: &Desired) -> Said {
    const TYPE: &str = conditions::SCHEDULED;
    let homeless = |health: &Health| matches!(health, Health::Unschedulable(_));
    match complaints(&desired.slots, homeless) {
        Some(words) => Said::no(TYPE, reason::UNSCHEDULABLE, words),
        None if desired.slots.iter().filter_map(Slot::live).any(|pod| pod.node.is_none()) => {
            Said::unknown(TYPE, reason::PROGRESSING, "the scheduler looks for a node")
        }
        None => Said::yes(TYPE, reason::OK, "every runner has a node"),
    }
}

/// Whether there is a runner whose image nobody has asked for yet.
fn any_is_without(desired: &Desired) -> bool {
    let waits = |health: &Health| matches!(health, Health::Starting | Health::Unschedulable(_));
    desired.slots.iter().filter_map(Slot::live).any(|pod| waits(&pod.health))
}

/// Complaints of one sort, with the runners that have them.
fn complaints(slots: &[Slot], sort: fn(&Health) -> bool) -> Option<String> {
    let found: Vec<String> = slots
        .iter()
        .filter_map(|slot| Some((slot, slot.live().filter(|pod| sort(&pod.health))?)))
        .map(|(slot, pod)| format!("{}: {}", slot.name, pod.health.complaint().unwrap_or_default()))
        .collect();
    (!found.is_empty()).then(|| found.join("; "))
}

fn autoscaling(observed: &Observed, judged: &Judged, desired: &Desired) -> Said {
    const TYPE: &str = conditions::AUTOSCALING;
    let decision = &desired.decision;
    if observed.pool.spec.autoscaling.is_none() {
        return Said::no(TYPE, reason::DISABLED, "spec.autoscaling is not set; spec.replicas decides");
    }
    match (judged.wish, decision.blind) {
        (Wish::Hibernate, _) => Said::no(TYPE, reason::HIBERNATED, "the cluster is hibernated"),
        (Wish::Pause | Wish::Run { .. }, Some(Blind::DatabaseAway)) => {
            Said::unknown(TYPE, reason::DATABASE_AWAY, decision.reason.clone())
        }
        (Wish::Pause | Wish::Run { .. }, Some(Blind::Unconfigured)) => {
            Said::unknown(TYPE, reason::INVALID_VALUE, decision.reason.clone())
        }
        (Wish::Pause | Wish::Run { .. }, None) => {
            Said::yes(TYPE, reason::ACTIVE, "the waiting work decides; status.desiredReason has its words")
        }
    }
}

fn up_to_date(judged: &Judged, desired: &Desired) -> Said {
    const TYPE: &str = conditions::UP_TO_DATE;
    let older = desired.slots.iter().filter_map(Slot::live).filter(|pod| !pod.updated).count();
    match judged.wish {
        _ if older == 0 => Said::yes(TYPE, reason::OK, "every runner was made from the present template"),
        Wish::Run { replace: false } => Said::no(
            TYPE,
            reason::MANUAL,
            format!("{} of an older template, until somebody deletes their pods", counted(older)),
        ),
        Wish::Run { replace: true } | Wish::Hibernate | Wish::Pause => Said::no(
            TYPE,
            reason::REPLACING,
            format!(
                "{older} runners were made from an older template and are replaced one after another, each when it is idle"
            ),
        ),
    }
}

fn counted(runners: usize) -> String {
    if runners == 1 { "1 runner".to_owned() } else { format!("{runners} runners") }
}

#[cfg(test)]
mod tests;
