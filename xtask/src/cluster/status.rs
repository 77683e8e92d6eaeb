//! What `cargo xtask cluster status` prints.

use std::fs;
use std::time::Duration;

use super::Cluster;
use super::condition::parts;
use super::layout::{API_URL, Layout};
use super::part::{self, Record};
use crate::{process, say};

/// A line per part, in the order in which they start.
pub fn parts_table(layout: &Layout) -> String {
    let mut text = format!("{:<20} {:>8}  {:<9} {:>12} {:>10}\n", "PART", "PID", "STATE", "RUNNING FOR", "MEMORY");
    for name in parts() {
        let line = match part::running(layout, &name) {
            Some(record) => {
                let age = age(record).map_or_else(String::new, say::seconds);
                let memory = resident_bytes(record.pid).map_or_else(String::new, say::bytes);
                format!("{name:<20} {:>8}  {:<9} {age:>12} {memory:>10}\n", record.pid, "running")
            }
            None => format!("{name:<20} {:>8}  {:<9}\n", "-", "not there"),
        };
        text.push_str(&line);
    }
    text
}

/// Nodes and pods as the API server sees them; its own words when it does not answer.
pub fn objects(cluster: &Cluster) -> String {
    let columns = "custom-columns=NODE:.metadata.name,READY:.status.conditions[?(@.type==\"Ready\")].status,\
                   CPU:.status.allocatable.cpu,MEMORY:.status.allocatable.memory,\
                   GPU:.status.allocatable.nvidia\\.com/gpu,\
                   SHA:.metadata.labels.feature\\.node\\.kubernetes\\.io/cpu-cpuid\\.SHA";
    let ask = |arguments: &[&str]| {
        let mut kubectl = cluster.kubectl();
        kubectl.args(arguments).arg("--request-timeout=5s");
        process::capture("kubectl", &mut kubectl).unwrap_or_else(|error| format!("{error:#}\n"))
    };
    let nodes = ask(&["get", "nodes", "--output", columns]);
    let pods = ask(&["get", "pods", "--all-namespaces", "--output=wide"]);
    let pods = if pods.trim().is_empty() { "no pods\n".to_owned() } else { pods };
    format!("{nodes}\n{pods}")
}

/// How to use a running cluster, for a shell.
pub fn how_to_use(cluster: &Cluster) -> String {
    format!(
        "API server {API_URL}, logs in {}\n\nexport KUBECONFIG={}\nexport PATH={}:$PATH",
        cluster.layout.logs().display(),
        cluster.kubeconfig().display(),
        cluster.programs().display()
    )
}

fn age(record: Record) -> Option<Duration> {
    // SAFETY: sysconf takes a number and touches no memory.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(uptime - record.start_ticks as f64 / ticks_per_second as f64).ok()
}

fn resident_bytes(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?;
    Some(kib.parse::<u64>().ok()? * 1024)
}
