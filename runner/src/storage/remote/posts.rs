//! Vanilla PoSts over `/remote`: one request for many sectors, and a line for each as soon as it is made.
//!
//! A line is the digest of an outcome, a tab, and the outcome as JSON. The asking side gives up after a silence,
//! keeps what has come, and goes away; the proof process of the serving side ends with the connection.

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method};
use axum::response::{IntoResponse, Response};
use curio_core::{Classify, Failure};
use curio_proofs::child::{Progress, Request, VanillaPost};
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{info, warn};

use super::client::{Peer, Remote, RemoteError, nonsense, transport};
use super::digest;
use super::server::{ServeError, Shared, TURN_TIMEOUT};
use super::token::Scope;
use crate::prove::Prover;
use crate::storage::posts::{PostLimits, VanillaOutcomes, VanillaPosts, on_path};

/// Requests served at once; each is a child process.
pub(super) const AT_ONCE: usize = 16;

/// Most bytes of a request: a partition of 2349 sectors with 10 challenges each takes 600 KB.
pub(super) const BODY_LIMIT_BYTES: usize = 4 << 20;

/// Most bytes of a line: 66 challenges of a 64 GiB sector take 300 KB.
const LINE_LIMIT_BYTES: usize = 4 << 20;

/// What is asked for.
#[derive(Serialize, Deserialize)]
struct Asked {
    #[serde(flatten)]
    posts: VanillaPosts,
    /// Sectors to read at once.
    parallel: u32,
}

fn write_line(outcome: &VanillaPost) -> Bytes {
    let json = serde_json::to_string(outcome).expect("numbers, bytes and text always serialise");
    format!("{}\t{json}\n", digest::of(json.as_bytes())).into()
}

fn read_line(line: &[u8]) -> Result<VanillaPost, String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    let (digest, json) = text.split_once('\t').ok_or("a line without a digest")?;
    if !digest::matches(Some(digest), json.as_bytes()) {
        return Err("a line with a wrong digest".to_owned());
    }
    serde_json::from_str(json).map_err(|error| error.to_string())
}

impl Remote {
    /// Vanilla PoSts from one machine. What it has not answered within the limits fails with a sentence.
    ///
    /// # Errors
    /// No answer at all.
    pub(in crate::storage) async fn vanilla_posts(
        &self,
        peer: &Peer,
        posts: &VanillaPosts,
        limits: PostLimits,
    ) -> Result<VanillaOutcomes, RemoteError> {
        let until = Instant::now() + limits.whole;
        let asked = Asked { posts: posts.clone(), parallel: limits.parallel };
        let body = serde_json::to_vec(&asked).expect("numbers and hex always serialise");
        let scope = Scope::Posts { body: digest::of(&body) };
        let request = self.request(peer, Method::POST, "/remote/vanilla/post", scope, limits.whole)?.body(body);
        let silent = format!("{} did not answer within {:?}", peer.machine, limits.single.min(limits.whole));
        let due = || until.min(Instant::now() + limits.single);
        let mut outcomes = VanillaOutcomes::new();
        let mut ended = "was not answered";
        match timeout_at(due(), self.send(peer, request)).await {
            Err(_) => ended = &silent,
            Ok(answer) => {
                let mut lines = Lines { answer: answer?, buffer: Vec::new() };
                loop {
                    match timeout_at(due(), lines.next(peer)).await {
                        Ok(Ok(Some(VanillaPost { number, outcome }))) => drop(outcomes.insert(number, outcome)),
                        Ok(Ok(None)) => break,
                        Ok(Err(error)) if outcomes.is_empty() => return Err(error),
                        // What came before the connection broke is whole.
                        Ok(Err(error)) => {
                            warn!("{} broke off: {}", peer.machine, Failure::Retry(Box::new(error)));
                            break;
                        }
                        Err(_) => {
                            ended = &silent;
                            break;
                        }
                    }
                }
            }
        }
        let asked = posts.sectors.iter().map(|sector| sector.number);
        Ok(asked.map(|number| (number, outcomes.remove(&number).unwrap_or_else(|| Err(ended.to_owned())))).collect())
    }
}

/// An answer, cut into lines.
struct Lines {
    answer: reqwest::Response,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line; none at the end. Bears being dropped between two chunks.
    async fn next(&mut self, peer: &Peer) -> Result<Option<VanillaPost>, RemoteError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return read_line(&line[..end]).map(Some).map_err(|what| nonsense(peer, what));
            }
            if self.buffer.len() > LINE_LIMIT_BYTES {
                return Err(nonsense(peer, format!("a line of more than {LINE_LIMIT_BYTES} bytes")));
            }
            match self.answer.chunk().await.map_err(|source| transport(peer, source))? {
                Some(chunk) => self.buffer.extend_from_slice(&chunk),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(nonsense(peer, "half a line".to_owned())),
            }
        }
    }
}

