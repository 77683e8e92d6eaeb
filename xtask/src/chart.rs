//! The chart `charts/curio`, held by Helm 3 and Helm 4: both accept it, render the same, and refuse bad values in words; and
//! what they render keeps the rules of [`rules`]. The alerts among it are held by Prometheus' own program, see [`alerts`].

mod alerts;
mod promtool;
mod rules;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

pub use self::promtool::Promtool;
use crate::cargo::Tally;
use crate::{interrupt, places, process, say};

/// Release and namespace of what is rendered here. Different words, so that one in the place of the other is seen.
const RELEASE: &str = "sealing-one";
const NAMESPACE: &str = "storage-provider";
/// Without a cluster Helm has to be told.
const KUBERNETES: &str = "1.35.0";

/// Values that must be refused, and words of the refusal.
const REFUSED: [(&str, &str); 14] = [
    ("replica=2", "additional properties 'replica' not allowed"),
    ("replicas=two", "at '/replicas': got string, want integer"),
    ("replicas=-1", "at '/replicas': minimum: got -1, want 0"),
    ("crds.enabled=false", "at '/crds': additional properties 'enabled' not allowed"),
    ("images.pullPolicy=Sometimes", "at '/images/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'"),
    ("images.registry=https://registry.example", "at '/images/registry'"),
    ("images.tag=latest", "images.operator: \"localhost/curio-operator:latest\" names whatever image is newest"),
    ("images.runner=registry.example/runner", "images.runner: \"registry.example/runner\" has no tag"),
    ("serviceAccount.create=false", "serviceAccount.name: name the account that the operator is to use"),
    ("resources.limit.memory=1Gi", "at '/resources': additional properties 'limit' not allowed"),
    ("evaluation.blockTime=fast", "at '/evaluation/blockTime': 'fast' does not match pattern"),
    ("evaluation.sealing.scratchSize=lots", "at '/evaluation/sealing/scratchSize': 'lots' does not match pattern"),
    ("evaluation.parameters.url=host:1", "at '/evaluation/parameters/url'"),
    (
        "evaluation.enabled=true,evaluation.database.image=postgres",
        "evaluation.database.image: \"postgres\" has no tag",
    ),
];

/// Checks the chart with the programs `helm` (3) and `helm4` of a folder. What does not hold is said and counted.
///
/// # Errors
/// When the run is interrupted.
pub fn check(programs: &Path) -> Result<Tally> {
    let mut tally = Tally::default();
    let helms = [Helm::new("Helm 3", programs.join("helm")), Helm::new("Helm 4", programs.join("helm4"))];
    for helm in &helms {
        count(&mut tally, &format!("{} lints the chart", helm.name), helm.lint())?;
        for (values, words) in REFUSED {
            count(&mut tally, &format!("{} refuses {values}", helm.name), helm.refuses(values, words))?;
        }
        count(&mut tally, &format!("{} packs a chart that renders the same", helm.name), helm.packs())?;
    }
    for file in values_files()? {
        let name =
            file.as_deref().and_then(Path::file_stem).map_or("the defaults".into(), |stem| stem.to_string_lossy());
        let what = format!("{name}: both render the same, and it keeps the rules");
        count(&mut tally, &what, renders(&helms, file.as_deref()))?;
    }
    let own = "an own registry is where every image comes from";
    count(&mut tally, own, all_images_come_from(&helms[0], "registry.example/"))?;
    println!("{} checks of the chart passed", tally.passed);
    Ok(tally)
}

/// Checks the alerts that the chart renders. What does not hold is said and counted.
///
/// # Errors
/// When nothing is rendered, or the run is interrupted.
pub fn check_alerts(programs: &Path, promtool: &Promtool) -> Result<Tally> {
    let helm = Helm::new("Helm 3", programs.join("helm"));
    let documents = helm.render(Some(&chart().join("ci").join("everything-values.yaml")))?;
    let mut tally = Tally::default();
    let acted_on = "every alert asks for a number that runners tell, and names a page that is there";
    count(&mut tally, acted_on, alerts::can_be_acted_on(&documents))?;
    let fire = "every alert fires when it should, and is silent when not";
    count(&mut tally, fire, alerts::fire_as_told(&documents, promtool))?;
    println!("{} checks of the alerts passed", tally.passed);
    Ok(tally)
}

fn count(tally: &mut Tally, what: &str, done: Result<()>) -> Result<()> {
    match done {
        Ok(()) => tally.passed += 1,
        Err(error) if error.is::<interrupt::Interrupted>() => return Err(error),
        Err(error) => {
            say::error(&format!("not so: {what}: {error:#}"));
            tally.failed += 1;
        }
    }
    Ok(())
}

fn chart() -> PathBuf {
    places::repository().join("charts").join("curio")
}

