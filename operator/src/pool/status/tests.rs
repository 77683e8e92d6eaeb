//! What a pool says in each situation; every word of it is in the reference.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use rstest::rstest;
use serde_json::{Value, json};

use super::*;
use crate::api::conditions::undocumented;
use crate::api::{CurioCluster, RunnerPool};
use crate::autoscale::Memory;
use crate::conditions::find;
use crate::databases::{ClusterKey, Standing};
use crate::pool::desired::desired;
use crate::pool::pod::{CONTAINER, TEMPLATE_HASH, template_hash};
use crate::pool::validate::{ValidPool, judge};
use crate::pool::work::{Machine, Work};

const IMAGE: &str = "runner:1";

fn pool(spec: Value) -> RunnerPool {
    let mut whole = json!({
        "apiVersion": "curio.filecoin.io/v1alpha1", "kind": "RunnerPool",
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 3},
        "spec": {"cluster": "curio", "profile": "snark", "replicas": 1},
    });
    for (key, value) in spec.as_object().expect("an object") {
        whole["spec"][key] = value.clone();
    }
    serde_json::from_value(whole).expect("a pool")
}

fn cluster(spec: Value) -> CurioCluster {
    let mut whole = json!({
        "apiVersion": "curio.filecoin.io/v1alpha1", "kind": "CurioCluster",
        "metadata": {"name": "curio", "namespace": "ns", "uid": "c", "generation": 1},
        "spec": {"database": {"urlSecret": {"name": "db"}}, "chain": {"apiSecrets": [{"name": "lotus"}]}},
    });
    for (key, value) in spec.as_object().expect("an object") {
        whole["spec"][key] = value.clone();
    }
    serde_json::from_value(whole).expect("a cluster")
}

/// The pod of slot 0 with this status, of the present template or of another.
fn pod(valid: Option<&ValidPool>, status: Value) -> Pod {
    let hash = valid.map_or_else(|| "another".to_owned(), template_hash);
    let pod = json!({
        "metadata": {"name": "p-0", "uid": "u0", "annotations": {TEMPLATE_HASH: hash}},
        "spec": {"nodeName": "node-1", "containers": []},
        "status": status,
    });
    serde_json::from_value(pod).expect("a pod")
}

fn running(ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    let mut status = container(json!({"running": {}}));
    status["conditions"] = json!([{"type": "Ready", "status": ready}]);
    status
}

fn waiting(reason: &str, message: &str) -> Value {
    container(json!({"waiting": {"reason": reason, "message": message}}))
}

fn container(state: Value) -> Value {
    json!({"phase": "Running", "containerStatuses": [{
        "name": CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 2, "state": state,
    }]})
}

fn unschedulable() -> Value {
    json!({"phase": "Pending", "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}
    ]})
}

/// A situation; what is not named is as it should be.
struct Case {
    pool: RunnerPool,
    cluster: Option<CurioCluster>,
    pod: Option<Value>,
    outdated: bool,
    work: bool,
    cluster_is_ready: bool,
    edited: bool,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            pool: pool(json!({})),
            cluster: Some(cluster(json!({}))),
            pod: Some(running(true)),
            outdated: false,
            work: true,
            cluster_is_ready: true,
            edited: false,
        }
    }
}

fn told(case: Case) -> RunnerPoolStatus {
    let standing = Standing::Unknown;
    let mut judged = judge(&case.pool, case.cluster.as_ref(), &standing, Some(IMAGE));
    if case.cluster_is_ready && case.cluster.is_some() {
        judged.cluster = Ok(());
    }
    let valid = judged.pool.as_ref().and_then(|pool| pool.as_ref().ok()).filter(|_| !case.outdated);
    let pods = case.pod.map(|status| pod(valid, status)).into_iter().collect();
    let machine = Machine { instance: "u0".to_owned(), ..Machine::default() };
    let machines = BTreeMap::from([("p-0".to_owned(), machine)]);
    let work = Work { machines, queue: Vec::new(), requests: 0, proofs_due: 0 };
    let pool = Arc::new(case.pool);
    let observed = Observed {
        siblings: vec![Arc::clone(&pool)],
        pool,
        key: ClusterKey::new("ns", "curio"),
        cluster: case.cluster,
        standing,
        image: Some(IMAGE.to_owned()),
        pods,
        claims: Vec::new(),
        work: case.work.then(|| Arc::new(work)),
        now: Timestamp::UNIX_EPOCH,
    };
    let desired = desired(&observed, &judged, Memory::default());
    let edited_layer = case.edited.then(|| "# by hand".to_owned());
    status(&observed, &judged, &desired, &Carried { edited_layer, refused: Vec::new() })
}

