//! Carries a plan out: the pool's layer, claims, pods, cordons, labels.

use std::time::{Duration, Instant};

use curio_harmony::layers::{self, Applied as LayerApplied};
use curio_harmony::{Db, DbError, TxError, machines};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tracing::info;

use super::claims::claims;
use super::desired::{Desired, goal, needed};
use super::layer::Configuration;
use super::observe::Observed;
use super::plan::{Plan, plan};
use super::pod::pod;
use super::slot::{self, Slot, slots};
use super::validate::{ValidPool, Wish};
use super::work::Work;
use crate::api::RunnerPool;
use crate::apply::{self, ApplyError, FIELD_MANAGER, Object, labels};
use crate::context::Context;

/// Annotation that a user puts on a pool: title of its layer that was edited by hand and is to be overwritten once.
pub const OVERWRITE_LAYER: &str = "curio.filecoin.io/overwrite-layer";

/// Something could not be carried out. The next reconcile tries again.
#[derive(Debug, thiserror::Error)]
pub enum CarryOutError {
    #[error("failed to write the layer of the pool")]
    Layer(#[source] TxError),
    #[error("failed to tell machine {name} whether it may take work")]
    Cordon {
        name: String,
        #[source]
        source: TxError,
    },
    #[error("failed to remove machine {name}, which has left, from the database")]
    Forget {
        name: String,
        #[source]
        source: TxError,
    },
    #[error("failed to look once more whether a runner is idle before it goes")]
    Recheck(#[source] DbError),
    #[error("failed to make {kind} {name}")]
    Create {
        kind: &'static str,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("failed to label pod {name}")]
    Label {
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error(transparent)]
    Delete(#[from] ApplyError),
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Carried {
    /// Text of the pool's layer in the database, when somebody edited it.
    pub edited_layer: Option<String>,
    /// What the API server said to pods and claims that it does not take, such as a quota that is used up.
    pub refused: Vec<String>,
}

/// Brings the layer, the claims and the pods of a pool to what is desired.
pub async fn carry_out(
    context: &Context,
    observed: &Observed,
    valid: &ValidPool,
    wish: Wish,
    desired: &Desired,
    layer: &mut LayerKept,
) -> Result<Carried, CarryOutError> {
    let mut carried = Carried::default();
    let (Some(plan), Some(db)) = (&desired.plan, observed.standing.db()) else { return Ok(carried) };
    carried.edited_layer = layer.keep(db, &observed.pool, valid).await?;
    for (numbers, cordoned) in [(&plan.uncordon, false), (&plan.cordon, true)] {
        for number in numbers {
            cordon(db, &slot::name(&valid.name, *number), cordoned).await?;
        }
    }
    for number in &plan.create {
        let slot = slot::name(&valid.name, *number);
        if let Err(refused) = make(context, observed, valid, &slot).await? {
            carried.refused.push(format!("{slot}: {refused}"));
        }
    }
    remove(context, observed, valid, wish, desired, plan).await?;
    for number in &plan.forget {
        let name = slot::name(&valid.name, *number);
        machines::forget(db, &name).await.map_err(|source| CarryOutError::Forget { name, source })?;
    }
    Ok(carried)
}

/// Gives the pods of busy runners the label that the disruption budget selects by, and takes it from the others.
///
/// That is a report and no change of the pool: it goes on while the cluster is paused, because a drain of a node does, too.
pub async fn label_busy(context: &Context, namespace: &str, slots: &[Slot]) -> Result<(), CarryOutError> {
    let pods = context.of::<Pod>(namespace);
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    for slot in slots {
        let Some(pod) = slot.pod.as_ref().filter(|pod| pod.labelled_busy != slot.is_busy()) else { continue };
        let value = slot.is_busy().then_some("true");
        // The UID makes sure that it is this pod and no successor.
        let patch = json!({"metadata": {"uid": pod.uid, "labels": {labels::BUSY: value}}});
        match pods.patch(&slot.name, &parameters, &Patch::Merge(patch)).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
            Err(source) => {
                return Err(CarryOutError::Label { name: slot.name.clone(), source: Box::new(source) });
            }
        }
    }
    Ok(())
}

/// The last word with the database about the pool's layer.
#[derive(Debug, Default)]
pub struct LayerKept {
    last: Option<(String, Instant)>,
    edited: Option<String>,
}

impl LayerKept {
    /// An edit by hand is found after at most this long.
    const LOOK_AGAIN: Duration = Duration::from_secs(30);

    /// Writes the layer if the database has another text; what a person wrote there instead stays, and is returned.
    async fn keep(&mut self, db: &Db, pool: &RunnerPool, valid: &ValidPool) -> Result<Option<String>, CarryOutError> {
        let Configuration { title, text, .. } = &valid.configuration;
        let overwrite = pool.annotations().get(OVERWRITE_LAYER).is_some_and(|named| named == title);
        let is_known =
            self.last.as_ref().is_some_and(|(known, at)| known == text && at.elapsed() < LayerKept::LOOK_AGAIN);
        if is_known && !(overwrite && self.edited.is_some()) {
            return Ok(self.edited.clone());
        }
        let manager = format!("runnerpool/{}/{}", valid.namespace, valid.name);
        let applied = layers::apply(db, title, text, &manager, overwrite).await.map_err(CarryOutError::Layer)?;
        self.edited = match applied {
            LayerApplied::Unchanged => None,
            LayerApplied::Written => {
                info!("wrote layer '{title}'");
                None
            }
            LayerApplied::EditedByHand { found } => Some(found),
        };
        self.last = Some((text.clone(), Instant::now()));
        Ok(self.edited.clone())
    }
}

async fn cordon(db: &Db, name: &str, cordoned: bool) -> Result<(), CarryOutError> {
    let told = machines::cordon(db, name, cordoned).await;
    told.map_err(|source| CarryOutError::Cordon { name: name.to_owned(), source })?;
    info!(machine = name, cordoned, "machine {name} {}", if cordoned { "takes no new work" } else { "may take work" });
    Ok(())
}

/// Makes the claims that are missing, then the pod. The inner error is what the API server has against it.
async fn make(
    context: &Context,
    observed: &Observed,
    valid: &ValidPool,
    slot: &str,
) -> Result<Result<(), String>, CarryOutError> {
    for claim in claims(valid, slot).into_iter().filter(|claim| !observed.claims.contains(&claim.name_any())) {
        if let Err(refused) = create::<PersistentVolumeClaim>(context, &claim).await? {
            return Ok(Err(refused));
        }
    }
    let pod = pod(valid, slot);
    if let Err(refused) = create(context, &pod).await? {
        return Ok(Err(refused));
    }
    info!("started runner {slot}");
    let about = observed.pool.object_ref(&());
    context.events.normal_with(&about, pod.object_ref(&()), "RunnerStarted", format!("Started runner {slot}")).await;
    Ok(Ok(()))
}

/// Creates an object that is never changed afterwards. One that is there already is fine: a list may be older.
async fn create<K: Object>(context: &Context, object: &K) -> Result<Result<(), String>, CarryOutError> {
    let api = context.of::<K>(&object.namespace().unwrap_or_default());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&parameters, object).await {
        Ok(_) => Ok(Ok(())),
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(Ok(())),
        Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_invalid() => {
            Ok(Err(status.message.clone()))
        }
        Err(source) => Err(CarryOutError::Create {
            kind: std::any::type_name::<K>().rsplit("::").next().unwrap_or_default(),
            name: object.name_any(),
            source: Box::new(source),
        }),
    }
}

/// Deletes the pods of a plan. The look that the plan was made from may be a second old, and a pod that came up since then
/// may have work: so the database is asked again, and only what a plan from the newest look deletes, too, is deleted.
async fn remove(
    context: &Context,
    observed: &Observed,
    valid: &ValidPool,
    wish: Wish,
    desired: &Desired,
    planned: &Plan,
) -> Result<(), CarryOutError> {
    let Some(db) = observed.standing.db().filter(|_| !planned.delete.is_empty()) else { return Ok(()) };
    let newest = Work::look(db).await.map_err(CarryOutError::Recheck)?;
    let now = slots(&valid.name, &observed.pods, Some(&newest), desired.hash.as_deref());
    let needed = needed(valid, &newest);
    let Some(again) = goal(wish, desired.runners, needed, observed.now).map(|goal| plan(&now, &goal)) else {
        return Ok(());
    };
    for number in planned.delete.iter().filter(|number| again.delete.contains(number)) {
        let name = slot::name(&valid.name, *number);
        let Some(pod) = observed.pods.iter().find(|pod| pod.name_any() == name) else { continue };
        apply::delete(context, pod).await?;
        info!("ended runner {name}");
        let leaving = again.leaving.filter(|leaving| leaving.number == *number);
        let why = leaving.map_or("it had ended", |leaving| leaving.why.sentence());
        let note = format!("Ended runner {name}: {why}");
        context.events.normal_with(&observed.pool.object_ref(&()), pod.object_ref(&()), "RunnerEnded", note).await;
    }
    Ok(())
}
