//! What a sequence of watch events says about deaths.

use serde_json::json;

use super::*;
use crate::pool::pod::CONTAINER;

fn pod(uid: &str, ended_at: Option<&str>) -> Pod {
    let state = match ended_at {
        Some(at) => json!({"terminated": {"exitCode": 1, "finishedAt": at}}),
        None => json!({"running": {}}),
    };
    let pod = json!({
        "metadata": {"name": "p-0", "namespace": "ns", "uid": uid, "labels": {labels::CLUSTER: "curio"}},
        "status": {"containerStatuses": [{
            "name": CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state,
        }]},
    });
    serde_json::from_value(pod).expect("a pod")
}

fn uids(reports: Vec<Report>) -> Vec<String> {
    reports.into_iter().map(|report| report.death.process.instance).collect()
}

const FIRST: &str = "2026-11-21T10:00:00Z";
const SECOND: &str = "2026-11-21T10:00:30Z";

#[test]
fn every_end_is_reported_once() {
    let mut watched = Watched::default();
    assert!(watched.deaths(watcher::Event::Apply(pod("u", None))).is_empty());
    assert_eq!(uids(watched.deaths(watcher::Event::Apply(pod("u", Some(FIRST))))), ["u"]);
    assert!(watched.deaths(watcher::Event::Apply(pod("u", Some(FIRST)))).is_empty());
    assert_eq!(uids(watched.deaths(watcher::Event::Apply(pod("u", Some(SECOND))))), ["u"], "it has ended again");
    assert!(watched.deaths(watcher::Event::Delete(pod("u", Some(SECOND)))).is_empty());
}

#[test]
fn a_pod_that_went_after_its_end_while_nobody_watched_is_found_by_the_next_list() {
    let mut watched = Watched::default();
    watched.deaths(watcher::Event::Init);
    assert_eq!(uids(watched.deaths(watcher::Event::InitApply(pod("dead", Some(FIRST))))), ["dead"]);
    assert!(watched.deaths(watcher::Event::InitApply(pod("alive", None))).is_empty());
    assert!(watched.deaths(watcher::Event::InitDone).is_empty());
    // The next list has neither: the first was reported, of the second nobody knows how it ended.
    watched.deaths(watcher::Event::Init);
    assert!(watched.deaths(watcher::Event::InitDone).is_empty());
    assert!(watched.reported.is_empty() && watched.pods.is_empty(), "nothing of them is kept");
}

#[test]
fn a_report_names_the_cluster_of_the_pod() {
    let reports = Watched::default().deaths(watcher::Event::Apply(pod("u", Some(FIRST))));
    assert_eq!(reports[0].key, ClusterKey::new("ns", "curio"));
}

#[test]
fn what_was_released_is_told_in_words() {
    let task = |id, failed| ReleasedTask { id, kind: "SDR".to_owned(), attempt: 2, failed };
    assert_eq!(in_words(&[task(7, false), task(8, true)]), "SDR 7 (attempt 2), SDR 8 (attempt 2, its last)");
    assert_eq!(in_words(&[]), "nothing");
}
