//! What a CurioCluster becomes in Kubernetes, as golden files. `INSTA_UPDATE=always` writes them anew.

use curio_operator::api::CurioCluster;
use curio_operator::cluster::desired::{self, Policies};
use curio_operator::cluster::validate;
use serde::Serialize;

/// The least that a person writes.
const SMALLEST: &str = "
apiVersion: curio.filecoin.io/v1alpha1
kind: CurioCluster
metadata: {name: curio, namespace: sealing, uid: 7c3f2f0e-1c1b-4a57-9d7e-1f2e3d4c5b6a}
spec:
  database: {urlSecret: {name: curio-db}}
  chain: {apiSecrets: [{name: lotus}]}
";

const COMPLETE: &str = "
apiVersion: curio.filecoin.io/v1alpha1
kind: CurioCluster
metadata: {name: curio, namespace: sealing, uid: 7c3f2f0e-1c1b-4a57-9d7e-1f2e3d4c5b6a}
spec:
  database: {urlSecret: {name: curio-db, key: DATABASE_URL}}
  chain: {apiSecrets: [{name: lotus}, {name: forest, key: api}]}
  miners: [f01000]
  layers:
    base:
      Subsystems: {EnableSealSDR: true, SealSDRMaxTasks: 2}
      Fees: {DefaultMaxFee: 0.05 FIL}
    messages:
      Addresses: [{MinerAddresses: [f01000]}]
  images: {runner: 'registry.example/curio-runner:1.2', pullPolicy: Always, pullSecrets: [{name: registry}]}
  networkPolicies: false
  storageSecret: {name: files}
";

const IMAGE: &str = "localhost/curio-runner:dev";
const MARK: &str = "0a1b2c3d";

fn cluster(yaml: &str) -> CurioCluster {
    serde_yaml_ng::from_str(yaml).expect("a CurioCluster")
}

fn yaml(object: &impl Serialize) -> String {
    serde_yaml_ng::to_string(object).expect("objects are plain values")
}

#[test]
fn the_smallest_cluster() {
    let cluster = cluster(SMALLEST);
    let desired = desired::desired(&cluster);
    let mut all = vec![yaml(&desired.service), yaml(&desired.budget)];
    match &desired.policies {
        Policies::Present(policies) => all.extend(policies.iter().map(yaml)),
        Policies::Absent(names) => panic!("{names:?} are there unless the spec says otherwise"),
    }
    all.push(yaml(&desired::storage_secret(&cluster, "c2VjcmV0".to_owned())));
    insta::assert_snapshot!("smallest", all.join("---\n"));
}

/// The API server drops empty lists and maps, so that every apply of one would be a change, and every change
/// of an owned object the next reconcile: the operator once wrote policies twenty times a second.
#[test]
fn nothing_that_is_applied_again_and_again_has_an_empty_list() {
    let Policies::Present(policies) = desired::desired(&cluster(SMALLEST)).policies else {
        panic!("there are policies")
    };
    for policy in &policies {
        // An empty selector is another thing: it means everything, and is kept.
        assert!(!yaml(policy).contains("[]"), "{}", yaml(policy));
    }
}

#[test]
fn the_migration_job() {
    let cluster = cluster(SMALLEST);
    let image = desired::runner_image(&cluster.spec, Some(IMAGE)).expect("the operator brings one");
    insta::assert_snapshot!("migration", yaml(&desired::migration_job(&cluster, image, MARK)));
}

#[test]
fn the_migration_job_of_a_registry_that_asks_for_a_secret() {
    let cluster = cluster(COMPLETE);
    let image = desired::runner_image(&cluster.spec, Some(IMAGE)).expect("the spec names one");
    insta::assert_snapshot!("migration_complete", yaml(&desired::migration_job(&cluster, image, MARK)));
}

#[test]
fn the_layers_that_are_written() {
    let layers = validate::layers(&cluster(COMPLETE).spec).expect("they are right");
    let texts: Vec<String> = layers.iter().map(|layer| format!("# {}\n{}", layer.title, layer.text)).collect();
    insta::assert_snapshot!("layers", texts.join("\n"));
}

#[test]
fn policies_that_are_switched_off_are_to_go() {
    let absent = Policies::Absent(vec!["curio-runners".to_owned(), "curio-migration".to_owned()]);
    assert_eq!(desired::desired(&cluster(COMPLETE)).policies, absent);
}

#[test]
fn another_image_or_database_is_another_migration() {
    let name = |image, mark| desired::migration_job_name("curio", image, mark);
    assert_eq!(name(IMAGE, MARK), name(IMAGE, MARK));
    assert_ne!(name(IMAGE, MARK), name("localhost/curio-runner:next", MARK));
    assert_ne!(name(IMAGE, MARK), name(IMAGE, "ffffffff"));
}
