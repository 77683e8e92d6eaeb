//! The serving side of `/remote`.
//!
//! The token is looked at first, then the address, then the scope: who has no token learns nothing. Every body and
//! every answer is bounded, and so is the number of requests at work.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use curio_core::{Classify, Failure, SectorRef};
use curio_harmony::DbError;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::files::{self, Place};
use super::token::{self, Bearer, Scope, TokenError};
use super::{BLOCK_BYTES, digest, posts};
use crate::prove::Prover;
use crate::storage::health::{self, Figures};
use crate::storage::location::CopyState;
use crate::storage::path::LocalPath;
use crate::storage::sector_file::{CacheName, SectorFile};
use crate::storage::vanilla::VanillaPorep;
use crate::storage::{BlockingError, FileError, Storage, blocking, durable};

/// Blocks being read at once; each holds up to 8 MiB.
const READS_AT_ONCE: usize = 16;
/// Vanilla proofs at once: each is a child process that reads both trees.
const PROOFS_AT_ONCE: usize = 2;
/// How long a request waits for its turn.
pub(super) const TURN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long reading one block, or one look at a path, may take.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a file that was found readable counts as readable.
const RECENT: Duration = Duration::from_secs(2);
/// Most bytes of a vanilla request: a few hundred pieces at 100 bytes.
const BODY_LIMIT_BYTES: usize = 1 << 20;

/// What the routes need.
#[derive(Clone)]
pub struct RemoteState {
    pub storage: Storage,
    pub prover: Prover,
}

pub(super) struct Shared {
    pub(super) storage: Storage,
    pub(super) prover: Prover,
    reads: Semaphore,
    proofs: Semaphore,
    pub(super) posts: Arc<Semaphore>,
    recent: Mutex<Recent>,
}

/// Sector files that were found readable, and when.
type Recent = HashMap<(String, SectorFile, SectorRef), (Instant, LocalPath)>;

/// The routes below `/remote`, with their full addresses.
pub fn router(state: RemoteState) -> Router {
    let RemoteState { storage, prover } = state;
    let shared = Shared {
        storage,
        prover,
        reads: Semaphore::new(READS_AT_ONCE),
        proofs: Semaphore::new(PROOFS_AT_ONCE),
        posts: Arc::new(Semaphore::new(posts::AT_ONCE)),
        recent: Mutex::default(),
    };
    Router::new()
        .route("/remote/stat/{path}", get(stat))
        .route("/remote/vanilla/porep", post(vanilla_porep))
        .route("/remote/vanilla/post", post(posts::serve).layer(DefaultBodyLimit::max(posts::BODY_LIMIT_BYTES)))
        .route("/remote/{kind}/{sector}", get(read).delete(remove))
        .route("/remote/{kind}/{sector}/{name}", get(read_named))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .with_state(Arc::new(shared))
}

/// A request was not served. The text is the body of the answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServeError {
    #[error("this machine has no storage secret (Apis.StorageRPCSecret), so it serves no files")]
    NoSecret,
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("{0}")]
    Address(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    InUse(String),
    #[error("the file has changed since the transfer began; start it again")]
    Changed,
    #[error("this range is not in the file, which has {total_bytes} bytes")]
    Range { total_bytes: u64 },
    #[error("this machine is busy; try again")]
    Busy,
    #[error("{0}")]
    Failed(String),
}

impl From<DbError> for ServeError {
    fn from(error: DbError) -> ServeError {
        ServeError::Failed(error.classify().to_string())
    }
}

impl From<BlockingError> for ServeError {
    fn from(error: BlockingError) -> ServeError {
        ServeError::Failed(error.to_string())
    }
}

