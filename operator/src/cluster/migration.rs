//! The migration of a database: one Job per runner image and database, before any runner of that image.
//! What to do about it is judged here from what is there.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::databases::Standing;

/// A Job that failed is tried again after this long, because what it failed for may have been mended.
const TRY_AGAIN: Duration = Duration::from_secs(300);

/// How it stands with the migration for the present image.
#[derive(Clone, Debug, PartialEq)]
pub enum Migration {
    /// There is no image to migrate with.
    NoImage,
    /// The database cannot be migrated now, or must not be; the standing of the database says why.
    Waits,
    /// The Job is to be made.
    Due,
    /// The Job runs, or waits for something; the sentence says which.
    Running(String),
    /// The Job failed, and this is what its pod said last.
    Failed(String),
    /// This Job is of no use any more and is to be made anew: it failed long ago, or its database was emptied.
    Again(Box<Job>),
    Done,
    /// The Job succeeded and the schema does not fit this operator.
    Unfit(String),
}

/// `job` is the Job of the present image and database, `pods` are its pods.
pub fn judge(standing: &Standing, job: Option<&Job>, pods: &[Arc<Pod>], now: Timestamp) -> Migration {
    let Some(job) = job else { return begin(standing) };
    match end_of(job) {
        None => Migration::Running(progress(pods)),
        Some(End::Failed(since, words)) => {
            let old = since.is_some_and(|since| now.duration_since(since).unsigned_abs() >= TRY_AGAIN);
            if old && begin(standing) == Migration::Due {
                return Migration::Again(Box::new(job.clone()));
            }
            let said = last_words(pods).unwrap_or(words);
            let name = job.name_any();
            Migration::Failed(format!(
                "{said} (Job {name}; it is tried again every {} minutes, or at once when the Job is deleted)",
                TRY_AGAIN.as_secs() / 60
            ))
        }
        Some(End::Succeeded) => match standing {
            Standing::NotMigrated { empty: true, .. } if long_ago(job, now) => Migration::Again(Box::new(job.clone())),
            Standing::NotMigrated { empty: true, .. } => {
                Migration::Running("the database has not shown it yet".to_owned())
            }
            Standing::NotMigrated { empty: false, why } if long_ago(job, now) => Migration::Unfit(format!(
                "the runner image brings an older schema than this operator needs: {why} of a newer image"
            )),
            Standing::NotMigrated { empty: false, .. } => {
                Migration::Running("the database has not shown it yet".to_owned())
            }
            Standing::SchemaUnfit(why) => Migration::Unfit(why.clone()),
            Standing::Unknown
            | Standing::SecretMissing(_)
            | Standing::InvalidUrl(_)
            | Standing::Unreachable(_)
            | Standing::InUse { .. }
            | Standing::Ready(_) => Migration::Done,
        },
    }
}

/// A database is migrated only when it answers and is nobody else's.
fn begin(standing: &Standing) -> Migration {
    match standing {
        Standing::Ready(_) | Standing::NotMigrated { .. } => Migration::Due,
        Standing::SchemaUnfit(why) => Migration::Unfit(why.clone()),
        Standing::Unknown
        | Standing::SecretMissing(_)
        | Standing::InvalidUrl(_)
        | Standing::Unreachable(_)
        | Standing::InUse { .. } => Migration::Waits,
    }
}

enum End {
    Succeeded,
    /// Since when, and in the words of the Job.
    Failed(Option<Timestamp>, String),
}

fn end_of(job: &Job) -> Option<End> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let is = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_ && condition.status == "True");
    if is("Complete").is_some() {
        return Some(End::Succeeded);
    }
    is("Failed").map(|failed| {
        let words = failed.message.clone().unwrap_or_else(|| "the Job failed".to_owned());
        End::Failed(failed.last_transition_time.as_ref().map(|time| time.0), words)
    })
}

/// The keeper of the database looks every two seconds; after this it has seen what the Job did.
fn long_ago(job: &Job, now: Timestamp) -> bool {
    let completed = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
    completed.is_some_and(|time| now.duration_since(time.0).as_secs() >= 15)
}

/// What the newest pod waits for.
fn progress(pods: &[Arc<Pod>]) -> String {
    let newest = pods.iter().max_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
    let words = newest.and_then(|pod| waits_for(pod));
    match (words, last_words(pods)) {
        (Some(words), _) => format!("the migration Job waits: {words}"),
        (None, Some(said)) => format!("the migration Job tries again after: {said}"),
        (None, None) => "the migration Job runs".to_owned(),
    }
}

/// Why a pod does not run: the words of the scheduler or of the kubelet.
fn waits_for(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let unscheduled = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if let Some(condition) = unscheduled {
        return Some(condition.message.clone().unwrap_or_else(|| "no node takes its pod".to_owned()));
    }
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        waiting.reason.as_ref().filter(|reason| !matches!(reason.as_str(), "ContainerCreating" | "PodInitializing"))?;
        Some(waiting.clone())
    })?;
    let (reason, message) = (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default());
    Some(format!("{reason}: {message}"))
}

