//! Vanilla proofs of spacetime of many sectors in one child, which may hang on any of their files.

use std::collections::BTreeMap;
use std::time::Duration;

use curio_core::{Failure, SealProof, SpId};
use curio_proofs::PostKind;
use curio_proofs::child::{PostSector, Progress, Request, Response, VanillaPost};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ProveError, Prover};

/// Sectors that are asked for leaves.
#[derive(Clone, Debug)]
pub struct VanillaCall {
    pub kind: PostKind,
    pub proof: SealProof,
    pub sp: SpId,
    pub sectors: Vec<PostSector>,
    /// Sectors that are read at once.
    pub parallel: u32,
}

/// How long files may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VanillaLimits {
    /// Without the outcome of any sector.
    pub single: Duration,
    /// All of them.
    pub whole: Duration,
}

impl Prover {
    /// The outcome of every sector. One that has none when the time is over, or when the child has died, gets a sentence
    /// that says so; those that came before count.
    ///
    /// # Errors
    /// As [`Prover::call`]: the child could not be started, or died before it told of any sector.
    pub async fn vanilla_posts(
        &self,
        call: VanillaCall,
        limits: VanillaLimits,
        cancelled: &CancellationToken,
    ) -> Result<BTreeMap<u64, Result<Vec<u8>, String>>, ProveError> {
        let VanillaCall { kind, proof, sp, sectors, parallel } = call;
        let numbers: Vec<u64> = sectors.iter().map(|sector| sector.number).collect();
        let request = Request::VanillaPosts { kind, proof, sp, sectors, parallel };
        // One message for each sector at most.
        let (sender, mut told) = mpsc::channel(numbers.len().max(1));
        let watch = move |progress: Progress| {
            if let Progress::VanillaPost(outcome) = progress {
                // Full only when a child tells more than it was asked.
                let _ = sender.try_send(outcome);
            }
        };
        let mut outcomes = BTreeMap::new();
        let running = self.call_watched(&request, cancelled, watch);
        let why = match gather(&mut outcomes, running, &mut told, limits).await {
            Ok(None) => "were not read".to_owned(),
            Ok(Some(waited)) => format!("did not answer within {waited:?}"),
            Err(error) if outcomes.is_empty() || matches!(error, ProveError::Cancelled) => return Err(error),
            // One file may bring the process down, and must not take those with it that were read already.
            Err(error) => format!("were not read: {}", Failure::Retry(Box::new(error))),
        };
        for number in numbers {
            outcomes.entry(number).or_insert_with(|| Err(format!("the files of sector {number} {why}")));
        }
        Ok(outcomes)
    }
}

