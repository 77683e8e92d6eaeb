//! Elections on a real PostgreSQL: many machines that ask at once, and what a second election is refused for.

use curio_chain::Cid;
use curio_chain::types::TipSetKey;
use curio_core::{Epoch, SpId};
use curio_harmony::testing::TestDb;
use curio_harmony::{Db, TaskId};
use curio_runner::post::winning::record::{self, Kept, Lost, Made, Verdict};
use curio_runner::post::winning::round::State;

const SP: SpId = SpId(1000);

/// A base of blocks that differ from those of other numbers.
fn base(blocks: &[u8]) -> TipSetKey {
    let cid = |number: &u8| TipSetKey(vec![Cid::default(); usize::from(*number)]).cid();
    TipSetKey(blocks.iter().map(cid).collect())
}

async fn ask(db: &Db, epoch: i64, blocks: &[u8]) -> Option<TaskId> {
    ask_at(db, epoch, 10, blocks).await
}

/// On a base of this height.
async fn ask_at(db: &Db, epoch: i64, height: i64, blocks: &[u8]) -> Option<TaskId> {
    record::ask(db, SP, Epoch(epoch), Epoch(height), &base(blocks)).await.expect("the database answers")
}

async fn run(db: &Db, statement: &'static str) -> u64 {
    sqlx::query(statement).execute(db.pool()).await.expect("the statement runs").rows_affected()
}

