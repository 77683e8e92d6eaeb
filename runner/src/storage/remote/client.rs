//! The asking side of `/remote`: fetching a sector file block by block, removing a copy, asking for a vanilla proof.
//!
//! A transfer that breaks goes on from the byte it reached, on the same machine or on another one that reaches the same
//! path; a block whose checksum is wrong is asked for again. Only failures in a row count against the limit.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use curio_core::{Classify, Failure, SectorRef};
use curio_harmony::DbError;
use futures::future::BoxFuture;
use reqwest::{Method, StatusCode, header};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::files::{Manifest, Place};
use super::token::{self, Scope, StorageSecret};
use super::{BLOCK_BYTES, digest};
use crate::storage::durable::{FileError, clear};
use crate::storage::sector_file::{MAX_CACHE_FILES, SectorFile};
use crate::storage::vanilla::VanillaPorep;
use crate::storage::{BlockingError, Storage, blocking, to_column};

/// Failures in a row after which a transfer is given up.
const MOST_FAILURES: u32 = 6;
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For one block of 8 MiB: a link of 1 Mbit/s still manages.
const BLOCK_TIMEOUT: Duration = Duration::from_secs(90);
/// For removing a cache of hundreds of gigabytes, or a look at a path.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// For a vanilla proof, which reads two trees of a 64 GiB sector from slow disks.
const VANILLA_TIMEOUT: Duration = Duration::from_secs(1800);
/// Most bytes of an answer that is not a block: vanilla proofs are below 200 MiB.
const ANSWER_LIMIT_BYTES: u64 = 512 << 20;
/// Most bytes of a sentence that says why not.
const SENTENCE_LIMIT_BYTES: usize = 1 << 10;

/// A machine that reaches a storage path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    pub machine: String,
    /// `host:port`.
    pub address: String,
    pub storage_id: String,
}

/// Another machine did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("failed to find a running machine that reaches {what} of {sector}")]
    NoPeer { sector: SectorRef, what: String },
    #[error("this machine has no storage secret (Apis.StorageRPCSecret), so it cannot ask {machine} for files")]
    NoSecret { machine: String },
    #[error("failed to reach {machine} at {address}")]
    Transport {
        machine: String,
        address: String,
        #[source]
        source: reqwest::Error,
    },
    #[error(
        "{machine} at {address} refused our token: {sentence}; is Apis.StorageRPCSecret the same on both machines?"
    )]
    Token { machine: String, address: String, sentence: String },
    #[error("{machine} at {address} answered {status}: {sentence}")]
    Refused { machine: String, address: String, status: u16, sentence: String },
    #[error("{machine} at {address} sent bytes with a wrong checksum")]
    Checksum { machine: String, address: String },
    #[error("{machine} at {address} sent an answer that makes no sense: {what}")]
    Answer { machine: String, address: String, what: String },
    #[error("the file changed on {machine} while it was read")]
    Changed { machine: String },
    #[error("the transfer was cancelled")]
    Cancelled,
    #[error("failed to write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

impl Classify for RemoteError {
    fn classify(self) -> Failure {
        match self {
            RemoteError::Cancelled => Failure::Stopping,
            RemoteError::File(error) => error.classify(),
            RemoteError::Blocking(error) => error.classify(),
            // The other machine restarts, or its row is not there yet; that says nothing about the task.
            error @ (RemoteError::Transport { .. } | RemoteError::NoPeer { .. }) => {
                Failure::Unavailable(Box::new(error))
            }
            error => Failure::Retry(Box::new(error)),
        }
    }
}

impl RemoteError {
    /// Whether another request may do better. A full disk here or a refused token does not get better by asking.
    fn is_worth_another_try(&self) -> bool {
        !matches!(
            self,
            RemoteError::Cancelled
                | RemoteError::Write { .. }
                | RemoteError::File(_)
                | RemoteError::Blocking(_)
                | RemoteError::NoSecret { .. }
                | RemoteError::NoPeer { .. }
        )
    }
}

