//! Conditions of a status in the form of `metav1.Condition`: what a controller has to say is merged with
//! what the object says already, so that the time of the last transition stays right.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// The API server refuses longer messages.
const LONGEST_MESSAGE: usize = 32_000;

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    True,
    False,
    /// It cannot be told now.
    Unknown,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

/// One thing that a controller says about an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub type_: &'static str,
    pub status: Status,
    /// One word in PascalCase that programs may depend on.
    pub reason: &'static str,
    /// A sentence for a person.
    pub message: String,
}

impl Said {
    pub fn yes(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Said {
        Said { type_, status: Status::True, reason, message: message.into() }
    }

    pub fn no(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Said {
        Said { type_, status: Status::False, reason, message: message.into() }
    }

    pub fn unknown(type_: &'static str, reason: &'static str, message: impl Into<String>) -> Said {
        Said { type_, status: Status::Unknown, reason, message: message.into() }
    }
}

/// The conditions of a status from what is said now. The time of the last transition is kept while the
/// status of a type stays; a type that is not said any more goes.
pub fn merge(before: &[Condition], said: Vec<Said>, generation: Option<i64>, now: Timestamp) -> Vec<Condition> {
    said.into_iter()
        .map(|Said { type_, status, reason, mut message }| {
            let same = find(before, type_).filter(|condition| condition.status == status.as_str());
            message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
            Condition {
                type_: type_.to_owned(),
                status: status.as_str().to_owned(),
                reason: reason.to_owned(),
                message,
                observed_generation: generation,
                last_transition_time: same.map_or(Time(now), |condition| condition.last_transition_time.clone()),
            }
        })
        .collect()
}

/// Those of `after` whose status or reason differs from `before`, or that are new.
pub fn turned<'c>(before: &[Condition], after: &'c [Condition]) -> Vec<&'c Condition> {
    after
        .iter()
        .filter(|new| find(before, &new.type_).is_none_or(|old| old.status != new.status || old.reason != new.reason))
        .collect()
}

/// The condition of this type.
pub fn find<'c>(conditions: &'c [Condition], type_: &str) -> Option<&'c Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a small number")
    }

    #[test]
    fn a_status_that_stays_keeps_its_time_and_takes_the_new_words() {
        let before = merge(&[], vec![Said::no("Ready", "SecretMissing", "no secret")], Some(1), at(10));
        let after = merge(&before, vec![Said::no("Ready", "Unreachable", "no answer")], Some(2), at(20));
        assert_eq!(after[0].last_transition_time, Time(at(10)));
        assert_eq!((after[0].reason.as_str(), after[0].observed_generation), ("Unreachable", Some(2)));
        assert_eq!(turned(&before, &after).len(), 1, "another reason is worth an event");
    }

    #[test]
    fn a_status_that_turns_takes_the_time_of_the_turn() {
        let before = merge(&[], vec![Said::no("Ready", "Starting", "")], Some(1), at(10));
        let after = merge(&before, vec![Said::yes("Ready", "Ok", "")], Some(1), at(20));
        assert_eq!(after[0].last_transition_time, Time(at(20)));
    }

    #[test]
    fn another_message_alone_is_no_turn() {
        let before = merge(&[], vec![Said::yes("Ready", "Ok", "3 runners")], Some(1), at(10));
        let after = merge(&before, vec![Said::yes("Ready", "Ok", "4 runners")], Some(1), at(20));
        assert_eq!(turned(&before, &after), Vec::<&Condition>::new());
    }

    #[test]
    fn what_is_not_said_any_more_goes() {
        let before = merge(&[], vec![Said::yes("Paused", "Paused", ""), Said::yes("Ready", "Ok", "")], None, at(10));
        let after = merge(&before, vec![Said::yes("Ready", "Ok", "")], None, at(20));
        assert_eq!(after.len(), 1);
    }

    #[test]
    fn a_message_that_is_too_long_is_cut_between_letters() {
        let said = Said::no("Ready", "Long", "ä".repeat(LONGEST_MESSAGE));
        let merged = merge(&[], vec![said], None, at(0));
        assert!(merged[0].message.len() <= LONGEST_MESSAGE);
    }
}
