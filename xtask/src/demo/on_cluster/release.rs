//! The chart as a person installs it: a namespace, `helm install` with the evaluation switched on, and its end.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::super::chain::Chain;
use crate::cluster::Cluster;
use crate::say::Steps;
use crate::{images, interrupt, places, process};

pub const NAMESPACE: &str = "curio";
const RELEASE: &str = "curio";
/// Definitions that the chart brings and that stay when it goes.
const DEFINITIONS: [&str; 3] =
    ["curioclusters.curio.filecoin.io", "runnerpools.curio.filecoin.io", "sealingsectors.curio.filecoin.io"];

pub struct Release<'a> {
    pub cluster: &'a Cluster,
    database_url: String,
}

impl<'a> Release<'a> {
    /// Makes the namespace and installs the chart in it. Does not wait for the pods: parameters are made while the
    /// sector is on its way to the proof that needs them.
    ///
    /// # Errors
    /// When the namespace is there already, or Helm refuses.
    pub fn install(cluster: &'a Cluster, steps: &Steps) -> Result<Release<'a>> {
        let existing = get(cluster, &["namespace", NAMESPACE, "--ignore-not-found"])?;
        if existing.is_object() {
            bail!("the cluster has a namespace {NAMESPACE} already; look what is in it, and delete it");
        }
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
        });
        apply(cluster, &namespace)?;
        let mut install = cluster.helm();
        install.args(["install", RELEASE]).arg(places::repository().join("charts").join("curio"));
        install.args(["--namespace", NAMESPACE, "--set", "evaluation.enabled=true", "--set", "images.tag=dev"]);
        install.args(["--set", &format!("evaluation.database.image={}", images::POSTGRES), "--timeout", "5m"]);
        steps.note(&process::show(&install));
        process::capture("helm install", &mut install)?;
        let mut release = Release { cluster, database_url: String::new() };
        release.database_url = release.secret("curio-db", "url")?;
        Ok(release)
    }

    fn secret(&self, name: &str, key: &str) -> Result<String> {
        let secret = get(self.cluster, &["secret", name])?;
        let value = secret["data"][key].as_str().with_context(|| format!("Secret {name} has no key {key}"))?;
        let bytes = BASE64_STANDARD.decode(value).with_context(|| format!("Secret {name} is not base64"))?;
        String::from_utf8(bytes).with_context(|| format!("{key} of Secret {name} is not text"))
    }

    fn service(&self, namespace: &str, name: &str) -> Result<String> {
        let service = get(self.cluster, &["service", name, "--namespace", namespace])?;
        let address = service["spec"]["clusterIP"].as_str();
        address.map(str::to_owned).with_context(|| format!("Service {name} has no address"))
    }

    /// What every container finds in its environment as the address of the API.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub fn service_host(&self) -> Result<String> {
        self.service("default", "kubernetes")
    }

    /// The database as pods reach it.
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The chain as this machine reaches it: by the address of its Service.
    ///
    /// # Errors
    /// When the release has no chain.
    pub fn chain(&self) -> Result<Chain> {
        let info = self.secret("curio-chain", "FULLNODE_API_INFO")?;
        let (token, _) = info.split_once(':').context("FULLNODE_API_INFO is not TOKEN:ADDRESS")?;
        let address = self.service(NAMESPACE, "curio-devnet")?;
        Ok(Chain { url: format!("http://{address}:1234"), token: token.to_owned() })
    }

    /// The storage provider of the evaluation's CurioCluster.
    ///
    /// # Errors
    /// When it names none.
    pub fn miner(&self) -> Result<String> {
        let cluster = get(self.cluster, &["curiocluster", "curio"])?;
        let miner = cluster["spec"]["miners"][0].as_str();
        miner.map(str::to_owned).context("the evaluation's CurioCluster names no storage provider")
    }

    /// Applies a SealingSector for `count` sectors.
    ///
    /// # Errors
    /// When the server refuses it.
    pub fn ask(&self, name: &str, miner: &str, count: u64) -> Result<()> {
        apply(
            self.cluster,
            &json!({
                "apiVersion": "curio.filecoin.io/v1alpha1", "kind": "SealingSector",
                "metadata": {"name": name, "namespace": NAMESPACE},
                "spec": {"cluster": "curio", "miner": miner, "count": count},
            }),
        )
    }

    /// After a failure: what a person would look at first.
    pub fn tell_state(&self) {
        for arguments in [
            &["get", "curio,pods", "--output=wide"][..],
            &["get", "events", "--field-selector=type=Warning", "--sort-by=.metadata.creationTimestamp"],
        ] {
            let said = process::output(kubectl(self.cluster).args(arguments));
            // The error that brought us here is the one to report.
            let Ok(said) = said else { return };
            let text = String::from_utf8_lossy(&said.stdout);
            let lines: Vec<&str> = text.lines().collect();
            for line in &lines[lines.len().saturating_sub(20)..] {
                println!("      {line}");
            }
        }
    }
}

/// Removes all of it from a cluster that stays: objects first, while the operator is there to undo what they made.
///
/// # Errors
/// When something is still there after a few minutes.
pub fn remove(cluster: &Cluster) -> Result<()> {
    let mut objects = kubectl(cluster);
    objects.args(["delete", "sealingsectors,runnerpools,curioclusters", "--all", "--timeout=60s"]);
    // Half an installation may have no such kinds; the namespace takes what is left.
    let _ = process::output(&mut objects);
    let mut uninstall = cluster.helm();
    uninstall.args(["uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--wait"]);
    process::capture("helm uninstall", &mut uninstall)?;
    let mut namespace = kubectl(cluster);
    namespace.args(["delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s"]);
    process::capture("kubectl delete namespace", &mut namespace)?;
    let mut definitions = kubectl(cluster);
    definitions.args(["delete", "customresourcedefinitions", "--ignore-not-found", "--timeout=60s"]).args(DEFINITIONS);
    process::capture("kubectl delete customresourcedefinitions", &mut definitions)?;
    Ok(())
}

/// `kubectl` in our namespace.
pub fn kubectl(cluster: &Cluster) -> Command {
    let mut kubectl = cluster.kubectl();
    kubectl.args(["--namespace", NAMESPACE]);
    kubectl
}

/// One `kubectl get`; null when there is nothing and that is fine.
///
/// # Errors
/// When it fails, with its words.
pub fn get(cluster: &Cluster, what: &[&str]) -> Result<Value> {
    let mut command = kubectl(cluster);
    command.arg("get").args(what).arg("--output=json");
    let said = process::capture("kubectl get", &mut command)?;
    if said.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&said).context("kubectl get said something else than JSON")
}

fn apply(cluster: &Cluster, object: &Value) -> Result<()> {
    interrupt::check()?;
    let file = tempfile::NamedTempFile::new().context("failed to make a temporary file")?;
    serde_json::to_writer(&file, object).context("failed to write a temporary file")?;
    let mut command = kubectl(cluster);
    command.arg("apply").arg("--filename").arg(file.path()).stdin(Stdio::null());
    process::capture("kubectl apply", &mut command).map(drop)
}
