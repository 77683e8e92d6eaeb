//! `cargo xtask bench`: measures, and fails when a number that the project holds itself to is missed.

mod post;
mod scheduler;

use std::fs;
use std::path::Path;
use std::process::Command as Program;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::postgres::{Durability, Installation, Server};
use crate::{places, process, say};

#[derive(clap::Subcommand)]
pub enum Command {
    /// The task engine over 30 task kinds on a real PostgreSQL that syncs every commit
    Scheduler(scheduler::Options),
    /// Deadline work: how soon it begins, how soon it is taken over, what a win costs
    Post(post::Options),
}

/// # Errors
/// When the measurement cannot be made, or a number is missed; all missed ones are in the error.
pub fn run(command: &Command) -> Result<()> {
    match command {
        Command::Scheduler(options) => scheduler::run(options),
        Command::Post(options) => post::run(options),
    }
}

/// Runs a program that measures on a PostgreSQL of its own and writes one flat object to the file after `--json`;
/// copies that to `keep`.
fn measured(
    installation: &Installation,
    durability: Durability,
    mut bench: Program,
    keep: Option<&Path>,
) -> Result<Map<String, Value>> {
    let scratch = places::scratch("bench")?;
    let server = Server::start(installation, scratch.path(), durability)?;
    println!("measuring on PostgreSQL {}, every commit on the disk", installation.version);
    let numbers = scratch.path().join("numbers.json");
    bench.arg("--json").arg(&numbers).env("CURIO_TEST_DATABASE_URL", server.url());
    // It may judge, too, for those who run it by hand. Missed numbers are worth keeping, so they are judged again.
    let ended = process::run("the benchmark", &mut bench);
    let text = match (fs::read_to_string(&numbers), ended) {
        (Ok(text), _) => text,
        (Err(_), Err(error)) => return Err(error),
        (Err(error), Ok(())) => return Err(error).context("the benchmark wrote no numbers"),
    };
    if let Some(file) = keep {
        fs::write(file, &text).with_context(|| format!("failed to write {}", file.display()))?;
    }
    serde_json::from_str(&text).context("the benchmark wrote something else")
}

/// What a number must be.
#[derive(Clone, Copy)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

/// A sentence for each number that is missing or not what it must be.
fn missed(wanted: &[(&str, Bound)], measured: &Map<String, Value>) -> Vec<String> {
    let mut missed = Vec::new();
    for (name, bound) in wanted {
        let number = measured.get(*name).and_then(Value::as_f64);
        let (words, held) = match *bound {
            Bound::AtMost(most) => (format!("at most {most}"), number.is_some_and(|value| value <= most)),
            Bound::AtLeast(least) => (format!("at least {least}"), number.is_some_and(|value| value >= least)),
        };
        if !held {
            let shown = number.map_or("missing".to_owned(), |value| value.to_string());
            missed.push(format!("{name} is {shown}, wanted {words}"));
        }
    }
    missed
}

fn verdict(missed: &[String]) -> Result<()> {
    if !missed.is_empty() {
        bail!("{}", missed.join("; "));
    }
    println!("{}", say::bold("every number is met"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_at_its_bound_is_met_and_a_missing_one_is_not() {
        let numbers = json!({ "low": 2.0, "high": 2.0 });
        let numbers = numbers.as_object().expect("it is an object");
        assert_eq!(missed(&[("low", Bound::AtMost(2.0)), ("high", Bound::AtLeast(2.0))], numbers), [""; 0]);
        assert_eq!(
            missed(
                &[("low", Bound::AtMost(1.9)), ("high", Bound::AtLeast(2.1)), ("none", Bound::AtMost(1.0))],
                numbers
            ),
            ["low is 2, wanted at most 1.9", "high is 2, wanted at least 2.1", "none is missing, wanted at most 1"]
        );
    }
}
