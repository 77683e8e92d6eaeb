//! Room for a task's files, promised before it starts.
//!
//! A reservation is a row with a lease, so that two machines over one volume cannot promise the same bytes. It
//! names the sector and the peak of its files; what they take on disk already is subtracted each time someone
//! counts. A sector between SDR and Finalize also holds the room it still needs, from its pipeline row:
//! otherwise several sectors fill a path with layers and none can build its trees.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use curio_core::{Classify, Failure, SealProof, SectorRef, SpId};
use curio_harmony::{Db, DbError, Reserved, TaskId, TxError};
use futures::FutureExt;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, warn};
use uuid::Uuid;

use super::health::{self, Figures};
use super::path::LocalPath;
use super::room::{self, Bytes, Candidate, PathUse, Promise, Refusal, Want};
use super::sector_file::{SectorFile, bits};
use super::{Storage, StorageTiming, from_column, to_column};

/// How often the choice is made anew because other reservations changed under it.
const MAX_ROUNDS: u32 = 8;

/// What a task needs of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    pub sector: SectorRef,
    pub proof: SealProof,
    pub usage: PathUse,
    /// Files the task creates or makes larger.
    pub alloc: Vec<SectorFile>,
    /// Files that must lie on the path already.
    pub existing: Vec<SectorFile>,
}

impl Need {
    /// Layers into a new cache; the replica that follows is counted, so that a started sector can be finished.
    pub fn sdr(sector: SectorRef, proof: SealProof) -> Need {
        let alloc = vec![SectorFile::Cache, SectorFile::Sealed];
        Need { sector, proof, usage: PathUse::Seal, alloc, existing: Vec::new() }
    }

    /// tree-d beside the layers.
    pub fn tree_d(sector: SectorRef, proof: SealProof) -> Need {
        let (alloc, existing) = (vec![SectorFile::Cache], vec![SectorFile::Cache]);
        Need { sector, proof, usage: PathUse::Seal, alloc, existing }
    }

    /// tree-c and tree-r beside the layers, and the replica.
    pub fn tree_rc(sector: SectorRef, proof: SealProof) -> Need {
        let (alloc, existing) = (vec![SectorFile::Cache, SectorFile::Sealed], vec![SectorFile::Cache]);
        Need { sector, proof, usage: PathUse::Seal, alloc, existing }
    }

    /// The unsealed copy, if it is kept. The cache only shrinks, so a full path never stops what makes room on it.
    pub fn finalize(sector: SectorRef, proof: SealProof, keep_unsealed: bool) -> Need {
        let alloc = if keep_unsealed { vec![SectorFile::Unsealed] } else { Vec::new() };
        let existing = vec![SectorFile::Cache, SectorFile::Sealed];
        Need { sector, proof, usage: PathUse::Seal, alloc, existing }
    }

    /// All files of a finalized sector on a path for storing.
    pub fn move_storage(sector: SectorRef, proof: SealProof, keep_unsealed: bool) -> Need {
        let mut alloc = vec![SectorFile::Cache, SectorFile::Sealed];
        if keep_unsealed {
            alloc.push(SectorFile::Unsealed);
        }
        Need { sector, proof, usage: PathUse::Store, alloc, existing: Vec::new() }
    }

    fn want(&self) -> Want {
        let bytes = |file: &SectorFile| match self.usage {
            PathUse::Seal => file.sealing_bytes(self.proof),
            PathUse::Store => file.finalized_bytes(self.proof),
        };
        Want {
            sector: self.sector,
            usage: self.usage,
            files: bits(&self.alloc),
            peak_bytes: self.alloc.iter().map(bytes).sum(),
            must_hold: !self.existing.is_empty(),
        }
    }
}