/// Makes vanilla PoSts of sectors on paths of this machine, for another one.
pub(super) async fn serve(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ServeError> {
    let bearer = shared.authenticate(&headers)?;
    bearer.allows(&Scope::Posts { body: digest::of(&body) })?;
    let Asked { posts, parallel } = serde_json::from_slice(&body)
        .map_err(|error| ServeError::Address(format!("this is not a request for vanilla PoSts: {error}")))?;
    let turn = match timeout(TURN_TIMEOUT, shared.posts.clone().acquire_owned()).await {
        Ok(Ok(turn)) => turn,
        Ok(Err(_)) | Err(_) => return Err(ServeError::Busy),
    };
    let VanillaPosts { kind, proof, sp, sectors } = posts;
    let numbers: Vec<u64> = sectors.iter().map(|sector| sector.number).collect();
    let places = shared.storage.places_of(sp, &numbers).await?;
    info!(sp = %sp, "making vanilla PoSts of {} sectors of {sp} for {}", numbers.len(), bearer.issuer);
    // One for each sector, so that there is always room.
    let (lines, receiver) = mpsc::channel(sectors.len().max(1));
    let mut here = Vec::with_capacity(sectors.len());
    for sector in &sectors {
        match places.here(sector.number) {
            Some(path) => here.push(on_path(path, sp, sector)),
            None => {
                let sentence = format!("{} reaches no path with its sealed file and cache", shared.storage.machine());
                let _ = lines.try_send(write_line(&VanillaPost { number: sector.number, outcome: Err(sentence) }));
            }
        }
    }
    let cancel = CancellationToken::new();
    let answer = Answer { receiver, _cancel: cancel.clone().drop_guard(), _turn: turn };
    if !here.is_empty() {
        let request = Request::VanillaPosts { kind, proof, sp, sectors: here, parallel };
        tokio::spawn(make(shared.prover.clone(), request, lines, cancel));
    }
    let lines = stream::unfold(answer, |mut answer| async move {
        let line = answer.receiver.recv().await?;
        Some((Ok::<_, Infallible>(line), answer))
    });
    Ok(Body::from_stream(lines).into_response())
}

/// Lives as long as the connection; dropping it ends the proof process.
struct Answer {
    receiver: mpsc::Receiver<Bytes>,
    _cancel: DropGuard,
    _turn: OwnedSemaphorePermit,
}

/// Ends with the proof process, which ends when cancelled.
async fn make(prover: Prover, request: Request, lines: mpsc::Sender<Bytes>, cancel: CancellationToken) {
    let made = prover.call_watched(&request, &cancel, |progress| {
        if let Progress::VanillaPost(outcome) = progress {
            let _ = lines.try_send(write_line(&outcome));
        }
    });
    match made.await.map_err(Classify::classify) {
        Ok(_) | Err(Failure::Stopping) => {}
        Err(failure) => warn!("failed to make vanilla PoSts for another machine: {failure}"),
    }
}

#[cfg(test)]
mod tests {
    use curio_core::{SealProof, SpId};
    use curio_proofs::PostKind;

    use super::*;
    use crate::storage::ChallengedSector;

    #[test]
    fn a_request_for_as_many_sectors_as_may_be_asked_for_is_taken() {
        let challenged =
            |number| ChallengedSector { number, comm_r: [255; 32], challenges: vec![u64::from(u32::MAX); 10] };
        let first = u64::from(u32::MAX);
        let sectors = (first..).take(VanillaPosts::MOST_SECTORS).map(challenged).collect();
        let proof = SealProof::StackedDrg64GiBV1_1;
        let posts = VanillaPosts { kind: PostKind::Window, proof, sp: SpId(first), sectors };
        let body = serde_json::to_vec(&Asked { posts, parallel: 1 }).expect("numbers and hex always serialise");
        assert!(body.len() < BODY_LIMIT_BYTES, "{} bytes", body.len());
    }

    #[test]
    fn a_line_is_read_as_it_is_written_and_no_other() {
        let outcome = VanillaPost { number: 7, outcome: Ok(vec![1, 2, 3]) };
        let line = write_line(&outcome);
        let text = &line[..line.len() - 1];
        assert_eq!(read_line(text).map(|read| (read.number, read.outcome)), Ok((7, Ok(vec![1, 2, 3]))));
        let mut damaged = text.to_vec();
        *damaged.last_mut().expect("a line has bytes") = b' ';
        assert_eq!(read_line(&damaged).map(drop), Err("a line with a wrong digest".to_owned()));
        assert!(read_line(b"{}").is_err());
    }
}
