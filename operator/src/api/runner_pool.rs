//! RunnerPool: equal runners for some kinds of work.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, EnvVar, ResourceRequirements, Toleration, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ConfigObject, NamedVolume, Volume, config_object, kubernetes};

/// Equal runners of one cluster for some kinds of work.
///
/// The operator makes the pods and claims itself: names stay (`<pool>-0`, `<pool>-1`, ...), it picks who leaves, and a
/// runner that has work is never stopped for the sake of the pool.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "curio.filecoin.io",
    version = "v1alpha1",
    kind = "RunnerPool",
    namespaced,
    status = "RunnerPoolStatus",
    derive = "PartialEq",
    shortname = "pool",
    category = "curio",
    cel,
    doc = "Equal runners of one CurioCluster for some kinds of work. The operator makes their pods and claims: names stay (<pool>-0, <pool>-1, ...), it picks who leaves, and a runner that has work is never stopped for the sake of the pool.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Cluster", type_ = "string", json_path = ".spec.cluster"),
    printcolumn(name = "Desired", type_ = "integer", json_path = ".status.desiredRunners"),
    printcolumn(name = "Runners", type_ = "integer", json_path = ".status.replicas"),
    printcolumn(name = "Ready", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Busy", type_ = "integer", json_path = ".status.busyReplicas"),
    printcolumn(name = "Pinned", type_ = "integer", json_path = ".status.pinnedReplicas", priority = 1),
    printcolumn(name = "Profile", type_ = "string", json_path = ".spec.profile", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.desiredReason", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = (
        "self.metadata.name.matches('^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$')",
        "the name of a RunnerPool becomes part of host names: use at most 40 lower-case letters, digits and hyphens, a letter first"
    )
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "self.profile != 'custom' || size(self.tasks) > 0 || size(self.layers) > 0 || has(self.config)",
    "a pool without a profile must say what its runners do: set profile, or tasks, layers or config"
))]
pub struct RunnerPoolSpec {
    /// Name of the CurioCluster in the same namespace.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = ("self == oldSelf", "a pool cannot move to another cluster: make a new pool there"))]
    pub cluster: String,
    /// What the runners are for; gives kinds of tasks, node selector and GPU unless these are set here.
    #[serde(default)]
    pub profile: Profile,
    /// Names of layers of the cluster that apply to this pool, later ones winning. The pool's own layer comes last.
    #[serde(default)]
    #[schemars(length(max = 32), inner(length(min = 1, max = 63)))]
    pub layers: Vec<String>,
    /// Kinds of tasks that the runners do; when given, it takes the place of the profile's.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub tasks: Vec<PoolTask>,
    /// Further configuration of these runners: sections and keys as in the configuration reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "config_object")]
    pub config: Option<ConfigObject>,
    /// How many runners there are to be; with `autoscaling`, the operator's own count takes its place.
    #[serde(default = "RunnerPoolSpec::default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// Lets the work that waits decide how many runners there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Requests and limits of a runner's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "kubernetes::<ResourceRequirements>")]
    pub resources: Option<ResourceRequirements>,
    /// GPU of each runner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// Labels of the nodes that may have runners; when given, it takes the place of the profile's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub node_selector: Option<BTreeMap<String, String>>,
    /// Taints that the runners bear, as in a pod.
    #[serde(default)]
    #[schemars(schema_with = "kubernetes::<Vec<Toleration>>")]
    pub tolerations: Vec<Toleration>,
    /// Affinity, as in a pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "kubernetes::<Affinity>")]
    pub affinity: Option<Affinity>,
    /// How the runners spread, as in a pod.
    #[serde(default)]
    #[schemars(schema_with = "kubernetes::<Vec<TopologySpreadConstraint>>")]
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class of the pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub priority_class_name: Option<String>,
    /// Further environment variables of the runners, as in a container.
    #[serde(default)]
    #[schemars(schema_with = "environment")]
    #[x_kube(validation = (
        "self.all(variable, !(variable.name in ['CURIO_DB_URL', 'CURIO_INSTANCE', 'CURIO_STORAGE_SECRET', 'FULLNODE_API_INFO', 'CURIO_PARAMETERS_URL', 'FIL_PROOFS_PARAMETER_CACHE']))",
        "CURIO_DB_URL, CURIO_INSTANCE, CURIO_STORAGE_SECRET, FULLNODE_API_INFO, CURIO_PARAMETERS_URL and FIL_PROOFS_PARAMETER_CACHE are set by the operator, from the CurioCluster and the volumes"
    ))]
    pub env: Vec<EnvVar>,
    /// Further labels of the pods.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(validation = (
        "self.all(key, !key.startsWith('curio.filecoin.io/') && !key.startsWith('app.kubernetes.io/'))",
        "labels below curio.filecoin.io/ and app.kubernetes.io/ are the operator's: it finds its pods by them"
    ))]
    pub pod_labels: BTreeMap<String, String>,
    /// Further annotations of the pods.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(validation = (
        "self.all(key, !key.startsWith('curio.filecoin.io/'))",
        "annotations below curio.filecoin.io/ are the operator's"
    ))]
    pub pod_annotations: BTreeMap<String, String>,
    /// Volume for sectors in work, mounted at `/scratch`; absent means that the runners seal nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<Volume>,
    /// Volumes for finished sectors, mounted at `/store/<name>`.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub long_term: Vec<NamedVolume>,
    /// Volume that keeps proof parameters, mounted at `/parameters`; absent means that each pod fetches them anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Volume>,
    /// How long a runner that is to stop may take to give its work back, in seconds; after that the kubelet kills it.
    #[serde(default = "RunnerPoolSpec::default_grace_period")]
    #[schemars(range(min = 5, max = 86_400))]
    pub grace_period_seconds: i64,
}

