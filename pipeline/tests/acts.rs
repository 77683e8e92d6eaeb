//! Retrying and removing sectors, on a real database.

mod support;

use curio_harmony::{Db, TaskId};
use curio_pipeline::act::{self, Removed};
use curio_pipeline::kind;
use support::*;

async fn remove(db: &Db) -> Removed {
    act::remove(db, SECTOR).await.expect("the database answers")
}

async fn retry(db: &Db) -> Vec<TaskId> {
    act::retry(db, SECTOR).await.expect("the database answers").tasks
}

#[tokio::test]
async fn a_failed_sector_goes_on_with_the_task_that_failed_it() {
    let (_test, db) = with_sectors(2).await;
    let task = task(&db, SECTOR, kind::SDR, "task_id_sdr").await;
    sql(&db, "UPDATE harmony_task SET failed_at = now(), retries = 5").await;
    sql(&db, &format!("UPDATE sectors_sdr_pipeline SET failed = TRUE, failed_task_id = {task}, failed_reason = 'x' WHERE sector_number = 0")).await;
    sql(&db, "UPDATE sectors_sdr_pipeline SET failed = TRUE, failed_reason = 'y' WHERE sector_number = 1").await;

    assert_eq!(retry(&db).await, [task]);

    assert_eq!(count(&db, "SELECT count(*) FROM harmony_task WHERE failed_at IS NULL AND retries = 0").await, 1);
    assert_eq!(count(&db, "SELECT sector_number FROM sectors_sdr_pipeline WHERE failed").await, 1, "the other one");
    assert_eq!(retry(&db).await, [], "there is nothing to retry any more");
}

#[tokio::test]
async fn a_task_in_its_backoff_is_tried_at_once_and_a_running_one_is_left_alone() {
    let (_test, db) = with_sectors(1).await;
    machine(&db, "sealing-0", "scratch", false).await;
    let waiting = task(&db, SECTOR, kind::FINALIZE, "task_id_finalize").await;
    let running = task(&db, SECTOR, kind::COMMIT_SUBMIT, "task_id_commit_msg").await;
    sql(&db, "UPDATE harmony_task SET run_after = now() + interval '1 hour', retries = 1").await;
    claim(&db, running, "sealing-0").await;

    assert_eq!(retry(&db).await, [waiting]);

    assert_eq!(count(&db, "SELECT sum(retries) FROM harmony_task").await, 1);
}

#[tokio::test]
async fn a_task_that_sends_the_sectors_message_is_retried_too() {
    let (_test, db) = with_sectors(1).await;
    let send = message(&db, "precommit", false, None).await;
    let task = db
        .transaction("test-task", |tx| Box::pin(async move { curio_harmony::tasks::add(tx, kind::SEND_MESSAGE).await }))
        .await
        .expect("the task is added");
    sql(&db, &format!("UPDATE message_sends SET send_task_id = {task} WHERE send_id = {send}")).await;
    sql(&db, "UPDATE harmony_task SET failed_at = now()").await;

    assert_eq!(retry(&db).await, [task]);
}

#[tokio::test]
async fn a_removed_sector_is_gone_with_its_tasks_and_its_files_are_marked() {
    let (_test, db) = with_sectors(2).await;
    machine(&db, "sealing-0", "scratch", false).await;
    file(&db, 0, 4, "scratch").await;
    file(&db, 1, 4, "scratch").await;
    task(&db, SECTOR, kind::TREE_D, "task_id_tree_d").await;
    let preview = act::preview_removal(&db, SECTOR).await.expect("the database answers");
    assert_eq!((preview.allowed, preview.on_chain), (true, false), "{preview:?}");
    assert_eq!(preview.files, ["cache of 2048 bytes on path scratch of sealing-0"]);

    assert_eq!(remove(&db).await, Removed::Done);

    assert_eq!(count(&db, "SELECT count(*) FROM harmony_task").await, 0);
    assert_eq!(count(&db, "SELECT sector_number FROM sectors_sdr_pipeline").await, 1, "the other one stays");
    let marked = "SELECT count(*) FROM sector_location WHERE sector_num = 0 AND removal_requested_at IS NOT NULL";
    assert_eq!(count(&db, marked).await, 2, "the cache, and a sealed file that may be there undeclared");
    assert_eq!(count(&db, "SELECT count(*) FROM sector_location WHERE removal_requested_at IS NULL").await, 1);
    assert_eq!(remove(&db).await, Removed::Done, "it is gone already");
    let preview = act::preview_removal(&db, SECTOR).await.expect("the database answers");
    assert!(!preview.allowed, "{preview:?}");
}