/// Asks other machines, as one machine.
#[derive(Clone)]
pub struct Remote {
    machine: String,
    secret: Option<StorageSecret>,
    http: reqwest::Client,
}

/// One block as it came.
struct Received {
    bytes: Bytes,
    total_bytes: u64,
    etag: String,
}

impl Remote {
    pub fn new(machine: String, secret: Option<StorageSecret>) -> Remote {
        // The HTTP client wants a TLS provider even for plain HTTP. Somebody else may have set it: fine.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .expect("a client with fixed settings builds once a TLS provider is installed");
        Remote { machine, secret, http }
    }

    /// Fetches a sector file to `temp`, which is cleared first; a cache becomes a directory. Returns its bytes. The
    /// result is checked but not durable: publish it.
    ///
    /// # Errors
    /// The last of [`MOST_FAILURES`] failures in a row; [`RemoteError::Write`] at once when it cannot be stored here.
    pub async fn fetch(
        &self,
        peers: &[Peer],
        sector: SectorRef,
        file: SectorFile,
        temp: &Path,
        cancelled: &CancellationToken,
    ) -> Result<u64, RemoteError> {
        let cleared = temp.to_owned();
        blocking("clearing a temporary file", move || clear(&cleared)).await??;
        if !file.is_dir() {
            let place = Place { file, sector, name: None };
            return self.fetch_file(peers, &place, None, temp, cancelled).await;
        }
        let manifest = self.manifest(peers, sector, cancelled).await?;
        tokio::fs::create_dir_all(temp).await.map_err(|source| RemoteError::Write { path: temp.to_owned(), source })?;
        let mut sum = 0;
        for entry in manifest.files {
            let target = temp.join(entry.name.as_str());
            let place = Place { file, sector, name: Some(entry.name) };
            sum += self.fetch_file(peers, &place, Some(entry.size_bytes), &target, cancelled).await?;
        }
        Ok(sum)
    }

    /// Repeats a request over the peers until it succeeds or failed too often in a row.
    async fn persist<'a, T>(
        &self,
        peers: &'a [Peer],
        (sector, file): (SectorRef, SectorFile),
        cancelled: &CancellationToken,
        failures: &mut u32,
        // Boxed: an async closure here keeps the compiler from seeing that a task's future is Send.
        request: impl Fn(&'a Peer) -> BoxFuture<'a, Result<T, RemoteError>>,
    ) -> Result<T, RemoteError> {
        loop {
            let peer = (*failures as usize)
                .checked_rem(peers.len())
                .map(|index| &peers[index])
                .ok_or_else(|| RemoteError::NoPeer { sector, what: file.dir_name().to_owned() })?;
            let error = match cancelled.run_until_cancelled(request(peer)).await {
                None => return Err(RemoteError::Cancelled),
                Some(Ok(answer)) => {
                    *failures = 0;
                    return Ok(answer);
                }
                Some(Err(error)) => error,
            };
            *failures += 1;
            if *failures >= MOST_FAILURES
                || !error.is_worth_another_try()
                || matches!(error, RemoteError::Changed { .. })
            {
                return Err(error);
            }
            let wait = (FIRST_WAIT * 2u32.pow(*failures - 1)).min(LONGEST_WAIT);
            debug!(machine = %peer.machine, error = %Failure::Retry(Box::new(error)),
                "a transfer of {file} of {sector} broke; it goes on in {wait:?}");
            if cancelled.run_until_cancelled(tokio::time::sleep(wait)).await.is_none() {
                return Err(RemoteError::Cancelled);
            }
        }
    }

    async fn manifest(
        &self,
        peers: &[Peer],
        sector: SectorRef,
        cancelled: &CancellationToken,
    ) -> Result<Manifest, RemoteError> {
        let mut failures = 0;
        let what = (sector, SectorFile::Cache);
        self.persist(peers, what, cancelled, &mut failures, |peer| Box::pin(self.manifest_of(peer, sector))).await
    }

