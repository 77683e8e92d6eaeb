//! What deadline work is given before all other work: room that is kept for it, and room that is made for it. Pure.

use std::time::Duration;

use curio_core::Resources;

use crate::task::{Class, Spec, TaskId};

/// The room that tasks of one kind leave alone: that of one task of each other deadline kind of which none runs, and
/// which the machine has room for at all. `others` are all other kinds of the machine with the number of tasks that run.
///
/// On a machine so small that a task of the kind does not fit beside the kept room even when nothing else runs, the
/// kept room shrinks as far as that one task needs: such a machine would never run it otherwise. Deadline work then
/// has to end that task or wait for it.
pub(crate) fn kept<'a>(
    capacity: &Resources,
    cost: &Resources,
    others: impl Iterator<Item = (&'a Spec, u32)>,
) -> Resources {
    let kept = others
        .filter(|(spec, running)| spec.class == Class::Deadline && *running == 0 && spec.max_running != Some(0))
        .filter(|(spec, _)| capacity.fits(&spec.cost, 1).is_ok())
        .fold(Resources::default(), |sum, (spec, _)| plus(&sum, &spec.cost));
    let spare = capacity.minus(cost, 1);
    Resources {
        cpu: kept.cpu.min(spare.cpu),
        ram_bytes: kept.ram_bytes.min(spare.ram_bytes),
        gpu_milli: kept.gpu_milli.min(spare.gpu_milli),
    }
}

/// What tasks of a kind may use: what is free, less the kept room.
///
/// The first task of a deadline kind uses what it needs of the kept room, too: work that has come goes before work that
/// may come. Otherwise a machine of middle size, whose other work leaves less than the sum of all kept rooms, would leave
/// that room empty and end or await the other work.
pub(crate) fn usable(free: &Resources, kept: &Resources, spec: &Spec, running: u32) -> Resources {
    let beside = free.minus(kept, 1);
    if is_first(spec, running) && beside.fits(&spec.cost, 1).is_err() && free.fits(&spec.cost, 1).is_ok() {
        return spec.cost;
    }
    beside
}

/// What must be free so that one more task of a kind may start: see [`usable`].
pub(crate) fn need(kept: &Resources, spec: &Spec, running: u32) -> Resources {
    if is_first(spec, running) { spec.cost } else { plus(&spec.cost, kept) }
}

fn is_first(spec: &Spec, running: u32) -> bool {
    spec.class == Class::Deadline && running == 0
}

/// A task that runs, as far as ending it is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Occupant {
    pub(crate) task: TaskId,
    pub(crate) cost: Resources,
    /// It may be ended for deadline work.
    pub(crate) preemptible: bool,
    /// It was asked to end already; what it uses is about to be free.
    pub(crate) leaving: bool,
    /// For how long it has been running, which is the work that ending it throws away.
    pub(crate) age: Duration,
}

/// Which tasks to end so that `need` fits: as few as a greedy choice finds, and among equals the youngest; nobody when
/// enough is free or about to be. None when ending all of them would not be enough. `occupants` is all that runs.
pub(crate) fn preempt(capacity: &Resources, need: &Resources, occupants: &[Occupant]) -> Option<Vec<TaskId>> {
    let staying = occupants.iter().filter(|occupant| !occupant.leaving);
    let mut free = staying.fold(*capacity, |free, occupant| free.minus(&occupant.cost, 1));
    let mut choice: Vec<&Occupant> =
        occupants.iter().filter(|occupant| occupant.preemptible && !occupant.leaving).collect();
    // The youngest first: of several that help equally, the first is taken.
    choice.sort_by_key(|occupant| (occupant.age, occupant.task));
    let mut victims: Vec<&Occupant> = Vec::new();
    while missing(&free, need) > 0.0 {
        let best = choice
            .iter()
            .enumerate()
            .map(|(index, occupant)| (index, missing(&plus(&free, &occupant.cost), need)))
            .min_by(|(_, left), (_, right)| left.total_cmp(right));
        // None when no other is left, or none of the rest has anything of what is missing.
        let (index, _) = best.filter(|(_, left)| *left < missing(&free, need))?;
        let victim = choice.remove(index);
        free = plus(&free, &victim.cost);
        victims.push(victim);
    }
    // A later victim may have made an earlier one needless; the oldest is spared first.
    victims.sort_by_key(|victim| std::cmp::Reverse((victim.age, victim.task)));
    let mut needed = Vec::new();
    for victim in victims {
        let without = free.minus(&victim.cost, 1);
        if missing(&without, need) > 0.0 {
            needed.push(victim.task);
        } else {
            free = without;
        }
    }
    Some(needed)
}

/// How much of `need` is missing in `free`: the sum of the missing shares of each resource, 0 when it fits.
fn missing(free: &Resources, need: &Resources) -> f64 {
    // Shares are compared, so that a core and a byte weigh by what is asked for. Bytes beyond 2^53 lose nothing that
    // matters.
    let share = |have: u64, want: u64| if want > have { (want - have) as f64 / want as f64 } else { 0.0 };
    share(free.cpu.into(), need.cpu.into())
        + share(free.ram_bytes, need.ram_bytes)
        + share(free.gpu_milli.into(), need.gpu_milli.into())
}

