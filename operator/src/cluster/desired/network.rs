//! Who may reach the pods of a cluster. Only what comes in is limited: where runners go, to databases, chain
//! nodes and machines of every kind, differs from site to site.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use super::{RUNNER_PORT, metadata};
use crate::api::CurioCluster;
use crate::apply::{FIELD_MANAGER, labels};

/// A namespace with this label may read the runners' numbers; so may one called `monitoring`.
const MONITORING_LABEL: &str = "curio.filecoin.io/monitoring";
/// Every namespace has its name under this label.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn policies(cluster: &CurioCluster) -> Vec<NetworkPolicy> {
    vec![runners(cluster), migration(cluster)]
}

/// Runners are reached by each other, by the operator, and by what collects their numbers.
fn runners(cluster: &CurioCluster) -> NetworkPolicy {
    let name = cluster.name_any();
    let runners = labels::of_runners(&name);
    let from = vec![
        NetworkPolicyPeer { pod_selector: Some(matching(runners.clone())), ..NetworkPolicyPeer::default() },
        NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector::default()),
            pod_selector: Some(matching([(labels::NAME.to_owned(), FIELD_MANAGER.to_owned())].into())),
            ip_block: None,
        },
        namespace_with(NAMESPACE_LABEL, "monitoring"),
        namespace_with(MONITORING_LABEL, "true"),
    ];
    let port = NetworkPolicyPort {
        port: Some(IntOrString::Int(RUNNER_PORT)),
        protocol: Some("TCP".to_owned()),
        end_port: None,
    };
    let rule = NetworkPolicyIngressRule { from: Some(from), ports: Some(vec![port]) };
    policy(cluster, format!("{name}-runners"), runners, Some(vec![rule]))
}

/// Nobody talks to a migration.
fn migration(cluster: &CurioCluster) -> NetworkPolicy {
    let name = cluster.name_any();
    let pods = labels::with(labels::of_cluster(&name), labels::COMPONENT, labels::MIGRATION);
    // Not an empty list: the API server drops it, so every apply would be a change, and every change a reconcile.
    policy(cluster, format!("{name}-migration"), pods, None)
}

fn policy(
    cluster: &CurioCluster,
    name: String,
    pods: labels::Labels,
    ingress: Option<Vec<NetworkPolicyIngressRule>>,
) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(cluster, name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(matching(pods)),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress,
            egress: None,
        }),
    }
}

fn namespace_with(key: &str, value: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(matching([(key.to_owned(), value.to_owned())].into())),
        ..NetworkPolicyPeer::default()
    }
}

fn matching(labels: labels::Labels) -> LabelSelector {
    LabelSelector { match_labels: Some(labels), match_expressions: None }
}
