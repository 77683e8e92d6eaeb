//! Storage paths that `curio run` attaches itself: in a pod nobody is there to type `curio storage attach`.
//!
//! An empty directory becomes a storage path once; afterwards it is what its `sectorstore.json` says, and
//! a start that wants to use it for something else is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use curio_harmony::Db;
use tracing::info;

use crate::storage::path::{self, Attach, AttachError, Attached, DEFAULT_WEIGHT, Init, SECTOR_STORE, SectorStore};
use crate::storage::{BlockingError, blocking};

/// What a directory is for: sealing, long-term storage, or both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purpose {
    pub seal: bool,
    pub store: bool,
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match (self.seal, self.store) {
            (true, true) => "sealing and storing",
            (true, false) => "sealing",
            (false, true) => "storing",
            (false, false) => "nothing",
        })
    }
}

/// One `KIND=PATH` of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttachArg {
    pub purpose: Purpose,
    pub root: PathBuf,
}

impl FromStr for AttachArg {
    type Err = String;

    fn from_str(text: &str) -> Result<AttachArg, String> {
        let wrong = || format!("'{text}' is not KIND=PATH; write it like seal=/scratch or store=/store");
        let (kind, root) = text.split_once('=').ok_or_else(wrong)?;
        let purpose = match kind {
            "seal" => Purpose { seal: true, store: false },
            "store" => Purpose { seal: false, store: true },
            _ => return Err(wrong()),
        };
        let root = PathBuf::from(root);
        if !root.is_absolute() {
            return Err(format!("'{}' is not an absolute path", root.display()));
        }
        Ok(AttachArg { purpose, root })
    }
}

/// A directory cannot be attached at the start.
#[derive(Debug, thiserror::Error)]
pub enum AttachAtStartError {
    #[error(
        "{} is a storage path for {found} (its {SECTOR_STORE} says so) and --attach names it for {wanted}; \
         correct --attach, or give this machine another directory",
        root.display()
    )]
    OtherPurpose { root: PathBuf, found: Purpose, wanted: Purpose },
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// Attaches all to the machine. A directory named twice is for both purposes.
///
/// # Errors
/// The first that cannot be attached; those before it are.
pub async fn attach_all(db: &Db, machine: &str, wanted: &[AttachArg]) -> Result<(), AttachAtStartError> {
    for (root, purpose) in by_root(wanted) {
        let attached = match attach(db, machine, &root, purpose).await {
            // Another machine that shares the volume made the path a moment ago; now it is there.
            Err(AttachAtStartError::Attach(AttachError::Initialised { .. })) => {
                attach(db, machine, &root, purpose).await?
            }
            outcome => outcome?,
        };
        let already = if attached.already { ", as before" } else { "" };
        info!("{} is storage path {} for {purpose}{already}", attached.root.display(), attached.storage_id);
    }
    Ok(())
}

fn by_root(wanted: &[AttachArg]) -> BTreeMap<PathBuf, Purpose> {
    let mut roots: BTreeMap<PathBuf, Purpose> = BTreeMap::new();
    for AttachArg { purpose, root } in wanted {
        let all = roots.entry(root.clone()).or_default();
        *all = Purpose { seal: all.seal || purpose.seal, store: all.store || purpose.store };
    }
    roots
}

async fn attach(db: &Db, machine: &str, root: &Path, wanted: Purpose) -> Result<Attached, AttachAtStartError> {
    let found = {
        let root = root.to_owned();
        blocking("reading a storage path", move || path::read_store(&root)).await??
    };
    let init = match found {
        None => {
            Some(Init { can_seal: wanted.seal, can_store: wanted.store, weight: DEFAULT_WEIGHT, max_storage_bytes: 0 })
        }
        Some(store) => {
            check_purpose(root, &store, wanted)?;
            None
        }
    };
    Ok(path::attach(db, &Attach { root, machine, init }).await?)
}

fn check_purpose(root: &Path, store: &SectorStore, wanted: Purpose) -> Result<(), AttachAtStartError> {
    let found = Purpose { seal: store.can_seal, store: store.can_store };
    if found == wanted {
        return Ok(());
    }
    Err(AttachAtStartError::OtherPurpose { root: root.to_owned(), found, wanted })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_named_for_both_purposes_has_both() {
        let wanted: Vec<AttachArg> =
            ["seal=/a", "store=/b", "store=/a"].iter().map(|text| text.parse().expect("it is KIND=PATH")).collect();
        let both = Purpose { seal: true, store: true };
        let store = Purpose { seal: false, store: true };
        assert_eq!(by_root(&wanted), BTreeMap::from([("/a".into(), both), ("/b".into(), store)]));
    }

    #[test]
    fn what_is_no_kind_and_path_is_refused() {
        for text in ["/scratch", "sealing=/scratch", "seal=", "seal=scratch"] {
            assert!(text.parse::<AttachArg>().is_err(), "{text}");
        }
    }

    #[tokio::test]
    async fn a_path_is_made_once_and_not_for_another_purpose() {
        let db = curio_harmony::testing::TestDb::new().await;
        let dir = tempfile::tempdir().expect("a folder");
        let root = dir.path().to_owned();
        let arg = |seal, store| AttachArg { purpose: Purpose { seal, store }, root: root.clone() };
        attach_all(db.db(), "sealing-0", &[arg(true, false)]).await.expect("it is made");
        let first = path::read_store(&root).expect("it can be read").expect("it is there");
        attach_all(db.db(), "sealing-0", &[arg(true, false)]).await.expect("it is attached again");
        let second = path::read_store(&root).expect("it can be read").expect("it is there");
        assert_eq!(first, second);
        let error = attach_all(db.db(), "sealing-0", &[arg(false, true)]).await.expect_err("it is for sealing");
        let text = error.to_string();
        assert!(text.contains("is a storage path for sealing") && text.contains("names it for storing"), "{text}");
    }
}
