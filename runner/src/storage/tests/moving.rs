//! Moving sectors to long-term paths, cut off at every step.

use curio_core::Failure;
use curio_harmony::TaskId;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::storage::moving::{Moved, record};
use crate::storage::reserve::{Need, Reservation};

const TASK: TaskId = TaskId(7);

/// Where the fake fenced write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// It does not.
    Nowhere,
    /// The runner dies after the rename, before the transaction.
    BeforeDeclare,
    /// The runner dies after the transaction, before it removes the old copies.
    AfterDeclare,
}

/// A move whose fenced write is a plain transaction, cut off where asked.
async fn move_sector(
    cluster: &Cluster,
    machine: &Storage,
    sector: SectorRef,
    attempt: u32,
    cut: Cut,
) -> Result<Moved, Failure> {
    let db = cluster.db().clone();
    let store = |declared: Vec<Declared>| -> BoxFuture<'_, Result<(), Failure>> {
        let db = db.clone();
        async move {
            if cut == Cut::BeforeDeclare {
                return Err(Failure::Stopping);
            }
            db.transaction("declare moved files", move |tx| {
                let declared = declared.clone();
                async move { record(tx, &declared).await }.boxed()
            })
            .await?;
            if cut == Cut::AfterDeclare { Err(Failure::Stopping) } else { Ok(()) }
        }
        .boxed()
    };
    machine.move_files(TASK, attempt, sector, &CancellationToken::new(), store).await
}

async fn reserve(machine: &Storage, sector: SectorRef) -> Reservation {
    machine.reserve(TASK, &Need::move_storage(sector, PROOF, true)).await.expect("there is room")
}

/// What the index says: file, path, going.
async fn index(machine: &Storage, sector: SectorRef) -> Vec<(SectorFile, String, bool)> {
    let locations = machine.locations(sector).await.unwrap();
    locations.into_iter().map(|one| (one.file, one.storage_id, one.going)).collect()
}

fn all_on(path: &LocalPath) -> Vec<(SectorFile, String, bool)> {
    [SectorFile::Unsealed, SectorFile::Sealed, SectorFile::Cache]
        .map(|file| (file, path.storage_id.clone(), false))
        .to_vec()
}

#[tokio::test]
async fn a_sector_moves_between_two_paths_of_one_machine() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let (fast, long) =
        (cluster.attach(&machine, "fast", sealing()).await, cluster.attach(&machine, "long", storing()).await);
    let sector = cluster.finalized_sector(&machine, &fast, 1).await;
    let _held = reserve(&machine, sector).await;
    let moved = move_sector(&cluster, &machine, sector, 1, Cut::Nowhere).await.unwrap();
    assert_eq!((moved.brought.len(), moved.removed.len()), (3, 3));
    assert_sector_is_on(&long, sector);
    assert_eq!(files_below(&fast), Vec::<String>::new());
    assert_eq!(index(&machine, sector).await, all_on(&long));
    let again = move_sector(&cluster, &machine, sector, 2, Cut::Nowhere).await.unwrap();
    assert_eq!(again, Moved::default());
    assert_sector_is_on(&long, sector);
}

#[tokio::test]
async fn a_move_that_was_cut_off_converges_when_it_is_run_again() {
    for cut in [Cut::BeforeDeclare, Cut::AfterDeclare] {
        let cluster = Cluster::new().await;
        let machine = cluster.machine("sealing-0");
        let (fast, long) =
            (cluster.attach(&machine, "fast", sealing()).await, cluster.attach(&machine, "long", storing()).await);
        let sector = cluster.finalized_sector(&machine, &fast, 1).await;
        let _held = reserve(&machine, sector).await;
        move_sector(&cluster, &machine, sector, 1, cut).await.unwrap_err();
        // What the index names can be read whole at this moment, and so it can after a restart.
        let declared: Vec<String> =
            index(&machine, sector).await.into_iter().filter(|(_, _, going)| !going).map(|(_, id, _)| id).collect();
        let readable = if cut == Cut::BeforeDeclare { &fast } else { &long };
        assert_eq!(declared, vec![readable.storage_id.clone(); 3], "{cut:?}");
        assert_sector_is_on(readable, sector);
        machine.redeclare().await.unwrap();
        move_sector(&cluster, &machine, sector, 2, Cut::Nowhere).await.unwrap();
        assert_sector_is_on(&long, sector);
        assert_eq!(files_below(&fast), Vec::<String>::new(), "{cut:?}");
        assert_eq!(index(&machine, sector).await, all_on(&long), "{cut:?}");
    }
}

