//! Fetches what a CurioCluster points to: its Secrets, its migration Jobs, its pods, and the numbers of its
//! database. Judges nothing.

use std::sync::Arc;
use std::time::Duration;

use curio_harmony::machines::{self, MachineRow};
use curio_harmony::tasks::{self, KindLoad};
use curio_harmony::{Db, DbError};
use curio_pipeline::view::{self, SectorView};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::ResourceExt;
use kube::api::ListParams;
use kube::runtime::reflector::Store;
use tracing::warn;

use crate::api::CurioCluster;
use crate::apply::{self, ApplyError, labels};
use crate::context::Context;
use crate::databases::{ClusterKey, NoUrl, Standing, Wanted};

/// Reading the numbers takes at most this long; the keeper of the database finds out why it did not answer.
const NUMBERS_TIMEOUT: Duration = Duration::from_secs(3);

/// What is there.
pub struct Observed {
    pub standing: Standing,
    /// Tells one database from another without showing where it is.
    pub database_mark: Option<String>,
    /// One sentence for each chain Secret that is not there.
    pub chain_missing: Vec<String>,
    /// Migration Jobs of all images.
    pub migrations: Vec<Job>,
    /// All pods of this cluster, those of migrations included.
    pub pods: Vec<Arc<Pod>>,
    /// None while the database cannot be asked.
    pub numbers: Option<Numbers>,
}

/// What the database counts.
pub struct Numbers {
    pub loads: Vec<KindLoad>,
    pub machines: Vec<MachineRow>,
    /// In flight, or failed.
    pub sectors: Vec<SectorView>,
}

/// Looks once. The database that the spec names becomes the one that is kept.
///
/// # Errors
/// The API server does not answer. That the database does not is part of what is there.
pub async fn observe(context: &Context, pods: &Store<Pod>, cluster: &CurioCluster) -> Result<Observed, ApplyError> {
    let key = ClusterKey::of(cluster);
    let database = wanted_database(context, cluster).await?;
    let database_mark = database.url.as_deref().ok().map(|url| mark(&[url]));
    context.databases.want(&key, database);
    let chain_missing = missing_chain_secrets(context, cluster).await?;
    let migrations = migration_jobs(context, &key).await?;
    let standing = context.databases.get(&key);
    let numbers = match standing.db() {
        Some(db) => numbers(db, &key).await,
        None => None,
    };
    let ours = |pod: &Pod| {
        pod.namespace().as_ref() == Some(&key.namespace) && pod.labels().get(labels::CLUSTER) == Some(&key.name)
    };
    let pods = pods.state().into_iter().filter(|pod| ours(pod)).collect();
    Ok(Observed { standing, database_mark, chain_missing, migrations, pods, numbers })
}

/// The database that the spec names, as far as its Secret tells.
pub async fn wanted_database(context: &Context, cluster: &CurioCluster) -> Result<Wanted, ApplyError> {
    let secret = &cluster.spec.database.url_secret;
    let value = secret_value(context, cluster, &secret.name, &secret.key).await?;
    let url = value.map_err(NoUrl).and_then(|bytes| {
        let text = String::from_utf8(bytes).map_err(|_| {
            NoUrl(format!("key '{}' of Secret '{}' is no text; put the database's URL there", secret.key, secret.name))
        })?;
        Ok(text.trim().to_owned())
    });
    let take_from = cluster.annotations().get(labels::TAKE_DATABASE).cloned();
    Ok(Wanted { uid: cluster.uid().unwrap_or_default(), url, take_from })
}

async fn missing_chain_secrets(context: &Context, cluster: &CurioCluster) -> Result<Vec<String>, ApplyError> {
    let mut missing = Vec::new();
    for secret in &cluster.spec.chain.api_secrets {
        if let Err(sentence) = secret_value(context, cluster, &secret.name, &secret.key).await? {
            missing.push(sentence);
        }
    }
    if let Some(secret) = &cluster.spec.storage_secret
        && let Err(sentence) = secret_value(context, cluster, &secret.name, &secret.key).await?
    {
        missing.push(sentence);
    }
    Ok(missing)
}

/// The value of a key, or the sentence that says what is missing.
async fn secret_value(
    context: &Context,
    cluster: &CurioCluster,
    name: &str,
    key: &str,
) -> Result<Result<Vec<u8>, String>, ApplyError> {
    let namespace = cluster.namespace().unwrap_or_default();
    let Some(secret) = apply::find::<Secret>(context, &namespace, name).await? else {
        return Ok(Err(format!(
            "there is no Secret '{name}' in namespace '{namespace}'; create it with the key '{key}'"
        )));
    };
    let value = secret.data.and_then(|mut data| data.remove(key)).filter(|value| !value.0.is_empty());
    Ok(value.map(|value| value.0).ok_or_else(|| format!("Secret '{name}' has no key '{key}'; add it")))
}

async fn migration_jobs(context: &Context, key: &ClusterKey) -> Result<Vec<Job>, ApplyError> {
    let labels = labels::with(labels::of_cluster(&key.name), labels::COMPONENT, labels::MIGRATION);
    let parameters = ListParams::default().labels(&labels::selector(&labels));
    let list = context.of::<Job>(&key.namespace).list(&parameters).await;
    list.map(|jobs| jobs.items).map_err(|source| ApplyError::Read {
        kind: "Jobs".to_owned(),
        name: format!("of {key}"),
        source,
    })
}

async fn numbers(db: &Db, key: &ClusterKey) -> Option<Numbers> {
    let read = async {
        let loads = tasks::load(db).await?;
        let machines = machines::list(db).await?;
        let sectors = view::sectors(db, Duration::ZERO).await?;
        Ok::<Numbers, DbError>(Numbers { loads, machines, sectors })
    };
    match tokio::time::timeout(NUMBERS_TIMEOUT, read).await {
        Ok(Ok(numbers)) => Some(numbers),
        Ok(Err(error)) => {
            warn!(error = &error as &dyn std::error::Error, "failed to read the numbers of {key}");
            None
        }
        Err(_) => {
            warn!("the database of {key} did not tell its numbers within {NUMBERS_TIMEOUT:?}");
            None
        }
    }
}

/// Eight letters that tell texts apart.
pub fn mark(texts: &[&str]) -> String {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    for text in texts {
        hash.update(text.len().to_le_bytes());
        hash.update(text);
    }
    hex::encode(&hash.finalize()[..4])
}
