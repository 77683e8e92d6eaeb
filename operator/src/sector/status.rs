//! What is said about a cluster's sectors: the status of each object, what is made and deleted, and what is told as
//! events. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use curio_harmony::tasks::TaskState;
use curio_pipeline::act::Removed;
use curio_pipeline::status::{SectorState, WAIT_COMMIT, WAIT_PRECOMMIT, WAIT_SEED};
use curio_pipeline::view::{SectorView, TaskView};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;

use super::desired;
use super::news::{News, of_retry, of_turns};
use super::observe::{Observed, Rows, Subject, whole_seconds};
use super::place::{self, Many, Place, stage};
use super::removal;
use super::trouble::{self, Trouble};
use super::validate::Wish;
use crate::api::SealingSector;
use crate::api::conditions::{reason, sector};
use crate::api::sealing_sector::SealingSectorStatus;
use crate::conditions::{Said, merge};

/// Longest `lastError`; the rest is in `curio sector status`.
const LONGEST_ERROR: usize = 1000;

/// What the acts of a pass did, by the uid of the object; those that broke off are missing.
#[derive(Clone, Debug, Default)]
pub struct Outcomes {
    /// Tasks that run again.
    pub retried: HashMap<String, Vec<i64>>,
    pub removed: HashMap<String, Removed>,
}

/// What a pass writes to the API server.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Objects whose status changes.
    pub changes: Vec<Change>,
    pub create: Vec<SealingSector>,
    pub delete: Vec<Arc<SealingSector>>,
}

/// A status that changes.
#[derive(Clone, Debug)]
pub struct Change {
    pub object: Arc<SealingSector>,
    pub after: SealingSectorStatus,
    pub news: Vec<News>,
}

/// Everything that a pass has to say.
pub fn report(observed: &Observed, outcomes: &Outcomes) -> Report {
    let mut report = Report::default();
    for (subject, wish) in &observed.subjects {
        let after = one(observed, outcomes, subject, wish);
        if desired::is_expired(subject, &after, observed.facts.finished_ttl, observed.now) {
            report.delete.push(subject.object.clone());
        } else if after != subject.before {
            let mut news = of_turns(&subject.before.conditions, &after.conditions);
            news.extend(outcomes.retried.get(subject.uid()).map(|tasks| of_retry(tasks)));
            report.changes.push(Change { object: subject.object.clone(), after, news });
        }
    }
    if let Ok(rows) = &observed.database {
        report.create = desired::missing(observed, rows);
    }
    report
}

/// Objects whose cluster does not exist.
pub fn of_orphans(subjects: &[Subject], now: Timestamp) -> Report {
    let open = subjects.iter().filter(|subject| !place::is_settled(&subject.before));
    let changes = open.filter_map(|subject| {
        let cluster = &subject.object.spec.cluster;
        let message = format!("there is no CurioCluster {cluster} in this namespace; create it, or ask another one");
        let said = vec![Said::no(sector::ACCEPTED, reason::CLUSTER_MISSING, message)];
        let after = unaccepted(subject, said, whole_seconds(now));
        let news = of_turns(&subject.before.conditions, &after.conditions);
        (after != subject.before).then(|| Change { object: subject.object.clone(), after, news })
    });
    Report { changes: changes.collect(), ..Report::default() }
}

