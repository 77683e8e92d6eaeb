//! The pipeline's statements on a real PostgreSQL: many pollers, vanished and exhausted tasks, numbers.

use curio_core::{SealProof, SectorRef, SpId};
use curio_harmony::testing::TestDb;
use curio_harmony::{Db, TaskId};
use curio_pipeline::act;
use curio_pipeline::numbers::{self, Numbers};
use curio_pipeline::stage::Stage;
use curio_pipeline::status::{self, SectorState};
use curio_runner::message::outbox;
use curio_runner::message::purpose::Purpose;
use curio_runner::seal::{pipeline, poller, queue};

const SECTOR: SectorRef = SectorRef { sp: SpId(1000), number: 7 };

async fn with_sector() -> TestDb {
    let database = TestDb::new().await;
    sqlx::query("INSERT INTO sectors_sdr_pipeline (sp_id, sector_number, reg_seal_proof) VALUES ($1, $2, $3)")
        .bind(SECTOR.sp.0 as i64)
        .bind(SECTOR.number as i64)
        .bind(SealProof::StackedDrg2KiBV1_1 as i32)
        .execute(database.db().pool())
        .await
        .expect("the sector is inserted");
    database
}

async fn count(db: &Db, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(db.pool()).await.expect("the count is read")
}

async fn run(db: &Db, statement: &'static str) {
    sqlx::query(statement).execute(db.pool()).await.expect("the statement runs");
}

async fn revive(db: &Db) -> u64 {
    let revived = db.transaction("revive", |tx| Box::pin(async move { act::revive(tx).await }));
    revived.await.expect("the database answers")
}