#[rstest]
#[case::all_is_well(Case::default(), "Ready", "True", "Ok")]
#[case::no_cluster(Case { cluster: None, ..Case::default() }, "ClusterReady", "False", "ClusterMissing")]
#[case::the_cluster_is_not_ready(
    Case { cluster_is_ready: false, ..Case::default() }, "Ready", "False", "ClusterNotReady"
)]
#[case::paused(Case { cluster: Some(cluster(json!({"paused": true}))), ..Case::default() }, "Ready", "Unknown", "Paused")]
#[case::hibernated(
    Case { cluster: Some(cluster(json!({"hibernated": true}))), pod: None, ..Case::default() }, "Ready", "True", "Hibernated"
)]
#[case::a_layer_is_missing(
    Case { pool: pool(json!({"layers": ["gone"]})), ..Case::default() }, "LayersValid", "False", "LayerMissing"
)]
#[case::a_layer_was_edited(Case { edited: true, ..Case::default() }, "LayersValid", "False", "EditedByHand")]
#[case::no_image(
    Case { pod: Some(waiting("ErrImagePull", "not found")), ..Case::default() }, "ImagesPulled", "False", "ImagePull"
)]
#[case::no_secret(
    Case { pod: Some(waiting("CreateContainerConfigError", "secret \"s\" not found")), ..Case::default() },
    "Ready", "False", "SecretMissing"
)]
#[case::no_node(Case { pod: Some(unschedulable()), ..Case::default() }, "Scheduled", "False", "Unschedulable")]
#[case::crashing(
    Case { pod: Some(waiting("CrashLoopBackOff", "")), ..Case::default() }, "Ready", "False", "Crashing"
)]
#[case::on_the_way(Case { pod: None, ..Case::default() }, "Ready", "False", "Progressing")]
#[case::not_ready(Case { pod: Some(running(false)), ..Case::default() }, "Ready", "False", "RunnersNotReady")]
#[case::older(Case { outdated: true, ..Case::default() }, "UpToDate", "False", "Replacing")]
#[case::older_and_left_alone(
    Case { outdated: true, cluster: Some(cluster(json!({"upgrade": {"policy": "Manual"}}))), ..Case::default() },
    "UpToDate", "False", "Manual"
)]
#[case::scaled_by_hand(Case::default(), "Autoscaling", "False", "Disabled")]
#[case::scaled(
    Case { pool: pool(json!({"autoscaling": {"min": 0, "max": 2}})), ..Case::default() }, "Autoscaling", "True", "Active"
)]
#[case::scaled_blindly(
    Case { pool: pool(json!({"autoscaling": {"min": 0, "max": 2}})), work: false, ..Case::default() },
    "Autoscaling", "Unknown", "DatabaseAway"
)]
#[case::scaled_without_a_configuration(
    Case { pool: pool(json!({"autoscaling": {"min": 0, "max": 2}, "layers": ["gone"]})), ..Case::default() },
    "Autoscaling", "Unknown", "InvalidValue"
)]
fn every_situation_is_a_documented_condition(
    #[case] case: Case,
    #[case] type_: &str,
    #[case] expected: &str,
    #[case] reason: &str,
) {
    let status = told(case);
    assert_eq!(undocumented(conditions::ALL, &status.conditions), Vec::<String>::new());
    let condition = find(&status.conditions, type_).expect("it is said");
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), (expected, reason), "{}", condition.message);
    assert_eq!(condition.observed_generation, Some(3));
}

#[test]
fn a_runner_is_told_with_its_node_and_what_is_wrong() {
    let status = told(Case { pod: Some(waiting("ErrImagePull", "not found")), ..Case::default() });
    let [slot] = status.slots.as_slice() else { panic!("there is one runner: {:?}", status.slots) };
    assert_eq!((slot.name.as_str(), slot.phase.as_str(), slot.node.as_deref()), ("p-0", "ImagePull", Some("node-1")));
    assert_eq!(slot.message.as_deref(), Some("not found"));
}

#[test]
fn the_selector_is_the_one_that_kubectl_scale_reads() {
    let status = told(Case::default());
    assert!(
        status.selector.ends_with("curio.filecoin.io/cluster=curio,curio.filecoin.io/pool=p"),
        "{}",
        status.selector
    );
}

#[test]
fn while_the_cluster_is_paused_the_numbers_are_told_and_nobody_leaves() {
    let paused = cluster(json!({"paused": true}));
    let status = told(Case { pool: pool(json!({"replicas": 0})), cluster: Some(paused), ..Case::default() });
    assert_eq!((status.replicas, status.ready_replicas, status.desired_runners), (1, 1, 0));
    assert!(status.slots.iter().all(|slot| !slot.leaving));
}