fn one(observed: &Observed, outcomes: &Outcomes, subject: &Subject, wish: &Wish) -> SealingSectorStatus {
    let rows = match &observed.database {
        Ok(rows) => rows,
        // Runners go on without us, and the last that was seen is still the best that is known.
        Err(_) if subject.before.number.is_some() || !subject.before.sectors.is_empty() => {
            return subject.before.clone();
        }
        Err(why) => {
            let message = format!("CurioCluster {} is not ready: {why}", observed.facts.key.name);
            return unaccepted(
                subject,
                vec![Said::no(sector::ACCEPTED, reason::CLUSTER_NOT_READY, message)],
                observed.now,
            );
        }
    };
    let place = place::of(subject, wish, rows);
    let said = match &place {
        Place::Settled => return subject.before.clone(),
        Place::One(view) => return of_sector(observed, rows, outcomes, subject, view, wish),
        Place::Many(many) => return of_many(observed, subject, many),
        Place::Unasked if observed.facts.paused => {
            let message = format!("CurioCluster {} is paused", observed.facts.key.name);
            vec![Said::no(sector::ACCEPTED, reason::PAUSED, message)]
        }
        Place::Unasked => {
            vec![Said::no(sector::ACCEPTED, reason::WAITING, "waiting for a runner to take the request up")]
        }
        Place::Pending(row) if row.error.is_empty() => {
            vec![Said::no(sector::ACCEPTED, reason::WAITING, "waiting for a runner to take the request up")]
        }
        Place::Pending(row) => {
            let message = format!("a runner could not take the request up and will try again: {}", row.error);
            vec![Said::no(sector::ACCEPTED, reason::WAITING, message)]
        }
        Place::Refused(row) => refused(reason::REFUSED, &row.error),
        Place::Unwanted => match wish {
            Wish::Refused(reason, message) => refused(reason, message),
            Wish::Ask(_) | Wish::Watch(_) => Vec::new(),
        },
        Place::Gone(sector_ref) => {
            let name = sector_ref.map_or_else(|| "of this request".to_owned(), |sector_ref| sector_ref.to_string());
            let message = format!("the database has no sector {name}; it was removed, or never was");
            vec![Said::no(sector::ACCEPTED, reason::NOT_FOUND, message)]
        }
    };
    let mut after = unaccepted(subject, said, observed.now);
    match place {
        Place::Refused(_) | Place::Unwanted => {
            after.stage = stage::REFUSED.to_owned();
            after.failed = true;
        }
        Place::Gone(_) => {
            let was_there = subject.before.number.is_some();
            after.stage = if was_there { stage::REMOVED } else { stage::NOT_FOUND }.to_owned();
            after.moved_at = subject.before.moved_at.clone().filter(|_| after.stage == subject.before.stage);
            after.moved_at.get_or_insert(Time(observed.now));
        }
        Place::Unasked | Place::Pending(_) => after.stage = stage::ASKED.to_owned(),
        Place::One(_) | Place::Many(_) | Place::Settled => {}
    }
    after
}

fn refused(reason: &'static str, message: &str) -> Vec<Said> {
    vec![Said::no(sector::ACCEPTED, reason, message), Said::yes(sector::FAILED, reason, message)]
}

/// The status of an object that has no sector to show. The first thing said is its message; what was known of a sector
/// stays.
fn unaccepted(subject: &Subject, said: Vec<Said>, now: Timestamp) -> SealingSectorStatus {
    let message = said.first().map(|said| said.message.clone()).unwrap_or_default();
    let said = said.into_iter().chain(removal::said(subject, None, None)).collect();
    SealingSectorStatus {
        observed_generation: Some(subject.generation()),
        conditions: merge(&subject.before.conditions, said, Some(subject.generation()), now),
        stage: Some(&subject.before.stage)
            .filter(|stage| !stage.is_empty())
            .map_or(stage::ASKED, String::as_str)
            .to_owned(),
        task: None,
        runner: None,
        failed: false,
        message,
        ..subject.before.clone()
    }
}

