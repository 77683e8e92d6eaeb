//! A chain node that goes away, and one whose head goes back, under a running machine.

mod support {
    pub mod world;
}

use curio_harmony::testing::TestDb;
use support::world::{Runner, World, until};

const HEAD: &str = "curio_chain_head_epoch";

/// Waits until the runner has seen an epoch above this one.
async fn follows_beyond(runner: &Runner, epoch: f64) -> f64 {
    until("the runner follows the chain", || async { runner.metric(HEAD).await.filter(|head| *head > epoch) }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_answering_is_waited_for_and_its_chain_caught_up_with() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let sealing = world.runner("sealing", None).await;
    follows_beyond(&sealing, 0.0).await;

    let silence = world.devnet.silence();
    until("the runner misses the chain", || async { sealing.readiness().await.filter(|(ready, _)| !ready) }).await;
    // Two minutes of a chain with 30 s epochs are four; these are ten times as many.
    let end = world.devnet.head().height.0 + 40;
    until("the chain goes on", || async { (world.devnet.head().height.0 >= end).then_some(()) }).await;
    drop(silence);

    follows_beyond(&sealing, end as f64).await;
    world.curio(&["seal", "start", "--actor", &world.sp.to_string(), "--now", "--count", "1"]).await;
    let sector = curio_core::SectorRef::new(world.sp, 0);
    until("messages land again", || async {
        world.column(sector, "after_precommit_msg_success").await.filter(|landed| landed == "true")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_head_goes_back_holds_the_runner_until_the_chain_has_passed_the_old_head() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let sealing = world.runner("sealing", None).await;
    let high = follows_beyond(&sealing, 30.0).await;

    world.devnet.rewind(25).expect("the chain is that long");
    let message = until("the fence is held", || async {
        let (ready, checks) = sealing.readiness().await?;
        let message = checks["checks"]["fence"]["message"].as_str()?.to_owned();
        (!ready && message.contains("was seen before")).then_some(message)
    })
    .await;
    assert!(!message.contains("confirm"), "it ends by itself: {message}");
    assert_eq!(sealing.metric("curio_chain_fence_held").await, Some(1.0));

    follows_beyond(&sealing, high).await;
    until("the fence is open", || async { sealing.metric("curio_chain_fence_held").await.filter(|held| *held == 0.0) })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_was_stopped_and_continued_goes_on_with_the_newest_head() {
    let database = TestDb::empty().await;
    let world = World::new(database.url()).await;
    let sealing = world.runner("sealing", None).await;
    follows_beyond(&sealing, 0.0).await;

    sealing.freeze();
    let end = world.devnet.head().height.0 + 40;
    until("the chain goes on", || async { (world.devnet.head().height.0 >= end).then_some(()) }).await;
    sealing.go_on();

    follows_beyond(&sealing, end as f64).await;
    until("it works again", || async { sealing.readiness().await.filter(|(ready, _)| *ready) }).await;
}