#[tokio::test]
async fn the_number_of_a_removed_sector_is_never_used_again() {
    let (_test, db) = with_sectors(1).await;
    assert_eq!(remove(&db).await, Removed::Done);
    let new = db.transaction("test-insert", |tx| {
        Box::pin(async move { curio_pipeline::insert::insert(tx, &new_sectors(1)).await })
    });
    assert_eq!(new.await.expect("the sector is inserted")[0].number, 1);
}

#[tokio::test]
async fn a_sector_with_a_running_task_is_stopped_first_and_goes_when_the_task_has_ended() {
    let (_test, db) = with_sectors(1).await;
    machine(&db, "sealing-0", "scratch", false).await;
    let sdr = task(&db, SECTOR, kind::SDR, "task_id_sdr").await;
    claim(&db, sdr, "sealing-0").await;

    let Removed::Waiting(why) = remove(&db).await else { panic!("a running task is not cut off") };
    assert!(why.contains("SDR runs on sealing-0"), "{why}");
    assert_eq!(count(&db, "SELECT count(*) FROM sectors_sdr_pipeline WHERE failed").await, 1, "nothing new is started");
    assert!(matches!(remove(&db).await, Removed::Waiting(_)));

    sql(&db, "DELETE FROM harmony_task").await;
    assert_eq!(remove(&db).await, Removed::Done);
    assert_eq!(count(&db, "SELECT count(*) FROM sectors_sdr_pipeline").await, 0);
}

#[tokio::test]
async fn a_sector_whose_commit_is_or_may_come_on_chain_stays() {
    let (_test, db) = with_sectors(1).await;
    let send = message(&db, "commit", true, None).await;
    sql(&db, "UPDATE sectors_sdr_pipeline SET failed = TRUE").await;
    assert!(matches!(remove(&db).await, Removed::Refused(_)), "it is signed and may have been pushed");

    sql(&db, &format!("UPDATE message_sends SET send_success = TRUE WHERE send_id = {send}")).await;
    assert!(matches!(remove(&db).await, Removed::Refused(_)), "it is in the message pool");

    sql(&db, "UPDATE sectors_sdr_pipeline SET after_commit_msg_success = TRUE, failed = FALSE").await;
    let preview = act::preview_removal(&db, SECTOR).await.expect("the database answers");
    assert_eq!((preview.allowed, preview.on_chain), (false, true));
    let Removed::Refused(why) = remove(&db).await else { panic!("a proven sector was removed") };
    assert_eq!(why, preview.reason);
    assert_eq!(count(&db, "SELECT count(*) FROM sectors_sdr_pipeline").await, 1);
}

#[tokio::test]
async fn a_failed_sector_whose_commit_the_chain_refused_may_go() {
    let (_test, db) = with_sectors(1).await;
    message(&db, "commit", true, Some(true)).await;
    sql(&db, "INSERT INTO message_waits (signed_message_cid, executed_tsk_epoch, executed_rcpt_exitcode) VALUES ('commit-cid', 9, 16)").await;
    sql(&db, "UPDATE sectors_sdr_pipeline SET failed = TRUE").await;
    assert_eq!(remove(&db).await, Removed::Done);
}

#[tokio::test]
async fn a_precommitted_sector_goes_only_when_it_failed() {
    let (_test, db) = with_sectors(1).await;
    sql(&db, "UPDATE sectors_sdr_pipeline SET after_precommit_msg_success = TRUE").await;
    assert!(matches!(remove(&db).await, Removed::Refused(_)));
    sql(&db, "UPDATE sectors_sdr_pipeline SET failed = TRUE").await;
    let preview = act::preview_removal(&db, SECTOR).await.expect("the database answers");
    assert_eq!((preview.allowed, preview.on_chain), (true, true));
    assert!(preview.reason.contains("deposit"), "{preview:?}");
    assert_eq!(remove(&db).await, Removed::Done);
}

#[tokio::test]
async fn a_message_that_nobody_signed_is_never_sent_for_a_removed_sector() {
    let (_test, db) = with_sectors(1).await;
    message(&db, "precommit", false, None).await;
    assert_eq!(remove(&db).await, Removed::Done);
    assert_eq!(
        count(&db, "SELECT count(*) FROM message_sends WHERE send_success = FALSE AND send_error <> ''").await,
        1
    );
}
