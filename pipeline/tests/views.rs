//! What the operator sees of sectors and of the data that machines hold, on a real database.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use curio_core::SectorRef;
use curio_harmony::Db;
use curio_harmony::tasks::TaskState;
use curio_pipeline::kind;
use curio_pipeline::pinned::{self, Pinned};
use curio_pipeline::status::{self, SectorState};
use curio_pipeline::view::{self, SectorView, TaskView};
use support::*;

const HOUR: Duration = Duration::from_secs(3600);

async fn sectors(db: &Db) -> Vec<SectorView> {
    view::sectors(db, HOUR).await.expect("the database answers")
}

#[tokio::test]
async fn a_new_sector_has_no_task_and_no_trouble() {
    let (_test, db) = with_sectors(1).await;
    let view = sectors(&db).await.remove(0);
    assert_eq!((view.sector, view.stage, view.state), (SECTOR, "SDR", SectorState::Sealing));
    assert_eq!((view.task, view.attempts, view.last_error, view.waiting_since_s), (None, 0, None, None));
    assert_eq!((view.precommitted, view.committed, view.ended_at, view.request_uid), (false, false, None, None));
}

#[tokio::test]
async fn the_task_the_runner_and_the_last_error_of_a_sector_are_shown() {
    let (_test, db) = with_sectors(1).await;
    machine(&db, "sealing-0", "scratch", false).await;
    let sdr = task(&db, SECTOR, kind::SDR, "task_id_sdr").await;
    let view = sectors(&db).await.remove(0);
    assert_eq!(view.task.as_ref().map(|task| task.state), Some(TaskState::Waiting));
    assert!(view.waiting_since_s.is_some_and(|waited| waited >= 0.0), "{view:?}");

    failed_attempt(&db, sdr, 1, true, "disk full").await;
    failed_attempt(&db, sdr, 2, true, "disk still full").await;
    failed_attempt(&db, sdr, 3, false, "the runner stopped").await;
    claim(&db, sdr, "sealing-0").await;
    let view = sectors(&db).await.remove(0);
    let expected = TaskView {
        id: sdr.0,
        kind: "SDR".to_owned(),
        machine: Some("sealing-0".to_owned()),
        state: TaskState::Running,
    };
    assert_eq!(view.task, Some(expected));
    assert_eq!((view.attempts, view.last_error.as_deref()), (2, Some("disk still full")));
    assert_eq!(view.waiting_since_s, None);

    sql(&db, "DELETE FROM harmony_task").await;
    sql(&db, "UPDATE sectors_sdr_pipeline SET task_id_sdr = NULL, after_sdr = TRUE").await;
    let view = sectors(&db).await.remove(0);
    assert_eq!((view.stage, view.task, view.attempts, view.last_error), ("TreeD", None, 2, None));
}

#[tokio::test]
async fn a_task_that_sends_the_sectors_message_is_the_sectors_task() {
    let (_test, db) = with_sectors(1).await;
    let send = message(&db, "precommit", true, None).await;
    let task = db
        .transaction("test-task", |tx| Box::pin(async move { curio_harmony::tasks::add(tx, kind::SEND_MESSAGE).await }))
        .await
        .expect("the task is added");
    sql(&db, &format!("UPDATE message_sends SET send_task_id = {task} WHERE send_id = {send}")).await;
    sql(&db, &format!("UPDATE sectors_sdr_pipeline SET precommit_send_id = {send}, after_precommit_msg = TRUE")).await;

    let view = sectors(&db).await.remove(0);

    assert_eq!(view.task.map(|task| task.kind).as_deref(), Some("SendMessage"));
    assert_eq!((view.precommit_cid.as_deref(), view.precommitted), (Some("precommit-cid"), false));
}

#[tokio::test]
async fn a_sector_that_ended_is_shown_for_a_while_and_a_failed_one_for_ever() {
    let (_test, db) = with_sectors(4).await;
    sql(&db, "UPDATE sectors_sdr_pipeline SET after_commit_msg_success = TRUE, after_move_storage = TRUE, ended_at = now() - interval '2 hours' WHERE sector_number = 0").await;
    sql(&db, "UPDATE sectors_sdr_pipeline SET after_commit_msg_success = TRUE, after_move_storage = TRUE, ended_at = now() WHERE sector_number = 1").await;
    sql(&db, "UPDATE sectors_sdr_pipeline SET failed = TRUE, failed_at = now() - interval '1 year', failed_reason = 'task-exhausted', failed_reason_msg = 'SDR gave up' WHERE sector_number = 2").await;
    sql(&db, "UPDATE sectors_sdr_pipeline SET request_uid = 'a' WHERE sector_number = 3").await;

    let seen: Vec<_> =
        sectors(&db).await.into_iter().map(|view| (view.sector.number, view.state, view.ended_at.is_some())).collect();

    assert_eq!(
        seen,
        [(1, SectorState::Proven, true), (2, SectorState::Failed, false), (3, SectorState::Sealing, false)]
    );
    let views = sectors(&db).await;
    assert_eq!(views[1].failed_message.as_deref(), Some("SDR gave up"));
    assert_eq!(views[2].request_uid.as_deref(), Some("a"));
    assert_eq!(views[2].sector, SectorRef::new(SP, 3));
}

