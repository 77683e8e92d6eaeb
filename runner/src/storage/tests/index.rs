//! The index of sector files and the health of paths.

use super::*;
use crate::storage::path::SECTOR_STORE;
use crate::storage::{LocateError, PathUse};

#[tokio::test]
async fn a_sector_is_found_where_all_its_files_lie() {
    let cluster = Cluster::new().await;
    let (here, there) = (cluster.machine("sealing-0"), cluster.machine("sealing-1"));
    let path = cluster.attach(&here, "a", sealing()).await;
    cluster.attach(&there, "b", sealing()).await;
    let sector = cluster.finalized_sector(&here, &path, 1).await;
    let both = [SectorFile::Cache, SectorFile::Sealed];
    assert_eq!(here.expect_local(sector, &both).await.unwrap(), path);
    assert_eq!(here.find_local(sector, SectorFile::Unsealed).await.unwrap(), Some(path.clone()));
    assert_eq!(there.find_local(sector, SectorFile::Cache).await.unwrap(), None);
    let error = there.expect_local(sector, &both).await.unwrap_err();
    assert!(matches!(error, LocateError::NotHere { .. }));
    let text = error.to_string();
    assert!(text.contains("cache and sealed of f01000:1") && text.contains("(sealing-0)"), "{text}");
    let locations = here.locations(sector).await.unwrap();
    let shown: Vec<_> = locations.iter().map(|one| (one.file, one.size_bytes, one.going)).collect();
    assert_eq!(
        shown,
        [(SectorFile::Unsealed, 2048, false), (SectorFile::Sealed, 2048, false), (SectorFile::Cache, 396, false)]
    );
}

#[tokio::test]
async fn only_sectors_on_well_paths_of_this_machine_are_held() {
    let cluster = Cluster::new().await;
    let (here, there) = (cluster.machine("sealing-0"), cluster.machine("sealing-1"));
    let path = cluster.attach(&here, "a", sealing()).await;
    let other = cluster.attach(&there, "b", sealing()).await;
    let mine = cluster.finalized_sector(&here, &path, 1).await;
    let theirs = cluster.finalized_sector(&there, &other, 2).await;
    let asked = [theirs, sector(3), mine];
    assert_eq!(here.holding(&asked, SectorFile::Cache).await.unwrap(), [mine]);
    assert_eq!(there.holding(&asked, SectorFile::Cache).await.unwrap(), [theirs]);
    fs::remove_file(path.root.join(SECTOR_STORE)).unwrap();
    let report = here.report_health_once().await.unwrap();
    assert!(report[0].error.as_deref().is_some_and(|error| error.contains("is the volume mounted?")), "{report:?}");
    assert_eq!(here.holding(&asked, SectorFile::Cache).await.unwrap(), []);
    assert!(!here.has_path(PathUse::Seal).await.unwrap());
    assert!(there.has_path(PathUse::Seal).await.unwrap());
    assert!(!there.has_path(PathUse::Store).await.unwrap());
}

#[tokio::test]
async fn the_wrong_volume_is_noticed() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let (a, b) = (cluster.attach(&machine, "a", sealing()).await, cluster.attach(&machine, "b", sealing()).await);
    fs::copy(b.root.join(SECTOR_STORE), a.root.join(SECTOR_STORE)).unwrap();
    let report = machine.report_health_once().await.unwrap();
    let error = report.iter().find(|one| one.storage_id == a.storage_id).and_then(|one| one.error.clone());
    assert!(error.is_some_and(|error| error.contains("is the right volume mounted?")), "{report:?}");
}

#[tokio::test]
async fn at_start_missing_files_leave_the_index_and_unknown_ones_stay_on_disk() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let path = cluster.attach(&machine, "a", sealing()).await;
    let whole = cluster.finalized_sector(&machine, &path, 1).await;
    let damaged = cluster.finalized_sector(&machine, &path, 2).await;
    fs::remove_file(path.file(SectorFile::Sealed, damaged)).unwrap();
    let unknown = path.file(SectorFile::Cache, sector(3));
    fs::create_dir(&unknown).unwrap();
    let found = machine.redeclare().await.unwrap();
    assert_eq!(found.kept, 5);
    let dropped: Vec<_> = found.dropped.iter().map(|one| (one.sector, one.file)).collect();
    assert_eq!(dropped, [(damaged, SectorFile::Sealed)]);
    assert_eq!(found.undeclared, [(sector(3), SectorFile::Cache, unknown.clone())]);
    assert!(unknown.is_dir());
    assert_eq!(machine.find_local(damaged, SectorFile::Sealed).await.unwrap(), None);
    assert_eq!(machine.find_local(whole, SectorFile::Sealed).await.unwrap(), Some(path));
}

#[tokio::test]
async fn a_volume_that_is_not_mounted_keeps_its_sectors_in_the_index() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let path = cluster.attach(&machine, "a", sealing()).await;
    let sector = cluster.finalized_sector(&machine, &path, 1).await;
    fs::rename(&path.root, cluster.dir.path().join("elsewhere")).unwrap();
    fs::create_dir(&path.root).unwrap();
    let found = machine.redeclare().await.unwrap();
    assert_eq!((found.kept, found.dropped.len()), (0, 0));
    assert_eq!(machine.locations(sector).await.unwrap().len(), 3);
}
