//! The end of a cluster: whatever state it is in, afterwards nothing of it is left on the machine.
//!
//! Nothing in here looks at Ctrl-C, because Ctrl-C may be what led here; every step is bounded instead.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::condition::parts;
use super::layout::{Layout, MARK};
use super::{cgroups, mounts, network, part};
use crate::process;

/// # Errors
/// When something could not be removed; the rest is removed nevertheless.
pub fn end(layout: &Layout) -> Result<()> {
    // What would start containers again goes first, what can still end them last.
    for part in parts().iter().rev() {
        if part.ends_with("-containerd") {
            cgroups::kill_all(Duration::from_secs(10));
        }
        part::kill(layout, part);
    }
    // Containers of a cluster whose containerd had died, and the shims, which outlive their containerd.
    cgroups::kill_all(Duration::from_secs(10));
    process::end_marked(MARK, &layout.mark(), Duration::ZERO);
    let unmounted = mounts::detach_below(layout.root());
    let disconnected = network::down(layout);
    let emptied = cgroups::remove(Duration::from_secs(10));
    sweep_shared_folders(layout);
    unmounted?;
    if layout.is_claimed() {
        let root = layout.root();
        fs::remove_dir_all(root).with_context(|| format!("failed to remove {}", root.display()))?;
    }
    disconnected.and(emptied)
}

/// Files in places that the programs do not let us choose.
fn sweep_shared_folders(layout: &Layout) {
    // The pod network's notes about each pod; they name its network namespace, which lay in the state folder.
    let ours = format!("\"{}/", layout.root().display());
    for entry in entries("/var/lib/cni/results") {
        if fs::read_to_string(&entry).is_ok_and(|note| note.contains(&ours)) {
            drop(fs::remove_file(entry));
        }
    }
    // Links to logs that lay in the state folder.
    for entry in entries("/var/log/containers") {
        if fs::read_link(&entry).is_ok_and(|target| target.starts_with(layout.root())) {
            drop(fs::remove_file(entry));
        }
    }
    // Sockets on which the shims listened. A shim of another runtime is told by somebody listening.
    for entry in entries("/run/containerd/s") {
        if std::os::unix::net::UnixStream::connect(&entry).is_err() {
            drop(fs::remove_file(entry));
        }
    }
    for name in ["kubelet.sock", "kubelet_internal_checkpoint"] {
        drop(fs::remove_file(Path::new("/var/lib/kubelet/device-plugins").join(name)));
    }
    // Only those that are empty now.
    for dir in [
        "/var/lib/kubelet/device-plugins",
        "/var/lib/kubelet",
        "/var/log/containers",
        "/var/lib/cni/results",
        "/var/lib/cni",
        "/run/containerd/s",
        "/run/containerd",
    ] {
        drop(fs::remove_dir(dir));
    }
}

fn entries(dir: &str) -> impl Iterator<Item = std::path::PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}
