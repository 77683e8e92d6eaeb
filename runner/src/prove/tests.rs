//! Children that are shell scripts.

use std::path::Path;
use std::time::Duration;

use super::*;

/// A prover whose child is a shell script: it stands in for `curio prove`.
pub(super) fn fake(dir: &Path, script: &str) -> Prover {
    Prover::new(ProverOptions {
        program: "/bin/sh".into(),
        args: vec!["-c".into(), script.into()],
        parameter_dir: dir.join("parameters"),
        parent_cache_dir: dir.join("parents"),
        tmp_dir: dir.join("tmp"),
        devices: vec![3, 5],
    })
}

fn request() -> Request {
    Request::ClearCache { proof: curio_core::SealProof::StackedDrg2KiBV1_1, cache: "/cache".into() }
}

async fn call(script: &str) -> Result<Response, ProveError> {
    let dir = tempfile::tempdir().unwrap();
    fake(dir.path(), script).call(&request(), &CancellationToken::new()).await
}

#[tokio::test]
async fn the_result_is_the_message_after_the_progress() {
    let done = serde_json::to_string(&Message::Done(Response::ClearCache)).unwrap();
    let outcome = call(&format!("grep -q clear-cache && echo '{done}'")).await;
    assert_eq!(outcome.unwrap(), Response::ClearCache);
}

#[tokio::test]
async fn a_call_that_failed_says_whether_to_try_again() {
    let table = [(true, None, "retry"), (false, Some("bad-pieces"), "bad-pieces"), (false, Some("x"), "proof-failed")];
    for (retryable, reason, expected) in table {
        let error = CallError { message: "no good".into(), retryable, reason: reason.map(str::to_owned) };
        let line = serde_json::to_string(&Message::Failed(error)).unwrap();
        let failure = call(&format!("cat >/dev/null; echo '{line}'; exit 1")).await.unwrap_err().classify();
        let got = match &failure {
            Failure::Retry(_) => "retry",
            Failure::Permanent { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(got, expected);
        assert!(failure.to_string().contains("no good"), "{failure}");
    }
}

#[tokio::test]
async fn a_child_that_dies_is_reported_with_its_last_words() {
    let died = call("echo 'assertion failed: layers' >&2; exit 3").await.unwrap_err();
    assert!(died.to_string().contains("exit status: 3"), "{died}");
    assert!(died.to_string().contains("assertion failed: layers"), "{died}");
    let killed = call("kill -9 $$").await.unwrap_err();
    assert!(matches!(killed, ProveError::Killed { signal: 9, .. }), "{killed}");
    assert!(matches!(killed.classify(), Failure::Retry(_)));
    assert!(matches!(call("echo nonsense").await.unwrap_err(), ProveError::BadMessage(_)));
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = fake(dir.path(), "").options().clone();
    options.program = "/nowhere/curio".into();
    let error = Prover::new(options).call(&request(), &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.to_string(), "failed to start /nowhere/curio");
}

#[tokio::test]
async fn the_child_sees_its_caches_and_one_device_and_no_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let seen = dir.path().join("seen");
    let prover = fake(dir.path(), &format!("env > {}; pwd >> {}; exit 1", seen.display(), seen.display()));
    let _ = prover.call(&request(), &CancellationToken::new()).await;
    let seen = std::fs::read_to_string(seen).unwrap();
    let root = dir.path().display();
    for line in [
        format!("FIL_PROOFS_PARAMETER_CACHE={root}/parameters"),
        format!("FIL_PROOFS_PARENT_CACHE={root}/parents"),
        format!("TMPDIR={root}/tmp"),
        "CUDA_VISIBLE_DEVICES=3".to_owned(),
        format!("{PARENT_VARIABLE}={}", std::process::id()),
        format!("{root}/tmp"),
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} is missing in {seen}");
    }
    assert!(!seen.contains("CARGO_MANIFEST_DIR"), "{seen}");
}

#[tokio::test]
async fn calls_at_once_spread_over_the_devices() {
    let dir = tempfile::tempdir().unwrap();
    let prover = fake(dir.path(), "");
    let (first, second) = (prover.take_device(), prover.take_device());
    assert_eq!((first.ordinal, second.ordinal), (Some(3), Some(5)));
    drop(second);
    assert_eq!(prover.take_device().ordinal, Some(5));
}

#[tokio::test]
async fn a_cancelled_call_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    // The pipe's writing end lives in the child and in its own child; it closes when both are dead.
    let pipe = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let script = format!("exec 3>{}; echo started >&3; sleep 600 & wait", pipe.display());
    let prover = fake(dir.path(), &script);
    let cancelled = CancellationToken::new();
    let (cancel, watched) = (cancelled.clone(), pipe.clone());
    let watcher = tokio::task::spawn_blocking(move || {
        use std::io::{BufRead, Read};
        let mut reader = std::io::BufReader::new(std::fs::File::open(watched).unwrap());
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        cancel.cancel();
        reader.read_to_string(&mut String::new()).unwrap();
        line
    });
    let outcome = prover.call(&request(), &cancelled).await;
    assert!(matches!(outcome, Err(ProveError::Cancelled)), "{outcome:?}");
    let line = tokio::time::timeout(Duration::from_secs(30), watcher).await.expect("all processes end").unwrap();
    assert_eq!(line, "started\n");
}
