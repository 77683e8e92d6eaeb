//! What the commands about proofs of spacetime show and do, against a chain with real sectors: what is due, what was
//! proven, what is faulty; proofs on trial; changes in two steps; the person's word about the database.

#[path = "window/net.rs"]
mod net;
#[allow(dead_code, reason = "one test needs no more than a world")]
#[path = "winning/net.rs"]
mod winning_net;
mod support {
    pub mod provider;
    pub mod world;
}

use curio_chain::address;
use curio_chain::message::method;
use curio_chain::types::TipSetKey;
use curio_harmony::testing::TestDb;
use net::{POST, file, go_to, proving_world, until_landed, until_outcome, until_proven, window};
use serde_json::{Value, json};
use support::world::World;
use winning_net::mining_world;

/// Runs a command that must fail, and gives back what it printed and what it said.
async fn refused(world: &World, args: &[&str]) -> (Value, String) {
    let (ok, json, said) = world.try_curio(args).await;
    assert!(!ok, "curio {args:?} did not fail: {json}");
    assert!(said.starts_with("curio: ") && said.lines().count() == 1, "one sentence is expected: {said}");
    (json, said)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_is_shown_from_due_to_landed() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a", "a"]).await;
    let window = window(&world).await;
    let deadline = window.index.to_string();

    let deadlines = world.curio(&["proving", "deadlines"]).await;
    assert_eq!(deadlines.as_array().map(Vec::len), Some(1), "deadlines without sectors are left out: {deadlines}");
    assert_eq!(deadlines[0]["deadline"], window.index);
    assert_eq!(deadlines[0]["open_epoch"], window.open.0);
    assert_eq!((&deadlines[0]["state"], &deadlines[0]["last"]), (&json!("waiting"), &Value::Null));
    assert_eq!((&deadlines[0]["partitions"], &deadlines[0]["live_sectors"]), (&json!(2), &json!(3)));
    let all = world.curio(&["proving", "deadlines", "--all"]).await;
    assert_eq!(all.as_array().map(Vec::len), Some(3));

    let _a = world.runner_with("a", POST, None).await;
    go_to(&world, window.challenge);
    until_proven(&world, &window, 2).await;
    let partitions = world.curio(&["proving", "partitions", &deadline]).await;
    assert_eq!(partitions[0]["live_sectors"], json!([0, 1]));
    assert_eq!((&partitions[0]["proven"], &partitions[0]["proof"]["made_by"]), (&Value::Null, &json!("a")));

    go_to(&world, window.submit_from(4));
    let open = world.curio(&["proving", "partitions", &deadline]).await;
    assert_eq!(open[0]["proven"], false, "the window is open and nothing has landed: {open}");
    until_landed(&world, "wdpost", 1).await;
    until_outcome(&world, &window, "landed", 2).await;

    let landed = world.curio(&["proving", "partitions", &deadline]).await;
    assert_eq!((&landed[0]["proven"], &landed[1]["proven"]), (&json!(true), &json!(true)), "{landed}");
    assert!(landed[0]["proof"]["landed_epoch"].is_i64() && landed[0]["proof"]["message_cid"].is_string(), "{landed}");
    let deadlines = world.curio(&["proving", "deadlines"]).await;
    assert_eq!((&deadlines[0]["state"], &deadlines[0]["proven_partitions"]), (&json!("open"), &json!(2)));
    assert_eq!((&deadlines[0]["last"]["landed"], &deadlines[0]["last"]["missed"]), (&json!(2), &json!(0)));
    let info = world.curio(&["proving", "info"]).await;
    assert_eq!(info["sectors"], json!({ "live": 3, "active": 3, "faulty": 0, "recovering": 0 }));
    assert_eq!((&info["period"]["deadline"], &info["period"]["proven_partitions"]), (&json!(window.index), &json!(2)));
    let cluster = world.curio(&["info"]).await;
    assert_eq!(cluster["miners"][0]["active_sectors"], 3);
    assert_eq!((&cluster["machines"]["up"], &cluster["chain"]["held"]), (&json!(1), &Value::Null), "{cluster}");
    assert_eq!(cluster["keys"][0]["role"], "worker", "{cluster}");

    let (_, said) = refused(&world, &["proving", "partitions", "3"]).await;
    assert!(said.contains("there is no deadline 3; deadlines are 0 to 2"), "{said}");
    let (_, said) = refused(&world, &["proving", "info", "--actor", "f0999"]).await;
    assert!(said.contains("f0999"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sectors_of_a_missed_window_are_listed_with_the_files_that_they_have() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a"]).await;
    let window = window(&world).await;
    assert_eq!(world.curio(&["proving", "faults"]).await, json!([]));
    // Nobody proves them in their window: at its end the chain takes them for faulty.
    go_to(&world, window.close);

    let faults = world.curio(&["proving", "faults"]).await;
    let numbers: Vec<&Value> = faults.as_array().expect("a list").iter().map(|fault| &fault["number"]).collect();
    assert_eq!(numbers, [&json!(0), &json!(1)]);
    let fault = &faults[0];
    assert_eq!(
        (&fault["deadline"], &fault["partition"], &fault["recovering"]),
        (&json!(window.index), &json!(0), &json!(false))
    );
    assert_eq!(fault["files"], json!(["sealed", "cache"]));
    assert!(fault["terminated_epoch"].as_i64() > Some(window.close.0), "{fault}");
    assert_eq!(world.curio(&["proving", "recoveries"]).await, json!([]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trial_proves_what_can_be_read_names_the_rest_and_sends_nothing() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a", "a"]).await;
    let line = ["test", "window-post", "--name", "a"];

    let proven = world.curio(&line).await;
    assert_eq!(proven[0]["proven_sectors"], json!([0, 1]), "{proven}");
    assert_eq!(proven[1]["proven_sectors"], json!([2]), "{proven}");

    let sealed = file(&world, "a", "sealed", 1);
    std::fs::File::options().write(true).open(&sealed).and_then(|file| file.set_len(1024)).expect("it is truncated");
    let (tried, said) = refused(&world, &[&line[..], &["--partition", "0"]].concat()).await;
    assert!(said.contains("not every sector could be proven"), "{said}");
    assert_eq!(tried.as_array().map(Vec::len), Some(1), "{tried}");
    assert_eq!(tried[0]["proven_sectors"], json!([0]));
    assert_eq!(tried[0]["skipped_sectors"][0]["number"], 1);

    let (_, said) = refused(&world, &[&line[..], &["--partition", "2"]].concat()).await;
    assert!(said.contains("its partitions are 0 to 1"), "{said}");
    let (_, said) = refused(&world, &["test", "winning-post", "--name", "a"]).await;
    assert!(said.contains("no power"), "sectors win nothing before finality: {said}");
    assert_eq!(world.messages_on_chain(method::SUBMIT_WINDOWED_POST).await, 0);
    let sends = curio_runner::message::outbox::list(&world.db).await.expect("the database answers");
    assert!(sends.is_empty(), "{sends:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_on_trial_is_proven_for_the_next_epoch_and_sends_nothing() {
    let database = TestDb::empty().await;
    let world = mining_world(database.url()).await;
    let head = world.devnet.head().height;

    let tried = world.curio(&["test", "winning-post", "--name", "a"]).await;

    assert_eq!((&tried["round"], &tried["sectors"]), (&json!(head.0 + 1), &json!([0])), "{tried}");
    assert_eq!((&tried["eligible"], &tried["miner"]), (&json!(true), &json!(world.sp.0)), "{tried}");
    assert!(tried["win_count"].is_i64() && tried["in_time"].is_boolean(), "{tried}");
    assert_eq!(world.devnet.head().height, head, "a block of ours would be the head at once");
    let elections: i64 = sqlx::query_scalar("SELECT count(*) FROM mining_tasks")
        .fetch_one(world.db.pool())
        .await
        .expect("the database answers");
    assert_eq!(elections, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_asked_for_and_then_approved() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a"]).await;
    let _a = world.runner_with("a", POST, None).await;
    // The chain extends only sectors that were proven once.
    let window = window(&world).await;
    go_to(&world, window.challenge);
    until_proven(&world, &window, 1).await;
    go_to(&world, window.submit_from(4));
    until_landed(&world, "wdpost", 1).await;
    let sector = format!("{}:0", world.sp);
    let miner = address::id_address(world.sp);
    let on_chain = world.chain.state_sector_get_info(&miner, 0, &TipSetKey::HEAD).await.expect("the chain answers");
    let expiration = on_chain.expect("the sector is on chain").expiration;
    let later = (expiration.0 + 2880).to_string();

    let (_, said) = refused(&world, &["sector", "extend", &sector, "--approve"]).await;
    assert!(said.contains("nobody asked"), "{said}");
    let asked = world.curio(&["sector", "extend", &sector, "--to", &later]).await;
    assert_eq!(asked["state"], "asked");
    let sends = curio_runner::message::outbox::list(&world.db).await.expect("the database answers");
    assert!(sends.iter().all(|send| send.purpose != "extend"), "nothing is sent before the approval: {sends:?}");
    let listed = world.curio(&["sector", "changes"]).await;
    assert_eq!((&listed[0]["sector"], &listed[0]["state"]), (&json!(sector), &json!("asked")));

    let approved = world.curio(&["sector", "extend", &sector, "--approve"]).await;
    assert_eq!(approved["state"], "sent");
    until_landed(&world, "extend", 1).await;
    let listed = world.curio(&["sector", "changes"]).await;
    assert_eq!(listed[0]["state"], "landed", "{listed}");
    assert_eq!(listed[0]["new_expiration"].to_string(), later);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_from_long_ago_is_held_until_a_person_confirms_it() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a"]).await;
    let head = world.devnet.head().height.0;
    let status = world.curio(&["chain", "status"]).await;
    assert_eq!((&status["head"], &status["record"], &status["held"]), (&json!(head), &Value::Null, &Value::Null));

    let network = world.chain.state_network_name().await.expect("the chain answers");
    sqlx::query("INSERT INTO chain_fence (network, epoch) VALUES ($1, $2)")
        .bind(&network)
        .bind(head - 901)
        .execute(world.db.pool())
        .await
        .expect("the row is written");
    let status = world.curio(&["chain", "status"]).await;
    assert!(status["held"].as_str().is_some_and(|why| why.contains("curio chain confirm")), "{status}");

    let confirmed = world.curio(&["chain", "confirm"]).await;
    assert_eq!((&confirmed["epoch"], &confirmed["confirmed_epoch"]), (&json!(head), &json!(head)));
    assert!(confirmed["confirmed_by"].as_str().is_some_and(|by| !by.is_empty()), "{confirmed}");
    assert_eq!(world.curio(&["chain", "status"]).await["held"], Value::Null);
}