/// State of each election by epoch.
async fn states(db: &Db, from: i64) -> Vec<(i64, State)> {
    let mut near = record::near(db, &[SP], Epoch(from)).await.expect("the database answers");
    let elections = near.remove(&SP).unwrap_or_default();
    elections.into_iter().map(|election| (election.epoch.0, election.state)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_machines_on_two_forks_ask_for_one_election() {
    let database = TestDb::new().await;
    let askers = (0..10).map(|number| {
        let db = database.db().clone();
        tokio::spawn(async move { ask(&db, 11, if number % 2 == 0 { &[1, 2] } else { &[3] }).await })
    });
    let asked = futures::future::join_all(askers).await;
    assert_eq!(asked.into_iter().filter_map(|asked| asked.expect("no asker panics")).count(), 1);
    assert_eq!(run(database.db(), "DELETE FROM harmony_task").await, 1, "one task, and none that was left over");
}

#[tokio::test]
async fn the_base_is_kept_in_its_order() {
    let database = TestDb::new().await;
    let task = ask(database.db(), 11, &[3, 1, 2]).await.expect("nobody else asks");
    let job = record::of_task(database.db(), task).await.expect("the row is readable").expect("the row is there");
    assert_eq!((job.sp, job.epoch, job.base), (SP, Epoch(11), base(&[3, 1, 2])));
}

#[tokio::test]
async fn while_an_election_may_give_a_block_there_is_no_other_on_its_parents() {
    let database = TestDb::new().await;
    let db = database.db();
    let first = ask(db, 11, &[1, 2]).await.expect("nobody else asks");
    assert_eq!(ask(db, 12, &[2, 3]).await, None, "a parent is shared");
    assert!(ask(db, 13, &[4]).await.is_some(), "another base");
    assert_eq!(record::write_off(db, SP, Epoch(11)).await.expect("the database answers"), None, "its task is there");

    sqlx::query("UPDATE harmony_task SET failed_at = now() WHERE id = $1")
        .bind(first.0)
        .execute(db.pool())
        .await
        .expect("the task is failed");
    assert_eq!(states(db, 11).await, [(11, State::Abandoned), (13, State::Open)]);
    assert_eq!(record::write_off(db, SP, Epoch(11)).await.expect("the database answers"), Some(false));
    assert_eq!(states(db, 11).await, [(11, State::Lost), (13, State::Open)]);
    assert!(ask(db, 12, &[2, 3]).await.is_some(), "no block comes of the first one any more");
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM harmony_task").fetch_one(db.pool()).await.expect("a count");
    assert_eq!(left, 2, "the task that failed is gone");
}

/// Once an election was still held when the next one began on a base without its block: it made that block after all, and the
/// next block would have been a fault.
#[tokio::test]
async fn an_election_that_is_still_held_when_the_next_one_is_asked_for_is_late() {
    let database = TestDb::new().await;
    let db = database.db();
    ask_at(db, 11, 10, &[1]).await.expect("nobody else asks");
    assert!(ask_at(db, 12, 11, &[2]).await.is_some(), "the base of epoch 11 is somebody else's");
    assert_eq!(states(db, 11).await, [(11, State::Lost), (12, State::Open)]);
    let stored = run(db, "UPDATE mining_tasks SET won = TRUE WHERE epoch = 11 AND lost_because IS NULL").await;
    assert_eq!(stored, 0, "what an attempt writes names the state that it expects");
}

#[tokio::test]
async fn nothing_is_asked_for_on_a_base_without_the_own_block_of_its_epoch() {
    let database = TestDb::new().await;
    let db = database.db();
    ask_at(db, 11, 10, &[1]).await.expect("nobody else asks");
    let made = base(&[9]).0[0];
    sqlx::query("UPDATE mining_tasks SET won = TRUE, mined_cid = $1, mined_block = '{}'")
        .bind(made.to_string())
        .execute(db.pool())
        .await
        .expect("the block is stored");
    assert_eq!(ask_at(db, 12, 11, &[2]).await, None, "parents would be chosen");
    assert!(ask_at(db, 12, 11, &[2, 9]).await.is_some(), "the own block is among them");
}

/// A won election, and the block that it would store.
struct Win {
    task: TaskId,
    made: Made,
}

/// Asks for the election of this epoch on a base of this height, wins it, and makes a block whose CID has the epoch's number.
async fn win(db: &Db, epoch: u8, height: i64, blocks: &[u8]) -> Win {
    let task = ask_at(db, epoch.into(), height, blocks).await.expect("it may be asked for");
    run(db, "UPDATE mining_tasks SET won = TRUE").await;
    let texts = |key: TipSetKey| key.0.iter().map(Cid::to_string).collect::<Vec<_>>();
    let made = Made {
        sp: SP,
        epoch: Epoch(epoch.into()),
        height: Epoch(height),
        cid: texts(base(&[epoch])).remove(0),
        parents: texts(base(blocks)),
        json: serde_json::json!({}),
    };
    Win { task, made }
}

async fn keep(db: &Db, win: &Win) -> Kept {
    let (task, made) = (win.task, win.made.clone());
    let kept = db.transaction("keep", move |tx| {
        let made = made.clone();
        Box::pin(async move { record::keep_in(tx, task, &made).await })
    });
    kept.await.expect("the database answers")
}

/// Once a machine whose node was behind asked for epoch 11 after another one had asked for epoch 12 on a base without a block of
/// ours, and both made theirs.
#[tokio::test]
async fn of_two_elections_that_were_asked_for_in_the_wrong_order_one_stores_a_block() {
    // Which of them stores first.
    for (first, second) in [(0, 1), (1, 0)] {
        let database = TestDb::new().await;
        let db = database.db();
        let wins = [win(db, 12, 11, &[2]).await, win(db, 11, 10, &[1]).await];
        assert_eq!(keep(db, &wins[first]).await, Kept::Stored);
        assert_eq!(keep(db, &wins[second]).await, Kept::Beside, "after the block for {}", wins[first].made.epoch);
    }
}

#[tokio::test]
async fn an_election_asked_for_below_an_own_block_stores_none() {
    let database = TestDb::new().await;
    let db = database.db();
    let later = win(db, 12, 11, &[2]).await;
    assert_eq!(keep(db, &later).await, Kept::Stored);
    let earlier = win(db, 11, 10, &[1]).await;
    assert_eq!(keep(db, &earlier).await, Kept::Beside);
}

#[tokio::test]
async fn a_block_on_top_of_the_own_one_is_stored_once() {
    let database = TestDb::new().await;
    let db = database.db();
    let below = win(db, 11, 10, &[1]).await;
    assert_eq!(keep(db, &below).await, Kept::Stored);
    let above = win(db, 12, 11, &[2, 11]).await;
    assert_eq!(keep(db, &above).await, Kept::Stored);
    assert_eq!(keep(db, &above).await, Kept::Decided);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_machines_that_store_at_once_store_one_block() {
    let database = TestDb::new().await;
    let db = database.db();
    for round in 0..20 {
        run(db, "DELETE FROM mining_tasks").await;
        let wins = [win(db, 12, 11, &[2]).await, win(db, 11, 10, &[1]).await];
        let kept = futures::future::join_all(wins.iter().map(|win| keep(db, win))).await;
        let stored = kept.iter().filter(|kept| **kept == Kept::Stored).count();
        assert_eq!(stored, 1, "round {round}: {kept:?}");
    }
}

#[tokio::test]
async fn a_block_keeps_its_parents_for_ever() {
    let database = TestDb::new().await;
    let db = database.db();
    ask(db, 11, &[1]).await.expect("nobody else asks");
    run(db, "DELETE FROM harmony_task").await;
    let made = base(&[9]).0[0];
    sqlx::query("UPDATE mining_tasks SET won = TRUE, mined_cid = $1, mined_block = '{}', lost_because = 'late'")
        .bind(made.to_string())
        .execute(db.pool())
        .await
        .expect("the block is stored");
    assert_eq!(record::write_off(db, SP, Epoch(11)).await.expect("the database answers"), None);
    assert_eq!(ask(db, 12, &[1]).await, None);
    assert_eq!(states(db, 11).await, [(11, State::Made(made))]);
}

#[tokio::test]
async fn open_elections_of_old_epochs_are_found_and_decided_ones_are_not() {
    let database = TestDb::new().await;
    let db = database.db();
    for (epoch, block) in [(5, 1), (6, 2), (11, 3)] {
        // On forks from low down: none of them is late by the base of another.
        ask_at(db, epoch, 1, &[block]).await.expect("nobody else asks");
    }
    run(db, "UPDATE mining_tasks SET lost_because = 'not-won' WHERE epoch = 6").await;
    assert_eq!(states(db, 11).await, [(5, State::Open), (11, State::Open)]);
}

#[tokio::test]
async fn a_win_is_looked_at_once_and_keeps_why_it_was_lost() {
    let database = TestDb::new().await;
    let db = database.db();
    for epoch in 10..15 {
        ask(db, epoch, &[epoch as u8]).await.expect("nobody else asks");
    }
    run(db, "UPDATE mining_tasks SET won = epoch > 10").await;
    run(db, "UPDATE mining_tasks SET lost_because = 'given-up' WHERE epoch = 12").await;
    let cid = base(&[9]).0[0].to_string();
    sqlx::query("UPDATE mining_tasks SET mined_cid = $1, mined_block = '{}' WHERE epoch IN (13, 14)")
        .bind(&cid)
        .execute(db.pool())
        .await
        .expect("blocks are stored");
    let wins = record::unlooked(db, Epoch(14), 10).await.expect("the database answers");
    let epochs: Vec<i64> = wins.iter().map(|win| win.epoch.0).collect();
    assert_eq!(epochs, [12, 13, 14], "10 was not won, 11 is not decided");

    let mut verdicts = Vec::new();
    for (win, included) in wins.iter().zip([false, false, true]) {
        verdicts.push(record::looked(db, win, included).await.expect("the database answers"));
    }
    let lost = |because| Some(Verdict::Lost(because));
    assert_eq!(verdicts, [lost(Lost::GivenUp), lost(Lost::NotIncluded), Some(Verdict::Included)]);
    assert_eq!(
        record::looked(db, &wins[2], false).await.expect("the database answers"),
        None,
        "another machine was faster"
    );
}

#[tokio::test]
async fn a_task_that_could_not_submit_its_block_goes_when_the_win_is_looked_at() {
    let database = TestDb::new().await;
    let db = database.db();
    let stored = win(db, 12, 11, &[2]).await;
    assert_eq!(keep(db, &stored).await, Kept::Stored);
    run(db, "UPDATE harmony_task SET failed_at = now()").await;
    let wins = record::unlooked(db, Epoch(12), 10).await.expect("the database answers");

    let verdict = record::looked(db, &wins[0], false).await.expect("the database answers");

    assert_eq!(verdict, Some(Verdict::Lost(Lost::NotIncluded)));
    assert_eq!(run(db, "DELETE FROM harmony_task").await, 0, "no task is left that failed");
}

#[tokio::test]
async fn lost_elections_are_forgotten_after_a_time_and_wins_are_not() {
    let database = TestDb::new().await;
    let db = database.db();
    for epoch in 10..14 {
        ask(db, epoch, &[epoch as u8]).await.expect("nobody else asks");
    }
    run(db, "UPDATE mining_tasks SET lost_because = 'not-won', won = (epoch = 10) WHERE epoch <> 11").await;
    assert_eq!(record::prune(db, Epoch(13)).await.expect("the database answers"), 1, "12; 11 is open, 13 is too young");
}
