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
use support::world::{Pause, Runner, World, until};

/// A cluster that mines for one miner.
struct Story {
    world: World,
    /// Height of the head when it began.
    start: i64,
}

/// A runner that is held in the middle of its first win.
struct Held {
    runner: Runner,
    pause: Pause,
    /// The election as it stands then.
    won: Row,
}

/// The win is stored, and no block is made.
const WON: &str = "WinPostWon";
/// The block is stored, and not submitted.
const STORED: &str = "WinPost";

impl Story {
    async fn on(db_url: &str) -> Story {
        let world = mining_world(db_url).await;
        let start = world.devnet.head().height.0;
        Story { world, start }
    }

    async fn runner(&self, name: &str, layer: &str) -> Runner {
        self.world.runner_with(name, layer, None).await
    }

    async fn runner_held_at(&self, point: &'static str, name: &str) -> Held {
        let pause = self.world.pause(point);
        let runner = self.world.runner_with(name, LAYER, Some(&pause)).await;
        pause.reached().await;
        let won = self.until_row("an election is won", |row| row.won && row.lost_because.is_none()).await;
        assert_eq!((won.mined_cid.is_some(), won.submitted), (point == STORED, false), "{won:?}");
        Held { runner, pause, won }
    }

    async fn rows(&self) -> Vec<Row> {
        rows(&self.world).await
    }

    /// The first election of which this holds, once there is one.
    async fn until_row(&self, what: &str, holds: impl Fn(&Row) -> bool) -> Row {
        until(what, || async { self.rows().await.into_iter().find(&holds) }).await
    }

    /// Waits until that many blocks were found in the chain.
    async fn until_included(&self, count: usize) {
        until("blocks are in the chain and were found there", || async {
            let included = self.rows().await.into_iter().filter(|row| row.included == Some(true)).count();
            (included >= count).then_some(())
        })
        .await;
    }

    async fn assert_no_second_block(&self) {
        assert_no_second_block(&self.world, self.start).await;
    }
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
    let story = Story::on(database.url()).await;
    let (_a, _b) = (story.runner("a", LAYER).await, story.runner("b", LAYER).await);

    story.until_included(3).await;