impl IntoResponse for ServeError {
    fn into_response(self) -> Response {
        let status = match &self {
            ServeError::NoSecret
            | ServeError::Token(TokenError::Missing | TokenError::Invalid(_) | TokenError::RunOut) => {
                StatusCode::UNAUTHORIZED
            }
            ServeError::Token(TokenError::OutOfScope) => StatusCode::FORBIDDEN,
            ServeError::Address(_) => StatusCode::BAD_REQUEST,
            ServeError::NotFound(_) => StatusCode::NOT_FOUND,
            ServeError::InUse(_) => StatusCode::CONFLICT,
            ServeError::Changed => StatusCode::PRECONDITION_FAILED,
            ServeError::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            ServeError::Busy | ServeError::Failed(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let mut response = (status, format!("{self}\n")).into_response();
        if let ServeError::Range { total_bytes } = self {
            insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{total_bytes}"));
        }
        if status == StatusCode::UNAUTHORIZED {
            insert(&mut response, header::WWW_AUTHENTICATE, "Bearer");
        }
        response
    }
}

/// Sets a header whose value is made of numbers and our own words.
fn insert(response: &mut Response, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

impl Shared {
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Bearer, ServeError> {
        let secret = self.storage.secret().ok_or(ServeError::NoSecret)?;
        let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        Ok(token::read(secret, authorization)?)
    }

    /// The path of this machine, if it is really mounted there.
    async fn mounted(&self, storage_id: &str) -> Result<(LocalPath, Figures), ServeError> {
        let path = self.storage.local_path(storage_id).await?.ok_or_else(|| {
            ServeError::NotFound(format!("{} does not reach storage path {storage_id}", self.storage.machine()))
        })?;
        match self.storage.look(&path, |path| health::figures(path, 0, &[], None)).await {
            Ok(figures) => Ok((path, figures)),
            Err(error) => Err(ServeError::Failed(error.to_string())),
        }
    }

    /// The path on which a sector file is declared and mounted. The answer is kept for a moment: a transfer asks for
    /// every block, and the database should not hear of each.
    async fn readable(&self, file: SectorFile, sector: SectorRef, storage_id: &str) -> Result<LocalPath, ServeError> {
        let key = (storage_id.to_owned(), file, sector);
        if let Some((_, path)) = self.recent().get(&key).filter(|(at, _)| at.elapsed() < RECENT) {
            return Ok(path.clone());
        }
        if !self.storage.is_declared(sector, file, storage_id).await? {
            return Err(ServeError::NotFound(format!("{file} of {sector} is not declared on {storage_id}")));
        }
        let (path, _) = self.mounted(storage_id).await?;
        let mut recent = self.recent();
        recent.retain(|_, (at, _)| at.elapsed() < RECENT);
        recent.insert(key, (Instant::now(), path.clone()));
        Ok(path)
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for a turn, at most [`TURN_TIMEOUT`].
async fn turn(semaphore: &Semaphore) -> Result<SemaphorePermit<'_>, ServeError> {
    match tokio::time::timeout(TURN_TIMEOUT, semaphore.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(_)) | Err(_) => Err(ServeError::Busy),
    }
}

async fn bounded<T>(work: impl Future<Output = T>) -> Result<T, ServeError> {
    tokio::time::timeout(READ_TIMEOUT, work)
        .await
        .map_err(|_| ServeError::Failed("the storage path does not answer".to_owned()))
}

/// A sector file as an address names it.
struct Target {
    place: Place,
    storage_id: String,
}

fn parse_target(kind: &str, sector: &str, name: Option<&str>, query: Option<&str>) -> Result<Target, ServeError> {
    let bad = |error: &dyn std::fmt::Display| ServeError::Address(error.to_string());
    let file: SectorFile = kind.parse().map_err(|error| bad(&error))?;
    let sector = Some(sector)
        .filter(|text| text.starts_with("s-"))
        .and_then(|text| text.parse::<SectorRef>().ok())
        .ok_or_else(|| ServeError::Address("this is not a sector; write it like s-t01000-5".to_owned()))?;
    let name = name.map(str::parse::<CacheName>).transpose().map_err(|error| bad(&error))?;
    if name.is_some() && !file.is_dir() {
        return Err(ServeError::Address(format!("{file} is one file and has none inside")));
    }
    let storage_id = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .find(|(key, _)| key == "path")
        .map(|(_, value)| value.into_owned())
        .ok_or_else(|| ServeError::Address("name the storage path: ?path=ID".to_owned()))?;
    Ok(Target { place: Place { file, sector, name }, storage_id })
}

/// Figures of a storage path in the answer of `stat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStat {
    pub storage_id: String,
    pub capacity_bytes: u64,
    pub fs_available_bytes: u64,
}

async fn stat(
    State(shared): State<Arc<Shared>>,
    Path(storage_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ServeError> {
    let bearer = shared.authenticate(&headers)?;
    bearer.allows(&Scope::Stat { path: storage_id.clone() })?;
    let _turn = turn(&shared.reads).await?;
    let (path, figures) = shared.mounted(&storage_id).await?;
    let Figures { capacity_bytes, fs_available_bytes, .. } = figures;
    Ok(axum::Json(PathStat { storage_id: path.storage_id, capacity_bytes, fs_available_bytes }).into_response())
}

async fn read(
    State(shared): State<Arc<Shared>>,
    Path((kind, sector)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ServeError> {
    let bearer = shared.authenticate(&headers)?;
    let target = parse_target(&kind, &sector, None, query.as_deref())?;
    serve_file(&shared, &bearer, target, &headers).await
}

async fn read_named(
    State(shared): State<Arc<Shared>>,
    Path((kind, sector, name)): Path<(String, String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ServeError> {
    let bearer = shared.authenticate(&headers)?;
    let target = parse_target(&kind, &sector, Some(&name), query.as_deref())?;
    serve_file(&shared, &bearer, target, &headers).await
}

async fn serve_file(
    shared: &Shared,
    bearer: &Bearer,
    target: Target,
    headers: &HeaderMap,
) -> Result<Response, ServeError> {
    let Target { place, storage_id } = target;
    let (file, sector) = (place.file, place.sector);
    bearer.allows(&Scope::Read { path: storage_id.clone(), file, sector })?;
    let _turn = turn(&shared.reads).await?;
    let path = shared.readable(file, sector, &storage_id).await?;
    if file.is_dir() && place.name.is_none() {
        let listed = bounded(blocking("listing a cache", move || files::manifest(&path.root, sector))).await??;
        let manifest = listed.map_err(|error| unreadable(file, sector, &error))?;
        return Ok(axum::Json(manifest).into_response());
    }
    let range = parse_range(headers)?;
    let (start, length) = range.unwrap_or((0, BLOCK_BYTES));
    let work = blocking("reading a sector file", move || {
        let block = files::read_block(&path.root, &place, start, length)?;
        let digest = block.as_ref().map(|block| digest::of(&block.bytes));
        Ok::<_, io::Error>((block.zip(digest), place, path))
    });
    let (found, place, path) = bounded(work).await??.map_err(|error| unreadable(file, sector, &error))?;
    let Some((block, content_digest)) = found else {
        let total_bytes = total_of(path, place).await?;
        return Err(ServeError::Range { total_bytes });
    };
    let wanted_etag = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok());
    if wanted_etag.is_some_and(|wanted| wanted != block.etag) {
        return Err(ServeError::Changed);
    }
    let whole = block.bytes.len() as u64 == block.total_bytes;
    if range.is_none() && !whole {
        return Err(ServeError::Address(format!(
            "this file has {} bytes; ask for at most {BLOCK_BYTES} at a time, like Range: bytes=0-{}",
            block.total_bytes,
            BLOCK_BYTES - 1
        )));
    }
    let last = block.start + (block.bytes.len() as u64).saturating_sub(1);
    let content_range = format!("bytes {}-{last}/{}", block.start, block.total_bytes);
    let mut response = Response::new(Body::from(block.bytes));
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        insert(&mut response, header::CONTENT_RANGE, &content_range);
    }
    insert(&mut response, header::CONTENT_TYPE, "application/octet-stream");
    insert(&mut response, header::ACCEPT_RANGES, "bytes");
    insert(&mut response, header::ETAG, &block.etag);
    insert(&mut response, HeaderName::from_static(digest::CONTENT_DIGEST), &content_digest);
    Ok(response)
}

async fn total_of(path: LocalPath, place: Place) -> Result<u64, ServeError> {
    let (file, sector) = (place.file, place.sector);
    let work = blocking("reading a sector file", move || files::read_block(&path.root, &place, 0, 0));
    let block = bounded(work).await??.map_err(|error| unreadable(file, sector, &error))?;
    Ok(block.map_or(0, |block| block.total_bytes))
}

fn unreadable(file: SectorFile, sector: SectorRef, error: &io::Error) -> ServeError {
    warn!(sector.sp = %sector.sp, sector.number = sector.number, error = %error,
        "failed to read {file} of {sector} for another machine");
    // A link, or a file where a directory belongs, is nothing of ours and so not there.
    let foreign = [Errno::LOOP, Errno::NOTDIR].map(Errno::raw_os_error);
    match error.raw_os_error() {
        _ if error.kind() == io::ErrorKind::NotFound => {
            ServeError::NotFound(format!("{file} of {sector} is not there"))
        }
        Some(code) if foreign.contains(&code) => ServeError::NotFound(format!("{file} of {sector} is not there")),
        _ => ServeError::Failed(format!("{file} of {sector} cannot be read: {error}")),
    }
}

/// One range of the form `bytes=A-B` or `bytes=A-`, as start and length.
fn parse_range(headers: &HeaderMap) -> Result<Option<(u64, u64)>, ServeError> {
    let Some(value) = headers.get(header::RANGE) else { return Ok(None) };
    let bad = || ServeError::Address("write the range like Range: bytes=0-8388607".to_owned());
    let text = value.to_str().ok().and_then(|text| text.strip_prefix("bytes=")).ok_or_else(bad)?;
    let (first, last) = text.split_once('-').ok_or_else(bad)?;
    let number = |digits: &str| {
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        if plain { digits.parse::<u64>().map_err(|_| bad()) } else { Err(bad()) }
    };
    let start = number(first)?;
    let length = match last {
        "" => BLOCK_BYTES,
        last => number(last)?.checked_sub(start).ok_or_else(bad)?.saturating_add(1),
    };
    Ok(Some((start, length)))
}

/// Removes one copy. Only a copy that the database has marked goes, and its mark goes with it: a token that is used again
/// later removes nothing.
async fn remove(
    State(shared): State<Arc<Shared>>,
    Path((kind, sector)): Path<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, ServeError> {
    let bearer = shared.authenticate(&headers)?;
    let Target { place, storage_id } = parse_target(&kind, &sector, None, query.as_deref())?;
    let Place { file, sector, name: _ } = place;
    bearer.allows(&Scope::Delete { path: storage_id.clone(), file, sector })?;
    match shared.storage.copy_state(sector, file, &storage_id).await? {
        CopyState::Going => {}
        CopyState::Unknown => {
            return Err(ServeError::NotFound(format!("{file} of {sector} is not known on {storage_id}")));
        }
        CopyState::Declared => {
            return Err(ServeError::InUse(format!(
                "{file} of {sector} on {storage_id} is in use; only a copy that was marked for removal can go"
            )));
        }
    }
    let (path, _) = shared.mounted(&storage_id).await?;
    shared.recent().remove(&(storage_id.clone(), file, sector));
    let target = path.file(file, sector);
    let removed: Result<(), FileError> = blocking("removing a sector file", move || durable::remove(&target)).await?;
    removed.map_err(|error| ServeError::Failed(error.classify().to_string()))?;
    shared.storage.forget_removed(sector, file, &storage_id).await?;
    info!(sector.sp = %sector.sp, sector.number = sector.number,
        "removed {file} of {sector} from {} for {}", path.root.display(), bearer.issuer);
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn vanilla_porep(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ServeError> {
    let bearer = shared.authenticate(&headers)?;
    let request: VanillaPorep = serde_json::from_slice(&body)
        .map_err(|error| ServeError::Address(format!("this is not a request for a vanilla proof: {error}")))?;
    bearer.allows(&Scope::Vanilla { sector: request.sector })?;
    let _turn = turn(&shared.proofs).await?;
    // Dropped when the asking side goes away; the proof process ends with it.
    let cancel = CancellationToken::new();
    let _cancel = cancel.clone().drop_guard();
    let sector = request.sector;
    info!(sector.sp = %sector.sp, sector.number = sector.number,
        "making the vanilla proof of {sector} for {}", bearer.issuer);
    match shared.storage.vanilla_porep_here(&shared.prover, &request, &cancel).await {
        Ok(vanilla_proof) => {
            let content_digest = digest::of(vanilla_proof.as_bytes());
            let mut response = Response::new(Body::from(vanilla_proof));
            insert(&mut response, header::CONTENT_TYPE, "application/json");
            insert(&mut response, HeaderName::from_static(digest::CONTENT_DIGEST), &content_digest);
            Ok(response)
        }
        Err(error) => {
            let failure: Failure = error.classify();
            warn!(sector.sp = %sector.sp, sector.number = sector.number, error = %failure,
                "failed to make the vanilla proof of {sector} for {}", bearer.issuer);
            Err(ServeError::Failed(failure.to_string()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Result<Option<(u64, u64)>, ServeError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(text).unwrap());
        parse_range(&headers)
    }

    #[test]
    fn one_plain_range_is_understood() {
        assert_eq!(parse_range(&HeaderMap::new()).unwrap(), None);
        for (text, expected) in [
            ("bytes=0-0", (0, 1)),
            ("bytes=5-9", (5, 5)),
            ("bytes=7-", (7, BLOCK_BYTES)),
            ("bytes=0-18446744073709551615", (0, u64::MAX)),
        ] {
            assert_eq!(range(text).unwrap(), Some(expected), "{text}");
        }
        for text in ["0-1", "bytes=", "bytes=-5", "bytes=9-5", "bytes=0-1,3-4", "bytes=+1-2", "bytes=a-b", "lines=0-1"]
        {
            assert!(matches!(range(text), Err(ServeError::Address(_))), "{text}");
        }
    }

    #[test]
    fn addresses_that_name_no_sector_file_are_refused() {
        let on = || Some("path=p");
        assert!(parse_target("sealed", "s-t01000-1", None, on()).is_ok());
        assert!(parse_target("cache", "s-t01000-1", Some("p_aux"), on()).is_ok());
        let refused = [
            ("..", "s-t01000-1", None),
            ("Sealed", "s-t01000-1", None),
            ("update", "s-t01000-1", None),
            ("sealed", "..", None),
            ("sealed", "../../etc/passwd", None),
            ("sealed", "/etc/passwd", None),
            ("sealed", "s-t01000-1/../s-t01000-2", None),
            ("sealed", "s-t01000-1\0", None),
            ("sealed", "s-t01000-18446744073709551616", None),
            ("sealed", "f01000:1", None),
            ("sealed", "fetching", None),
            ("sealed", "s-t01000-1", Some("p_aux")),
            ("cache", "s-t01000-1", Some("..")),
            ("cache", "s-t01000-1", Some("../../../etc/passwd")),
            ("cache", "s-t01000-1", Some("p_aux\0")),
        ];
        for (kind, sector, name) in refused {
            let outcome = parse_target(kind, sector, name, on());
            assert!(matches!(outcome, Err(ServeError::Address(_))), "{kind} {sector} {name:?}");
        }
        assert!(parse_target("sealed", "s-t01000-1", None, None).is_err());
    }
}
