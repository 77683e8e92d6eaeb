//! Tables, and the promises of the plan as properties over a simulated pool.

use curio_pipeline::pinned::Pinned;
use proptest::prelude::*;
use rstest::rstest;

use super::*;

const SETTLED: Process = Process::Cordoned(CORDON_SETTLES);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a small number")
}

fn goal(runners: u32) -> Goal {
    Goal { runners, hibernate: false, replace: true, needed: Needed::Nobody, now: at(1000) }
}

/// An idle runner that is ready and of the present template.
fn slot(number: u32) -> Slot {
    let pod = SlotPod {
        uid: format!("uid-{number}"),
        node: Some("node-1".to_owned()),
        health: Health::Running,
        ready: true,
        updated: true,
        labelled_busy: false,
        ends_at: None,
    };
    Slot {
        number,
        name: format!("p-{number}"),
        pod: Some(pod),
        tasks: Vec::new(),
        pinned: Pinned::default(),
        process: Process::Working,
    }
}

fn busy(slot: Slot) -> Slot {
    Slot { tasks: vec!["SDR".to_owned()], ..slot }
}

fn pinned(slot: Slot) -> Slot {
    Slot { pinned: Pinned { in_flight: 1, only_copies: 0 }, ..slot }
}

fn with(slot: Slot, process: Process) -> Slot {
    Slot { process, ..slot }
}

fn pod(mut slot: Slot, change: impl FnOnce(&mut SlotPod)) -> Slot {
    change(slot.pod.as_mut().expect("the slot has a pod"));
    slot
}

fn without_pod(slot: Slot) -> Slot {
    Slot { pod: None, ..slot }
}

fn old(slot: Slot) -> Slot {
    pod(slot, |pod| pod.updated = false)
}

fn broken(slot: Slot) -> Slot {
    pod(slot, |pod| {
        pod.health = Health::ImagePull("no such image".to_owned());
        pod.ready = false;
    })
}

fn stopping(slot: Slot) -> Slot {
    pod(slot, |pod| pod.ends_at = Some(at(1060)))
}

#[rstest]
#[case::from_nothing(vec![], 3, vec![0, 1, 2])]
#[case::the_smallest_free_numbers(vec![slot(1)], 3, vec![0, 2])]
#[case::a_slot_with_data_comes_first(vec![slot(0), pinned(without_pod(with(slot(4), Process::Gone)))], 2, vec![4])]
#[case::a_slot_with_data_comes_whatever_the_number(vec![pinned(without_pod(with(slot(4), Process::Gone)))], 0, vec![4])]
#[case::a_name_is_used_again_only_when_it_is_free(vec![stopping(slot(0))], 1, vec![])]
#[case::a_pod_that_is_stuck_is_no_runner(vec![pod(slot(0), |pod| pod.ends_at = Some(at(100)))], 1, vec![1])]
fn missing_runners_come(#[case] slots: Vec<Slot>, #[case] runners: u32, #[case] expected: Vec<u32>) {
    assert_eq!(plan(&slots, &goal(runners)).create, expected);
}

#[test]
fn the_idle_one_with_the_highest_number_is_told_first_and_deleted_later() {
    let slots = [slot(0), slot(1), slot(2)];
    let told = plan(&slots, &goal(1));
    assert_eq!((told.cordon, told.delete), (vec![2], vec![]));
    let waiting = [slot(0), slot(1), with(slot(2), Process::Cordoned(Duration::from_millis(200)))];
    assert!(plan(&waiting, &goal(1)).delete.is_empty(), "a claim may be under way");
    let idle = [slot(0), slot(1), with(slot(2), SETTLED)];
    let gone = plan(&idle, &goal(1));
    assert_eq!(
        (gone.cordon, gone.delete, gone.leaving),
        (vec![], vec![2], Some(Leaving { number: 2, why: Why::TooMany }))
    );
}

#[test]
fn only_one_leaves_at_a_time() {
    let plan = plan(&[slot(0), slot(1), stopping(slot(2))], &goal(0));
    assert_eq!((plan.cordon, plan.delete), (vec![], vec![]));
    assert_eq!(plan.said[&1], "leaves once the one before it has gone");
}

