//! etcd, the API server and what turns its objects into pods.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::keys;
use super::layout::{API_PORT, ETCD_PEER_URL, ETCD_URL, GATEWAY, Layout, SERVICE_NETWORK};
use super::part::{self, Wait};

pub const ETCD: &str = "etcd";
pub const API_SERVER: &str = "apiserver";
pub const CONTROLLER_MANAGER: &str = "controller-manager";
pub const SCHEDULER: &str = "scheduler";

/// # Errors
/// When etcd does not answer within half a minute.
pub fn start_etcd(layout: &Layout) -> Result<()> {
    let mut etcd = Command::new("etcd");
    etcd.arg("--data-dir").arg(layout.root().join("etcd"));
    etcd.args(["--listen-client-urls", ETCD_URL, "--advertise-client-urls", ETCD_URL]);
    etcd.args(["--listen-peer-urls", ETCD_PEER_URL, "--initial-advertise-peer-urls", ETCD_PEER_URL]);
    etcd.args(["--initial-cluster", &format!("default={ETCD_PEER_URL}")]);
    // Nothing here outlives the machine, so a commit need not wait for the disk.
    etcd.args(["--unsafe-no-fsync", "--logger", "zap", "--log-level", "warn"]);
    part::start(layout, ETCD, &mut etcd)?;
    let wait = Wait { layout, subject: "etcd", parts: &[ETCD], limit: Duration::from_secs(30) };
    wait.until(|| Ok(answers(&format!("{ETCD_URL}/health"))))
}

/// Starts the API server, which needs some seconds; [`wait_for_api`] waits for it.
///
/// # Errors
/// When the program cannot be started.
pub fn start_api(layout: &Layout, programs: &Path) -> Result<()> {
    let mut api = Command::new(programs.join("kube-apiserver"));
    api.arg(format!("--etcd-servers={ETCD_URL}"))
        .args(["--bind-address=0.0.0.0", &format!("--secure-port={API_PORT}")])
        // Pods must reach it here, too: the service `kubernetes` leads to this address.
        .arg(format!("--advertise-address={GATEWAY}"))
        .arg(format!("--service-cluster-ip-range={SERVICE_NETWORK}"))
        .args(["--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction"])
        .args(["--allow-privileged=true", "--service-account-issuer=https://kubernetes.default.svc.cluster.local"])
        .arg("--kubelet-preferred-address-types=InternalIP");
    let mut file = |flag: &str, path: &Path| {
        api.arg(format!("--{flag}={}", path.display()));
    };
    file("tls-cert-file", &layout.certificate(keys::API_SERVER));
    file("tls-private-key-file", &layout.key(keys::API_SERVER));
    file("client-ca-file", &layout.certificate(keys::AUTHORITY));
    file("kubelet-client-certificate", &layout.certificate(keys::ADMIN));
    file("kubelet-client-key", &layout.key(keys::ADMIN));
    file("kubelet-certificate-authority", &layout.certificate(keys::AUTHORITY));
    file("service-account-key-file", &keys::public_key(layout, keys::SERVICE_ACCOUNTS));
    file("service-account-signing-key-file", &layout.key(keys::SERVICE_ACCOUNTS));
    file("cert-dir", &layout.keys());
    part::start(layout, API_SERVER, &mut api)
}

/// # Errors
/// When the API server is not ready within a minute.
pub fn wait_for_api(layout: &Layout, kubectl: impl Fn() -> Command) -> Result<()> {
    let wait = Wait { layout, subject: "the API server", parts: &[ETCD, API_SERVER], limit: Duration::from_secs(60) };
    wait.until(|| {
        let mut ready = kubectl();
        ready.args(["get", "--raw=/readyz", "--request-timeout=5s"]);
        Ok(crate::process::output(&mut ready)?.status.success())
    })
}

/// # Errors
/// When a program cannot be started.
pub fn start_controllers(layout: &Layout, programs: &Path) -> Result<()> {
    let mut controllers = Command::new(programs.join("kube-controller-manager"));
    controllers.args(["--leader-elect=false", "--use-service-account-credentials", "--bind-address=127.0.0.1"]);
    let mut file = |flag: &str, path: &Path| {
        controllers.arg(format!("--{flag}={}", path.display()));
    };
    file("kubeconfig", &layout.kubeconfig(keys::CONTROLLER_MANAGER));
    file("service-account-private-key-file", &layout.key(keys::SERVICE_ACCOUNTS));
    file("root-ca-file", &layout.certificate(keys::AUTHORITY));
    file("cluster-signing-cert-file", &layout.certificate(keys::AUTHORITY));
    file("cluster-signing-key-file", &layout.key(keys::AUTHORITY));
    file("cert-dir", &layout.keys());
    file("flex-volume-plugin-dir", &layout.root().join("volume-plugins"));
    part::start(layout, CONTROLLER_MANAGER, &mut controllers)?;

    let mut scheduler = Command::new(programs.join("kube-scheduler"));
    scheduler.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
    scheduler.arg(format!("--kubeconfig={}", layout.kubeconfig(keys::SCHEDULER).display()));
    scheduler.arg(format!("--cert-dir={}", layout.keys().display()));
    part::start(layout, SCHEDULER, &mut scheduler)
}

/// Whether an address answers a plain HTTP request with success.
pub fn answers(url: &str) -> bool {
    let agent: ureq::Agent = ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(2))).build().into();
    agent.get(url).call().is_ok()
}