impl RunnerPoolSpec {
    fn default_replicas() -> i32 {
        1
    }

    fn default_grace_period() -> i64 {
        60
    }
}

/// Schema of `env`; the bound is what lets the API server estimate the cost of its rule.
fn environment(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let mut schema = kubernetes::<Vec<EnvVar>>(generator);
    schema.insert("maxItems".to_owned(), 64.into());
    if let Some(name) = schema.pointer_mut("/items/properties/name").and_then(serde_json::Value::as_object_mut) {
        name.insert("maxLength".to_owned(), 256.into());
    }
    schema
}

/// What the runners of a pool are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// SDR, SDRTrees, PreCommit, Commit and MoveStorage, on nodes whose CPU has the SHA extensions.
    Sealing,
    /// PoRep, with one `nvidia.com/gpu`.
    Snark,
    /// WindowPost and WinningPost, with one `nvidia.com/gpu`: proofs against deadlines, beside nothing that could be in
    /// their way.
    Post,
    /// MoveStorage.
    Storage,
    /// What `tasks`, `layers` and `config` say.
    #[default]
    Custom,
}

impl Profile {
    pub fn as_str(self) -> &'static str {
        match self {
            Profile::Sealing => "sealing",
            Profile::Snark => "snark",
            Profile::Post => "post",
            Profile::Storage => "storage",
            Profile::Custom => "custom",
        }
    }
}

/// A kind of tasks with its limit per runner.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PoolTask {
    pub name: TaskGroup,
    /// How many of them one runner does at once; 0 means as many as its resources allow.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub max: i32,
}

