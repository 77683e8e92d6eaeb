//! Files that are made from the types in [`crate::api`]: the definitions of the kinds, and their reference page.

mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

use crate::api::{CurioCluster, RunnerPool, SealingSector};

pub use reference::page;

const HEADER: &str = "# Generated from operator/src/api by `cargo xtask generate`; never edited.\n";

/// A file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("failed to write {path}")]
pub struct WriteError {
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

/// The definitions of the three kinds, in the order in which a reader meets them.
pub fn definitions() -> [CustomResourceDefinition; 3] {
    [CurioCluster::crd(), RunnerPool::crd(), SealingSector::crd()]
}

/// File name and content of each definition.
pub fn files() -> Vec<(String, String)> {
    definitions()
        .iter()
        .map(|definition| {
            let yaml = serde_yaml_ng::to_string(definition).expect("a definition has only names as keys");
            (format!("{}.yaml", definition.spec.names.plural), format!("{HEADER}{yaml}"))
        })
        .collect()
}

/// Writes one file per kind into `dir`, which is made when it is missing.
pub fn write_definitions(dir: &Path) -> Result<(), WriteError> {
    fs::create_dir_all(dir).map_err(|source| WriteError { path: dir.to_owned(), source })?;
    files().iter().try_for_each(|(name, content)| write(&dir.join(name), content))
}

/// Writes the reference page.
pub fn write_reference(file: &Path) -> Result<(), WriteError> {
    write(file, &page())
}

fn write(path: &Path, content: &str) -> Result<(), WriteError> {
    fs::write(path, content).map_err(|source| WriteError { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALE: &str = "run `cargo xtask generate`";

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    fn stored(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    #[test]
    fn the_definitions_in_the_repository_and_in_the_chart_are_current() {
        for folder in ["crds", "charts/curio/files/crds"] {
            let dir = repository().join(folder);
            for (name, content) in files() {
                assert!(stored(&dir.join(&name)) == content, "{folder}/{name} is stale: {STALE}");
            }
            let beside: Vec<_> = fs::read_dir(&dir).expect("it was just read").flatten().collect();
            assert_eq!(beside.len(), files().len(), "{folder} has a file that no kind is in");
        }
    }

    #[test]
    fn the_reference_page_is_current() {
        let page = page();
        assert!(
            stored(&repository().join("docs/reference/crds.md")) == page,
            "docs/reference/crds.md is stale: {STALE}"
        );
    }

    /// `kubectl apply` keeps the whole object in an annotation, which holds 256 KiB.
    #[test]
    fn every_definition_is_small_enough_for_kubectl_apply() {
        for definition in definitions() {
            let size = serde_json::to_vec(&definition).expect("it has only names as keys").len();
            assert!(size < 128 << 10, "{} has {size} bytes", definition.spec.names.plural);
        }
    }
}
