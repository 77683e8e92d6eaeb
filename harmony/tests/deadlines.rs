//! What deadline work is given before all other work, on a real database: room that is kept for it, the scheduler's ear,
//! and word at once. How it gets room where there is none is in `preemption.rs`.

mod support;

use std::time::Duration;

use curio_core::Failure;
use curio_harmony::{Claim, Db, Refusal, Spec, Task, TaskId, TaskName, Timing};
use support::*;
use tokio::sync::mpsc;

#[tokio::test]
async fn other_work_leaves_room_for_a_deadline_task_that_has_not_come_yet() {
    let (_test, db) = database().await;
    let (sealing, mut sealing_starts) = endless::<0>(cores(2));
    let (proving, mut proving_starts) = brief::<1>(urgent(2));
    add(&db, ALPHA, 10).await;
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(sealing).register(proving);
    })
    .await;
    for _ in 0..3 {
        started(&mut sealing_starts).await;
    }
    until_refused(&engine, ALPHA, Refusal::Cpu).await;
    assert_eq!(engine.running(), 3, "two of eight cores are kept");

    let task = add_one(&db, BETA).await;

    assert_eq!(started(&mut proving_starts).await, (task, 1));
    assert_eq!(engine.metrics().finished_count(ALPHA, "preempted"), 0);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_first_deadline_task_takes_room_that_is_kept_for_another_kind_and_ends_nothing() {
    let (_test, db) = database().await;
    let (sealing, mut sealing_starts) = endless::<0>(preemptible(4));
    let (proving, mut proving_starts) = endless::<1>(urgent(4));
    // Beside the sealing task there is room for one of two deadline tasks.
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(sealing).register(proving).register(Probe::<2>::idle(urgent(4)));
    })
    .await;
    add_one(&db, ALPHA).await;
    started(&mut sealing_starts).await;

    let proof = add_one(&db, BETA).await;

    assert_eq!(started(&mut proving_starts).await, (proof, 1));
    assert_eq!(engine.running(), 2, "the sealing task goes on");
    assert_eq!(engine.metrics().finished_count(ALPHA, "preempted"), 0);
    engine.shutdown(LONG).await;
}

/// A kind that never answers whether it takes what it is offered.
struct Mute(mpsc::UnboundedSender<()>);

impl Task for Mute {
    const NAME: TaskName = ALPHA;

    fn spec(&self) -> Spec {
        Spec { filtered: true, ..Spec::default() }
    }

    async fn can_accept(&self, _offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
        let _ = self.0.send(());
        std::future::pending().await
    }

    async fn run(&self, _claim: &Claim) -> Result<(), Failure> {
        Ok(())
    }
}

#[tokio::test]
async fn a_kind_that_does_not_answer_does_not_hold_deadline_work_up() {
    let (test, db) = database().await;
    let (asked, mut questions) = mpsc::unbounded_channel();
    let (proving, mut proving_starts) = brief::<1>(urgent(1));
    let endless_patience = Timing { accept: Duration::from_secs(3600), ..timing() };
    let engine = start(test.connect().await, "a", endless_patience, |kinds| {
        kinds.register(Mute(asked)).register(proving);
    })
    .await;
    add_one(&db, ALPHA).await;
    within("the mute kind is asked", questions.recv()).await;

    for _ in 0..5 {
        let task = add_one(&db, BETA).await;
        assert_eq!(started(&mut proving_starts).await, (task, 1));
        within("the mute kind is asked again", questions.recv()).await;
    }

    // Its parts do not end by themselves while a kind is asked.
    engine.shutdown(Duration::from_millis(100)).await;
}

#[tokio::test]
async fn every_machine_is_told_of_deadline_work() {
    let (test, db) = database().await;
    let mut engines = Vec::new();
    let mut starts = Vec::new();
    for name in ["a", "b", "c"] {
        let (proving, heard) = endless::<0>(Spec { max_running: Some(1), ..urgent(1) });
        // Nothing but a hint makes these look.
        engines.push(
            start(test.connect().await, name, deaf_timing(), |kinds| {
                kinds.register(proving);
            })
            .await,
        );
        starts.push(heard);
    }
    for engine in &engines {
        until_listening(engine).await;
    }

    add(&db, ALPHA, 3).await;

    for heard in &mut starts {
        started(heard).await;
    }
    for engine in engines {
        engine.shutdown(LONG).await;
    }
}

#[tokio::test]
async fn a_machine_that_hears_no_hints_looks_more_often_for_deadline_work() {
    let (test, db) = database().await;
    let deaf = Db::connect(&url_with_option(test.url(), "-ccurio.hints=off"), "curio-test").await.expect("it answers");
    let (proving, mut proving_starts) = brief::<0>(urgent(1));
    let timing = Timing { poll_deaf: Duration::from_millis(50), ..deaf_timing() };
    let engine = start(deaf, "a", timing, |kinds| {
        kinds.register(proving);
    })
    .await;

    let task = add_one(&db, ALPHA).await;

    assert_eq!(started(&mut proving_starts).await, (task, 1));
    engine.shutdown(LONG).await;
}
