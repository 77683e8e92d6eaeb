//! The custom resources of group `curio.filecoin.io`, as Rust types.
//!
//! Everything a user can write or read on the API server is defined here and nowhere else: the YAML in `crds/` and
//! the page `docs/reference/crds.md` are generated from these types, descriptions and defaults included.

// Clippy takes the arguments that several print columns of one kind share for an attribute given twice.
#![allow(clippy::duplicated_attributes)]

pub mod common;
pub mod conditions;
pub mod curio_cluster;
pub mod runner_pool;
pub mod sealing_sector;

pub use curio_cluster::{CurioCluster, CurioClusterSpec, CurioClusterStatus};
pub use runner_pool::{RunnerPool, RunnerPoolSpec, RunnerPoolStatus};
pub use sealing_sector::{SealingSector, SealingSectorSpec, SealingSectorStatus};

/// API group of all kinds.
pub const GROUP: &str = "curio.filecoin.io";