    story.assert_no_second_block().await;
    let rows = story.rows().await;
    let epochs: Vec<i64> = rows.iter().map(|row| row.epoch).collect();
    let expected: Vec<i64> = (story.start + 1..).take(epochs.len()).collect();
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
async fn a_runner_killed_between_the_win_and_the_block_makes_one_block_after_its_start() {
    let database = TestDb::empty().await;
    let story = Story::on(database.url()).await;
    let Held { runner, pause, won } = story.runner_held_at(WON, "a").await;

    runner.kill().await;
    pause.remove();
    let _runner = story.runner("a", LAYER).await;
    story.until_included(1).await;

    let rows = story.rows().await;
    assert_eq!((rows[0].epoch, rows[0].included), (won.epoch, Some(true)), "the win is not lost");
    story.assert_no_second_block().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_silent_when_it_should_sign_signs_one_block_when_it_is_back() {
    let database = TestDb::empty().await;
    let story = Story::on(database.url()).await;
    let Held { runner, pause, won } = story.runner_held_at(WON, "a").await;

    let silence = story.world.devnet.silence();
    pause.remove();
    until("the runner misses the chain", || async { runner.readiness().await.filter(|(ready, _)| !ready) }).await;
    drop(silence);
    until("the block is found in the chain", || async {
        // Every attempt is held here.
        pause.remove();
        story.rows().await.into_iter().find(|row| row.included == Some(true))
    })
    .await;

    let rows = story.rows().await;
    assert_eq!((rows[0].epoch, rows[0].included), (won.epoch, Some(true)), "the win is not lost");
    story.assert_no_second_block().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_killed_before_it_submits_submits_the_same_block_after_its_start() {
    let database = TestDb::empty().await;
    let story = Story::on(database.url()).await;
    let Held { runner, pause, won: stored } = story.runner_held_at(STORED, "a").await;
    assert!(blocks_in_chain(&story.world, story.start).await.is_empty(), "stored and not submitted");

    runner.kill().await;
    pause.remove();
    let _runner = story.runner("a", LAYER).await;
    story.until_included(1).await;

    let rows = story.rows().await;
    assert_eq!(rows[0].mined_cid, stored.mined_cid, "the block that was stored, and no other");
    assert_eq!(rows[0].included, Some(true));
    story.assert_no_second_block().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_runner_that_stood_still_while_another_took_over_makes_no_second_block() {
    let database = TestDb::empty().await;
    let story = Story::on(database.url()).await;
    // The files lie with `a`, which only serves them; `b` holds the block and stands still.
    let a = story.runner("a", FILES).await;
    let Held { runner: b, pause, won: stored } = story.runner_held_at(STORED, "b").await;
    b.freeze();

    a.kill().await;
    let _a = story.runner("a", LAYER).await;
    story.until_included(1).await;
    b.go_on();
    until("both runners mine", || async {
        // Every attempt of `b` is held here.
        pause.remove();
        let included = story.rows().await.into_iter().filter(|row| row.included == Some(true)).count();
        (included >= 4).then_some(())
    })
    .await;

    assert_eq!(story.rows().await[0].mined_cid, stored.mined_cid, "the stored block was submitted by the other runner");
    story.assert_no_second_block().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_restarted_before_a_block_is_submitted_loses_nothing() {
    let database = Postgres::start();
    let story = Story::on(&database.url()).await;
    let Held { runner: _runner, pause, won: stored } = story.runner_held_at(STORED, "a").await;

    database.stop_immediately();
    pause.remove();
    database.pg_ctl_start();
    let submitted = until("the block is submitted", || async {
        // Every attempt is held here.
        pause.remove();
        story.rows().await.into_iter().find(|row| row.submitted)
    })
    .await;

    assert_eq!((submitted.epoch, &submitted.mined_cid), (stored.epoch, &stored.mined_cid));
    story.assert_no_second_block().await;
    let blocks = blocks_in_chain(&story.world, story.start).await;
    assert!(blocks.iter().any(|(height, _)| *height == stored.epoch), "{blocks:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_the_chain_did_not_wait_for_is_dropped_and_the_next_one_made() {
    let database = TestDb::empty().await;
    let story = Story::on(database.url()).await;
    let Held { runner, pause, won: late } = story.runner_held_at(STORED, "a").await;

    story.world.devnet.advance(3);
    runner.kill().await;
    pause.remove();
    let _runner = story.runner("a", LAYER).await;
    story.until_included(1).await;

    let rows = story.rows().await;
    let dropped = rows.iter().find(|row| row.epoch == late.epoch).expect("it is remembered");
    assert_eq!((dropped.lost_because.as_deref(), dropped.submitted), (Some("late"), false));
    story.assert_no_second_block().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_win_whose_sector_cannot_be_read_is_given_up_and_mining_goes_on_when_it_is_healed() {
    let database = TestDb::empty().await;
    let story = Story::on(database.url()).await;
    let sealed = sealed(&story.world);
    let whole = std::fs::read(&sealed).expect("the sealed file is there");
    std::fs::write(&sealed, &whole[..whole.len() / 2]).expect("the file is cut off");
    let _runner = story.runner("a", LAYER).await;

    let given_up = story.until_row("a win is given up", |row| row.lost_because.as_deref() == Some("given-up")).await;
    assert!(given_up.won && given_up.mined_cid.is_none(), "{given_up:?}");
    std::fs::write(&sealed, &whole).expect("the file is whole again");
    story.until_included(1).await;

    story.assert_no_second_block().await;
}

/// Once a win of an epoch that the node could not tell about kept all later ones from being looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_win_of_which_the_node_cannot_tell_hides_no_other() {
    let database = TestDb::empty().await;
    let story = Story::on(database.url()).await;
    // No node has a tipset below the genesis.
    sqlx::query(
        "INSERT INTO mining_tasks (task_id, sp_id, epoch, base_compute_time, won, mined_cid, mined_block, submitted_at)
         VALUES (-1, $1, -1, now(), TRUE, $2, '{}', now())",
    )
    .bind(story.world.sp.0 as i64)
    .bind(story.world.devnet.head().cids.0[0].to_string())
    .execute(story.world.db.pool())
    .await
    .expect("the win is stored");
    let _runner = story.runner("a", LAYER).await;

    story.until_included(1).await;

    let rows = story.rows().await;
    assert_eq!((rows[0].epoch, rows[0].included), (-1, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_set_back_under_a_miner_mines_nothing_until_a_person_confirms() {
    let database = Postgres::start();
    let story = Story::on(&database.url()).await;
    let (world, start) = (&story.world, story.start);
    let backup = database.back_up();
    let runner = story.runner("a", LAYER).await;
    story.until_included(2).await;

    database.restore(&backup);
    let head = until("mining has ended", || async {
        let before = world.devnet.head().height;
        let (ready, said) = runner.readiness().await?;
        let held = !ready && said.to_string().contains("curio chain confirm");
        (held && world.devnet.head().height == before).then_some(before)
    })
    .await;
    world.devnet.advance(2);
    assert_eq!(story.rows().await, [], "the database has forgotten the elections, and none is asked for");
    let newest = blocks_in_chain(world, start).await[0].clone();
    assert!(newest.0 <= head.0, "no block above epoch {head}: {newest:?}");

    world.curio(&["chain", "confirm"]).await;
    world.devnet.advance(1);
    story.until_included(1).await;
    assert_no_second_block(world, head.0).await;
}
