//! `docs/faults.md` names tests that are there: a fault whose test was renamed or removed is no longer tried.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates whose tests the page names.
const CRATES: [&str; 4] = ["runner", "harmony", "proofs", "devnet"];
/// Names of tests are sentences; shorter words with an underscore are something else.
const SHORTEST_SENTENCE: usize = 5;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository").to_path_buf()
}

fn is_name(letter: char) -> bool {
    letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_'
}

/// Names of tests in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !is_name(letter));
    words.filter(|word| word.split('_').count() >= SHORTEST_SENTENCE).collect()
}

/// Names of the functions below a folder.
fn functions(dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).expect("the folder can be read").flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("the file can be read");
            let after = text.split("fn ").skip(1);
            let names = after.filter_map(|rest| rest.split_once('(').map(|(name, _)| name));
            found.extend(names.filter(|name| name.chars().all(is_name)).map(str::to_owned));
        }
    }
}

#[test]
fn every_test_that_the_page_of_faults_names_is_there() {
    let page = fs::read_to_string(repository().join("docs/faults.md")).expect("the page is there");
    let mut found = BTreeSet::new();
    for name in CRATES {
        for part in ["src", "tests"] {
            functions(&repository().join(name).join(part), &mut found);
        }
    }
    let listed = named(&page);
    assert!(listed.len() >= 20, "only {} tests were found on the page: {listed:?}", listed.len());
    let missing: Vec<&&str> = listed.iter().filter(|name| !found.contains(**name)).collect();
    assert!(missing.is_empty(), "docs/faults.md names tests that do not exist: {missing:?}");
}
