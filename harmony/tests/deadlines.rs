//! What deadline work is given before all other work, on a real database: room, other work's place, and an early end of
//! a silent machine's claim.

mod support;

use std::sync::Arc;
use std::time::Duration;

use curio_core::{Failure, Resources};
use curio_harmony::tasks::TaskState;
use curio_harmony::{Backoff, Claim, Class, Db, Engine, Refusal, Spec, Task, TaskId, TaskName, Timing};
use support::*;
use tokio::sync::{Semaphore, mpsc};

type Starts = mpsc::UnboundedReceiver<(TaskId, u32)>;

/// A kind that tells every start and goes on until it is cancelled.
fn endless<const K: usize>(spec: Spec) -> (Probe<K>, Starts) {
    let (started, starts) = mpsc::unbounded_channel();
    let probe = Probe::new(spec, move |claim: Claim| {
        let started = started.clone();
        async move {
            // The test may have heard enough.
            let _ = started.send((claim.task(), claim.attempt()));
            claim.cancelled().cancelled().await;
            Err(Failure::Stopping)
        }
    });
    (probe, starts)
}

/// A kind that tells every start and is done at once.
fn brief<const K: usize>(spec: Spec) -> (Probe<K>, Starts) {
    let (started, starts) = mpsc::unbounded_channel();
    let probe = Probe::new(spec, move |claim: Claim| {
        let _ = started.send((claim.task(), claim.attempt()));
        async { Ok(()) }
    });
    (probe, starts)
}

/// Work of so many of a machine's eight cores.
fn cores(cpu: u32) -> Spec {
    Spec { cost: Resources { cpu, ram_bytes: 0, gpu_milli: 0 }, backoff: Backoff::NONE, ..Spec::default() }
}

fn urgent(cpu: u32) -> Spec {
    Spec { class: Class::Deadline, ..cores(cpu) }
}

fn preemptible(cpu: u32) -> Spec {
    Spec { preemptible: true, ..cores(cpu) }
}

async fn started(starts: &mut Starts) -> (TaskId, u32) {
    within("a task starts", starts.recv()).await.expect("the machine runs")
}

async fn until_refused(engine: &Engine, kind: TaskName, reason: Refusal) {
    within("the kind is refused", async {
        while engine.metrics().refusals(kind).iter().all(|(refusal, _)| *refusal != reason) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

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
    within("all of them listen", async {
        while !engines.iter().all(|engine| engine.metrics().encode().contains("curio_engine_listening 1")) {
            tokio::task::yield_now().await;
        }
    })
    .await;

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

/// The machine says nothing for a quarter of a minute.
async fn fall_silent(db: &Db, name: &'static str) {
    let done = sqlx::query("UPDATE harmony_task_machines SET last_contact = now() - interval '15 s' WHERE name = $1")
        .bind(name)
        .execute(db.pool())
        .await
        .expect("an update");
    assert_eq!(done.rows_affected(), 1);
}

#[tokio::test]
async fn a_silent_machine_loses_its_deadline_work_and_keeps_the_rest() {
    let (test, db) = database().await;
    let (sealing, mut sealing_starts) = endless::<0>(cores(1));
    let (proving, mut proving_starts) = endless::<1>(urgent(1));
    let silent = start(test.connect().await, "silent", timing(), |kinds| {
        kinds.register(sealing).register(proving);
    })
    .await;
    let sealed = add_one(&db, ALPHA).await;
    let proof = add_one(&db, BETA).await;
    started(&mut sealing_starts).await;
    started(&mut proving_starts).await;
    fall_silent(&db, "silent").await;

    let beating = Timing { deadline_heartbeat: Duration::from_millis(100), ..timing() };
    let (rescue, mut rescue_starts) = endless::<1>(urgent(1));
    let rescuer = start(test.connect().await, "rescuer", beating, |kinds| {
        kinds.register(rescue).register(Probe::<0>::idle(cores(1)));
    })
    .await;

    assert_eq!(started(&mut rescue_starts).await, (proof, 2));
    let rows = history(&db).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].task_id, rows[0].counted, rows[0].machine.as_str()), (proof.0, true, "silent"));
    assert!(rows[0].error.contains("silent"), "{rows:?}");
    let rows = queue(&db).await;
    let kept = rows.iter().find(|row| row.id == sealed.0).expect("it runs");
    assert_eq!((kept.machine.as_deref(), kept.attempt), (Some("silent"), 1));
    rescuer.shutdown(LONG).await;
    silent.shutdown(LONG).await;
}

#[tokio::test]
async fn a_machine_ends_work_that_was_taken_from_it() {
    let (test, db) = database().await;
    let beating = Timing { deadline_heartbeat: Duration::from_millis(50), ..timing() };
    let (sealing, mut sealing_starts) = endless::<0>(cores(1));
    let (proving, mut proving_starts) = endless::<1>(urgent(1));
    let engine = start(test.connect().await, "a", beating, |kinds| {
        kinds.register(sealing).register(proving);
    })
    .await;
    add_one(&db, ALPHA).await;
    add_one(&db, BETA).await;
    started(&mut sealing_starts).await;
    started(&mut proving_starts).await;

    sql(&db, "UPDATE harmony_task SET owner_id = 4711, attempt = 2 WHERE name = 'Beta'").await;

    within("its attempt ends", async {
        while engine.metrics().finished_count(BETA, "lost") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(engine.running(), 1, "the other attempt goes on");
    engine.shutdown(LONG).await;
}
