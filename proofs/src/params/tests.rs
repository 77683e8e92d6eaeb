//! Files that are missing, damaged, or made by two at once.

use super::*;
use std::sync::mpsc;

/// The largest set; of its files tests use the key only.
const SET: Set = Set { circuit: Circuit::Porep, proof: SealProof::StackedDrg2KiBV1_1 };

/// A folder with the verifying key of 2 KiB.
fn with_key() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    ensure_key(&default_dir(), SET).unwrap();
    let path = SET.verifying_key().path(dir.path());
    fs::copy(SET.verifying_key().path(&default_dir()), &path).unwrap();
    (dir, path)
}

#[test]
fn a_flipped_byte_is_one_sentence_also_after_the_file_was_found_whole() {
    let (dir, path) = with_key();
    check_verifying_key(dir.path(), SET).unwrap();
    assert!(crate::cache::with_suffix(&path, ".checked").exists(), "the file is recorded as whole");
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, &bytes).unwrap();
    for called in [check_verifying_key(dir.path(), SET), ensure_key(dir.path(), SET)] {
        let error = called.unwrap_err();
        assert_eq!(error.permanent_reason(), Some("bad-parameters"));
        let text = error.to_string();
        let start = format!("parameter file {} is damaged: its digest is ", path.display());
        assert!(text.starts_with(&start), "{text}");
        assert!(text.contains("instead of 8742038036e9ddb53894dc1787aaa6d6"), "{text}");
        assert!(text.ends_with("delete the file, then `curio fetch-params` brings it back"), "{text}");
    }
    assert_eq!(fs::read(&path).unwrap(), bytes, "the damaged file is left to look at");
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = check(dir.path(), SET).unwrap_err();
    assert!(matches!(error, ParamsError::NotGenerated { .. }), "{error}");
    let published = Set { proof: SealProof::StackedDrg32GiBV1_1, ..SET };
    for result in [check(dir.path(), published), ensure(dir.path(), published, &mut |_| ())] {
        let text = result.unwrap_err().to_string();
        assert!(text.contains("is missing; put the published parameters for sectors of 34359738368 bytes"), "{text}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a check makes nothing");
}

#[test]
fn parameters_missing_beside_a_good_key_are_named() {
    let (dir, _) = with_key();
    let error = check(dir.path(), SET).unwrap_err();
    let expected = SET.params().path(dir.path());
    assert!(matches!(&error, ParamsError::NotGenerated { path } if *path == expected), "{error}");
}

#[test]
fn damaged_parameters_beside_a_good_key_are_named() {
    let (dir, _) = with_key();
    let path = SET.params().path(dir.path());
    fs::write(&path, "a file that was cut off").unwrap();
    for called in [check(dir.path(), SET), ensure(dir.path(), SET, &mut |_| panic!("nothing is made"))] {
        let text = called.unwrap_err().to_string();
        assert!(text.starts_with(&format!("parameter file {} is damaged", path.display())), "{text}");
    }
}

#[test]
fn two_that_start_together_make_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = SET.verifying_key();
    // Another process that generates: it holds the lock, and gives it back when we have waited.
    let held = lock(dir.path(), &file, &mut || ()).unwrap();
    let (waits, waiting) = mpsc::channel();
    std::thread::scope(|scope| {
        let (file, dir) = (&file, dir.path());
        scope.spawn(move || {
            let _lock = lock(dir, file, &mut || waits.send(()).unwrap_or_default()).unwrap();
            let twice = &mut |_: &'static str, _: f64| panic!("the file is made twice");
            generate(dir, file, SET, Keep::VerifyingKey, twice).unwrap();
        });
        waiting.recv().unwrap();
        generate(dir, file, SET, Keep::VerifyingKey, &mut |_, _| ()).unwrap();
        drop(held);
        check_verifying_key(dir, SET).unwrap();
    });
    assert!(!crate::cache::with_suffix(&file.path(dir.path()), ".tmp").exists());
}

#[test]
fn a_file_given_back_after_damage_is_taken_again() {
    let (dir, path) = with_key();
    let good = fs::read(&path).unwrap();
    fs::write(&path, "nothing of the kind").unwrap();
    assert!(check_verifying_key(dir.path(), SET).is_err());
    fs::write(&path, good).unwrap();
    check_verifying_key(dir.path(), SET).unwrap();
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = ensure_key(&file.join("params"), SET).unwrap_err().to_string();
    assert!(error.starts_with("failed to") && error.contains(&file.display().to_string()), "{error}");
}
