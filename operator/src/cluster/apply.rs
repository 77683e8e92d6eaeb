//! Does what is to be done for a CurioCluster, in this order: what runners need to find each other, the
//! migration, the layers.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use curio_harmony::layers::{self, Applied};
use curio_harmony::{Db, TxError};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Resource, ResourceExt};
use rand::RngCore;
use serde_json::json;

use super::desired::{self, Desired, Policies};
use super::validate::LayerText;
use crate::api::CurioCluster;
use crate::apply::{self, ApplyError, labels};
use crate::context::Context;
use crate::databases::ClusterKey;

/// How much of the secret is random: what runners ask for.
const SECRET_BYTES: usize = 32;

/// Writing one layer takes at most this long. A transaction would wait half a minute for a database that is
/// away, and the status with it.
const LAYER_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether the database has the layers as the spec says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayerSync {
    InSync,
    /// Titles of layers that somebody edited in the database.
    Edited(Vec<String>),
    /// The database cannot be asked, or nothing may be written.
    Unknown,
}

/// A layer could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write layer '{title}' to the database")]
pub struct LayerError {
    title: String,
    #[source]
    source: TxError,
}

/// Makes what the cluster has in Kubernetes; Jobs aside.
///
/// # Errors
/// The API server refuses something, or does not answer.
pub async fn objects(context: &Context, cluster: &CurioCluster, desired: &Desired) -> Result<(), ApplyError> {
    let Desired { service, budget, policies } = desired;
    if cluster.spec.storage_secret.is_none() {
        ensure_storage_secret(context, cluster).await?;
    }
    apply::apply(context, service).await?;
    apply::apply(context, budget).await?;
    match policies {
        Policies::Present(policies) => {
            for policy in policies {
                apply::apply(context, policy).await?;
            }
        }
        Policies::Absent(names) => {
            let namespace = cluster.namespace().unwrap_or_default();
            for name in names {
                let found: Option<NetworkPolicy> = apply::find(context, &namespace, name).await?;
                // One of the same name that somebody else made is not ours to delete.
                if let Some(policy) = found.filter(|policy| is_owned(policy, cluster)) {
                    apply::delete(context, &policy).await?;
                }
            }
        }
    }
    Ok(())
}

fn is_owned<K: Resource>(object: &K, cluster: &CurioCluster) -> bool {
    object.owner_references().iter().any(|owner| Some(&owner.uid) == cluster.uid().as_ref())
}

/// Once made it is never changed. Two that make it at the same time agree on the first.
async fn ensure_storage_secret(context: &Context, cluster: &CurioCluster) -> Result<(), ApplyError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let name = desired::storage_secret_name(&cluster.name_any());
    if apply::find::<Secret>(context, &namespace, &name).await?.is_some() {
        return Ok(());
    }
    let mut bytes = [0; SECRET_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    let secret = desired::storage_secret(cluster, STANDARD.encode(bytes));
    let parameters = PostParams { field_manager: Some(apply::FIELD_MANAGER.to_owned()), ..PostParams::default() };
    match context.of::<Secret>(&namespace).create(&parameters, &secret).await {
        Ok(_) => {
            let note = format!("made Secret {name} for requests between runners");
            context.events.normal(&cluster.object_ref(&()), "StorageSecretMade", note).await;
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(source) => {
            Err(ApplyError::Write { kind: "Secret".to_owned(), name: format!("{namespace}/{name}"), source })
        }
    }
}

/// Deletes the Jobs of other images and databases.
///
/// # Errors
/// The API server refuses something, or does not answer.
pub async fn forget_migrations(context: &Context, jobs: &[Job], but: &str) -> Result<(), ApplyError> {
    for job in jobs.iter().filter(|job| job.name_any() != but && job.metadata.deletion_timestamp.is_none()) {
        apply::delete(context, job).await?;
    }
    Ok(())
}

/// Writes the layers that differ, except those that somebody edited by hand. One edited layer is overwritten
/// when the annotation names it, once.
///
/// # Errors
/// The database refuses. That it is away is no error: `Unknown`.
pub async fn layers(
    context: &Context,
    cluster: &CurioCluster,
    db: &Db,
    layers: &[LayerText],
) -> Result<LayerSync, LayerError> {
    let manager = format!("curiocluster/{}", ClusterKey::of(cluster));
    let overwrite = cluster.annotations().get(labels::OVERWRITE_LAYER);
    let about = cluster.object_ref(&());
    let mut edited = Vec::new();
    // A layer that leaves the spec stays in the database as it is: machines outside Kubernetes may name it.
    for LayerText { title, text } in layers {
        let applied = layers::apply(db, title, text, &manager, overwrite == Some(title));
        let Ok(applied) = tokio::time::timeout(LAYER_TIMEOUT, applied).await else { return Ok(LayerSync::Unknown) };
        match applied {
            Ok(Applied::Unchanged) => {}
            Ok(Applied::Written) => {
                context.events.normal(&about, "LayerWritten", format!("wrote layer '{title}' to the database")).await;
            }
            Ok(Applied::EditedByHand { found: _ }) => edited.push(title.clone()),
            Err(source) if is_away(&source) => return Ok(LayerSync::Unknown),
            Err(source) => return Err(LayerError { title: title.clone(), source }),
        }
    }
    if edited.is_empty() { Ok(LayerSync::InSync) } else { Ok(LayerSync::Edited(edited)) }
}

fn is_away(error: &TxError) -> bool {
    matches!(error, TxError::Db(error) if error.is_away())
}

/// Takes the annotation off that asked for one layer to be overwritten.
///
/// # Errors
/// The API server refuses, or does not answer.
pub async fn forget_overwrite(context: &Context, cluster: &CurioCluster) -> Result<(), ApplyError> {
    if !cluster.annotations().contains_key(labels::OVERWRITE_LAYER) {
        return Ok(());
    }
    let namespace = cluster.namespace().unwrap_or_default();
    let patch = json!({"metadata": {"annotations": {labels::OVERWRITE_LAYER: null}}});
    let api = context.of::<CurioCluster>(&namespace);
    match api.patch(&cluster.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(source) => Err(ApplyError::Write {
            kind: "CurioCluster".to_owned(),
            name: ClusterKey::of(cluster).to_string(),
            source,
        }),
    }
}