#[test]
fn busy_and_pinned_ones_stay_and_say_why() {
    let plan = plan(&[slot(0), pinned(slot(1)), busy(slot(2))], &goal(0));
    assert_eq!(plan.cordon, vec![0], "the idle one goes, although its number is the lowest");
    assert_eq!(
        plan.said[&1],
        "is one more than there are to be and stays because the only cache of 1 sector lies on its volumes"
    );
    assert_eq!(plan.said[&2], "is one more than there are to be and stays until SDR ends");
}

#[test]
fn one_that_got_work_just_before_the_cordon_may_go_on() {
    let plan = plan(&[slot(0), busy(with(slot(1), SETTLED))], &goal(1));
    assert_eq!((plan.uncordon, plan.cordon, plan.delete), (vec![1], vec![0], vec![]));
}

#[test]
fn one_that_is_needed_again_may_go_on() {
    let plan = plan(&[slot(0), with(slot(1), SETTLED)], &goal(2));
    assert_eq!((plan.uncordon, plan.delete, plan.leaving), (vec![1], vec![], None));
}

#[rstest]
#[case::no_image(broken(with(slot(0), Process::Unknown)))]
#[case::never_registered(with(slot(0), Process::Unknown))]
#[case::stopped(with(slot(0), Process::Gone))]
fn one_that_cannot_have_work_goes_at_once(#[case] slot: Slot) {
    assert_eq!(plan(&[slot], &goal(0)).delete, vec![0]);
}

#[test]
fn an_older_template_is_replaced_one_after_another_when_idle() {
    let slots = [old(slot(0)), busy(old(slot(1))), old(slot(2))];
    let first = plan(&slots, &goal(3));
    assert_eq!((first.cordon, first.create), (vec![2], vec![]));
    let next = [old(slot(0)), busy(old(slot(1))), pod(slot(2), |pod| pod.ready = false)];
    let waits = plan(&next, &goal(3));
    assert_eq!((waits.cordon, waits.delete), (vec![], vec![]), "the new one has to be ready first");
    let ready = [old(slot(0)), busy(old(slot(1))), slot(2)];
    assert_eq!(plan(&ready, &goal(3)).cordon, vec![0]);
    assert_eq!(plan(&ready, &goal(3)).said[&1], "was made from an older template and stays until SDR ends");
}

#[test]
fn a_pinned_one_is_replaced_because_it_comes_back_to_its_data() {
    assert_eq!(plan(&[pinned(old(with(slot(0), SETTLED)))], &goal(1)).delete, vec![0]);
}

#[test]
fn a_broken_one_of_an_older_template_is_replaced_at_once() {
    let plan = plan(&[broken(old(busy(slot(0)))), pod(slot(1), |pod| pod.ready = false)], &goal(2));
    assert_eq!(plan.delete, vec![0]);
}

#[test]
fn a_broken_one_of_the_present_template_is_left_to_the_kubelet() {
    let plan = plan(&[broken(slot(0))], &goal(1));
    assert_eq!((plan.delete, plan.said[&0].as_str()), (vec![], "no such image"));
}

#[test]
fn without_replacing_an_older_template_is_only_reported() {
    let plan = plan(&[old(slot(0))], &Goal { replace: false, ..goal(1) });
    assert_eq!((plan.cordon, plan.delete), (vec![], vec![]));
    assert_eq!(plan.said[&0], "was made from an older template; delete its pod to replace it");
}

#[test]
fn a_pod_that_has_ended_makes_room_for_its_successor() {
    let ended = pod(slot(0), |pod| pod.health = Health::Ended("Evicted".to_owned()));
    let plan = plan(&[ended], &goal(1));
    assert_eq!((plan.delete, plan.create), (vec![0], vec![]));
}

#[test]
fn a_runner_that_has_left_is_forgotten() {
    let left = without_pod(with(slot(3), Process::Gone));
    assert_eq!(plan(std::slice::from_ref(&left), &goal(0)).forget, vec![3]);
    let stays = plan(&[pinned(left)], &Goal { hibernate: true, ..goal(0) });
    assert!(stays.forget.is_empty(), "its data would be lost");
}

