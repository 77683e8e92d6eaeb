//! Machines that restart, stop, freeze and come back, on a real database.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use curio_core::{Failure, Resources};
use curio_harmony::machines::{self, MachineState};
use curio_harmony::tasks::TaskState;
use curio_harmony::{Backoff, Claim, Engine, EngineState, MachineSpec, Registry, Spec, TaskId, Timing};
use support::*;
use tokio::sync::{Semaphore, mpsc};

/// Starts are told; attempts go on until they are cancelled or let through.
#[derive(Clone)]
struct Patient {
    started: mpsc::UnboundedSender<(TaskId, u32)>,
    open: Arc<Semaphore>,
    /// What an attempt returns that was cancelled.
    deaf: bool,
}

impl Patient {
    fn new() -> (Patient, mpsc::UnboundedReceiver<(TaskId, u32)>) {
        let (started, starts) = mpsc::unbounded_channel();
        (Patient { started, open: Arc::new(Semaphore::new(0)), deaf: false }, starts)
    }

    fn probe<const K: usize>(&self, spec: Spec) -> Probe<K> {
        let this = self.clone();
        Probe::new(spec, move |claim: Claim| {
            let this = this.clone();
            async move {
                this.started.send((claim.task(), claim.attempt())).expect("the test listens");
                tokio::select! {
                    permit = this.open.acquire() => { permit.expect("open").forget(); Ok(()) }
                    () = claim.cancelled().cancelled(), if !this.deaf => Err(Failure::Stopping),
                }
            }
        })
    }
}

/// An engine of a process that was killed: nothing of it runs on, nothing was signed off.
async fn kill(engine: Engine) {
    drop(engine);
}

fn quick_lease() -> Timing {
    Timing { heartbeat: Duration::from_millis(100), lease: Duration::from_secs(30), ..timing() }
}

async fn forget(db: &curio_harmony::Db, name: &'static str) {
    let done = sqlx::query("UPDATE harmony_task_machines SET last_contact = now() - interval '1 hour' WHERE name = $1")
        .bind(name)
        .execute(db.pool())
        .await
        .expect("an update");
    assert_eq!(done.rows_affected(), 1);
}

#[tokio::test]
async fn a_restarted_machine_takes_back_its_tasks_and_the_crash_counts() {
    let (test, db) = database().await;
    let (patient, mut starts) = Patient::new();
    let spec = Spec { max_failures: Some(3), ..Spec::default() };
    let first = start(test.connect().await, "a", timing(), |kinds| {
        kinds.register(patient.probe::<0>(spec));
    })
    .await;
    let task = add_one(&db, ALPHA).await;
    assert_eq!(within("it starts", starts.recv()).await, Some((task, 1)));
    kill(first).await;

    let second = start(test.connect().await, "a", deaf_timing(), |kinds| {
        kinds.register(patient.probe::<0>(spec));
    })
    .await;
    assert_eq!(within("it starts again", starts.recv()).await, Some((task, 2)));

    let rows = history(&db).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].attempt, rows[0].ok, rows[0].counted), (1, false, true));
    assert_eq!(queue(&db).await[0].failures, 1);
    let list = machines::list(&db).await.expect("machines");
    assert_eq!((list.len(), list[0].incarnation, list[0].running), (1, 2, 1));
    let mut completions = second.completions();
    patient.open.add_permits(2);
    assert!(next(&mut completions).await.ok);
    second.shutdown(LONG).await;
}

