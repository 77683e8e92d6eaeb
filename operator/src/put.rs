//! `curio-operator put`: applies a file of our objects. Helm's hook for the evaluation.
//!
//! Helm asks the API server about every kind of a release before it installs anything, so a release cannot hold a kind and
//! an object of it. The chart installs the kinds, and this runs afterwards.

use std::path::PathBuf;
use std::time::Duration;

use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use tokio::time::{Instant, sleep};

use crate::api::{CurioCluster, GROUP, RunnerPool, SealingSector};

/// Not the operator's, which writes other fields of the same objects.
const FIELD_MANAGER: &str = "curio-evaluation";
const BETWEEN_TRIES: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// YAML documents of CurioClusters, RunnerPools and SealingSectors, each with its namespace.
    #[arg(long)]
    file: PathBuf,
    /// Longest wait until the API server knows the kinds, in seconds.
    #[arg(long, default_value_t = 60)]
    wait_seconds: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error("failed to read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not a list of YAML objects", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_yaml_ng::Error,
    },
    #[error("{object} is none of ours; only objects of {GROUP} with a name and a namespace are applied")]
    Foreign { object: String },
    #[error("failed to reach the API server; run this in a pod, or with a kubeconfig")]
    Client(#[source] kube::Error),
    #[error("failed to apply {object}")]
    Apply {
        object: String,
        #[source]
        source: Box<kube::Error>,
    },
}

/// Applies every object of the file, in its order, and prints a line for each.
///
/// # Errors
/// At the first object that is refused. The API server not knowing a kind yet, and not answering, are waited out.
pub async fn run(options: Options) -> Result<(), PutError> {
    let Options { file, wait_seconds } = options;
    let text = std::fs::read_to_string(&file).map_err(|source| PutError::Read { path: file.clone(), source })?;
    let objects = parse(&text).map_err(|source| PutError::Parse { path: file, source })?;
    let typed = objects.into_iter().map(|object| Ok((kind_of(&object)?, object)));
    let typed: Vec<(ApiResource, DynamicObject)> = typed.collect::<Result<_, PutError>>()?;
    let client = Client::try_default().await.map_err(PutError::Client)?;
    let due_by = Instant::now() + Duration::from_secs(wait_seconds);
    for (kind, object) in &typed {
        apply(&client, kind, object, due_by).await?;
        println!("{} applied", named(object));
    }
    Ok(())
}

fn parse(text: &str) -> Result<Vec<DynamicObject>, serde_yaml_ng::Error> {
    serde_yaml_ng::Deserializer::from_str(text).map(DynamicObject::deserialize).collect()
}

/// Which of our kinds it is.
fn kind_of(object: &DynamicObject) -> Result<ApiResource, PutError> {
    let foreign = || PutError::Foreign { object: named(object) };
    let types = object.types.as_ref().ok_or_else(foreign)?;
    let wanted = GroupVersionKind::try_from(types).map_err(|_| foreign())?;
    let ours = [
        ApiResource::erase::<CurioCluster>(&()),
        ApiResource::erase::<RunnerPool>(&()),
        ApiResource::erase::<SealingSector>(&()),
    ];
    let found = ours
        .into_iter()
        .find(|kind| (&kind.group, &kind.version, &kind.kind) == (&wanted.group, &wanted.version, &wanted.kind));
    match (found, &object.metadata.name, &object.metadata.namespace) {
        (Some(kind), Some(_), Some(_)) => Ok(kind),
        (_, _, _) => Err(foreign()),
    }
}

fn named(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("an object", |types| types.kind.as_str());
    match object.namespace() {
        Some(namespace) => format!("{kind} {namespace}/{}", object.name_any()),
        None => format!("{kind} {}", object.name_any()),
    }
}

async fn apply(client: &Client, kind: &ApiResource, object: &DynamicObject, due_by: Instant) -> Result<(), PutError> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, kind);
    // What the release's values say wins, as it does for everything else that a Helm upgrade writes.
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    loop {
        match api.patch(&object.name_any(), &parameters, &Patch::Apply(object)).await {
            Ok(_) => return Ok(()),
            Err(error) if may_pass(&error) && Instant::now() + BETWEEN_TRIES < due_by => sleep(BETWEEN_TRIES).await,
            Err(source) => return Err(PutError::Apply { object: named(object), source: Box::new(source) }),
        }
    }
}

/// A kind that was installed a moment ago is not served yet: then the whole address is not found. A refusal is for good.
fn may_pass(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.is_not_found() || status.code == 429 || status.code >= 500,
        kube::Error::HyperError(_) | kube::Error::Service(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_of_our_kinds_with_name_and_namespace_are_taken() {
        let text = "
apiVersion: curio.filecoin.io/v1alpha1
kind: RunnerPool
metadata: {name: snark, namespace: curio}
spec: {cluster: curio}
---
apiVersion: curio.filecoin.io/v1alpha1
kind: RunnerPool
metadata: {name: snark}
---
apiVersion: v1
kind: Secret
metadata: {name: gold, namespace: curio}
";
        let taken: Vec<Result<String, String>> = parse(text)
            .unwrap()
            .iter()
            .map(|object| kind_of(object).map(|kind| kind.plural).map_err(|error| error.to_string()))
            .collect();
        let refused = |object: &str| {
            Err(format!(
                "{object} is none of ours; only objects of curio.filecoin.io with a name and a namespace are applied"
            ))
        };
        assert_eq!(taken, [Ok("runnerpools".to_owned()), refused("RunnerPool snark"), refused("Secret curio/gold")]);
    }
}