#[tokio::test]
async fn leftovers_of_an_earlier_attempt_are_cleared() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let (fast, long) =
        (cluster.attach(&machine, "fast", sealing()).await, cluster.attach(&machine, "long", storing()).await);
    let sector = cluster.finalized_sector(&machine, &fast, 1).await;
    fs::write(long.temp(SectorFile::Sealed, sector, "7-1"), "half").unwrap();
    fs::create_dir(long.temp(SectorFile::Cache, sector, "7-1")).unwrap();
    fs::write(long.file(SectorFile::Sealed, sector), "renamed, never declared").unwrap();
    let _held = reserve(&machine, sector).await;
    move_sector(&cluster, &machine, sector, 2, Cut::Nowhere).await.unwrap();
    assert_sector_is_on(&long, sector);
    assert_eq!(files_below(&long).len(), 5);
}

#[tokio::test]
async fn a_crash_while_old_copies_are_removed_leaves_the_rest_to_the_next_attempt() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let (fast, long) =
        (cluster.attach(&machine, "fast", sealing()).await, cluster.attach(&machine, "long", storing()).await);
    let sector = cluster.finalized_sector(&machine, &fast, 1).await;
    let _held = reserve(&machine, sector).await;
    move_sector(&cluster, &machine, sector, 1, Cut::AfterDeclare).await.unwrap_err();
    fs::remove_file(fast.file(SectorFile::Sealed, sector)).unwrap();
    fs::remove_file(fast.file(SectorFile::Cache, sector).join("p_aux")).unwrap();
    move_sector(&cluster, &machine, sector, 2, Cut::Nowhere).await.unwrap();
    assert_eq!(index(&machine, sector).await, all_on(&long));
    assert_eq!(files_below(&fast), Vec::<String>::new());
}

#[tokio::test]
async fn a_source_that_is_not_mounted_is_not_taken_for_removed() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let (fast, long) =
        (cluster.attach(&machine, "fast", sealing()).await, cluster.attach(&machine, "long", storing()).await);
    let sector = cluster.finalized_sector(&machine, &fast, 1).await;
    let _held = reserve(&machine, sector).await;
    move_sector(&cluster, &machine, sector, 1, Cut::AfterDeclare).await.unwrap_err();
    let unmounted = cluster.dir.path().join("unmounted");
    fs::rename(&fast.root, &unmounted).unwrap();
    fs::create_dir(&fast.root).unwrap();
    let failure = move_sector(&cluster, &machine, sector, 2, Cut::Nowhere).await.unwrap_err();
    assert!(failure.to_string().contains("is the volume mounted?"), "{failure}");
    fs::remove_dir(&fast.root).unwrap();
    fs::rename(&unmounted, &fast.root).unwrap();
    move_sector(&cluster, &machine, sector, 3, Cut::Nowhere).await.unwrap();
    assert_eq!(index(&machine, sector).await, all_on(&long));
    assert_eq!(files_below(&fast), Vec::<String>::new());
}

#[tokio::test]
async fn a_sector_moves_from_another_machine_and_leaves_it_empty() {
    let cluster = Cluster::new().await;
    let (source, target) = (cluster.machine("sealing-0"), cluster.machine("store-0"));
    let (fast, long) =
        (cluster.attach(&source, "fast", sealing()).await, cluster.attach(&target, "long", storing()).await);
    let sector = cluster.finalized_sector(&source, &fast, 1).await;
    let _held = reserve(&target, sector).await;
    let failure = move_sector(&cluster, &target, sector, 1, Cut::Nowhere).await.unwrap_err();
    assert!(matches!(failure, Failure::Unavailable(_)), "no machine is registered: {failure}");
    cluster.serve(&source, fake_prover(cluster.dir.path(), "exit 1")).await;
    let moved = move_sector(&cluster, &target, sector, 2, Cut::Nowhere).await.unwrap();
    assert_eq!((moved.brought.len(), moved.removed.len()), (3, 3));
    assert_sector_is_on(&long, sector);
    assert_eq!(files_below(&fast), Vec::<String>::new());
    assert_eq!(index(&target, sector).await, all_on(&long));
}

#[tokio::test]
async fn a_sector_without_a_sealed_file_is_not_moved() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let fast = cluster.attach(&machine, "fast", sealing()).await;
    cluster.attach(&machine, "long", storing()).await;
    let sector = sector(1);
    write_sector(&fast, sector);
    cluster.declare(&[machine.settle(&fast, sector, SectorFile::Cache).await.unwrap()]).await;
    let _held = reserve(&machine, sector).await;
    let failure = move_sector(&cluster, &machine, sector, 1, Cut::Nowhere).await.unwrap_err();
    assert_eq!(failure.to_string(), "failed to find sealed of f01000:1 on any storage path");
    assert_sector_is_on(&fast, sector);
}

#[tokio::test]
async fn a_path_for_both_uses_keeps_its_sectors() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let both = cluster.attach(&machine, "both", Init { can_store: true, ..sealing() }).await;
    let sector = cluster.finalized_sector(&machine, &both, 1).await;
    let moved = move_sector(&cluster, &machine, sector, 1, Cut::Nowhere).await.unwrap();
    assert_eq!(moved, Moved::default());
    assert_sector_is_on(&both, sector);
}