/// Tasks that are switched on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize, JsonSchema)]
pub enum TaskGroup {
    /// The graph of labels; needs a CPU with SHA extensions and `scratch`.
    #[serde(rename = "SDR")]
    Sdr,
    /// The trees over data and labels, and trimming the cache at the end (TreeD, TreeRC, Finalize). They run where the
    /// sector's cache lies.
    #[serde(rename = "SDRTrees")]
    SdrTrees,
    /// Sending pre-commits, and the messages that belong to them.
    PreCommit,
    /// The proof of replication; needs the most memory, and a GPU to be quick.
    PoRep,
    /// Sending proofs, and the messages that belong to them.
    Commit,
    /// Moving finished sectors into a long-term store of the runner.
    MoveStorage,
    /// Proofs over time, due at deadlines, and the messages that belong to them.
    WindowPost,
    /// Elections, proofs for winning blocks, and the blocks.
    WinningPost,
}

impl TaskGroup {
    pub fn as_str(self) -> &'static str {
        match self {
            TaskGroup::Sdr => "SDR",
            TaskGroup::SdrTrees => "SDRTrees",
            TaskGroup::PreCommit => "PreCommit",
            TaskGroup::PoRep => "PoRep",
            TaskGroup::Commit => "Commit",
            TaskGroup::MoveStorage => "MoveStorage",
            TaskGroup::WindowPost => "WindowPost",
            TaskGroup::WinningPost => "WinningPost",
        }
    }
}

/// Bounds within which the waiting work decides how many runners there are.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("self.min <= self.max", "autoscaling.min must not be above autoscaling.max"))]
pub struct Autoscaling {
    /// Fewest runners; 0 lets the pool go away while nothing is to do. A pool with WindowPost or WinningPost keeps one all
    /// the same, which watches for deadlines.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1000))]
    pub min: i32,
    /// Most runners.
    #[schemars(range(min = 1, max = 1000))]
    pub max: i32,
    /// How long a runner must have been without work before it may go, in seconds.
    #[serde(default = "Autoscaling::default_idle_seconds")]
    #[schemars(range(min = 0, max = 86_400))]
    pub idle_seconds: i64,
}

impl Autoscaling {
    fn default_idle_seconds() -> i64 {
        30
    }
}

/// GPU of each runner of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// Name of the resource that the node offers.
    #[serde(default = "Gpu::default_resource")]
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9.-]+/[A-Za-z0-9._-]+$"))]
    pub resource: String,
    /// How many each runner gets; 0 means none, also where the profile would ask for one.
    #[serde(default = "Gpu::default_count")]
    #[schemars(range(min = 0, max = 16))]
    pub count: i32,
}

impl Gpu {
    fn default_resource() -> String {
        "nvidia.com/gpu".to_owned()
    }

    fn default_count() -> i32 {
        1
    }
}

/// What the operator last saw of a pool.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerPoolStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What holds and what does not; types and reasons are listed in the reference.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Runner pods that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Runner pods that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Runners that have at least one task.
    #[serde(default)]
    pub busy_replicas: i32,
    /// Runners on whose volumes the only copy of a sector lies.
    #[serde(default)]
    pub pinned_replicas: i32,
    /// Runners made from the present template.
    #[serde(default)]
    pub updated_replicas: i32,
    /// How many runners there are to be, `replicas` or what the work asks for.
    #[serde(default)]
    pub desired_runners: i32,
    /// Why so many.
    #[serde(default)]
    pub desired_reason: String,
    /// Label selector of the pods, for `kubectl scale` and autoscalers.
    #[serde(default)]
    pub selector: String,
    /// The runners one by one.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub slots: Vec<SlotStatus>,
}

/// One runner of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlotStatus {
    /// Name of the runner, its pod and its machine in the database.
    pub name: String,
    /// Node that the pod is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Phase of the pod, or what keeps it from running.
    #[serde(default)]
    pub phase: String,
    /// Whether it has a task.
    #[serde(default)]
    pub busy: bool,
    /// Whether the only copy of a sector lies on its volumes.
    #[serde(default)]
    pub pinned: bool,
    /// Kinds of the tasks it has.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// Whether it was made from the present template.
    #[serde(default)]
    pub updated: bool,
    /// Whether it takes no new work because it is to go.
    #[serde(default)]
    pub leaving: bool,
    /// What a person should know about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