#[test]
fn nobody_leaves_a_pool_that_has_proofs_before_it() {
    let due = |runners| Goal { needed: Needed::Everyone, ..goal(runners) };
    let surplus = plan(&[slot(0), slot(1)], &due(1));
    assert_eq!((surplus.cordon, surplus.leaving), (vec![], None));
    assert!(surplus.said[&1].contains("until the chain has the proofs of the open deadline"), "{:?}", surplus.said);
    let older = plan(&[old(slot(0))], &due(1));
    assert_eq!(older.cordon, Vec::<u32>::new());
    assert!(older.said[&0].contains("stays until the chain has the proofs"), "{:?}", older.said);
    // One that cannot work is of no use to them.
    assert_eq!(plan(&[broken(slot(0)), slot(1)], &due(1)).delete, vec![0]);
}

#[test]
fn a_runner_that_alone_holds_sectors_stays_while_they_are_to_be_proven() {
    let storing = |slot: Slot| Slot { pinned: Pinned { in_flight: 0, only_copies: 1 }, ..slot };
    let holders = |goal: Goal| Goal { needed: Needed::Holders, ..goal };
    let upgrade = plan(&[old(storing(slot(0))), old(slot(1))], &holders(goal(2)));
    assert_eq!(upgrade.cordon, vec![1], "one that holds none is replaced");
    assert!(upgrade.said[&0].contains("stays until the chain has the proofs"), "{:?}", upgrade.said);
    let hibernation = plan(&[storing(slot(0)), slot(1)], &holders(Goal { hibernate: true, ..goal(0) }));
    assert_eq!(hibernation.cordon, vec![1]);
    assert!(hibernation.said[&0].contains("stays until the chain has the proofs"), "{:?}", hibernation.said);
}

#[test]
fn in_hibernation_pinned_data_rests_on_its_claims_and_work_ends_first() {
    let hibernation = Goal { hibernate: true, ..goal(0) };
    let plan_of = |slot: Slot| plan(&[slot], &hibernation);
    assert_eq!(plan_of(pinned(slot(0))).cordon, vec![0]);
    assert_eq!(plan_of(with(pinned(slot(0)), SETTLED)).delete, vec![0]);
    let working = plan_of(busy(pinned(slot(0))));
    assert_eq!((working.cordon, working.delete), (vec![], vec![]));
    let asleep = plan_of(without_pod(with(pinned(slot(0)), Process::Gone)));
    assert_eq!((asleep.create, asleep.forget), (vec![], vec![]));
    let awake = plan(&[without_pod(with(pinned(slot(0)), Process::Gone))], &goal(1));
    assert_eq!(awake.create, vec![0]);
}

fn any_slot(number: u32) -> impl Strategy<Value = Slot> {
    let process = prop_oneof![
        3 => Just(Process::Working),
        1 => Just(Process::Unknown),
        1 => Just(Process::Gone),
        1 => Just(SETTLED),
        1 => Just(Process::Cordoned(Duration::from_millis(1))),
    ];
    let health = prop_oneof![
        5 => Just(Health::Running),
        1 => Just(Health::Starting),
        1 => Just(Health::Crashing("exit code 1".to_owned())),
        1 => Just(Health::Ended("Evicted".to_owned())),
    ];
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (process, health, flags).prop_map(move |(process, health, (has_pod, works, holds, updated, ready))| {
        let base = pod(slot(number), |pod| {
            pod.health = health;
            pod.updated = updated;
            pod.ready = ready;
        });
        let base = with(if has_pod { base } else { without_pod(base) }, process);
        let base = if works { busy(base) } else { base };
        if holds { pinned(base) } else { base }
    })
}

fn any_slots() -> impl Strategy<Value = Vec<Slot>> {
    (any_slot(0), any_slot(1), any_slot(2), any_slot(3), any_slot(5)).prop_map(|(a, b, c, d, e)| vec![a, b, c, d, e])
}

