//! Writing to the API server: server-side apply under one field manager, statuses, deletions, and the
//! labels and owners that everything of ours carries.

use std::fmt::Debug;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::context::Context;

/// Under this name the API server keeps which fields are ours, and we report events.
pub const FIELD_MANAGER: &str = "curio-operator";

/// The API server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("failed to write {kind} {name}")]
    Write {
        kind: String,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("failed to write the status of {kind} {name}")]
    Status {
        kind: String,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("failed to delete {kind} {name}")]
    Delete {
        kind: String,
        name: String,
        #[source]
        source: kube::Error,
    },
    #[error("failed to read {kind} {name}")]
    Read {
        kind: String,
        name: String,
        #[source]
        source: kube::Error,
    },
}

/// Kinds that live in a namespace and whose type is known at compile time.
pub trait Object:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

impl<K> Object for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + Serialize + DeserializeOwned
{
}

/// Makes the object, or brings the fields that it names to what it says. Fields that others own are taken
/// over; fields that it does not name stay.
pub async fn apply<K: Object>(context: &Context, object: &K) -> Result<K, ApplyError> {
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api_of(context, object)
        .patch(&object.name_any(), &parameters, &Patch::Apply(object))
        .await
        .map_err(|source| ApplyError::Write { kind: kind_of(object), name: place_of(object), source })
}

/// Makes the status of an object ours, whole. The object may be gone by now, which is fine.
pub async fn apply_status<K: Object, S: Serialize>(
    context: &Context,
    object: &K,
    status: &S,
) -> Result<(), ApplyError> {
    let patch = json!({
        "apiVersion": K::api_version(&()),
        "kind": K::kind(&()),
        "metadata": { "name": object.name_any(), "uid": object.uid() },
        "status": status,
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    match api_of(context, object).patch_status(&object.name_any(), &parameters, &Patch::Apply(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(source) => Err(ApplyError::Status { kind: kind_of(object), name: place_of(object), source }),
    }
}

/// Deletes just this object and in the background what it owns. One that is gone, or that another of the
/// same name has replaced, is fine.
pub async fn delete<K: Object>(context: &Context, object: &K) -> Result<(), ApplyError> {
    let parameters = DeleteParams {
        propagation_policy: Some(PropagationPolicy::Background),
        preconditions: Some(Preconditions { uid: object.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    match api_of(context, object).delete(&object.name_any(), &parameters).await {
        Ok(_) => Ok(()),
        Err(error) if is_gone(&error) => Ok(()),
        Err(source) => Err(ApplyError::Delete { kind: kind_of(object), name: place_of(object), source }),
    }
}

/// The object of this name, if there is one.
pub async fn find<K: Object>(context: &Context, namespace: &str, name: &str) -> Result<Option<K>, ApplyError> {
    context.of::<K>(namespace).get_opt(name).await.map_err(|source| ApplyError::Read {
        kind: K::kind(&()).into_owned(),
        name: format!("{namespace}/{name}"),
        source,
    })
}

/// That this object controls another, which goes when it goes.
pub fn owned_by<K: Object>(object: &K) -> OwnerReference {
    object.controller_owner_ref(&()).expect("an object that was read from the API server has a name and a uid")
}

fn api_of<K: Object>(context: &Context, object: &K) -> Api<K> {
    context.of(&object.namespace().unwrap_or_default())
}

fn kind_of<K: Object>(_: &K) -> String {
    K::kind(&()).into_owned()
}

fn place_of<K: Object>(object: &K) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// Not there, or there with another uid.
fn is_gone(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found() || status.is_conflict())
}

/// Sets of labels by which we and others find what is ours.
pub mod labels {
    use std::collections::BTreeMap;

    use super::FIELD_MANAGER;

    /// Who looks after an object; the value is [`FIELD_MANAGER`].
    pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
    /// The whole that an object belongs to; the value is `curio`.
    pub const PART_OF: &str = "app.kubernetes.io/part-of";
    /// What program a pod runs; the value on runners is [`RUNNER`].
    pub const NAME: &str = "app.kubernetes.io/name";
    pub const RUNNER: &str = "curio-runner";
    /// Which part of a whole; the value on migration Jobs is [`MIGRATION`].
    pub const COMPONENT: &str = "app.kubernetes.io/component";
    pub const MIGRATION: &str = "migration";
    pub const CLUSTER: &str = "curio.filecoin.io/cluster";
    pub const POOL: &str = "curio.filecoin.io/pool";
    pub const SLOT: &str = "curio.filecoin.io/slot";
    /// `"true"` on the pod of a runner that has work; the disruption budget selects by it.
    pub const BUSY: &str = "curio.filecoin.io/busy";

    /// Annotation that a person puts on a CurioCluster: name of a layer that was edited by hand and is to be
    /// overwritten once.
    pub const OVERWRITE_LAYER: &str = "curio.filecoin.io/overwrite-layer";

    /// Annotation that a person puts on a CurioCluster: name of the CurioCluster that has its database and is
    /// gone for good, as the condition names it.
    pub const TAKE_DATABASE: &str = "curio.filecoin.io/take-database";

    pub type Labels = BTreeMap<String, String>;

    /// Everything of a cluster.
    pub fn of_cluster(cluster: &str) -> Labels {
        Labels::from([
            (MANAGED_BY.to_owned(), FIELD_MANAGER.to_owned()),
            (PART_OF.to_owned(), "curio".to_owned()),
            (CLUSTER.to_owned(), cluster.to_owned()),
        ])
    }

    /// Every runner pod of a cluster.
    pub fn of_runners(cluster: &str) -> Labels {
        with(of_cluster(cluster), NAME, RUNNER)
    }

    /// Every runner pod of a pool.
    pub fn of_pool(cluster: &str, pool: &str) -> Labels {
        with(of_runners(cluster), POOL, pool)
    }

    /// The pod and the claims of one slot.
    pub fn of_slot(cluster: &str, pool: &str, slot: &str) -> Labels {
        with(of_pool(cluster, pool), SLOT, slot)
    }

    /// These and one more.
    pub fn with(mut labels: Labels, key: &str, value: &str) -> Labels {
        labels.insert(key.to_owned(), value.to_owned());
        labels
    }

    /// As the API server and `kubectl -l` take it.
    pub fn selector(labels: &Labels) -> String {
        labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
    }
}
