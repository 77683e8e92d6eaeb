//! SealingSector: asks for sectors, and shows one.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A sector that is being sealed, or a request for new ones.
///
/// The truth is the database: deleting this object never touches a sector, and every sector in flight gets one.
#[derive(CustomResource, Clone, Debug, PartialEq, Deserialize, Serialize, KubeSchema)]
#[kube(
    group = "curio.filecoin.io",
    version = "v1alpha1",
    kind = "SealingSector",
    namespaced,
    status = "SealingSectorStatus",
    derive = "PartialEq",
    shortname = "sector",
    category = "curio",
    cel,
    doc = "A sector that is being sealed, or a request for new ones. The truth is the database: deleting this object never touches a sector, and every sector in flight gets one.",
    selectable = ".spec.miner",
    selectable = ".status.stage",
    selectable = ".status.failed",
    printcolumn(name = "Miner", type_ = "string", json_path = ".spec.miner"),
    printcolumn(name = "Sector", type_ = "integer", json_path = ".status.number"),
    printcolumn(name = "Stage", type_ = "string", json_path = ".status.stage"),
    printcolumn(name = "Task", type_ = "integer", json_path = ".status.task"),
    printcolumn(name = "Runner", type_ = "string", json_path = ".status.runner"),
    printcolumn(name = "Retries", type_ = "integer", json_path = ".status.retries"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "PreCommit", type_ = "string", json_path = ".status.precommitCid", priority = 1),
    printcolumn(name = "Commit", type_ = "string", json_path = ".status.commitCid", priority = 1),
    printcolumn(name = "Deadline", type_ = "integer", json_path = ".status.deadline", priority = 1),
    printcolumn(name = "Partition", type_ = "integer", json_path = ".status.partition", priority = 1),
    printcolumn(name = "LastError", type_ = "string", json_path = ".status.lastError", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "(has(self.count) ? 1 : 0) + (has(self.piece) ? 1 : 0) + (has(self.number) ? 1 : 0) <= 1",
    "name at most one of count, piece and number"
))]
#[x_kube(validation = (
    "has(self.count) == has(oldSelf.count) && (!has(self.count) || self.count == oldSelf.count) && has(self.piece) == has(oldSelf.piece) && (!has(self.piece) || self.piece == oldSelf.piece) && has(self.number) == has(oldSelf.number) && (!has(self.number) || self.number == oldSelf.number)",
    "what was asked for cannot change: make a new SealingSector"
))]
#[x_kube(validation = (
    "!has(self.count) || self.count == 1 || (self.retry == 0 && self.removal == 'None')",
    "retry and removal act on one sector: set them on the SealingSector of that sector"
))]
pub struct SealingSectorSpec {
    /// Name of the CurioCluster in the same namespace.
    #[schemars(length(min = 1, max = 40))]
    #[x_kube(validation = ("self == oldSelf", "a sector cannot move to another cluster: make a new SealingSector"))]
    pub cluster: String,
    /// Miner that the sector belongs to, such as `f01000`.
    #[schemars(length(max = 24), regex(pattern = r"^[ft]0[0-9]+$"))]
    #[x_kube(validation = ("self == oldSelf", "a sector cannot move to another miner: make a new SealingSector"))]
    pub miner: String,
    /// How many empty sectors to seal. Absent, with `piece` and `number` absent, too, means one. With more than one, every
    /// sector gets a SealingSector of its own, and this one counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub count: Option<i32>,
    /// Data that the sector is to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub piece: Option<Piece>,
    /// Number of a sector that exists. The operator writes it for sectors that were not asked for by an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub number: Option<i64>,
    /// Raise it by one to let the sector's failed task run again.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1_000_000))]
    #[x_kube(validation = ("self >= oldSelf", "retry only grows: each step is one more try"))]
    pub retry: i32,
    /// Gives a sector up, in two steps: `Requested` makes the operator say what would be lost, in the condition
    /// `RemovalPending`; `Confirmed` after that does it.
    #[serde(default)]
    #[x_kube(validation = (
        "self != 'Confirmed' || oldSelf == 'Requested' || oldSelf == 'Confirmed'",
        "removal goes in two steps: set Requested, read the condition RemovalPending, then set Confirmed"
    ))]
    pub removal: Removal,
}

/// Data of a client.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Piece {
    /// Where the runner that begins the sector reads the data.
    #[schemars(length(max = 2048), regex(pattern = r"^(https?|file)://[^\s]+$"))]
    pub url: String,
    /// Piece CID that the data must have; absent means that it is computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128), regex(pattern = r"^baga[a-z2-7]+$"))]
    pub cid: Option<String>,
    /// Bytes of the data before padding; absent means what the server says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub raw_size: Option<i64>,
}

/// How far the giving up of a sector has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum Removal {
    #[default]
    None,
    Requested,
    Confirmed,
}

/// What the operator last saw of a sector or a request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SealingSectorStatus {
    /// Generation of the spec that this status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// What holds and what does not; types and reasons are listed in the reference.
    #[serde(default)]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Number of the sector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// Numbers of all sectors of a request for more than one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sectors: Vec<i64>,
    /// How many sectors of a request for more than one are proven.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven: Option<i32>,
    /// Where the sector is on its way: `Asked`, `SDR`, `TreeD`, `TreeRC`, `PreCommit`, `WaitSeed`, `PoRep`, `Commit`, `Finalize`,
    /// `Move`, `Proven`; `Failed`, `Refused`, `Removed`, `NotFound`; `Sealing` for a request for more than one.
    #[serde(default)]
    pub stage: String,
    /// Task that waits or runs for the sector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<i64>,
    /// Runner that has the task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runner: Option<String>,
    /// Attempts that failed, over all stages.
    #[serde(default)]
    pub retries: i32,
    /// What the last failed attempt said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// How things stand, in a sentence.
    #[serde(default)]
    pub message: String,
    /// Since when stage, task, runner and attempts are as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved_at: Option<Time>,
    /// Epoch of the ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_epoch: Option<i64>,
    /// Epoch of the interactive seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed_epoch: Option<i64>,
    /// CommD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsealed_cid: Option<String>,
    /// CommR.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sealed_cid: Option<String>,
    /// Message that pre-committed the sector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precommit_cid: Option<String>,
    /// Message that proved the sector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_cid: Option<String>,
    /// Deadline in which the sector is proven once in each proving period, as the chain placed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<i64>,
    /// Partition of that deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<i64>,
    /// Whether the sector needs a person.
    #[serde(default)]
    pub failed: bool,
    /// Value of `spec.retry` that was carried out last.
    #[serde(default)]
    pub observed_retry: i32,
}
