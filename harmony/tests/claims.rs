//! Who gets which task: races, limits, order, filters and reservations, on a real database.

mod support;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use curio_core::Resources;
use curio_harmony::{Backoff, Class, Db, DbError, Refusal, Registry, Reserved, Spec, TaskId, Triggers, tasks};
use rstest::rstest;
use support::*;
use tokio::sync::Semaphore;

#[tokio::test(flavor = "multi_thread")]
async fn two_machines_racing_for_one_task_give_it_to_one() {
    let (test, db) = database().await;
    for _ in 0..20 {
        let runs = Arc::new(AtomicU32::new(0));
        let fill = |kinds: &mut Registry, runs: Arc<AtomicU32>| {
            kinds.register(Probe::<0>::new(Spec::default(), move |_| {
                runs.fetch_add(1, Ordering::SeqCst);
                async { Ok(()) }
            }));
        };
        let one = start(test.connect().await, "one", deaf_timing(), |kinds| fill(kinds, runs.clone())).await;
        let two = start(test.connect().await, "two", deaf_timing(), |kinds| fill(kinds, runs.clone())).await;
        let (mut of_one, mut of_two) = (one.completions(), two.completions());

        add_one(&db, ALPHA).await;
        one.nudge();
        two.nudge();
        within("one of them runs it", async {
            tokio::select! {
                end = of_one.recv() => end,
                end = of_two.recv() => end,
            }
        })
        .await
        .expect("an end");
        one.shutdown(LONG).await;
        two.shutdown(LONG).await;

        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }
    assert_eq!(history(&db).await.len(), 20);
}

#[rstest]
#[case::read_committed("read\\ committed", 2000)]
#[case::repeatable_read("repeatable\\ read", 1000)]
#[case::serializable("serializable", 200)]
#[tokio::test(flavor = "multi_thread")]
async fn eight_machines_run_each_task_once(#[case] isolation: &str, #[case] count: u32) {
    let (test, db) = database().await;
    let isolated = url_with_option(test.url(), &format!("-cdefault_transaction_isolation={isolation}"));
    let ran: Arc<Mutex<Vec<TaskId>>> = Arc::default();
    let left = Arc::new(Semaphore::new(0));
    for kind in [ALPHA, BETA, GAMMA, KINDS[3]] {
        add(&db, kind, count / 4).await;
    }
    let mut engines = Vec::new();
    for index in 0..8 {
        let (ran, left) = (ran.clone(), left.clone());
        let run = move |claim: curio_harmony::Claim| {
            ran.lock().expect("no panic").push(claim.task());
            left.add_permits(1);
            async { Ok(()) }
        };
        let fill = |kinds: &mut Registry| {
            kinds
                .register(Probe::<0>::new(Spec::default(), run.clone()))
                .register(Probe::<1>::new(Spec::default(), run.clone()))
                .register(Probe::<2>::new(Spec::default(), run.clone()))
                .register(Probe::<3>::new(Spec::default(), run));
        };
        let own = Db::connect(&isolated, "curio-test").await.expect("the database is there");
        if index == 0 {
            let level: String =
                sqlx::query_scalar("SHOW transaction_isolation").fetch_one(own.pool()).await.expect("a level");
            assert_eq!(level, isolation.replace('\\', ""));
        }
        engines.push(start(own, &format!("m{index}"), timing(), fill).await);
    }

    within("all tasks run", left.acquire_many(count)).await.expect("open").forget();
    for engine in engines {
        engine.shutdown(LONG).await;
    }

    let ran = ran.lock().expect("no panic").clone();
    let distinct: HashSet<_> = ran.iter().collect();
    assert_eq!((ran.len(), distinct.len()), (count as usize, count as usize));
    let rows = history(&db).await;
    assert_eq!(rows.len(), count as usize);
    assert!(rows.iter().all(|row| row.ok && row.attempt == 1));
    assert_eq!(queue(&db).await.len(), 0);
}

/// Runs until released, and records the order of starts.
#[derive(Clone)]
struct Gate {
    started: tokio::sync::mpsc::UnboundedSender<TaskId>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> (Gate, tokio::sync::mpsc::UnboundedReceiver<TaskId>) {
        let (started, starts) = tokio::sync::mpsc::unbounded_channel();
        (Gate { started, open: Arc::new(Semaphore::new(0)) }, starts)
    }

    fn probe<const K: usize>(&self, spec: Spec) -> Probe<K> {
        let gate = self.clone();
        Probe::new(spec, move |claim| {
            let gate = gate.clone();
            async move {
                gate.started.send(claim.task()).expect("the test listens");
                gate.open.acquire().await.expect("open").forget();
                Ok(())
            }
        })
    }
}

