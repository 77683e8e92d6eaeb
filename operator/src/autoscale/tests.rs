//! Tables and properties of the decision.

use proptest::prelude::*;
use rstest::rstest;

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a small number")
}

fn bounds(min: u32, max: u32) -> Bounds {
    Bounds { min, max, idle: Duration::from_secs(30) }
}

fn porep(waiting: u32, running: u32) -> KindQueue {
    KindQueue { kind: "PoRep", waiting, oldest: Duration::from_secs(12), running, per_runner: 1 }
}

fn work(queue: Vec<KindQueue>, busy: u32, pinned: u32) -> Work {
    Work { queue, held: Held { busy, pinned }, errands: 0 }
}

fn first(work: &Work, bounds: Bounds) -> Decision {
    decide(Ok(work), bounds, Memory::default(), at(0)).0
}

#[rstest]
#[case::nothing(work(vec![], 0, 0), bounds(0, 2), 0)]
#[case::one_task_starts_one_runner(work(vec![porep(1, 0)], 0, 0), bounds(0, 2), 1)]
#[case::never_above_the_maximum(work(vec![porep(9, 0)], 0, 0), bounds(0, 2), 2)]
#[case::never_below_the_minimum(work(vec![], 0, 0), bounds(1, 2), 1)]
#[case::what_runs_counts_beside_what_waits(work(vec![porep(1, 1)], 1, 0), bounds(0, 4), 2)]
#[case::busy_runners_stay_above_the_maximum(work(vec![porep(0, 3)], 3, 0), bounds(0, 2), 3)]
#[case::pinned_runners_stay(work(vec![], 1, 2), bounds(0, 2), 3)]
#[case::the_kind_that_needs_most_decides(
    work(vec![porep(2, 0), KindQueue { kind: "SDR", waiting: 9, per_runner: 4, ..porep(0, 0) }], 0, 0), bounds(0, 9), 3
)]
#[case::a_request_needs_a_runner(Work { errands: 2, ..work(vec![], 0, 0) }, bounds(0, 2), 1)]
fn the_number_follows_the_work(#[case] work: Work, #[case] bounds: Bounds, #[case] expected: u32) {
    let decision = first(&work, bounds);
    assert_eq!(decision.desired, expected, "{}", decision.reason);
}

#[rstest]
#[case(
    work(vec![porep(9, 1)], 1, 0), bounds(0, 2),
    "PoRep: 9 waiting (oldest 12 s), 1 running, 1 at a time per runner; 1 busy, 0 idle but with data that only they have; 10 would be asked for, max is 2"
)]
#[case(work(vec![], 0, 0), bounds(1, 2), "nothing waits; min is 1")]
#[case(Work { errands: 2, ..work(vec![], 0, 0) }, bounds(0, 2), "2 requests for sectors and no runner to take it up")]
fn the_reason_is_a_sentence(#[case] work: Work, #[case] bounds: Bounds, #[case] expected: &str) {
    assert_eq!(first(&work, bounds).reason, expected);
}

#[test]
fn a_pool_goes_to_zero_only_after_the_idle_time() {
    let (up, memory) = decide(Ok(&work(vec![porep(2, 0)], 0, 0)), bounds(0, 2), Memory::default(), at(0));
    assert_eq!(up.desired, 2);
    let empty = work(vec![], 0, 0);
    let (still, memory) = decide(Ok(&empty), bounds(0, 2), memory, at(100));
    assert_eq!((still.desired, still.again_in), (2, Some(Duration::from_secs(30))), "{}", still.reason);
    let (still, memory) = decide(Ok(&empty), bounds(0, 2), memory, at(129));
    assert_eq!(still.desired, 2);
    let (down, memory) = decide(Ok(&empty), bounds(0, 2), memory, at(130));
    assert_eq!(down.desired, 0, "{}", down.reason);
    assert_eq!(decide(Ok(&empty), bounds(0, 2), memory, at(131)).0.desired, 0);
}

#[test]
fn work_that_comes_back_in_time_starts_the_idle_time_anew() {
    let empty = work(vec![], 0, 0);
    let memory = Memory::of_status(1);
    let (_, memory) = decide(Ok(&empty), bounds(0, 2), memory, at(0));
    let (busy, memory) = decide(Ok(&work(vec![porep(0, 1)], 1, 0)), bounds(0, 2), memory, at(20));
    assert_eq!(busy.desired, 1);
    let (still, _) = decide(Ok(&empty), bounds(0, 2), memory, at(40));
    assert_eq!((still.desired, still.again_in), (1, Some(Duration::from_secs(30))));
}