fn of_sector(
    observed: &Observed,
    rows: &Rows,
    outcomes: &Outcomes,
    subject: &Subject,
    view: &SectorView,
    wish: &Wish,
) -> SealingSectorStatus {
    let before = &subject.before;
    let removed = outcomes.removed.get(subject.uid());
    let gone = removed == Some(&Removed::Done);
    let failure = trouble::failure(view).filter(|_| !gone);
    let stage = if gone { stage::REMOVED } else { stage_word(view.stage) }.to_owned();
    let task = view.task.as_ref().filter(|_| !gone);
    let runner = task.and_then(|task| task.machine.clone());
    let same = (&before.stage, before.task, &before.runner, before.retries)
        == (&stage, task.map(|task| task.id), &runner, view.attempts);
    let ended = view.ended_at.and_then(|ended| Timestamp::from_second(ended.timestamp()).ok()).map(Time);
    let moved_at = ended.or_else(|| before.moved_at.clone().filter(|_| same)).unwrap_or(Time(observed.now));
    let still_for = observed.now.duration_since(moved_at.0).unsigned_abs();
    let standstill = trouble::standstill(view, still_for, &rows.kinds).filter(|_| !gone && failure.is_none());
    let message = if gone {
        "the sector is removed".to_owned()
    } else {
        failure.as_ref().map_or_else(|| progress(view), |(_, message)| message.clone())
    };
    let said = [
        Some(accepted(view, wish)),
        Some(precommitted(view)),
        Some(proven(view)),
        Some(trouble_said(sector::FAILED, failure.clone(), "nothing has failed for good")),
        Some(trouble_said(
            sector::STUCK,
            failure.clone().filter(|(why, _)| *why == reason::TASK_FAILED).or(standstill),
            "it moves",
        )),
        removal::said(subject, rows.previews.get(&view.sector), removed),
    ];
    SealingSectorStatus {
        observed_generation: Some(subject.generation()),
        conditions: merge(
            &before.conditions,
            said.into_iter().flatten().collect(),
            Some(subject.generation()),
            observed.now,
        ),
        number: Some(i64::try_from(view.sector.number).unwrap_or(i64::MAX)),
        sectors: Vec::new(),
        proven: None,
        stage,
        task: task.map(|task| task.id),
        runner,
        retries: view.attempts,
        last_error: view.last_error.as_deref().map(|error| cut(error, LONGEST_ERROR)),
        message,
        moved_at: Some(moved_at),
        ticket_epoch: view.ticket_epoch,
        seed_epoch: view.seed_epoch,
        unsealed_cid: view.unsealed_cid.clone(),
        sealed_cid: view.sealed_cid.clone(),
        precommit_cid: view.precommit_cid.clone(),
        commit_cid: view.commit_cid.clone(),
        deadline: view.deadline,
        partition: view.partition,
        failed: failure.is_some(),
        observed_retry: match outcomes.retried.contains_key(subject.uid()) {
            true => subject.object.spec.retry,
            false => before.observed_retry,
        },
    }
}

fn of_many(observed: &Observed, subject: &Subject, many: &Many<'_>) -> SealingSectorStatus {
    let Many { asked, numbers, open } = many;
    let failed: Vec<String> =
        open.iter().filter(|view| trouble::failure(view).is_some()).map(|view| view.sector.to_string()).collect();
    let proven = numbers.len() - open.len();
    let removed = usize::try_from(*asked).unwrap_or(usize::MAX).saturating_sub(numbers.len());
    let done = open.is_empty();
    let mut message = format!("{proven} of {asked} sectors are proven");
    if removed > 0 {
        message.push_str(&format!(", {removed} removed"));
    }
    let failure: Option<Trouble> = (!failed.is_empty()).then(|| {
        let list = cut(&failed.join(", "), LONGEST_ERROR);
        (reason::SECTORS_FAILED, format!("{message}; these failed: {list}. Their own objects say why"))
    });
    let proven_said = match done {
        true => Said::yes(sector::PROVEN, reason::ON_CHAIN, message.clone()),
        false => Said::no(sector::PROVEN, reason::SEALING, message.clone()),
    };
    let precommitted = open.iter().filter(|view| view.precommitted).count() + proven;
    let precommitted_message = format!("{precommitted} of {asked} sectors are pre-committed");
    let precommitted_said = match precommitted == numbers.len() {
        true => Said::yes(sector::PRE_COMMITTED, reason::ON_CHAIN, precommitted_message),
        false => Said::no(sector::PRE_COMMITTED, reason::SEALING, precommitted_message),
    };
    let said = vec![
        Said::yes(sector::ACCEPTED, reason::OK, format!("a runner has begun {asked} sectors")),
        precommitted_said,
        proven_said,
        trouble_said(sector::FAILED, failure.clone(), "no sector of it has failed for good"),
    ];
    let stage = if done { stage::PROVEN } else { stage::SEALING };
    let same = subject.before.stage == stage && subject.before.proven == i32::try_from(proven).ok();
    SealingSectorStatus {
        observed_generation: Some(subject.generation()),
        conditions: merge(&subject.before.conditions, said, Some(subject.generation()), observed.now),
        sectors: numbers.iter().map(|number| i64::try_from(*number).unwrap_or(i64::MAX)).collect(),
        proven: i32::try_from(proven).ok(),
        stage: stage.to_owned(),
        message: failure.as_ref().map_or(message, |(_, message)| message.clone()),
        moved_at: subject.before.moved_at.clone().filter(|_| same).or(Some(Time(observed.now))),
        failed: failure.is_some(),
        ..subject.before.clone()
    }
}

