//! Processes that are known to be dead, machines that are about to leave, and what the others hear of it, on a real
//! database.

mod support;

use std::time::Duration;

use curio_harmony::machines::{self, DeadProcess, MachineRow, MachineState, Released};
use curio_harmony::tasks::{self, TaskState};
use curio_harmony::testing::TestDb;
use curio_harmony::{Claim, Db, Engine, MachineSpec, Registry, Spec, TaskId, Timing};
use sqlx::types::chrono::{DateTime, Utc};
use support::*;
use tokio::sync::mpsc;

const POD: &str = "uid-1";

/// Tells every start and goes on until it is cancelled.
fn endless(spec: Spec) -> (Probe<0>, mpsc::UnboundedReceiver<(TaskId, u32)>) {
    let (started, starts) = mpsc::unbounded_channel();
    let probe = Probe::new(spec, move |claim: Claim| {
        let started = started.clone();
        async move {
            // The test may have heard enough.
            let _ = started.send((claim.task(), claim.attempt()));
            claim.cancelled().cancelled().await;
            Err(curio_core::Failure::Stopping)
        }
    });
    (probe, starts)
}

fn in_pod(name: &str, instance: &str, started_at: DateTime<Utc>) -> MachineSpec {
    MachineSpec { instance: instance.to_owned(), process_started_at: started_at, ..machine(name) }
}

async fn run_in_pod(db: Db, spec: MachineSpec, timing: Timing, probe: Probe<0>) -> Engine {
    let mut registry = Registry::new();
    registry.register(probe);
    Engine::start(db, registry, spec, timing).await.expect("the engine starts")
}

/// A process in the pod that took one task and was killed: when it started, and the task.
async fn killed_at_work(test: &TestDb, spec: Spec) -> (DateTime<Utc>, TaskId) {
    let started_at = Utc::now();
    let (probe, mut starts) = endless(spec);
    let engine = run_in_pod(test.connect().await, in_pod("a", POD, started_at), timing(), probe).await;
    let task = add_one(test.db(), ALPHA).await;
    assert_eq!(within("it starts", starts.recv()).await, Some((task, 1)));
    drop(engine);
    (started_at, task)
}

fn dead(ended_at: DateTime<Utc>) -> DeadProcess {
    DeadProcess { name: "a".to_owned(), instance: POD.to_owned(), ended_at }
}

async fn release(db: &Db, dead: &DeadProcess) -> Option<Released> {
    machines::release_dead(db, dead).await.expect("the database answers")
}

async fn row(db: &Db) -> MachineRow {
    machines::list(db).await.expect("machines").remove(0)
}