/// Why no room was promised.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// Passes with time: another task gives room back, or a path becomes well.
    #[error("failed to find {} for {sector} on {machine}: {}", Bytes(*need_bytes), join(seen))]
    NoRoom { sector: SectorRef, machine: String, need_bytes: u64, seen: Vec<room::Seen> },
    /// Another machine may have one; this one needs a person.
    #[error("{machine} has no path {} that takes {sector}; attach one with `curio storage attach --init --{} PATH`", purpose(*usage), flag(*usage))]
    NoPath { sector: SectorRef, machine: String, usage: PathUse },
    #[error("failed to find the files of {sector} that this task works on: they lie on no path of {machine}")]
    NotHere { sector: SectorRef, machine: String },
    #[error("failed to find a reservation of task {task} on {machine}")]
    NotReserved { task: TaskId, machine: String },
    #[error("failed to reserve room for {sector}: other reservations kept changing")]
    Busy { sector: SectorRef },
    #[error(transparent)]
    Db(#[from] DbError),
    #[error(transparent)]
    Tx(#[from] TxError),
}

fn join(seen: &[room::Seen]) -> String {
    seen.iter().map(room::Seen::to_string).collect::<Vec<_>>().join("; ")
}

fn purpose(usage: PathUse) -> &'static str {
    match usage {
        PathUse::Seal => "for sealing",
        PathUse::Store => "for storing",
    }
}

fn flag(usage: PathUse) -> &'static str {
    match usage {
        PathUse::Seal => "seal",
        PathUse::Store => "store",
    }
}

impl Classify for ReserveError {
    fn classify(self) -> Failure {
        match self {
            error @ ReserveError::NoPath { .. } => {
                Failure::Permanent { reason: "no-storage-path", cause: Box::new(error) }
            }
            ReserveError::Db(error) => error.classify(),
            ReserveError::Tx(error) => error.classify(),
            error => Failure::Retry(Box::new(error)),
        }
    }
}

/// Room held for a task. Its lease is renewed while this lives; dropping it gives the room back, also
/// after a panic. When the runner dies, the lease runs out instead.
#[derive(Debug)]
pub struct Reservation {
    pub path: LocalPath,
    /// Bytes of the sector's files at their largest.
    pub bytes: u64,
    dropped: DropGuard,
    keeper: JoinHandle<()>,
}

impl Reservation {
    /// Gives the room back and waits until the row is gone.
    pub async fn release(self) {
        drop(self.dropped);
        // The keeper ends by itself; it can only fail by panicking, and then its lease runs out.
        let _ = self.keeper.await;
    }
}

/// Shortest time between two lines of the log that say that there is no room.
const NO_ROOM_INTERVAL: Duration = Duration::from_secs(60);

impl Storage {
    /// Promises room on the best path of this machine, or on the one where the sector's files lie.
    /// A task that reserves again on this machine moves its promise; machines that want the same task each hold
    /// their own until the claim has decided.
    ///
    /// # Errors
    /// [`ReserveError::NoRoom`] (retryable) says what each path has; [`ReserveError::NoPath`] (permanent) when this
    /// machine has no path for it at all; [`ReserveError::NotHere`] (retryable) when the files to work on lie
    /// elsewhere.
    pub async fn reserve(&self, task: TaskId, need: &Need) -> Result<Reservation, ReserveError> {
        let want = need.want();
        for _ in 0..MAX_ROUNDS {
            let paths = health::paths_of(self.db(), self.machine(), self.timing()).await?;
            let before = reservations(self.db(), &paths).await?;
            let pipelines = pipeline_promises(self.db(), &paths).await?;
            let holding = self.paths_holding(need.sector, &need.existing).await?;
            let candidates = measure(self, paths, &before, pipelines, holding, &want, task).await;
            let chosen = room::choose(&candidates, &want).map_err(|refusal| self.refused(refusal, &want))?;
            let holder = Uuid::new_v4();
            let others: Vec<Row> = before.into_iter().filter(|row| row.storage_id == chosen.path.storage_id).collect();
            if self.promise(task, holder, &want, &chosen.path, others).await? {
                debug!(task.id = %task, sector = %want.sector, path = %chosen.path.root.display(),
                    "reserved {} for {}", Bytes(want.peak_bytes), want.sector);
                return Ok(self.hold(task, holder, chosen.path.clone(), want.peak_bytes));
            }
        }
        Err(ReserveError::Busy { sector: need.sector })
    }