    async fn manifest_of(&self, peer: &Peer, sector: SectorRef) -> Result<Manifest, RemoteError> {
        let file = SectorFile::Cache;
        let scope = Scope::Read { path: peer.storage_id.clone(), file, sector };
        let request =
            self.request(peer, Method::GET, &file_address(peer, file, sector, None), scope, REQUEST_TIMEOUT)?;
        let answer = self.send(peer, request).await?;
        let body = self.body(peer, answer, 1 << 20).await?;
        let nonsense = |what: String| nonsense(peer, what);
        let manifest: Manifest = serde_json::from_slice(&body).map_err(|error| nonsense(error.to_string()))?;
        match manifest.files.len() {
            0 => Err(nonsense(format!("the cache of {sector} has no files"))),
            count if count > MAX_CACHE_FILES => Err(nonsense(format!("a cache of {count} files"))),
            _ => Ok(manifest),
        }
    }

    async fn fetch_file(
        &self,
        peers: &[Peer],
        place: &Place,
        expected_bytes: Option<u64>,
        target: &Path,
        cancelled: &CancellationToken,
    ) -> Result<u64, RemoteError> {
        let write_error = |source| RemoteError::Write { path: target.to_owned(), source };
        let mut out = File::create(target).await.map_err(write_error)?;
        let (mut at, mut etag, mut total) = (0, None::<String>, expected_bytes);
        let (mut failures, mut restarts) = (0, 0);
        while total.is_none_or(|total| at < total) {
            let what = (place.sector, place.file);
            let asked = etag.as_deref();
            let block = self
                .persist(peers, what, cancelled, &mut failures, |peer| {
                    Box::pin(self.block(peer, place, at, total, asked))
                })
                .await;
            match block {
                Ok(Received { bytes, total_bytes, etag: version }) => {
                    out.write_all(&bytes).await.map_err(write_error)?;
                    at += bytes.len() as u64;
                    total = Some(total_bytes);
                    etag = Some(version);
                }
                // Another machine may see another inode of the same file. Begin once more with its version.
                Err(error @ RemoteError::Changed { .. }) => {
                    restarts += 1;
                    if restarts > 2 {
                        return Err(error);
                    }
                    warn!(sector.sp = %place.sector.sp, sector.number = place.sector.number,
                        "{} of {} changed during its transfer; beginning again", place.file, place.sector);
                    out = File::create(target).await.map_err(write_error)?;
                    (at, etag, total) = (0, None, None);
                }
                Err(error) => return Err(error),
            }
        }
        out.flush().await.map_err(write_error)?;
        Ok(at)
    }

    /// One block from `start`, checked against its digest and against what is known of the file.
    async fn block(
        &self,
        peer: &Peer,
        place: &Place,
        start: u64,
        total: Option<u64>,
        etag: Option<&str>,
    ) -> Result<Received, RemoteError> {
        let Place { file, sector, name } = place;
        let scope = Scope::Read { path: peer.storage_id.clone(), file: *file, sector: *sector };
        let address = file_address(peer, *file, *sector, name.as_ref().map(|name| name.as_str()));
        let mut request = self
            .request(peer, Method::GET, &address, scope, BLOCK_TIMEOUT)?
            .header(header::RANGE, format!("bytes={start}-{}", start + BLOCK_BYTES - 1));
        if let Some(etag) = etag {
            request = request.header(header::IF_MATCH, etag);
        }
        let answer = self.send(peer, request).await?;
        let text = |name: &str| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let version = text(header::ETAG.as_str()).ok_or_else(|| nonsense(peer, "no ETag".into()))?;
        let (first, total_bytes) = text(header::CONTENT_RANGE.as_str())
            .as_deref()
            .and_then(parse_content_range)
            .ok_or_else(|| nonsense(peer, "no Content-Range".into()))?;
        let content_digest = text(digest::CONTENT_DIGEST);
        let bytes = self.body(peer, answer, BLOCK_BYTES).await?;
        if !digest::matches(content_digest.as_deref(), &bytes) {
            return Err(RemoteError::Checksum { machine: peer.machine.clone(), address: peer.address.clone() });
        }
        if total.is_some_and(|total| total != total_bytes) || etag.is_some_and(|etag| etag != version) {
            return Err(RemoteError::Changed { machine: peer.machine.clone() });
        }
        if first != start || bytes.is_empty() || start + bytes.len() as u64 > total_bytes {
            return Err(nonsense(peer, format!("{} bytes at {first} of {total_bytes}", bytes.len())));
        }
        Ok(Received { bytes, total_bytes, etag: version })
    }

