//! The Pod of a slot. Pure, and held by golden files in `operator/tests/golden_pool.rs`.
//!
//! It fits into a namespace that enforces the restricted pod security standard, and has no token of Kubernetes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    LocalObjectReference, ObjectFieldSelector, PersistentVolumeClaimVolumeSource, Pod, PodSecurityContext, PodSpec,
    Probe, ResourceRequirements, SeccompProfile, SecretKeySelector, SecurityContext, TopologySpreadConstraint, Volume,
    VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::api::ObjectMeta;
use sha2::{Digest, Sha256};

use super::claims::{self, PARAMETERS, SCRATCH};
use super::validate::ValidPool;
use crate::api::common;
use crate::api::runner_pool::{Gpu, Profile};
use crate::apply::labels;

/// Name of the container that runs `curio run`.
pub const CONTAINER: &str = "runner";
/// Annotation of a runner's pod: hash of the template that it was made from.
pub const TEMPLATE_HASH: &str = "curio.filecoin.io/template-hash";
/// Variable with the secret that runners share; the pool's layer names it.
pub const STORAGE_SECRET_ENV: &str = "CURIO_STORAGE_SECRET";
/// Label of nodes whose processor has the SHA extensions, as Node Feature Discovery gives it.
pub const SHA_LABEL: &str = "feature.node.kubernetes.io/cpu-cpuid.SHA";

const PORT: i32 = 12300;
/// User and group of the image.
const USER: i64 = 65532;
/// What the kubelet allows beyond what the runner allows its tasks.
const GRACE_MARGIN_S: i64 = 10;
/// Hexadecimal digits of the template's hash; enough to tell the few templates of one pool apart.
const HASH_DIGITS: usize = 16;

/// Name of the Service by which the runners of a cluster find each other.
pub fn service(cluster: &str) -> String {
    format!("{cluster}-runners")
}

/// Hash of everything that the pods of a pool have in common, their configuration included: a runner reads its layers
/// once, when it starts.
pub fn template_hash(pool: &ValidPool) -> String {
    let template = unmarked(pool, "slot");
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(&template).expect("a pod is plain JSON"));
    for layer in &pool.configuration.layers {
        hash.update(&layer.text);
    }
    let mut digits = hex::encode(hash.finalize());
    digits.truncate(HASH_DIGITS);
    digits
}

/// The pod of this slot.
pub fn pod(pool: &ValidPool, slot: &str) -> Pod {
    let mut pod = unmarked(pool, slot);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(TEMPLATE_HASH.to_owned(), template_hash(pool));
    pod
}

fn unmarked(pool: &ValidPool, slot: &str) -> Pod {
    let spec = &pool.spec;
    let mut labels = spec.pod_labels.clone();
    labels.extend(labels::of_slot(&spec.cluster, &pool.name, slot));
    let (volumes, mounts) = volumes(pool, slot).into_iter().unzip();
    Pod {
        metadata: ObjectMeta {
            name: Some(slot.to_owned()),
            namespace: Some(pool.namespace.clone()),
            labels: Some(labels),
            annotations: Some(spec.pod_annotations.clone()).filter(|annotations| !annotations.is_empty()),
            owner_references: Some(vec![pool.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![container(pool, slot, mounts)],
            volumes: Some(volumes),
            // Gives the pod its name in the Service, so that other runners reach its files under one that stays.
            hostname: Some(slot.to_owned()),
            subdomain: Some(service(&spec.cluster)),
            restart_policy: Some("Always".to_owned()),
            termination_grace_period_seconds: Some(spec.grace_period_seconds + GRACE_MARGIN_S),
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            security_context: Some(pod_security()),
            node_selector: node_selector(pool),
            tolerations: non_empty(&spec.tolerations),
            affinity: spec.affinity.clone(),
            topology_spread_constraints: Some(spread(pool)),
            priority_class_name: spec.priority_class_name.clone(),
            image_pull_secrets: non_empty(&pull_secrets(pool)),
            ..PodSpec::default()
        }),
        status: None,
    }
}

fn container(pool: &ValidPool, slot: &str, mounts: Vec<VolumeMount>) -> Container {
    Container {
        name: CONTAINER.to_owned(),
        image: Some(pool.image.clone()),
        image_pull_policy: Some(pool.cluster.images.pull_policy.as_str().to_owned()),
        args: Some(arguments(pool, slot)),
        env: Some(environment(pool)),
        ports: Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: PORT,
            ..ContainerPort::default()
        }]),
        resources: resources(pool),
        volume_mounts: Some(mounts),
        // A runner that proves has all its cores at work and may answer late; one that hangs for two minutes is dead.
        liveness_probe: Some(probe("/healthz", 10, 12)),
        readiness_probe: Some(probe("/readyz", 5, 2)),
        security_context: Some(container_security()),
        // The last words of a runner that cannot start are the message of its status.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        ..Container::default()
    }
}

