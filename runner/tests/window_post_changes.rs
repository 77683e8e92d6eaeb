//! Terminations and extensions in two steps, against a chain that knows what it allows.

#[path = "window/net.rs"]
mod net;
mod support {
    pub mod provider;
    pub mod world;
}

use curio_chain::address;
use curio_chain::types::TipSetKey;
use curio_core::Epoch;
use curio_core::config::Config;
use curio_harmony::testing::TestDb;
use curio_runner::post::changes::{Change, ChangeError, ChangeKind, ChangeState, Surroundings, approve, ask, list};
use net::{POST, go_to, partitions, proving_world, until_landed, until_proven, window};
use support::world::World;

async fn states(world: &World) -> Vec<(u64, ChangeKind, ChangeState)> {
    let changes = list(&world.db).await.expect("the database answers");
    let mut states: Vec<_> =
        changes.into_iter().map(|status| (status.sector.number, status.change, status.state)).collect();
    states.sort_by_key(|(number, ..)| *number);
    states
}

async fn expiration(world: &World, number: u64) -> Epoch {
    let miner = address::id_address(world.sp);
    let info = world.chain.state_sector_get_info(&miner, number, &TipSetKey::HEAD).await.expect("the chain answers");
    info.expect("the sector is there").expiration
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sector_is_extended_and_another_terminated_once_somebody_has_approved() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a", "a", "a"]).await;
    let config = Config::default();
    let around = Surroundings { db: &world.db, chain: &world.chain, config: &config };
    let sp = world.sp;
    let new_expiration = expiration(&world, 0).await + 100_000;
    let extend = Change::Extend { new_expiration };

    let idle = ask(around, sp, &[0], extend, "alice").await;
    assert!(matches!(idle, Err(ChangeError::NotActive { .. })), "it was never proven: {idle:?}");
    let _a = world.runner_with("a", POST, None).await;
    let first = window(&world).await;
    go_to(&world, first.challenge);
    until_proven(&world, &first, 2).await;
    go_to(&world, first.submit_from(4));
    until_landed(&world, "wdpost", 1).await;
    go_to(&world, first.close + 1);
    let sends = async || curio_runner::message::outbox::list(&world.db).await.expect("it answers").len();
    let before = sends().await;

    let early = approve(around, sp, &[0], ChangeKind::Extend, "bob").await;
    assert!(matches!(early, Err(ChangeError::NotAsked { .. })), "{early:?}");
    ask(around, sp, &[0], extend, "alice").await.expect("it can be asked for");
    ask(around, sp, &[1], Change::Terminate, "alice").await.expect("it can be asked for");
    let other = approve(around, sp, &[0], ChangeKind::Terminate, "bob").await;
    assert!(matches!(other, Err(ChangeError::NotAsked { .. })), "an approval is for what was asked: {other:?}");
    assert_eq!(
        states(&world).await,
        [(0, ChangeKind::Extend, ChangeState::Asked), (1, ChangeKind::Terminate, ChangeState::Asked)]
    );
    assert_eq!(sends().await, before, "nothing is sent yet");

    approve(around, sp, &[0], ChangeKind::Extend, "bob").await.expect("it is approved");
    approve(around, sp, &[1], ChangeKind::Terminate, "bob").await.expect("it is approved");
    // Epochs come by hand, so that neither can have landed.
    let again = ask(around, sp, &[1], Change::Terminate, "alice").await;
    assert!(matches!(again, Err(ChangeError::OnItsWay { .. })), "{again:?}");
    until_landed(&world, "extend", 1).await;
    until_landed(&world, "terminate", 1).await;

    assert_eq!(expiration(&world, 0).await, new_expiration);
    let live: Vec<u64> = partitions(&world)
        .await
        .iter()
        .flat_map(|partition| partition.live_sectors.iter().collect::<Vec<_>>())
        .collect();
    assert_eq!(live, [0, 2]);
    let states = states(&world).await;
    assert!(states.iter().all(|(.., state)| matches!(state, ChangeState::Landed(_))), "{states:?}");
    let gone = ask(around, sp, &[1], Change::Terminate, "alice").await;
    assert!(matches!(gone, Err(ChangeError::NotLive { .. })), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_chain_would_refuse_is_neither_noted_nor_approved() {
    let database = TestDb::empty().await;
    let world = proving_world(database.url(), &["a"]).await;
    let config = Config::default();
    let around = Surroundings { db: &world.db, chain: &world.chain, config: &config };
    let sp = world.sp;
    let absent = ask(around, sp, &[0, 7], Change::Terminate, "alice").await;
    assert!(matches!(absent, Err(ChangeError::NotLive { .. })), "{absent:?}");
    assert_eq!(states(&world).await, []);

    ask(around, sp, &[0], Change::Terminate, "alice").await.expect("it can be asked for");
    let window = window(&world).await;
    go_to(&world, window.open);
    let refused = approve(around, sp, &[0], ChangeKind::Terminate, "bob").await;
    match refused {
        Err(ChangeError::Immutable { after, .. }) => assert_eq!(after, window.last()),
        other => panic!("an open deadline is left alone: {other:?}"),
    }
    assert_eq!(states(&world).await, [(0, ChangeKind::Terminate, ChangeState::Asked)]);
}
