//! Kubernetes events: what turned, said once, in words. An event that cannot be written is logged; no
//! reconcile fails because of one.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tracing::warn;

use crate::api::conditions::reason;
use crate::apply::FIELD_MANAGER;
use crate::conditions::{find, turned};

/// The API server refuses longer notes.
const LONGEST_NOTE: usize = 1024;

/// Writes events as the operator; equal ones within some minutes become one that counts.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// `instance` is the name of our pod.
    pub fn new(client: Client, instance: Option<String>) -> Events {
        let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance };
        Events { recorder: Recorder::new(client, reporter) }
    }

    /// Something happened as it should. `reason` is one word in PascalCase, `note` a sentence.
    pub async fn normal(&self, about: &ObjectReference, reason: &str, note: String) {
        self.publish(EventType::Normal, about, None, reason, reason, note).await;
    }

    /// Something is not as it should be.
    pub async fn warning(&self, about: &ObjectReference, reason: &str, note: String) {
        self.publish(EventType::Warning, about, None, reason, reason, note).await;
    }

    /// As [`normal`](Events::normal), with the second object that it is about: events that differ only in
    /// their note are counted as one, those about different second objects are not.
    pub async fn normal_with(&self, about: &ObjectReference, other: ObjectReference, reason: &str, note: String) {
        self.publish(EventType::Normal, about, Some(other), reason, reason, note).await;
    }

    /// One event for each condition whose status or reason has turned. Of a new object only what is bad is
    /// told: that the rest is well is no news.
    pub async fn turns(&self, about: &ObjectReference, before: &[Condition], after: &[Condition]) {
        for condition in turned(before, after) {
            let (severity, note) = telling(condition);
            if severity == EventType::Warning || find(before, &condition.type_).is_some() {
                // The type as the action keeps two conditions apart that turned for the same reason.
                self.publish(severity, about, None, &condition.type_, &condition.reason, note).await;
            }
        }
    }

    async fn publish(
        &self,
        type_: EventType,
        about: &ObjectReference,
        secondary: Option<ObjectReference>,
        action: &str,
        reason: &str,
        mut note: String,
    ) {
        note.truncate(note.floor_char_boundary(LONGEST_NOTE));
        let event = Event { type_, reason: reason.to_owned(), note: Some(note), action: action.to_owned(), secondary };
        if let Err(error) = self.recorder.publish(&event, about).await {
            let name = about.name.as_deref().unwrap_or_default();
            warn!(error = &error as &dyn std::error::Error, "failed to write event {reason} of {name}");
        }
    }
}

/// A condition as an event. What a person asked for, or what is on its way, is no warning.
fn telling(condition: &Condition) -> (EventType, String) {
    const BY_REQUEST: [&str; 3] = ["Paused", "Hibernated", "Autoscaling"];
    const UNDER_WAY: [&str; 6] = [
        reason::PROGRESSING,
        reason::MIGRATING,
        reason::REPLACING,
        reason::PAUSED,
        reason::HIBERNATED,
        reason::RUNNERS_NOT_READY,
    ];
    const BAD_WHEN_TRUE: [&str; 2] = ["Failed", "Stuck"];
    let type_ = condition.type_.as_str();
    let bad = if BAD_WHEN_TRUE.contains(&type_) { "True" } else { "False" };
    let expected = BY_REQUEST.contains(&type_) || UNDER_WAY.contains(&condition.reason.as_str());
    let severity = if condition.status == bad && !expected { EventType::Warning } else { EventType::Normal };
    (severity, format!("{type_} is {}: {}", condition.status.to_lowercase(), condition.message))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use rstest::rstest;

    use super::*;
    use crate::conditions::{Said, merge};

    #[rstest]
    #[case(Said::no("DatabaseReady", "Unreachable", "no answer"), EventType::Warning)]
    #[case(Said::yes("DatabaseReady", "Ok", "answers"), EventType::Normal)]
    #[case(Said::no("Paused", "NotRequested", "goes on"), EventType::Normal)]
    #[case(Said::no("SchemaMigrated", "Migrating", "the Job runs"), EventType::Normal)]
    #[case(Said::yes("Failed", "Sealing", "no room"), EventType::Warning)]
    #[case(Said::no("Failed", "Retried", "again"), EventType::Normal)]
    #[case(Said::unknown("LayersInSync", "DatabaseAway", "cannot tell"), EventType::Normal)]
    fn what_is_bad_is_a_warning(#[case] said: Said, #[case] expected: EventType) {
        let conditions = merge(&[], vec![said], None, Timestamp::UNIX_EPOCH);
        assert_eq!(telling(&conditions[0]).0, expected);
    }
}
