//! Which partitions are still to be proven, on a real database.

mod support;

use curio_harmony::testing::TestDb;
use curio_pipeline::windows;
use support::{SP, sql};

#[tokio::test]
async fn a_partition_is_due_until_its_window_has_come_to_something() {
    let test = TestDb::new().await;
    let db = test.db();
    assert_eq!(windows::due(db).await.expect("the database answers"), 0);
    for (partition, outcome) in [(0, "NULL"), (1, "NULL"), (2, "'landed'"), (3, "'nothing'"), (4, "'missed'")] {
        sql(
            db,
            &format!(
                "INSERT INTO wdpost_partition_tasks (sp_id, proving_period_start, deadline_index, partition_index, task_id, reg_seal_proof,
                                                     challenge_epoch, open_epoch, submit_epoch, close_epoch, outcome)
                 VALUES ({}, 0, 7, {partition}, {partition}, 5, 400, 420, 424, 480, {outcome})",
                SP.0
            ),
        )
        .await;
    }
    assert_eq!(windows::due(db).await.expect("the database answers"), 2, "with and without a task in the queue");

    sql(db, "UPDATE wdpost_partition_tasks SET outcome = 'landed' WHERE partition_index = 0").await;
    assert_eq!(windows::due(db).await.expect("the database answers"), 1);
}
