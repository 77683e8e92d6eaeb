//! The controller of CurioCluster: observe, validate, desired, apply, status. It migrates the database,
//! writes its layers, makes what all runners share, and reports.

mod apply;
pub mod desired;
mod migration;
mod observe;
mod release;
mod status;
pub mod validate;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::PartialObjectMeta;
use kube::runtime::controller::Action;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{Controller, Predicate, PredicateConfig, WatchStreamExt, finalizer, predicates, watcher};
use kube::{Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use self::apply::LayerSync;
use self::migration::Migration;
use self::observe::Observed;
use self::status::Seen;
use self::validate::{LayerText, Refusal};
use crate::api::{CurioCluster, CurioClusterStatus};
use crate::apply::{ApplyError, FIELD_MANAGER, apply_status, delete, labels};
use crate::context::Context;
use crate::databases::{ClusterKey, Databases};
use crate::reconcile;

const CONTROLLER: &str = "curiocluster";

/// Held until the database is given up, so that another CurioCluster may have it.
const FINALIZER: &str = "curio.filecoin.io/database";

/// Between two looks at the numbers. What changes in Kubernetes, and whether the database answers, is known
/// at once.
const LOOK: Duration = Duration::from_secs(3);

/// What one reconcile failed in.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("failed to use the API server")]
    Api(#[from] ApplyError),
    #[error("failed to bring the layers up to date")]
    Layers(#[from] apply::LayerError),
}

/// What the reconciles of all clusters share.
struct Shared {
    context: Context,
    pods: Store<Pod>,
    /// Kinds that had tasks at the last look, by cluster.
    kinds: Mutex<HashMap<ClusterKey, Vec<String>>>,
}

/// Runs until stopped.
pub async fn run(context: Context, stop: CancellationToken) {
    let (pods, pod_writer) = reflector::store();
    let ours =
        watcher::Config::default().labels(&format!("{}={FIELD_MANAGER},{}", labels::MANAGED_BY, labels::CLUSTER));
    let pod_changes = watcher(context.all::<Pod>(), ours.clone())
        .default_backoff()
        .modify(|pod| pod.managed_fields_mut().clear())
        .reflect(pod_writer)
        .touched_objects();

    let (clusters, cluster_writer) = reflector::store();
    // Not for the status: writing it would ask for the next reconcile.
    let asked = predicates::generation.combine(predicates::annotations).combine(predicates::finalizers);
    let cluster_changes = watcher(context.all::<CurioCluster>(), watcher::Config::default())
        .default_backoff()
        .reflect(cluster_writer)
        .applied_objects()
        .predicate_filter(asked, PredicateConfig::default());

    let secrets = watcher(context.all::<PartialObjectMeta<Secret>>(), watcher::Config::default())
        .default_backoff()
        .touched_objects();
    let known = clusters.clone();
    let databases = context.databases.clone();
    let shared = Shared { context: context.clone(), pods, kinds: Mutex::default() };
    let controller = Controller::for_stream(cluster_changes, clusters)
        .with_config(reconcile::config())
        .owns(context.all::<Job>(), ours.clone())
        .owns(context.all::<Service>(), ours.clone())
        .owns(context.all::<PodDisruptionBudget>(), ours.clone())
        .owns(context.all::<NetworkPolicy>(), ours)
        .watches_stream(secrets, move |secret| named_by(&known, &secret))
        .watches_stream(pod_changes, |pod| cluster_of(&pod))
        .reconcile_on(database_changes(&databases))
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(
            async |cluster, shared: Arc<Shared>| {
                let work = one(&shared, cluster.clone());
                reconcile::guarded(&shared.context, CONTROLLER, cluster.as_ref(), work).await
            },
            reconcile::never,
            Arc::new(shared),
        );
    reconcile::drive(CONTROLLER, controller).await;
}

/// Clusters that point to a Secret: one that is created heals them at once.
fn named_by(clusters: &Store<CurioCluster>, secret: &PartialObjectMeta<Secret>) -> Vec<ObjectRef<CurioCluster>> {
    let (namespace, name) = (secret.namespace(), secret.name_any());
    let names = |cluster: &CurioCluster| {
        let spec = &cluster.spec;
        spec.database.url_secret.name == name
            || spec.chain.api_secrets.iter().any(|secret| secret.name == name)
            || spec.storage_secret.as_ref().is_some_and(|secret| secret.name == name)
            || desired::storage_secret_name(&cluster.name_any()) == name
    };
    let all = clusters.state();
    let named = all.iter().filter(|cluster| cluster.namespace() == namespace && names(cluster));
    named.map(|cluster| ObjectRef::from_obj(cluster.as_ref())).collect()
}

fn cluster_of(pod: &Pod) -> Option<ObjectRef<CurioCluster>> {
    let name = pod.labels().get(labels::CLUSTER)?;
    Some(ObjectRef::new(name).within(&pod.namespace()?))
}

fn database_changes(databases: &Databases) -> impl futures::Stream<Item = ObjectRef<CurioCluster>> + Send + use<> {
    databases.changes().map(|key| ObjectRef::new(&key.name).within(&key.namespace))
}

/// One reconcile, the finalizer around it.
async fn one(shared: &Shared, cluster: Arc<CurioCluster>) -> Result<Action, finalizer::Error<ClusterError>> {
    let context = &shared.context;
    let api = context.of::<CurioCluster>(&cluster.namespace().unwrap_or_default());
    finalizer(&api, FINALIZER, cluster, async |event| match event {
        finalizer::Event::Apply(cluster) => keep(shared, &cluster).await,
        finalizer::Event::Cleanup(cluster) => {
            release::release(context, &cluster).await?;
            forget(shared, &ClusterKey::of(&cluster));
            Ok(Action::await_change())
        }
    })
    .await
}

/// The five steps.
async fn keep(shared: &Shared, cluster: &CurioCluster) -> Result<Action, ClusterError> {
    let context = &shared.context;
    let observed = observe::observe(context, &shared.pods, cluster).await?;
    let layers = validate::layers(&cluster.spec);
    let image = desired::runner_image(&cluster.spec, context.runner_image.as_deref());
    let migration = judge(context, cluster, image, &observed);
    let before = cluster.status.clone().unwrap_or_default();

    let acted = if cluster.spec.paused {
        Ok(LayerSync::Unknown)
    } else {
        act(context, cluster, image, &observed, &layers, &migration).await
    };
    // What went wrong is logged and tried again; the status says as much as is known all the same.
    let sync = acted.as_ref().cloned().unwrap_or(LayerSync::Unknown);
    let seen = Seen {
        spec: &cluster.spec,
        generation: cluster.metadata.generation,
        before: &before,
        standing: &observed.standing,
        chain_missing: &observed.chain_missing,
        layers: &layers,
        sync: &sync,
        migration: &migration,
        image,
        pods: &observed.pods,
        numbers: observed.numbers.as_ref(),
    };
    report(shared, cluster, &observed, &before, status::status(&seen, context.now())).await?;
    acted.map(|_| Action::requeue(LOOK))
}

fn judge(context: &Context, cluster: &CurioCluster, image: Option<&str>, observed: &Observed) -> Migration {
    let Some(image) = image else { return Migration::NoImage };
    let Some(mark) = &observed.database_mark else { return Migration::Waits };
    let name = desired::migration_job_name(&cluster.name_any(), image, mark);
    let job = observed.migrations.iter().find(|job| job.name_any() == name);
    let pods: Vec<Arc<Pod>> = observed.pods.iter().filter(|pod| is_of_job(pod, &name)).cloned().collect();
    migration::judge(&observed.standing, job, &pods, context.now())
}

fn is_of_job(pod: &Pod, name: &str) -> bool {
    pod.labels().get("batch.kubernetes.io/job-name").is_some_and(|job| job == name)
}

async fn act(
    context: &Context,
    cluster: &CurioCluster,
    image: Option<&str>,
    observed: &Observed,
    layers: &Result<Vec<LayerText>, Refusal>,
    migration: &Migration,
) -> Result<LayerSync, ClusterError> {
    apply::objects(context, cluster, &desired::desired(cluster)).await?;
    if let (Some(image), Some(mark)) = (image, &observed.database_mark) {
        let name = desired::migration_job_name(&cluster.name_any(), image, mark);
        apply::forget_migrations(context, &observed.migrations, &name).await?;
        match migration {
            Migration::Due => {
                let job = desired::migration_job(cluster, image, mark);
                crate::apply::apply(context, &job).await?;
                let note = format!("migrates the database with {image} (Job {name})");
                context.events.normal(&cluster.object_ref(&()), "MigrationStarted", note).await;
            }
            Migration::Again(job) => delete(context, job.as_ref()).await?,
            Migration::NoImage
            | Migration::Waits
            | Migration::Running(_)
            | Migration::Failed(_)
            | Migration::Done
            | Migration::Unfit(_) => {}
        }
    }
    // A database that did not tell its numbers would not take the layers either.
    let (Some(db), Some(_), Ok(layers)) = (observed.standing.db(), &observed.numbers, layers) else {
        return Ok(LayerSync::Unknown);
    };
    let sync = apply::layers(context, cluster, db, layers).await?;
    if sync != LayerSync::Unknown {
        apply::forget_overwrite(context, cluster).await?;
    }
    Ok(sync)
}

async fn report(
    shared: &Shared,
    cluster: &CurioCluster,
    observed: &Observed,
    before: &CurioClusterStatus,
    after: CurioClusterStatus,
) -> Result<(), ClusterError> {
    let context = &shared.context;
    if let Some(numbers) = &observed.numbers {
        let key = ClusterKey::of(cluster);
        let kinds = numbers.loads.iter().map(|load| load.kind.clone()).collect();
        let last = shared.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), kinds);
        context.metrics.queue(&key, &last.unwrap_or_default(), &numbers.loads);
    }
    if *before == after {
        return Ok(());
    }
    apply_status(context, cluster, &after).await?;
    context.events.turns(&cluster.object_ref(&()), &before.conditions, &after.conditions).await;
    Ok(())
}

/// The cluster is gone: so are its series and its database.
fn forget(shared: &Shared, key: &ClusterKey) {
    let last = shared.kinds.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    shared.context.metrics.queue(key, &last.unwrap_or_default(), &[]);
    shared.context.databases.forget(key);
}
