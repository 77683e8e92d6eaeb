//! `promtool`, which comes with Prometheus: the one of this machine, else that of Debian's package, unpacked into the cache. The
//! package is not installed, since it would start a server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cluster::packages;
use crate::{places, process};

const NAME: &str = "promtool";
const PACKAGE: &str = "prometheus";

pub struct Promtool {
    program: PathBuf,
}

impl Promtool {
    /// Whether it is there or could be fetched.
    ///
    /// # Errors
    /// One sentence with what to do when it is missing here.
    pub fn check_possible() -> Result<()> {
        if found()?.is_some() || process::on_path("apt-get").is_some() {
            return Ok(());
        }
        bail!("promtool is not installed; install Prometheus (https://prometheus.io/download), whose release has it");
    }

    /// # Errors
    /// When it is missing and cannot be fetched from here.
    pub fn find_or_fetch() -> Result<Promtool> {
        if let Some(program) = found()? {
            return Ok(Promtool { program });
        }
        println!("fetching promtool from Debian's package {PACKAGE}, once per machine");
        let program = cached()?;
        fetch(&program).with_context(|| {
            format!("promtool is not installed, and fetching it failed; type: sudo apt-get install -y {PACKAGE}")
        })?;
        Ok(Promtool { program })
    }

    /// Whether Prometheus would load this file of rules.
    ///
    /// # Errors
    /// What is wrong with it, in the words of promtool.
    pub fn check_rules(&self, rules: &Path) -> Result<()> {
        self.run(["check", "rules"], rules)
    }

    /// Runs the cases of a file over the rules that it names, beside it.
    ///
    /// # Errors
    /// The cases that do not hold, in the words of promtool.
    pub fn test_rules(&self, cases: &Path) -> Result<()> {
        self.run(["test", "rules"], cases)
    }

    fn run(&self, verb: [&str; 2], file: &Path) -> Result<()> {
        let output = process::output(Command::new(&self.program).args(verb).arg(file))?;
        if output.status.success() {
            return Ok(());
        }
        // Which case failed goes to one stream, and what is wrong with a file to the other.
        let said = [output.stdout, output.stderr].concat();
        bail!("promtool {} says:\n{}", verb.join(" "), String::from_utf8_lossy(&said).trim());
    }
}

fn cached() -> Result<PathBuf> {
    Ok(places::user_cache()?.join("curio").join("prometheus").join(NAME))
}

fn found() -> Result<Option<PathBuf>> {
    if let Some(program) = process::on_path(NAME) {
        return Ok(Some(program));
    }
    Ok(Some(cached()?).filter(|program| program.is_file()))
}

fn fetch(program: &Path) -> Result<()> {
    let scratch = places::scratch(NAME)?;
    let root = scratch.path().join("root");
    packages::unpack(&[PACKAGE], &scratch.path().join("packages"), &root)?;
    let dir = program.parent().context("the cached program lies in a folder")?;
    fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
    // Renamed at the end, so that the program is either whole or not there.
    let part = program.with_extension("part");
    fs::copy(root.join("usr/bin").join(NAME), &part).with_context(|| format!("failed to write {}", part.display()))?;
    fs::rename(&part, program).with_context(|| format!("failed to write {}", program.display()))
}
