//! Two leases on a real database: how soon a machine that is silent loses its deadline tasks, what it keeps, and that a
//! machine which stops is not silent.

mod support;

use std::sync::Arc;
use std::time::Duration;

use curio_harmony::machines::{self, MachineState};
use curio_harmony::{Db, EngineState, Timing};
use support::*;
use tokio::sync::{Semaphore, mpsc};

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

#[tokio::test]
async fn a_machine_that_stops_is_heard_until_its_last_attempt_has_ended() {
    let (test, db) = database().await;
    let beating = Timing { deadline_heartbeat: Duration::from_millis(50), ..timing() };
    let (began, mut starts) = mpsc::unbounded_channel();
    let may_end = Arc::new(Semaphore::new(0));
    let gate = may_end.clone();
    let engine = start(test.connect().await, "a", beating, |kinds| {
        // It does not listen: it is about to be done.
        kinds.register(Probe::<0>::new(urgent(1), move |claim| {
            let (began, gate) = (began.clone(), gate.clone());
            async move {
                began.send((claim.task(), claim.attempt())).expect("the test listens");
                gate.acquire().await.expect("open").forget();
                Ok(())
            }
        }));
    })
    .await;
    add_one(&db, ALPHA).await;
    started(&mut starts).await;
    let mut state = engine.state();
    let stop = tokio::spawn(engine.shutdown(LONG));
    within("it stops", state.wait_for(|state| *state == EngineState::Stopping)).await.expect("a state");

    sql(&db, "UPDATE harmony_task_machines SET last_contact = now() - interval '15 s'").await;

    within("it is heard", async {
        while machines::list(&db).await.expect("machines")[0].contact_age_s > 10.0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    may_end.add_permits(1);
    within("it has stopped", stop).await.expect("no panic");
    assert_eq!(machines::list(&db).await.expect("machines")[0].state, MachineState::Stopped);
    assert!(history(&db).await[0].ok);
}

#[tokio::test]
async fn deadline_work_that_a_stopping_machine_gives_back_is_told_to_the_others_at_once() {
    let (test, db) = database().await;
    let (proving, mut starts) = endless::<0>(urgent(1));
    let stopping = start(test.connect().await, "stopping", timing(), |kinds| {
        kinds.register(proving);
    })
    .await;
    let task = add_one(&db, ALPHA).await;
    assert_eq!(started(&mut starts).await, (task, 1));
    let (proving, mut starts) = endless::<0>(urgent(1));
    // Nothing but a hint makes it look.
    let other = start(test.connect().await, "other", deaf_timing(), |kinds| {
        kinds.register(proving);
    })
    .await;
    until_listening(&other).await;

    stopping.shutdown(LONG).await;

    assert_eq!(started(&mut starts).await, (task, 2));
    other.shutdown(LONG).await;
}
