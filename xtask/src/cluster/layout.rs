//! Where a cluster keeps its things, and the addresses that it uses on this machine. Fixed here, so that every part
//! that is told one reads the same.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::places;

/// A bridge of our own; the addresses below lie on it. One machine has room for one cluster.
pub const BRIDGE: &str = "curio0";
/// Pods and nodes. Not 10.88.0.0/16, which podman takes.
pub const POD_NETWORK: &str = "10.201.0.0/16";
pub const PREFIX_BITS: u8 = 16;
/// The first address that a pod may get; those below are for the machine and the nodes.
pub const FIRST_POD_ADDRESS: &str = "10.201.1.0";
/// This machine, as pods reach it: API server and DNS.
pub const GATEWAY: &str = "10.201.0.1";
pub const SERVICE_NETWORK: &str = "10.202.0.0/16";
/// The service `kubernetes`: always the first address of the service network.
pub const API_SERVICE: &str = "10.202.0.1";
pub const DNS_SERVICE: &str = "10.202.0.10";
/// Not 6443, where somebody else's Kubernetes may listen.
pub const API_PORT: u16 = 16443;
pub const API_URL: &str = "https://127.0.0.1:16443";
/// Not 2379: Debian's package starts an etcd there on machines with systemd.
pub const ETCD_URL: &str = "http://127.0.0.1:23790";
pub const ETCD_PEER_URL: &str = "http://127.0.0.1:23800";
/// The folder of all our containers in every cgroup hierarchy.
pub const CGROUP: &str = "curio";
/// The name of the pod network. CNI writes it beside every rule that it makes, which is how ours are found.
pub const NETWORK_NAME: &str = "curio-pods";

/// A node of the cluster: a containerd and a kubelet with an address of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: &'static str,
    pub address: &'static str,
}

/// What SDR needs is on the first, what SNARKs ask for on the second.
pub const SEALING_NODE: Node = Node { name: "node-1", address: "10.201.0.2" };
pub const GPU_NODE: Node = Node { name: "node-2", address: "10.201.0.3" };
pub const NODES: [Node; 2] = [SEALING_NODE, GPU_NODE];

/// Says that a folder is ours to delete.
const MARK_FILE: &str = "curio-test-cluster";
/// In the environment of everything that we start; containerd hands it on to its shims.
pub const MARK: &str = "CURIO_CLUSTER_OF_PART";

/// The folder of one cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// `given`, else the folder in the user's cache.
    ///
    /// # Errors
    /// When there is no cache folder, or the path is one that cannot be used.
    pub fn new(given: Option<&Path>) -> Result<Layout> {
        let root = match given {
            Some(path) => std::path::absolute(path).with_context(|| format!("failed to read {}", path.display()))?,
            None => cache()?.join("state"),
        };
        // A socket's path has at most 107 bytes, and some programs take settings that end at white space.
        const LONGEST: usize = 70;
        let text = root.to_string_lossy();
        if text.len() > LONGEST || text.contains(char::is_whitespace) {
            bail!(
                "{} cannot hold the cluster: its path must have at most {LONGEST} characters and no space; \
                 give another with --state",
                root.display()
            );
        }
        Ok(Layout { root })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The value of [`MARK`].
    pub fn mark(&self) -> String {
        self.root.to_string_lossy().into_owned()
    }

    /// Takes the folder into our possession.
    ///
    /// # Errors
    /// When something lies there that is not ours.
    pub fn claim(&self) -> Result<()> {
        if self.root.exists() && !self.is_claimed() && !is_empty(&self.root) {
            bail!("{} holds files that no cluster made; give another folder with --state", self.root.display());
        }
        for dir in [&self.root, &self.logs(), &self.records(), &self.keys(), &self.volumes(), &self.cni()] {
            fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
        }
        self.write(
            &self.root.join(MARK_FILE),
            "Made by `cargo xtask cluster up`; `cargo xtask cluster down` deletes it.\n",
        )
    }

    pub fn is_claimed(&self) -> bool {
        self.root.join(MARK_FILE).is_file()
    }

    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path, text: &str) -> Result<()> {
        fs::write(path, text).with_context(|| format!("failed to write {}", path.display()))
    }

    pub fn logs(&self) -> PathBuf {
        self.root.join("log")
    }

    pub fn log(&self, part: &str) -> PathBuf {
        self.logs().join(format!("{part}.log"))
    }

    pub fn records(&self) -> PathBuf {
        self.root.join("run")
    }

    pub fn record(&self, part: &str) -> PathBuf {
        self.records().join(format!("{part}.pid"))
    }

    pub fn keys(&self) -> PathBuf {
        self.root.join("keys")
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.keys().join(format!("{name}.key"))
    }

    pub fn certificate(&self, name: &str) -> PathBuf {
        self.keys().join(format!("{name}.crt"))
    }

    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.root.join(format!("{user}.kubeconfig"))
    }

    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    pub fn cni(&self) -> PathBuf {
        self.root.join("cni")
    }

    /// Written when everything works: names the folder of programs.
    pub fn finished(&self) -> PathBuf {
        self.root.join("programs")
    }

    /// The kernel settings as they were before us.
    pub fn kernel_settings(&self) -> PathBuf {
        self.root.join("kernel-settings")
    }

    pub fn node(&self, node: Node) -> PathBuf {
        self.root.join(node.name)
    }

    pub fn containerd_socket(&self, node: Node) -> PathBuf {
        self.node(node).join("containerd.sock")
    }
}

/// What outlives a cluster: programs, images, and the default state folder beside them.
///
/// # Errors
/// When the user has no cache folder.
pub fn cache() -> Result<PathBuf> {
    Ok(places::user_cache()?.join("curio").join("cluster"))
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_somebody_elses_files_is_not_taken() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let layout = Layout::new(Some(&dir.path().join("state"))).expect("a good path");
        layout.claim().expect("a folder that does not exist is taken");
        layout.claim().expect("our own folder is taken again");

        let theirs = dir.path().join("theirs");
        fs::create_dir(&theirs).expect("a folder");
        fs::write(theirs.join("thesis.tex"), "").expect("a file");
        let error = Layout::new(Some(&theirs)).expect("a good path").claim().expect_err("there is a file");
        assert!(error.to_string().contains("no cluster made"), "{error}");
    }

    #[test]
    fn paths_that_a_socket_or_a_setting_cannot_hold_are_refused() {
        for path in ["/tmp/with space", &format!("/tmp/{}", "x".repeat(80))] {
            let error = Layout::new(Some(Path::new(path))).expect_err("the path is no good");
            assert!(error.to_string().contains("--state"), "{error}");
        }
    }
}
