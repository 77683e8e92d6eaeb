//! What a CurioCluster is to have in Kubernetes. Pure: the same spec gives the same objects, and golden
//! files hold them.

mod migration_job;
mod network;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

pub use self::migration_job::{migration_job, migration_job_name};
use crate::api::{CurioCluster, CurioClusterSpec};
use crate::apply::{labels, owned_by};

/// Port of every runner: probes, numbers, and files for other runners.
pub const RUNNER_PORT: i32 = 12300;

/// Key of the Secret with the storage secret that the operator makes.
pub const STORAGE_SECRET_KEY: &str = "secret";

/// No set of runners is ever this large.
const MORE_THAN_ALL: i32 = 1_000_000;

/// What there is to be beside Job, Secret and layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    pub service: Service,
    pub budget: PodDisruptionBudget,
    /// Those that the spec switches off are to go.
    pub policies: Policies,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Policies {
    Present(Vec<NetworkPolicy>),
    /// Names.
    Absent(Vec<String>),
}

/// All of it.
pub fn desired(cluster: &CurioCluster) -> Desired {
    let policies = network::policies(cluster);
    let policies = if cluster.spec.network_policies {
        Policies::Present(policies)
    } else {
        Policies::Absent(policies.iter().map(ResourceExt::name_any).collect())
    };
    Desired { service: service(cluster), budget: budget(cluster), policies }
}

/// The image of this cluster's runners. `default` is the one that came with the operator.
pub fn runner_image<'a>(spec: &'a CurioClusterSpec, default: Option<&'a str>) -> Option<&'a str> {
    spec.images.runner.as_deref().or(default).filter(|image| !image.is_empty())
}

/// Name of the headless Service below which every runner has a name of its own.
pub fn runners_service(cluster: &str) -> String {
    format!("{cluster}-runners")
}

/// Name of the Secret that the operator makes when the spec names none.
pub fn storage_secret_name(cluster: &str) -> String {
    format!("{cluster}-storage-rpc")
}

/// The Secret with what runners sign requests for each other's files with. Made once: another value would
/// cut runners off from each other until all have it.
pub fn storage_secret(cluster: &CurioCluster, secret: String) -> Secret {
    let data = [(STORAGE_SECRET_KEY.to_owned(), ByteString(secret.into_bytes()))];
    Secret {
        metadata: metadata(cluster, storage_secret_name(&cluster.name_any())),
        immutable: Some(true),
        type_: Some("Opaque".to_owned()),
        data: Some(data.into()),
        ..Secret::default()
    }
}

fn service(cluster: &CurioCluster) -> Service {
    let name = cluster.name_any();
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: RUNNER_PORT,
        protocol: Some("TCP".to_owned()),
        app_protocol: Some("http".to_owned()),
        ..ServicePort::default()
    };
    Service {
        metadata: metadata(cluster, runners_service(&name)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // A runner that is not ready, because its chain node is away, still has files that others need.
            publish_not_ready_addresses: Some(true),
            selector: Some(labels::of_runners(&name)),
            ports: Some(vec![port]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// No busy runner is evicted. A minimum larger than any set, not a maximum of 0: for that the number of pods
/// would be read from the pools' scale, which says something else while a pool scales by itself.
fn budget(cluster: &CurioCluster) -> PodDisruptionBudget {
    let name = cluster.name_any();
    let busy = labels::with(labels::of_runners(&name), labels::BUSY, "true");
    PodDisruptionBudget {
        metadata: metadata(cluster, format!("{name}-busy")),
        spec: Some(PodDisruptionBudgetSpec {
            min_available: Some(IntOrString::Int(MORE_THAN_ALL)),
            selector: Some(LabelSelector { match_labels: Some(busy), match_expressions: None }),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// Of everything that a cluster owns.
fn metadata(cluster: &CurioCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: cluster.namespace(),
        labels: Some(labels::of_cluster(&cluster.name_any())),
        owner_references: Some(vec![owned_by(cluster)]),
        ..ObjectMeta::default()
    }
}
