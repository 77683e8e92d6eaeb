//! Fetches everything that a pool's reconcile looks at.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::ListParams;

use super::Shared;
use super::work::Work;
use crate::api::{CurioCluster, RunnerPool};
use crate::apply::labels;
use crate::cluster::desired::runner_image;
use crate::databases::{ClusterKey, Standing};

/// What there is.
pub struct Observed {
    pub pool: Arc<RunnerPool>,
    pub key: ClusterKey,
    pub cluster: Option<CurioCluster>,
    pub standing: Standing,
    /// Runner image of the cluster.
    pub image: Option<String>,
    pub pods: Vec<Pod>,
    /// Names of the claims that exist.
    pub claims: Vec<String>,
    /// None while the database is away.
    pub work: Option<Arc<Work>>,
    /// All pools of the cluster, this one included.
    pub siblings: Vec<Arc<RunnerPool>>,
    pub now: Timestamp,
}

/// Something could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    #[error("failed to read CurioCluster {name}")]
    Cluster {
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("failed to list the pods of the pool")]
    Pods(#[source] kube::Error),
    #[error("failed to list the claims of the pool")]
    Claims(#[source] kube::Error),
}

/// Fetches it. The pods come from the API server itself and not from a cache, so that what the last reconcile did
/// is among it.
pub async fn observe(shared: &Shared, pool: Arc<RunnerPool>) -> Result<Observed, ObserveError> {
    let context = &shared.context;
    let namespace = pool.namespace().unwrap_or_default();
    let name = pool.spec.cluster.clone();
    let of_pool = ListParams::default().labels(&labels::selector(&labels::of_pool(&name, &pool.name_any())));
    let (clusters, pods, claims) = (
        context.of::<CurioCluster>(&namespace),
        context.of::<Pod>(&namespace),
        context.of::<PersistentVolumeClaim>(&namespace),
    );
    let (cluster, pods, claims) = tokio::join!(clusters.get_opt(&name), pods.list(&of_pool), claims.list(&of_pool));
    let cluster = cluster.map_err(|source| ObserveError::Cluster { name: name.clone(), source })?;
    let key = ClusterKey::new(namespace.clone(), name);
    let siblings = shared.pools.state().into_iter().filter(|sibling| {
        sibling.namespace().as_deref() == Some(&namespace) && sibling.spec.cluster == pool.spec.cluster
    });
    let standing = context.databases.get(&key);
    Ok(Observed {
        work: standing.db().and_then(|_| shared.board.get(&key)),
        standing,
        image: cluster
            .as_ref()
            .and_then(|cluster| runner_image(&cluster.spec, context.runner_image.as_deref()))
            .map(str::to_owned),
        cluster,
        pods: pods.map_err(ObserveError::Pods)?.items,
        claims: claims.map_err(ObserveError::Claims)?.items.iter().map(ResourceExt::name_any).collect(),
        siblings: siblings.collect(),
        now: context.now(),
        key,
        pool,
    })
}
