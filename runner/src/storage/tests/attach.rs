//! Attaching directories: what is written, and what is refused with nothing changed.

use super::*;
use crate::storage::path::{AttachError, SECTOR_STORE, read_store};

#[tokio::test]
async fn a_new_path_has_its_file_its_directories_and_its_rows() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let init = Init { can_seal: true, can_store: true, weight: 7, max_storage_bytes: 1 << 40 };
    let path = cluster.attach(&machine, "disk", init).await;
    let store = read_store(&path.root).unwrap().expect("the file is there");
    assert_eq!(
        (store.id.as_str(), store.weight, store.can_seal, store.can_store, store.max_storage),
        (path.storage_id.as_str(), 7, true, true, 1 << 40)
    );
    for directory in ["cache", "sealed", "unsealed", "cache/fetching", "sealed/fetching", "unsealed/fetching"] {
        assert!(path.root.join(directory).is_dir(), "{directory}");
    }
    let rows = path::list(cluster.db()).await.unwrap();
    assert_eq!(rows.len(), 1);
    let row = &rows[0];
    assert_eq!(
        (row.storage_id.as_str(), row.weight, row.heartbeat_error.as_deref()),
        (path.storage_id.as_str(), 7, None)
    );
    assert_eq!(row.machines, [("sealing-0".to_owned(), path.root.clone())]);
    assert!(row.capacity_bytes > 0 && row.available_bytes > 0 && row.heartbeat_age.is_some());
}

#[tokio::test]
async fn attaching_again_changes_nothing_and_a_second_machine_shares_the_volume() {
    let cluster = Cluster::new().await;
    let (first, second) = (cluster.machine("sealing-0"), cluster.machine("sealing-1"));
    let path = cluster.attach(&first, "disk", sealing()).await;
    let again = cluster.try_attach(&first, &path.root, None).await.unwrap();
    assert!(again.already);
    let moved = cluster.dir.path().join("other-mount");
    std::os::unix::fs::symlink(&path.root, &moved).unwrap();
    let shared = cluster.try_attach(&second, &moved, None).await.unwrap();
    assert_eq!((shared.storage_id, shared.already), (path.storage_id.clone(), false));
    let rows = path::list(cluster.db()).await.unwrap();
    let machines: Vec<&str> = rows[0].machines.iter().map(|(machine, _)| machine.as_str()).collect();
    assert_eq!((rows.len(), machines), (1, vec!["sealing-0", "sealing-1"]));
}

#[tokio::test]
async fn a_directory_under_a_new_name_moves_the_path_of_the_machine() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let path = cluster.attach(&machine, "disk", sealing()).await;
    let renamed = cluster.dir.path().join("renamed");
    fs::rename(&path.root, &renamed).unwrap();
    let attached = cluster.try_attach(&machine, &renamed, None).await.unwrap();
    assert!(!attached.already);
    let rows = path::list(cluster.db()).await.unwrap();
    assert_eq!(rows[0].machines, [("sealing-0".to_owned(), renamed)]);
}

#[tokio::test]
async fn a_curio_path_with_null_lists_is_read() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let root = cluster.root("disk");
    let text = r#"{"ID":"1c7d6b0a-7a5b-4c6f-9f3e-0d7f4a1f6f10","Weight":10,"CanSeal":true,"CanStore":false,
        "MaxStorage":0,"Groups":null,"AllowTo":null,"AllowTypes":null,"DenyTypes":null,"AllowMiners":["f01000"]}"#;
    fs::write(root.join(SECTOR_STORE), text).unwrap();
    let attached = cluster.try_attach(&machine, &root, None).await.unwrap();
    assert_eq!(attached.storage_id, "1c7d6b0a-7a5b-4c6f-9f3e-0d7f4a1f6f10");
    let rows = path::list(cluster.db()).await.unwrap();
    assert_eq!((rows[0].can_seal, rows[0].can_store), (true, false));
}

#[tokio::test]
async fn what_cannot_be_attached_is_refused_in_one_sentence_and_nothing_is_half_done() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let dir = cluster.dir.path();
    let plain = cluster.root("plain");
    let taken = cluster.root("taken");
    cluster.try_attach(&machine, &taken, Some(sealing())).await.unwrap();
    fs::write(dir.join("file"), "x").unwrap();
    let broken = cluster.root("broken");
    fs::write(broken.join(SECTOR_STORE), "{\"ID\": \"no uuid\"}").unwrap();
    let blocked = cluster.root("blocked");
    fs::write(blocked.join("sealed"), "a file where a directory belongs").unwrap();
    let no_use = Init { can_seal: false, ..sealing() };
    // A file system where even root cannot create files.
    let read_only = PathBuf::from("/proc/self/task");
    let table: [(&str, PathBuf, Option<Init>, &str); 9] = [
        ("missing", dir.join("nowhere"), Some(sealing()), "nowhere does not exist; create the directory"),
        ("a file", dir.join("file"), Some(sealing()), "file is not a directory"),
        ("read-only", read_only, Some(sealing()), "cannot be written ("),
        ("with --init, is one", taken.clone(), Some(sealing()), "is a storage path already (id "),
        ("without --init, is none", plain.clone(), None, "is no storage path yet"),
        ("neither use", plain.clone(), Some(no_use), "add --seal, --store"),
        ("not a uuid", broken.clone(), None, "its ID 'no uuid' is not a UUID"),
        ("not a uuid, --init", broken, Some(sealing()), "its ID 'no uuid' is not a UUID"),
        ("a file in the way", blocked.clone(), Some(sealing()), "failed to create"),
    ];
    for (name, root, init, expected) in table {
        let error = cluster.try_attach(&machine, &root, init).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert!(!error.contains('\n'), "{name}: {error}");
    }
    assert_eq!(path::list(cluster.db()).await.unwrap().len(), 1);
    assert_eq!(fs::read_dir(&plain).unwrap().count(), 0);
    let left: Vec<_> = fs::read_dir(&blocked).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["sealed"]);
}

#[tokio::test]
async fn a_database_that_is_away_leaves_the_directory_as_it_was() {
    let cluster = Cluster::new().await;
    let machine = cluster.machine("sealing-0");
    let root = cluster.root("disk");
    // Rows with this name are refused, as any other refusal of the database would.
    sqlx::query("ALTER TABLE storage_path_machines ADD CHECK (machine_name <> 'sealing-0')")
        .execute(cluster.db().pool())
        .await
        .unwrap();
    let error = cluster.try_attach(&machine, &root, Some(sealing())).await.unwrap_err();
    assert!(matches!(error, AttachError::Db(_)), "{error}");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
    assert_eq!(path::list(cluster.db()).await.unwrap(), []);
}
