//! Whether it is true: the chain by plain HTTP, the places of the work, and what a person sees.

use anyhow::{Result, bail};

use super::super::chain::{Chain, MessageCount};
use super::super::curio::Sector;
use super::super::summary::count;
use super::pods::Pods;
use super::release;
use crate::cluster::Cluster;
use crate::cluster::layout::{GPU_NODE, SEALING_NODE};
use crate::process;
use crate::say::Steps;

/// The resource that a pool for SNARKs asks for.
const GPU: &str = "nvidia.com/gpu";
/// Columns of a terminal as it opens.
const COLUMNS: usize = 80;

/// # Errors
/// When the chain knows another sector, or not one message of each kind per sector.
pub fn chain(chain: &Chain, sectors: &[Sector], messages: &MessageCount, steps: &Steps) -> Result<()> {
    for sector in sectors {
        let Some(on_chain) = chain.sector_info(&sector.miner, sector.number)? else {
            bail!("the chain does not know sector {}, though it is called proven", sector.name());
        };
        if Some(&on_chain) != sector.sealed_cid.as_ref() {
            bail!("the chain holds {on_chain} for sector {}, not {:?}", sector.name(), sector.sealed_cid);
        }
    }
    let wanted = sectors.len() as u64;
    steps.note(&format!("Filecoin.StateSectorGetInfo knows {}", count(wanted, "sector")));
    let MessageCount { precommit, commit, .. } = messages;
    if (*precommit, *commit) != (wanted, wanted) {
        bail!("expected {wanted} precommit and {wanted} commit messages on the chain, found {precommit} and {commit}");
    }
    steps.note(&format!("{precommit} precommit and {commit} commit on the chain"));
    Ok(())
}

/// # Errors
/// When SDR or PoRep ran elsewhere than the pools are for.
pub fn places(pods: &Pods, sectors: &[Sector], steps: &Steps) -> Result<()> {
    let (sha_node, gpu_node) = (SEALING_NODE.name, GPU_NODE.name);
    for sector in sectors {
        for (stage, node) in [("SDR", sha_node), ("PoRep", gpu_node)] {
            let run = sector.run(stage);
            if run.and_then(|run| run.node.as_deref()) != Some(node) {
                bail!("{stage} of {} did not run on {node}: {run:?}", sector.name());
            }
            let machine = run.and_then(|run| run.machine.as_deref()).unwrap_or_default();
            let gpus = pods.named(machine).map_or(0, |pod| pod.asked_for(GPU));
            if stage == "PoRep" && gpus == 0 {
                bail!("PoRep of {} ran in pod {machine}, which asked for no {GPU}", sector.name());
            }
        }
    }
    steps.note(&format!("SDR ran in a pod on {sha_node}, PoRep in a pod on {gpu_node} that asked for {GPU}"));
    Ok(())
}

/// `kubectl get sealingsectors`, as it fits a terminal.
///
/// # Errors
/// When a line is too long for it.
pub fn shown(cluster: &Cluster) -> Result<String> {
    let text = process::capture("kubectl get", release::kubectl(cluster).args(["get", "sealingsectors"]))?;
    if let Some(line) = text.lines().find(|line| line.trim_end().chars().count() > COLUMNS) {
        bail!("`kubectl get sealingsectors` does not fit {COLUMNS} columns: {line}");
    }
    Ok(text)
}
