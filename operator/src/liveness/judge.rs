//! Is a runner's process dead for certain? A pure function of what the kubelet reported.
//!
//! Only the kubelet knows, and it says so in one way: the container is terminated, at this time. A pod that is deleted, evicted,
//! on a node that nobody hears from, or not ready, may have a process that goes on and writes; for all of those the lease
//! decides.

use chrono::{DateTime, Utc};
use curio_harmony::machines::DeadProcess;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, Pod};
use kube::ResourceExt;

use crate::pool::slot::runner;

/// What is known of a pod.
#[derive(Clone, Copy, Debug)]
pub enum Seen<'a> {
    /// It is there, and this is its status.
    Present(&'a Pod),
    /// It is gone, and this was its last status.
    Gone(&'a Pod),
}

/// A death that the kubelet has confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Death {
    pub process: DeadProcess,
    /// How it ended, in some words for a person: `exit code 137, OOMKilled`.
    pub how: String,
    /// A word for counting.
    pub cause: &'static str,
}

/// The process that has ended for certain, if one has. Telling the same twice does no harm: the release compares
/// instance and time itself.
pub fn judge(seen: Seen<'_>) -> Option<Death> {
    let (pod, cause) = match seen {
        Seen::Present(pod) => (pod, "container-ended"),
        Seen::Gone(pod) => (pod, "pod-deleted"),
    };
    let container = runner(pod)?;
    let ended = ended(container.state.as_ref()?, container.last_state.as_ref())?;
    let ended_at = finished_at(ended)?;
    let how = match ended.reason.as_deref() {
        Some(reason) => format!("exit code {}, {reason}", ended.exit_code),
        None => format!("exit code {}", ended.exit_code),
    };
    // The machine has the name of its pod.
    let process = DeadProcess { name: pod.name_any(), instance: pod.uid()?, ended_at };
    Some(Death { process, how, cause })
}

/// The last end of the container, while none runs in its place: a new process takes its tasks back itself.
fn ended<'s>(state: &'s ContainerState, last: Option<&'s ContainerState>) -> Option<&'s ContainerStateTerminated> {
    let ContainerState { running, terminated, waiting } = state;
    match (running, terminated, waiting) {
        (Some(_), ..) => None,
        (None, Some(terminated), _) => Some(terminated),
        (None, None, Some(_)) => last?.terminated.as_ref(),
        (None, None, None) => None,
    }
}

/// The kubelet's time, in whole seconds and rounded down. None when it did not see the end itself: after the loss of a node
/// it reports containers that it cannot find as `ContainerStatusUnknown`, without a time.
fn finished_at(ended: &ContainerStateTerminated) -> Option<DateTime<Utc>> {
    let finished = ended.finished_at.as_ref()?;
    DateTime::from_timestamp(finished.0.as_second(), 0)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::pool::pod::CONTAINER;

    const ENDED: &str = "2026-11-21T10:00:05Z";

    fn pod(state: Value, last: Value, more: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"name": "sealing-0", "uid": "u1"},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last,
            }]},
        });
        for (key, value) in more.as_object().expect("an object") {
            pod[key] = value.clone();
        }
        serde_json::from_value(pod).expect("a pod")
    }

    fn terminated() -> Value {
        json!({"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": ENDED}})
    }

    fn ended_at() -> DateTime<Utc> {
        ENDED.parse().expect("a time")
    }

    enum Fate {
        Present,
        Gone,
    }

    #[rstest]
    #[case::the_container_is_terminated(Fate::Present, terminated(), json!({}), true)]
    #[case::it_waits_to_be_started_again(
        Fate::Present, json!({"waiting": {"reason": "CrashLoopBackOff"}}), terminated(), true
    )]
    #[case::it_was_started_again(Fate::Present, json!({"running": {}}), terminated(), false)]
    #[case::it_runs(Fate::Present, json!({"running": {}}), json!({}), false)]
    #[case::it_was_never_started(Fate::Present, json!({"waiting": {"reason": "ContainerCreating"}}), json!({}), false)]
    #[case::nothing_is_known(Fate::Present, json!({}), terminated(), false)]
    #[case::deleted_after_it_was_terminated(Fate::Gone, terminated(), json!({}), true)]
    #[case::deleted_while_it_ran(Fate::Gone, json!({"running": {}}), json!({}), false)]
    #[case::the_kubelet_lost_it(
        Fate::Present,
        json!({"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "finishedAt": null}}),
        json!({}),
        false
    )]
    fn only_an_end_that_the_kubelet_saw_is_a_death(
        #[case] fate: Fate,
        #[case] state: Value,
        #[case] last: Value,
        #[case] dead: bool,
    ) {
        let pod = pod(state, last, json!({}));
        let expected =
            dead.then(|| DeadProcess { name: "sealing-0".to_owned(), instance: "u1".to_owned(), ended_at: ended_at() });
        let seen = match fate {
            Fate::Present => Seen::Present(&pod),
            Fate::Gone => Seen::Gone(&pod),
        };
        assert_eq!(judge(seen).map(|death| death.process), expected);
    }

    #[rstest]
    #[case::being_deleted(json!({"metadata": {
        "name": "sealing-0", "uid": "u1", "deletionTimestamp": "2026-11-21T10:01:00Z", "deletionGracePeriodSeconds": 70,
    }}))]
    #[case::failed_by_the_garbage_collector_of_a_lost_node(json!({"status": {
        "phase": "Failed",
        "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC"}],
        "containerStatuses": [{
            "name": CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"running": {}},
        }],
    }}))]
    #[case::not_ready(json!({"status": {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{
            "name": CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"running": {}},
        }],
    }}))]
    #[case::without_a_status(json!({"status": {}}))]
    fn everything_else_is_left_to_the_lease(#[case] more: Value) {
        let pod = pod(json!({"running": {}}), json!({}), more);
        assert_eq!(judge(Seen::Present(&pod)), None);
        assert_eq!(judge(Seen::Gone(&pod)), None);
    }

    #[test]
    fn an_end_is_told_with_how_it_came() {
        let pod = pod(terminated(), json!({}), json!({}));
        let death = judge(Seen::Present(&pod)).expect("it is dead");
        assert_eq!((death.how.as_str(), death.cause), ("exit code 137, OOMKilled", "container-ended"));
    }
}