/// Waits until a statement of another connection waits for a lock.
async fn somebody_waits_for_a_lock(db: &Db) {
    within("a statement waits", async {
        loop {
            let waiting: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",
            )
            .fetch_one(db.pool())
            .await
            .expect("the activity can be read");
            if waiting > 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_dead_process_gives_its_tasks_back_at_once_and_the_attempt_counts() {
    let (test, db) = database().await;
    let (started_at, task) = killed_at_work(&test, Spec { max_failures: Some(3), ..Spec::default() }).await;

    let released = release(&db, &dead(started_at)).await.expect("it is released");

    let tasks: Vec<_> =
        released.tasks.iter().map(|task| (task.id, task.kind.as_str(), task.attempt, task.failed)).collect();
    assert_eq!(tasks, [(task.0, "Alpha", 1, false)]);
    let queued = queue(&db).await;
    assert_eq!((queued[0].state, queued[0].failures), (TaskState::Waiting, 1));
    let rows = history(&db).await;
    assert_eq!((rows.len(), rows[0].ok, rows[0].counted, rows[0].machine.as_str()), (1, false, true, "a"));
    assert_eq!(row(&db).await.state, MachineState::Lost);
    assert_eq!(release(&db, &dead(started_at)).await, None, "once is enough");
}

#[tokio::test]
async fn the_last_attempt_that_dies_fails_the_task() {
    let (test, db) = database().await;
    let (started_at, _) = killed_at_work(&test, Spec { max_failures: Some(1), ..Spec::default() }).await;

    let released = release(&db, &dead(started_at)).await.expect("it is released");

    assert!(released.tasks[0].failed);
    let queued = queue(&db).await;
    assert_eq!((queued[0].state, queued[0].failed_reason.as_str()), (TaskState::Failed, "max-failures"));
}

#[tokio::test]
async fn a_report_about_another_process_changes_nothing() {
    let (test, db) = database().await;
    let (started_at, _) = killed_at_work(&test, Spec::default()).await;
    let reports = [
        DeadProcess { name: "b".to_owned(), ..dead(started_at) },
        DeadProcess { instance: "uid-2".to_owned(), ..dead(started_at) },
        DeadProcess { instance: String::new(), ..dead(started_at) },
        dead(started_at - Duration::from_millis(1)),
    ];

    for report in reports {
        assert_eq!(release(&db, &report).await, None, "{report:?}");
    }
    let queued = queue(&db).await;
    assert_eq!((queued[0].state, queued[0].failures, row(&db).await.state), (TaskState::Running, 0, MachineState::Up));
}

#[tokio::test]
async fn a_machine_that_nobody_gave_an_instance_is_never_released_by_a_report() {
    let (test, db) = database().await;
    let engine =
        run_in_pod(test.connect().await, in_pod("a", "", Utc::now()), timing(), Probe::idle(Spec::default())).await;

    let report = DeadProcess { instance: String::new(), ..dead(Utc::now()) };

    assert_eq!(release(&db, &report).await, None);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_process_that_signed_off_is_left_as_it_is() {
    let (test, db) = database().await;
    let engine =
        run_in_pod(test.connect().await, in_pod("a", POD, Utc::now()), timing(), Probe::idle(Spec::default())).await;
    engine.shutdown(LONG).await;

    assert_eq!(release(&db, &dead(Utc::now())).await, None);
    assert_eq!(row(&db).await.state, MachineState::Stopped);
}

#[tokio::test]
async fn a_container_that_starts_again_keeps_its_tasks_and_the_late_report_counts_nothing() {
    let (test, db) = database().await;
    let (started_at, task) = killed_at_work(&test, Spec { max_failures: Some(3), ..Spec::default() }).await;
    let ended_at = started_at + Duration::from_secs(1);
    let (probe, mut starts) = endless(Spec { max_failures: Some(3), ..Spec::default() });
    let again = in_pod("a", POD, ended_at + Duration::from_millis(1));
    let engine = run_in_pod(test.connect().await, again, timing(), probe).await;
    assert_eq!(within("it takes its task back", starts.recv()).await, Some((task, 2)));

    assert_eq!(release(&db, &dead(ended_at)).await, None);

    let queued = queue(&db).await;
    assert_eq!((queued[0].state, queued[0].attempt, queued[0].failures), (TaskState::Running, 2, 1));
    assert_eq!(history(&db).await.len(), 1, "the crash counts once");
    assert_eq!(engine.running(), 1);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_report_first_and_a_restart_afterwards_count_the_crash_once() {
    let (test, db) = database().await;
    let (started_at, task) = killed_at_work(&test, Spec { max_failures: Some(3), ..Spec::default() }).await;
    release(&db, &dead(started_at)).await.expect("it is released");

    let (probe, mut starts) = endless(Spec { max_failures: Some(3), ..Spec::default() });
    let again = in_pod("a", POD, started_at + Duration::from_secs(1));
    let engine = run_in_pod(test.connect().await, again, timing(), probe).await;

    assert_eq!(within("it claims like any other", starts.recv()).await, Some((task, 2)));
    assert_eq!((queue(&db).await[0].failures, history(&db).await.len()), (1, 1));
    assert_eq!(row(&db).await.state, MachineState::Up);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_report_and_a_restart_at_the_same_moment_count_the_crash_once_whoever_is_first() {
    for round in 0..16 {
        let (test, db) = database().await;
        let (started_at, _) = killed_at_work(&test, Spec { max_failures: Some(3), ..Spec::default() }).await;
        let (probe, _starts) = endless(Spec { max_failures: Some(3), ..Spec::default() });
        let again = in_pod("a", POD, started_at + Duration::from_secs(1));
        let restart = run_in_pod(test.connect().await, again, timing(), probe);
        let report = dead(started_at);
        let report = release(&db, &report);

        // Whoever is polled first is ahead by a statement.
        let engine = if round % 2 == 0 { tokio::join!(restart, report).0 } else { tokio::join!(report, restart).1 };

        assert_eq!((queue(&db).await[0].failures, history(&db).await.len()), (1, 1));
        assert_eq!(row(&db).await.state, MachineState::Up);
        engine.shutdown(LONG).await;
    }
}

#[tokio::test]
async fn a_completion_that_is_being_written_goes_before_the_release() {
    let (test, db) = database().await;
    let (started_at, task) = killed_at_work(&test, Spec::default()).await;
    // As the engine writes the end of an attempt, with a commit that takes its time.
    let mut end = db.pool().begin().await.expect("a transaction");
    let done =
        sqlx::query("DELETE FROM harmony_task WHERE id = $1").bind(task.0).execute(&mut *end).await.expect("a row");
    assert_eq!(done.rows_affected(), 1);
    let report = tokio::spawn({
        let (db, dead) = (db.clone(), dead(started_at));
        async move { release(&db, &dead).await }
    });
    somebody_waits_for_a_lock(&db).await;

    end.commit().await.expect("the end is stored");

    let released = within("the release goes on", report).await.expect("no panic").expect("the machine is dead");
    assert_eq!(released.tasks, []);
    assert_eq!((queue(&db).await.len(), history(&db).await.len()), (0, 0), "nothing is counted as failed");
}

#[tokio::test]
async fn a_heartbeat_that_is_being_written_does_not_keep_the_dead_alive() {
    let (test, db) = database().await;
    let (started_at, _) = killed_at_work(&test, Spec::default()).await;
    let mut beat = db.pool().begin().await.expect("a transaction");
    sqlx::query("UPDATE harmony_task_machines SET last_contact = now()").execute(&mut *beat).await.expect("a row");
    let report = tokio::spawn({
        let (db, dead) = (db.clone(), dead(started_at));
        async move { release(&db, &dead).await }
    });
    somebody_waits_for_a_lock(&db).await;

    beat.commit().await.expect("the heartbeat is stored");

    let released = within("the release goes on", report).await.expect("no panic").expect("the machine is dead");
    assert_eq!(released.tasks.len(), 1);
    assert_eq!(row(&db).await.state, MachineState::Lost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_report_and_the_end_of_the_lease_count_the_crash_once() {
    for _ in 0..10 {
        let (test, db) = database().await;
        let (started_at, _) = killed_at_work(&test, Spec { max_failures: Some(3), ..Spec::default() }).await;
        let watching = Timing { heartbeat: Duration::from_millis(20), lease: Duration::from_secs(30), ..timing() };
        let watcher = start(test.connect().await, "watcher", watching, |_| {}).await;
        sql(&db, "UPDATE harmony_task_machines SET last_contact = now() - interval '1 hour' WHERE name = 'a'").await;

        release(&db, &dead(started_at)).await;
        within("somebody released it", async {
            while queue(&db).await[0].state != TaskState::Waiting {
                tokio::task::yield_now().await;
            }
        })
        .await;

        assert_eq!((queue(&db).await[0].failures, history(&db).await.len()), (1, 1));
        watcher.shutdown(LONG).await;
    }
}

#[tokio::test]
async fn a_claim_that_was_under_way_at_the_release_is_found_by_the_others() {
    let (test, db) = database().await;
    let (started_at, task) = killed_at_work(&test, Spec::default()).await;
    let released = release(&db, &dead(started_at)).await.expect("it is released");
    // The claim had read the machine's row before.
    sql(&db, "UPDATE harmony_task SET owner_id = (SELECT id FROM harmony_task_machines), attempt = 2").await;
    assert_eq!(released.tasks.len(), 1);

    let watching = Timing { heartbeat: Duration::from_millis(50), lease: Duration::from_secs(30), ..timing() };
    let watcher = start(test.connect().await, "watcher", watching, |_| {}).await;
    within("it is released again", async {
        while queue(&db).await[0].state != TaskState::Waiting {
            tokio::task::yield_now().await;
        }
    })
    .await;

    assert_eq!(queue(&db).await[0].id, task.0);
    watcher.shutdown(LONG).await;
}

#[tokio::test]
async fn a_cordoned_machine_goes_on_and_claims_nothing_new_until_it_may_again() {
    let (test, db) = database().await;
    let (probe, mut starts) = endless(Spec::default());
    let engine = run_in_pod(test.connect().await, in_pod("a", POD, Utc::now()), timing(), probe).await;
    let first = add_one(&db, ALPHA).await;
    assert_eq!(within("it starts", starts.recv()).await, Some((first, 1)));

    assert!(machines::cordon(&db, "a", true).await.expect("the database answers"));
    let since = row(&db).await.cordoned_at;
    let second = add_one(&db, ALPHA).await;
    let looks = engine.metrics().cycle_count();
    within("it looks at the queue", async {
        while engine.metrics().cycle_count() < looks + 3 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!((engine.running(), queue(&db).await.len()), (1, 2));
    assert!(machines::cordon(&db, "a", true).await.expect("the database answers"));
    assert_eq!(row(&db).await.cordoned_at, since, "a second cordon is the first one");

    assert!(machines::cordon(&db, "a", false).await.expect("the database answers"));
    assert_eq!(within("it claims again", starts.recv()).await, Some((second, 1)));
    assert!(!machines::cordon(&db, "nobody", true).await.expect("the database answers"));
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_cordoned_container_that_starts_again_takes_back_its_own_and_stays_cordoned() {
    let (test, db) = database().await;
    let (started_at, task) = killed_at_work(&test, Spec::default()).await;
    machines::cordon(&db, "a", true).await.expect("the database answers");

    let (probe, mut starts) = endless(Spec::default());
    let again = in_pod("a", POD, started_at + Duration::from_secs(1));
    let engine = run_in_pod(test.connect().await, again, timing(), probe).await;

    assert_eq!(within("it takes its task back", starts.recv()).await, Some((task, 2)));
    assert!(row(&db).await.cordoned_at.is_some());
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn the_next_pod_of_a_slot_starts_without_the_cordon() {
    let (test, db) = database().await;
    let (started_at, task) = killed_at_work(&test, Spec::default()).await;
    machines::cordon(&db, "a", true).await.expect("the database answers");
    release(&db, &dead(started_at)).await.expect("it is released");

    let (probe, mut starts) = endless(Spec::default());
    let next = in_pod("a", "uid-2", started_at + Duration::from_secs(1));
    let engine = run_in_pod(test.connect().await, next, timing(), probe).await;

    assert_eq!(within("it claims", starts.recv()).await, Some((task, 2)));
    let row = row(&db).await;
    assert_eq!((row.cordoned_at, row.instance.as_str()), (None, "uid-2"));
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn only_a_machine_that_is_gone_and_owns_nothing_is_forgotten() {
    let (test, db) = database().await;
    let (started_at, _) = killed_at_work(&test, Spec::default()).await;
    let forget = || async { machines::forget(&db, "a").await.expect("the database answers") };
    assert!(!forget().await, "it looks alive");
    sql(&db, "UPDATE harmony_task_machines SET evicted_at = now()").await;
    assert!(!forget().await, "it owns a task");
    sql(&db, "UPDATE harmony_task_machines SET evicted_at = NULL").await;
    release(&db, &dead(started_at)).await.expect("it is released");

    assert!(forget().await);
    assert_eq!(machines::list(&db).await.expect("machines").len(), 0);
    assert!(!forget().await);
}

#[tokio::test]
async fn the_load_counts_what_waits_runs_backs_off_and_failed_by_kind() {
    let (test, db) = database().await;
    // One at a time: a claim that was on its way when the process died must not take what is added below.
    let (_, running) = killed_at_work(&test, Spec { max_running: Some(1), ..Spec::default() }).await;
    add(&db, ALPHA, 4).await;
    add(&db, BETA, 1).await;
    sql(
        &db,
        "WITH free AS (SELECT id, row_number() OVER (ORDER BY id) AS place FROM harmony_task WHERE name = 'Alpha' AND owner_id IS NULL)
         UPDATE harmony_task t
         SET run_after = CASE WHEN place = 1 THEN now() + interval '1 hour' WHEN place = 3 THEN now() - interval '1 minute' ELSE t.run_after END,
             failed_at = CASE WHEN place = 2 THEN now() END
         FROM free WHERE free.id = t.id",
    )
    .await;

    let load = tasks::load(&db).await.expect("the load");

    let counts: Vec<_> = load
        .iter()
        .map(|kind| (kind.kind.as_str(), kind.waiting, kind.running, kind.backing_off, kind.failed))
        .collect();
    assert_eq!(counts, [("Alpha", 2, 1, 1, 1), ("Beta", 1, 0, 0, 0)]);
    assert!((60.0..120.0).contains(&load[0].oldest_wait_s), "{load:?}");
    let runs = tasks::running(&db).await.expect("the running tasks");
    let runs: Vec<_> = runs.iter().map(|run| (run.id, run.kind.as_str(), run.machine.as_str(), run.attempt)).collect();
    assert_eq!(runs, [(running.0, "Alpha", "a", 1)]);
}
