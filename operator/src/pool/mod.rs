//! Controller of RunnerPools: observe, validate, desired, apply, status.
//!
//! It owns the pods itself, so that it can say which runner goes: [`plan`] decides, and keeps whoever has work or data.
//! It acts on changes of the pool, its pods, its cluster and its database, and of the work that waits ([`work`]).

pub mod apply;
pub mod claims;
pub mod desired;
pub mod layer;
pub mod observe;
pub mod plan;
pub mod pod;
pub mod slot;
pub mod status;
pub mod validate;
pub mod work;

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Predicate, WatchStreamExt, predicates, watcher};
use kube::{Resource, ResourceExt};
use tokio::sync::Mutex as AsyncMutex;
use tokio_util::sync::CancellationToken;

use self::apply::{Carried, CarryOutError, LayerKept, carry_out, label_busy};
use self::observe::{ObserveError, observe};
use self::validate::judge;
use self::work::Board;
use crate::api::{CurioCluster, RunnerPool};
use crate::apply::{ApplyError, apply_status, labels};
use crate::autoscale::Memory;
use crate::context::Context;
use crate::databases::ClusterKey;
use crate::reconcile;

const NAME: &str = "runnerpool";
/// A pool is looked at this often although nothing has changed.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// A reconcile failed; it is repeated.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    #[error(transparent)]
    Observe(#[from] ObserveError),
    #[error(transparent)]
    CarryOut(#[from] CarryOutError),
    #[error(transparent)]
    Status(#[from] ApplyError),
}

/// What all reconciles share.
pub struct Shared {
    pub context: Context,
    /// All pools, from their watch.
    pub pools: Store<RunnerPool>,
    pub board: Board,
    kept: Mutex<HashMap<String, Arc<AsyncMutex<Kept>>>>,
}

/// What is remembered of a pool from one reconcile to the next. Losing it costs nothing but time.
#[derive(Debug)]
struct Kept {
    scaling: Memory,
    layer: LayerKept,
}

/// Runs the controller until `stop`.
pub async fn run(context: Context, stop: CancellationToken) {
    let board = Board::default();
    let (pools, writer) = reflector::store();
    let shared = Arc::new(Shared {
        context: context.clone(),
        pools: pools.clone(),
        board: board.clone(),
        kept: Mutex::default(),
    });
    let forgetting = Arc::clone(&shared);
    // Statuses, which we write ourselves, are no reason to look again.
    let changed = watcher(context.all::<RunnerPool>(), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .inspect_ok(move |event| {
            if let watcher::Event::Delete(pool) = event {
                forgetting.forget(pool);
            }
        })
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::annotations), Default::default());
    let clusters = watcher(context.all::<CurioCluster>(), watcher::Config::default())
        .default_backoff()
        .touched_objects()
        .predicate_filter(what_pools_look_at, Default::default());
    let runners = watcher::Config::default().labels(&format!("{}={}", labels::NAME, labels::RUNNER));
    let of_cluster = pools.clone();
    let outcomes = Controller::for_stream(changed, pools.clone())
        .with_config(reconcile::config())
        .owns(context.all::<Pod>(), runners)
        .watches_stream(clusters, move |cluster| {
            pools_of(&of_cluster, &ClusterKey::new(cluster.namespace().unwrap_or_default(), cluster.name_any()))
        })
        .reconcile_on(refs(context.databases.changes(), pools.clone()))
        .reconcile_on(refs(board.changes(), pools))
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(
            |pool, shared: Arc<Shared>| async move {
                let context = shared.context.clone();
                let object = Arc::clone(&pool);
                reconcile::guarded(&context, NAME, &*object, one(&shared, pool)).await
            },
            reconcile::never,
            shared,
        );
    tokio::join!(reconcile::drive(NAME, outcomes), board.keep(&context.databases, &stop));
}

/// One look at one pool.
async fn one(shared: &Shared, pool: Arc<RunnerPool>) -> Result<Action, PoolError> {
    let context = &shared.context;
    let kept = shared.kept(&pool);
    let mut kept = kept.lock().await;
    let observed = observe(shared, pool).await?;
    let pool = &observed.pool;
    let judged = judge(pool, observed.cluster.as_ref(), &observed.standing, observed.image.as_deref());
    let desired = desired::desired(&observed, &judged, kept.scaling);
    kept.scaling = desired.memory;
    if observed.work.is_some() {
        label_busy(context, &observed.key.namespace, &desired.slots).await?;
    }
    let carried = match &judged.pool {
        Some(Ok(valid)) => carry_out(context, &observed, valid, judged.wish, &desired, &mut kept.layer).await?,
        Some(Err(_)) | None => Carried::default(),
    };
    let status = status::status(&observed, &judged, &desired, &carried);
    context.metrics.desired_runners(&observed.key.namespace, &pool.name_any(), desired.decision.desired.into());
    if pool.status.as_ref() != Some(&status) {
        apply_status(context, &**pool, &status).await?;
        let before = pool.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        context.events.turns(&pool.object_ref(&()), before, &status.conditions).await;
    }
    Ok(Action::requeue(desired.decision.again_in.map_or(LOOK_AGAIN, |again| again.min(LOOK_AGAIN))))
}

impl Shared {
    fn kept(&self, pool: &RunnerPool) -> Arc<AsyncMutex<Kept>> {
        let mut kept = self.all_kept();
        let fresh = || {
            let decided = pool.status.as_ref().filter(|_| pool.spec.autoscaling.is_some());
            let scaling = decided.map_or_else(Memory::default, |status| {
                Memory::of_status(u32::try_from(status.desired_runners).unwrap_or(0))
            });
            Arc::new(AsyncMutex::new(Kept { scaling, layer: LayerKept::default() }))
        };
        Arc::clone(kept.entry(pool.uid().unwrap_or_default()).or_insert_with(fresh))
    }

    fn forget(&self, pool: &RunnerPool) {
        self.all_kept().remove(&pool.uid().unwrap_or_default());
        self.context.metrics.forget_pool(&pool.namespace().unwrap_or_default(), &pool.name_any());
    }

    fn all_kept(&self) -> MutexGuard<'_, HashMap<String, Arc<AsyncMutex<Kept>>>> {
        // Entries are plain values, right after a panic elsewhere, too.
        self.kept.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// A cluster's numbers change all the time; its pools look at its spec and conditions.
fn what_pools_look_at(cluster: &CurioCluster) -> Option<u64> {
    let mut hasher = DefaultHasher::new();
    cluster.uid().hash(&mut hasher);
    cluster.metadata.generation.hash(&mut hasher);
    cluster.metadata.deletion_timestamp.is_some().hash(&mut hasher);
    let status = cluster.status.as_ref();
    status.and_then(|status| status.migrated_version.as_deref()).hash(&mut hasher);
    for condition in status.into_iter().flat_map(|status| &status.conditions) {
        (&condition.type_, &condition.status, &condition.message, condition.observed_generation).hash(&mut hasher);
    }
    Some(hasher.finish())
}

fn pools_of(pools: &Store<RunnerPool>, key: &ClusterKey) -> Vec<ObjectRef<RunnerPool>> {
    let of_cluster = |pool: &Arc<RunnerPool>| {
        pool.spec.cluster == key.name && pool.namespace().as_deref() == Some(key.namespace.as_str())
    };
    pools.state().iter().filter(|pool| of_cluster(pool)).map(|pool| ObjectRef::from_obj(&**pool)).collect()
}

fn refs(
    clusters: impl Stream<Item = ClusterKey> + Send + 'static,
    pools: Store<RunnerPool>,
) -> impl Stream<Item = ObjectRef<RunnerPool>> + Send + 'static {
    clusters.flat_map(move |key| futures::stream::iter(pools_of(&pools, &key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_controller_can_be_spawned() {
        fn sendable<T: Send>(_: fn(Context, CancellationToken) -> T) {}
        sendable(run);
    }
}