#[tokio::test]
async fn the_deadline_and_partition_of_a_sector_are_shown_once_the_chain_has_placed_it() {
    let (_test, db) = with_sectors(1).await;
    sql(
        &db,
        &format!(
            "INSERT INTO sectors_meta (sp_id, sector_num, reg_seal_proof, ticket_epoch, ticket_value, orig_sealed_cid, orig_unsealed_cid,
                                       cur_sealed_cid, cur_unsealed_cid, seed_epoch, is_cc)
             VALUES ({}, 0, 5, 1, '\\x00', 'r', 'd', 'r', 'd', 2, TRUE)",
            SP.0
        ),
    )
    .await;
    let view = sectors(&db).await.remove(0);
    assert_eq!((view.deadline, view.partition), (None, None), "the commit is sent, and has not landed");

    sql(&db, "UPDATE sectors_meta SET deadline = 17, partition = 2").await;

    let view = sectors(&db).await.remove(0);
    assert_eq!((view.deadline, view.partition), (Some(17), Some(2)));
    let status = status::sector(&db, SECTOR).await.expect("the database answers").expect("it is in the pipeline");
    assert_eq!((status.sector.deadline, status.sector.partition), (Some(17), Some(2)));
}

async fn pinned(db: &Db) -> BTreeMap<String, Pinned> {
    pinned::by_machine(db).await.expect("the database answers")
}

#[tokio::test]
async fn a_machine_is_pinned_by_caches_and_long_term_copies_that_only_it_reaches() {
    let (_test, db) = with_sectors(4).await;
    machine(&db, "sealing-0", "scratch", false).await;
    machine(&db, "store-0", "long", true).await;
    // Being sealed, failed, and one that is finished and has a copy of its cache left on scratch.
    for number in [0, 1, 2] {
        file(&db, number, 4, "scratch").await;
    }
    sql(&db, "UPDATE sectors_sdr_pipeline SET failed = TRUE WHERE sector_number = 1").await;
    sql(&db, "UPDATE sectors_sdr_pipeline SET after_move_storage = TRUE WHERE sector_number = 2").await;
    // One that is finished, one whose row is gone, and one that is sealed but not moved yet.
    for number in [2, 77, 3] {
        file(&db, number, 2, "long").await;
    }

    let pins = pinned(&db).await;

    let expected = [
        ("sealing-0".to_owned(), Pinned { in_flight: 2, only_copies: 0 }),
        ("store-0".to_owned(), Pinned { in_flight: 0, only_copies: 2 }),
    ];
    assert_eq!(pins, BTreeMap::from(expected));
}

#[tokio::test]
async fn a_second_way_to_the_data_pins_nobody() {
    let (_test, db) = with_sectors(2).await;
    machine(&db, "sealing-0", "shared", false).await;
    machine(&db, "sealing-1", "shared", false).await;
    machine(&db, "sealing-2", "own", false).await;
    file(&db, 0, 4, "shared").await;
    file(&db, 1, 4, "own").await;
    file(&db, 1, 4, "shared").await;
    assert_eq!(pinned(&db).await, BTreeMap::new());

    // A copy that is going is none, and neither is one that no machine reaches.
    sql(&db, "UPDATE sector_location SET removal_requested_at = now() WHERE sector_num = 1 AND storage_id = 'shared'")
        .await;
    assert_eq!(pinned(&db).await["sealing-2"].in_flight, 1);
    sql(&db, "UPDATE sector_location SET removal_requested_at = NULL").await;
    sql(&db, "DELETE FROM storage_path_machines WHERE machine_name <> 'sealing-2'").await;
    assert_eq!(pinned(&db).await["sealing-2"].in_flight, 1);
}

#[tokio::test]
async fn without_data_nobody_is_pinned() {
    let (_test, db) = with_sectors(1).await;
    machine(&db, "sealing-0", "scratch", false).await;
    assert_eq!(pinned(&db).await, BTreeMap::new());
}