/// The last line that a container of the newest failed pod said.
fn last_words(pods: &[Arc<Pod>]) -> Option<String> {
    let ended = pods.iter().filter_map(|pod| {
        let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
        let terminated = containers.iter().find_map(|container| container.state.as_ref()?.terminated.as_ref())?;
        (terminated.exit_code != 0).then_some((pod.creation_timestamp().map(|time| time.0), terminated))
    });
    let (_, terminated) = ended.max_by_key(|(created, _)| *created)?;
    let said = terminated.message.as_deref().unwrap_or_default();
    match said.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => Some(line.to_owned()),
        None => Some(format!("its container ended with code {}", terminated.exit_code)),
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().expect("a time")
    }

    fn job(status: serde_json::Value) -> Job {
        let json = json!({"metadata": {"name": "curio-migrate-1"}, "status": status});
        serde_json::from_value(json).expect("a Job")
    }

    fn complete_at(time: &str) -> Job {
        let conditions = json!([{"type": "Complete", "status": "True"}]);
        job(json!({"completionTime": time, "conditions": conditions}))
    }

    fn failed_at(time: &str) -> Job {
        let failed = json!({
            "type": "Failed", "status": "True", "lastTransitionTime": time,
            "message": "Job has reached the specified backoff limit",
        });
        job(json!({"conditions": [failed]}))
    }

    fn pod(status: serde_json::Value) -> Arc<Pod> {
        let json = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}, "status": status});
        Arc::new(serde_json::from_value(json).expect("a pod"))
    }

    fn not_migrated(empty: bool) -> Standing {
        Standing::NotMigrated { empty, why: "run `curio migrate`".to_owned() }
    }

    #[rstest]
    #[case(not_migrated(true), Migration::Due)]
    #[case(not_migrated(false), Migration::Due)]
    #[case(Standing::Unknown, Migration::Waits)]
    #[case(Standing::Unreachable("away".to_owned()), Migration::Waits)]
    #[case(Standing::InUse { owner: "ns/first".to_owned() }, Migration::Waits)]
    #[case(Standing::SchemaUnfit("too new".to_owned()), Migration::Unfit("too new".to_owned()))]
    fn a_database_is_migrated_when_it_answers_and_is_nobody_elses(
        #[case] standing: Standing,
        #[case] expected: Migration,
    ) {
        assert_eq!(judge(&standing, None, &[], now()), expected);
    }

    #[test]
    fn a_job_that_runs_is_left_alone() {
        let running = judge(&not_migrated(true), Some(&job(json!({"active": 1}))), &[], now());
        assert_eq!(running, Migration::Running("the migration Job runs".to_owned()));
    }

    #[rstest]
    #[case(
        json!({"containerStatuses": [{"name": "migrate", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]}),
        "the migration Job waits: ImagePullBackOff: no such image"
    )]
    #[case(
        json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available"}]}),
        "the migration Job waits: 0/2 nodes are available"
    )]
    #[case(
        json!({"containerStatuses": [{"name": "migrate", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": 1, "message": "first\npermission denied for schema\n"}}}]}),
        "the migration Job tries again after: permission denied for schema"
    )]
    fn a_job_that_does_not_get_on_says_why(#[case] status: serde_json::Value, #[case] words: &str) {
        let judged = judge(&not_migrated(true), Some(&job(json!({"active": 1}))), &[pod(status)], now());
        assert_eq!(judged, Migration::Running(words.to_owned()));
    }

    #[test]
    fn a_failure_has_the_pods_last_line() {
        let terminated = json!({"exitCode": 1, "message": "permission denied for schema"});
        let status = json!({"containerStatuses": [{
            "name": "migrate", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": terminated},
        }]});
        let judged = judge(&not_migrated(true), Some(&failed_at("2026-01-01T00:09:00Z")), &[pod(status)], now());
        let Migration::Failed(words) = judged else { panic!("{judged:?}") };
        assert!(words.starts_with("permission denied for schema (Job curio-migrate-1"), "{words}");
    }

    #[test]
    fn a_failure_of_long_ago_is_tried_again_once_the_database_answers() {
        let old = failed_at("2026-01-01T00:00:00Z");
        assert!(matches!(judge(&not_migrated(true), Some(&old), &[], now()), Migration::Again(_)));
        let away = Standing::Unreachable("away".to_owned());
        assert!(matches!(judge(&away, Some(&old), &[], now()), Migration::Failed(_)));
    }

    #[rstest]
    #[case::the_keeper_has_not_looked_yet(not_migrated(true), "2026-01-01T00:09:59Z", "Running")]
    #[case::somebody_emptied_it(not_migrated(true), "2026-01-01T00:00:00Z", "Again")]
    #[case::the_image_is_too_old(not_migrated(false), "2026-01-01T00:00:00Z", "Unfit")]
    #[case::the_database_went_away_later(Standing::Unreachable(String::new()), "2026-01-01T00:00:00Z", "Done")]
    fn a_job_that_succeeded_is_compared_with_what_the_database_shows(
        #[case] standing: Standing,
        #[case] completed: &str,
        #[case] expected: &str,
    ) {
        let judged = judge(&standing, Some(&complete_at(completed)), &[], now());
        assert!(format!("{judged:?}").starts_with(expected), "{judged:?}");
    }
}