/// Both together.
pub(crate) fn plus(one: &Resources, other: &Resources) -> Resources {
    Resources {
        cpu: one.cpu.saturating_add(other.cpu),
        ram_bytes: one.ram_bytes.saturating_add(other.ram_bytes),
        gpu_milli: one.gpu_milli.saturating_add(other.gpu_milli),
    }
}

#[cfg(test)]
mod tests {
    use curio_core::resources::GIB;
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    const fn resources(cpu: u32, ram_gib: u64, gpu_milli: u32) -> Resources {
        Resources { cpu, ram_bytes: ram_gib * GIB, gpu_milli }
    }

    const MACHINE: Resources = resources(16, 256, 2000);

    fn deadline(cost: Resources) -> Spec {
        Spec { cost, class: Class::Deadline, ..Spec::default() }
    }

    const SDR: Resources = resources(4, 64, 0);

    #[test]
    fn room_is_kept_for_one_task_of_each_deadline_kind_of_which_none_runs() {
        let (window, winning) = (deadline(resources(2, 32, 1000)), deadline(resources(1, 8, 500)));
        let normal = Spec { cost: SDR, ..Spec::default() };
        let of = |counts: [u32; 3]| kept(&MACHINE, &SDR, [&window, &winning, &normal].into_iter().zip(counts));
        assert_eq!(of([0, 0, 0]), resources(3, 40, 1500));
        assert_eq!(of([1, 0, 5]), resources(1, 8, 500));
        assert_eq!(of([2, 1, 0]), resources(0, 0, 0));
        let off = Spec { max_running: Some(0), ..window };
        assert_eq!(kept(&MACHINE, &SDR, [(&off, 0), (&normal, 1)].into_iter()), Resources::default());
    }

    #[test]
    fn no_room_is_kept_for_what_would_never_fit() {
        let (window, winning) = (deadline(resources(2, 32, 1000)), deadline(resources(1, 8, 0)));
        let without_device = Resources { gpu_milli: 0, ..MACHINE };
        assert_eq!(kept(&without_device, &SDR, [(&window, 0), (&winning, 0)].into_iter()), resources(1, 8, 0));
    }

    #[rstest]
    #[case::all_of_it(resources(4, 64, 0), resources(3, 40, 1500))]
    #[case::nothing_beside_a_task_that_needs_all_cores(resources(16, 64, 0), resources(0, 40, 1500))]
    #[case::what_is_left_beside_a_large_task(resources(14, 64, 1000), resources(2, 40, 1000))]
    fn a_small_machine_keeps_what_it_can(#[case] cost: Resources, #[case] expected: Resources) {
        let (window, winning) = (deadline(resources(2, 32, 1000)), deadline(resources(1, 8, 500)));
        assert_eq!(kept(&MACHINE, &cost, [(&window, 0), (&winning, 0)].into_iter()), expected);
    }

    #[rstest]
    #[case::beside_the_kept_room(resources(4, 48, 2000), 0, resources(3, 40, 1500))]
    #[case::the_first_takes_what_is_there(resources(2, 36, 1000), 0, resources(2, 32, 1000))]
    #[case::another_leaves_it(resources(2, 36, 1000), 1, resources(1, 28, 500))]
    #[case::nothing_where_there_is_too_little(resources(2, 31, 1000), 0, resources(1, 23, 500))]
    fn the_first_deadline_task_of_a_kind_may_use_room_that_is_kept_for_another(
        #[case] free: Resources,
        #[case] running: u32,
        #[case] expected: Resources,
    ) {
        let window = deadline(resources(2, 32, 1000));
        let kept = resources(1, 8, 500);
        let usable = usable(&free, &kept, &window, running);
        assert_eq!(usable, expected);
        let is_enough = free.fits(&need(&kept, &window, running), 1).is_ok();
        assert_eq!(usable.fits(&window.cost, 1).is_ok(), is_enough, "what is made free for it must do");
    }

    #[test]
    fn other_work_never_uses_kept_room() {
        let sealing = Spec { cost: SDR, ..Spec::default() };
        let kept = resources(1, 8, 500);
        assert_eq!(usable(&resources(4, 64, 0), &kept, &sealing, 0), resources(3, 56, 0));
    }

    fn occupant(task: i64, cost: Resources, minutes: u64) -> Occupant {
        let age = Duration::from_secs(60 * minutes);
        Occupant { task: TaskId(task), cost, preemptible: true, leaving: false, age }
    }

    const NEED: Resources = resources(2, 32, 1000);