/// Words of the pipeline as the column shows them: none is longer than nine letters.
fn stage_word(stage: &str) -> &str {
    match stage {
        "PreCommitSubmit" | WAIT_PRECOMMIT => "PreCommit",
        "CommitSubmit" | WAIT_COMMIT => "Commit",
        "MoveStorage" => "Move",
        "Done" => stage::PROVEN,
        other => other,
    }
}

fn accepted(view: &SectorView, wish: &Wish) -> Said {
    match wish {
        Wish::Watch(_) => {
            Said::yes(sector::ACCEPTED, reason::FOUND, format!("the database has sector {}", view.sector))
        }
        Wish::Ask(_) | Wish::Refused(..) => {
            Said::yes(sector::ACCEPTED, reason::OK, format!("a runner has begun sector {}", view.sector))
        }
    }
}

fn precommitted(view: &SectorView) -> Said {
    match (view.precommitted, &view.precommit_cid) {
        (true, Some(cid)) => Said::yes(sector::PRE_COMMITTED, reason::ON_CHAIN, format!("by message {cid}")),
        (true, None) => Said::yes(sector::PRE_COMMITTED, reason::ON_CHAIN, "the chain has it"),
        (false, Some(cid)) => {
            Said::no(sector::PRE_COMMITTED, reason::WAITING, format!("message {cid} is sent; waiting for the chain"))
        }
        (false, None) => Said::no(sector::PRE_COMMITTED, reason::SEALING, "nothing is sent yet"),
    }
}

fn proven(view: &SectorView) -> Said {
    match (view.committed, &view.commit_cid) {
        (true, Some(cid)) => Said::yes(sector::PROVEN, reason::ON_CHAIN, format!("by message {cid}")),
        (true, None) => Said::yes(sector::PROVEN, reason::ON_CHAIN, "the chain has accepted the proof"),
        (false, Some(cid)) => {
            Said::no(sector::PROVEN, reason::WAITING, format!("message {cid} is sent; waiting for the chain"))
        }
        (false, None) => Said::no(sector::PROVEN, reason::SEALING, "no proof is sent yet"),
    }
}

fn trouble_said(type_: &'static str, trouble: Option<Trouble>, otherwise: &str) -> Said {
    match trouble {
        Some((reason, message)) => Said::yes(type_, reason, message),
        None => Said::no(type_, reason::OK, otherwise),
    }
}

/// How a sector comes along. Holds no durations: a message that changes by itself would be written every second.
fn progress(view: &SectorView) -> String {
    if view.state == SectorState::Proven {
        return "proven, and its files are in long-term storage".to_owned();
    }
    match &view.task {
        Some(TaskView { id, kind, machine: Some(machine), state: _ }) => {
            format!("{kind} runs on {machine} (task {id})")
        }
        Some(TaskView { id, kind, machine: None, state: TaskState::Backoff }) => {
            let error = view.last_error.as_deref().unwrap_or("it left no error");
            format!("{kind} (task {id}) failed and is tried again soon: {}", cut(error, LONGEST_ERROR))
        }
        Some(TaskView {
            id,
            kind,
            machine: None,
            state: TaskState::Waiting | TaskState::Running | TaskState::Failed,
        }) => {
            format!("{kind} (task {id}) waits for a runner")
        }
        None => match (view.stage, view.seed_epoch) {
            (WAIT_PRECOMMIT, _) => "the pre-commit is sent; waiting for the chain".to_owned(),
            (WAIT_SEED, Some(epoch)) => format!("waiting for the chain to pass the seed's epoch {epoch}"),
            (WAIT_SEED, None) => "waiting for the seed's epoch".to_owned(),
            (WAIT_COMMIT, _) => "the proof is sent; waiting for the chain".to_owned(),
            (stage, _) => format!("waiting for a runner to queue {stage}"),
        },
    }
}

fn cut(text: &str, longest: usize) -> String {
    match text.len() <= longest {
        true => text.to_owned(),
        false => format!("{}...", &text[..text.floor_char_boundary(longest)]),
    }
}
