//! Generated files: `.sqlx`, what the database said about every checked query, and what the operator says about its kinds.
//!
//! The sqlx macros ask a live database while they compile, and save its answers when `SQLX_OFFLINE_DIR` is set. So
//! the answers come from one run of clippy over the workspace against a private server with the migrations applied;
//! `cargo xtask test` lints and checks for stale files in that same run. The definitions of the custom resources and their
//! reference page are written by `curio-operator` itself; a test of that crate fails when they are stale.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::postgres::{Durability, Installation, Server};
use crate::{cargo, places, process, say};

/// Folders that hold the definitions of the custom resources: one for people, one in the chart.
const DEFINITIONS: [&str; 2] = ["crds", "charts/curio/files/crds"];
const REFERENCE: &str = "docs/reference/crds.md";

/// Writes all of them anew.
///
/// # Errors
/// When the workspace does not compile against the migrations.
pub fn run() -> Result<()> {
    queries_anew()?;
    custom_resources()
}

fn queries_anew() -> Result<()> {
    let installation = Installation::find_or_install()?;
    let scratch = places::scratch("generate")?;
    let server = Server::start(&installation, scratch.path(), Durability::ProcessOnly)?;
    migrate(&server)?;
    let fresh = scratch.path().join("sqlx");
    let mut clippy = lint_against(&server, &fresh, &[])?;
    process::run("compiling against the database", &mut clippy)?;
    let change = Change::between(&queries(&committed_dir())?, &queries(&fresh)?);
    change.apply(&committed_dir())?;
    println!("{}: {change}", say::bold(".sqlx"));
    Ok(())
}

fn custom_resources() -> Result<()> {
    let mut build = cargo::command("build")?;
    build.args(["--workspace", "--bin=curio-operator"]);
    let built = cargo::build("building the operator", &mut build)?;
    let operator = built.iter().find(|built| built.kind == cargo::Kind::Program && built.target == "curio-operator");
    let operator = &operator.context("cargo did not say where it put curio-operator")?.path;
    for (command, place) in DEFINITIONS.map(|dir| ("crds", dir)).into_iter().chain([("reference", REFERENCE)]) {
        let mut write = Command::new(operator);
        write.arg(command).arg("--out").arg(places::repository().join(place));
        process::run(&format!("writing {place}"), &mut write)?;
        println!("{}: written", say::bold(place));
    }
    Ok(())
}

/// Applies the migrations in order, as a server without `curio` gets them.
///
/// # Errors
/// When one of them is refused.
pub fn migrate(server: &Server) -> Result<()> {
    let dir = places::repository().join("migrations");
    let mut files: Vec<PathBuf> = fs::read_dir(&dir)
        .with_context(|| format!("failed to read {}", dir.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sql"))
        .collect();
    files.sort();
    if files.is_empty() {
        bail!("there is no migration in {}", dir.display());
    }
    server.create_schema()?;
    files.iter().try_for_each(|file| server.apply(file))
}

/// A clippy run over everything that asks `server` about each query and leaves the answers in `answers`.
///
/// # Errors
/// When the folder for the answers cannot be made.
pub fn lint_against(server: &Server, answers: &Path, flags: &[&str]) -> Result<Command> {
    fs::create_dir_all(answers).with_context(|| format!("failed to make {}", answers.display()))?;
    let mut clippy = cargo::command("clippy")?;
    clippy.args(["--workspace", "--all-targets", "--"]).args(flags);
    // Cargo does not know that the macros read a database and would reuse the last run. A flag that changes every
    // time makes clippy look again at our crates, and at nothing else.
    clippy.arg(format!("--cfg=asked_port_{}_process_{}", server.port(), std::process::id()));
    clippy.env("DATABASE_URL", server.url_with_schema()).env("SQLX_OFFLINE", "false").env("SQLX_OFFLINE_DIR", answers);
    Ok(clippy)
}

/// Where the checked-in answers lie.
pub fn committed_dir() -> PathBuf {
    places::repository().join(".sqlx")
}

/// File name to content; a folder that is missing is empty.
pub fn queries(dir: &Path) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.with_context(|| format!("failed to read {}", dir.display()))?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("query-") && name.ends_with(".json") {
            let text = fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
            found.insert(name, text);
        }
    }
    Ok(found)
}

/// What must happen to the checked-in files to make them current.
#[derive(Debug, PartialEq, Eq)]
pub struct Change {
    write: BTreeMap<String, String>,
    remove: Vec<String>,
}

impl Change {
    pub fn between(committed: &BTreeMap<String, String>, fresh: &BTreeMap<String, String>) -> Change {
        let write = fresh.iter().filter(|(name, text)| committed.get(*name) != Some(text));
        Change {
            write: write.map(|(name, text)| (name.clone(), text.clone())).collect(),
            remove: committed.keys().filter(|name| !fresh.contains_key(*name)).cloned().collect(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.write.is_empty() && self.remove.is_empty()
    }

    fn apply(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
        for (name, text) in &self.write {
            let path = dir.join(name);
            fs::write(&path, text).with_context(|| format!("failed to write {}", path.display()))?;
        }
        for name in &self.remove {
            let path = dir.join(name);
            fs::remove_file(&path).with_context(|| format!("failed to remove {}", path.display()))?;
        }
        Ok(())
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} new or changed, {} no longer asked", self.write.len(), self.remove.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn a_query_that_is_new_changed_or_gone_makes_the_files_stale() {
        let committed = files(&[("query-a.json", "1"), ("query-b.json", "1"), ("query-c.json", "1")]);
        let fresh = files(&[("query-a.json", "1"), ("query-b.json", "2"), ("query-d.json", "1")]);
        let change = Change::between(&committed, &fresh);
        assert_eq!(change.write, files(&[("query-b.json", "2"), ("query-d.json", "1")]));
        assert_eq!(change.remove, ["query-c.json"]);
        assert!(Change::between(&fresh, &fresh).is_empty());
    }

    #[test]
    fn applying_a_change_makes_the_folder_current() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let fresh = files(&[("query-a.json", "1")]);
        Change::between(&files(&[]), &fresh).apply(dir.path()).expect("files can be written");
        assert_eq!(queries(dir.path()).expect("the folder can be read"), fresh);
    }
}