fn arguments(pool: &ValidPool, slot: &str) -> Vec<String> {
    let ValidPool { namespace, spec, configuration, .. } = pool;
    let service = service(&spec.cluster);
    let mut arguments = vec![
        "run".to_owned(),
        "--name".to_owned(),
        slot.to_owned(),
        "--listen".to_owned(),
        format!("0.0.0.0:{PORT}"),
        "--advertise".to_owned(),
        format!("{slot}.{service}.{namespace}.svc:{PORT}"),
        "--layers".to_owned(),
        configuration.names.join(","),
        "--grace".to_owned(),
        format!("{}s", spec.grace_period_seconds),
    ];
    let scratch = spec.scratch.iter().map(|_| "seal=/scratch".to_owned());
    let stores = spec.long_term.iter().map(|store| format!("store={}", store_path(&store.name)));
    for path in scratch.chain(stores) {
        arguments.extend(["--attach".to_owned(), path]);
    }
    arguments
}

fn store_path(name: &str) -> String {
    format!("/store/{name}")
}

fn environment(pool: &ValidPool) -> Vec<EnvVar> {
    let ValidPool { spec, cluster, .. } = pool;
    let mut environment = vec![secret("CURIO_DB_URL", (&cluster.database.url_secret).into())];
    environment.extend(chain(pool));
    environment.push(secret(STORAGE_SECRET_ENV, storage_secret(pool)));
    environment.push(EnvVar {
        name: "CURIO_INSTANCE".to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { field_path: "metadata.uid".to_owned(), api_version: None }),
            ..EnvVarSource::default()
        }),
        value: None,
    });
    environment.push(plain("CURIO_LOG_FORMAT", "json"));
    environment.push(plain("FIL_PROOFS_PARAMETER_CACHE", "/parameters"));
    // SDR keeps a cache of the graph, which is worth more on a disk that stays.
    let parents = if spec.scratch.is_some() { "/scratch/parents" } else { "/tmp/parents" };
    environment.push(plain("FIL_PROOFS_PARENT_CACHE", parents));
    if let Some(parameters) = &cluster.parameters {
        environment.push(plain("CURIO_PARAMETERS_URL", &parameters.source));
    }
    environment.extend(spec.env.iter().cloned());
    environment
}

/// Chain nodes in order of preference. Several are several variables, which the kubelet puts together: the tokens do not
/// pass through the operator.
fn chain(pool: &ValidPool) -> Vec<EnvVar> {
    const NAME: &str = "FULLNODE_API_INFO";
    let secrets = &pool.cluster.chain.api_secrets;
    if let [only] = secrets.as_slice() {
        return vec![secret(NAME, only.into())];
    }
    let names: Vec<String> = (0..secrets.len()).map(|number| format!("CURIO_CHAIN_{number}")).collect();
    let mut variables: Vec<EnvVar> = names.iter().zip(secrets).map(|(name, node)| secret(name, node.into())).collect();
    let joined = names.iter().map(|name| format!("$({name})")).collect::<Vec<_>>().join(",");
    variables.push(plain(NAME, &joined));
    variables
}

/// The user's Secret, or the one that the controller of the cluster makes.
fn storage_secret(pool: &ValidPool) -> SecretKeySelector {
    match &pool.cluster.storage_secret {
        Some(secret) => secret.into(),
        None => SecretKeySelector {
            name: format!("{}-storage-rpc", pool.spec.cluster),
            key: "secret".to_owned(),
            optional: None,
        },
    }
}

fn secret(name: &str, selector: SecretKeySelector) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() }),
        value: None,
    }
}