/// Takes outcomes until the call ends, or until a limit is passed, which is returned. Dropping the call kills the child.
async fn gather(
    outcomes: &mut BTreeMap<u64, Result<Vec<u8>, String>>,
    running: impl Future<Output = Result<Response, ProveError>>,
    told: &mut mpsc::Receiver<VanillaPost>,
    limits: VanillaLimits,
) -> Result<Option<Duration>, ProveError> {
    let VanillaLimits { single, whole } = limits;
    let whole_ends = Instant::now() + whole;
    let mut running = std::pin::pin!(running);
    loop {
        let silence_ends = Instant::now() + single;
        tokio::select! {
            biased;
            Some(VanillaPost { number, outcome }) = told.recv() => {
                outcomes.insert(number, outcome);
            }
            ended = &mut running => {
                while let Ok(VanillaPost { number, outcome }) = told.try_recv() {
                    outcomes.insert(number, outcome);
                }
                return match ended? {
                    Response::VanillaPosts => Ok(None),
                    _ => Err(ProveError::Unexpected("no vanilla proofs")),
                };
            }
            () = tokio::time::sleep_until(whole_ends) => return Ok(Some(whole)),
            () = tokio::time::sleep_until(silence_ends) => return Ok(Some(single)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use curio_proofs::child::{CallError, Message};

    use super::*;
    use crate::prove::tests::fake;

    const LONG: Duration = Duration::from_secs(60);

    fn line(message: &Message) -> String {
        serde_json::to_string(message).unwrap()
    }

    fn told(number: u64, outcome: Result<Vec<u8>, String>) -> String {
        line(&Message::Progress(Progress::VanillaPost(VanillaPost { number, outcome })))
    }

    async fn ask(
        dir: &Path,
        script: &str,
        limits: VanillaLimits,
    ) -> Result<BTreeMap<u64, Result<Vec<u8>, String>>, ProveError> {
        let sector = |number| PostSector {
            number,
            comm_r: [1; 32],
            cache: "/cache".into(),
            sealed: "/sealed".into(),
            challenges: vec![0],
        };
        let call = VanillaCall {
            kind: PostKind::Window,
            proof: SealProof::StackedDrg2KiBV1_1,
            sp: SpId(1000),
            sectors: vec![sector(1), sector(2), sector(3)],
            parallel: 2,
        };
        fake(dir, script).vanilla_posts(call, limits, &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn outcomes_are_gathered_by_sector() {
        let dir = tempfile::tempdir().unwrap();
        let done = line(&Message::Done(Response::VanillaPosts));
        let (one, three, two) = (told(1, Ok(vec![1])), told(3, Ok(vec![3])), told(2, Err("sealed is missing".into())));
        let script = format!("cat >/dev/null; printf '%s\\n' '{one}' '{three}' '{two}' '{done}'");
        let outcomes = ask(dir.path(), &script, VanillaLimits { single: LONG, whole: LONG }).await.unwrap();
        let expected = [(1, Ok(vec![1])), (2, Err("sealed is missing".to_owned())), (3, Ok(vec![3]))];
        assert_eq!(outcomes, BTreeMap::from(expected));
    }

    #[tokio::test]
    async fn a_file_that_hangs_costs_its_sector_and_not_those_that_came() {
        let short = Duration::from_millis(300);
        for limits in [VanillaLimits { single: short, whole: LONG }, VanillaLimits { single: LONG, whole: short }] {
            let dir = tempfile::tempdir().unwrap();
            // What has come is in the pipe before the prover begins to wait.
            let script = format!("cat >/dev/null; printf '%s\\n' '{}'; exec sleep 600", told(2, Ok(vec![2])));
            let outcomes = ask(dir.path(), &script, limits).await.unwrap();
            let late = |number| Err(format!("the files of sector {number} did not answer within 300ms"));
            assert_eq!(outcomes, BTreeMap::from([(1, late(1)), (2, Ok(vec![2])), (3, late(3))]));
        }
    }

    #[tokio::test]
    async fn a_child_that_fails_as_a_whole_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = CallError { message: "no threads".into(), retryable: true, reason: None };
        let script = format!("cat >/dev/null; echo '{}'; exit 1", line(&Message::Failed(error)));
        let limits = VanillaLimits { single: LONG, whole: LONG };
        let error = ask(dir.path(), &script, limits).await.unwrap_err();
        assert!(matches!(error, ProveError::Call(_)), "{error}");
        assert!(matches!(ask(dir.path(), "exit 3", limits).await, Err(ProveError::Died { .. })));
    }

    #[tokio::test]
    async fn a_child_that_dies_over_a_file_loses_none_that_it_has_read() {
        let dir = tempfile::tempdir().unwrap();
        let script = format!("cat >/dev/null; echo '{}'; exit 3", told(2, Ok(vec![2])));
        let outcomes = ask(dir.path(), &script, VanillaLimits { single: LONG, whole: LONG }).await.unwrap();
        assert_eq!(outcomes[&2], Ok(vec![2]));
        for number in [1, 3] {
            let sentence = outcomes[&number].as_ref().unwrap_err();
            let begin = format!("the files of sector {number} were not read: the proof process ended without a result");
            assert!(sentence.starts_with(&begin), "{sentence}");
        }
    }

    #[tokio::test]
    async fn a_sector_that_the_child_passes_over_has_an_outcome() {
        let dir = tempfile::tempdir().unwrap();
        let done = line(&Message::Done(Response::VanillaPosts));
        let script = format!("cat >/dev/null; printf '%s\\n' '{}' '{done}'", told(2, Ok(vec![2])));
        let outcomes = ask(dir.path(), &script, VanillaLimits { single: LONG, whole: LONG }).await.unwrap();
        assert_eq!(outcomes[&1], Err("the files of sector 1 were not read".to_owned()));
    }
}
