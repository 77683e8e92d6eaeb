//! How deadline work gets room on a machine that is full, on a real database: which work ends for it, which does not, and
//! that the room is its own.

mod support;

use std::sync::Arc;
use std::time::Duration;

use curio_core::Failure;
use curio_harmony::tasks::TaskState;
use curio_harmony::{Engine, Refusal, Spec, Timing};
use support::*;
use tokio::sync::{Semaphore, mpsc};

/// Waits until a machine has looked at the queue so many times more.
async fn until_looked(engine: &Engine, times: u64) {
    let looks = engine.metrics().cycle_count() + times;
    within("the machine looks on", async {
        while engine.metrics().cycle_count() < looks {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_deadline_task_without_room_ends_the_youngest_work_that_may_be_ended() {
    let (_test, db) = database().await;
    let (sealing, mut sealing_starts) = endless::<0>(Spec { max_failures: Some(1), ..preemptible(2) });
    let (proving, mut proving_starts) = endless::<1>(urgent(2));
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(sealing).register(proving);
    })
    .await;
    let mut completions = engine.completions();
    // While one deadline task runs, no room is kept for another.
    add_one(&db, BETA).await;
    started(&mut proving_starts).await;
    let mut sealed = Vec::new();
    for _ in 0..3 {
        sealed.push(add_one(&db, ALPHA).await);
        started(&mut sealing_starts).await;
    }

    let task = add_one(&db, BETA).await;

    assert_eq!(started(&mut proving_starts).await, (task, 1));
    let end = next(&mut completions).await;
    assert_eq!((end.task, end.ok), (sealed[2], false));
    let rows = history(&db).await;
    assert_eq!((rows.len(), rows[0].counted, rows[0].error.as_str()), (1, false, "made room for Beta"));
    let rows = queue(&db).await;
    let victim = rows.iter().find(|row| row.id == sealed[2].0).expect("it is back in the queue");
    assert_eq!((victim.state, victim.failures), (TaskState::Waiting, 0));
    assert_eq!(engine.metrics().finished_count(ALPHA, "preempted"), 1);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn room_that_becomes_free_bit_by_bit_for_a_deadline_task_is_taken_by_nobody_else() {
    let (_test, db) = database().await;
    let (began, mut sealing_starts) = mpsc::unbounded_channel();
    let (asked, mut askings) = mpsc::unbounded_channel();
    let may_leave = Arc::new(Semaphore::new(0));
    let gate = may_leave.clone();
    let (proving, mut proving_starts) = endless::<1>(urgent(4));
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds
            .register(Probe::<0>::new(preemptible(2), move |claim| {
                let (began, asked, gate) = (began.clone(), asked.clone(), gate.clone());
                async move {
                    // The test may have heard enough.
                    let _ = began.send((claim.task(), claim.attempt()));
                    claim.cancelled().cancelled().await;
                    let _ = asked.send(());
                    gate.acquire().await.expect("open").forget();
                    Err(Failure::Stopping)
                }
            }))
            .register(proving);
    })
    .await;
    let mut completions = engine.completions();
    add_one(&db, BETA).await;
    started(&mut proving_starts).await;
    add(&db, ALPHA, 2).await;
    for _ in 0..2 {
        started(&mut sealing_starts).await;
    }
    let proof = add_one(&db, BETA).await;
    for _ in 0..2 {
        within("a sealing task is asked to make room", askings.recv()).await.expect("the machine runs");
    }

    // One leaves at once, and the machine looks at the queue, where it waits, before the other one does.
    may_leave.add_permits(1);
    assert!(!next(&mut completions).await.ok);
    until_looked(&engine, 3).await;
    assert_eq!(sealing_starts.try_recv().ok(), None, "room of the proof was taken");
    may_leave.add_permits(1);

    assert_eq!(started(&mut proving_starts).await, (proof, 1));
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn work_that_made_room_goes_on_afterwards() {
    let (_test, db) = database().await;
    let (sealing, mut sealing_starts) = endless::<0>(preemptible(8));
    let (proving, mut proving_starts) = brief::<1>(urgent(8));
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(sealing).register(proving);
    })
    .await;
    // It needs the whole machine, so nothing can be kept beside it.
    let sealed = add_one(&db, ALPHA).await;
    assert_eq!(started(&mut sealing_starts).await, (sealed, 1));

    let proof = add_one(&db, BETA).await;

    assert_eq!(started(&mut proving_starts).await, (proof, 1));
    assert_eq!(started(&mut sealing_starts).await, (sealed, 2));
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn work_that_must_not_be_ended_is_waited_for() {
    let (_test, db) = database().await;
    let open = Arc::new(Semaphore::new(0));
    let gate = open.clone();
    let (proving, mut proving_starts) = brief::<1>(urgent(8));
    let (began, mut sealing_starts) = mpsc::unbounded_channel();
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds
            .register(Probe::<0>::new(cores(8), move |claim| {
                let (gate, began) = (gate.clone(), began.clone());
                async move {
                    began.send((claim.task(), claim.attempt())).expect("the test listens");
                    tokio::select! {
                        permit = gate.acquire() => { permit.expect("open").forget(); Ok(()) }
                        () = claim.cancelled().cancelled() => Err(Failure::Stopping),
                    }
                }
            }))
            .register(proving);
    })
    .await;
    let mut completions = engine.completions();
    let sealed = add_one(&db, ALPHA).await;
    started(&mut sealing_starts).await;
    let proof = add_one(&db, BETA).await;
    until_refused(&engine, BETA, Refusal::Cpu).await;

    open.add_permits(1);

    let ends = ends(&mut completions, 2).await;
    assert_eq!(ends.iter().map(|end| (end.task, end.ok)).collect::<Vec<_>>(), [(sealed, true), (proof, true)]);
    assert_eq!(started(&mut proving_starts).await, (proof, 1));
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn nothing_is_ended_for_a_task_that_a_machine_with_room_takes() {
    let (test, db) = database().await;
    // Long enough for the other machine however slow this one is.
    let patient = Timing { preempt_after: LONG, ..timing() };
    let (sealing, mut sealing_starts) = endless::<0>(preemptible(8));
    let (here, mut here_starts) = brief::<1>(urgent(8));
    let full = start(db.clone(), "full", patient, |kinds| {
        kinds.register(sealing).register(here);
    })
    .await;
    add_one(&db, ALPHA).await;
    started(&mut sealing_starts).await;
    let (there, mut there_starts) = brief::<1>(urgent(8));
    let empty = start(test.connect().await, "empty", timing(), |kinds| {
        kinds.register(there);
    })
    .await;

    for _ in 0..3 {
        let task = add_one(&db, BETA).await;
        assert_eq!(started(&mut there_starts).await, (task, 1));
    }

    assert!(here_starts.try_recv().is_err());
    assert_eq!(full.running(), 1);
    full.shutdown(LONG).await;
    empty.shutdown(LONG).await;
}

