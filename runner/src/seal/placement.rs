//! Where tasks of a sector may run: bound to machines that reach its files, or that have room for them.

use curio_core::Failure;
use curio_harmony::{Reserved, TaskId};

use super::pipeline::{self, Job};
use crate::deps::Deps;
use crate::storage::{Need, PathUse, SectorFile};

/// Those tasks whose sector has its cache on a path of this machine. A task that no sector knows is
/// accepted, so that it ends.
///
/// # Errors
/// Database trouble.
pub async fn where_cache_lies(deps: &Deps, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
    let sectors = pipeline::sectors_of(&deps.db, offered).await?;
    let wanted: Vec<_> = sectors.values().copied().collect();
    let held = deps.storage.holding(&wanted, SectorFile::Cache).await?;
    let accepted = offered.iter().filter(|task| sectors.get(task).is_none_or(|sector| held.contains(sector)));
    Ok(accepted.copied().collect())
}

/// All tasks when this machine has a path for `usage`, otherwise none.
///
/// # Errors
/// Database trouble.
pub async fn with_path(deps: &Deps, usage: PathUse, offered: &[TaskId]) -> Result<Vec<TaskId>, Failure> {
    Ok(if deps.storage.has_path(usage).await? { offered.to_vec() } else { Vec::new() })
}

/// Reserves room for a task; nothing for a task that no sector waits for.
///
/// # Errors
/// Database trouble.
pub async fn reserve(deps: &Deps, task: TaskId, need: impl FnOnce(&Job) -> Need) -> Result<Reserved, Failure> {
    match pipeline::of_task(&deps.db, task).await? {
        Some(job) => deps.storage.reserve_for_engine(task, &need(&job)).await,
        None => Ok(Reserved::Nothing),
    }
}

/// A limit of the configuration, where 0 is none.
pub fn limit(configured: u32) -> Option<u32> {
    (configured > 0).then_some(configured)
}