#[tokio::test]
async fn a_task_that_kills_its_machine_is_failed_after_its_last_attempt() {
    let (test, db) = database().await;
    let (patient, mut starts) = Patient::new();
    let spec = Spec { max_failures: Some(2), ..Spec::default() };
    add_one(&db, ALPHA).await;
    for attempt in 1..=2 {
        let engine = start(test.connect().await, "a", timing(), |kinds| {
            kinds.register(patient.probe::<0>(spec));
        })
        .await;
        assert_eq!(within("it starts", starts.recv()).await.map(|(_, attempt)| attempt), Some(attempt));
        kill(engine).await;
    }

    let engine = start(test.connect().await, "a", timing(), |kinds| {
        kinds.register(patient.probe::<0>(spec));
    })
    .await;

    let rows = queue(&db).await;
    assert_eq!((rows[0].state, rows[0].failed_reason.as_str()), (TaskState::Failed, "max-failures"));
    assert_eq!(history(&db).await.len(), 2);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn what_a_restarted_machine_cannot_run_any_more_goes_back_to_the_queue() {
    let (test, db) = database().await;
    let (patient, mut starts) = Patient::new();
    let big = Spec { cost: Resources { cpu: 8, ram_bytes: 0, gpu_milli: 0 }, ..Spec::default() };
    let first = start(test.connect().await, "a", timing(), |kinds| {
        kinds.register(patient.probe::<0>(Spec::default())).register(patient.probe::<1>(big));
    })
    .await;
    add_one(&db, ALPHA).await;
    add_one(&db, BETA).await;
    for _ in 0..2 {
        within("it starts", starts.recv()).await;
    }
    kill(first).await;

    // The kind of one task is gone, and the machine became too small for the other.
    let mut registry = Registry::new();
    registry.register(patient.probe::<1>(big));
    let small = MachineSpec { resources: Resources { cpu: 4, ..machine("a").resources }, ..machine("a") };
    let second = Engine::start(test.connect().await, registry, small, timing()).await.expect("it starts");
    let states = within("both go back", async {
        loop {
            let states: Vec<_> = queue(&db).await.iter().map(|row| row.state).collect();
            if states.iter().all(|state| *state == TaskState::Waiting) {
                break states;
            }
        }
    })
    .await;

    assert_eq!(states.len(), 2);
    second.shutdown(LONG).await;
}

#[tokio::test]
async fn tasks_of_a_silent_machine_are_run_by_another_and_its_late_end_changes_nothing() {
    let (test, db) = database().await;
    let (mut patient, mut starts) = Patient::new();
    patient.deaf = true;
    let frozen = start(test.connect().await, "frozen", timing(), |kinds| {
        kinds.register(patient.probe::<0>(Spec::default()));
    })
    .await;
    let task = add_one(&db, ALPHA).await;
    assert_eq!(within("it starts", starts.recv()).await, Some((task, 1)));
    forget(&db, "frozen").await;

    let (other, mut other_starts) = Patient::new();
    let rescuer = start(test.connect().await, "rescuer", quick_lease(), |kinds| {
        kinds.register(other.probe::<0>(Spec::default()));
    })
    .await;
    assert_eq!(within("the rescuer starts it", other_starts.recv()).await, Some((task, 2)));

    // The frozen machine wakes up and finishes.
    patient.open.add_permits(1);
    within("its end is refused", async {
        while frozen.metrics().finished_count(ALPHA, "lost") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let rows = queue(&db).await;
    assert_eq!((rows.len(), rows[0].machine.as_deref(), rows[0].attempt), (1, Some("rescuer"), 2));
    let rows = history(&db).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].attempt, rows[0].ok, rows[0].machine.as_str()), (1, false, "frozen"));
    assert!(rows[0].error.contains("lost"), "{rows:?}");

    let mut completions = rescuer.completions();
    other.open.add_permits(1);
    assert!(next(&mut completions).await.ok);
    assert_eq!(queue(&db).await.len(), 0);
    frozen.shutdown(LONG).await;
    rescuer.shutdown(LONG).await;
}

