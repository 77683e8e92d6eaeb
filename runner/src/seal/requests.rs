//! Requests for sectors: takes up what others asked for (rows of `seal_requests`), finds out what only a machine with
//! a chain node can, and puts the sectors into the pipeline, with the same code as `curio seal start`.
//!
//! Any number of machines do this at once: a request is leased while one works on it, and it is started once,
//! whoever comes first.

use std::sync::Arc;
use std::time::Duration;

use curio_chain::Cid;
use curio_core::{Classify, Failure};
use curio_harmony::TxError;
use curio_pipeline::insert::NewSectors;
use curio_pipeline::request::{self, RequestPiece, SealRequest, Taken};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::start::{StartError, StartPiece, StartRequest, prepare};
use crate::deps::Deps;

/// How long a request is kept from other machines; renewed while this one works on it.
const LEASE: Duration = Duration::from_secs(60);
/// Requests that one machine works on at a time: one with data may take hours and holds up no other.
const MOST_AT_ONCE: usize = 4;
/// Tries after which a request is refused whose trouble is not the chain's: about half an hour.
const MOST_TRIES: u32 = 12;
/// Pause after the first try that failed, and the longest; it doubles in between.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(300));

/// What becomes of a request that could not be started.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Refuse(String),
    /// Somebody tries again after this time.
    PutOff(String, Duration),
}

/// Takes requests up until cancelled. `started` hears of every one that became sectors.
pub async fn follow(deps: Deps, started: Arc<Notify>, cancel: CancellationToken) {
    let interval = deps.config.seal.poll_interval.get();
    let mut at_work = JoinSet::new();
    loop {
        while at_work.len() < MOST_AT_ONCE
            && let Some(taken) = take(&deps).await
        {
            let (deps, started) = (deps.clone(), Arc::clone(&started));
            at_work.spawn(async move {
                if work_on(&deps, &taken).await {
                    started.notify_one();
                }
            });
        }
        tokio::select! {
            // What is at work is dropped; its lease runs out, and another machine takes it up.
            () = cancel.cancelled() => return,
            Some(_) = at_work.join_next() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
}

/// The next request that is due; none while the database is away.
async fn take(deps: &Deps) -> Option<Taken> {
    match request::take(&deps.db, LEASE).await {
        Ok(taken) => taken,
        Err(error) => {
            warn!("failed to look for requests: {error}");
            None
        }
    }
}

/// Starts or refuses a request, or puts it off. Whether it was started.
async fn work_on(deps: &Deps, taken: &Taken) -> bool {
    let uid = &taken.request.uid;
    let resolved = tokio::select! {
        resolved = resolve(deps, &taken.request) => resolved,
        () = renew(deps, taken) => return false,
    };
    let error = match resolved {
        Ok(new) => match request::start(&deps.db, uid, &new).await {
            Ok(Some(sectors)) => {
                let names: Vec<String> = sectors.iter().map(ToString::to_string).collect();
                info!(request = uid, "request {uid} was started: {}", names.join(", "));
                return true;
            }
            Ok(None) => return false,
            Err(error) => StartError::Db(error),
        },
        Err(error) => error,
    };
    if let Err(error) = write(deps, taken, judge(error, taken.tries)).await {
        // The lease runs out, and somebody tries again.
        warn!(request = uid, "failed to write what became of request {uid}: {error}");
    }
    false
}

/// What the chain and the data say.
async fn resolve(deps: &Deps, request: &SealRequest) -> Result<NewSectors, StartError> {
    let SealRequest { uid: _, miner, count, piece } = request;
    let pieces = piece.iter().map(start_piece).collect::<Result<Vec<StartPiece>, StartError>>()?;
    let request = StartRequest { actor: miner.clone(), count: u64::from(*count), pieces };
    prepare(&deps.chain, &deps.prover, &deps.http, request).await
}

fn start_piece(piece: &RequestPiece) -> Result<StartPiece, StartError> {
    let RequestPiece { url, piece_cid, raw_size } = piece;
    let cid = |text: &String| Cid::try_from(text.as_str()).map_err(|_| StartError::NotACid { text: text.clone() });
    let piece_cid = piece_cid.as_ref().map(cid).transpose()?;
    Ok(StartPiece { data: url.clone(), piece_cid, raw_size: *raw_size, keep: true })
}

/// Keeps the lease; ends when it is lost.
async fn renew(deps: &Deps, taken: &Taken) {
    loop {
        tokio::time::sleep(LEASE / 3).await;
        match request::renew(&deps.db, taken, LEASE).await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => warn!(request = taken.request.uid, "failed to renew a lease: {error}"),
        }
    }
}

/// Refused when asking again cannot change the answer, or was done often enough. The chain node and the database
/// may be away for as long as they like.
fn judge(error: StartError, tries: u32) -> Verdict {
    let sentence = error.to_string();
    match error.classify() {
        Failure::Permanent { .. } => Verdict::Refuse(sentence),
        Failure::Retry(_) if tries >= MOST_TRIES => Verdict::Refuse(format!("{sentence}; tried {tries} times")),
        Failure::Retry(_) | Failure::Unavailable(_) | Failure::Lost | Failure::Stopping => {
            let (first, longest) = PAUSE;
            let pause = first.saturating_mul(1 << tries.saturating_sub(1).min(16)).min(longest);
            Verdict::PutOff(sentence, pause)
        }
    }
}

async fn write(deps: &Deps, taken: &Taken, verdict: Verdict) -> Result<(), TxError> {
    let uid = &taken.request.uid;
    match verdict {
        Verdict::Refuse(sentence) => {
            if request::refuse(&deps.db, uid, &sentence).await? {
                info!(request = uid, "request {uid} was refused: {sentence}");
            }
        }
        Verdict::PutOff(sentence, pause) => {
            if request::put_off(&deps.db, taken, &sentence, pause).await? {
                warn!(request = uid, "request {uid} is tried again in {pause:?}: {sentence}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unreadable() -> StartError {
        StartError::Folder(std::io::Error::other("disk full"))
    }

    #[test]
    fn what_asking_again_cannot_change_is_refused_at_once() {
        let errors = [
            StartError::UnknownActor { actor: "f09".to_owned() },
            StartError::NotACid { text: "x".to_owned() },
            StartError::Empty { data: "http://host/empty".to_owned() },
        ];
        for error in errors {
            let sentence = error.to_string();
            assert_eq!(judge(error, 1), Verdict::Refuse(sentence));
        }
    }

    #[test]
    fn trouble_of_a_machine_is_tried_again_with_growing_pauses_and_then_refused() {
        let pauses: Vec<u64> = (1..MOST_TRIES)
            .map(|tries| match judge(unreadable(), tries) {
                Verdict::PutOff(_, pause) => pause.as_secs(),
                Verdict::Refuse(sentence) => panic!("refused after {tries}: {sentence}"),
            })
            .collect();
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        assert!(matches!(judge(unreadable(), MOST_TRIES), Verdict::Refuse(sentence) if sentence.contains("12 times")));
    }

    #[test]
    fn a_database_that_is_away_is_waited_for_without_end() {
        let away = || StartError::Db(TxError::Db(curio_harmony::DbError::Timeout(Duration::from_secs(60))));
        assert!(matches!(judge(away(), 1_000_000), Verdict::PutOff(_, pause) if pause == PAUSE.1));
    }
}
