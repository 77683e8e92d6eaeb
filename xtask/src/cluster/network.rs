//! The bridge that pods hang on, and the kernel settings that a node needs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::firewall;
use super::layout::{BRIDGE, GATEWAY, Layout, NODES, PREFIX_BITS};
use super::quietly::quietly;
use crate::process;

/// Settings that the kubelet, kube-proxy or we change; put back as they were afterwards.
const KERNEL_SETTINGS: [&str; 8] = [
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// The state folder of the cluster that the bridge belongs to; `None` when there is no bridge.
pub fn owner() -> Option<PathBuf> {
    let device = Path::new("/sys/class/net").join(BRIDGE);
    device.exists().then(|| {
        let alias = fs::read_to_string(device.join("ifalias")).unwrap_or_default();
        PathBuf::from(alias.trim())
    })
}

/// # Errors
/// When `ip` or `iptables` fails, or a setting cannot be written.
pub fn up(layout: &Layout) -> Result<()> {
    ip(&["link", "add", BRIDGE, "type", "bridge"])?;
    // Tells a later call whose it is, should the state folder be gone.
    ip(&["link", "set", BRIDGE, "alias", &layout.root().to_string_lossy()])?;
    // The gateway comes first: the pod network takes the bridge for its own when its first address fits.
    for address in [GATEWAY].into_iter().chain(NODES.map(|node| node.address)) {
        ip(&["address", "add", &format!("{address}/{PREFIX_BITS}"), "dev", BRIDGE])?;
    }
    ip(&["link", "set", BRIDGE, "up"])?;

    let before = KERNEL_SETTINGS.iter().filter_map(|name| {
        let value = fs::read_to_string(setting(name)).ok()?;
        Some(format!("{name}={}\n", value.trim()))
    });
    layout.write(&layout.kernel_settings(), &before.collect::<String>())?;
    let forward = setting(KERNEL_SETTINGS[0]);
    fs::write(&forward, "1").with_context(|| format!("failed to write {}", forward.display()))?;
    firewall::open()
}

/// Takes everything back. What is gone already does not matter.
///
/// # Errors
/// When rules or the bridge are still there afterwards.
pub fn down(layout: &Layout) -> Result<()> {
    firewall::close();
    for device in ports().into_iter().chain([BRIDGE.to_owned()]) {
        quietly(Command::new("ip").args(["link", "delete", &device]), None, Duration::from_secs(10));
    }
    let before = fs::read_to_string(layout.kernel_settings()).unwrap_or_default();
    for (name, value) in before.lines().filter_map(|line| line.split_once('=')) {
        // Some are read-only in containers; then nobody has changed them either.
        drop(fs::write(setting(name), value));
    }
    match firewall::count() {
        0 if owner().is_none() => Ok(()),
        0 => bail!("failed to remove the network device {BRIDGE}; type: ip link delete {BRIDGE}"),
        left => bail!("failed to remove {left} rules of the cluster from iptables; look at them with iptables-save"),
    }
}

/// Devices that hang on the bridge: the outer ends of the pods' cables.
fn ports() -> Vec<String> {
    let entries = fs::read_dir(Path::new("/sys/class/net").join(BRIDGE).join("brif")).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn setting(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name)
}

fn ip(arguments: &[&str]) -> Result<()> {
    process::capture("ip", Command::new("ip").args(arguments)).map(drop)
}
