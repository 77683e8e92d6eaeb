//! The controller of SealingSectors: asks the database for sectors, and shows every sector in flight.
//!
//! It works cluster by cluster, not object by object: one pass reads all sectors of a database with a handful of
//! statements and compares them with all objects that name the cluster, however many there are. A pass runs once a
//! second, and at once when an object or the standing of the database has changed. It reads the pipeline's tables through
//! crate `pipeline`, writes requests, retries and removals there, and objects, statuses and events here.

pub mod apply;
pub mod desired;
pub mod news;
pub mod observe;
pub mod place;
pub mod removal;
pub mod status;
pub mod trouble;
pub mod validate;

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::controller::{Action, Controller};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::{CurioCluster, SealingSector};
use crate::context::Context;
use crate::reconcile;

use self::apply::{Memory, SectorError};

const CONTROLLER: &str = "sealingsector";
/// Between two passes when nothing calls for one earlier: how stale a status may be.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks for objects whose cluster does not exist; no pass comes by them.
const ORPHAN_TICK: Duration = Duration::from_secs(3);

/// Runs until `stop` is cancelled.
pub async fn run(context: Context, stop: CancellationToken) {
    let (sectors, writer) = reflector::store::<SealingSector>();
    let touched = watcher(context.all::<SealingSector>(), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .touched_objects();
    let changes = context.databases.changes().map(|key| ObjectRef::new(&key.name).within(&key.namespace));
    let controller = Controller::new(context.all::<CurioCluster>(), watcher::Config::default())
        .with_config(reconcile::config())
        .watches_stream(touched, |sector| Some(cluster_of(&sector)))
        .reconcile_on(changes)
        .graceful_shutdown_on(stop.clone().cancelled_owned());
    let clusters = controller.store();
    let passes = Arc::new(Passes { context, sectors, memory: Memory::default() });
    let outcomes = controller.run(
        |cluster, passes| async move {
            reconcile::guarded(&passes.context, CONTROLLER, &*cluster, passes.one(&cluster)).await
        },
        reconcile::never,
        passes.clone(),
    );
    tokio::join!(reconcile::drive(CONTROLLER, outcomes), passes.look_after_orphans(clusters, stop));
}

/// The cluster that an object names.
fn cluster_of(sector: &SealingSector) -> ObjectRef<CurioCluster> {
    ObjectRef::new(&sector.spec.cluster).within(&sector.namespace().unwrap_or_default())
}

/// What all passes share.
struct Passes {
    context: Context,
    sectors: Store<SealingSector>,
    memory: Memory,
}

impl Passes {
    /// One pass over a cluster.
    async fn one(&self, cluster: &CurioCluster) -> Result<Action, SectorError> {
        if self.sectors.wait_until_ready().await.is_err() {
            // The watch has ended, and with it soon the controller.
            return Ok(Action::requeue(TICK));
        }
        let this = ObjectRef::from_obj(cluster);
        let objects = self.sectors.state_filter(|object| cluster_of(object) == this);
        let namespace = cluster.namespace().unwrap_or_default();
        let taken = self.sectors.state_filter(|object| object.namespace().as_deref() == Some(&namespace));
        let taken = taken.iter().map(|object| object.name_any()).collect();
        let subjects = self.memory.subjects(objects);
        let observed = observe::observe(&self.context, cluster, subjects, taken).await?;
        let acts = desired::acts(&observed);
        let outcomes = apply::act(&self.context, cluster, &acts).await;
        let report = status::report(&observed, &outcomes);
        apply::write(&self.context, &self.memory, &report).await?;
        Ok(Action::requeue(TICK))
    }

    /// Tells objects whose cluster does not exist that this is so.
    async fn look_after_orphans(&self, clusters: Store<CurioCluster>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(ORPHAN_TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let ready =
                async { clusters.wait_until_ready().await.is_ok() && self.sectors.wait_until_ready().await.is_ok() };
            tokio::select! {
                () = stop.cancelled() => return,
                ready = ready => if !ready { return },
            }
            let orphans = self.sectors.state_filter(|object| clusters.get(&cluster_of(object)).is_none());
            let report = status::of_orphans(&self.memory.subjects(orphans), self.context.now());
            if let Err(error) = apply::write(&self.context, &self.memory, &report).await {
                warn!(
                    error = &error as &dyn std::error::Error,
                    "failed to say that the cluster of a {} does not exist, again in {ORPHAN_TICK:?}",
                    SealingSector::kind(&()),
                );
            }
        }
    }
}
