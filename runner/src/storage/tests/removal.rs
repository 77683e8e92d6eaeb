//! Files of sectors that somebody removed.

use super::*;

async fn mark(cluster: &Cluster, number: u64) {
    sqlx::query("UPDATE sector_location SET removal_requested_at = now() WHERE sector_num = $1")
        .bind(i64::try_from(number).expect("a small number"))
        .execute(cluster.db().pool())
        .await
        .expect("the database answers");
}

#[tokio::test]
async fn marked_files_of_a_sector_that_is_gone_are_removed_and_others_stay() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let path = cluster.attach(&machine, "fast", sealing()).await;
    let removed = cluster.finalized_sector(&machine, &path, 1).await;
    let kept = cluster.finalized_sector(&machine, &path, 2).await;
    let in_flight = cluster.finalized_sector(&machine, &path, 3).await;
    cluster.pipeline_row(in_flight, true).await;
    mark(&cluster, 1).await;
    mark(&cluster, 3).await;

    assert_eq!(machine.remove_abandoned().await.expect("the database answers"), 3);

    assert!(machine.locations(removed).await.expect("the database answers").is_empty());
    for file in SectorFile::ALL {
        assert!(!path.file(file, removed).exists(), "{file} is gone");
    }
    assert_sector_is_on(&path, kept);
    assert_sector_is_on(&path, in_flight);
    assert_eq!(machine.remove_abandoned().await.expect("the database answers"), 0);
}

#[tokio::test]
async fn a_copy_that_is_only_said_to_be_there_leaves_the_index() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let path = cluster.attach(&machine, "fast", sealing()).await;
    let sector = sector(1);
    let bytes = Declared { storage_id: path.storage_id.clone(), sector, file: SectorFile::Cache, size_bytes: 0 };
    cluster.declare(&[bytes]).await;
    mark(&cluster, 1).await;

    assert_eq!(machine.remove_abandoned().await.expect("the database answers"), 1);
    assert!(machine.locations(sector).await.expect("the database answers").is_empty());
}

#[tokio::test]
async fn a_path_that_is_not_mounted_keeps_its_files_and_its_index() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let path = cluster.attach(&machine, "fast", sealing()).await;
    let sector = cluster.finalized_sector(&machine, &path, 1).await;
    mark(&cluster, 1).await;
    let aside = cluster.dir.path().join("aside");
    fs::rename(&path.root, &aside).expect("the volume goes away");
    fs::create_dir(&path.root).expect("an empty mount point");

    assert_eq!(machine.remove_abandoned().await.expect("the database answers"), 0);
    assert_eq!(machine.locations(sector).await.expect("the database answers").len(), 3);
}
