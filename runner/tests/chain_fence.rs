//! The fence against a database that has forgotten what was signed: its record over a real PostgreSQL, and a runner whose
//! database is restored from a backup.

mod support {
    pub mod postgres;
    pub mod world;
}

use curio_core::{Epoch, Failure};
use curio_harmony::testing::TestDb;
use curio_runner::chain_sched::Fence;
use curio_runner::chain_sched::fence::{Held, Record, Verdict, confirm, record};
use support::postgres::Postgres;
use support::world::{World, until};

const NETWORK: &str = "testnet";
const MAX_GAP: i64 = 900;

fn fence(db: &TestDb) -> Fence {
    Fence::new(db.db().clone(), NETWORK, MAX_GAP)
}

async fn see(fence: &Fence, head: i64) -> Verdict {
    fence.see(Epoch(head)).await.expect("the database answers")
}

async fn recorded(db: &TestDb) -> Record {
    record(db.db(), NETWORK).await.expect("the database answers").expect("there is a record")
}

/// Puts the record back to what a backup holds.
async fn set_back(db: &TestDb, backup: &Record) {
    sqlx::query(
        "UPDATE chain_fence SET epoch = $1, revision = $2, held_since = NULL, held_reason = NULL,
                                confirmed_epoch = $3, confirmed_by = $4, confirmed_at = $5",
    )
    .bind(backup.epoch)
    .bind(backup.revision)
    .bind(backup.confirmed_epoch)
    .bind(&backup.confirmed_by)
    .bind(backup.confirmed_at)
    .execute(db.db().pool())
    .await
    .expect("the record is set back");
}

#[track_caller]
fn reason(outcome: Result<(), Failure>) -> String {
    match outcome {
        Err(Failure::Unavailable(cause)) => cause.to_string(),
        other => panic!("held is expected, not {other:?}"),
    }
}

#[tokio::test]
async fn a_new_database_holds_until_the_first_head_and_is_open_then() {
    let db = TestDb::new().await;
    let fence = fence(&db);

    assert!(reason(fence.check().await).contains("before this runner has seen a head"));
    assert_eq!(see(&fence, 5000).await, Verdict::Open);

    fence.check().await.expect("it is open");
    assert_eq!(recorded(&db).await.epoch, 5000);
}

#[tokio::test]
async fn the_highest_head_of_all_runners_is_recorded_and_none_is_held_by_the_others() {
    let db = TestDb::new().await;
    let (one, other) = (fence(&db), fence(&db));

    for head in 100..110 {
        assert_eq!(see(&one, head).await, Verdict::Open);
        assert_eq!(see(&other, head - 2).await, Verdict::Open, "its node is a little behind");
        other.check().await.expect("it is open");
    }

    assert_eq!(recorded(&db).await.epoch, 109);
}

#[tokio::test]
async fn a_chain_node_that_went_back_holds_its_runner_until_it_has_caught_up() {
    let db = TestDb::new().await;
    let (one, other) = (fence(&db), fence(&db));
    see(&one, 200).await;
    see(&other, 200).await;

    let held = Held::Behind { head: Epoch(150), recorded: Epoch(200) };
    assert_eq!(see(&one, 150).await, Verdict::Held(held));
    assert!(reason(one.check().await).contains("150"));

    other.check().await.expect("the other runner's node is fine");
    assert_eq!(see(&one, 201).await, Verdict::Open);
    one.check().await.expect("it has caught up");
}

#[tokio::test]
async fn a_database_set_back_under_a_runner_holds_before_the_next_head_and_for_all_until_confirmed() {
    let db = TestDb::new().await;
    let (one, other) = (fence(&db), fence(&db));
    see(&one, 100).await;
    let backup = recorded(&db).await;
    for head in 101..110 {
        see(&one, head).await;
        see(&other, head).await;
    }

    set_back(&db, &backup).await;
    let told = reason(one.check().await);
    assert!(told.contains("set back") && told.contains("curio chain confirm"), "{told}");

    // A runner that starts now remembers nothing, and raises the record; those who remember are not deceived.
    let newcomer = fence(&db);
    see(&newcomer, 111).await;
    assert!(matches!(see(&one, 111).await, Verdict::Held(Held::SetBack { .. })));
    assert!(matches!(see(&newcomer, 112).await, Verdict::Held(Held::Doubted(_))));
    assert!(reason(other.check().await).contains("curio chain confirm"));
    assert!(recorded(&db).await.held_since.is_some());

    confirm(db.db(), NETWORK, Epoch(112), "alice").await.expect("the database answers");
    for fence in [&one, &other, &newcomer] {
        fence.check().await.expect("a person said so");
        assert_eq!(see(fence, 113).await, Verdict::Open);
    }
    let record = recorded(&db).await;
    assert_eq!((record.confirmed_epoch, record.confirmed_by.as_deref()), (Some(112), Some("alice")));
}

