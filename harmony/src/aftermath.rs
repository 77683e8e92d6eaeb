//! What becomes of a task after an attempt: the judgement. Pure.

use std::time::Duration;

use curio_core::Failure;

use crate::task::{Spec, TaskName};

/// Longest error text that is stored, in bytes.
const LONGEST_ERROR: usize = 8 << 10;
/// Width of `failed_reason`.
const LONGEST_REASON: usize = 20;
/// Longest backoff after infrastructure trouble: it ends at any moment.
const AWAY_BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What becomes of a task after an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aftermath {
    Done,
    /// It runs again.
    Again {
        counted: bool,
        delay: Duration,
        error: String,
        outcome: &'static str,
    },
    /// It stays as a failed row.
    Failed {
        reason: String,
        error: String,
    },
    /// It was not ours any more.
    Lost,
}

impl Aftermath {
    /// The word in metrics.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Aftermath::Done => "done",
            Aftermath::Again { outcome, .. } => outcome,
            Aftermath::Failed { .. } => "failed",
            Aftermath::Lost => "lost",
        }
    }
}

/// Who asked an attempt to end before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Nobody,
    /// The runner is shutting down.
    Stop,
    /// A task of this kind, which has a deadline, needed the room.
    Deadline(TaskName),
}

/// Judges an attempt. `failures` counts the failed attempts before this one, `attempt` is its fencing
/// number, `asked` says whether it was to end early, `chance` in 0..1 spreads the backoff.
pub(crate) fn aftermath(
    spec: &Spec,
    result: Result<(), Failure>,
    failures: u32,
    attempt: u32,
    asked: Asked,
    chance: f64,
) -> Aftermath {
    let failure = match result {
        Ok(()) => return Aftermath::Done,
        Err(failure) => failure,
    };
    let error = storable(&failure.to_string(), LONGEST_ERROR);
    let uncounted = |delay: Duration, error: String, outcome: &'static str| Aftermath::Again {
        counted: false,
        delay,
        error,
        outcome,
    };
    match (failure, asked) {
        (Failure::Lost, _) => Aftermath::Lost,
        (Failure::Permanent { reason, .. }, _) => Aftermath::Failed { reason: storable(reason, LONGEST_REASON), error },
        (Failure::Unavailable(_), _) => {
            uncounted(spec.backoff.delay(attempt, chance).min(AWAY_BACKOFF_MAX), error, "unavailable")
        }
        // While the runner stops, or makes room, children are killed and calls are cut short: whatever an attempt says
        // of it, the task has not failed.
        (Failure::Retry(_) | Failure::Stopping, Asked::Stop) => uncounted(Duration::ZERO, error, "stopping"),
        (Failure::Retry(_) | Failure::Stopping, Asked::Deadline(kind)) => {
            uncounted(Duration::ZERO, format!("made room for {kind}"), "preempted")
        }
        (Failure::Stopping, Asked::Nobody) => uncounted(spec.backoff.delay(1, chance), error, "stopping"),
        (Failure::Retry(_), Asked::Nobody) => {
            let failures = failures.saturating_add(1);
            if spec.max_failures.is_some_and(|max| failures >= max) {
                Aftermath::Failed { reason: "max-failures".to_owned(), error }
            } else {
                let delay = spec.backoff.delay(failures, chance);
                Aftermath::Again { counted: true, delay, error, outcome: "retry" }
            }
        }
    }
}

/// Text that a column takes: without NUL, at most `max` bytes, cut at a character.
fn storable(text: &str, max: usize) -> String {
    let clean = text.replace('\0', " ");
    let mut end = clean.len().min(max);
    while !clean.is_char_boundary(end) {
        end -= 1;
    }
    clean[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;
    use crate::task::Backoff;

    fn spec(max_failures: Option<u32>) -> Spec {
        let backoff = Backoff::exponential(Duration::from_secs(1), Duration::from_secs(100));
        Spec { max_failures, backoff, ..Spec::default() }
    }

    const BY_WINDOW: Asked = Asked::Deadline(TaskName::new("Window"));

    fn judge(result: Result<(), Failure>, failures: u32, asked: Asked) -> Aftermath {
        aftermath(&spec(Some(3)), result, failures, failures + 1, asked, 0.0)
    }

    fn again(counted: bool, seconds: u64, error: &str, outcome: &'static str) -> Aftermath {
        Aftermath::Again { counted, delay: Duration::from_secs(seconds), error: error.to_owned(), outcome }
    }

    #[rstest]
    #[case::success(Ok(()), 2, Asked::Nobody, Aftermath::Done)]
    #[case::success_while_stopping(Ok(()), 0, Asked::Stop, Aftermath::Done)]
    #[case::first_failure(Err(Failure::retry("no")), 0, Asked::Nobody, again(true, 1, "no", "retry"))]
    #[case::second_failure(Err(Failure::retry("no")), 1, Asked::Nobody, again(true, 2, "no", "retry"))]
    #[case::third_of_three(
        Err(Failure::retry("no")), 2, Asked::Nobody,
        Aftermath::Failed { reason: "max-failures".into(), error: "no".into() }
    )]
    #[case::permanent_at_once(
        Err(Failure::permanent("too-late", "too old")), 0, Asked::Nobody,
        Aftermath::Failed { reason: "too-late".into(), error: "too-late: too old".into() }
    )]
    #[case::killed_while_stopping(
        Err(Failure::retry("child died")),
        2,
        Asked::Stop,
        again(false, 0, "child died", "stopping")
    )]
    #[case::stopping(Err(Failure::Stopping), 2, Asked::Stop, again(false, 0, "the runner is stopping", "stopping"))]
    #[case::killed_to_make_room(
        Err(Failure::retry("child died")),
        2,
        BY_WINDOW,
        again(false, 0, "made room for Window", "preempted")
    )]
    #[case::done_before_it_had_to_make_room(Ok(()), 0, BY_WINDOW, Aftermath::Done)]
    #[case::failed_for_good_all_the_same(
        Err(Failure::permanent("too-late", "too old")), 0, BY_WINDOW,
        Aftermath::Failed { reason: "too-late".into(), error: "too-late: too old".into() }
    )]
    #[case::away(
        Err(Failure::unavailable("network away")),
        2,
        Asked::Nobody,
        again(false, 4, "network away", "unavailable")
    )]
    #[case::lost(Err(Failure::Lost), 0, Asked::Stop, Aftermath::Lost)]
    fn an_attempt_is_judged(
        #[case] result: Result<(), Failure>,
        #[case] failures: u32,
        #[case] asked: Asked,
        #[case] expected: Aftermath,
    ) {
        assert_eq!(judge(result, failures, asked), expected);
    }

    #[test]
    fn without_a_limit_a_task_is_tried_for_ever() {
        let after = aftermath(&spec(None), Err(Failure::retry("no")), 1_000_000, 1, Asked::Nobody, 0.0);
        assert!(matches!(after, Aftermath::Again { counted: true, .. }), "{after:?}");
    }

    #[test]
    fn waiting_for_infrastructure_is_never_long() {
        let after = aftermath(&spec(None), Err(Failure::unavailable("away")), 0, 1_000, Asked::Nobody, 0.0);
        assert_eq!(after, again(false, 30, "away", "unavailable"));
    }

    #[test]
    fn stored_text_has_no_nul_and_ends_at_a_character() {
        assert_eq!(storable("a\0b", 10), "a b");
        assert_eq!(storable("aé", 2), "a");
    }
}
