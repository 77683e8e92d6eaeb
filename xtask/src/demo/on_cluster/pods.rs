//! The runners' pods: where they are, and what `curio` in them says about sectors.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::curio::{Sector, Started};
use super::release;
use crate::cluster::Cluster;
use crate::process;

/// What says which program a pod runs.
const NAME_LABEL: &str = "app.kubernetes.io/name";
/// The container with the runner.
const CONTAINER: &str = "runner";
/// Port of a runner.
const PORT: u16 = 12300;

#[derive(Default)]
pub struct Pods(Vec<Pod>);

#[derive(Debug, Deserialize)]
pub struct Pod {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
    containers: Vec<Container>,
}

#[derive(Debug, Deserialize)]
struct Container {
    name: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    resources: Value,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
}

impl Pod {
    fn runner(&self) -> Option<&Container> {
        self.spec.containers.iter().find(|container| container.name == CONTAINER)
    }

    /// How many of an extended resource it asked for.
    pub fn asked_for(&self, resource: &str) -> u64 {
        let limit = self.runner().map_or(&Value::Null, |runner| &runner.resources["limits"][resource]);
        limit.as_str().and_then(|text| text.parse().ok()).or(limit.as_u64()).unwrap_or(0)
    }

    pub fn node(&self) -> Option<&str> {
        self.spec.node_name.as_deref()
    }

    fn layers(&self) -> Vec<&str> {
        let arguments = self.runner().map_or(&[][..], |runner| &runner.args);
        let after = arguments.iter().skip_while(|argument| *argument != "--layers").nth(1);
        after.map(|layers| layers.split(',').collect()).unwrap_or_default()
    }
}

impl Pods {
    /// Those among all pods of a namespace.
    pub fn of_runners(pods: Vec<Pod>) -> Pods {
        let is_runner = |pod: &Pod| pod.metadata.labels.get(NAME_LABEL).is_some_and(|name| name == "curio-runner");
        Pods(pods.into_iter().filter(is_runner).collect())
    }

    pub fn named(&self, name: &str) -> Option<&Pod> {
        self.0.iter().find(|pod| pod.metadata.name == name)
    }

    /// For the summary.
    pub fn runners(&self) -> Value {
        let runner = |pod: &Pod| {
            let url = pod.status.pod_ip.as_ref().map(|address| format!("http://{address}:{PORT}"));
            json!({"name": pod.metadata.name, "node": pod.node(), "url": url, "layers": pod.layers()})
        };
        self.0.iter().map(runner).collect()
    }

    /// What `curio` in one of the pods says about these sectors, with the node of each machine.
    ///
    /// # Errors
    /// When no pod answers.
    pub fn sectors(&self, cluster: &Cluster, started: &[Started]) -> Result<Vec<Sector>> {
        let Some(pod) = self.0.first() else { bail!("there is no pod of a runner") };
        let mut sectors = Vec::new();
        for started in started {
            let mut exec = release::kubectl(cluster);
            exec.args(["exec", &pod.metadata.name, "--container", CONTAINER, "--", "/usr/local/bin/curio"]);
            exec.args(["sector", "status", "--json", &format!("{}:{}", started.miner, started.number)]);
            let said = process::capture("kubectl exec", &mut exec)?;
            let mut sector: Sector =
                serde_json::from_str(&said).context("`curio sector status --json` said something else")?;
            for (_, run) in &mut sector.stages {
                let pod = run.machine.as_deref().and_then(|machine| self.named(machine));
                run.node = pod.and_then(Pod::node).map(str::to_owned);
            }
            sectors.push(sector);
        }
        Ok(sectors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tells_its_node_its_layers_and_its_gpus() {
        let pods = Pods::of_runners(vec![
            serde_json::from_value(json!({
                "metadata": {"name": "snark-0", "labels": {"app.kubernetes.io/name": "curio-runner"}},
                "spec": {"nodeName": "node-2", "containers": [{
                    "name": "runner", "args": ["run", "--layers", "seal,pool.snark", "--grace", "60s"],
                    "resources": {"limits": {"nvidia.com/gpu": "1"}},
                }]},
                "status": {"podIP": "10.0.0.7"},
            }))
            .expect("it has the shape of a pod"),
        ]);
        let pod = pods.named("snark-0").expect("it is in the list");
        assert_eq!((pod.node(), pod.asked_for("nvidia.com/gpu"), pod.asked_for("cpu")), (Some("node-2"), 1, 0));
        assert_eq!(
            pods.runners(),
            json!([{"name": "snark-0", "node": "node-2", "url": "http://10.0.0.7:12300", "layers": ["seal", "pool.snark"]}])
        );
    }
}
