//! `cargo xtask bench post`: deadline work on the engine, the `curio` program and the embedded chain; with `--simulate`
//! what the planner says of a miner.

use std::path::PathBuf;
use std::process::Command as Program;

use anyhow::{Context, Result};

use super::{Bound, measured, missed, verdict};
use crate::postgres::{Durability, Installation};
use crate::{cargo, places, process, suite};

#[derive(clap::Args)]
pub struct Options {
    /// Write the numbers to this file, one flat JSON object
    #[arg(long, value_name = "FILE", conflicts_with = "simulate")]
    json: Option<PathBuf>,
    /// Measure nothing; say how many runners a miner needs, such as `--simulate --pib 10 --runners 2,4,8`
    #[arg(long)]
    simulate: bool,
    /// What the planner is told; `--simulate -- --help` lists it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, requires = "simulate", value_name = "OPTION")]
    told: Vec<String>,
}

impl Options {
    /// Without the word that parts them from our own.
    fn told(&self) -> impl Iterator<Item = &String> {
        self.told.iter().filter(|word| *word != "--")
    }
}

/// On two cores, sectors of 2 KiB.
const WANTED: [(&str, Bound); 4] = [
    ("claim_after_challenge_p99_s", Bound::AtMost(2.0)),
    ("deadline_pickup_p99_ms", Bound::AtMost(100.0)),
    ("takeover_s", Bound::AtMost(15.0)),
    ("win_overhead_s", Bound::AtMost(1.0)),
];

/// # Errors
/// When the measurement cannot be made, or a number is missed; all missed ones are in the error.
pub fn run(options: &Options) -> Result<()> {
    let mut build = cargo::command("build")?;
    build.args(["--workspace", "--bin=curio", "--example=bench_post"]);
    let built = cargo::build("the build", &mut build)?;
    let find = |name: &str| {
        let found = built.iter().find(|built| built.target == name);
        found.map(|built| built.path.clone()).with_context(|| format!("cargo did not say where it put {name}"))
    };
    let (program, curio) = (find("bench_post")?, find("curio")?);
    if options.simulate {
        return process::run("the planner", Program::new(program).arg("simulate").args(options.told()));
    }
    let installation = Installation::find_or_install()?;
    suite::fetch_parameters(&curio)?;
    let mut bench = Program::new(program);
    bench.arg("measure").arg("--curio").arg(&curio).env("FIL_PROOFS_PARAMETER_CACHE", places::parameters()?);
    let measured = measured(&installation, Durability::Full, bench, options.json.as_deref())?;
    verdict(&missed(&WANTED, &measured))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn read(words: &[&str]) -> Result<Options, clap::Error> {
        Line::try_parse_from(std::iter::once(&"post").chain(words)).map(|line| line.options)
    }

    #[test]
    fn the_planner_is_told_what_stands_after_simulate() {
        let cases: [(&[&str], &[&str]); 5] = [
            (&["--simulate"], &[]),
            (&["--simulate", "--pib", "10", "--runners", "2,4"], &["--pib", "10", "--runners", "2,4"]),
            (&["--simulate", "--pib=10"], &["--pib=10"]),
            (&["--simulate", "--", "--help"], &["--help"]),
            (&["--simulate", "--pib", "10", "--", "--help"], &["--pib", "10", "--help"]),
        ];
        for (words, expected) in cases {
            let options = read(words).unwrap_or_else(|error| panic!("{words:?}: {error}"));
            assert!(options.simulate && options.json.is_none(), "{words:?}");
            assert_eq!(options.told().collect::<Vec<_>>(), expected, "{words:?}");
        }
    }

    #[test]
    fn a_measurement_is_told_where_to_keep_its_numbers_and_nothing_else() {
        let options = read(&["--json", "numbers.json"]).expect("the line is right");
        assert_eq!((options.json, options.simulate), (Some(PathBuf::from("numbers.json")), false));
        for words in [&["--pib", "10"][..], &["--json", "numbers.json", "--simulate"]] {
            assert!(read(words).is_err(), "{words:?}");
        }
    }
}
