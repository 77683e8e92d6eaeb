//! `cargo xtask test`: everything that must hold before a change lands, cheapest first, in sections with their time.

mod cluster;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::cargo::{Kind, Programs, Tally};
use crate::chart::Promtool;
use crate::cluster::{Cluster, programs};
use crate::generate::{self, Change};
use crate::postgres::{Durability, Installation, Server};
use crate::say::Steps;
use crate::{cargo, chart, interrupt, places, process, say};

#[derive(clap::Args)]
pub struct Options {
    /// Run only these sections (CI runs all)
    #[arg(long = "section", value_enum)]
    sections: Vec<Section>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    /// rustfmt
    Format,
    /// clippy, and the checked queries against the migrations
    Lints,
    /// Tests inside the crates: pure ones, and those that ask PostgreSQL
    Unit,
    /// Tests beside the crates: database, chain, sectors sealed against the chain
    Stories,
    /// One real Groth16 proof of a real sector
    Proof,
    /// The chart: what it renders, what it refuses, when its alerts fire; needs Go for Helm
    Chart,
    /// The operator on a real Kubernetes of two nodes; needs root
    Cluster,
}

impl Section {
    fn title(self) -> &'static str {
        match self {
            Section::Format => "format",
            Section::Lints => "lints and generated files",
            Section::Unit => "unit and PostgreSQL tests",
            Section::Stories => "stories: PostgreSQL, devnet, sealing",
            Section::Proof => "one real proof",
            Section::Chart => "chart: lint, render, refuse, alerts",
            Section::Cluster => "the operator on a real Kubernetes",
        }
    }
}

