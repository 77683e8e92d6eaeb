//! Blocks of a miner from the election to the chain: a real sector, real vanilla proofs, a real PostgreSQL, runner processes
//! that share nothing but that, and a chain that judges blocks as a Lotus node does, slash filter included. Only the
//! SNARK is made from the test parameters' known secrets.
//!
//! Then the same with runners killed and paused at the worst moment, a database that goes away, a chain that does not
//! wait, and files that are damaged: there is never a second block for an epoch.

#[path = "winning/net.rs"]
mod net;
mod support {
    pub mod postgres;
    pub mod provider;
    pub mod world;
}

use curio_harmony::testing::TestDb;
use net::{FILES, LAYER, Row, blocks_in_chain, mining_world, rows, sealed, two_worlds};
use support::postgres::Postgres;
use support::world::{World, until};

/// The first election whose block was stored, once there is one.
async fn first_block(world: &World) -> Row {
    until("a block is stored", || async { rows(world).await.into_iter().find(|row| row.mined_cid.is_some()) }).await
}

/// Waits until that many blocks were found in the chain.
async fn until_included(world: &World, count: usize) {
    until("blocks are in the chain and were found there", || async {
        let included = rows(world).await.into_iter().filter(|row| row.included == Some(true)).count();
        (included >= count).then_some(())
    })
    .await;
}

