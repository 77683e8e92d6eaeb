//! What becomes of a task after each way an attempt can end, on a real database.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use curio_core::Failure;
use curio_harmony::tasks::{self, TaskState};
use curio_harmony::{Backoff, Event, Spec, TaskId, Triggers, TxError};
use support::*;

fn at_most(max_failures: u32) -> Spec {
    Spec { max_failures: Some(max_failures), backoff: Backoff::NONE, ..Spec::default() }
}

#[tokio::test]
async fn a_task_that_succeeds_leaves_the_queue_and_one_history_row() {
    let (_test, db) = database().await;
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(Probe::<0>::idle(Spec::default()));
    })
    .await;
    let mut completions = engine.completions();

    let task = add_one(&db, ALPHA).await;
    let end = next(&mut completions).await;

    assert_eq!((end.kind, end.task, end.ok), (ALPHA, task, true));
    assert_eq!(queue(&db).await.len(), 0);
    let history = history(&db).await;
    assert_eq!(history.len(), 1, "{history:?}");
    assert_eq!((history[0].task_id, history[0].attempt, history[0].ok), (task.0, 1, true));
    assert_eq!((history[0].machine.as_str(), history[0].address.as_str()), ("a", "a:12300"));
    assert!(history[0].work_start >= history[0].posted_at && history[0].work_end >= history[0].work_start);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn max_failures_three_means_three_attempts() {
    let (_test, db) = database().await;
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(Probe::<0>::new(at_most(3), |_| async { Err(Failure::retry("no luck")) }));
    })
    .await;
    let mut completions = engine.completions();

    let task = add_one(&db, ALPHA).await;
    ends(&mut completions, 3).await;

    let rows = queue(&db).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    assert_eq!((rows[0].id, rows[0].state, rows[0].failures, rows[0].attempt), (task.0, TaskState::Failed, 3, 3));
    assert_eq!((rows[0].failed_reason.as_str(), rows[0].failed_error.as_str()), ("max-failures", "no luck"));
    let history = history(&db).await;
    assert_eq!(
        history.iter().map(|row| (row.attempt, row.ok, row.counted)).collect::<Vec<_>>(),
        [(1, false, true), (2, false, true), (3, false, true)]
    );
    let failed = tasks::failed_among(&db, &[task, TaskId(task.0 + 1000)]).await.expect("a list");
    assert_eq!(failed.len(), 1);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_failed_task_can_be_retried_and_has_all_attempts_again() {
    let (_test, db) = database().await;
    let runs = Arc::new(AtomicU32::new(0));
    let counter = runs.clone();
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(Probe::<0>::new(at_most(2), move |_| {
            let run = counter.fetch_add(1, Ordering::SeqCst) + 1;
            async move { if run < 4 { Err(Failure::retry("not yet")) } else { Ok(()) } }
        }));
    })
    .await;
    let mut completions = engine.completions();
    let task = add_one(&db, ALPHA).await;
    ends(&mut completions, 2).await;
    assert_eq!(queue(&db).await[0].state, TaskState::Failed);

    assert!(tasks::retry(&db, task).await.expect("retry"));
    let after = ends(&mut completions, 2).await;

    assert!(after[1].ok, "{after:?}");
    assert_eq!(queue(&db).await.len(), 0);
    assert_eq!(history(&db).await.len(), 4);
    assert!(!tasks::retry(&db, task).await.expect("retry"), "there is nothing to retry any more");
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_permanent_failure_is_the_last_attempt() {
    let (_test, db) = database().await;
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(Probe::<0>::new(at_most(5), |_| async {
            Err(Failure::permanent("too-late", "its time is over"))
        }));
    })
    .await;
    let mut completions = engine.completions();

    add_one(&db, ALPHA).await;
    assert!(!next(&mut completions).await.ok);

    let rows = queue(&db).await;
    assert_eq!((rows[0].state, rows[0].failed_reason.as_str()), (TaskState::Failed, "too-late"));
    assert_eq!(history(&db).await.len(), 1);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_panic_counts_as_a_failure_and_ends_nothing_else() {
    let (_test, db) = database().await;
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds
            .register(Probe::<0>::new(at_most(2), |_| async { panic!("at the {}", "disco") }))
            .register(Probe::<1>::idle(Spec::default()));
    })
    .await;
    let mut completions = engine.completions();

    add_one(&db, ALPHA).await;
    ends(&mut completions, 2).await;
    add_one(&db, BETA).await;
    assert!(next(&mut completions).await.ok);

    let rows = queue(&db).await;
    assert_eq!(rows[0].state, TaskState::Failed);
    assert!(rows[0].failed_error.contains("panicked: at the disco"), "{rows:?}");
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn an_infrastructure_failure_does_not_count() {
    let (_test, db) = database().await;
    let runs = Arc::new(AtomicU32::new(0));
    let counter = runs.clone();
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(Probe::<0>::new(at_most(1), move |_| {
            let run = counter.fetch_add(1, Ordering::SeqCst) + 1;
            async move { if run < 4 { Err(Failure::unavailable("the network is away")) } else { Ok(()) } }
        }));
    })
    .await;
    let mut completions = engine.completions();

    add_one(&db, ALPHA).await;
    let all = ends(&mut completions, 4).await;

    assert_eq!(all.iter().map(|end| end.ok).collect::<Vec<_>>(), [false, false, false, true]);
    let history = history(&db).await;
    assert_eq!(history.iter().map(|row| row.counted).collect::<Vec<_>>(), [false, false, false, true]);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn after_a_failure_a_task_waits_out_its_backoff() {
    let (_test, db) = database().await;
    let spec = Spec { backoff: Backoff::fixed(Duration::from_secs(3000)), ..Spec::default() };
    let runs = Arc::new(AtomicU32::new(0));
    let counter = runs.clone();
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds
            .register(Probe::<0>::new(spec, move |_| {
                let run = counter.fetch_add(1, Ordering::SeqCst) + 1;
                async move { if run == 1 { Err(Failure::retry("no")) } else { Ok(()) } }
            }))
            .register(Probe::<1>::idle(Spec::default()));
    })
    .await;
    let mut completions = engine.completions();
    let task = add_one(&db, ALPHA).await;
    next(&mut completions).await;

    // Another task is taken and done meanwhile, so the engine has looked.
    add_one(&db, BETA).await;
    assert_eq!(next(&mut completions).await.kind, BETA);
    let rows = queue(&db).await;
    assert_eq!((rows[0].id, rows[0].state), (task.0, TaskState::Backoff));
    let wait = (rows[0].run_after - history(&db).await[0].work_end).num_seconds();
    assert!((2400..=3000).contains(&wait), "between four fifths and all of the backoff: {wait} s");

    // The time has come.
    assert_eq!(sql(&db, "UPDATE harmony_task SET run_after = now()").await, 1);
    assert!(next(&mut completions).await.ok);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_short_backoff_does_not_wait_for_the_poll() {
    let (_test, db) = database().await;
    let spec = Spec { backoff: Backoff::fixed(Duration::from_millis(20)), ..Spec::default() };
    let engine = start(db.clone(), "a", deaf_timing(), |kinds| {
        kinds.register(Probe::<0>::new(spec, |claim| async move {
            if claim.attempt() == 1 { Err(Failure::retry("no")) } else { Ok(()) }
        }));
    })
    .await;
    let mut completions = engine.completions();

    add_one(&db, ALPHA).await;
    let all = ends(&mut completions, 2).await;

    assert!(all[1].ok);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn what_a_claim_stores_is_fenced_by_owner_and_attempt() {
    let (_test, db) = database().await;
    sql(&db, "CREATE TABLE result (value text)").await;
    let store = |claim: curio_harmony::Claim, value: &'static str| async move {
        claim
            .store("test-store", move |tx| {
                Box::pin(async move {
                    sqlx::query("INSERT INTO result VALUES ($1)").bind(value).execute(tx).await?;
                    Ok::<(), TxError>(())
                })
            })
            .await
    };
    let (told, mut tell) = tokio::sync::mpsc::unbounded_channel();
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(Probe::<0>::new(Spec::default(), move |claim| {
            let told = told.clone();
            async move {
                store(claim.clone(), "ours").await?;
                // Somebody else gets the task, and this attempt does not know.
                sql(claim.db(), "UPDATE harmony_task SET attempt = attempt + 1, owner_id = 4711").await;
                let late = store(claim.clone(), "late").await;
                told.send(matches!(late, Err(Failure::Lost))).expect("the test listens");
                late
            }
        }));
    })
    .await;

    let task = add_one(&db, ALPHA).await;
    assert!(within("the attempt stores", tell.recv()).await.expect("an answer"), "the late store must be Lost");
    engine.shutdown(LONG).await;

    let values: Vec<String> = sqlx::query_scalar("SELECT value FROM result").fetch_all(db.pool()).await.expect("rows");
    assert_eq!(values, ["ours"]);
    let rows = queue(&db).await;
    assert_eq!((rows[0].id, rows[0].attempt, rows[0].state), (task.0, 2, TaskState::Running));
    assert_eq!(history(&db).await.len(), 0, "a lost attempt says nothing");
}

