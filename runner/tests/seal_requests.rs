//! Sectors that are asked for by somebody without a chain node, as the operator is: runner processes take the requests
//! up, against an embedded chain and a real PostgreSQL.

mod support {
    pub mod world;
}

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use curio_core::SectorRef;
use curio_harmony::tasks;
use curio_harmony::testing::TestDb;
use curio_pipeline::act::{self, Removed};
use curio_pipeline::request::{self, RequestPiece, RequestRow, RequestState, SealRequest};
use support::world::{World, until};

const DATA: &[u8] = b"data that a client offers on the web";

async fn ask(world: &World, uid: &str, miner: &str, count: u32, piece: Option<RequestPiece>) {
    let request = SealRequest { uid: uid.to_owned(), miner: miner.to_owned(), count, piece };
    request::ask(&world.db, &request).await.expect("the request is written");
}

/// The request once it is in this state.
async fn becomes(world: &World, uid: &str, state: RequestState) -> RequestRow {
    let uids = [uid.to_owned()];
    until(&format!("request {uid} is {state:?}"), || async {
        let row = request::find(&world.db, &uids).await.ok()?.pop()?;
        assert!(row.state == state || row.state == RequestState::Pending, "{row:?}");
        (row.state == state).then_some(row)
    })
    .await
}

fn at(url: &str) -> RequestPiece {
    RequestPiece { url: url.to_owned(), piece_cid: None, raw_size: Some(DATA.len() as u64) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_become_sectors_once_and_what_cannot_be_is_refused_in_words() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let actor = world.sp.to_string();
    for uid in ["a", "b", "c", "d"] {
        ask(&world, uid, &actor, 3, None).await;
    }
    ask(&world, "nobody", "f0999999", 1, None).await;
    ask(&world, "system", "f00", 1, None).await;
    ask(&world, "words", "my miner", 1, None).await;
    let cid = Some("not-a-cid".to_owned());
    ask(&world, "cid", &actor, 1, Some(RequestPiece { piece_cid: cid, ..at("http://127.0.0.1:1/data") })).await;

    // Both take requests up at the same time; neither does PoRep for the other here.
    let _one = world.runner("sealing", None).await;
    let _two = world.runner("snark", None).await;

    let mut numbers = Vec::new();
    for uid in ["a", "b", "c", "d"] {
        let row = becomes(&world, uid, RequestState::Started).await;
        assert_eq!((row.sectors.len(), row.error.as_str()), (3, ""));
        numbers.extend(row.sectors.into_iter().map(|sector| sector.number));
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (0..12).collect::<Vec<u64>>(), "each request was started once");
    for (uid, said) in [
        ("nobody", "there is no actor f0999999"),
        ("system", "actor f00 is not a miner"),
        ("words", "'my miner' is not an address"),
        ("cid", "'not-a-cid' is no piece CID"),
    ] {
        let row = becomes(&world, uid, RequestState::Refused).await;
        assert!(row.error.contains(said), "{row:?}");
        assert_eq!(row.sectors, []);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_piece_that_is_not_there_yet_is_asked_for_again_and_sealed_when_it_comes() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/data", listener.local_addr().expect("an address"));
    let there = Arc::new(AtomicBool::new(false));
    let answer = Arc::clone(&there);
    let routes = axum::Router::new().route(
        "/data",
        axum::routing::get(move || async move {
            if answer.load(Ordering::Relaxed) { Ok(DATA.to_vec()) } else { Err(StatusCode::NOT_FOUND) }
        }),
    );
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    ask(&world, "piece", &world.sp.to_string(), 1, Some(at(&url))).await;
    let wrong = RequestPiece { raw_size: Some(1), ..at(&url) };
    let _sealing = world.runner("sealing", None).await;

    let uids = ["piece".to_owned()];
    let pending = until("the first try fails", || async {
        let row = request::find(&world.db, &uids).await.ok()?.pop()?;
        (!row.error.is_empty()).then_some(row)
    })
    .await;
    assert_eq!((pending.state, pending.error.contains("404")), (RequestState::Pending, true), "{pending:?}");
    there.store(true, Ordering::Relaxed);

    let started = becomes(&world, "piece", RequestState::Started).await;
    assert_eq!((started.sectors.as_slice(), started.error.as_str()), (&[SectorRef::new(world.sp, 0)][..], ""));
    ask(&world, "wrong", &world.sp.to_string(), 1, Some(wrong)).await;
    let refused = becomes(&world, "wrong", RequestState::Refused).await;
    assert!(refused.error.contains("promised"), "{refused:?}");
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_for_a_kind_that_no_machine_runs_waits_in_the_queue_for_all_to_see() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    ask(&world, "a", &world.sp.to_string(), 1, None).await;
    let sealing = world.runner("sealing", None).await;

    // Nobody does PoRep, and its task is there all the same: this is what makes a pool start its first runner.
    until("PoRep waits", || async {
        let load = tasks::load(&world.db).await.ok()?;
        load.iter().any(|kind| kind.kind == "PoRep" && kind.waiting == 1).then_some(())
    })
    .await;

    let _snark = world.runner("snark", None).await;
    world.until_proven(1).await;
    world.assert_sealed(1).await;
    let ended: bool = sqlx::query_scalar("SELECT bool_and(ended_at IS NOT NULL) FROM sectors_sdr_pipeline")
        .fetch_one(world.db.pool())
        .await
        .expect("the sector is there");
    assert!(ended, "a proven sector has an end");
    drop(sealing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sector_that_is_removed_while_it_is_labelled_leaves_nothing_behind() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let pause = world.pause("SDR");
    let _sealing = world.runner("sealing", Some(&pause)).await;
    ask(&world, "a", &world.sp.to_string(), 1, None).await;
    pause.reached().await;
    let sector = SectorRef::new(world.sp, 0);
    let cache = world.path("seal").join("cache").join(sector.file_name());
    assert!(cache.exists(), "labelling has begun");

    let first = act::remove(&world.db, sector).await.expect("the database answers");
    assert!(matches!(&first, Removed::Waiting(why) if why.contains("SDR runs on sealing")), "{first:?}");
    pause.remove();
    until("the sector is removed", || async {
        let removed = act::remove(&world.db, sector).await.expect("the database answers");
        (removed == Removed::Done).then_some(())
    })
    .await;

    until("its files are removed", || async { (!cache.exists()).then_some(()) }).await;
    until("the index forgets them", || async {
        let left: i64 =
            sqlx::query_scalar("SELECT count(*) FROM sector_location").fetch_one(world.db.pool()).await.ok()?;
        (left == 0).then_some(())
    })
    .await;
    assert_eq!(tasks::load(&world.db).await.expect("the load"), []);
}