async fn fail(db: &Db, task: TaskId) {
    db.transaction("fail", move |tx| {
        Box::pin(async move { pipeline::fail(tx, SECTOR, "task-exhausted", "SDR gave up", Some(task)).await })
    })
    .await
    .expect("the sector is failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_pollers_at_once_create_one_task() {
    let database = with_sector().await;
    let pollers = (0..10).map(|_| {
        let db = database.db().clone();
        tokio::spawn(async move { queue::create(&db, SECTOR, Stage::Sdr).await.expect("the database answers") })
    });
    let created = futures::future::join_all(pollers).await;
    let created = created.into_iter().filter_map(|created| created.expect("no poller panics")).count();
    assert_eq!(created, 1);
    assert_eq!(count(database.db(), "SELECT count(*) FROM harmony_task").await, 1);
}

#[tokio::test]
async fn a_stage_is_not_created_before_the_one_before() {
    let database = with_sector().await;
    for stage in [
        Stage::TreeD,
        Stage::TreeRc,
        Stage::PreCommit,
        Stage::PoRep,
        Stage::Finalize,
        Stage::MoveStorage,
        Stage::Commit,
    ] {
        assert_eq!(queue::create(database.db(), SECTOR, stage).await.expect("the database answers"), None, "{stage:?}");
    }
    assert_eq!(count(database.db(), "SELECT count(*) FROM harmony_task").await, 0);
}

#[tokio::test]
async fn a_task_that_vanished_is_forgotten_and_one_that_is_there_is_not() {
    let database = with_sector().await;
    let db = database.db();
    let task = queue::create(db, SECTOR, Stage::Sdr).await.expect("the database answers").expect("the stage is ready");
    assert!(!queue::forget_vanished(db, SECTOR, task).await.expect("the database answers"), "the task is there");
    run(db, "DELETE FROM harmony_task").await;
    assert!(queue::forget_vanished(db, SECTOR, task).await.expect("the database answers"));
    let again = queue::create(db, SECTOR, Stage::Sdr).await.expect("the database answers");
    assert!(again.is_some_and(|again| again != task));
}

#[tokio::test]
async fn a_failed_sector_goes_on_when_its_task_is_retried() {
    let database = with_sector().await;
    let db = database.db();
    let task = queue::create(db, SECTOR, Stage::Sdr).await.expect("the database answers").expect("the stage is ready");
    run(db, "UPDATE harmony_task SET failed_at = now()").await;
    fail(db, task).await;
    assert_eq!(revive(db).await, 0, "nobody has retried yet");
    let failed = status::list(db, None).await.expect("the database answers");
    assert_eq!((failed[0].state, failed[0].failed_reason.as_deref()), (SectorState::Failed, Some("task-exhausted")));

    assert!(curio_harmony::tasks::retry(db, task).await.expect("the database answers"));
    assert_eq!(revive(db).await, 1);
    let rows = poller::open_rows(db).await.expect("the database answers");
    assert_eq!(rows.len(), 1);
}

#[tokio::test]
async fn a_sector_sealed_anew_starts_from_nothing_and_remembers_that_it_did() {
    let database = with_sector().await;
    let db = database.db();
    run(
        db,
        "UPDATE sectors_sdr_pipeline SET ticket_epoch = 5, ticket_value = '\\x00', after_sdr = TRUE, after_tree_d = TRUE,
         after_tree_c = TRUE, after_tree_r = TRUE, tree_d_cid = 'd', tree_r_cid = 'r', after_precommit_msg = TRUE, precommit_send_id = 3",
    )
    .await;
    let changed =
        db.transaction("reseal", |tx| Box::pin(pipeline::reseal(tx, SECTOR))).await.expect("the database answers");
    assert_eq!(changed, 1);
    let row = &poller::open_rows(db).await.expect("the database answers")[0];
    assert_eq!((row.generations.ticket, row.generations.precommit), (1, 1));
    assert_eq!(row.progress.done, Default::default());
    let status = &status::list(db, None).await.expect("the database answers")[0];
    assert_eq!((status.ticket_epoch, status.sealed_cid.as_deref(), status.reseals), (None, None, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn numbers_are_given_out_once_and_never_those_of_the_chain() {
    let database = TestDb::new().await;
    let on_chain = Numbers::from_runs(&[1, 2]);
    let callers = (0..8).map(|_| {
        let (db, on_chain) = (database.db().clone(), on_chain.clone());
        tokio::spawn(async move {
            db.transaction("numbers", move |tx| {
                let on_chain = on_chain.clone();
                Box::pin(async move { numbers::allocate(tx, SpId(1000), &on_chain, 3).await })
            })
            .await
            .expect("the database answers")
        })
    });
    let given = futures::future::join_all(callers).await;
    let mut given: Vec<u64> =
        given.into_iter().flat_map(|given| given.expect("no caller panics")).map(|sector| sector.number).collect();
    given.sort_unstable();
    let expected: Vec<u64> = [0].into_iter().chain(3..26).collect();
    assert_eq!(given, expected);
}

#[tokio::test]
async fn a_message_asked_for_twice_is_one_message() {
    let database = TestDb::new().await;
    let db = database.db();
    let request = outbox::Request {
        key: "precommit/f01000/7/0".to_owned(),
        purpose: Purpose::PreCommit,
        message: curio_chain::types::Message::new(
            curio_chain::Address::new_id(100),
            curio_chain::Address::new_id(1000),
            28,
            curio_chain::TokenAmount::from_atto(5),
            vec![1, 2, 3],
        ),
        max_fee: curio_chain::TokenAmount::from_atto(9),
    };
    let mut ids = Vec::new();
    for _ in 0..2 {
        let request = request.clone();
        let id = db
            .transaction("ask", move |tx| {
                let request = request.clone();
                Box::pin(async move { outbox::ask(tx, &request).await })
            })
            .await
            .expect("the database answers");
        ids.push(id);
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(count(db, "SELECT count(*) FROM harmony_task WHERE name = 'SendMessage'").await, 1);
    let task: i64 = count(db, "SELECT send_task_id FROM message_sends").await;
    let send = outbox::of_task(db, TaskId(task)).await.expect("the row is readable").expect("the row is there");
    assert_eq!((send.message, send.max_fee), (request.message, request.max_fee));
}
