//! `cargo xtask bench scheduler`: the task engine over 30 task kinds.

use std::path::PathBuf;
use std::process::Command as Program;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

use super::{Bound, measured, missed, verdict};
use crate::cargo;
use crate::postgres::{Durability, Installation};

#[derive(clap::Args)]
pub struct Options {
    /// Write the numbers to this file, one flat JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// # Errors
/// When the measurement cannot be made, or a number is missed; all missed ones are in the error.
pub fn run(options: &Options) -> Result<()> {
    let installation = Installation::find_or_install()?;
    let mut build = cargo::command("build")?;
    build.args(["--workspace", "--example=bench_scheduler"]);
    let built = cargo::build("the build", &mut build)?;
    let program = built.first().context("cargo did not say where it put bench_scheduler")?;
    let bench = Program::new(&program.path);
    judge(&measured(&installation, Durability::Full, bench, options.json.as_deref())?)
}

/// On two cores.
const WANTED: [(&str, Bound); 6] = [
    ("statements_per_task", Bound::AtMost(2.1)),
    ("tasks_per_second_per_db_core", Bound::AtLeast(2000.0)),
    ("pickup_p50_ms", Bound::AtMost(20.0)),
    ("pickup_p99_ms", Bound::AtMost(100.0)),
    ("pickup_p99_without_hints_ms", Bound::AtMost(3200.0)),
    ("idle_statements_per_second", Bound::AtMost(0.5)),
];

/// The same as `idle_statements_per_second`, with three kinds instead of thirty.
const IDLE_WITH_FEW_KINDS: &str = "idle_statements_per_second_3_kinds";

/// By how much the two may differ: a poll more or less in the time watched.
const IDLE_TOLERANCE: f64 = 0.1;

fn judge(measured: &Map<String, Value>) -> Result<()> {
    let number = |name: &str| measured.get(name).and_then(Value::as_f64);
    let mut missed = missed(&WANTED, measured);
    match (number("idle_statements_per_second"), number(IDLE_WITH_FEW_KINDS)) {
        (Some(many), Some(few)) if (many - few).abs() > IDLE_TOLERANCE => {
            missed.push(format!("idle statements depend on the number of kinds: {few}/s with 3, {many}/s with 30"));
        }
        (_, None) => missed.push(format!("{IDLE_WITH_FEW_KINDS} is missing")),
        _ => {}
    }
    verdict(&missed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn met() -> Map<String, Value> {
        let numbers = json!({
            "statements_per_task": 2.0, "tasks_per_second_per_db_core": 2500.0, "pickup_p50_ms": 3.0,
            "pickup_p99_ms": 40.0, "pickup_p99_without_hints_ms": 3100.0, "idle_statements_per_second": 0.4,
            "idle_statements_per_second_3_kinds": 0.4,
        });
        numbers.as_object().expect("it is an object").clone()
    }

    #[test]
    fn met_numbers_pass() {
        judge(&met()).expect("all are met");
    }

    #[test]
    fn each_missed_or_missing_number_is_named() {
        for (name, value) in [
            ("statements_per_task", json!(2.2)),
            ("tasks_per_second_per_db_core", json!(1999)),
            ("pickup_p99_ms", Value::Null),
            ("idle_statements_per_second_3_kinds", json!(0.1)),
        ] {
            let mut numbers = met();
            numbers.insert(name.to_owned(), value);
            let error = judge(&numbers).expect_err("a number is missed").to_string();
            assert!(error.contains(name) || error.contains("depend on the number of kinds"), "{name}: {error}");
        }
    }
}
