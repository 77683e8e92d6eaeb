//! What a pool should be, from what it is: how many runners, and what to do with which slot. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::observe::Observed;
use super::plan::{Goal, Needed, Plan, plan};
use super::pod;
use super::slot::{Slot, slots};
use super::validate::{Judged, ValidPool, Wish};
use super::work::Work;
use crate::api::RunnerPool;
use crate::api::runner_pool::{Autoscaling, Profile};
use crate::autoscale::capacity::{Room, per_runner};
use crate::autoscale::kinds::enabled;
use crate::autoscale::{self, Blind, Bounds, Decision, Held, KindQueue, Memory};

/// The most runners that a pool may have; the schema says the same.
const MOST: u32 = 1000;

/// What is to be.
#[derive(Debug)]
pub struct Desired {
    pub slots: Vec<Slot>,
    /// How many runners the work asks for, and why; acted on where the pool has `autoscaling`.
    pub decision: Decision,
    /// How many runners there are to be.
    pub runners: u32,
    /// Hash of the present template; none while there is none.
    pub hash: Option<String>,
    /// None while nothing may be changed: [`Judged`] says why.
    pub plan: Option<Plan>,
    /// For the next decision.
    pub memory: Memory,
}

/// Decides. `memory` is what the last decision left.
pub fn desired(observed: &Observed, judged: &Judged, memory: Memory) -> Desired {
    let pool = observed.pool.name_any();
    let valid = judged.pool.as_ref().and_then(|pool| pool.as_ref().ok());
    let hash = valid.map(pod::template_hash);
    let slots = slots(&pool, &observed.pods, observed.work.as_deref(), hash.as_deref());
    let work = work(observed, valid, &slots);
    let autoscaling = observed.pool.spec.autoscaling.as_ref();
    let (decision, memory) =
        autoscale::decide(work.as_ref().map_err(|blind| *blind), bounds(autoscaling, valid), memory, observed.now);
    let runners = match (judged.wish, autoscaling) {
        (Wish::Hibernate, _) => 0,
        (Wish::Run { .. } | Wish::Pause, Some(_)) => decision.desired,
        (Wish::Run { .. } | Wish::Pause, None) => u32::try_from(observed.pool.spec.replicas).unwrap_or(0),
    };
    let may_act = judged.cluster.is_ok() && valid.is_some() && observed.work.is_some();
    let needed = valid.zip(observed.work.as_deref()).map_or(Needed::Nobody, |(pool, work)| needed(pool, work));
    let plan = goal(judged.wish, runners, needed, observed.now).filter(|_| may_act).map(|goal| plan(&slots, &goal));
    Desired { slots, decision, runners, hash, plan, memory }
}

/// The work of a pool, as far as it can be seen.
fn work(observed: &Observed, valid: Option<&ValidPool>, slots: &[Slot]) -> Result<autoscale::Work, Blind> {
    let work = observed.work.as_ref().ok_or(Blind::DatabaseAway)?;
    let valid = valid.ok_or(Blind::Unconfigured)?;
    let errands = if provides_for_requests(&observed.pool, &observed.siblings) { work.requests } else { 0 };
    Ok(autoscale::Work { queue: queue(valid, work, slots), held: held(slots), errands })
}

/// What the plan of a pool aims at; none when nothing is to be changed.
pub fn goal(wish: Wish, runners: u32, needed: Needed, now: Timestamp) -> Option<Goal> {
    match wish {
        Wish::Pause => None,
        Wish::Hibernate => Some(Goal { runners, hibernate: true, replace: false, needed, now }),
        Wish::Run { replace } => Some(Goal { runners, hibernate: false, replace, needed, now }),
    }
}

/// Whom the proofs that the chain still lacks need of this pool. The queue would not tell: between the proof and the opening of
/// its window there is no task.
pub fn needed(pool: &ValidPool, work: &Work) -> Needed {
    match (work.proofs_due, pool.configuration.effective.config.subsystems.enable_window_post) {
        (0, _) => Needed::Nobody,
        (_, false) => Needed::Holders,
        (_, true) => Needed::Everyone,
    }
}

/// Without `autoscaling` the number is only told, and the work alone decides it.
fn bounds(autoscaling: Option<&Autoscaling>, valid: Option<&ValidPool>) -> Bounds {
    // Windows and elections come to the notice of runners that follow the chain for them, and of nobody else: a pool
    // without any would wait for work that only it can find.
    let least = u32::from(valid.is_some_and(|pool| pool.configuration.effective.config.subsystems.proves()));
    let Some(Autoscaling { min, max, idle_seconds }) = autoscaling else {
        return Bounds { min: least, max: MOST, idle: Duration::ZERO };
    };
    Bounds {
        min: u32::try_from(*min).unwrap_or(0).max(least),
        max: u32::try_from(*max).unwrap_or(0),
        idle: Duration::from_secs(u64::try_from(*idle_seconds).unwrap_or(0)),
    }
}

fn held(slots: &[Slot]) -> Held {
    let count = |held: fn(&&Slot) -> bool| u32::try_from(slots.iter().filter(held).count()).unwrap_or(u32::MAX);
    Held { busy: count(|slot| slot.is_busy()), pinned: count(|slot| slot.is_pinned() && !slot.is_busy()) }
}

