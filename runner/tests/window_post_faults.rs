//! Window PoSt while things go wrong: runners that are killed and stand still, a chain node that is away, goes back and
//! changes its mind, a window that closes too early. No proof is sent twice, none too late, none that does not hold.

#[path = "window/net.rs"]
mod net;
mod support {
    pub mod provider;
    pub mod world;
}

use std::time::Duration;

use curio_chain::Cid;
use curio_chain::message::method;
use curio_chain::types::DeadlineInfo;
use curio_harmony::testing::TestDb;
use net::{
    POST, Proof, STORE, assert_holds, go_to, outcomes, proofs, proving_world, sent, until_landed, until_outcome,
    until_proven, window,
};
use support::world::{World, until};
use tokio::time::Instant;

/// Waits until a runner has said something.
async fn until_said(world: &World, runner: &str, words: &str) {
    until(&format!("{runner} says '{words}'"), || async {
        std::fs::read_to_string(world.path(&format!("{runner}.log"))).ok()?.contains(words).then_some(())
    })
    .await;
}

/// Waits until all proofs of a window answer other randomness than the old ones.
async fn until_remade(world: &World, window: &DeadlineInfo, old: &[Proof]) {
    until("the proofs answer the new randomness", || async {
        let new = proofs(world, window).await;
        let is_new = |proof: &Proof| proof.is_made && old.iter().all(|old| old.randomness != proof.randomness);
        new.iter().all(is_new).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_killed_in_a_proof_is_replaced_within_seconds() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["c", "c"]).await;
    let _files = world.runner_with("c", STORE, None).await;
    let pause = world.pause("WdPost");
    let a = world.runner_with("a", POST, Some(&pause)).await;
    let window = window(&world).await;
    go_to(&world, window.challenge);
    pause.reached().await;
    let _b = world.runner_with("b", POST, None).await;

    a.kill().await;
    let killed = Instant::now();
    let proofs = until_proven(&world, &window, 1).await;

    assert!(killed.elapsed() < Duration::from_secs(15), "the second proof took {:?}", killed.elapsed());
    assert_eq!(proofs[0].made_by, "b");
    go_to(&world, window.submit_from(4));
    until_landed(&world, "wdpost", 1).await;
    assert_eq!(world.messages_on_chain(method::SUBMIT_WINDOWED_POST).await, 1);
    assert_holds(&world, &window, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_stood_still_in_a_proof_changes_nothing_when_it_goes_on() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["c", "c"]).await;
    let _files = world.runner_with("c", STORE, None).await;
    let pause = world.pause("WdPostMade");
    let a = world.runner_with("a", POST, Some(&pause)).await;
    let first = window(&world).await;
    go_to(&world, first.challenge);
    pause.reached().await;
    a.freeze();
    let b = world.runner_with("b", POST, None).await;
    let made = until_proven(&world, &first, 1).await;
    assert_eq!(made[0].made_by, "b");
    go_to(&world, first.submit_from(4));
    until_landed(&world, "wdpost", 1).await;
    until_outcome(&world, &first, "landed", 1).await;

    pause.remove();
    a.go_on();
    b.kill().await;
    // It takes part again: so what it held is over.
    go_to(&world, first.close + 4);
    let second = window(&world).await;
    go_to(&world, second.challenge);
    pause.reached().await;
    pause.remove();
    let next = until_proven(&world, &second, 1).await;

    assert_eq!(next[0].made_by, "a");
    let kept = proofs(&world, &first).await;
    assert_eq!((&kept[0].made_by, kept[0].landed), (&"b".to_owned(), true), "its stale proof was not stored");
    assert_eq!(sent(&world, "wdpost").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_is_kept_while_the_chain_node_is_away_and_while_it_has_gone_back() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a"]).await;
    let pause = world.pause("WdPostMade");
    let _a = world.runner_with("a", POST, Some(&pause)).await;
    let window = window(&world).await;
    go_to(&world, window.challenge);
    pause.reached().await;

    let silence = world.devnet.silence();
    pause.remove();
    until_said(&world, "a", "is kept until the chain can be asked again").await;
    drop(silence);
    world.devnet.rewind(5).expect("the head goes back");
    until_said(&world, "a", "is not reached at head").await;
    assert_eq!(proofs(&world, &window).await, [], "nothing is stored over a chain that is not there");
    go_to(&world, window.challenge);
    let proofs = until_proven(&world, &window, 1).await;

    assert_eq!(proofs[0].proven, [0, 1]);
    let attempts = until("the task has ended", || async {
        let query = "SELECT attempt FROM harmony_task_history WHERE name = 'WdPost'";
        let attempts: Vec<i32> = sqlx::query_scalar(query).fetch_all(world.db.pool()).await.ok()?;
        (!attempts.is_empty()).then_some(attempts)
    })
    .await;
    assert_eq!(attempts, [1], "the proof was made once");
    go_to(&world, window.submit_from(4));
    until_landed(&world, "wdpost", 1).await;
    assert_holds(&world, &window, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reorganisation_over_the_challenge_has_the_proof_made_anew() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a"]).await;
    let _a = world.runner_with("a", POST, None).await;
    let window = window(&world).await;
    go_to(&world, window.challenge + 3);
    let old = until_proven(&world, &window, 1).await;

    world.devnet.reorganise_with_other_beacon(6, 7).expect("the chain goes back six epochs");
    until_remade(&world, &window, &old).await;

    assert_eq!(proofs(&world, &window).await.len(), 1);
    go_to(&world, window.submit_from(4));
    until_landed(&world, "wdpost", 1).await;
    assert_eq!(world.messages_on_chain(method::SUBMIT_WINDOWED_POST).await, 1);
    assert_holds(&world, &window, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_another_chain_refuses_is_followed_by_one_with_a_new_proof() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a"]).await;
    let _a = world.runner_with("a", POST, None).await;
    let window = window(&world).await;
    go_to(&world, window.challenge);
    let old = until_proven(&world, &window, 1).await;
    go_to(&world, window.submit_from(4));
    let signed = until("the message is in the pool", || async {
        let sends = curio_runner::message::outbox::list(&world.db).await.ok()?;
        sends.into_iter().find(|send| send.sent == Some(true))?.signed_cid
    })
    .await;
    // It is in the pool when the chain goes back below the challenge, and lands on the other fork.
    world.devnet.hold_back(Cid::try_from(signed.as_str()).expect("a CID"));
    let depth = usize::try_from(world.devnet.head().height - window.challenge).expect("it lies ahead") + 2;
    world.devnet.reorganise_with_other_beacon(depth, depth + 1).expect("the chain goes back below the challenge");
    world.devnet.hold_nothing_back();
    world.devnet.advance(4);
    until_remade(&world, &window, &old).await;
    world.devnet.advance(1);

    until("a second message is in the pool", || async { (sent(&world, "wdpost").await == 2).then_some(()) }).await;
    world.devnet.advance(4);
    until_outcome(&world, &window, "landed", 1).await;

    let sends = curio_runner::message::outbox::list(&world.db).await.expect("the database answers");
    let codes: Vec<Option<i64>> = sends.iter().map(|send| send.exit_code).collect();
    assert_eq!(codes, [Some(16), Some(0)], "{sends:#?}");
    assert_holds(&world, &window, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_closes_during_the_proof_gets_none() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a"]).await;
    let pause = world.pause("WdPostMade");
    let _a = world.runner_with("a", POST, Some(&pause)).await;
    let window = window(&world).await;
    go_to(&world, window.challenge);
    pause.reached().await;

    go_to(&world, window.close);
    until_said(&world, "a", "closed before partition 0 was proven").await;
    pause.remove();
    world.devnet.advance(5);
    until_outcome(&world, &window, "missed", 1).await;

    assert_eq!(proofs(&world, &window).await, []);
    assert_eq!(sent(&world, "wdpost").await, 0);
    assert_eq!(outcomes(&world, &window).await, [Some("missed".to_owned())]);
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM harmony_task WHERE name LIKE 'WdPost%' AND name <> 'WdPostRecover'")
            .fetch_one(world.db.pool())
            .await
            .expect("the database answers");
    assert_eq!(left, 0, "no task is left behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_comes_too_late_to_land_is_not_sent() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a"]).await;
    let pause = world.pause("WdPostMade");
    let _a = world.runner_with("a", POST, Some(&pause)).await;
    let window = window(&world).await;
    go_to(&world, window.challenge);
    pause.reached().await;

    // A message of this epoch is executed when the window is closed, at the earliest.
    go_to(&world, window.close - 1);
    pause.remove();
    until_proven(&world, &window, 1).await;
    world.devnet.reorganise(1, 1).expect("another head of the same epoch");
    until_said(&world, "a", "closes before its proofs could land").await;
    world.devnet.advance(5);
    until_outcome(&world, &window, "missed", 1).await;

    let sends = curio_runner::message::outbox::list(&world.db).await.expect("the database answers");
    assert!(sends.iter().all(|send| send.purpose != "wdpost"), "{sends:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_hang_late_in_a_window_leave_time_for_the_proof_of_the_others() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "c"]).await;
    world.layer("patient", "[Proving]\nSingleCheckTimeout = \"10m\"\nPartitionCheckTimeout = \"20m\"\n").await;
    let hanging = world.runner_with("c", STORE, None).await;
    let window = window(&world).await;
    // A runner that takes over late has 20 seconds left, by the chain's count.
    go_to(&world, window.close - 20);
    hanging.freeze();

    let _a = world.runner_with("a", &format!("{POST},patient"), None).await;
    let proofs = until_proven(&world, &window, 1).await;
    hanging.go_on();

    assert_eq!((&proofs[0].proven[..], &proofs[0].skipped[..]), (&[0][..], &[1][..]));
    // Proofs leave with a new head.
    world.devnet.advance(1);
    until_landed(&world, "wdpost", 1).await;
    assert_holds(&world, &window, &[1]).await;
}
