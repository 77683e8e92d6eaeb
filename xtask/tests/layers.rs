//! Crates depend one way only, and each outside concern has one home: `docs/architecture.md`, held to what cargo says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Our crates and those of ours that each may use.
const MAY_USE: [(&str, &[&str]); 9] = [
    ("curio-core", &[]),
    ("curio-harmony", &["curio-core"]),
    ("curio-pipeline", &["curio-core", "curio-harmony"]),
    ("curio-chain", &["curio-core"]),
    ("curio-proofs", &["curio-core"]),
    ("curio-runner", &["curio-core", "curio-harmony", "curio-pipeline", "curio-chain", "curio-proofs"]),
    ("curio-operator", &["curio-core", "curio-harmony", "curio-pipeline"]),
    ("curio-devnet", &["curio-core", "curio-chain", "curio-proofs"]),
    ("curio-xtask", &[]),
];

/// What only tests may use beyond that: sectors are sealed against the embedded chain.
const TESTS_MAY_USE: [(&str, &str); 1] = [("curio-runner", "curio-devnet")];

/// Dependencies with one home each: (name starts with, crates that may name it).
const HOMES: [(&str, &[&str]); 8] = [
    ("sqlx", &["curio-harmony", "curio-pipeline", "curio-runner"]),
    ("filecoin-proofs", &["curio-proofs"]),
    ("storage-proofs", &["curio-proofs"]),
    ("bellperson", &["curio-proofs"]),
    ("fil_actor", &["curio-devnet"]),
    ("jsonwebtoken", &["curio-devnet", "curio-runner"]),
    ("kube", &["curio-operator"]),
    ("k8s-openapi", &["curio-operator"]),
];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_path_buf()
}

/// Crate name to its direct dependencies, build scripts included: (name, whether only tests use it).
fn dependencies() -> BTreeMap<String, BTreeSet<(String, bool)>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(repository())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &Value| value.as_str().expect("a name is text").to_owned();
    let packages = metadata["packages"].as_array().expect("cargo metadata lists packages");
    packages
        .iter()
        .map(|package| {
            let used = package["dependencies"].as_array().expect("a package lists its dependencies");
            let used = used.iter().map(|used| (text(&used["name"]), used["kind"] == "dev"));
            (text(&package["name"]), used.collect())
        })
        .collect()
}

#[test]
fn crates_depend_one_way_only() {
    let allowed: BTreeMap<&str, &[&str]> = MAY_USE.into_iter().collect();
    let found = dependencies();
    let crates: BTreeSet<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(crates, allowed.keys().copied().collect(), "a crate was added or removed: say where it stands");
    for (name, used) in &found {
        // A crate may name itself, to turn on its own feature for its tests.
        for (ours, in_tests) in used.iter().filter(|(used, _)| used.starts_with("curio-") && used != name) {
            let always = allowed[name.as_str()].contains(&ours.as_str());
            let for_tests = *in_tests && TESTS_MAY_USE.contains(&(name.as_str(), ours.as_str()));
            assert!(always || for_tests, "{name} may not use {ours}");
        }
    }
}

#[test]
fn each_outside_concern_has_one_home() {
    for (name, used) in dependencies() {
        for (concern, homes) in HOMES {
            let named = used.iter().find(|(dependency, _)| dependency.starts_with(concern));
            assert!(named.is_none() || homes.contains(&name.as_str()), "{name} may not name {named:?}");
        }
    }
}

/// Files of one crate that people write, with their text.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![repository().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a source folder can be read").flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(text) = std::fs::read_to_string(&path) {
                files.push((path, text));
            }
        }
    }
    assert!(!files.is_empty(), "{folder} holds no sources");
    files
}

#[test]
fn harmony_knows_no_word_of_filecoin() {
    const WORDS: [&str; 8] = ["filecoin", "sector", "tipset", "porep", "precommit", "miner", "replica", "lotus"];
    for (path, text) in sources("harmony/src") {
        for (at, line) in text.lines().enumerate() {
            let lower = line.to_lowercase();
            if let Some(word) = WORDS.iter().find(|word| lower.contains(**word)) {
                panic!("{}:{} says {word}: {line}", path.display(), at + 1);
            }
        }
    }
}

#[test]
fn main_files_only_wire() {
    for file in ["runner/src/main.rs", "operator/src/main.rs", "devnet/src/main.rs", "xtask/src/main.rs"] {
        let text = std::fs::read_to_string(repository().join(file)).expect("the file can be read");
        let lines = text.lines().count();
        assert!(lines <= 120, "{file} has {lines} lines; move the logic into a module");
    }
}

#[test]
fn the_tree_is_the_one_that_the_architecture_page_draws() {
    let page = std::fs::read_to_string(repository().join("docs/architecture.md")).expect("the page can be read");
    let manifest = std::fs::read_to_string(repository().join("Cargo.toml")).expect("the manifest can be read");
    for (name, _) in MAY_USE {
        let folder = name.trim_start_matches("curio-");
        assert!(manifest.contains(&format!("\"{folder}\"")), "{folder} is no member of the workspace");
        assert!(page.contains(&format!("\n{folder}/")), "docs/architecture.md does not draw {folder}/");
    }
    let drawn = page.lines().filter_map(|line| line.split_whitespace().next()?.strip_suffix('/'));
    for folder in drawn.filter(|folder| folder.chars().all(|c| c.is_ascii_lowercase())) {
        assert!(repository().join(folder).is_dir(), "docs/architecture.md draws {folder}/, which is not there");
    }
}