#[tokio::test]
async fn a_task_added_by_a_task_remembers_it_and_starts_at_once() {
    let (_test, db) = database().await;
    let engine = start(db.clone(), "a", deaf_timing(), |kinds| {
        kinds
            .register(Probe::<0>::new(Spec::default(), |claim| async move {
                claim.store("test-next", |tx| Box::pin(async move { tasks::add(tx, BETA).await })).await?;
                Ok(())
            }))
            .register(Probe::<1>::new(Spec::default(), |claim| async move {
                let (by, previous): (Option<i64>, Option<i64>) =
                    sqlx::query_as("SELECT added_by, previous_task FROM harmony_task WHERE id = $1")
                        .bind(claim.task().0)
                        .fetch_one(claim.db().pool())
                        .await
                        .map_err(|error| Failure::retry(error.to_string()))?;
                if by.is_some() && previous.is_some() { Ok(()) } else { Err(Failure::permanent("test", "no parent")) }
            }));
    })
    .await;
    let mut completions = engine.completions();

    add_one(&db, ALPHA).await;
    let all = ends(&mut completions, 2).await;

    assert!(all.iter().all(|end| end.ok), "{all:?}");
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_follower_proposes_after_a_completion() {
    let (_test, db) = database().await;
    let follows_alpha = Triggers { completed: &[ALPHA], idle_every: None };
    let engine = start(db.clone(), "a", deaf_timing(), |kinds| {
        kinds.register(Probe::<0>::idle(Spec::default())).register(Probe::<1>::idle(Spec::default()).propose(
            follows_alpha,
            |tx, event| {
                Box::pin(async move {
                    assert!(matches!(event, Event::Completed { kind: ALPHA, .. }));
                    tasks::add(tx, BETA).await?;
                    Ok(1)
                })
            },
        ));
    })
    .await;
    let mut completions = engine.completions();

    add_one(&db, ALPHA).await;
    let all = ends(&mut completions, 2).await;

    assert_eq!(all.iter().map(|end| (end.kind, end.ok)).collect::<Vec<_>>(), [(ALPHA, true), (BETA, true)]);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_machine_with_nothing_to_do_asks_for_ideas_no_more_often_than_told() {
    let (_test, db) = database().await;
    let rarely = Triggers { completed: &[], idle_every: Some(Duration::from_secs(3600)) };
    let asked = Arc::new(AtomicU32::new(0));
    let counter = asked.clone();
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(Probe::<0>::idle(Spec::default()).propose(rarely, move |tx, event| {
            counter.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                assert_eq!(event, Event::Idle);
                tasks::add(tx, ALPHA).await?;
                Ok(1)
            })
        }));
    })
    .await;
    let mut completions = engine.completions();

    assert!(next(&mut completions).await.ok);
    // Several more looks with nothing to do.
    let looks = engine.metrics().cycle_count();
    within("the engine looks again", async {
        while engine.metrics().cycle_count() < looks + 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;

    assert_eq!(asked.load(Ordering::SeqCst), 1);
    engine.shutdown(LONG).await;
}
