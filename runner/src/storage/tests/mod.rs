//! Storage over a real database and real directories: attaching, reserving, moving, serving.

mod attach;
mod index;
mod moving;
mod posts;
mod remote;
mod removal;
mod reserving;

use std::fs;
use std::path::{Path, PathBuf};

use curio_core::{SealProof, SectorRef, SpId};
use curio_harmony::Db;
use curio_harmony::testing::TestDb;
use futures::FutureExt;
use tempfile::TempDir;

use super::path::{self, Attach, Attached, Init};
use super::remote::{RemoteState, router};
use super::sector_file::SectorFile;
use super::{Declared, LocalPath, Storage, StorageOptions, StorageSecret, StorageTiming, location};
use crate::prove::{Prover, ProverOptions};

const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;

fn sector(number: u64) -> SectorRef {
    SectorRef::new(SpId(1000), number)
}

/// A cluster of machines in one process: a database, a secret, and directories.
struct Cluster {
    db: TestDb,
    secret: StorageSecret,
    dir: TempDir,
}

impl Cluster {
    async fn new() -> Cluster {
        Cluster {
            db: TestDb::new().await,
            secret: StorageSecret::generate(),
            dir: tempfile::tempdir().expect("there is room for a temporary directory"),
        }
    }

    fn db(&self) -> &Db {
        self.db.db()
    }

    /// A new directory for a path.
    fn root(&self, name: &str) -> PathBuf {
        let root = self.dir.path().join(name);
        fs::create_dir_all(&root).expect("the temporary directory is writable");
        root
    }

    fn machine(&self, name: &str) -> Storage {
        self.machine_with(name, StorageTiming::default())
    }

    fn machine_with(&self, name: &str, timing: StorageTiming) -> Storage {
        let options = StorageOptions { machine: name.into(), secret: Some(self.secret.clone()), timing };
        Storage::new(self.db().clone(), options)
    }

    /// Makes a path for a machine and reports on it once.
    async fn attach(&self, machine: &Storage, name: &str, init: Init) -> LocalPath {
        let root = self.root(name);
        let attached = self.try_attach(machine, &root, Some(init)).await.expect("the directory is fine");
        machine.report_health_once().await.expect("the database answers");
        LocalPath { storage_id: attached.storage_id, root: attached.root }
    }

    async fn try_attach(
        &self,
        machine: &Storage,
        root: &Path,
        init: Option<Init>,
    ) -> Result<Attached, path::AttachError> {
        path::attach(self.db(), &Attach { root, machine: machine.machine(), init }).await
    }

    /// Registers the address of a machine, as the engine does when it starts.
    async fn register(&self, machine: &Storage, address: &str) {
        sqlx::query(
            "INSERT INTO harmony_task_machines (name, host_and_port, cpu, ram, gpu_milli) VALUES ($1, $2, 1, 1, 0)
             ON CONFLICT (name) DO UPDATE SET host_and_port = EXCLUDED.host_and_port",
        )
        .bind(machine.machine())
        .bind(address)
        .execute(self.db().pool())
        .await
        .expect("the database answers");
    }

    /// Serves a machine's files on a port of its own and registers the address, which is returned.
    async fn serve(&self, machine: &Storage, prover: Prover) -> String {
        self.serve_with(machine, router(RemoteState { storage: machine.clone(), prover })).await
    }

    async fn serve_with(&self, machine: &Storage, routes: axum::Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("a bound socket has an address").to_string();
        // Ends with the runtime of the test.
        tokio::spawn(async move { axum::serve(listener, routes).await });
        self.register(machine, &address).await;
        address
    }

    async fn declare(&self, declared: &[Declared]) {
        let declared = declared.to_vec();
        self.db()
            .transaction("declare in a test", move |tx| {
                let declared = declared.clone();
                async move {
                    for one in &declared {
                        location::declare(tx, one).await?;
                    }
                    Ok(())
                }
                .boxed()
            })
            .await
            .expect("the database answers");
    }

    /// A finalized sector with an unsealed copy, on disk and declared. Its bytes follow from its number.
    async fn finalized_sector(&self, machine: &Storage, path: &LocalPath, number: u64) -> SectorRef {
        let sector = sector(number);
        write_sector(path, sector);
        let mut declared = Vec::new();
        for file in SectorFile::ALL {
            declared.push(machine.settle(path, sector, file).await.expect("the files were just written"));
        }
        self.declare(&declared).await;
        sector
    }

    /// A row of the pipeline for a sector whose SDR is done.
    async fn pipeline_row(&self, sector: SectorRef, after_finalize: bool) {
        sqlx::query(
            "INSERT INTO sectors_sdr_pipeline (sp_id, sector_number, reg_seal_proof, after_sdr, after_finalize)
             VALUES ($1, $2, 5, true, $3)",
        )
        .bind(sector.sp.0 as i64)
        .bind(sector.number as i64)
        .bind(after_finalize)
        .execute(self.db().pool())
        .await
        .expect("the database answers");
    }
}

fn sealing() -> Init {
    Init { can_seal: true, can_store: false, weight: 10, max_storage_bytes: 0 }
}

fn storing() -> Init {
    Init { can_seal: false, can_store: true, weight: 10, max_storage_bytes: 0 }
}

/// The names of a finalized cache, with contents that differ by sector.
fn cache_files(sector: SectorRef) -> [(&'static str, Vec<u8>); 3] {
    let seed = sector.number as u8;
    [
        ("p_aux", vec![seed; 64]),
        ("t_aux", vec![seed.wrapping_add(1); 300]),
        ("sc-02-data-tree-r-last.dat", vec![seed.wrapping_add(2); 32]),
    ]
}

fn write_sector(path: &LocalPath, sector: SectorRef) {
    let cache = path.file(SectorFile::Cache, sector);
    fs::create_dir_all(&cache).unwrap();
    for (name, content) in cache_files(sector) {
        fs::write(cache.join(name), content).unwrap();
    }
    fs::write(path.file(SectorFile::Sealed, sector), vec![sector.number as u8 + 3; 2048]).unwrap();
    fs::write(path.file(SectorFile::Unsealed, sector), vec![sector.number as u8 + 4; 2048]).unwrap();
}

/// Asserts that a sector as [`write_sector`] wrote it lies on a path, whole.
fn assert_sector_is_on(path: &LocalPath, sector: SectorRef) {
    let cache = path.file(SectorFile::Cache, sector);
    for (name, content) in cache_files(sector) {
        assert_eq!(fs::read(cache.join(name)).unwrap(), content, "{name}");
    }
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 3);
    assert_eq!(fs::read(path.file(SectorFile::Sealed, sector)).unwrap(), vec![sector.number as u8 + 3; 2048]);
    assert_eq!(fs::read(path.file(SectorFile::Unsealed, sector)).unwrap(), vec![sector.number as u8 + 4; 2048]);
}

/// Files of any kind below a path, temporary ones included, without its `sectorstore.json`.
fn files_below(path: &LocalPath) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![path.root.clone()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                open.push(entry.path());
            } else if entry.file_name() != path::SECTOR_STORE {
                found.push(entry.path().strip_prefix(&path.root).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// A prover whose child is a shell script: it stands in for `curio prove`.
fn fake_prover(dir: &Path, script: &str) -> Prover {
    Prover::new(ProverOptions {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        parameter_dir: dir.join("parameters"),
        parent_cache_dir: dir.join("parents"),
        tmp_dir: dir.join("tmp"),
        devices: Vec::new(),
    })
}
