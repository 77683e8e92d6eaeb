//! Requests for sectors, asked for by some and taken up by others, on a real database.

mod support;

use std::time::Duration;

use curio_core::SectorRef;
use curio_harmony::Db;
use curio_harmony::testing::TestDb;
use curio_pipeline::insert::NewPiece;
use curio_pipeline::request::{self, RequestPiece, RequestRow, RequestState, SealRequest, Taken};
use support::*;

const LEASE: Duration = Duration::from_secs(3600);

fn cc(uid: &str, count: u32) -> SealRequest {
    SealRequest { uid: uid.to_owned(), miner: "f01000".to_owned(), count, piece: None }
}

async fn ask(db: &Db, request: &SealRequest) {
    request::ask(db, request).await.expect("the request is written");
}

async fn take(db: &Db) -> Option<Taken> {
    request::take(db, LEASE).await.expect("the database answers")
}

async fn find(db: &Db, uid: &str) -> RequestRow {
    request::find(db, &[uid.to_owned()]).await.expect("the database answers").remove(0)
}

#[tokio::test]
async fn a_request_is_taken_up_as_it_was_asked_for() {
    let test = TestDb::new().await;
    let db = test.db();
    let piece =
        RequestPiece { url: "http://host/a".to_owned(), piece_cid: Some("baga".to_owned()), raw_size: Some(127) };
    let asked = SealRequest { piece: Some(piece), ..cc("a", 1) };
    ask(db, &asked).await;
    ask(db, &asked).await;

    assert_eq!(request::waiting(db).await.expect("the database answers"), 1, "asked for twice, it is one");
    assert_eq!(take(db).await, Some(Taken { request: asked, tries: 1 }));
    assert_eq!(take(db).await, None, "it is at work");
    let row = find(db, "a").await;
    assert_eq!((row.state, row.error.as_str(), row.sectors.len()), (RequestState::Pending, "", 0));
    assert_eq!(request::find(db, &["b".to_owned()]).await.expect("the database answers"), []);
}

#[tokio::test]
async fn a_started_request_has_its_sectors_and_the_first_has_the_piece() {
    let test = TestDb::new().await;
    let db = test.db();
    ask(db, &cc("a", 2)).await;
    let piece = NewPiece {
        piece_cid: "baga".to_owned(),
        padded_size: 128,
        raw_size: 100,
        data_url: "http://host/a".to_owned(),
        keep: true,
    };
    let mut new = new_sectors(2);
    new.pieces = vec![piece];

    let started = request::start(db, "a", &new).await.expect("the database answers");

    let sectors = vec![SectorRef::new(SP, 0), SectorRef::new(SP, 1)];
    assert_eq!(started.as_ref(), Some(&sectors));
    let row = find(db, "a").await;
    assert_eq!((row.state, row.sectors), (RequestState::Started, sectors));
    assert_eq!(
        count(db, "SELECT sum(sector_number + data_raw_size)::bigint FROM sectors_sdr_initial_pieces").await,
        100
    );
    assert_eq!(request::start(db, "a", &new).await.expect("the database answers"), None, "it is started once");
    assert_eq!(request::waiting(db).await.expect("the database answers"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_runners_at_once_start_each_request_once() {
    let test = TestDb::new().await;
    for uid in 0..10 {
        ask(test.db(), &cc(&uid.to_string(), 3)).await;
    }
    let runners = (0..6).map(|_| {
        let db = test.db().clone();
        tokio::spawn(async move {
            let mut started = 0;
            // Without a lease all of them are at the same requests.
            while let Some(taken) = request::take(&db, Duration::ZERO).await.expect("the database answers") {
                let sectors = request::start(&db, &taken.request.uid, &new_sectors(3)).await;
                started += usize::from(sectors.expect("the database answers").is_some());
            }
            started
        })
    });
    let started = futures::future::join_all(runners).await;

    let started: usize = started.into_iter().map(|count| count.expect("no panic")).sum();
    assert_eq!(started, 10);
    assert_eq!(count(test.db(), "SELECT count(*) FROM sectors_sdr_pipeline").await, 30);
    assert_eq!(count(test.db(), "SELECT count(DISTINCT request_uid) FROM sectors_sdr_pipeline").await, 10);
}

#[tokio::test]
async fn a_refusal_is_final_and_says_why() {
    let test = TestDb::new().await;
    let db = test.db();
    ask(db, &cc("a", 1)).await;
    assert!(request::refuse(db, "a", "there is no actor f01000").await.expect("the database answers"));

    let row = find(db, "a").await;
    assert_eq!((row.state, row.error.as_str()), (RequestState::Refused, "there is no actor f01000"));
    assert_eq!(take(db).await, None);
    assert_eq!(request::start(db, "a", &new_sectors(1)).await.expect("the database answers"), None);
    assert!(!request::refuse(db, "a", "again").await.expect("the database answers"));
    assert_eq!(count(db, "SELECT count(*) FROM sectors_sdr_pipeline").await, 0);
}

#[tokio::test]
async fn what_was_put_off_is_taken_up_again_and_a_lost_lease_changes_nothing() {
    let test = TestDb::new().await;
    let db = test.db();
    ask(db, &cc("a", 1)).await;
    let first = take(db).await.expect("it is due");
    assert!(request::put_off(db, &first, "the chain is away", Duration::ZERO).await.expect("the database answers"));
    assert_eq!(find(db, "a").await.error, "the chain is away");

    let second = take(db).await.expect("it is due again");
    assert_eq!(second.tries, 2);
    assert!(!request::put_off(db, &first, "late", LEASE).await.expect("the database answers"));
    assert!(!request::renew(db, &first, LEASE).await.expect("the database answers"));
    assert!(request::renew(db, &second, LEASE).await.expect("the database answers"));
    assert_eq!(take(db).await, None);
}

#[tokio::test]
async fn a_runner_that_died_leaves_its_request_to_the_others() {
    let test = TestDb::new().await;
    let db = test.db();
    ask(db, &cc("a", 1)).await;
    take(db).await.expect("it is due");
    sql(db, "UPDATE seal_requests SET not_before = not_before - interval '2 hours'").await;
    assert_eq!(take(db).await.map(|taken| taken.tries), Some(2));
}
