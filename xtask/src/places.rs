//! Where things lie: the repository, the folder of heavy builds, the caches, the parameters.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The root of the repository. `CARGO_MANIFEST_DIR` names the crate of this program at run time, too, because
/// cargo runs it; the value from compile time serves a program that was started by hand.
pub fn repository() -> PathBuf {
    let own =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    own.parent().map_or(own.clone(), Path::to_path_buf)
}

fn from_env(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

pub fn user_cache() -> Result<PathBuf> {
    from_env("XDG_CACHE_HOME")
        .or_else(|| from_env("HOME").map(|home| home.join(".cache")))
        .context("neither HOME nor XDG_CACHE_HOME is set, so there is no folder for caches; set HOME")
}

/// Builds of everything but this program: outside the repository, so that a second clone finds them.
/// `CURIO_TARGET_DIR`, else `CARGO_TARGET_DIR`, else `curio/target` in the user's cache folder.
pub fn target_dir() -> Result<PathBuf> {
    if let Some(dir) = from_env("CURIO_TARGET_DIR").or_else(|| from_env("CARGO_TARGET_DIR")) {
        return Ok(if dir.is_absolute() { dir } else { repository().join(dir) });
    }
    Ok(user_cache()?.join("curio").join("target"))
}

/// Groth16 parameters: `FIL_PROOFS_PARAMETER_CACHE`, else `curio/filecoin-proof-parameters` in the user's cache.
pub fn parameters() -> Result<PathBuf> {
    if let Some(dir) = from_env("FIL_PROOFS_PARAMETER_CACHE") {
        return Ok(dir);
    }
    Ok(user_cache()?.join("curio").join("filecoin-proof-parameters"))
}

/// A fresh folder that other users may pass through, since PostgreSQL runs as a user of its own when this program
/// is root. Removed when dropped.
///
/// # Errors
/// When no temporary folder can be made.
pub fn scratch(purpose: &str) -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let parent = std::env::temp_dir();
    let parent = if passable(&parent) { parent } else { PathBuf::from("/tmp") };
    let dir = tempfile::Builder::new()
        .prefix(&format!("curio-{purpose}-"))
        .tempdir_in(&parent)
        .with_context(|| format!("failed to make a temporary folder in {}", parent.display()))?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))
        .with_context(|| format!("failed to set the mode of {}", dir.path().display()))?;
    Ok(dir)
}

/// Whether any user may walk down to `path`.
fn passable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.ancestors().all(|part| std::fs::metadata(part).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_the_folder_with_the_migrations() {
        assert!(repository().join("migrations").is_dir(), "{}", repository().display());
    }

    #[test]
    fn another_user_can_reach_a_scratch_folder() {
        let dir = scratch("test").expect("a temporary folder can be made");
        assert!(passable(dir.path()));
    }
}
