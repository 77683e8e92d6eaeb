//! buildah with a storage of its own, and the cache of archives.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::Archive;
use crate::cluster::{fingerprint, layout, lock, mounts, packages};
use crate::{places, process, say};

pub struct Builder {
    archives: PathBuf,
    storage: PathBuf,
    /// What buildah wants to forget when the machine starts anew.
    run: TempDir,
    /// Two commands would unmount each other's storage.
    _lock: File,
}

/// How to build an image that is not in the cache.
pub struct Recipe<'a> {
    pub name: &'static str,
    /// Everything that decides the content.
    pub inputs: &'a [&'a [u8]],
}

impl Builder {
    /// # Errors
    /// When programs are missing or the cache cannot be written.
    pub fn new() -> Result<Builder> {
        packages::find_or_install()?;
        let cache = layout::cache()?;
        let archives = cache.join("images");
        let lock = lock::take(&archives)?;
        Ok(Builder { archives, storage: cache.join("buildah"), run: places::scratch("buildah")?, _lock: lock })
    }

    /// The archive of a recipe, and whether it had to be made. `make` gets an empty folder as its context and returns
    /// the build to run there; [`Builder::build`] makes one.
    ///
    /// # Errors
    /// When `make` or the build fails.
    pub fn archive(&self, recipe: &Recipe<'_>, make: impl FnOnce(&Path) -> Result<Command>) -> Result<(Archive, bool)> {
        let Recipe { name, inputs } = recipe;
        let stem = file_stem(name);
        let base = format!("{stem}-{}", fingerprint::of(inputs));
        let (file, id_file) = (self.archives.join(format!("{base}.tar")), self.archives.join(format!("{base}.id")));
        // The id is written last, so an archive with an id is whole.
        if let Ok(id) = fs::read_to_string(&id_file) {
            return Ok((Archive { name, id: id.trim().to_owned(), file }, false));
        }
        let context = places::scratch("image")?;
        let mut build = make(context.path())?;
        let iid = self.run.path().join("iid");
        build.args(["--tag", name]).arg("--iidfile").arg(&iid).arg(context.path());
        process::capture(&format!("building {name}"), &mut build)?;
        let id = fs::read_to_string(&iid).with_context(|| format!("failed to read {}", iid.display()))?;

        let part = self.archives.join(format!("{base}.part"));
        drop(fs::remove_file(&part));
        let mut push = self.buildah();
        push.args(["push", "--quiet", name]).arg(format!("docker-archive:{}:{name}", part.display()));
        process::capture(&format!("writing {name}"), &mut push)?;
        fs::rename(&part, &file).with_context(|| format!("failed to write {}", file.display()))?;
        fs::write(&id_file, &id).with_context(|| format!("failed to write {}", id_file.display()))?;
        self.forget_others(&stem, &base)?;
        Ok((Archive { name, id: id.trim().to_owned(), file }, true))
    }

    /// A build; what is missing is the context, which [`Builder::archive`] adds.
    pub fn build(&self, dockerfile: &Path) -> Command {
        let mut build = self.buildah();
        // The format docker writes an image whose id is the same in every archive. Layers are not kept: what is worth
        // keeping has an archive.
        build.args(["build", "--quiet", "--format=docker", "--layers=false", "--file"]).arg(dockerfile);
        build
    }

    pub fn buildah(&self) -> Command {
        let mut buildah = Command::new("buildah");
        // The isolation that needs neither a user namespace nor a runtime, so that it works in containers as well.
        buildah.env("BUILDAH_ISOLATION", "chroot").env("STORAGE_DRIVER", "overlay");
        buildah.arg("--root").arg(&self.storage).arg("--runroot").arg(self.run.path().join("storage"));
        buildah
    }

    /// Makes sure that a name can be used in `FROM`.
    ///
    /// # Errors
    /// When the archive cannot be read.
    pub fn provide(&self, archive: &Archive) -> Result<()> {
        let mut inspect = self.buildah();
        inspect.args(["inspect", "--type=image", "--format={{.FromImageID}}", archive.name]);
        let found = process::output(&mut inspect)?;
        let found = String::from_utf8_lossy(&found.stdout);
        if archive.id.trim_start_matches("sha256:") == found.trim() {
            return Ok(());
        }
        let mut pull = self.buildah();
        pull.args(["pull", "--quiet"]).arg(format!("docker-archive:{}", archive.file.display()));
        process::capture(&format!("reading {}", archive.file.display()), &mut pull).map(drop)
    }

    /// Archives of the same image with other content.
    fn forget_others(&self, stem: &str, current: &str) -> Result<()> {
        let entries =
            fs::read_dir(&self.archives).with_context(|| format!("failed to read {}", self.archives.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            let Some(name) = path.file_stem().map(|name| name.to_string_lossy().into_owned()) else { continue };
            let same_image = name.rsplit_once('-').is_some_and(|(other, _)| other == stem);
            if same_image && name != current {
                fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))?;
            }
        }
        let mut prune = self.buildah();
        prune.args(["rmi", "--prune", "--force"]);
        process::capture("buildah", &mut prune).map(drop)
    }
}

impl Drop for Builder {
    /// buildah leaves its storage mounted.
    fn drop(&mut self) {
        if let Err(error) = mounts::detach_below(&self.storage) {
            say::error(&format!("{error:#}"));
        }
    }
}

/// `curio-runner` for `localhost/curio-runner:dev`.
fn file_stem(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    last.split(':').next().unwrap_or(last).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_named_after_their_image() {
        assert_eq!(file_stem("localhost/curio-runner:dev"), "curio-runner");
        assert_eq!(file_stem("pause"), "pause");
    }
}