    #[rstest]
    #[case::enough_is_free(resources(2, 32, 1000), vec![occupant(1, MACHINE, 5)], Some(vec![]))]
    #[case::the_youngest_of_equals(
        resources(0, 256, 2000),
        vec![occupant(1, resources(4, 64, 0), 50), occupant(2, resources(4, 64, 0), 5), occupant(3, resources(4, 64, 0), 30)],
        Some(vec![2])
    )]
    #[case::one_old_large_rather_than_two_young_small(
        resources(0, 256, 2000),
        vec![occupant(1, resources(1, 1, 0), 1), occupant(2, resources(1, 1, 0), 2), occupant(3, resources(2, 1, 0), 500)],
        Some(vec![3])
    )]
    #[case::two_when_one_is_not_enough(
        resources(0, 256, 2000),
        vec![occupant(1, resources(1, 1, 0), 1), occupant(2, resources(1, 1, 0), 2), occupant(3, resources(1, 1, 0), 3)],
        Some(vec![2, 1])
    )]
    #[case::only_what_has_what_is_missing(
        resources(8, 128, 0),
        vec![occupant(1, resources(8, 64, 0), 1), occupant(2, resources(1, 128, 1000), 90)],
        Some(vec![2])
    )]
    #[case::nobody_in_vain(
        resources(0, 0, 0),
        vec![occupant(1, resources(8, 64, 0), 1), occupant(2, resources(8, 64, 0), 90)],
        None
    )]
    #[case::nobody_when_room_is_being_left(
        resources(0, 256, 2000),
        vec![Occupant { leaving: true, ..occupant(1, resources(4, 64, 0), 50) }, occupant(2, resources(4, 64, 0), 5)],
        Some(vec![])
    )]
    #[case::nobody_who_must_not_be_ended(
        resources(0, 256, 2000),
        vec![Occupant { preemptible: false, ..occupant(1, resources(4, 64, 0), 50) }],
        None
    )]
    #[case::the_youngest_pair_that_is_enough(
        resources(0, 0, 2000),
        vec![occupant(1, resources(2, 16, 0), 90), occupant(2, resources(1, 32, 0), 1), occupant(3, resources(1, 16, 0), 2)],
        Some(vec![3, 2])
    )]
    fn room_is_made_for_deadline_work(
        #[case] free: Resources,
        #[case] occupants: Vec<Occupant>,
        #[case] expected: Option<Vec<i64>>,
    ) {
        let victims = preempt(&with_all(&free, &occupants), &NEED, &occupants);
        assert_eq!(victims.map(|tasks| tasks.iter().map(|task| task.0).collect()), expected);
    }

    /// The capacity of a machine on which this is free beside its tasks.
    fn with_all(free: &Resources, occupants: &[Occupant]) -> Resources {
        occupants.iter().fold(*free, |sum, occupant| plus(&sum, &occupant.cost))
    }

    #[test]
    fn room_that_is_being_left_is_given_away_once() {
        let machine = resources(8, 64, 0);
        let leaving = Occupant { leaving: true, ..occupant(1, machine, 50) };
        let proof = |task| Occupant { preemptible: false, ..occupant(task, resources(4, 32, 0), 0) };
        let need = resources(4, 32, 0);
        assert_eq!(preempt(&machine, &need, &[leaving, proof(2)]), Some(Vec::new()));
        assert_eq!(preempt(&machine, &need, &[leaving, proof(2), proof(3)]), None);
    }

    fn any_resources() -> impl Strategy<Value = Resources> {
        (0u32..8, 0u64..8, 0u32..3).prop_map(|(cpu, ram, gpu)| resources(cpu, ram, gpu * 500))
    }

    proptest! {
        #[test]
        fn every_victim_is_needed_and_together_they_are_enough(
            free in any_resources(),
            need in any_resources(),
            costs in proptest::collection::vec((any_resources(), any::<bool>(), any::<bool>(), 0u64..100), 0..10),
        ) {
            let occupants: Vec<Occupant> = costs
                .into_iter()
                .zip(1..)
                .map(|((cost, preemptible, leaving, minutes), task)| Occupant {
                    preemptible,
                    leaving,
                    ..occupant(task, cost, minutes)
                })
                .collect();
            let all = occupants.iter().filter(|o| o.leaving || o.preemptible);
            let all = all.fold(free, |sum, o| plus(&sum, &o.cost));
            let victims = preempt(&with_all(&free, &occupants), &need, &occupants);
            prop_assert_eq!(victims.is_some(), all.fits(&need, 1).is_ok());
            if let Some(victims) = victims {
                let with = |spared: Option<TaskId>| {
                    let gone = |o: &&Occupant| o.leaving || (victims.contains(&o.task) && Some(o.task) != spared);
                    occupants.iter().filter(gone).fold(free, |sum, o| plus(&sum, &o.cost))
                };
                prop_assert!(with(None).fits(&need, 1).is_ok());
                for victim in &victims {
                    let occupant = occupants.iter().find(|o| o.task == *victim).expect("a victim runs");
                    prop_assert!(occupant.preemptible && !occupant.leaving);
                    prop_assert!(with(Some(*victim)).fits(&need, 1).is_err(), "{victim} was ended needlessly");
                }
            }
        }
    }
}