#[tokio::test]
async fn a_database_of_yesterday_holds_runners_that_start_on_it_until_confirmed() {
    let db = TestDb::new().await;
    see(&fence(&db), 1000).await;

    let (one, other) = (fence(&db), fence(&db));
    assert_eq!(see(&one, 3880).await, Verdict::Held(Held::Gap { head: Epoch(3880), recorded: Epoch(1000) }));
    assert!(matches!(see(&other, 3881).await, Verdict::Held(Held::Doubted(_))));
    let told = reason(other.check().await);
    assert!(told.contains("2880 epochs") && told.contains("curio chain confirm"), "{told}");
    assert_eq!(recorded(&db).await.epoch, 1000, "nothing is recorded while it is held");

    confirm(db.db(), NETWORK, Epoch(3881), "alice").await.expect("the database answers");
    assert_eq!(see(&one, 3882).await, Verdict::Open);
    other.check().await.expect("a person said so");
}

#[tokio::test]
async fn what_was_confirmed_before_the_backup_confirms_nothing_after_it() {
    let db = TestDb::new().await;
    let fence = fence(&db);
    see(&fence, 100).await;
    confirm(db.db(), NETWORK, Epoch(100), "alice").await.expect("the database answers");
    see(&fence, 101).await;
    let backup = recorded(&db).await;
    for head in 102..110 {
        see(&fence, head).await;
    }

    set_back(&db, &backup).await;

    assert!(matches!(see(&fence, 110).await, Verdict::Held(Held::SetBack { .. })));
}

/// Number of messages that were signed.
async fn signed(world: &World) -> usize {
    let sends = curio_runner::message::outbox::list(&world.db).await.expect("the database answers");
    sends.iter().filter(|send| send.signed_cid.is_some()).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_whose_database_is_restored_from_a_backup_signs_nothing_until_a_person_confirms() {
    let server = Postgres::start();
    let world = World::new(&server.url()).await;
    let sealing = world.runner("sealing", None).await;
    until("the fence is open", || async { sealing.readiness().await.filter(|(ready, _)| *ready) }).await;
    let backup = server.back_up();
    let before = world.fence_epoch().await;
    // What happens now is what the backup does not know.
    until("the chain goes on", || async { (world.fence_epoch().await >= before + 10).then_some(()) }).await;

    server.restore(&backup);
    let held = until("the runner says why it is not ready", || async {
        let (ready, checks) = sealing.readiness().await?;
        let message = checks["checks"]["fence"]["message"].as_str()?.to_owned();
        (!ready && message.contains("set back")).then_some(message)
    })
    .await;
    assert!(held.contains("curio chain confirm"), "{held}");
    let actor = world.sp.to_string();
    world.curio(&["seal", "start", "--actor", &actor, "--now", "--count", "1"]).await;
    until("a message is asked for", || async {
        let sends = curio_runner::message::outbox::list(&world.db).await.ok()?;
        (!sends.is_empty()).then_some(())
    })
    .await;
    until("its task is refused", || async {
        let filter = curio_harmony::tasks::Filter { kind: Some("SendMessage".to_owned()), ..Default::default() };
        let history = curio_harmony::tasks::history(&world.db, &filter).await.ok()?;
        history.iter().any(|attempt| attempt.error.contains("curio chain confirm")).then_some(())
    })
    .await;
    assert_eq!(signed(&world).await, 0);

    world.curio(&["chain", "confirm"]).await;

    until("the message is signed", || async { (signed(&world).await == 1).then_some(()) }).await;
    until("the runner is ready again", || async { sealing.readiness().await.filter(|(ready, _)| *ready) }).await;
}
