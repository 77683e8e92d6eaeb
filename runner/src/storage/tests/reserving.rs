//! Reserving room: two machines over one volume, leases, and what sectors in flight still need.

use std::time::Duration;

use curio_harmony::{Reserved, TaskId};

use super::*;
use crate::storage::path::SECTOR_STORE;
use crate::storage::reserve::{Need, Reservation, ReserveError};

/// Peak of a 2 KiB sector's cache and sealed file.
fn sdr_bytes() -> u64 {
    SectorFile::Cache.sealing_bytes(PROOF) + SectorFile::Sealed.sealing_bytes(PROOF)
}

/// A path with room for this many sectors being sealed, and what empty directories take.
fn room_for(sectors: u64) -> Init {
    Init { max_storage_bytes: sectors * sdr_bytes() + (128 << 10), ..sealing() }
}

async fn sdr(machine: &Storage, number: u64) -> Result<Reservation, ReserveError> {
    machine.reserve(TaskId(number as i64), &Need::sdr(sector(number), PROOF)).await
}

async fn rows(cluster: &Cluster) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM storage_reservations").fetch_one(cluster.db().pool()).await.unwrap()
}

#[tokio::test]
async fn two_machines_over_one_volume_never_promise_the_same_bytes() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.machine("a"), cluster.machine("b"));
    let path = cluster.attach(&a, "shared", room_for(3)).await;
    cluster.try_attach(&b, &path.root, None).await.unwrap();
    let tries = (0..10u64).map(|number| {
        let machine = if number % 2 == 0 { &a } else { &b };
        sdr(machine, number)
    });
    let outcomes = futures::future::join_all(tries).await;
    let (held, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(rows(&cluster).await, held.len() as i64);
    assert_eq!(held.len(), 3);
    for error in refused.into_iter().filter_map(Result::err) {
        assert!(matches!(error, ReserveError::NoRoom { .. }), "{error}");
    }
}

#[tokio::test]
async fn room_comes_back_when_it_is_released() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("a");
    cluster.attach(&machine, "disk", room_for(1)).await;
    let first = sdr(&machine, 1).await.unwrap();
    let error = sdr(&machine, 2).await.unwrap_err().to_string();
    assert!(error.contains("failed to find 140.") && error.contains("disk has"), "{error}");
    first.release().await;
    assert_eq!(rows(&cluster).await, 0);
    sdr(&machine, 2).await.unwrap();
}

#[tokio::test]
async fn the_engine_is_told_of_too_little_room_in_a_sentence() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("a");
    let need = Need::sdr(sector(1), PROOF);
    let answer = machine.reserve_for_engine(TaskId(1), &need).await.unwrap();
    assert!(matches!(answer, Reserved::NoRoom(sentence) if sentence.contains("curio storage attach --init --seal")));
    cluster.attach(&machine, "disk", room_for(1)).await;
    let held = machine.reserve_for_engine(TaskId(1), &need).await.unwrap();
    assert!(matches!(held, Reserved::Held(_)));
    let second = machine.reserve_for_engine(TaskId(2), &Need::sdr(sector(2), PROOF)).await.unwrap();
    assert!(matches!(second, Reserved::NoRoom(_)));
}

#[tokio::test]
async fn the_task_finds_the_path_that_was_reserved_for_it() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("a");
    let path = cluster.attach(&machine, "disk", sealing()).await;
    let reservation = sdr(&machine, 1).await.unwrap();
    assert_eq!(machine.reserved_path(TaskId(1)).await.unwrap(), path);
    assert_eq!(reservation.path, path);
    let error = machine.reserved_path(TaskId(2)).await.unwrap_err();
    assert!(matches!(error, ReserveError::NotReserved { .. }));
    let elsewhere = cluster.machine("b").reserved_path(TaskId(1)).await.unwrap_err();
    assert!(matches!(elsewhere, ReserveError::NotReserved { .. }));
}