    /// Removes a copy that is marked for removal, by a machine that reaches it. True when that machine did it, false when it
    /// knows no such copy any more.
    pub async fn remove(&self, peer: &Peer, sector: SectorRef, file: SectorFile) -> Result<bool, RemoteError> {
        let scope = Scope::Delete { path: peer.storage_id.clone(), file, sector };
        let request =
            self.request(peer, Method::DELETE, &file_address(peer, file, sector, None), scope, REQUEST_TIMEOUT)?;
        match self.send(peer, request).await {
            Ok(_) => Ok(true),
            Err(RemoteError::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Figures of a storage path, from a machine that reaches it.
    pub async fn stat(&self, peer: &Peer) -> Result<super::server::PathStat, RemoteError> {
        let scope = Scope::Stat { path: peer.storage_id.clone() };
        let address = format!("/remote/stat/{}", peer.storage_id);
        let answer = self.send(peer, self.request(peer, Method::GET, &address, scope, REQUEST_TIMEOUT)?).await?;
        let body = self.body(peer, answer, 1 << 16).await?;
        serde_json::from_slice(&body).map_err(|error| nonsense(peer, error.to_string()))
    }

    /// C1 from the first of the machines that makes it.
    pub async fn vanilla_porep(&self, peers: &[Peer], request: &VanillaPorep) -> Result<String, RemoteError> {
        let mut last = RemoteError::NoPeer { sector: request.sector, what: "cache and sealed file".to_owned() };
        for peer in peers {
            match self.vanilla_porep_of(peer, request).await {
                Ok(vanilla_proof) => return Ok(vanilla_proof),
                Err(error) => {
                    warn!(sector.sp = %request.sector.sp, sector.number = request.sector.number, error = %error,
                        "{} made no vanilla proof of {}", peer.machine, request.sector);
                    last = error;
                }
            }
        }
        Err(last)
    }

    async fn vanilla_porep_of(&self, peer: &Peer, request: &VanillaPorep) -> Result<String, RemoteError> {
        let scope = Scope::Vanilla { sector: request.sector };
        let asked = self.request(peer, Method::POST, "/remote/vanilla/porep", scope, VANILLA_TIMEOUT)?;
        let answer = self.send(peer, asked.json(request)).await?;
        let content_digest =
            answer.headers().get(digest::CONTENT_DIGEST).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = self.body(peer, answer, ANSWER_LIMIT_BYTES).await?;
        if !digest::matches(content_digest.as_deref(), &body) {
            return Err(RemoteError::Checksum { machine: peer.machine.clone(), address: peer.address.clone() });
        }
        String::from_utf8(body.into()).map_err(|error| nonsense(peer, error.to_string()))
    }

    pub(super) fn request(
        &self,
        peer: &Peer,
        method: Method,
        address: &str,
        scope: Scope,
        timeout: Duration,
    ) -> Result<reqwest::RequestBuilder, RemoteError> {
        let machine = peer.machine.clone();
        let secret = self.secret.as_ref().ok_or(RemoteError::NoSecret { machine })?;
        Ok(self
            .http
            .request(method, format!("http://{}{address}", peer.address))
            .bearer_auth(token::sign(secret, &self.machine, scope))
            .timeout(timeout))
    }

    pub(super) async fn send(
        &self,
        peer: &Peer,
        request: reqwest::RequestBuilder,
    ) -> Result<reqwest::Response, RemoteError> {
        let answer = request.send().await.map_err(|source| transport(peer, source))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let (machine, address) = (peer.machine.clone(), peer.address.clone());
        if status == StatusCode::PRECONDITION_FAILED {
            return Err(RemoteError::Changed { machine });
        }
        let body = self.body(peer, answer, SENTENCE_LIMIT_BYTES as u64).await.unwrap_or_default();
        let sentence = String::from_utf8_lossy(&body).trim().to_owned();
        Err(match status {
            StatusCode::UNAUTHORIZED => RemoteError::Token { machine, address, sentence },
            status => RemoteError::Refused { machine, address, status: status.as_u16(), sentence },
        })
    }

    async fn body(&self, peer: &Peer, mut answer: reqwest::Response, limit: u64) -> Result<Bytes, RemoteError> {
        let mut body = bytes::BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|source| transport(peer, source))? {
            if (body.len() + chunk.len()) as u64 > limit {
                return Err(nonsense(peer, format!("more than {limit} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

pub(super) fn transport(peer: &Peer, source: reqwest::Error) -> RemoteError {
    // Without the address in the source: it is in our sentence already.
    let source = source.without_url();
    RemoteError::Transport { machine: peer.machine.clone(), address: peer.address.clone(), source }
}

pub(super) fn nonsense(peer: &Peer, what: String) -> RemoteError {
    RemoteError::Answer { machine: peer.machine.clone(), address: peer.address.clone(), what }
}

/// Ids of storage paths are UUIDs and names are from a closed list, so nothing needs escaping.
fn file_address(peer: &Peer, file: SectorFile, sector: SectorRef, name: Option<&str>) -> String {
    let slash = if name.is_some() { "/" } else { "" };
    format!("/remote/{file}/{}{slash}{}?path={}", sector.file_name(), name.unwrap_or_default(), peer.storage_id)
}

/// First byte and total of `bytes A-B/N`.
fn parse_content_range(text: &str) -> Option<(u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _) = range.split_once('-')?;
    Some((first.parse().ok()?, total.parse().ok()?))
}

impl Storage {
    /// Other machines that reach a storage path, the one heard of last first.
    pub async fn peers_of(&self, storage_id: &str) -> Result<Vec<Peer>, DbError> {
        let rows = sqlx::query!(
            "SELECT h.name, h.host_and_port
             FROM storage_path_machines m JOIN harmony_task_machines h ON h.name = m.machine_name
             WHERE m.storage_id = $1 AND m.machine_name <> $2
             ORDER BY h.last_contact DESC",
            storage_id,
            self.machine()
        )
        .fetch_all(self.db().pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Peer { machine: row.name, address: row.host_and_port, storage_id: storage_id.to_owned() })
            .collect())
    }

    /// Other machines that reach a path with all these files of a sector.
    pub async fn peers_holding(&self, sector: SectorRef, files: &[SectorFile]) -> Result<Vec<Peer>, DbError> {
        let bits: Vec<i32> = files.iter().map(|file| file.bit()).collect();
        let rows = sqlx::query!(
            r#"SELECT h.name, h.host_and_port, m.storage_id
               FROM storage_path_machines m JOIN harmony_task_machines h ON h.name = m.machine_name
               WHERE m.machine_name <> $1
                 AND (SELECT count(*) FROM sector_location l
                      WHERE l.storage_id = m.storage_id AND l.miner_id = $2 AND l.sector_num = $3
                        AND l.sector_filetype = ANY($4) AND l.removal_requested_at IS NULL) = $5
               ORDER BY h.last_contact DESC"#,
            self.machine(),
            to_column(sector.sp.0),
            to_column(sector.number),
            &bits,
            to_column(bits.len() as u64)
        )
        .fetch_all(self.db().pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| Peer { machine: row.name, address: row.host_and_port, storage_id: row.storage_id })
            .collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_as_they_are_written() {
        assert_eq!(parse_content_range("bytes 5-9/20"), Some((5, 20)));
        for text in ["", "bytes */20", "bytes 5-9/*", "5-9/20"] {
            assert_eq!(parse_content_range(text), None, "{text}");
        }
    }
}