/// Runs the sections, all of them even when one fails. The last line says how many checks passed and failed.
///
/// # Errors
/// When the run is interrupted, or there is no room for its files.
pub fn run(options: &Options) -> Result<ExitCode> {
    let wanted = |section: &Section| options.sections.is_empty() || options.sections.contains(section);
    let sections: Vec<Section> = Section::value_variants().iter().copied().filter(wanted).collect();
    let started = Instant::now();
    let scratch = places::scratch("test")?;
    let mut world = World::new(scratch.path());
    let mut report: Vec<(Section, Tally, Duration)> = Vec::new();
    for section in sections {
        println!("\n{}", say::bold(&format!("== {}", section.title())));
        let began = Instant::now();
        // What keeps a section from running at all is a failure like any other: the next sections may still run.
        let tally = match world.check(section) {
            Ok(tally) => tally,
            Err(error) => outcome(Err(error))?,
        };
        report.push((section, tally, began.elapsed()));
    }

    println!("\n{}", say::bold("== summary"));
    let mut total = Tally::default();
    for (section, tally, length) in &report {
        let Tally { passed, failed, ignored } = tally;
        let aside = if *ignored > 0 { format!(", {ignored} ignored here") } else { String::new() };
        println!("{:<40} {passed:>4} passed, {failed} failed{aside} in {}", section.title(), say::seconds(*length));
        total.add(*tally);
    }
    println!("all sections in {}", say::seconds(started.elapsed()));
    for reason in &world.not_run {
        println!("{}", say::bold(&format!("NOT RUN: {reason}")));
    }
    println!("{} passed, {} failed", total.passed, total.failed);
    Ok(if total.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Test files with this beginning take a real proof each.
const REAL: &str = "real_";

/// What the sections share, made when the first of them needs it.
struct World<'a> {
    scratch: &'a Path,
    server: Option<Server>,
    compiled: Option<Compiled>,
    /// Sections that this machine has no means for.
    not_run: Vec<String>,
}

struct Compiled {
    programs: Programs,
    /// Test files beside the crates.
    test_files: BTreeSet<String>,
}

impl<'a> World<'a> {
    fn new(scratch: &'a Path) -> World<'a> {
        World { scratch, server: None, compiled: None, not_run: Vec::new() }
    }

    fn check(&mut self, section: Section) -> Result<Tally> {
        match section {
            Section::Format => format(),
            Section::Lints => self.lints(),
            Section::Unit => self.tests(["--lib".to_owned(), "--bins".to_owned()]),
            Section::Stories => self.test_files(|name| !name.starts_with(REAL)),
            Section::Proof => self.test_files(|name| name.starts_with(REAL)),
            Section::Chart => self.chart(),
            Section::Cluster => self.cluster(),
        }
    }

    fn chart(&mut self) -> Result<Tally> {
        if let Some(not_run) = self.without_means(Section::Chart, programs::check_possible())? {
            return Ok(not_run);
        }
        let programs = programs::find_or_build(&Steps::of(1))?;
        let mut tally = chart::check(&programs)?;
        tally.add(match self.without_means(Section::Chart, Promtool::check_possible())? {
            Some(not_run) => not_run,
            None => chart::check_alerts(&programs, &Promtool::find_or_fetch()?)?,
        });
        Ok(tally)
    }

    fn cluster(&mut self) -> Result<Tally> {
        if let Some(not_run) = self.without_means(Section::Cluster, Cluster::possible())? {
            return Ok(not_run);
        }
        let devnet = self.compiled()?.programs.devnet.clone();
        cluster::check(self.scratch, &devnet)
    }

    /// What to report in place of a section that this machine has no means for: said now and once more at the end,
    /// and a failure where CI runs, which must have them.
    fn without_means(&mut self, section: Section, means: Result<()>) -> Result<Option<Tally>> {
        let Err(missing) = means else { return Ok(None) };
        if std::env::var_os("CI").is_some_and(|value| !value.is_empty()) {
            return Err(missing);
        }
        let reason = format!("{}: {missing:#}", section.title());
        say::error(&format!("NOT RUN: {reason}"));
        self.not_run.push(reason);
        Ok(Some(Tally { ignored: 1, ..Tally::default() }))
    }

    fn server(&mut self) -> Result<&Server> {
        if self.server.is_none() {
            let installation = Installation::find_or_install()?;
            println!("starting a private PostgreSQL {}", installation.version);
            self.server = Some(Server::start(&installation, self.scratch, Durability::ProcessOnly)?);
        }
        self.server.as_ref().context("it was started just above")
    }

    /// Clippy, and in the same run the answers of the database to every query.
    fn lints(&mut self) -> Result<Tally> {
        let answers = self.scratch.join("sqlx");
        let server = self.server()?;
        generate::migrate(server)?;
        let mut clippy = generate::lint_against(server, &answers, &["-Dwarnings"])?;
        let mut tally = outcome(process::run("clippy", &mut clippy))?;
        // Not among all targets, since it is no part of a plain `cargo test`.
        let mut cluster_tests = cargo::command("clippy")?;
        cluster_tests.args(["--workspace", "--test=cluster", "--", "-Dwarnings"]);
        tally.add(outcome(process::run("clippy of the cluster tests", &mut cluster_tests))?);
        if tally.failed == 0 {
            let change =
                Change::between(&generate::queries(&generate::committed_dir())?, &generate::queries(&answers)?);
            tally.add(outcome(if change.is_empty() {
                println!(".sqlx is current");
                Ok(())
            } else {
                Err(anyhow::anyhow!(".sqlx is stale ({change}); run `cargo xtask generate` and commit the result"))
            })?);
        }
        Ok(tally)
    }

    /// Compiles all tests and both programs once, and makes sure that the test parameters are there.
    fn compiled(&mut self) -> Result<&Compiled> {
        if self.compiled.is_none() {
            let mut tests = cargo::command("test")?;
            tests.args(["--workspace", "--no-run"]);
            let mut built = cargo::build("compiling the tests", &mut tests)?;
            let mut bins = cargo::command("build")?;
            bins.args(["--workspace", "--bins"]);
            if Programs::among(&built).is_err() {
                built.extend(cargo::build("compiling the programs", &mut bins)?);
            }
            let programs = Programs::among(&built)?;
            fetch_parameters(&programs.curio)?;
            let beside = built.into_iter().filter(|built| built.kind == Kind::Tests);
            let test_files = beside.map(|built| built.target).collect();
            self.compiled = Some(Compiled { programs, test_files });
        }
        self.compiled.as_ref().context("they were made just above")
    }

    fn test_files(&mut self, wanted: fn(&str) -> bool) -> Result<Tally> {
        let names = self.compiled()?.test_files.iter().filter(|name| wanted(name));
        let targets: Vec<String> = names.map(|name| format!("--test={name}")).collect();
        if targets.is_empty() {
            say::error("there is no test file of this section");
            return Ok(Tally { failed: 1, ..Tally::default() });
        }
        self.tests(targets)
    }

    fn tests(&mut self, targets: impl IntoIterator<Item = String>) -> Result<Tally> {
        self.compiled()?;
        let url = self.server()?.url();
        let mut test = cargo::command("test")?;
        test.args(["--workspace", "--no-fail-fast"])
            .args(targets)
            .env("CURIO_TEST_DATABASE_URL", url)
            .env("FIL_PROOFS_PARAMETER_CACHE", places::parameters()?);
        cargo::test(&mut test)
    }
}

fn format() -> Result<Tally> {
    let mut fmt = cargo::command("fmt")?;
    fmt.args(["--all", "--check"]);
    let tally = outcome(process::run("rustfmt", &mut fmt))?;
    if tally.failed == 0 {
        println!("every file is formatted");
    }
    Ok(tally)
}

/// The parameters of the test sector size, made by `curio` when they are missing, with its progress on our terminal.
///
/// # Errors
/// When they cannot be made.
pub fn fetch_parameters(curio: &Path) -> Result<()> {
    let dir = places::parameters()?;
    let mut fetch = Command::new(curio);
    fetch.args(["fetch-params", "2KiB"]).env("FIL_PROOFS_PARAMETER_CACHE", &dir);
    process::run("making the proof parameters", &mut fetch)
        .with_context(|| format!("nothing usable in {}", dir.display()))
}

/// A check as one test: a failure is said and counted, an interruption ends the run.
fn outcome(checked: Result<()>) -> Result<Tally> {
    match checked {
        Ok(()) => Ok(Tally { passed: 1, ..Tally::default() }),
        Err(error) if error.is::<interrupt::Interrupted>() => Err(error),
        Err(error) => {
            say::error(&format!("{error:#}"));
            Ok(Tally { failed: 1, ..Tally::default() })
        }
    }
}
