//! What is told of a sector as events: turns of its conditions, and what was done because somebody asked. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::api::conditions::{reason, sector};
use crate::conditions::{Status, find, turned};

/// Something to tell as an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    pub warning: bool,
    pub reason: String,
    pub note: String,
}

/// Conditions that have turned in a way that a person wants to know of.
pub fn of_turns(before: &[Condition], after: &[Condition]) -> Vec<News> {
    let told = turned(before, after).into_iter().filter_map(|condition| {
        let old = find(before, &condition.type_);
        let news = |warning: bool, reason: &str| {
            Some(News { warning, reason: reason.to_owned(), note: condition.message.clone() })
        };
        match (condition.type_.as_str(), condition.status == Status::True.as_str(), condition.reason.as_str()) {
            // The condition Failed says it already.
            (sector::STUCK, true, reason::TASK_FAILED) => None,
            (sector::STUCK, false, _) if old.is_some_and(|old| old.reason == reason::TASK_FAILED) => None,
            // So does Accepted.
            (sector::FAILED, true, reason::REFUSED | reason::MINER_NOT_ALLOWED) => None,
            (type_ @ (sector::FAILED | sector::STUCK), true, _) => news(true, type_),
            // That a new sector has not failed is no news.
            (sector::FAILED | sector::STUCK, false, _) => old.and_then(|_| news(false, "Recovered")),
            // The cluster tells what keeps it from being ready by itself.
            (sector::ACCEPTED, false, reason::WAITING | reason::PAUSED | reason::CLUSTER_NOT_READY) => None,
            (sector::ACCEPTED, false, why) => news(true, why),
            (sector::REMOVAL_PENDING, false, why) => news(why == reason::REMOVAL_REFUSED, why),
            (type_, true, _) => news(false, type_),
            (_, false, _) => None,
        }
    });
    told.collect()
}

/// What a retry that somebody asked for did.
pub fn of_retry(tasks: &[i64]) -> News {
    let ids: Vec<String> = tasks.iter().map(i64::to_string).collect();
    let note = match tasks {
        [] => "there was nothing to try again".to_owned(),
        [_] => format!("task {} has all its attempts again", ids.join(", ")),
        _ => format!("tasks {} have all their attempts again", ids.join(", ")),
    };
    News { warning: false, reason: "Retried".to_owned(), note }
}