/// What must hold at the end of every story: of each epoch at most one block, the one that the database has, and none that it
/// does not have.
async fn assert_no_second_block(world: &World, start: i64) {
    let rows = rows(world).await;
    for (height, cid) in blocks_in_chain(world, start).await {
        let row = rows.iter().find(|row| row.epoch == height).expect("there is an election for each block");
        assert_eq!(row.mined_cid.as_ref(), Some(&cid), "block of epoch {height}");
    }
    let refused: Vec<&Row> = rows.iter().filter(|row| row.lost_because.as_deref() == Some("refused")).collect();
    assert!(refused.is_empty(), "the slash filter was never needed: {refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runners_make_one_block_for_each_epoch() {
    let database = TestDb::empty().await;
    let world = mining_world(database.url()).await;
    let start = world.devnet.head().height.0;
    let (_a, _b) = (world.runner_with("a", LAYER, None).await, world.runner_with("b", LAYER, None).await);

    until_included(&world, 3).await;

    assert_no_second_block(&world, start).await;
    let rows = rows(&world).await;
    let epochs: Vec<i64> = rows.iter().map(|row| row.epoch).collect();
    let expected: Vec<i64> = (start + 1..).take(epochs.len()).collect();
    assert_eq!(epochs, expected, "no epoch was passed over that was not tried");
    for row in rows.iter().filter(|row| row.included == Some(true)) {
        assert!(row.won && row.submitted && row.lost_because.is_none(), "{row:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runners_whose_chain_nodes_disagree_make_no_two_blocks_for_an_epoch() {
    let database = TestDb::empty().await;
    let (one, other) = two_worlds(database.url()).await;
    let start = one.devnet.head().height.0;
    assert_ne!(one.devnet.head(), other.devnet.head());
    let (_a, _b) = (one.runner_with("a", LAYER, None).await, other.runner_with("b", LAYER, None).await);

    until("blocks are submitted", || async {
        let submitted = rows(&one).await.into_iter().filter(|row| row.submitted).count();
        (submitted >= 6).then_some(())
    })
    .await;

    let (on_one, on_other) = (blocks_in_chain(&one, start).await, blocks_in_chain(&other, start).await);
    let mut epochs: Vec<i64> = on_one.iter().chain(&on_other).map(|(epoch, _)| *epoch).collect();
    epochs.sort_unstable();
    let all = epochs.len();
    epochs.dedup();
    assert_eq!(epochs.len(), all, "of each epoch one block on one of the forks: {on_one:?}, {on_other:?}");
    assert_no_second_block(&one, start).await;
    assert_no_second_block(&other, start).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_killed_before_it_submits_submits_the_same_block_after_its_start() {
    let database = TestDb::empty().await;
    let world = mining_world(database.url()).await;
    let start = world.devnet.head().height.0;
    let pause = world.pause("WinPost");
    let runner = world.runner_with("a", LAYER, Some(&pause)).await;
    pause.reached().await;
    let stored = first_block(&world).await;
    assert!(
        !stored.submitted && blocks_in_chain(&world, start).await.is_empty(),
        "stored and not submitted: {stored:?}"
    );

    runner.kill().await;
    pause.remove();
    let _runner = world.runner_with("a", LAYER, None).await;
    until_included(&world, 1).await;

    let rows = rows(&world).await;
    assert_eq!(rows[0].mined_cid, stored.mined_cid, "the block that was stored, and no other");
    assert_eq!(rows[0].included, Some(true));
    assert_no_second_block(&world, start).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_stood_still_while_another_took_over_makes_no_second_block() {
    let database = TestDb::empty().await;
    let world = mining_world(database.url()).await;
    let start = world.devnet.head().height.0;
    // The files lie with `a`, which goes on serving them; `b` holds the block and stands still.
    let pause = world.pause("WinPost");
    let b = world.runner_with("b", LAYER, Some(&pause)).await;
    let a = world.runner_with("a", FILES, None).await;
    pause.reached().await;
    let stored = first_block(&world).await;
    b.freeze();

    a.kill().await;
    let _a = world.runner_with("a", LAYER, None).await;
    until_included(&world, 1).await;
    b.go_on();
    until("both runners mine", || async {
        // Every attempt of `b` is held here.
        pause.remove();
        let included = rows(&world).await.into_iter().filter(|row| row.included == Some(true)).count();
        (included >= 4).then_some(())
    })
    .await;

    let rows = rows(&world).await;
    assert_eq!(rows[0].mined_cid, stored.mined_cid, "the stored block was submitted by the other runner");
    assert_no_second_block(&world, start).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_restarted_before_a_block_is_submitted_loses_nothing() {
    let database = Postgres::start();
    let world = mining_world(&database.url()).await;
    let start = world.devnet.head().height.0;
    let pause = world.pause("WinPost");
    let _runner = world.runner_with("a", LAYER, Some(&pause)).await;
    pause.reached().await;
    let stored = first_block(&world).await;

    database.stop_immediately();
    pause.remove();
    database.pg_ctl_start();
    let submitted = until("the block is submitted", || async {
        // Every attempt is held here.
        pause.remove();
        rows(&world).await.into_iter().find(|row| row.submitted)
    })
    .await;

    assert_eq!((submitted.epoch, &submitted.mined_cid), (stored.epoch, &stored.mined_cid));
    assert_no_second_block(&world, start).await;
    assert!(blocks_in_chain(&world, start).await.iter().any(|(height, _)| *height == stored.epoch));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_the_chain_did_not_wait_for_is_dropped_and_the_next_one_made() {
    let database = TestDb::empty().await;
    let world = mining_world(database.url()).await;
    let start = world.devnet.head().height.0;
    let pause = world.pause("WinPost");
    let runner = world.runner_with("a", LAYER, Some(&pause)).await;
    pause.reached().await;
    let late = first_block(&world).await;

    world.devnet.advance(3);
    runner.kill().await;
    pause.remove();
    let _runner = world.runner_with("a", LAYER, None).await;
    until_included(&world, 1).await;

    let rows = rows(&world).await;
    let dropped = rows.iter().find(|row| row.epoch == late.epoch).expect("it is remembered");
    assert_eq!((dropped.lost_because.as_deref(), dropped.submitted), (Some("late"), false));
    assert_no_second_block(&world, start).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_win_whose_sector_cannot_be_read_is_given_up_and_mining_goes_on_when_it_is_healed() {
    let database = TestDb::empty().await;
    let world = mining_world(database.url()).await;
    let start = world.devnet.head().height.0;
    let whole = std::fs::read(sealed(&world)).expect("the sealed file is there");
    std::fs::write(sealed(&world), &whole[..whole.len() / 2]).expect("the file is cut off");
    let _runner = world.runner_with("a", LAYER, None).await;

    let given_up = until("a win is given up", || async {
        rows(&world).await.into_iter().find(|row| row.lost_because.as_deref() == Some("given-up"))
    })
    .await;
    assert!(given_up.won && given_up.mined_cid.is_none(), "{given_up:?}");
    std::fs::write(sealed(&world), &whole).expect("the file is whole again");
    until_included(&world, 1).await;

    assert_no_second_block(&world, start).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_set_back_under_a_miner_mines_nothing_until_a_person_confirms() {
    let database = Postgres::start();
    let world = mining_world(&database.url()).await;
    let start = world.devnet.head().height.0;
    let backup = database.back_up();
    let runner = world.runner_with("a", LAYER, None).await;
    until_included(&world, 2).await;

    database.restore(&backup);
    let head = until("mining has ended", || async {
        let before = world.devnet.head().height;
        let (ready, said) = runner.readiness().await?;
        let held = !ready && said.to_string().contains("curio chain confirm");
        (held && world.devnet.head().height == before).then_some(before)
    })
    .await;
    world.devnet.advance(2);
    assert_eq!(rows(&world).await, [], "the database has forgotten the elections, and none is asked for");
    let newest = blocks_in_chain(&world, start).await[0].clone();
    assert!(newest.0 <= head.0, "no block above epoch {head}: {newest:?}");

    world.curio(&["chain", "confirm"]).await;
    world.devnet.advance(1);
    until_included(&world, 1).await;
    assert_no_second_block(&world, head.0).await;
}