#[test]
fn it_falls_to_the_most_that_was_asked_for_meanwhile() {
    let (_, memory) = decide(Ok(&work(vec![porep(1, 0)], 0, 0)), bounds(0, 5), Memory::of_status(5), at(0));
    let (_, memory) = decide(Ok(&work(vec![porep(3, 0)], 0, 0)), bounds(0, 5), memory, at(10));
    let (down, _) = decide(Ok(&work(vec![], 0, 0)), bounds(0, 5), memory, at(30));
    assert_eq!(down.desired, 3);
}

#[test]
fn a_tighter_maximum_applies_at_once() {
    let (decision, _) = decide(Ok(&work(vec![porep(9, 0)], 0, 0)), bounds(0, 2), Memory::of_status(5), at(0));
    assert_eq!(decision.desired, 2);
}

#[test]
fn while_the_database_is_away_the_last_number_holds() {
    let (decision, memory) = decide(Err(Blind::DatabaseAway), bounds(0, 5), Memory::of_status(3), at(0));
    assert_eq!((decision.desired, decision.blind), (3, Some(Blind::DatabaseAway)));
    assert_eq!(decision.reason, "the database is away, so the last number stays until it is back");
    assert_eq!(memory, Memory::of_status(3));
    assert_eq!(
        decide(Err(Blind::DatabaseAway), bounds(1, 5), Memory::default(), at(0)).0.desired,
        1,
        "nothing was ever decided"
    );
}

fn any_queue() -> impl Strategy<Value = Vec<KindQueue>> {
    let kind = (0..50u32, 0..1000u64, 0..20u32, 1..8u32).prop_map(|(waiting, oldest, running, per_runner)| KindQueue {
        kind: "PoRep",
        waiting,
        oldest: Duration::from_secs(oldest),
        running,
        per_runner,
    });
    proptest::collection::vec(kind, 0..5)
}

fn any_work() -> impl Strategy<Value = Work> {
    (any_queue(), 0..10u32, 0..10u32, 0..3u64).prop_map(|(queue, busy, pinned, errands)| Work {
        queue,
        held: Held { busy, pinned },
        errands,
    })
}

fn any_bounds() -> impl Strategy<Value = Bounds> {
    (0..5u32, 1..20u32, 0..60u64).prop_map(|(min, more, idle)| Bounds {
        min,
        max: min + more,
        idle: Duration::from_secs(idle),
    })
}

proptest! {
    #[test]
    fn whoever_works_or_holds_data_is_never_counted_out(
        works in proptest::collection::vec(any_work(), 1..20), bounds in any_bounds(), step in 0..40i64,
    ) {
        let mut memory = Memory::default();
        for (turn, work) in works.iter().enumerate() {
            let (decision, next) = decide(Ok(work), bounds, memory, at(turn as i64 * step));
            prop_assert!(decision.desired >= work.held.count());
            prop_assert!(decision.desired >= bounds.min);
            prop_assert!(decision.desired <= bounds.max.max(work.held.count()));
            memory = next;
        }
    }

    #[test]
    fn more_waiting_work_never_asks_for_fewer(work in any_work(), bounds in any_bounds(), which in 0..5usize, more in 0..20u32) {
        let mut busier = work.clone();
        if let Some(kind) = busier.queue.get_mut(which) {
            kind.waiting += more;
        }
        prop_assert!(first(&busier, bounds).desired >= first(&work, bounds).desired);
    }

    #[test]
    fn the_number_rises_at_once(before in 0..10u32, work in any_work(), bounds in any_bounds()) {
        let asked = first(&work, bounds).desired;
        let (decision, _) = decide(Ok(&work), bounds, Memory::of_status(before), at(0));
        prop_assert!(decision.desired >= asked);
    }

    #[test]
    fn without_work_it_ends_at_the_minimum(before in 0..30u32, bounds in any_bounds()) {
        let empty = Work { queue: vec![], held: Held::default(), errands: 0 };
        let (decision, memory) = decide(Ok(&empty), bounds, Memory::of_status(before), at(0));
        let wait = decision.again_in.map_or(0, |left| left.as_secs() as i64);
        prop_assert_eq!(decide(Ok(&empty), bounds, memory, at(wait)).0.desired, bounds.min);
    }
}