#[tokio::test]
async fn a_late_failure_of_a_lost_claim_changes_nothing_either() {
    let (test, db) = database().await;
    let open = Arc::new(Semaphore::new(0));
    let (started, mut starts) = mpsc::unbounded_channel();
    let gate = open.clone();
    let frozen = start(test.connect().await, "frozen", timing(), |kinds| {
        kinds.register(Probe::<0>::new(Spec::default(), move |claim| {
            let (gate, started) = (gate.clone(), started.clone());
            async move {
                started.send(claim.task()).expect("the test listens");
                gate.acquire().await.expect("open").forget();
                Err(Failure::retry("too late"))
            }
        }));
    })
    .await;
    let task = add_one(&db, ALPHA).await;
    within("it starts", starts.recv()).await;
    sql(&db, "UPDATE harmony_task SET owner_id = 4711, attempt = 2").await;

    open.add_permits(1);
    within("its end is refused", async {
        while frozen.metrics().finished_count(ALPHA, "lost") == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    let owner: Option<i64> = sqlx::query_scalar("SELECT owner_id FROM harmony_task WHERE id = $1 AND retries = 0")
        .bind(task.0)
        .fetch_one(db.pool())
        .await
        .expect("the row is unchanged");
    assert_eq!(owner, Some(4711));
    assert_eq!(history(&db).await.len(), 0);
    frozen.shutdown(LONG).await;
}

#[tokio::test]
async fn an_evicted_machine_drops_its_work_and_comes_back() {
    let (test, db) = database().await;
    let (patient, mut starts) = Patient::new();
    let engine = start(test.connect().await, "a", quick_lease(), |kinds| {
        kinds.register(patient.probe::<0>(Spec::default()));
    })
    .await;
    let task = add_one(&db, ALPHA).await;
    assert_eq!(within("it starts", starts.recv()).await, Some((task, 1)));

    // As a heartbeat of another machine would.
    sql(
        &db,
        "WITH gone AS (UPDATE harmony_task_machines SET evicted_at = now() RETURNING id)
         UPDATE harmony_task t SET owner_id = NULL FROM gone WHERE t.owner_id = gone.id",
    )
    .await;

    assert_eq!(within("it starts again, in the new life", starts.recv()).await, Some((task, 2)));
    let list = machines::list(&db).await.expect("machines");
    assert_eq!((list[0].incarnation, list[0].state), (2, MachineState::Up));
    assert_eq!(*engine.state().borrow(), EngineState::Running);
    let mut completions = engine.completions();
    patient.open.add_permits(1);
    within("it is done", async { while !next(&mut completions).await.ok {} }).await;
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_machine_whose_row_was_removed_comes_back_under_a_new_id() {
    let (test, db) = database().await;
    let (patient, mut starts) = Patient::new();
    let engine = start(test.connect().await, "a", quick_lease(), |kinds| {
        kinds.register(patient.probe::<0>(Spec::default()));
    })
    .await;
    let id = engine.machine_id();
    let task = add_one(&db, ALPHA).await;
    assert_eq!(within("it starts", starts.recv()).await, Some((task, 1)));

    sql(&db, "DELETE FROM harmony_task_machines").await;

    assert_eq!(within("it starts again", starts.recv()).await, Some((task, 2)));
    assert_ne!(engine.machine_id(), id);
    engine.shutdown(LONG).await;
    assert_eq!(queue(&db).await[0].state, TaskState::Waiting);
}

#[tokio::test]
async fn a_second_process_of_the_same_name_shuts_the_first_one_out() {
    let (test, db) = database().await;
    let (patient, mut starts) = Patient::new();
    let fill = |kinds: &mut Registry| {
        kinds.register(patient.probe::<0>(Spec::default()));
    };
    let first = start(test.connect().await, "a", quick_lease(), fill).await;
    let mut state = first.state();
    let task = add_one(&db, ALPHA).await;
    assert_eq!(within("it starts", starts.recv()).await, Some((task, 1)));

    let second = start(test.connect().await, "a", timing(), |kinds| {
        kinds.register(patient.probe::<0>(Spec::default()));
    })
    .await;
    within("the first one notices", state.wait_for(|state| *state == EngineState::Replaced)).await.expect("a state");

    assert_eq!(within("the second one goes on", starts.recv()).await, Some((task, 2)));
    let mut completions = second.completions();
    patient.open.add_permits(1);
    assert!(next(&mut completions).await.ok);
    // Nothing is claimed by the first one any more.
    let another = add_one(&db, ALPHA).await;
    assert_eq!(within("the second one takes it", starts.recv()).await, Some((another, 1)));
    within("the first one has let go", async {
        while first.running() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(second.running(), 1);
    first.shutdown(LONG).await;
    second.shutdown(LONG).await;
}

#[tokio::test]
async fn a_stopping_machine_gives_its_tasks_back_uncounted() {
    let (test, db) = database().await;
    let (patient, mut starts) = Patient::new();
    let spec = Spec { max_failures: Some(1), ..Spec::default() };
    let engine = start(test.connect().await, "a", timing(), |kinds| {
        kinds.register(patient.probe::<0>(spec));
    })
    .await;
    let task = add_one(&db, ALPHA).await;
    within("it starts", starts.recv()).await;

    engine.shutdown(LONG).await;

    let rows = queue(&db).await;
    assert_eq!((rows[0].id, rows[0].state, rows[0].failures), (task.0, TaskState::Waiting, 0));
    let rows = history(&db).await;
    assert_eq!((rows.len(), rows[0].ok, rows[0].counted), (1, false, false));
    assert_eq!(machines::list(&db).await.expect("machines")[0].state, MachineState::Stopped);
}

#[tokio::test]
async fn an_attempt_that_ends_well_during_the_stop_is_kept() {
    let (test, db) = database().await;
    let (mut patient, mut starts) = Patient::new();
    patient.deaf = true;
    let engine = start(test.connect().await, "a", timing(), |kinds| {
        kinds.register(patient.probe::<0>(Spec::default()));
    })
    .await;
    add_one(&db, ALPHA).await;
    within("it starts", starts.recv()).await;
    let mut state = engine.state();
    let stop = tokio::spawn(engine.shutdown(LONG));
    within("it stops", state.wait_for(|state| *state == EngineState::Stopping)).await.expect("a state");

    patient.open.add_permits(1);
    within("it has stopped", stop).await.expect("no panic");

    assert_eq!(queue(&db).await.len(), 0);
    assert!(history(&db).await[0].ok);
}

#[tokio::test]
async fn an_attempt_that_does_not_listen_is_cut_off_when_the_grace_is_over() {
    let (test, db) = database().await;
    let (mut patient, mut starts) = Patient::new();
    patient.deaf = true;
    let spec = Spec { max_failures: Some(1), ..Spec::default() };
    let engine = start(test.connect().await, "a", timing(), |kinds| {
        kinds.register(patient.probe::<0>(spec));
    })
    .await;
    add_one(&db, ALPHA).await;
    within("it starts", starts.recv()).await;

    within("it stops", engine.shutdown(Duration::from_millis(50))).await;

    let rows = queue(&db).await;
    assert_eq!((rows[0].state, rows[0].failures), (TaskState::Waiting, 0));
}

#[tokio::test]
async fn after_an_outage_nobody_is_evicted_before_everybody_could_speak() {
    let (test, db) = database().await;
    let (patient, mut starts) = Patient::new();
    let timing = Timing { heartbeat: Duration::from_secs(1), ..quick_lease() };
    let one = start(test.connect().await, "one", timing, |kinds| {
        kinds.register(patient.probe::<0>(Spec::default()));
    })
    .await;
    let two = start(test.connect().await, "two", timing, |kinds| {
        kinds.register(Probe::<1>::idle(Spec::default()));
    })
    .await;
    add_one(&db, ALPHA).await;
    within("it starts", starts.recv()).await;

    // The database was away for an hour: nobody could speak, and everybody looks dead.
    sql(&db, "UPDATE harmony_task_machines SET last_contact = now() - interval '1 hour'").await;
    let list = within("both speak", async {
        loop {
            let list = machines::list(&db).await.expect("machines");
            if list.iter().all(|row| row.contact_age_s < 60.0) {
                break list;
            }
        }
    })
    .await;

    let states: Vec<_> = list.iter().map(|row| (row.incarnation, row.state)).collect();
    assert_eq!(states, [(1, MachineState::Up), (1, MachineState::Up)]);
    assert_eq!(one.running(), 1);
    one.shutdown(LONG).await;
    two.shutdown(LONG).await;
}

#[tokio::test]
async fn a_hint_wakes_another_machine_and_the_poll_works_without_hints() {
    let (test, db) = database().await;
    // `db` is another process: it has no engine, so only NOTIFY can reach the machine.
    let hinted = start(test.connect().await, "a", deaf_timing(), |kinds| {
        kinds.register(Probe::<0>::idle(Spec::default()));
    })
    .await;
    let mut completions = hinted.completions();
    add_one(&db, ALPHA).await;
    assert!(next(&mut completions).await.ok);
    hinted.shutdown(LONG).await;

    // Rows that appear without any hint.
    let polling = start(test.connect().await, "a", timing(), |kinds| {
        kinds.register(Probe::<0>::idle(Spec::default()));
    })
    .await;
    let mut completions = polling.completions();
    sql(&db, "INSERT INTO harmony_task (name) SELECT 'Alpha' FROM generate_series(1, 3)").await;
    assert_eq!(ends(&mut completions, 3).await.len(), 3);
    polling.shutdown(LONG).await;
}

#[tokio::test]
async fn hints_are_heard_again_after_the_connection_was_lost() {
    let (test, db) = database().await;
    let engine = start(test.connect().await, "a", deaf_timing(), |kinds| {
        kinds.register(Probe::<0>::idle(Spec::default()));
    })
    .await;
    let mut completions = engine.completions();
    add_one(&db, ALPHA).await;
    assert!(next(&mut completions).await.ok);

    let cut = sql(
        &db,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND query LIKE 'LISTEN%'",
    )
    .await;
    assert_eq!(cut, 1);
    add_one(&db, ALPHA).await;

    // Either the new listener hears of it, or the look that follows its start finds it.
    assert!(next(&mut completions).await.ok);
    engine.shutdown(LONG).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_goes_on_while_connections_are_cut() {
    let (test, db) = database().await;
    let done = Arc::new(AtomicU32::new(0));
    let counter = done.clone();
    let spec = Spec { backoff: Backoff::NONE, ..Spec::default() };
    let engine = start(test.connect().await, "a", timing(), |kinds| {
        kinds.register(Probe::<0>::new(spec, move |claim| {
            let counter = counter.clone();
            async move {
                claim.store("test-nothing", |_| Box::pin(async { Ok(()) })).await?;
                counter.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        }));
    })
    .await;
    let mut completions = engine.completions();
    add(&db, ALPHA, 400).await;

    let mut finished = 0;
    while finished < 400 {
        let end = next(&mut completions).await;
        finished += u32::from(end.ok);
        if finished.is_multiple_of(100) && end.ok {
            sql(
                &db,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .await;
        }
    }

    assert_eq!(queue(&db).await.len(), 0);
    let rows = history(&db).await;
    let successes = rows.iter().filter(|row| row.ok).count();
    assert_eq!(successes, 400, "each task is finished once");
    assert!(rows.iter().all(|row| row.ok || !row.counted), "no failure is blamed on a task");
    assert!(done.load(Ordering::SeqCst) >= 400);
    engine.shutdown(LONG).await;
}