    /// [`Storage::reserve`] as the engine wants it: too little room is an answer, not an error.
    pub async fn reserve_for_engine(&self, task: TaskId, need: &Need) -> Result<Reserved, Failure> {
        match self.reserve(task, need).await {
            Ok(reservation) => Ok(Reserved::Held(Box::new(reservation))),
            Err(
                error @ (ReserveError::NoRoom { .. }
                | ReserveError::NotHere { .. }
                | ReserveError::Busy { .. }
                | ReserveError::NoPath { .. }),
            ) => {
                self.say_no_room(task, &error);
                Ok(Reserved::NoRoom(error.to_string()))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Tells a person why tasks wait, now and then: a full path would fill the log, too.
    fn say_no_room(&self, task: TaskId, error: &ReserveError) {
        let mut said = self.inner.no_room_said.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if said.is_none_or(|at| at.elapsed() >= NO_ROOM_INTERVAL) {
            *said = Some(Instant::now());
            warn!(task.id = %task, "task {task} is not taken here: {error}");
        }
    }

    /// The path on which [`Storage::reserve`] promised room to this task.
    ///
    /// # Errors
    /// [`ReserveError::NotReserved`] (retryable) when the promise has run out or was made on another machine.
    pub async fn reserved_path(&self, task: TaskId) -> Result<LocalPath, ReserveError> {
        let row = sqlx::query!(
            "SELECT r.storage_id, m.local_path
             FROM storage_reservations r
             JOIN storage_path_machines m ON m.storage_id = r.storage_id AND m.machine_name = r.machine_name
             WHERE r.task_id = $1 AND r.machine_name = $2 AND r.expires_at > now()",
            task.0,
            self.machine()
        )
        .fetch_optional(self.db().pool())
        .await
        .map_err(DbError::from)?;
        match row {
            Some(row) => Ok(LocalPath { storage_id: row.storage_id, root: PathBuf::from(row.local_path) }),
            None => Err(ReserveError::NotReserved { task, machine: self.machine().to_owned() }),
        }
    }

    fn refused(&self, refusal: Refusal, want: &Want) -> ReserveError {
        let (sector, machine) = (want.sector, self.machine().to_owned());
        match refusal {
            Refusal::NoPath { usage } => ReserveError::NoPath { sector, machine, usage },
            Refusal::NotHere => ReserveError::NotHere { sector, machine },
            Refusal::NoRoom { need_bytes, seen } => ReserveError::NoRoom { sector, machine, need_bytes, seen },
        }
    }

    /// Writes the promise if the reservations of the path are still those that were counted; false when they
    /// are not.
    async fn promise(
        &self,
        task: TaskId,
        holder: Uuid,
        want: &Want,
        path: &LocalPath,
        counted: Vec<Row>,
    ) -> Result<bool, TxError> {
        let (machine, storage_id, want) = (self.machine().to_owned(), path.storage_id.clone(), want.clone());
        let lease_s = self.timing().reservation_lease.as_secs_f64();
        let counted: Vec<(i64, Uuid)> = counted.iter().map(|row| (row.task_id, row.holder)).collect();
        self.db()
            .transaction("reserve storage", move |tx| {
                let (machine, storage_id, want) = (machine.clone(), storage_id.clone(), want.clone());
                let counted = counted.clone();
                async move {
                    // The lock serialises the promises on one path; everything under it is by key.
                    sqlx::query_scalar!(
                        "SELECT storage_id FROM storage_path WHERE storage_id = $1 FOR UPDATE",
                        storage_id
                    )
                    .fetch_optional(&mut *tx)
                    .await?;
                    let mut present: Vec<(i64, Uuid)> = sqlx::query!(
                        "SELECT task_id, holder FROM storage_reservations
                         WHERE storage_id = $1 AND expires_at > now()",
                        storage_id
                    )
                    .fetch_all(&mut *tx)
                    .await?
                    .into_iter()
                    .map(|row| (row.task_id, row.holder))
                    .collect();
                    let mut counted = counted;
                    present.sort();
                    counted.sort();
                    if present != counted {
                        return Ok(false);
                    }
                    // One promise to a task on a machine: what an earlier attempt held here goes, and what a machine
                    // held that is gone. One of a live machine stays: it may be about to win the claim, and would
                    // find its room taken away.
                    sqlx::query!(
                        "DELETE FROM storage_reservations r
                         WHERE (r.storage_id = $2 AND r.expires_at <= now())
                            OR (r.task_id = $1
                                AND (r.machine_name = $3
                                     OR EXISTS (SELECT FROM harmony_task_machines m
                                                WHERE m.name = r.machine_name
                                                  AND (m.evicted_at IS NOT NULL OR m.stopped_at IS NOT NULL))))",
                        task.0,
                        storage_id,
                        machine
                    )
                    .execute(&mut *tx)
                    .await?;
                    sqlx::query!(
                        "INSERT INTO storage_reservations
                             (storage_id, task_id, machine_name, holder, miner_id, sector_num, filetypes, bytes, expires_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now() + make_interval(secs => $9))",
                        storage_id,
                        task.0,
                        machine,
                        holder,
                        to_column(want.sector.sp.0),
                        to_column(want.sector.number),
                        want.files,
                        to_column(want.peak_bytes),
                        lease_s
                    )
                    .execute(&mut *tx)
                    .await?;
                    Ok(true)
                }
                .boxed()
            })
            .await
    }

    fn hold(&self, task: TaskId, holder: Uuid, path: LocalPath, bytes: u64) -> Reservation {
        let released = CancellationToken::new();
        let keeper = tokio::spawn(keep(self.db().clone(), *self.timing(), task, holder, released.clone()));
        Reservation { path, bytes, dropped: released.drop_guard(), keeper }
    }
}

/// Renews the lease until the guard is dropped, then removes the row.
async fn keep(db: Db, timing: StorageTiming, task: TaskId, holder: Uuid, released: CancellationToken) {
    while released.run_until_cancelled(tokio::time::sleep(timing.reservation_renewal)).await.is_some() {
        // A renewal that fails is tried again next time; the lease is several renewals long.
        match renew(&db, holder, timing.reservation_lease.as_secs_f64()).await {
            Ok(true) => {}
            Ok(false) => {
                warn!(task.id = %task, "the storage reservation of task {task} was taken over or ran out");
                return;
            }
            Err(error) => warn!(task.id = %task, error = %error, "failed to renew a storage reservation"),
        }
    }
    let deleted = sqlx::query!("DELETE FROM storage_reservations WHERE holder = $1 AND task_id = $2", holder, task.0)
        .execute(db.pool())
        .await;
    if let Err(error) = deleted {
        warn!(task.id = %task, error = %error, "failed to give a storage reservation back; its lease runs out");
    }
}

async fn renew(db: &Db, holder: Uuid, lease_s: f64) -> Result<bool, DbError> {
    let done = sqlx::query!(
        "UPDATE storage_reservations SET expires_at = now() + make_interval(secs => $2) WHERE holder = $1",
        holder,
        lease_s
    )
    .execute(db.pool())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A reservation as others count it.
#[derive(Clone, Debug)]
struct Row {
    storage_id: String,
    task_id: i64,
    holder: Uuid,
    promise: Promise,
}

async fn reservations(db: &Db, paths: &[health::PathState]) -> Result<Vec<Row>, DbError> {
    let ids: Vec<String> = paths.iter().map(|path| path.path.storage_id.clone()).collect();
    let rows = sqlx::query!(
        "SELECT storage_id, task_id, holder, miner_id, sector_num, filetypes, bytes
         FROM storage_reservations WHERE storage_id = ANY($1) AND expires_at > now()",
        &ids
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Row {
            storage_id: row.storage_id,
            task_id: row.task_id,
            holder: row.holder,
            promise: Promise {
                sector: SectorRef::new(SpId(from_column(row.miner_id)), from_column(row.sector_num)),
                files: row.filetypes,
                peak_bytes: from_column(row.bytes),
            },
        })
        .collect())
}

/// Everything promised on one path, to tasks and to pipelines.
pub(super) async fn promises_of(db: &Db, state: &health::PathState) -> Result<Vec<Promise>, DbError> {
    let path = std::slice::from_ref(state);
    let tasks = reservations(db, path).await?.into_iter().map(|row| row.promise);
    let pipelines = pipeline_promises(db, path).await?.into_iter().map(|(_, promise)| promise);
    Ok(tasks.chain(pipelines).collect())
}

/// What sectors between SDR and Finalize will still need on these paths, by path.
async fn pipeline_promises(db: &Db, paths: &[health::PathState]) -> Result<Vec<(String, Promise)>, DbError> {
    let ids: Vec<String> = paths.iter().map(|path| path.path.storage_id.clone()).collect();
    let rows = sqlx::query!(
        "SELECT l.storage_id, p.sp_id, p.sector_number, p.reg_seal_proof
         FROM sectors_sdr_pipeline p
         JOIN sector_location l ON l.miner_id = p.sp_id AND l.sector_num = p.sector_number
                               AND l.sector_filetype = 4 AND l.removal_requested_at IS NULL
         WHERE NOT p.failed AND NOT p.after_finalize AND l.storage_id = ANY($1)",
        &ids
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let proof = SealProof::from_number(row.reg_seal_proof.into()).ok()?;
            let sector = SectorRef::new(SpId(from_column(row.sp_id)), from_column(row.sector_number));
            let want = Need::sdr(sector, proof).want();
            Some((row.storage_id, Promise { sector, files: want.files, peak_bytes: want.peak_bytes }))
        })
        .collect())
}

/// Looks at every path; one that does not answer in time is unwell.
async fn measure(
    storage: &Storage,
    paths: Vec<health::PathState>,
    reservations: &[Row],
    pipelines: Vec<(String, Promise)>,
    holding: Vec<String>,
    want: &Want,
    task: TaskId,
) -> Vec<Candidate> {
    let mut candidates = Vec::with_capacity(paths.len());
    for state in paths {
        let id = &state.path.storage_id;
        let promises: Vec<Promise> = reservations
            .iter()
            .filter(|row| row.storage_id == *id && row.task_id != task.0)
            .map(|row| row.promise)
            .chain(pipelines.iter().filter(|(storage_id, _)| storage_id == id).map(|(_, promise)| *promise))
            .collect();
        let mut unwell = state.unwell.clone();
        let mut figures = Figures::default();
        if unwell.is_none() {
            let (limit, own) = (state.max_storage_bytes, (want.sector, want.files));
            match storage.look(&state.path, move |path| health::figures(path, limit, &promises, Some(own))).await {
                Ok(seen) => figures = seen,
                Err(error) => unwell = Some(error.to_string()),
            }
        }
        candidates.push(Candidate {
            holds: holding.contains(id),
            path: state.path,
            can_seal: state.can_seal,
            can_store: state.can_store,
            weight: state.weight,
            max_storage_bytes: state.max_storage_bytes,
            allow_types: state.allow_types,
            deny_types: state.deny_types,
            allow_miners: state.allow_miners,
            deny_miners: state.deny_miners,
            unwell,
            fs_available_bytes: figures.fs_available_bytes,
            used_bytes: figures.used_bytes,
            promised_bytes: figures.promised_bytes,
            own_bytes: figures.own_bytes,
        });
    }
    candidates
}
