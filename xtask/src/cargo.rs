//! Cargo as a child: always the same target folder, profile and features, so that nothing is compiled twice.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{interrupt, places, process};

/// A cargo command in the repository. Queries are checked against `.sqlx`; [`crate::generate`] turns that round.
pub fn command(verb: &str) -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (key, _) in std::env::vars_os() {
        // What `cargo run` says about this program is no business of the next cargo.
        let key_text = key.to_string_lossy();
        let about_us = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];
        if about_us.iter().any(|prefix| key_text.starts_with(prefix)) {
            command.env_remove(&key);
        }
    }
    command
        .arg(verb)
        .current_dir(places::repository())
        .env("CARGO_TARGET_DIR", places::target_dir()?)
        .env("SQLX_OFFLINE", "true")
        .env_remove("DATABASE_URL");
    Ok(command)
}

/// An executable that cargo made.
pub struct Built {
    pub target: String,
    pub kind: Kind,
    pub path: PathBuf,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Program,
    /// The tests inside a crate.
    InnerTests,
    /// One file of tests beside a crate.
    Tests,
}

impl Built {
    fn read(line: &str) -> Option<Built> {
        let message: Value = serde_json::from_str(line).ok()?;
        let is_test = message["profile"]["test"].as_bool()?;
        let beside = message["target"]["kind"].as_array()?.iter().any(|kind| kind == "test");
        Some(Built {
            target: message["target"]["name"].as_str()?.to_owned(),
            kind: match (is_test, beside) {
                (true, true) => Kind::Tests,
                (true, false) => Kind::InnerTests,
                (false, _) => Kind::Program,
            },
            path: PathBuf::from(message["executable"].as_str()?),
        })
    }
}

/// Runs a building cargo command and returns the executables it made. Cargo's own progress goes to our terminal.
///
/// # Errors
/// When cargo fails or is interrupted.
pub fn build(what: &str, command: &mut Command) -> Result<Vec<Built>> {
    let said = tempfile::NamedTempFile::new().context("failed to make a temporary file")?;
    let stdout = said.reopen().context("failed to open a temporary file")?;
    command.arg("--message-format=json-render-diagnostics").stdout(stdout);
    process::run(what, command)?;
    let text = fs::read_to_string(said.path()).context("failed to read what cargo said")?;
    Ok(text.lines().filter_map(Built::read).collect())
}

/// The two programs of the demo.
pub struct Programs {
    pub curio: PathBuf,
    pub devnet: PathBuf,
}

/// # Errors
/// When they do not compile.
pub fn programs() -> Result<Programs> {
    let mut build_command = command("build")?;
    build_command.args(["--package=curio-runner", "--bin=curio", "--package=curio-devnet", "--bin=curio-devnet"]);
    Programs::among(&build("the build", &mut build_command)?)
}

impl Programs {
    /// # Errors
    /// When cargo reported one of them missing.
    pub fn among(built: &[Built]) -> Result<Programs> {
        let find = |name: &str| {
            let found = built.iter().find(|built| built.kind == Kind::Program && built.target == name);
            found.map(|built| built.path.clone()).with_context(|| format!("cargo did not say where it put {name}"))
        };
        Ok(Programs { curio: find("curio")?, devnet: find("curio-devnet")? })
    }
}

/// What `cargo test` counted, over all its test programs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
}

impl Tally {
    pub fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
    }

    /// Reads libtest's closing line, `test result: ok. 12 passed; 0 failed; 1 ignored; ...`.
    fn read(line: &str) -> Option<Tally> {
        let counts = line.trim().strip_prefix("test result:")?;
        let count = |word: &str| {
            counts.split([';', '.']).find_map(|part| part.trim().strip_suffix(word)?.trim().parse::<u64>().ok())
        };
        Some(Tally { passed: count("passed")?, failed: count("failed")?, ignored: count("ignored")? })
    }
}

/// Runs `cargo test` with its output on our terminal, and counts. A failing run that counted no failed test (it did
/// not compile, or a test program crashed) counts as one.
///
/// # Errors
/// When cargo cannot be started or is interrupted.
pub fn test(command: &mut Command) -> Result<Tally> {
    let mut child = process::tied(command)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("failed to start {}", process::show(command)))?;
    let Some(stdout) = child.stdout.take() else { bail!("cargo test has no output to read") };
    let (sender, lines) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut tally = Tally::default();
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => {
                println!("{line}");
                tally.add(Tally::read(&line).unwrap_or_default());
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if let Err(interrupted) = interrupt::check() {
                    process::end(&mut child, Duration::from_secs(10));
                    return Err(interrupted);
                }
            }
        }
    }
    let status = process::wait(&mut child)?;
    // The pipe is closed, so the reader is at its end.
    drop(reader.join());
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_libtest_are_counted() {
        for (line, expected) in [
            (
                "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.01s",
                Some(Tally { passed: 12, failed: 0, ignored: 1 }),
            ),
            (
                "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out",
                Some(Tally { passed: 3, failed: 2, ignored: 0 }),
            ),
            ("test it_works ... ok", None),
        ] {
            assert_eq!(Tally::read(line), expected, "{line}");
        }
    }
}