#[tokio::test]
async fn a_lease_that_ran_out_gives_the_room_to_others_and_its_guard_takes_nothing_back() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("a");
    cluster.attach(&machine, "disk", room_for(1)).await;
    let stale = sdr(&machine, 1).await.unwrap();
    sqlx::query("UPDATE storage_reservations SET expires_at = now() - interval '1 second'")
        .execute(cluster.db().pool())
        .await
        .unwrap();
    let fresh = sdr(&machine, 2).await.unwrap();
    stale.release().await;
    assert_eq!(rows(&cluster).await, 1);
    assert!(machine.reserved_path(TaskId(2)).await.is_ok());
    drop(fresh);
}

#[tokio::test]
async fn a_task_that_reserves_again_on_a_machine_moves_its_promise() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("a");
    cluster.attach(&machine, "disk", room_for(1)).await;
    let lost = sdr(&machine, 1).await.unwrap();
    let held = sdr(&machine, 1).await.unwrap();
    assert_eq!(rows(&cluster).await, 1);
    lost.release().await;
    assert_eq!(machine.reserved_path(TaskId(1)).await.unwrap(), held.path);
}

/// Seen with three runners that each had a path: the one that lost the claim had taken the winner's promise away, and
/// the winner's attempt failed for want of it.
#[tokio::test]
async fn of_two_machines_that_want_one_task_the_loser_gives_back_its_own_promise_alone() {
    for shared in [false, true] {
        let cluster = Cluster::new().await;
        let (a, b) = (cluster.machine("a"), cluster.machine("b"));
        let on_a = cluster.attach(&a, "disk-a", room_for(1)).await;
        if shared {
            cluster.try_attach(&b, &on_a.root, None).await.unwrap();
        } else {
            cluster.attach(&b, "disk-b", room_for(1)).await;
        }
        let winner = sdr(&a, 1).await.unwrap();
        let loser = sdr(&b, 1).await.unwrap();
        loser.release().await;
        assert_eq!(a.reserved_path(TaskId(1)).await.unwrap(), winner.path, "shared: {shared}");
        assert_eq!(rows(&cluster).await, 1);
    }
}

#[tokio::test]
async fn the_promise_of_a_machine_that_is_gone_does_not_outlive_it() {
    let cluster = Cluster::new().await;
    let (a, b) = (cluster.machine("a"), cluster.machine("b"));
    let path = cluster.attach(&a, "shared", room_for(1)).await;
    cluster.try_attach(&b, &path.root, None).await.unwrap();
    cluster.register(&a, "a:1").await;
    let of_the_dead = sdr(&a, 1).await.unwrap();
    sqlx::query("UPDATE harmony_task_machines SET evicted_at = now()").execute(cluster.db().pool()).await.unwrap();
    let _held = sdr(&b, 1).await.unwrap();
    assert_eq!(rows(&cluster).await, 1);
    of_the_dead.release().await;
    assert_eq!(rows(&cluster).await, 1);
}

#[tokio::test]
async fn the_lease_is_renewed_while_the_guard_lives() {
    let cluster = Cluster::new().await;
    let timing = StorageTiming { reservation_renewal: Duration::from_millis(5), ..StorageTiming::default() };
    let machine = cluster.machine_with("a", timing);
    cluster.attach(&machine, "disk", sealing()).await;
    let _held = sdr(&machine, 1).await.unwrap();
    sqlx::query("UPDATE storage_reservations SET expires_at = now() + interval '10 seconds'")
        .execute(cluster.db().pool())
        .await
        .unwrap();
    let renewed = async {
        loop {
            let left: f64 =
                sqlx::query_scalar("SELECT EXTRACT(EPOCH FROM expires_at - now())::float8 FROM storage_reservations")
                    .fetch_one(cluster.db().pool())
                    .await
                    .unwrap();
            if left > 30.0 {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), renewed).await.expect("the lease is renewed");
}

#[tokio::test]
async fn a_sector_in_flight_keeps_the_room_that_it_still_needs() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("a");
    let path = cluster.attach(&machine, "disk", room_for(1)).await;
    let first = sector(1);
    fs::create_dir_all(path.file(SectorFile::Cache, first)).unwrap();
    fs::write(path.file(SectorFile::Cache, first).join("sc-02-data-layer-1.dat"), [0; 2048]).unwrap();
    cluster.declare(&[machine.settle(&path, first, SectorFile::Cache).await.unwrap()]).await;
    cluster.pipeline_row(first, false).await;
    // Layers are done and no task holds a reservation; the trees must still find their room.
    assert!(matches!(sdr(&machine, 2).await, Err(ReserveError::NoRoom { .. })));
    let trees = machine.reserve(TaskId(1), &Need::tree_rc(first, PROOF)).await.unwrap();
    assert_eq!(trees.path, path);
    trees.release().await;
    sqlx::query("UPDATE sectors_sdr_pipeline SET after_finalize = true").execute(cluster.db().pool()).await.unwrap();
    sdr(&machine, 2).await.expect("a finalized sector needs no more");
}

