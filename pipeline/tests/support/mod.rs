//! Sectors, tasks, files and messages as rows, on a database of one test.

#![allow(dead_code, reason = "each test file uses its own part")]

use curio_core::{SealProof, SectorRef, SpId};
use curio_harmony::testing::TestDb;
use curio_harmony::{Db, TaskId, TaskName, tasks};
use curio_pipeline::insert::{NewSectors, insert};
use curio_pipeline::numbers::Numbers;

pub const SP: SpId = SpId(1000);
pub const SECTOR: SectorRef = SectorRef { sp: SP, number: 0 };

/// `count` sectors without data.
pub fn new_sectors(count: u64) -> NewSectors {
    NewSectors {
        sp: SP,
        proof: SealProof::StackedDrg2KiBV1_1,
        on_chain: Numbers::default(),
        count,
        pieces: Vec::new(),
        request_uid: None,
    }
}

/// A database with the sectors 0 up to `count`.
pub async fn with_sectors(count: u64) -> (TestDb, Db) {
    let test = TestDb::new().await;
    let db = test.db().clone();
    let inserted =
        db.transaction("test-insert", move |tx| Box::pin(async move { insert(tx, &new_sectors(count)).await }));
    inserted.await.expect("the sectors are inserted");
    (test, db)
}

/// Runs a statement that makes a test's world.
pub async fn sql(db: &Db, statement: &str) -> u64 {
    let done = sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(db.pool()).await;
    done.unwrap_or_else(|error| panic!("{statement}: {error}")).rows_affected()
}

/// A number that a statement counts.
pub async fn count(db: &Db, statement: &'static str) -> i64 {
    sqlx::query_scalar(statement).fetch_one(db.pool()).await.unwrap_or_else(|error| panic!("{statement}: {error}"))
}

/// A task in the queue that is the sector's in this column.
pub async fn task(db: &Db, sector: SectorRef, kind: TaskName, column: &str) -> TaskId {
    let task = db
        .transaction("test-task", move |tx| Box::pin(async move { tasks::add(tx, kind).await }))
        .await
        .expect("the task is added");
    let (sp, number) = (sector.sp.0, sector.number);
    sql(
        db,
        &format!("UPDATE sectors_sdr_pipeline SET {column} = {task} WHERE sp_id = {sp} AND sector_number = {number}"),
    )
    .await;
    sql(
        db,
        &format!(
            "INSERT INTO sectors_pipeline_tasks (task_id, sp_id, sector_number, task_name) VALUES ({task}, {sp}, {number}, '{kind}')"
        ),
    )
    .await;
    task
}

/// A machine, with a path that only it reaches unless `storage_id` is another's already.
pub async fn machine(db: &Db, name: &str, storage_id: &str, can_store: bool) {
    sql(
        db,
        &format!(
            "INSERT INTO harmony_task_machines (name, host_and_port, cpu, ram, gpu_milli) VALUES ('{name}', '{name}:1', 1, 1, 0)"
        ),
    )
    .await;
    sql(
        db,
        &format!(
            "INSERT INTO storage_path (storage_id, can_seal, can_store) VALUES ('{storage_id}', {}, {can_store}) ON CONFLICT DO NOTHING",
            !can_store
        ),
    )
    .await;
    sql(
        db,
        &format!(
            "INSERT INTO storage_path_machines (storage_id, machine_name, local_path) VALUES ('{storage_id}', '{name}', '/{storage_id}')"
        ),
    )
    .await;
}

/// A declared file of sector `number`; 4 is the cache, 2 the sealed file.
pub async fn file(db: &Db, number: u64, filetype: i32, storage_id: &str) {
    sql(
        db,
        &format!(
            "INSERT INTO sector_location (miner_id, sector_num, sector_filetype, storage_id, size_bytes) VALUES ({}, {number}, {filetype}, '{storage_id}', 2048)",
            SP.0
        ),
    )
    .await;
}

/// Lets the machine own the task.
pub async fn claim(db: &Db, task: TaskId, machine: &str) {
    let changed = sql(
        db,
        &format!(
            "UPDATE harmony_task SET owner_id = m.id, attempt = attempt + 1, claimed_at = now()
             FROM harmony_task_machines m WHERE m.name = '{machine}' AND harmony_task.id = {task}"
        ),
    )
    .await;
    assert_eq!(changed, 1);
}

/// An attempt that failed, in the history.
pub async fn failed_attempt(db: &Db, task: TaskId, attempt: i32, counted: bool, error: &str) {
    sql(
        db,
        &format!(
            "INSERT INTO harmony_task_history (task_id, name, attempt, posted, work_start, result, counted, err, completed_by_machine, completed_by_host_and_port)
             VALUES ({task}, 'SDR', {attempt}, now(), now(), FALSE, {counted}, '{error}', 'sealing-0', 'x:1')"
        ),
    )
    .await;
}

/// A message of the sector in the outbox; returns its `send_id`.
pub async fn message(db: &Db, purpose: &str, signed: bool, success: Option<bool>) -> i64 {
    let success = success.map_or("NULL", |success| if success { "TRUE" } else { "FALSE" });
    let signed_data = if signed { "'\\x01'" } else { "NULL" };
    let statement = format!(
        "INSERT INTO message_sends (idempotency_key, from_key, to_addr, send_reason, unsigned_data, max_fee, signed_data, signed_cid, send_success)
         VALUES ('{purpose}/{SP}/0/0', 'f3', '{SP}', '{purpose}', '\\x00', '1', {signed_data}, '{purpose}-cid', {success})
         RETURNING send_id"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(statement)).fetch_one(db.pool()).await.expect("the message is there")
}