/// No file at all, then those of the chart's `ci` folder.
fn values_files() -> Result<Vec<Option<PathBuf>>> {
    let dir = chart().join("ci");
    let entries = fs::read_dir(&dir).with_context(|| format!("failed to read {}", dir.display()))?;
    let files: BTreeSet<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    Ok(std::iter::once(None).chain(files.into_iter().map(Some)).collect())
}

struct Helm {
    name: &'static str,
    program: PathBuf,
}

impl Helm {
    fn new(name: &'static str, program: PathBuf) -> Helm {
        Helm { name, program }
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.program);
        // No settings, plugins or cluster of the person who runs this.
        command.arg(verb).env_remove("KUBECONFIG").env("HELM_PLUGINS", "/nonexistent").env("HELM_NAMESPACE", NAMESPACE);
        command
    }

    fn template(&self, chart: &Path) -> Command {
        let mut command = self.command("template");
        command.arg(RELEASE).arg(chart).args(["--kube-version", KUBERNETES]);
        command
    }

    fn lint(&self) -> Result<()> {
        let mut lint = self.command("lint");
        lint.arg("--strict").arg(chart()).args(["--kube-version", KUBERNETES]);
        process::capture("helm lint", &mut lint).map(drop)
    }

    fn refuses(&self, values: &str, words: &str) -> Result<()> {
        let output = process::output(self.template(&chart()).args(["--set", values]))?;
        ensure!(!output.status.success(), "it was accepted");
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(said.contains(words), "it said: {}", said.trim());
        Ok(())
    }

    /// What a user downloads has all that the folder has.
    fn packs(&self) -> Result<()> {
        let scratch = places::scratch("chart")?;
        let mut package = self.command("package");
        package.arg(chart()).arg("--destination").arg(scratch.path());
        process::capture("helm package", &mut package)?;
        let packed = fs::read_dir(scratch.path()).context("failed to read a temporary folder")?.flatten().next();
        let packed = packed.context("helm package made no file")?.path();
        let same = documents(&mut self.template(&packed))? == documents(&mut self.template(&chart()))?;
        ensure!(same, "the packed chart renders something else");
        Ok(())
    }

    fn render(&self, values: Option<&Path>) -> Result<Vec<Value>> {
        let mut command = self.template(&chart());
        if let Some(file) = values {
            command.arg("--values").arg(file);
        }
        documents(&mut command)
    }
}

fn documents(command: &mut Command) -> Result<Vec<Value>> {
    let text = process::capture("helm template", command)?;
    let all = serde_yaml_ng::Deserializer::from_str(&text).map(Value::deserialize);
    let all: Vec<Value> = all.collect::<Result<_, _>>().context("helm template printed something that is no YAML")?;
    Ok(all.into_iter().filter(|document| !document.is_null()).collect())
}

fn renders(helms: &[Helm; 2], values: Option<&Path>) -> Result<()> {
    let [third, fourth] = helms;
    let (by_third, by_fourth) = (third.render(values)?, fourth.render(values)?);
    if let Some((one, other)) = differing(&by_third, &by_fourth) {
        bail!("{} renders {one}, {} renders {other}", third.name, fourth.name);
    }
    let mut faults = rules::faults(&by_third, NAMESPACE);
    faults.extend(rules::kinds_differ(&by_third, &kinds()?));
    ensure!(faults.is_empty(), "\n  {}", faults.join("\n  "));
    Ok(())
}

/// The first object that differs. Secrets are random each time.
fn differing(one: &[Value], other: &[Value]) -> Option<(String, String)> {
    let fixed = |documents: &[Value]| -> BTreeSet<String> {
        documents.iter().filter(|document| document["kind"] != "Secret").map(Value::to_string).collect()
    };
    let (one, other) = (fixed(one), fixed(other));
    let only = |these: &BTreeSet<String>, those: &BTreeSet<String>| {
        these.difference(those).next().cloned().unwrap_or_else(|| "nothing of it".to_owned())
    };
    (one != other).then(|| (only(&one, &other), only(&other, &one)))
}

/// The definitions as they are generated.
fn kinds() -> Result<Vec<Value>> {
    let dir = places::repository().join("crds");
    let entries = fs::read_dir(&dir).with_context(|| format!("failed to read {}", dir.display()))?;
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    ensure!(!files.is_empty(), "there is no file in {}", dir.display());
    let read = |file: PathBuf| {
        let text = fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
        serde_yaml_ng::from_str(&text).with_context(|| format!("{} is no YAML", file.display()))
    };
    files.into_iter().map(read).collect()
}

fn all_images_come_from(helm: &Helm, registry: &str) -> Result<()> {
    let values = chart().join("ci").join("own-registry-values.yaml");
    let documents = helm.render(Some(&values))?;
    let images = rules::images(&documents);
    ensure!(images.len() >= 4, "only {} images were found", images.len());
    match images.iter().find(|image| !image.starts_with(registry)) {
        Some(foreign) => bail!("{foreign} does not"),
        None => Ok(()),
    }
}