#[tokio::test]
async fn work_on_a_cache_is_reserved_where_the_cache_lies() {
    let cluster = Cluster::new().await;
    let (here, there) = (cluster.machine("a"), cluster.machine("b"));
    let path = cluster.attach(&here, "disk-a", sealing()).await;
    cluster.attach(&here, "disk-a2", sealing()).await;
    cluster.attach(&there, "disk-b", sealing()).await;
    let sector = cluster.finalized_sector(&here, &path, 1).await;
    let need = Need::tree_d(sector, PROOF);
    assert_eq!(here.reserve(TaskId(1), &need).await.unwrap().path, path);
    assert!(matches!(there.reserve(TaskId(1), &need).await, Err(ReserveError::NotHere { .. })));
}

#[tokio::test]
async fn a_full_path_stops_new_work_and_not_what_makes_room() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("a");
    let path = cluster.attach(&machine, "disk", Init { max_storage_bytes: 1, ..sealing() }).await;
    let sector = cluster.finalized_sector(&machine, &path, 1).await;
    assert!(matches!(machine.reserve(TaskId(1), &Need::tree_d(sector, PROOF)).await, Err(ReserveError::NoRoom { .. })));
    let copy = machine.reserve(TaskId(2), &Need::finalize(sector, PROOF, true)).await;
    assert!(matches!(copy, Err(ReserveError::NoRoom { .. })), "the unsealed copy needs room");
    let shrink = machine.reserve(TaskId(3), &Need::finalize(sector, PROOF, false)).await.unwrap();
    assert_eq!((shrink.path.clone(), shrink.bytes), (path, 0));
    assert_eq!(machine.holding(&[sector], SectorFile::Cache).await.unwrap(), [sector]);
}

#[tokio::test]
async fn layers_that_are_there_already_decide_the_path() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("a");
    let heavy = Init { weight: 1000, ..sealing() };
    cluster.attach(&machine, "heavy", heavy).await;
    let light = cluster.attach(&machine, "light", sealing()).await;
    let cache = light.file(SectorFile::Cache, sector(1));
    fs::create_dir_all(&cache).unwrap();
    fs::write(cache.join("sc-02-data-layer-1.dat"), [0; 2048]).unwrap();
    assert_eq!(sdr(&machine, 1).await.unwrap().path, light);
}

#[tokio::test]
async fn a_path_without_a_fresh_report_or_with_an_error_gets_nothing_new() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("a");
    let root = cluster.root("disk");
    let attached = cluster.try_attach(&machine, &root, Some(sealing())).await.unwrap();
    let error = sdr(&machine, 1).await.unwrap_err().to_string();
    assert!(error.contains("no runner has reported on it lately"), "{error}");
    machine.report_health_once().await.unwrap();
    sdr(&machine, 1).await.unwrap().release().await;
    let store = fs::read(attached.root.join(SECTOR_STORE)).unwrap();
    fs::remove_file(attached.root.join(SECTOR_STORE)).unwrap();
    let error = sdr(&machine, 1).await.unwrap_err().to_string();
    assert!(error.contains("is the volume mounted?"), "{error}");
    fs::write(attached.root.join(SECTOR_STORE), store).unwrap();
    sdr(&machine, 1).await.expect("the volume is back");
}
