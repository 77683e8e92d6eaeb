//! What a slot of a RunnerPool becomes in Kubernetes, profile by profile, as golden files. `INSTA_UPDATE=always` writes
//! them anew.

use curio_operator::api::{CurioCluster, RunnerPool};
use curio_operator::databases::Standing;
use curio_operator::pool::claims::claims;
use curio_operator::pool::pod::{pod, template_hash};
use curio_operator::pool::validate::{ValidPool, judge};
use serde::Serialize;

const CLUSTER: &str = "
apiVersion: curio.filecoin.io/v1alpha1
kind: CurioCluster
metadata: {name: curio, namespace: sealing, uid: 7c3f2f0e-1c1b-4a57-9d7e-1f2e3d4c5b6a}
spec:
  database: {urlSecret: {name: curio-db}}
  chain: {apiSecrets: [{name: lotus}]}
  layers:
    night:
      Seal: {SeedConfidence: 5}
";

const CLUSTER_WITH_MORE: &str = "
apiVersion: curio.filecoin.io/v1alpha1
kind: CurioCluster
metadata: {name: curio, namespace: sealing, uid: 7c3f2f0e-1c1b-4a57-9d7e-1f2e3d4c5b6a}
spec:
  database: {urlSecret: {name: curio-db, key: DATABASE_URL}}
  chain: {apiSecrets: [{name: lotus}, {name: forest, key: api}]}
  images: {pullPolicy: Always, pullSecrets: [{name: registry}]}
  parameters: {source: 'http://parameters.example/'}
  storageSecret: {name: files}
";

fn valid(cluster: &str, spec: &str) -> ValidPool {
    let cluster: CurioCluster = serde_yaml_ng::from_str(cluster).expect("a CurioCluster");
    let pool = format!(
        "
apiVersion: curio.filecoin.io/v1alpha1
kind: RunnerPool
metadata: {{name: pool, namespace: sealing, uid: 1f2e3d4c-0a1b-4c2d-8e3f-5a6b7c8d9e0f}}
spec:
  cluster: curio
{spec}"
    );
    let pool: RunnerPool = serde_yaml_ng::from_str(&pool).expect("a RunnerPool");
    let judged = judge(&pool, Some(&cluster), &Standing::Unknown, Some("localhost/curio-runner:dev"));
    judged.pool.expect("there is a cluster").expect("its configuration is right")
}

fn yaml(object: &impl Serialize) -> String {
    serde_yaml_ng::to_string(object).expect("objects are plain values")
}

/// The layer, the pod and the claims of the first slot.
fn slot_of(pool: &ValidPool) -> String {
    let mut all = vec![pool.configuration.text.clone(), yaml(&pod(pool, "pool-0"))];
    all.extend(claims(pool, "pool-0").iter().map(yaml));
    all.join("---\n")
}

#[test]
fn sealing_with_volumes_of_its_own() {
    let spec = "
  profile: sealing
  layers: [night]
  scratch: {template: {storageClassName: local-path, size: 500Gi}}
  longTerm: [{name: store, template: {size: 10Ti, accessModes: [ReadWriteMany]}}]
";
    insta::assert_snapshot!("sealing", slot_of(&valid(CLUSTER, spec)));
}

#[test]
fn snark_with_its_gpu() {
    let spec = "
  profile: snark
  autoscaling: {min: 0, max: 2}
  resources: {requests: {cpu: '8', memory: 128Gi}}
  parameters: {template: {size: 120Gi}}
";
    insta::assert_snapshot!("snark", slot_of(&valid(CLUSTER, spec)));
}

#[test]
fn post_with_its_gpu_and_no_sectors() {
    let spec = "
  profile: post
  replicas: 2
  resources: {requests: {cpu: '4', memory: 32Gi}}
  parameters: {template: {size: 120Gi}}
";
    insta::assert_snapshot!("post", slot_of(&valid(CLUSTER, spec)));
}

#[test]
fn storage_on_a_shared_claim() {
    let spec = "
  profile: storage
  longTerm: [{name: shared, existingClaim: nfs}]
";
    insta::assert_snapshot!("storage", slot_of(&valid(CLUSTER, spec)));
}

#[test]
fn custom_with_everything_that_can_be_set() {
    let spec = "
  tasks: [{name: SDR, max: 2}, {name: PoRep}]
  config: {Seal: {SeedConfidence: 7}}
  gpu: {resource: amd.com/gpu, count: 2}
  resources: {limits: {memory: 256Gi}}
  nodeSelector: {disk: nvme}
  tolerations: [{key: sealing, operator: Exists}]
  affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname}]}}
  topologySpreadConstraints: [{maxSkew: 2, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]
  priorityClassName: high
  env: [{name: RUST_LOG, value: debug}]
  podLabels: {team: storage}
  podAnnotations: {note: hello}
  scratch: {existingClaim: shared-scratch}
  parameters: {existingClaim: parameters}
  gracePeriodSeconds: 600
";
    insta::assert_snapshot!("custom", slot_of(&valid(CLUSTER_WITH_MORE, spec)));
}

#[test]
fn the_hash_is_of_the_template_and_not_of_the_slot() {
    let pool = valid(CLUSTER, "  profile: snark\n");
    let hash = |slot: &str| pod(&pool, slot).metadata.annotations.expect("a pod has a hash");
    assert_eq!(hash("pool-0"), hash("pool-7"));
}

#[test]
fn a_change_of_replicas_leaves_the_hash_and_one_of_a_layer_does_not() {
    let hash = |cluster: &str, spec: &str| template_hash(&valid(cluster, spec));
    let before = hash(CLUSTER, "  profile: snark\n  layers: [night]\n");
    assert_eq!(before, hash(CLUSTER, "  profile: snark\n  layers: [night]\n  replicas: 5\n"));
    let later = CLUSTER.replace("SeedConfidence: 5", "SeedConfidence: 6");
    assert_ne!(before, hash(&later, "  profile: snark\n  layers: [night]\n"));
}
