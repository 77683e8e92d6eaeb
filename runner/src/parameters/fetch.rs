//! Fetching parameter files from a source into the folder of this machine.
//!
//! A file arrives under `NAME.part`, beside it its tag (`NAME.part.tag`, the ETag of what is being
//! fetched), and gets its name when its digest is right. What has arrived stays after a failure, also
//! of this process: the next try asks for the rest only, on condition that the tag is still the same.
//! Whoever brings a file holds its lock, so that machines which share the folder fetch it once.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use curio_proofs::params::{Adopted, ParamsError, ParamsFile, Set};
use reqwest::{Response, StatusCode, header};
use tokio::io::AsyncWriteExt;
use url::Url;

use super::part::{Part, PartError};
use super::progress::Step;
use super::source::Source;
use crate::storage::{BlockingError, blocking};

/// How long another process may bring a file without a new byte. Its lock goes when it ends, so that this is about one
/// that lives and hangs.
const STANDSTILL: Duration = Duration::from_secs(15 * 60);

/// Between two looks at what another process brings.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("failed to fetch {url}")]
    Broken {
        url: Url,
        #[source]
        source: reqwest::Error,
    },
    #[error("{url} ended after {have_bytes} of {total_bytes} bytes")]
    CutOff { url: Url, have_bytes: u64, total_bytes: u64 },
    #[error("the parameter source is not ready: {0}")]
    NotYet(String),
    #[error("{0} does not exist; put the published file there, or name another source")]
    NotThere(Url),
    #[error("{url} answered {status}")]
    Status { url: Url, status: StatusCode },
    #[error("{url} answered with a range that was not asked for")]
    Range { url: Url },
    #[error("{url} has a file with digest {actual} instead of {expected}; nothing of it was kept; correct the source")]
    WrongContent { url: Url, expected: String, actual: String },
    #[error("another process has been fetching {name} for {} minutes without a new byte; end it", waited.as_secs() / 60)]
    Standstill { name: String, waited: Duration },
    #[error(transparent)]
    Part(#[from] PartError),
    #[error(transparent)]
    Params(#[from] ParamsError),
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

impl FetchError {
    /// Whether the same call may succeed in some seconds.
    fn may_pass(&self) -> bool {
        match self {
            FetchError::Broken { .. } | FetchError::CutOff { .. } | FetchError::NotYet(_) => true,
            FetchError::Status { status, .. } => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            FetchError::NotThere(_)
            | FetchError::Range { .. }
            | FetchError::WrongContent { .. }
            | FetchError::Standstill { .. }
            | FetchError::Part(_)
            | FetchError::Params(_)
            | FetchError::Blocking(_) => false,
        }
    }

    /// Whether fetching anew would bring the same for many bytes, until a person does something.
    pub fn is_lasting(&self) -> bool {
        matches!(self, FetchError::WrongContent { .. })
    }
}

/// Brings the files of a set into `dir`. Files that are whole are left alone.
///
/// # Errors
/// What is wrong with the source, the folder or a file, after several tries where trying may help.
pub async fn fetch(
    source: &Source,
    dir: &Path,
    set: Set,
    told: &mut (dyn FnMut(Step) + Send),
) -> Result<(), FetchError> {
    for file in set.files() {
        fetch_file(source, dir, &file, told).await?;
    }
    Ok(())
}

/// Brings one file, unless it is there.
///
/// # Errors
/// As [`fetch`].
pub async fn fetch_file(
    source: &Source,
    dir: &Path,
    file: &ParamsFile,
    told: &mut (dyn FnMut(Step) + Send),
) -> Result<(), FetchError> {
    if is_whole(dir, file).await? {
        return Ok(());
    }
    let _lock = lock(dir, file, told).await?;
    // Whoever had the lock before may have brought it.
    if is_whole(dir, file).await? {
        return Ok(());
    }
    let part = Part::of(dir, file);
    let url = source.url(&file.name);
    receive(source, &url, &part, told).await?;
    told(Step::Checks);
    let adopted = {
        let (dir, file, part) = (dir.to_owned(), file.clone(), part.path().to_owned());
        blocking("checking a parameter file", move || file.adopt(&dir, &part)).await??
    };
    part.forget().await?;
    match adopted {
        Adopted::Kept => Ok(()),
        Adopted::Refused { actual } => Err(FetchError::WrongContent { url, expected: file.expected(), actual }),
    }
}

async fn is_whole(dir: &Path, file: &ParamsFile) -> Result<bool, FetchError> {
    let (dir, file) = (dir.to_owned(), file.clone());
    match blocking("checking a parameter file", move || file.check(&dir)).await? {
        Ok(_) => Ok(true),
        Err(ParamsError::Missing { .. } | ParamsError::NotGenerated { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the lock as long as whoever has it gets on.
async fn lock(dir: &Path, file: &ParamsFile, told: &mut (dyn FnMut(Step) + Send)) -> Result<File, FetchError> {
    let part = Part::of(dir, file);
    let (mut seen_bytes, mut since) = (0, Instant::now());
    loop {
        let taken = {
            let (dir, file) = (dir.to_owned(), file.clone());
            blocking("locking a parameter file", move || file.try_lock(&dir)).await??
        };
        if let Some(lock) = taken {
            return Ok(lock);
        }
        let have_bytes = part.size().await;
        if have_bytes != seen_bytes {
            (seen_bytes, since) = (have_bytes, Instant::now());
        }
        if since.elapsed() > STANDSTILL {
            return Err(FetchError::Standstill { name: file.name.clone(), waited: since.elapsed() });
        }
        told(Step::Waits { have_bytes });
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

/// Tries until the whole file has arrived.
async fn receive(
    source: &Source,
    url: &Url,
    part: &Part,
    told: &mut (dyn FnMut(Step) + Send),
) -> Result<(), FetchError> {
    let (mut pause, mut fruitless) = (source.pace.first, 0);
    loop {
        let before = part.size().await;
        let Err(error) = receive_rest(source, url, part, told).await else { return Ok(()) };
        if !error.may_pass() {
            return Err(error);
        }
        if part.size().await > before {
            (pause, fruitless) = (source.pace.first, 0);
        } else {
            fruitless += 1;
        }
        if fruitless == source.pace.fruitless_tries {
            return Err(error);
        }
        told(Step::TriesAgain { cause: crate::cli::sentence(&error), pause });
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(source.pace.longest);
    }
}

/// One try: asks for what is missing and appends it.
async fn receive_rest(
    source: &Source,
    url: &Url,
    part: &Part,
    told: &mut (dyn FnMut(Step) + Send),
) -> Result<(), FetchError> {
    let arrived = part.arrived().await;
    let mut request = source.client.get(url.clone());
    if let Some(arrived) = &arrived {
        let range = format!("bytes={}-", arrived.size_bytes);
        request = request.header(header::RANGE, range).header(header::IF_RANGE, &arrived.tag);
    }
    let broken = |source: reqwest::Error| FetchError::Broken { url: url.clone(), source: source.without_url() };
    let mut response = request.send().await.map_err(broken)?;
    let asked_from = arrived.as_ref().map_or(0, |arrived| arrived.size_bytes);
    let (from, total_bytes) = match (response.status(), content_range(&response)) {
        (StatusCode::OK, _) => (0, response.content_length()),
        (StatusCode::PARTIAL_CONTENT, Some(ContentRange { first: Some(first), total_bytes }))
            if first == asked_from =>
        {
            (first, Some(total_bytes))
        }
        // All of it has arrived, and nothing came of it: the process ended before it could check the file.
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(range)) if range.total_bytes == asked_from => return Ok(()),
        (StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE, _) => {
            part.forget().await?;
            return Err(FetchError::Range { url: url.clone() });
        }
        (StatusCode::NOT_FOUND, _) => return Err(FetchError::NotThere(url.clone())),
        (StatusCode::SERVICE_UNAVAILABLE, _) => {
            let text = response.text().await.unwrap_or_default();
            return Err(FetchError::NotYet(text.trim().chars().take(200).collect()));
        }
        (status, _) => return Err(FetchError::Status { url: url.clone(), status }),
    };
    if let Some(total_bytes) = total_bytes {
        part.check_room(total_bytes - from)?;
    }
    let mut writer = part.open_at(from, strong_tag(&response)).await?;
    let mut have_bytes = from;
    let cut = loop {
        if let Some(total_bytes) = total_bytes {
            told(Step::Receives { have_bytes, total_bytes });
        }
        match response.chunk().await {
            Ok(Some(bytes)) => {
                writer.write_all(&bytes).await.map_err(|source| part.failed("write", source))?;
                have_bytes += bytes.len() as u64;
            }
            Ok(None) => break None,
            Err(error) => break Some(broken(error)),
        }
    };
    // What has arrived counts, however the transfer ended.
    writer.shutdown().await.map_err(|source| part.failed("write", source))?;
    match (cut, total_bytes) {
        (Some(error), _) => Err(error),
        (None, Some(total_bytes)) if have_bytes != total_bytes => {
            Err(FetchError::CutOff { url: url.clone(), have_bytes, total_bytes })
        }
        (None, _) => Ok(()),
    }
}

/// The tag of the content, if equal tags mean equal bytes.
fn strong_tag(response: &Response) -> Option<String> {
    let tag = response.headers().get(header::ETAG)?.to_str().ok()?;
    (tag.starts_with('"') && tag.len() > 2).then(|| tag.to_owned())
}

/// `Content-Range: bytes FIRST-LAST/TOTAL` or `bytes */TOTAL`.
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    first: Option<u64>,
    total_bytes: u64,
}

fn content_range(response: &Response) -> Option<ContentRange> {
    parse_content_range(response.headers().get(header::CONTENT_RANGE)?.to_str().ok()?)
}

fn parse_content_range(text: &str) -> Option<ContentRange> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let total_bytes = total.parse().ok()?;
    let first = match range {
        "*" => None,
        range => {
            let (first, last) = range.split_once('-')?;
            let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
            if first > last || last >= total_bytes {
                return None;
            }
            Some(first)
        }
    };
    Some(ContentRange { first, total_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_and_nonsense_is_not() {
        for (text, expected) in [
            ("bytes 5-9/20", Some(ContentRange { first: Some(5), total_bytes: 20 })),
            ("bytes */20", Some(ContentRange { first: None, total_bytes: 20 })),
            ("bytes 9-5/20", None),
            ("bytes 5-20/20", None),
            ("bytes 5-9/*", None),
            ("items 5-9/20", None),
        ] {
            assert_eq!(parse_content_range(text), expected, "{text}");
        }
    }
}