/// What the cluster makes of a plan: pods come and are ready, deleted ones are gone, cordons are in force.
fn carry_out(mut slots: Vec<Slot>, plan: &Plan) -> Vec<Slot> {
    for number in &plan.create {
        match slots.iter_mut().find(|slot| slot.number == *number) {
            Some(found) => *found = Slot { tasks: found.tasks.clone(), pinned: found.pinned, ..slot(*number) },
            None => slots.push(slot(*number)),
        }
    }
    for slot in &mut slots {
        if plan.delete.contains(&slot.number) {
            slot.pod = None;
            slot.process = Process::Gone;
        }
        if plan.cordon.contains(&slot.number) {
            slot.process = SETTLED;
        }
        if plan.uncordon.contains(&slot.number) {
            slot.process = Process::Working;
        }
    }
    slots.retain(|slot| !plan.forget.contains(&slot.number));
    slots.sort_by_key(|slot| slot.number);
    slots
}

fn live(slots: &[Slot]) -> usize {
    slots.iter().filter(|slot| slot.live().is_some()).count()
}

proptest! {
    #[test]
    fn too_many_never_means_that_a_busy_or_pinned_one_goes(slots in any_slots(), runners in 0..6u32) {
        let plan = plan(&slots, &Goal { replace: false, ..goal(runners) });
        for slot in slots.iter().filter(|slot| slot.live().is_some() && (slot.is_busy() || slot.is_pinned())) {
            prop_assert!(!plan.delete.contains(&slot.number) && !plan.cordon.contains(&slot.number));
        }
    }

    #[test]
    fn no_busy_runner_that_works_is_ever_deleted(slots in any_slots(), runners in 0..6u32, replace: bool) {
        let plan = plan(&slots, &Goal { replace, ..goal(runners) });
        for slot in slots.iter().filter(|slot| slot.is_busy()) {
            let works = slot.live().is_some_and(|pod| matches!(pod.health, Health::Running | Health::Starting));
            prop_assert!(!(works && plan.delete.contains(&slot.number)));
        }
    }

    #[test]
    fn at_most_one_leaves(slots in any_slots(), runners in 0..6u32, replace: bool) {
        let plan = plan(&slots, &Goal { replace, ..goal(runners) });
        let live_ones = slots.iter().filter(|slot| slot.live().is_some());
        prop_assert!(live_ones.filter(|slot| plan.delete.contains(&slot.number)).count() <= 1);
        prop_assert!(plan.cordon.len() <= 1);
    }

    #[test]
    fn no_number_is_given_twice(slots in any_slots(), runners in 0..9u32) {
        let plan = plan(&slots, &goal(runners));
        let distinct: BTreeSet<&u32> = plan.create.iter().collect();
        prop_assert_eq!(distinct.len(), plan.create.len());
        for slot in slots.iter().filter(|slot| slot.pod.is_some()) {
            prop_assert!(!plan.create.contains(&slot.number));
        }
    }

    #[test]
    fn it_comes_to_rest_with_the_wanted_number(slots in any_slots(), runners in 0..6u32) {
        let mut slots = slots;
        let mut turns = 0;
        loop {
            let plan = plan(&slots, &goal(runners));
            let idle = plan.create.is_empty() && plan.cordon.is_empty() && plan.uncordon.is_empty()
                && plan.delete.is_empty() && plan.forget.is_empty();
            // Whoever waits for its cordon to settle has settled by the next turn.
            for slot in &mut slots {
                if matches!(slot.process, Process::Cordoned(_)) { slot.process = SETTLED; }
            }
            if idle && plan.leaving.is_none() { break; }
            slots = carry_out(slots, &plan);
            turns += 1;
            prop_assert!(turns < 60, "it never rests: {plan:?}");
        }
        let held = slots.iter().filter(|slot| slot.live().is_some() && (slot.is_busy() || slot.is_pinned())).count();
        prop_assert!(live(&slots) >= runners as usize);
        prop_assert!(live(&slots) <= held.max(runners as usize));
    }
}
