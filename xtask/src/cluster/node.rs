//! A node: a containerd and a kubelet of its own, beside the other node's on the same machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::config;
use super::layout::{Layout, NODES, Node};
use super::part::{self, Wait};
use crate::images::Archive;
use crate::process;

impl Node {
    pub fn containerd_part(self) -> String {
        format!("{}-containerd", self.name)
    }

    pub fn kubelet_part(self) -> String {
        format!("{}-kubelet", self.name)
    }
}

/// # Errors
/// When containerd does not answer within half a minute.
pub fn start_containerd(layout: &Layout, node: Node) -> Result<()> {
    let home = layout.node(node);
    fs::create_dir_all(&home).with_context(|| format!("failed to make {}", home.display()))?;
    let settings = home.join("containerd.toml");
    layout.write(&settings, &config::containerd(layout, node))?;
    let part = node.containerd_part();
    part::start(layout, &part, Command::new("containerd").arg("--config").arg(&settings))
}

/// # Errors
/// When containerd does not answer within half a minute.
pub fn wait_for_containerd(layout: &Layout, node: Node) -> Result<()> {
    let part = node.containerd_part();
    let wait = Wait { layout, subject: "containerd", parts: &[&part], limit: Duration::from_secs(30) };
    wait.until(|| {
        let mut version = ctr(layout, node);
        version.args(["--connect-timeout", "2s", "version"]);
        Ok(process::output(&mut version)?.status.success())
    })
}

/// # Errors
/// When the program cannot be started.
pub fn start_kubelet(layout: &Layout, programs: &Path, node: Node) -> Result<()> {
    let home = layout.node(node);
    let settings = home.join("kubelet.yaml");
    layout.write(&settings, &config::kubelet(layout, node))?;
    let mut kubelet = Command::new(programs.join("kubelet"));
    let mut file = |flag: &str, path: &Path| {
        kubelet.arg(format!("--{flag}={}", path.display()));
    };
    file("config", &settings);
    file("kubeconfig", &layout.kubeconfig(node.name));
    file("root-dir", &home.join("kubelet"));
    file("cert-dir", &layout.keys());
    kubelet.arg(format!("--hostname-override={}", node.name)).arg(format!("--node-ip={}", node.address));
    part::start(layout, &node.kubelet_part(), &mut kubelet)
}

/// containerd's own client, in the namespace that Kubernetes uses.
fn ctr(layout: &Layout, node: Node) -> Command {
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(layout.containerd_socket(node)).args(["--namespace", "k8s.io"]);
    ctr
}

/// Brings archives to every node that lacks them, to all nodes at the same time. Returns the names that some node
/// lacked.
///
/// # Errors
/// When an import fails.
pub fn load(layout: &Layout, archives: &[Archive]) -> Result<Vec<&'static str>> {
    let mut lacking = Vec::new();
    for node in NODES {
        let listing = process::capture("ctr", ctr(layout, node).args(["images", "list"]))?;
        let held = Held::read(&listing);
        lacking.push((node, archives.iter().filter(|archive| !held.has(archive)).collect::<Vec<_>>()));
    }
    let most = lacking.iter().map(|(_, archives)| archives.len()).max().unwrap_or_default();
    for round in 0..most {
        let mut imports = Vec::new();
        for (node, archives) in &lacking {
            let Some(archive) = archives.get(round) else { continue };
            let mut import = ctr(layout, *node);
            import.args(["images", "import"]).arg(&archive.file).stdin(Stdio::null()).stdout(Stdio::null());
            let child = process::tied(&mut import).spawn().context("failed to start ctr")?;
            imports.push((archive, child));
        }
        for (archive, child) in &mut imports {
            let status = process::wait(child)?;
            if !status.success() {
                bail!("importing {} failed ({status})", archive.file.display());
            }
        }
    }
    let mut names: Vec<&str> =
        lacking.iter().flat_map(|(_, archives)| archives.iter().map(|archive| archive.name)).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The images of a node: name to the digest of what it stands for. The part of containerd that serves the kubelet adds
/// a name `sha256:<id>` for every image.
struct Held<'a>(BTreeMap<&'a str, &'a str>);

impl Held<'_> {
    /// Reads `ctr images list`: name, type, digest and more, in columns.
    fn read(listing: &str) -> Held<'_> {
        let row = |line| {
            let mut words = str::split_whitespace(line);
            Some((words.next()?, words.nth(1)?))
        };
        Held(listing.lines().skip(1).filter_map(row).collect())
    }

    fn has(&self, archive: &Archive) -> bool {
        let by_id = self.0.get(archive.id.as_str());
        by_id.is_some() && self.0.get(archive.name) == by_id
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::images;

    const LISTING: &str = "\
REF                TYPE                                                 DIGEST     SIZE    PLATFORMS   LABELS
localhost/pause:1  application/vnd.docker.distribution.manifest.v2+json sha256:aa  1.0 MiB linux/amd64 -
localhost/curio-runner:dev application/vnd.docker.distribution.manifest.v2+json sha256:cc 99.0 MiB linux/amd64 -
sha256:01          application/vnd.docker.distribution.manifest.v2+json sha256:aa  1.0 MiB linux/amd64 -
sha256:02          application/vnd.docker.distribution.manifest.v2+json sha256:bb  98.0 MiB linux/amd64 -
";

    fn archive(name: &'static str, id: &str) -> Archive {
        Archive { name, id: id.to_owned(), file: PathBuf::new() }
    }

    #[test]
    fn an_image_is_held_only_when_its_name_stands_for_this_content() {
        let held = Held::read(LISTING);
        assert!(held.has(&archive(images::PAUSE, "sha256:01")));
        assert!(!held.has(&archive(images::PAUSE, "sha256:02")), "another content under this name");
        assert!(!held.has(&archive(images::RUNNER, "sha256:02")), "the name has moved on");
        assert!(!held.has(&archive(images::OPERATOR, "sha256:03")), "never seen");
    }
}