#[tokio::test]
async fn no_more_than_max_running_run_at_once() {
    let (_test, db) = database().await;
    let (gate, mut starts) = Gate::new();
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(gate.probe::<0>(Spec { max_running: Some(3), ..Spec::default() }));
    })
    .await;
    let mut completions = engine.completions();

    add(&db, ALPHA, 10).await;
    for _ in 0..3 {
        within("a task starts", starts.recv()).await;
    }
    within("the limit refuses", async {
        while engine.metrics().refusals(ALPHA).iter().all(|(refusal, _)| *refusal != Refusal::Limit) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(engine.running(), 3);
    gate.open.add_permits(10);
    ends(&mut completions, 10).await;

    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn kinds_that_share_a_device_get_it_in_order_of_class_and_stage() {
    let (_test, db) = database().await;
    let (gate, mut starts) = Gate::new();
    let device = Resources { cpu: 1, ram_bytes: 0, gpu_milli: 1000 };
    let spec = |class, order| Spec { cost: device, class, order, ..Spec::default() };
    let early = add(&db, ALPHA, 2).await;
    let late = add(&db, BETA, 1).await;
    let urgent = add(&db, GAMMA, 1).await;
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds
            .register(gate.probe::<0>(spec(Class::Normal, 1)))
            .register(gate.probe::<1>(spec(Class::Normal, 9)))
            .register(gate.probe::<2>(spec(Class::Deadline, 0)));
    })
    .await;

    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(within("a task starts", starts.recv()).await.expect("a start"));
        assert_eq!(engine.running(), 1, "there is one device");
        gate.open.add_permits(1);
    }

    assert_eq!(order[..2], [urgent[0], late[0]]);
    assert_eq!(order[2..], early, "the longest waiting first");
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_filtered_kind_runs_what_it_accepts_and_nothing_else() {
    let (_test, db) = database().await;
    let tasks = add(&db, ALPHA, 5).await;
    let wanted = [tasks[3], tasks[1]];
    let spec = Spec { filtered: true, max_running: Some(1), ..Spec::default() };
    let engine = start(db.clone(), "a", timing(), |kinds| {
        // It also names a task that nobody offered, and one twice.
        kinds.register(Probe::<0>::idle(spec).accept(move |offered| {
            let known = wanted.iter().copied().filter(|task| offered.contains(task));
            Ok(known.clone().chain(known).chain([TaskId(999_999)]).collect())
        }));
    })
    .await;
    let mut completions = engine.completions();

    let done: Vec<_> = ends(&mut completions, 2).await.iter().map(|end| end.task).collect();

    assert_eq!(done, wanted);
    within("can_accept refuses the rest", async {
        while engine.metrics().refusals(ALPHA).iter().all(|(refusal, _)| *refusal != Refusal::CanAccept) {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(queue(&db).await.len(), 3);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn an_acceptable_task_behind_many_refused_ones_is_found() {
    let (_test, db) = database().await;
    add(&db, ALPHA, 300).await;
    let wanted = add_one(&db, ALPHA).await;
    let spec = Spec { filtered: true, ..Spec::default() };
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(
            Probe::<0>::idle(spec)
                .accept(move |offered| Ok(offered.iter().copied().filter(|task| *task == wanted).collect())),
        );
    })
    .await;

    let end = next(&mut engine.completions()).await;

    assert_eq!(end.task, wanted);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn a_refused_filtered_kind_does_not_hold_the_device_back() {
    let (_test, db) = database().await;
    let device = Resources { cpu: 0, ram_bytes: 0, gpu_milli: 1000 };
    add(&db, ALPHA, 3).await;
    let wanted = add_one(&db, BETA).await;
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds
            .register(
                Probe::<0>::idle(Spec { cost: device, filtered: true, order: 9, ..Spec::default() })
                    .accept(|_| Ok(Vec::new())),
            )
            .register(Probe::<1>::idle(Spec { cost: device, order: 1, ..Spec::default() }));
    })
    .await;

    let end = next(&mut engine.completions()).await;

    assert_eq!(end.task, wanted);
    engine.shutdown(LONG).await;
}

/// Tells when it is dropped.
struct Room(Arc<AtomicU32>);

impl Drop for Room {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_reservation_is_held_while_the_task_runs_and_given_back_after() {
    let (_test, db) = database().await;
    let held = Arc::new(AtomicU32::new(0));
    let (during, taker) = (held.clone(), held.clone());
    let spec = Spec { filtered: true, ..Spec::default() };
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(
            Probe::<0>::new(spec, move |_| {
                let held = during.load(Ordering::SeqCst);
                async move { if held == 1 { Ok(()) } else { Err(curio_core::Failure::permanent("test", "not held")) } }
            })
            .reserve(move |_| {
                taker.fetch_add(1, Ordering::SeqCst);
                Ok(Reserved::Held(Box::new(Room(taker.clone()))))
            }),
        );
    })
    .await;
    let mut completions = engine.completions();

    add_one(&db, ALPHA).await;
    assert!(next(&mut completions).await.ok);

    assert_eq!(held.load(Ordering::SeqCst), 0);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn one_task_without_room_does_not_block_the_others() {
    for filtered in [true, false] {
        let (_test, db) = database().await;
        let tasks = add(&db, ALPHA, 3).await;
        let big = tasks[0];
        let room = Arc::new(AtomicBool::new(false));
        let there = room.clone();
        let spec = Spec { filtered, max_running: Some(1), max_failures: Some(1), ..Spec::default() };
        let engine = start(db.clone(), "a", timing(), |kinds| {
            kinds.register(Probe::<0>::idle(spec).reserve(move |task| {
                if task == big && !there.load(Ordering::SeqCst) {
                    return Ok(Reserved::NoRoom("the path is full".to_owned()));
                }
                Ok(Reserved::Nothing)
            }));
        })
        .await;
        let mut completions = engine.completions();

        let mut done = Vec::new();
        while done.len() < 2 {
            let end = next(&mut completions).await;
            done.extend(end.ok.then_some(end.task));
        }
        assert_eq!(done, tasks[1..], "filtered: {filtered}");
        // Not lost either: it runs when there is room.
        room.store(true, Ordering::SeqCst);
        within("the big one runs", async { while !next(&mut completions).await.ok {} }).await;
        assert!(engine.metrics().refusals(ALPHA).iter().any(|(refusal, _)| *refusal == Refusal::Storage));
        assert_eq!(queue(&db).await.len(), 0);
        engine.shutdown(LONG).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_given_back_when_another_machine_was_faster() {
    let (test, db) = database().await;
    let held = Arc::new(AtomicU32::new(0));
    let taker = held.clone();
    let thief = test.connect().await;
    let task = add_one(&db, ALPHA).await;
    let spec = Spec { filtered: true, backoff: Backoff::NONE, ..Spec::default() };
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds.register(Probe::<0>::idle(spec).reserve(move |_| {
            taker.fetch_add(1, Ordering::SeqCst);
            // Between the reservation and the claim, somebody else takes the task.
            let thief = thief.clone();
            tokio::task::block_in_place(|| {
                tokio::runtime::Handle::current().block_on(async {
                    sql(&thief, "UPDATE harmony_task SET owner_id = 4711").await;
                });
            });
            Ok(Reserved::Held(Box::new(Room(taker.clone()))))
        }));
    })
    .await;

    within("the race is noticed", async {
        while engine.metrics().refusals(ALPHA).iter().all(|(refusal, _)| *refusal != Refusal::Raced) {
            tokio::task::yield_now().await;
        }
    })
    .await;

    assert_eq!(held.load(Ordering::SeqCst), 0);
    assert_eq!(queue(&db).await[0].id, task.0);
    assert_eq!(history(&db).await.len(), 0);
    engine.shutdown(Duration::from_secs(1)).await;
}

#[tokio::test]
async fn a_kind_that_panics_when_asked_stops_neither_the_machine_nor_other_kinds() {
    let (_test, db) = database().await;
    add(&db, ALPHA, 3).await;
    add(&db, BETA, 1).await;
    let filtered = Spec { filtered: true, ..Spec::default() };
    let engine = start(db.clone(), "a", timing(), |kinds| {
        kinds
            .register(Probe::<0>::idle(filtered).accept(|_| panic!("no idea")))
            .register(Probe::<1>::idle(filtered).reserve(|_| Ok(Reserved::Nothing)))
            .register(Probe::<2>::idle(filtered).reserve(|_| panic!("no idea either")));
    })
    .await;
    let mut completions = engine.completions();
    assert_eq!(next(&mut completions).await.kind, BETA);

    add(&db, GAMMA, 1).await;
    within("the panic is noticed", async {
        while engine.metrics().refusals(GAMMA).is_empty() || engine.metrics().refusals(ALPHA).is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    add(&db, BETA, 1).await;
    assert_eq!(next(&mut completions).await.kind, BETA);

    assert_eq!(queue(&db).await.len(), 4);
    engine.shutdown(LONG).await;
}

#[tokio::test]
async fn two_proposals_of_the_same_work_make_one_task() {
    let (test, db) = database().await;
    sql(&db, "CREATE TABLE wanted (thing text PRIMARY KEY, task_id bigint)").await;
    let idle = Triggers { completed: &[], idle_every: Some(Duration::from_millis(1)) };
    let mut engines = Vec::new();
    for name in ["one", "two"] {
        let engine = start(test.connect().await, name, timing(), |kinds| {
            kinds.register(Probe::<0>::idle(Spec::default()).propose(idle, |tx, _| {
                Box::pin(async move {
                    let task = tasks::add(tx, ALPHA).await?;
                    sqlx::query("INSERT INTO wanted VALUES ('one', $1)")
                        .bind(task.0)
                        .execute(tx)
                        .await
                        .map_err(DbError::from)?;
                    Ok(1)
                })
            }));
        });
        engines.push(engine.await);
    }

    within("both have proposed several times", async {
        for engine in &engines {
            while engine.metrics().cycle_count() < 8 {
                tokio::task::yield_now().await;
            }
        }
    })
    .await;
    for engine in engines {
        engine.shutdown(LONG).await;
    }

    assert_eq!(queue(&db).await.len() + history(&db).await.len(), 1);
}
