//! What a look at the machine says: whether a cluster runs here, and whether there is room for one.

use anyhow::{Result, bail};

use super::layout::{BRIDGE, Layout, NODES, Node};
use super::{addons, control_plane, firewall, network, part};

/// Names of all parts in the order in which they start.
pub fn parts() -> Vec<String> {
    let mut names = vec![control_plane::ETCD.to_owned()];
    names.extend(NODES.map(Node::containerd_part));
    names.extend(
        [control_plane::API_SERVER, control_plane::CONTROLLER_MANAGER, control_plane::SCHEDULER].map(str::to_owned),
    );
    names.extend(NODES.map(Node::kubelet_part));
    names.extend([addons::PROXY, addons::DNS, addons::VOLUMES].map(str::to_owned));
    names
}

/// What a look at the machine says about a cluster.
#[derive(Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing of it is there.
    Absent,
    /// Its start came to the end, and every part runs.
    Whole,
    /// Something is there, but this is wrong.
    Broken(String),
}

impl Condition {
    pub fn of(layout: &Layout) -> Condition {
        if !layout.is_claimed() && network::owner().is_none_or(|owner| owner != layout.root()) {
            return Condition::Absent;
        }
        let dead: Vec<String> = parts().into_iter().filter(|part| part::running(layout, part).is_none()).collect();
        match (dead.as_slice(), layout.finished().is_file()) {
            ([], true) => Condition::Whole,
            ([], false) => Condition::Broken("it was not started to the end".to_owned()),
            (dead, _) => Condition::Broken(format!("{} ended", dead.join(", "))),
        }
    }
}

/// Two clusters would take each other's addresses, chains and device.
///
/// # Errors
/// When there is one already, or somebody else's Kubernetes.
pub fn check_vacant(layout: &Layout) -> Result<()> {
    if let Some(owner) = network::owner() {
        let owner = owner.display();
        bail!(
            "the network device {BRIDGE} belongs to a cluster at {owner}; end that one first: \
             cargo xtask cluster down --state {owner}"
        );
    }
    if firewall::has_kubernetes() {
        bail!(
            "another Kubernetes runs on this machine (iptables has chains KUBE-…), and {} would get in its way",
            layout.root().display()
        );
    }
    Ok(())
}