fn plain(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), value_from: None }
}

/// Every volume with its mount.
fn volumes(pool: &ValidPool, slot: &str) -> Vec<(Volume, VolumeMount)> {
    let spec = &pool.spec;
    let mut volumes = vec![(empty("tmp"), mount("tmp", "/tmp"))];
    if let Some(common::Volume { existing_claim, .. }) = &spec.scratch {
        let mut scratch = mount(SCRATCH, "/scratch");
        // On a claim that all runners share each has a folder of its own: a sealing path belongs to one machine.
        scratch.sub_path = existing_claim.as_ref().map(|_| slot.to_owned());
        volumes.push((claimed(SCRATCH, slot, existing_claim.as_deref()), scratch));
    }
    for common::NamedVolume { name, existing_claim, .. } in &spec.long_term {
        // One that all runners share is one path that they all reach.
        volumes.push((claimed(name, slot, existing_claim.as_deref()), mount(name, &store_path(name))));
    }
    let parameters = match &spec.parameters {
        Some(common::Volume { existing_claim, .. }) => claimed(PARAMETERS, slot, existing_claim.as_deref()),
        None => empty(PARAMETERS),
    };
    volumes.push((parameters, mount(PARAMETERS, "/parameters")));
    volumes
}

fn empty(name: &str) -> Volume {
    Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

fn claimed(name: &str, slot: &str, existing: Option<&str>) -> Volume {
    let claim_name = existing.map_or_else(|| claims::name(slot, name), str::to_owned);
    let source = PersistentVolumeClaimVolumeSource { claim_name, read_only: None };
    Volume { name: name.to_owned(), persistent_volume_claim: Some(source), ..Volume::default() }
}

fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// The GPU of each runner of a pool, if it has one.
pub fn gpu(pool: &ValidPool) -> Option<Gpu> {
    let of_profile = || match pool.spec.profile {
        Profile::Snark | Profile::Post => Some(Gpu { resource: "nvidia.com/gpu".to_owned(), count: 1 }),
        Profile::Sealing | Profile::Storage | Profile::Custom => None,
    };
    pool.spec.gpu.clone().or_else(of_profile).filter(|gpu| gpu.count > 0)
}

fn resources(pool: &ValidPool) -> Option<ResourceRequirements> {
    let Some(Gpu { resource, count }) = gpu(pool) else { return pool.spec.resources.clone() };
    let mut resources = pool.spec.resources.clone().unwrap_or_default();
    resources.limits.get_or_insert_default().insert(resource, Quantity(count.to_string()));
    Some(resources)
}

fn node_selector(pool: &ValidPool) -> Option<BTreeMap<String, String>> {
    let of_profile = match pool.spec.profile {
        Profile::Sealing => Some(BTreeMap::from([(SHA_LABEL.to_owned(), "true".to_owned())])),
        Profile::Snark | Profile::Post | Profile::Storage | Profile::Custom => None,
    };
    pool.spec.node_selector.clone().or(of_profile).filter(|selector| !selector.is_empty())
}

/// Over nodes as evenly as can be, unless the pool says otherwise: a node that is lost then takes as few runners as
/// can be with it.
fn spread(pool: &ValidPool) -> Vec<TopologySpreadConstraint> {
    let given = &pool.spec.topology_spread_constraints;
    if !given.is_empty() {
        return given.clone();
    }
    vec![TopologySpreadConstraint {
        max_skew: 1,
        topology_key: "kubernetes.io/hostname".to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector {
            match_labels: Some(labels::of_pool(&pool.spec.cluster, &pool.name)),
            match_expressions: None,
        }),
        ..TopologySpreadConstraint::default()
    }]
}

fn pull_secrets(pool: &ValidPool) -> Vec<LocalObjectReference> {
    let secrets = pool.cluster.images.pull_secrets.iter();
    secrets.map(|secret| LocalObjectReference { name: secret.name.clone() }).collect()
}

fn probe(path: &str, period_s: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period_s),
        timeout_seconds: Some(5),
        failure_threshold: Some(failures),
        ..Probe::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        // A volume of 500 GiB is not walked at every start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

fn non_empty<T: Clone>(items: &[T]) -> Option<Vec<T>> {
    (!items.is_empty()).then(|| items.to_vec())
}