/// The queue of the kinds that another runner of this pool would shorten.
fn queue(pool: &ValidPool, work: &Work, slots: &[Slot]) -> Vec<KindQueue> {
    let gpus = pod::gpu(pool).map_or(0, |gpu| u32::try_from(gpu.count).unwrap_or(0));
    let room = Room::of(pool.spec.resources.as_ref(), gpus);
    let mut running: HashMap<&str, u32> = HashMap::new();
    for kind in slots.iter().flat_map(|slot| &slot.tasks) {
        *running.entry(kind).or_default() += 1;
    }
    let kinds = enabled(&pool.configuration.effective.config.subsystems);
    let helped = kinds.into_iter().filter(|kind| kind.anywhere);
    helped
        .map(|enabled| {
            let load = work.queue.iter().find(|load| load.kind == enabled.kind);
            KindQueue {
                kind: enabled.kind,
                waiting: load.map_or(0, |load| u32::try_from(load.waiting).unwrap_or(0)),
                oldest: load
                    .map_or(Duration::ZERO, |load| Duration::try_from_secs_f64(load.oldest_wait_s).unwrap_or_default()),
                running: running.get(enabled.kind).copied().unwrap_or(0),
                per_runner: per_runner(enabled.limit, enabled.cost.as_ref(), &room),
            }
        })
        .collect()
}

/// Whether this pool is the one that has to bring up a runner for a request, which any runner turns into sectors:
/// the first with `autoscaling`, those that seal before others, when no pool of the cluster keeps a runner anyway.
fn provides_for_requests(pool: &RunnerPool, siblings: &[Arc<RunnerPool>]) -> bool {
    let keeps_one = |pool: &RunnerPool| match &pool.spec.autoscaling {
        Some(autoscaling) => autoscaling.min > 0,
        None => pool.spec.replicas > 0,
    };
    if siblings.iter().any(|sibling| keeps_one(sibling)) {
        return false;
    }
    let first = siblings
        .iter()
        .filter(|sibling| sibling.spec.autoscaling.is_some())
        .min_by_key(|sibling| (sibling.spec.profile != Profile::Sealing, sibling.name_any()));
    first.is_some_and(|first| first.name_any() == pool.name_any())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rstest::rstest;
    use serde_json::{Value, json};

    use super::super::validate::judge;
    use super::*;
    use crate::api::CurioCluster;
    use crate::databases::Standing;

    fn pool(name: &str, spec: Value) -> RunnerPool {
        let mut spec = spec;
        spec["cluster"] = json!("curio");
        let pool = json!({
            "apiVersion": "curio.filecoin.io/v1alpha1", "kind": "RunnerPool",
            "metadata": {"name": name, "namespace": "ns", "uid": name}, "spec": spec,
        });
        serde_json::from_value(pool).expect("a pool")
    }

    fn scaled(profile: &str, min: i32) -> Value {
        json!({"profile": profile, "autoscaling": {"min": min, "max": 2}})
    }

    fn valid(spec: Value) -> ValidPool {
        let cluster: CurioCluster = serde_json::from_value(json!({
            "apiVersion": "curio.filecoin.io/v1alpha1", "kind": "CurioCluster",
            "metadata": {"name": "curio", "namespace": "ns", "uid": "c"},
            "spec": {"database": {"urlSecret": {"name": "db"}}, "chain": {"apiSecrets": [{"name": "lotus"}]}},
        }))
        .expect("a cluster");
        let judged = judge(&pool("p", spec), Some(&cluster), &Standing::Unknown, Some("runner:1"));
        judged.pool.expect("there is a cluster").expect("its configuration is right")
    }

    /// With none, nobody would follow the chain, and no window would ever come into the queue that asks for runners.
    #[rstest]
    #[case::proves("post", 0, 1)]
    #[case::more_are_asked_for("post", 2, 2)]
    #[case::does_not_prove("snark", 0, 0)]
    fn a_pool_that_proves_over_time_keeps_a_runner(#[case] profile: &str, #[case] min: i32, #[case] expected: u32) {
        let pool = valid(scaled(profile, min));
        assert_eq!(bounds(pool.spec.autoscaling.as_ref(), Some(&pool)).min, expected);
    }

    #[rstest]
    #[case::they_prove("post", 1, Needed::Everyone)]
    #[case::nothing_is_due("post", 0, Needed::Nobody)]
    #[case::others_prove_what_they_hold("sealing", 1, Needed::Holders)]
    fn who_stays_while_the_chain_lacks_a_proof(#[case] profile: &str, #[case] due: u64, #[case] expected: Needed) {
        let work = Work { machines: BTreeMap::new(), queue: Vec::new(), requests: 0, proofs_due: due };
        assert_eq!(needed(&valid(json!({"profile": profile})), &work), expected);
    }

    #[rstest]
    #[case::alone(vec![("snark", scaled("snark", 0))], "snark", true)]
    #[case::the_one_that_seals(vec![("a", scaled("snark", 0)), ("b", scaled("sealing", 0))], "b", true)]
    #[case::not_the_other(vec![("a", scaled("snark", 0)), ("b", scaled("sealing", 0))], "a", false)]
    #[case::a_runner_is_there(vec![("a", scaled("snark", 0)), ("b", json!({"profile": "sealing"}))], "a", false)]
    #[case::one_is_kept(vec![("a", scaled("snark", 0)), ("b", scaled("sealing", 1))], "a", false)]
    fn one_pool_provides_for_requests(#[case] pools: Vec<(&str, Value)>, #[case] asked: &str, #[case] expected: bool) {
        let siblings: Vec<Arc<RunnerPool>> = pools.into_iter().map(|(name, spec)| Arc::new(pool(name, spec))).collect();
        let asked = siblings.iter().find(|pool| pool.name_any() == asked).expect("it is one of them");
        assert_eq!(provides_for_requests(asked, &siblings), expected);
    }
}
