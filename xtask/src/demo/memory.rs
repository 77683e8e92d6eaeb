//! Peak memory of everything that the demo runs, measured while it runs.
//!
//! For our own programs the high-water mark counts (it also sees a peak between two looks). PostgreSQL's processes
//! share one block of memory that each of them would count in full, so for them only what is their own counts.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::process;

const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

pub struct Meter {
    peak_bytes: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Meter {
    /// Watches the processes marked `NAME=value` and the children of the process whose pid is in `postmaster`.
    pub fn start(name: &'static str, value: String, postmaster: PathBuf) -> Meter {
        Meter::watch(name, value, Some(postmaster))
    }

    /// Watches the processes marked `NAME=value`, and nothing else.
    pub fn of_environment(name: &'static str, value: String) -> Meter {
        Meter::watch(name, value, None)
    }

    fn watch(name: &'static str, value: String, postmaster: Option<PathBuf>) -> Meter {
        let peak_bytes = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (peak, stopped) = (Arc::clone(&peak_bytes), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let text = postmaster.as_ref().and_then(|file| fs::read_to_string(file).ok());
                let database = text.and_then(|text| text.lines().next()?.parse().ok());
                peak.fetch_max(sum(&process::marked(name, &value), database), Ordering::Relaxed);
                std::thread::sleep(BETWEEN_LOOKS);
            }
        });
        Meter { peak_bytes, stop, thread: Some(thread) }
    }

    pub fn peak_bytes(&self) -> u64 {
        self.peak_bytes.load(Ordering::Relaxed)
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It holds nothing that a panic in it could have spoilt.
            drop(thread.join());
        }
    }
}

/// The marked processes count with all that descends from them, since a child may get a bare environment.
fn sum(ours: &[u32], postmaster: Option<u32>) -> u64 {
    let all: HashMap<u32, Status> = process::all().filter_map(|pid| Some((pid, status(pid)?))).collect();
    let roots: HashSet<u32> = ours.iter().copied().collect();
    let descends_from = |mut pid: u32, roots: &HashSet<u32>| {
        // A pid may be taken again while we look, so a circle is possible; no tree of ours is this deep.
        for _ in 0..16 {
            if roots.contains(&pid) {
                return true;
            }
            let Some(status) = all.get(&pid) else { return false };
            pid = status.parent;
        }
        false
    };
    let database: HashSet<u32> = postmaster.into_iter().collect();
    let (mut programs, mut own, mut shared) = (0, 0, 0);
    for (pid, status) in &all {
        if descends_from(*pid, &database) {
            own += status.anonymous_bytes;
            shared = shared.max(status.shared_bytes);
        } else if descends_from(*pid, &roots) {
            programs += status.peak_bytes;
        }
    }
    programs + own + shared
}

struct Status {
    parent: u32,
    peak_bytes: u64,
    anonymous_bytes: u64,
    shared_bytes: u64,
}

fn status(pid: u32) -> Option<Status> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    // A kernel thread has no memory of its own, and no such fields.
    let bytes =
        |name| field(name).and_then(|value| value.strip_suffix("kB")?.trim().parse::<u64>().ok()).unwrap_or(0) * 1024;
    Some(Status {
        parent: field("PPid")?.parse().ok()?,
        peak_bytes: bytes("VmHWM"),
        anonymous_bytes: bytes("RssAnon"),
        shared_bytes: bytes("RssShmem"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_a_child_counts_with_its_parent() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("sleep starts");
        let own = sum(&[child.id()], None);
        let all = sum(&[std::process::id()], None);
        child.kill().and_then(|()| child.wait()).expect("the child can be ended");
        assert!(own > 0 && all >= own, "{own} of {all} bytes");
    }
}