#[tokio::test]
async fn nothing_is_ended_for_a_task_that_the_machine_would_not_take() {
    let (_test, db) = database().await;
    let (sealing, mut sealing_starts) = endless::<0>(preemptible(8));
    let impatient = Timing { preempt_after: Duration::ZERO, ..timing() };
    let engine = start(db.clone(), "a", impatient, |kinds| {
        let spec = Spec { filtered: true, ..urgent(8) };
        kinds.register(sealing).register(Probe::<1>::idle(spec).accept(|_| Ok(Vec::new())));
    })
    .await;
    add_one(&db, ALPHA).await;
    started(&mut sealing_starts).await;

    add_one(&db, BETA).await;

    until_refused(&engine, BETA, Refusal::CanAccept).await;
    assert_eq!(engine.running(), 1);
    assert_eq!(history(&db).await.len(), 0);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn of_several_full_machines_one_makes_room_for_a_deadline_task() {
    let (test, db) = database().await;
    add(&db, ALPHA, 2).await;
    let mut engines = Vec::new();
    let mut proving = Vec::new();
    for name in ["a", "b"] {
        let (sealing, mut sealing_starts) = endless::<0>(preemptible(8));
        let (proof, starts) = endless::<1>(urgent(8));
        engines.push(
            start(test.connect().await, name, timing(), |kinds| {
                kinds.register(sealing).register(proof);
            })
            .await,
        );
        proving.push(starts);
        started(&mut sealing_starts).await;
    }

    let task = add_one(&db, BETA).await;

    let [one, other] = &mut proving[..] else { panic!("two machines") };
    let start = within("one of them proves", async {
        tokio::select! {
            start = one.recv() => start,
            start = other.recv() => start,
        }
    })
    .await;
    assert_eq!(start, Some((task, 1)));
    for engine in &engines {
        until_looked(engine, 3).await;
    }
    let ended: u64 = engines.iter().map(|engine| engine.metrics().finished_count(ALPHA, "preempted")).sum();
    assert_eq!(ended, 1);
    for engine in engines {
        engine.shutdown(LONG).await;
    }
}
