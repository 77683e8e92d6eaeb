//! Whether a sector needs a person, and why: what failed, and what does not move. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use curio_harmony::tasks::TaskState;
use curio_pipeline::status::SectorState;
use curio_pipeline::view::SectorView;

use crate::api::conditions::reason;

/// A task may wait this long before we say that nobody does its kind: pools that start at zero need some time.
const NO_RUNNER_AFTER_S: f64 = 60.0;
/// No stage of a 64 GiB sector takes longer on any machine that can be made to seal it, waiting for the seed included.
const LONGEST_STAGE: Duration = Duration::from_secs(12 * 3600);

/// A reason and a sentence.
pub type Trouble = (&'static str, String);

/// What failed, if anything did.
pub fn failure(view: &SectorView) -> Option<Trouble> {
    let failed_task = view.task.as_ref().filter(|task| task.state == TaskState::Failed);
    if let Some(task) = failed_task {
        let error = view.last_error.as_deref().or(view.failed_message.as_deref()).unwrap_or("it left no error");
        let message = format!(
            "{} (task {}) has no attempts left: {error}. Mend the cause, then raise spec.retry by one",
            task.kind, task.id
        );
        return Some((reason::TASK_FAILED, message));
    }
    if view.state != SectorState::Failed {
        return None;
    }
    let word = view.failed_reason.as_deref().unwrap_or_default();
    let message = view.failed_message.as_deref().unwrap_or_default();
    let said = match (in_words(word), message) {
        (Some(words), "") => words.to_owned(),
        (Some(words), message) => format!("{words} ({message})"),
        (None, "") => format!("it failed for good: {word}"),
        (None, message) => format!("it failed for good: {message}"),
    };
    Some((reason::SECTOR_FAILED, format!("{said}. It cannot be retried; set spec.removal to give it up")))
}

/// The closed words of the pipeline for a sector that cannot go on.
fn in_words(word: &str) -> Option<&'static str> {
    Some(match word {
        "caller-forbidden" => "the chain does not let the configured address send for this miner",
        "commit-refused" => "the chain refused the proof's message",
        "message-refused" => "the chain refused its message time and again",
        "number-taken" => "its number is taken on chain by another sector",
        "precommit-expired" => "its pre-commit expired before the proof reached the chain",
        "precommit-refused" => "the chain refused the pre-commit",
        "proof-refused" => "the chain refused the proof time and again",
        "removed" => "its removal was asked for",
        "ticket-expired" => "its tickets expired time and again before the pre-commit reached the chain",
        _ => return None,
    })
}

/// Why nothing moves, if nothing does. `still_for` is how long stage, task, runner and attempts have been the same.
pub fn standstill(view: &SectorView, still_for: Duration, kinds: &BTreeSet<String>) -> Option<Trouble> {
    if let Some(task) = &view.task {
        let waits = view.waiting_since_s.is_some_and(|seconds| seconds >= NO_RUNNER_AFTER_S);
        if waits && !kinds.contains(&task.kind) {
            let message = format!(
                "task {} waits, and no live runner does {}: look at the RunnerPools that should",
                task.id, task.kind
            );
            return Some((reason::NO_RUNNER, message));
        }
    }
    if view.state == SectorState::Sealing && still_for >= LONGEST_STAGE {
        let message =
            format!("nothing has moved for {} hours, which no stage should take", LONGEST_STAGE.as_secs() / 3600);
        return Some((reason::NO_PROGRESS, message));
    }
    None
}
