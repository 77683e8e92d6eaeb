//! The folder of our containers in the cgroup file system, version 1 (one tree per controller) or 2 (one tree).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::layout::{CGROUP, NODES};
use super::mounts;
use crate::process;

/// Where a tree of cgroups is mounted.
#[derive(Debug, PartialEq, Eq)]
enum Tree {
    /// Version 1, with the controllers that it has.
    Single(PathBuf, Vec<String>),
    /// Version 2.
    Unified(PathBuf),
}

impl Tree {
    fn path(&self) -> &Path {
        match self {
            Tree::Single(path, _) | Tree::Unified(path) => path,
        }
    }
}

/// The kubelet wants its root in every tree before it starts.
///
/// # Errors
/// When the folders cannot be made: without root, or in a container that may not.
pub fn make() -> Result<()> {
    let trees = trees(&mounts::all()?);
    // A machine with version 1 may mount version 2 beside it; its controllers are all taken then.
    let mixed = trees.iter().any(|tree| matches!(tree, Tree::Single(..)));
    for tree in &trees {
        for node in NODES {
            let dir = tree.path().join(CGROUP).join(node.name);
            fs::create_dir_all(&dir).with_context(|| format!("failed to make the cgroup {}", dir.display()))?;
        }
        match tree {
            Tree::Single(path, controllers) if controllers.iter().any(|name| name == "cpuset") => share_cpus(path)?,
            Tree::Single(..) => {}
            Tree::Unified(_) if mixed => {}
            Tree::Unified(path) => delegate(path)?,
        }
    }
    Ok(())
}

/// A new folder of the version 1 controller `cpuset` has no processors, and nothing may run in it until it has.
fn share_cpus(tree: &Path) -> Result<()> {
    let ours = tree.join(CGROUP);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let all = fs::read_to_string(tree.join(file)).with_context(|| format!("failed to read {file}"))?;
        for dir in [ours.clone()].into_iter().chain(NODES.map(|node| ours.join(node.name))) {
            fs::write(dir.join(file), all.trim())
                .with_context(|| format!("failed to write {file} in {}", dir.display()))?;
        }
    }
    Ok(())
}

/// Hands every controller down to the nodes' folders, as version 2 wants it said level by level.
fn delegate(tree: &Path) -> Result<()> {
    let file = tree.join("cgroup.controllers");
    let known = fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
    let all: Vec<String> = known.split_whitespace().map(|name| format!("+{name}")).collect();
    let ours = tree.join(CGROUP);
    for dir in [tree.to_path_buf(), ours.clone()].into_iter().chain(NODES.map(|node| ours.join(node.name))) {
        fs::write(dir.join("cgroup.subtree_control"), all.join(" ")).with_context(|| {
            format!("failed to hand the controllers of {} down; in a container this needs --privileged", dir.display())
        })?;
    }
    Ok(())
}

/// Kills everything in our folders. Nothing but our containers is in there, so this needs no runtime that answers.
pub fn kill_all(limit: Duration) {
    let due_by = Instant::now() + limit;
    loop {
        let left: Vec<u32> =
            folders().iter().flat_map(|dir| members(dir)).filter(|pid| process::is_alive(*pid)).collect();
        if left.is_empty() || Instant::now() >= due_by {
            return;
        }
        for pid in left {
            process::signal_process(pid, libc::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn members(dir: &Path) -> Vec<u32> {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

/// Removes our folders from every tree.
///
/// # Errors
/// When a process is left in one of them after `limit`.
pub fn remove(limit: Duration) -> Result<()> {
    let due_by = Instant::now() + limit;
    loop {
        // The kernel lets go of a folder a moment after its last process.
        let mut stuck = None;
        for dir in folders() {
            match fs::remove_dir(&dir) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => stuck = Some((dir, error)),
                Ok(()) | Err(_) => {}
            }
        }
        let Some((dir, error)) = stuck else { return Ok(()) };
        if Instant::now() >= due_by {
            return Err(error).with_context(|| format!("failed to remove the cgroup {}", dir.display()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// All our folders that exist, inner ones first.
pub fn folders() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for tree in mounts::all().map(|mounts| trees(&mounts)).unwrap_or_default() {
        collect(&tree.path().join(CGROUP), &mut found);
    }
    found
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    if !dir.is_dir() {
        return;
    }
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        collect(&entry.path(), found);
    }
    found.push(dir.to_path_buf());
}

fn trees(mounts: &[mounts::Mount]) -> Vec<Tree> {
    mounts
        .iter()
        .filter_map(|mount| match mount.kind.as_str() {
            "cgroup2" => Some(Tree::Unified(mount.path.clone())),
            "cgroup" => Some(Tree::Single(mount.path.clone(), mount.options.split(',').map(str::to_owned).collect())),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_and_the_mixture_are_recognised() {
        let mixture = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
                       cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n/dev/vda / ext4 rw 0 0\n";
        let found = trees(&mounts::parse(mixture));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(matches!(&found[0], Tree::Single(path, names)
            if path == Path::new("/sys/fs/cgroup/cpu") && names.contains(&"cpu".to_owned())));
        assert_eq!(found[1], Tree::Unified(PathBuf::from("/sys/fs/cgroup/unified")));

        let modern = trees(&mounts::parse("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"));
        assert_eq!(modern, [Tree::Unified(PathBuf::from("/sys/fs/cgroup"))]);
    }
}
