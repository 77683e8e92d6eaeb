//! The data of a piece: a local file, or a download beside the sector's files; its size and commitment
//! are checked before anything is built from it.

use std::path::{Path, PathBuf};

use curio_chain::Cid;
use curio_chain::message::unsealed_cid;
use curio_core::{Classify, Failure};
use curio_proofs::PieceCommitment;
use curio_proofs::child::{Request, Response};
use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::pipeline::Piece;
use crate::prove::{ProveError, Prover};

/// A piece's data in a file.
#[derive(Debug)]
pub struct Fetched {
    pub path: PathBuf,
    pub raw_size: u64,
    pub padded_size: u64,
    /// Downloads are removed with the value; a person's own file is not.
    is_download: bool,
}

impl Drop for Fetched {
    fn drop(&mut self) {
        if self.is_download {
            // What stays behind is removed with the sector's other temporary files.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The data is not to be had, or is not what was promised.
#[derive(Debug, thiserror::Error)]
pub enum PieceDataError {
    #[error("'{url}' is not an address of piece data; write a path, file:///PATH or http(s)://...")]
    Url { url: String },
    #[error("failed to read piece file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a file", path.display())]
    NotAFile { path: PathBuf },
    #[error("failed to write the download {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to download {url}")]
    Download {
        url: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} answered {status}")]
    Status { url: String, status: u16 },
    #[error("{url} has {actual} bytes, and {expected} were promised")]
    Size { url: String, expected: u64, actual: u64 },
    #[error("the data at {url} has the piece CID {actual}, and {expected} was promised")]
    Commitment { url: String, expected: Box<Cid>, actual: Box<Cid> },
    #[error("the download of {url} was stopped")]
    Stopped { url: String },
}

impl PieceDataError {
    /// Whether looking again cannot find anything else.
    pub fn is_final(&self) -> bool {
        match self {
            PieceDataError::Url { .. } | PieceDataError::Size { .. } | PieceDataError::Commitment { .. } => true,
            PieceDataError::Read { .. }
            | PieceDataError::NotAFile { .. }
            | PieceDataError::Write { .. }
            | PieceDataError::Download { .. }
            | PieceDataError::Status { .. }
            | PieceDataError::Stopped { .. } => false,
        }
    }
}

impl Classify for PieceDataError {
    fn classify(self) -> Failure {
        if matches!(self, PieceDataError::Stopped { .. }) {
            return Failure::Stopping;
        }
        match self.is_final() {
            true => Failure::Permanent { reason: "piece-mismatch", cause: Box::new(self) },
            false => Failure::Retry(Box::new(self)),
        }
    }
}

/// Makes the data of a piece readable as a file; a download goes to `target`.
///
/// # Errors
/// [`PieceDataError`].
pub async fn fetch(
    http: &reqwest::Client,
    piece: &Piece,
    target: &Path,
    cancelled: &CancellationToken,
) -> Result<Fetched, PieceDataError> {
    let mut fetched = bring(http, &piece.url, Some(piece.raw_size), target, cancelled).await?;
    fetched.padded_size = piece.padded_size;
    Ok(fetched)
}

/// [`fetch`] by address alone. With `expected_size` (bytes) any other size is refused, and a download stops as
/// soon as it is longer. `padded_size` of the result is 0: only the commitment tells it.
///
/// # Errors
/// [`PieceDataError`].
pub async fn bring(
    http: &reqwest::Client,
    url: &str,
    expected_size: Option<u64>,
    target: &Path,
    cancelled: &CancellationToken,
) -> Result<Fetched, PieceDataError> {
    let parsed = Url::parse(url).map_err(|_| PieceDataError::Url { url: url.to_owned() })?;
    let (path, raw_size, is_download) = match parsed.scheme() {
        "file" => {
            let path = parsed.to_file_path().map_err(|()| PieceDataError::Url { url: url.to_owned() })?;
            let size = file_size(&path).await?;
            (path, size, false)
        }
        "http" | "https" => {
            let downloaded = tokio::select! {
                downloaded = download(http, parsed, expected_size, target) => downloaded,
                () = cancelled.cancelled() => Err(PieceDataError::Stopped { url: url.to_owned() }),
            };
            match downloaded {
                Ok(size) => (target.to_owned(), size, true),
                Err(error) => {
                    let _ = tokio::fs::remove_file(target).await;
                    return Err(error);
                }
            }
        }
        _ => return Err(PieceDataError::Url { url: url.to_owned() }),
    };
    let fetched = Fetched { path, raw_size, padded_size: 0, is_download };
    match expected_size {
        Some(expected) if expected != raw_size => {
            Err(PieceDataError::Size { url: url.to_owned(), expected, actual: raw_size })
        }
        _ => Ok(fetched),
    }
}

async fn file_size(path: &Path) -> Result<u64, PieceDataError> {
    let found =
        tokio::fs::metadata(path).await.map_err(|source| PieceDataError::Read { path: path.to_owned(), source })?;
    if !found.is_file() {
        return Err(PieceDataError::NotAFile { path: path.to_owned() });
    }
    Ok(found.len())
}

async fn download(http: &reqwest::Client, url: Url, limit: Option<u64>, target: &Path) -> Result<u64, PieceDataError> {
    let text = url.to_string();
    let failed = |source| PieceDataError::Download { url: text.clone(), source };
    let write = |source| PieceDataError::Write { path: target.to_owned(), source };
    let answer = http.get(url).send().await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(PieceDataError::Status { url: text, status: answer.status().as_u16() });
    }
    let mut file = tokio::fs::File::create(target).await.map_err(write)?;
    let mut body = answer.bytes_stream();
    let mut size = 0u64;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(failed)?;
        size += chunk.len() as u64;
        if let Some(expected) = limit.filter(|limit| size > *limit) {
            return Err(PieceDataError::Size { url: text, expected, actual: size });
        }
        file.write_all(&chunk).await.map_err(write)?;
    }
    file.flush().await.map_err(write)?;
    Ok(size)
}

/// Hashes the data in a child process.
///
/// # Errors
/// What the child said.
pub async fn commitment(
    prover: &Prover,
    data: &Fetched,
    cancelled: &CancellationToken,
) -> Result<PieceCommitment, ProveError> {
    let request = Request::PieceCommitment { path: data.path.clone(), raw_size: data.raw_size };
    match prover.call(&request, cancelled).await? {
        Response::PieceCommitment(commitment) => Ok(commitment),
        _ => Err(ProveError::Unexpected("something else than a piece commitment")),
    }
}

/// Checks that the data is the piece's.
///
/// # Errors
/// [`PieceDataError::Commitment`], permanently, when it is not.
pub async fn check(
    prover: &Prover,
    piece: &Piece,
    data: &Fetched,
    cancelled: &CancellationToken,
) -> Result<(), Failure> {
    let actual = unsealed_cid(&commitment(prover, data, cancelled).await?.comm_p);
    if actual != piece.cid {
        return Err(PieceDataError::Commitment {
            url: piece.url.clone(),
            expected: Box::new(piece.cid),
            actual: Box::new(actual),
        }
        .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http() -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::new()
    }

    async fn bring_file(url: &str, expected: Option<u64>) -> Result<Fetched, PieceDataError> {
        bring(&http(), url, expected, Path::new("/nonexistent"), &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn a_local_file_is_read_where_it_lies_and_stays() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("data");
        std::fs::write(&path, b"12345").expect("the file is written");
        let url = Url::from_file_path(&path).expect("an absolute path").to_string();
        let fetched = bring_file(&url, Some(5)).await.expect("the file is there");
        assert_eq!((fetched.path.as_path(), fetched.raw_size), (path.as_path(), 5));
        drop(fetched);
        assert!(path.exists());
        assert!(matches!(bring_file(&url, Some(6)).await, Err(PieceDataError::Size { expected: 6, actual: 5, .. })));
    }

    #[tokio::test]
    async fn what_is_no_file_is_refused() {
        assert!(matches!(bring_file("file:///no/such/file", None).await, Err(PieceDataError::Read { .. })));
        assert!(matches!(bring_file("file:///tmp", None).await, Err(PieceDataError::NotAFile { .. })));
        assert!(matches!(bring_file("ftp://host/file", None).await, Err(PieceDataError::Url { .. })));
        assert!(matches!(bring_file("data.bin", None).await, Err(PieceDataError::Url { .. })));
    }

    #[tokio::test]
    async fn a_download_that_is_too_long_stops_and_leaves_nothing() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/data", listener.local_addr().expect("an address"));
        let routes = axum::Router::new().route("/data", axum::routing::get(|| async { "0123456789" }));
        let server = tokio::spawn(async move { axum::serve(listener, routes).await });
        let dir = tempfile::tempdir().expect("a temporary folder");
        let target = dir.path().join("download");
        let cancelled = CancellationToken::new();
        let short = bring(&http(), &url, Some(4), &target, &cancelled).await;
        assert!(matches!(short, Err(PieceDataError::Size { expected: 4, .. })), "{short:?}");
        assert!(!target.exists());
        let whole = bring(&http(), &url, Some(10), &target, &cancelled).await.expect("the download is whole");
        assert_eq!(std::fs::read(&whole.path).expect("the file is there"), b"0123456789");
        drop(whole);
        assert!(!target.exists());
        server.abort();
    }
}
