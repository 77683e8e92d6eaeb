//! Sectors from one command to a proof that a chain accepted: real labels, trees and vanilla proofs, a
//! real PostgreSQL, runner processes that share nothing but that, and a chain that verifies every proof.
//! Only the SNARK is made from the test parameters' known secrets.
//!
//! Then the same with runners killed at the worst moments, and a database that goes away: every sector
//! ends proven, every message is on the chain once, and labelling goes on with its ticket.

mod support {
    pub mod postgres;
    pub mod world;
}

use curio_chain::address;
use curio_chain::types::TipSetKey;
use curio_core::SectorRef;
use curio_harmony::testing::TestDb;
use support::postgres::Postgres;
use support::world::{World, until};

const DATA: &[u8] = b"a file of a client, which is not very long, but long enough to see it again";

/// The first bytes of padded data are those of the file: the first inserted bits come after 254.
const SAME_BYTES: usize = 31;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_sector_and_one_with_a_files_bytes_are_proven_by_two_runners() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let file = world.path("data");
    std::fs::write(&file, DATA).expect("the file is written");
    let _sealing = world.runner("sealing", None).await;
    let _snark = world.runner("snark", None).await;

    let actor = world.sp.to_string();
    let started = world
        .curio(&["seal", "start", "--actor", &actor, "--now", "--count", "2", "--piece", &file.display().to_string()])
        .await;
    world.until_proven(2).await;

    world.assert_sealed(2).await;
    let unsealed = world.path("store").join("unsealed").join(SectorRef::new(world.sp, 0).file_name());
    let kept = std::fs::read(&unsealed).expect("the unsealed copy is kept");
    assert_eq!(kept.len(), 2048);
    assert_eq!(kept[..SAME_BYTES], DATA[..SAME_BYTES]);
    assert!(!world.path("store").join("unsealed").join(SectorRef::new(world.sp, 1).file_name()).exists());
    assert_eq!(
        std::fs::read_dir(world.path("seal").join("cache")).map(leftovers).ok(),
        Some(0),
        "the sealing path is empty again"
    );

    let status = world.curio(&["sector", "status", &format!("{actor}:0")]).await;
    assert_eq!(status["state"], "proven");
    assert_eq!(status["pieces"][0]["piece_cid"], started["sectors"][0]["pieces"][0]["piece_cid"]);
    for task in ["SDR", "TreeD", "TreeRC", "PreCommitSubmit", "Finalize", "MoveStorage", "CommitSubmit"] {
        assert_eq!(status["stages"][task]["machine"], "sealing", "{task}: {status:#}");
    }
    assert_eq!(status["stages"]["PoRep"]["machine"], "snark");
    let miner = address::id_address(world.sp);
    let place = world.chain.state_sector_partition(&miner, 0, &TipSetKey::HEAD).await.expect("the sector has a place");
    assert_eq!(
        (status["deadline"].as_u64(), status["partition"].as_u64()),
        (Some(place.deadline), Some(place.partition))
    );
    let kept: (i64, bool) = sqlx::query_as(
        "SELECT count(*), bool_and(p.raw_data_size = $2 AND p.requested_keep_data)
         FROM sectors_meta m JOIN sectors_meta_pieces p ON p.sp_id = m.sp_id AND p.sector_num = m.sector_num
         WHERE m.sp_id = $1 AND NOT m.is_cc AND m.msg_cid_precommit IS NOT NULL AND m.msg_cid_commit IS NOT NULL",
    )
    .bind(world.sp.0 as i64)
    .bind(DATA.len() as i64)
    .fetch_one(world.db.pool())
    .await
    .expect("the sector's record is there");
    assert_eq!(kept, (1, true));
}

/// Entries that are no folders for unfinished transfers.
fn leftovers(entries: std::fs::ReadDir) -> usize {
    entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("s-t")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_of_a_web_server_is_downloaded_and_checked() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/data", listener.local_addr().expect("an address"));
    let served = std::sync::Arc::new(std::sync::Mutex::new(DATA.to_vec()));
    let answer = served.clone();
    let routes = axum::Router::new()
        .route("/data", axum::routing::get(move || async move { answer.lock().expect("no test panics here").clone() }));
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    let actor = world.sp.to_string();
    world.curio(&["seal", "start", "--actor", &actor, "--now", "--count", "1", "--piece", &url]).await;

    // The server then gives out other bytes of the same length: no deposit is paid for those.
    served.lock().expect("no test panics here").reverse();
    let _sealing = world.runner("sealing", None).await;
    let sector = SectorRef::new(world.sp, 0);
    let reason = until("the sector fails", || async {
        world.column(sector, "failed_reason").await.filter(|reason| !reason.is_empty())
    })
    .await;

    assert_eq!(reason, "piece-mismatch");
    assert_eq!(world.messages_on_chain(28).await, 0);
    server.abort();
}

