//! Serving a parameter folder over HTTP, for runners that fetch from it: `curio params serve`.
//!
//! Reads the folder; writes only what it makes itself. Served are the files of known names that are
//! whole, and nothing else of the folder. A file's ETag is its digest, so that an interrupted transfer
//! goes on from where it was also after a restart of this server. (The file service of `tower-http`
//! knows neither ETag nor If-Range; hence one range of our own.)

use std::collections::BTreeMap;
use std::io::SeekFrom;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use curio_core::SealProof;
use curio_proofs::params::{Set, Whole};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::net::TcpListener;
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{INDEX, Index, Offer, OfferedFile, Parameters, Standing, about};
use crate::cli::output::bytes;
use crate::prove::Prover;
use crate::storage::blocking;

/// Bytes read from disk at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Between two tries to make what could not be made.
const RETRY: Duration = Duration::from_secs(10);

/// What a client that comes too early is told to wait.
const RETRY_AFTER_SECONDS: &str = "5";

/// The folder, and what of it is served. A clone is the same.
#[derive(Clone)]
pub struct Shelf {
    parameters: Parameters,
    /// Sets that are made when they are missing.
    make: Vec<Set>,
    /// Files that were found whole.
    whole: Arc<Mutex<WholeFiles>>,
}

/// Whole files by set, each with its name.
type WholeFiles = BTreeMap<Set, Vec<(String, Whole)>>;

impl Shelf {
    /// Serves nothing before [`Shelf::fill`] has found it. `make` are sizes whose sets are made when they are missing.
    pub fn new(parameters: Parameters, make: &[SealProof]) -> Shelf {
        let make = make.iter().copied().flat_map(Set::all_of).collect();
        Shelf { parameters, make, whole: Arc::default() }
    }

    /// Checks the files of the folder and makes those that are to be made, until all are there or cancelled.
    pub async fn fill(self, prover: Prover, cancelled: CancellationToken) {
        let others = SealProof::ALL.into_iter().flat_map(Set::all_of).filter(|set| !self.make.contains(set));
        for set in others.filter(|set| set.params().path(self.parameters.dir()).exists()) {
            self.put_out(set).await;
        }
        for set in self.make.clone() {
            while !self.whole().contains_key(&set) && !cancelled.is_cancelled() {
                self.parameters.bring(set, &prover, &cancelled).await;
                if self.parameters.standing(set) == Some(Standing::Ready) {
                    self.put_out(set).await;
                    continue;
                }
                tokio::select! {
                    () = cancelled.cancelled() => {}
                    () = tokio::time::sleep(RETRY) => {}
                }
            }
        }
    }

    /// Serves the files of a set from now on, if they are whole.
    async fn put_out(&self, set: Set) {
        let dir = self.parameters.dir().to_owned();
        let checked = blocking("checking proof parameters", move || {
            let files = set.files().into_iter();
            files.map(|file| file.check(&dir).map(|whole| (file.name, whole))).collect::<Result<Vec<_>, _>>()
        });
        match checked.await {
            Ok(Ok(files)) => {
                let total = files.iter().map(|(_, whole)| whole.size_bytes).sum();
                info!("parameters for {} are served ({})", about(set), bytes(total));
                self.whole().insert(set, files);
            }
            Ok(Err(error)) => warn!("parameters for {} are not served: {error}", about(set)),
            Err(error) => warn!("parameters for {} are not served: {error}", about(set)),
        }
    }

    fn index(&self) -> Index {
        let whole = self.whole();
        let mut offers = BTreeMap::new();
        for set in self.make.iter().chain(whole.keys()) {
            let sector_size = set.proof.sector_size();
            let offer = offers.entry(sector_size).or_insert(Offer { sector_size, ready: true, files: Vec::new() });
            offer.ready &= whole.contains_key(set);
        }
        for (set, files) in whole.iter() {
            let offered = files.iter().map(|(name, whole)| OfferedFile {
                name: name.clone(),
                digest: whole.digest.clone(),
                size_bytes: whole.size_bytes,
            });
            offers.entry(set.proof.sector_size()).and_modify(|offer| offer.files.extend(offered));
        }
        Index { sectors: offers.into_values().collect() }
    }

    /// What is not there yet, in a sentence.
    fn waits_for(&self) -> Option<String> {
        let missing = *self.make.iter().find(|set| !self.whole().contains_key(set))?;
        let standing = match self.parameters.standing(missing) {
            Some(Standing::Coming(words)) => words,
            Some(Standing::Unusable(problem)) => problem,
            Some(Standing::Ready) | None => "being checked".to_owned(),
        };
        Some(format!("parameters for {}: {standing}", about(missing)))
    }

    fn find(&self, name: &str) -> Found {
        let whole = self.whole();
        match whole.values().flatten().find(|(known, _)| known == name) {
            Some((_, whole)) => Found::Whole(whole.clone()),
            None if self.make.iter().any(|set| set.files().iter().any(|file| file.name == name)) => Found::NotYet,
            None => Found::Unknown,
        }
    }

