//! What makes two bare nodes a cluster that a chart can be installed in: labels, devices, services, names, volumes.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::config::{self, DNS_READY, PROVISIONER_ACCOUNT, PROVISIONER_NAMESPACE, PROXY_HEALTH};
use super::control_plane::{self, answers};
use super::layout::{GPU_NODE, NODES, Node, SEALING_NODE};
use super::part::{self, Wait};
use super::{Cluster, keys};
use crate::{images, process};

pub const PROXY: &str = "proxy";
pub const DNS: &str = "dns";
pub const VOLUMES: &str = "volumes";

/// What Node Feature Discovery calls the SHA extensions of a processor.
const SHA_LABEL: &str = "feature.node.kubernetes.io/cpu-cpuid.SHA=true";
pub const GPU_RESOURCE: &str = "nvidia.com/gpu";
pub const GPUS: u32 = 2;

/// Applies the objects and starts the programs that do not wait for a node.
///
/// # Errors
/// When an object is refused or a program cannot be started.
pub fn start(cluster: &Cluster) -> Result<()> {
    let Cluster { layout, programs } = cluster;
    let objects = layout.root().join("addons.json");
    layout.write(&objects, &config::addons(layout).to_string())?;
    process::capture("kubectl apply", cluster.kubectl().args(["apply", "--filename"]).arg(&objects))?;

    let corefile = layout.root().join("Corefile");
    layout.write(&corefile, &config::dns(layout))?;
    part::start(layout, DNS, Command::new(programs.join("coredns")).arg("-conf").arg(&corefile))?;

    let settings = layout.root().join("provisioner.json");
    layout.write(&settings, &config::provisioner(layout))?;
    let mut provisioner = Command::new(programs.join("local-path-provisioner"));
    provisioner.arg("start").arg("--config").arg(&settings);
    provisioner.arg("--kubeconfig").arg(layout.kubeconfig(keys::ADMIN));
    provisioner.args(["--namespace", PROVISIONER_NAMESPACE, "--helper-image", images::DEBIAN]);
    provisioner.args(["--service-account-name", PROVISIONER_ACCOUNT]);
    part::start(layout, VOLUMES, &mut provisioner)
}

/// Waits until both nodes are ready, with the label and the devices that tell them apart.
///
/// # Errors
/// When a node is not ready within a minute and a half.
pub fn wait_for_nodes(cluster: &Cluster) -> Result<()> {
    let kubelets = NODES.map(Node::kubelet_part);
    let parts = [kubelets[0].as_str(), kubelets[1].as_str(), control_plane::API_SERVER];
    let wait = Wait { layout: &cluster.layout, subject: "a node", parts: &parts, limit: Duration::from_secs(90) };
    wait.until(|| {
        let mut get = cluster.kubectl();
        get.arg("get").args(NODES.map(|node| format!("node/{}", node.name)));
        Ok(process::output(&mut get)?.status.success())
    })?;
    // A kubelet may not give itself labels of this domain, and there is no device plugin: both are said from outside.
    // The kubelet keeps resources that it does not know.
    let mut label = cluster.kubectl();
    label.args(["label", "--overwrite", "node", SEALING_NODE.name, SHA_LABEL]);
    process::capture("kubectl label", &mut label)?;
    let amount = serde_json::json!({ GPU_RESOURCE: GPUS.to_string() });
    let patch = serde_json::json!({"status": {"capacity": amount, "allocatable": amount}});
    let mut offer = cluster.kubectl();
    offer.args(["patch", "node", GPU_NODE.name, "--subresource=status", "--type=merge", "--patch", &patch.to_string()]);
    process::capture("kubectl patch", &mut offer)?;

    wait.until(|| {
        let mut ready = cluster.kubectl();
        let condition = r#"jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}"#;
        ready.args(["get", "nodes", "--output", condition]);
        Ok(process::capture("kubectl", &mut ready)?.trim() == "True True")
    })
}

/// Starts what needs a node, and waits until a pod could be started, find a service and get a volume.
///
/// # Errors
/// When one of these does not come about within a minute.
pub fn wait_until_usable(cluster: &Cluster) -> Result<()> {
    let Cluster { layout, programs } = cluster;
    let settings = layout.root().join("proxy.yaml");
    layout.write(&settings, &config::proxy(layout))?;
    let mut proxy = Command::new(programs.join("kube-proxy"));
    proxy.arg(format!("--config={}", settings.display()));
    part::start(layout, PROXY, &mut proxy)?;

    let limit = Duration::from_secs(60);
    let services = Wait { layout, subject: "the service network", parts: &[PROXY], limit };
    services.until(|| Ok(answers(&format!("http://{}/healthz", PROXY_HEALTH))))?;
    let names = Wait { layout, subject: "the DNS", parts: &[DNS], limit };
    names.until(|| Ok(answers(&format!("http://{DNS_READY}/ready"))))?;
    // No pod is admitted before the controller manager has made its account.
    let account = Wait {
        layout,
        subject: "the service account of the default namespace",
        parts: &[control_plane::CONTROLLER_MANAGER, control_plane::SCHEDULER, VOLUMES],
        limit,
    };
    account.until(|| {
        let mut get = cluster.kubectl();
        get.args(["--namespace", "default", "get", "serviceaccount", "default"]);
        Ok(process::output(&mut get)?.status.success())
    })
}

/// The label is there in any case; a runner looks at the processor itself and says what it finds.
pub fn about_sha() -> &'static str {
    let has_sha = fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| {
        text.lines().any(|line| line.starts_with("flags") && line.split(' ').any(|flag| flag == "sha_ni"))
    });
    if has_sha { "" } else { ", though this processor has none: runners will say so" }
}