/// Starts `count` empty sectors.
async fn start(world: &World, count: usize) {
    let actor = world.sp.to_string();
    world.curio(&["seal", "start", "--actor", &actor, "--now", "--count", &count.to_string()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_killed_in_sdr_goes_on_with_the_same_ticket() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let _snark = world.runner("snark", None).await;
    let pause = world.pause("SDR");
    let sealing = world.runner("sealing", Some(&pause)).await;
    start(&world, 1).await;
    pause.reached().await;
    let sector = SectorRef::new(world.sp, 0);
    let before = (world.column(sector, "ticket_epoch").await, world.column(sector, "ticket_value").await);
    assert!(before.0.is_some() && before.1.is_some(), "the ticket is stored before hashing");

    sealing.kill().await;
    pause.remove();
    let _sealing = world.runner("sealing", None).await;
    world.until_proven(1).await;

    let after = (world.column(sector, "ticket_epoch").await, world.column(sector, "ticket_value").await);
    assert_eq!(after, before);
    assert_eq!(world.column(sector, "ticket_generation").await.as_deref(), Some("0"));
    world.assert_sealed(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_killed_in_porep_proves_again_after_its_start() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let _sealing = world.runner("sealing", None).await;
    let pause = world.pause("PoRep");
    let snark = world.runner("snark", Some(&pause)).await;
    start(&world, 1).await;
    pause.reached().await;

    snark.kill().await;
    pause.remove();
    let _snark = world.runner("snark", None).await;
    world.until_proven(1).await;

    world.assert_sealed(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_signed_by_a_killed_runner_is_pushed_once() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let _snark = world.runner("snark", None).await;
    let pause = world.pause("push");
    let sealing = world.runner("sealing", Some(&pause)).await;
    start(&world, 1).await;
    pause.reached().await;
    let signed = curio_runner::message::outbox::list(&world.db).await.expect("the database answers");
    assert_eq!(signed.len(), 1);
    assert!(signed[0].signed_cid.is_some() && signed[0].sent.is_none(), "signed and not pushed: {signed:?}");

    sealing.kill().await;
    pause.remove();
    let _sealing = world.runner("sealing", None).await;
    world.until_proven(1).await;

    let pushed = curio_runner::message::outbox::list(&world.db).await.expect("the database answers");
    assert_eq!(pushed[0].signed_cid, signed[0].signed_cid);
    world.assert_sealed(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_runners_killed_between_precommit_and_commit_send_nothing_twice() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let (sealing, snark) = (world.runner("sealing", None).await, world.runner("snark", None).await);
    start(&world, 2).await;
    let sector = SectorRef::new(world.sp, 0);
    until("the pre-commit is sent", || async {
        world.column(sector, "after_precommit_msg").await.filter(|sent| sent == "true")
    })
    .await;

    sealing.kill().await;
    snark.kill().await;
    let (_sealing, _snark) = (world.runner("sealing", None).await, world.runner("snark", None).await);
    world.until_proven(2).await;

    world.assert_sealed(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_stops_without_warning_loses_nothing() {
    let database = Postgres::start();
    let world = World::new(&database.url()).await;
    let (_sealing, _snark) = (world.runner("sealing", None).await, world.runner("snark", None).await);
    start(&world, 2).await;
    for (number, column) in [(0, "after_sdr"), (1, "after_precommit_msg"), (0, "after_porep")] {
        let sector = SectorRef::new(world.sp, number);
        until(column, || async { world.column(sector, column).await.filter(|done| done == "true") }).await;
        database.stop_immediately();
        database.pg_ctl_start();
    }
    world.until_proven(2).await;

    world.assert_sealed(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ticket_that_ran_out_before_the_precommit_is_replaced_and_the_sector_sealed_anew() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let trees = world.runner_with("sealing", "story-trees", None).await;
    start(&world, 1).await;
    let sector = SectorRef::new(world.sp, 0);
    until("the trees are there", || async { world.column(sector, "after_tree_r").await.filter(|done| done == "true") })
        .await;
    let old = (world.column(sector, "ticket_epoch").await, world.column(sector, "tree_r_cid").await);
    trees.kill().await;

    // A day and more passes while nobody sends messages.
    let devnet = &world.devnet;
    tokio::task::block_in_place(|| devnet.advance(2900));
    let (_sealing, _snark) = (world.runner("sealing", None).await, world.runner("snark", None).await);
    world.until_proven(1).await;

    let new = (world.column(sector, "ticket_epoch").await, world.column(sector, "tree_r_cid").await);
    assert!(new.0 != old.0 && new.1 != old.1, "another ticket, another replica: {old:?}, {new:?}");
    assert_eq!(world.column(sector, "ticket_generation").await.as_deref(), Some("1"));
    world.assert_sealed(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorganisation_below_the_precommit_is_followed() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let (_sealing, _snark) = (world.runner("sealing", None).await, world.runner("snark", None).await);
    start(&world, 1).await;
    let sector = SectorRef::new(world.sp, 0);
    until("the pre-commit landed", || async {
        world.column(sector, "after_precommit_msg_success").await.filter(|landed| landed == "true")
    })
    .await;

    world.devnet.reorganise(4, 5).expect("the chain goes back four epochs");
    world.until_proven(1).await;

    world.assert_sealed(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sector_whose_data_is_missing_fails_visibly_and_goes_on_when_its_task_is_retried() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let file = world.path("data");
    std::fs::write(&file, DATA).expect("the file is written");
    let actor = world.sp.to_string();
    world
        .curio(&["seal", "start", "--actor", &actor, "--now", "--count", "1", "--piece", &file.display().to_string()])
        .await;
    std::fs::rename(&file, world.path("elsewhere")).expect("the file is moved away");
    let (_sealing, _snark) = (world.runner("sealing", None).await, world.runner("snark", None).await);
    let sector = SectorRef::new(world.sp, 0);
    let message = until("the sector fails", || async {
        world.column(sector, "failed_reason_msg").await.filter(|message| !message.is_empty())
    })
    .await;
    assert_eq!(world.column(sector, "failed_reason").await.as_deref(), Some("task-exhausted"));
    assert!(message.contains("TreeD") && message.contains(&file.display().to_string()), "{message}");

    std::fs::rename(world.path("elsewhere"), &file).expect("the file is back");
    let task = world.column(sector, "failed_task_id").await.expect("the task is named");
    world.curio(&["task", "retry", &task]).await;
    until("the sector goes on", || async { world.column(sector, "failed").await.filter(|failed| failed == "false") })
        .await;
    world.until_proven(1).await;

    world.assert_sealed(1).await;
}