    fn whole(&self) -> MutexGuard<'_, WholeFiles> {
        // The table stays usable after a panic elsewhere.
        self.whole.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

enum Found {
    Whole(Whole),
    NotYet,
    Unknown,
}

/// Serves until cancelled.
///
/// # Errors
/// The socket stopped accepting.
pub async fn serve(listener: TcpListener, shelf: Shelf, cancelled: CancellationToken) -> std::io::Result<()> {
    crate::http::serve(listener, router(shelf), cancelled).await
}

fn router(shelf: Shelf) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route(&format!("/{INDEX}"), get(async |State(shelf): State<Shelf>| Json(shelf.index())))
        .route("/{name}", get(file))
        .with_state(shelf)
}

async fn ready(State(shelf): State<Shelf>) -> Response {
    match shelf.waits_for() {
        None => "ready\n".into_response(),
        Some(sentence) => not_yet(&sentence),
    }
}

fn not_yet(sentence: &str) -> Response {
    let retry = [(header::RETRY_AFTER, RETRY_AFTER_SECONDS)];
    (StatusCode::SERVICE_UNAVAILABLE, retry, format!("{sentence}\n")).into_response()
}

/// One file. The name is looked up among those that are served and never used as a path before.
async fn file(State(shelf): State<Shelf>, Path(name): Path<String>, headers: HeaderMap) -> Response {
    let whole = match shelf.find(&name) {
        Found::Whole(whole) => whole,
        Found::NotYet => return not_yet(&shelf.waits_for().unwrap_or_else(|| "being checked".to_owned())),
        Found::Unknown => return (StatusCode::NOT_FOUND, "no such parameter file is served here\n").into_response(),
    };
    let total_bytes = whole.size_bytes;
    let tag = format!("\"{}\"", whole.digest);
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    if text(header::IF_NONE_MATCH) == Some(&tag) {
        return (StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response();
    }
    // A client that has part of another state of the file gets all of this one.
    let range = text(header::RANGE).filter(|_| text(header::IF_RANGE).is_none_or(|wanted| wanted == tag));
    let (status, from, length) = match range.map_or(Asked::All, |range| parse_range(range, total_bytes)) {
        Asked::All => (StatusCode::OK, 0, total_bytes),
        Asked::Part { first, length } => (StatusCode::PARTIAL_CONTENT, first, length),
        Asked::Nothing => {
            let range = [(header::CONTENT_RANGE, format!("bytes */{total_bytes}")), (header::ETAG, tag)];
            return (StatusCode::RANGE_NOT_SATISFIABLE, range).into_response();
        }
    };
    let opened = async {
        let mut file = tokio::fs::File::open(shelf.parameters.dir().join(&name)).await?;
        file.seek(SeekFrom::Start(from)).await?;
        std::io::Result::Ok(file)
    };
    let file = match opened.await {
        Ok(file) => file,
        Err(error) => {
            warn!("{name} cannot be served: {error}");
            return (StatusCode::INTERNAL_SERVER_ERROR, "the file cannot be read\n").into_response();
        }
    };
    info!("sends {name} from byte {from} on");
    let mut answer = Body::from_stream(ReaderStream::with_capacity(file.take(length), CHUNK_BYTES)).into_response();
    *answer.status_mut() = status;
    let mut set = |name: HeaderName, value: String| {
        answer.headers_mut().insert(name, value.parse().expect("digits and hexadecimal digits stand in a header"));
    };
    set(header::CONTENT_TYPE, "application/octet-stream".to_owned());
    set(header::CONTENT_LENGTH, length.to_string());
    set(header::ACCEPT_RANGES, "bytes".to_owned());
    set(header::ETAG, tag);
    if status == StatusCode::PARTIAL_CONTENT {
        set(header::CONTENT_RANGE, format!("bytes {from}-{}/{total_bytes}", from + length - 1));
    }
    answer
}

/// Which bytes of a file a client wants.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    Part {
        first: u64,
        length: u64,
    },
    /// A range that begins behind the end.
    Nothing,
}

/// `bytes=A-` and `bytes=A-B`. Other forms are answered with the whole file, which is always allowed.
fn parse_range(text: &str, total_bytes: u64) -> Asked {
    let number = |digits: &str| digits.parse::<u64>().ok().filter(|_| !digits.starts_with('+'));
    let Some((first, last)) = text.strip_prefix("bytes=").and_then(|range| range.split_once('-')) else {
        return Asked::All;
    };
    let (Some(first), Some(last)) = (number(first), if last.is_empty() { Some(u64::MAX) } else { number(last) }) else {
        return Asked::All;
    };
    if last < first {
        return Asked::All;
    }
    match total_bytes.checked_sub(first) {
        None | Some(0) => Asked::Nothing,
        Some(rest) => Asked::Part { first, length: rest.min((last - first).saturating_add(1)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_what_is_left_of_it_in_the_file() {
        let part = |first, length| Asked::Part { first, length };
        for (text, asked) in [
            ("bytes=0-", part(0, 10)),
            ("bytes=4-", part(4, 6)),
            ("bytes=4-4", part(4, 1)),
            ("bytes=4-100", part(4, 6)),
            ("bytes=10-", Asked::Nothing),
            ("bytes=5-4", Asked::All),
            ("bytes=-4", Asked::All),
            ("bytes=0-1,4-5", Asked::All),
            ("bytes=+1-", Asked::All),
            ("lines=0-", Asked::All),
        ] {
            assert_eq!(parse_range(text, 10), asked, "{text}");
        }
        assert_eq!(parse_range("bytes=0-", 0), Asked::Nothing);
    }
}
