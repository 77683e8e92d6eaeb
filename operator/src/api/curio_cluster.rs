//! CurioCluster: one database, the chain, the miners, and what all runners have in common.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ChainSecret, DatabaseSecret, Layers, LocalReference, StorageSecret};

/// A set of runners around one database, for one or more miners.
///
/// The operator migrates the database, writes the configuration layers into it, makes what all runners share, and
/// reports what goes on. The runners themselves come from RunnerPools that name this object.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "curio.filecoin.io",
    version = "v1alpha1",
    kind = "CurioCluster",
    namespaced,
    status = "CurioClusterStatus",
    derive = "PartialEq",
    shortname = "cc",
    category = "curio",
    cel,
    doc = "A set of runners around one database, for one or more miners. The operator migrates the database, writes the configuration layers into it, makes what all runners share, and reports what goes on. The runners come from RunnerPools that name this object.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Runners", type_ = "integer", json_path = ".status.runners.total"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.queued"),
    printcolumn(name = "Sectors", type_ = "integer", json_path = ".status.sectorsInFlight"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.sectorsFailed"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.migratedVersion", priority = 1),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = (
        "self.metadata.name.matches('^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$')",
        "the name of a CurioCluster becomes part of host names: use at most 40 lower-case letters, digits and hyphens, a letter first"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct CurioClusterSpec {
    /// Where the database is.
    pub database: Database,
    /// Which chain nodes the runners ask.
    pub chain: Chain,
    /// Miners whose sectors may be asked for through this cluster, such as `f01000`; empty means any.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 24), regex(pattern = r"^[ft]0[0-9]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub miners: Vec<String>,
    /// Configuration layers, by name: sections and keys as in the configuration reference. The operator writes them into
    /// the database; a layer that somebody edited there by hand is reported and left alone.
    #[serde(default)]
    #[schemars(schema_with = "super::common::layers")]
    #[x_kube(validation = (
        "self.all(name, name.matches('^[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?$'))",
        "layers are named with at most 63 lower-case letters, digits, hyphens and underscores; names with a dot such as pool.sealing belong to the RunnerPools"
    ))]
    pub layers: Layers,
    /// Which images the runners run.
    #[serde(default)]
    pub images: Images,
    /// How runners get a new image or template.
    #[serde(default)]
    pub upgrade: Upgrade,
    /// Where runners fetch missing proof parameters; absent means that the parameters lie on the pools' volumes already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Parameters>,
    /// What runners sign requests for each other's files with; absent means that the operator makes one, once, in the
    /// Secret `<name>-storage-rpc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_secret: Option<StorageSecret>,
    /// Whether the operator makes NetworkPolicies that let only the runners of this cluster reach each other's files.
    #[serde(default = "yes")]
    pub network_policies: bool,
    /// How long the SealingSector of a finished sector stays if the operator made it, in seconds. Those that a person
    /// made stay until deleted.
    #[serde(default = "CurioClusterSpec::default_finished_sector_ttl")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub finished_sector_ttl_seconds: i64,
    /// Whether the operator leaves everything as it is: it still reports, but changes nothing until this is false again.
    #[serde(default)]
    pub paused: bool,
    /// Whether all runners go, each when it is idle; volumes, database and objects stay. Data that only one runner
    /// reaches rests on its claims meanwhile.
    #[serde(default)]
    pub hibernated: bool,
}

impl CurioClusterSpec {
    fn default_finished_sector_ttl() -> i64 {
        3600
    }
}

fn yes() -> bool {
    true
}

/// Where the database is.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Database {
    /// Secret with the URL of a PostgreSQL database, `postgres://user:password@host:5432/name`.
    pub url_secret: DatabaseSecret,
}

/// Which chain nodes the runners ask.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Chain {
    /// Secrets with address and token of Lotus or Forest nodes, in order of preference.
    #[schemars(length(min = 1, max = 8))]
    pub api_secrets: Vec<ChainSecret>,
}

/// Which images the runners run.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Images {
    /// Image of the runners; absent means the one that came with the operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub runner: Option<String>,
    /// When nodes pull it.
    #[serde(default)]
    pub pull_policy: PullPolicy,
    /// Secrets that the registry asks for.
    #[serde(default)]
    #[schemars(length(max = 8))]
    pub pull_secrets: Vec<LocalReference>,
}

/// When a node pulls an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum PullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

impl PullPolicy {
    pub fn as_str(self) -> &'static str {
        match self {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        }
    }
}

/// How runners get a new image or template.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upgrade {
    /// `WhenIdle` replaces one runner after another, each when it has no work. `Manual` replaces none: whoever deletes
    /// a pod gets a new one.
    #[serde(default)]
    pub policy: UpgradePolicy,
}

/// Who decides when a runner is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum UpgradePolicy {
    #[default]
    WhenIdle,
    Manual,
}

/// Where runners fetch missing proof parameters.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Parameters {
    /// HTTP address below which the parameter files lie under their own names. Every file is checked against its digest.
    #[schemars(length(max = 2048), regex(pattern = r"^https?://[^\s]+$"))]
    pub source: String,
}

/// What the operator last saw of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CurioClusterStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What holds and what does not; types and reasons are listed in the reference.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Runner image whose migrations the database has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migrated_version: Option<String>,
    /// Runner pods of all pools.
    #[serde(default)]
    pub runners: RunnerCount,
    /// Machines that the database knows.
    #[serde(default)]
    pub machines: MachineCount,
    /// Sectors in flight by stage.
    #[serde(default)]
    pub sectors: Vec<StageCount>,
    /// Sectors that are being sealed, failed ones not counted.
    #[serde(default)]
    pub sectors_in_flight: i64,
    /// Sectors that need a person.
    #[serde(default)]
    pub sectors_failed: i64,
    /// Tasks that wait for a runner, over all kinds.
    #[serde(default)]
    pub queued: i64,
    /// Tasks by kind.
    #[serde(default)]
    pub queue: Vec<KindCount>,
    /// Versions that the runners run.
    #[serde(default)]
    pub versions: Vec<VersionCount>,
    /// Layers that differ from the spec because somebody edited them in the database.
    #[serde(default)]
    pub edited_layers: Vec<String>,
}

/// Runner pods of all pools of a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunnerCount {
    #[serde(default)]
    pub total: i64,
    #[serde(default)]
    pub ready: i64,
    /// Runners that have at least one task.
    #[serde(default)]
    pub busy: i64,
}

/// Machines that the database knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineCount {
    /// Live machines that are runners of a pool.
    #[serde(default)]
    pub inside: i64,
    /// Live machines that are none, such as a runner on bare metal.
    #[serde(default)]
    pub outside: i64,
    /// Machines whose lease ran out.
    #[serde(default)]
    pub lost: i64,
}

/// Sectors in one stage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StageCount {
    pub stage: String,
    pub count: i64,
}

/// Tasks of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KindCount {
    pub kind: String,
    #[serde(default)]
    pub waiting: i64,
    #[serde(default)]
    pub running: i64,
    /// Tasks without attempts left.
    #[serde(default)]
    pub failed: i64,
    /// How long the oldest waiting task has waited, in seconds.
    #[serde(default)]
    pub oldest_wait_seconds: i64,
}

/// Runners of one version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VersionCount {
    pub version: String,
    pub runners: i64,
}
