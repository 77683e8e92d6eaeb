//! Containers as this machine sees them: both nodes run here, so their processes and volumes can be touched.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, ResourceExt};

use crate::wait::{SOON, until};
use crate::world::World;

/// Kills the main process of a pod's container, as the kernel does when memory runs out.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn kill_container(pod: &Pod) {
    let uid = pod.uid().expect("a pod of the server has a UID");
    let process = main_process(&uid).unwrap_or_else(|| panic!("no process of pod {} runs here", pod.name_any()));
    let killed = Command::new("kill").args(["-KILL", &process.to_string()]).status();
    assert!(killed.is_ok_and(|status| status.success()), "process {process} of pod {} lives on", pod.name_any());
}

/// The first process of its PID namespace in the pod's cgroup. The sandbox has one, too; its program is `pause`.
fn main_process(pod_uid: &str) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).find(|process| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{process}/{file}")).unwrap_or_default();
        let is_first = read("status")
            .lines()
            .find_map(|line| line.strip_prefix("NSpid:"))
            .is_some_and(|ids| ids.split_whitespace().count() > 1 && ids.split_whitespace().last() == Some("1"));
        is_first && read("cgroup").contains(pod_uid) && read("comm").trim() != "pause"
    })
}

/// The folder of this machine that a claim's volume is.
pub async fn folder_of_claim(world: &World, claim: &str) -> PathBuf {
    let claims: Api<PersistentVolumeClaim> = world.api();
    let is_bound = |claim: &PersistentVolumeClaim| claim.spec.as_ref().is_some_and(|spec| spec.volume_name.is_some());
    let claim = until(&claims, claim, SOON, "the claim has a volume", is_bound).await;
    let volume = claim.spec.and_then(|spec| spec.volume_name).expect("it was just looked at");
    let volumes: Api<PersistentVolume> = Api::all(world.client.clone());
    let spec = volumes.get(&volume).await.expect("the volume is there").spec.expect("a volume has a spec");
    let path = spec.host_path.map(|at| at.path).or_else(|| spec.local.map(|at| at.path));
    PathBuf::from(path.expect("the provisioner makes folders"))
}

/// A file in a claim's volume that holds a task at a point until the file is gone.
pub struct Pause {
    file: PathBuf,
}

impl Pause {
    /// The file `held` in the folder of a slot's scratch claim; pods see it as [`Pause::IN_POD`].
    pub async fn in_scratch_of(world: &World, slot: &str) -> Pause {
        Pause { file: folder_of_claim(world, &format!("{slot}-scratch")).await.join("held") }
    }

    pub const IN_POD: &str = "/scratch/held";

    pub fn is_reached(&self) -> bool {
        self.file.is_file()
    }

    /// Forgets that the point was reached, so that the next arrival shows.
    pub fn forget(&self) {
        // It may not have been reached yet.
        let _ = fs::remove_file(&self.file);
    }

    /// No task is held any more, also not in a process that starts later: nobody writes a file over a folder.
    pub fn remove(&self) {
        self.forget();
        fs::create_dir(&self.file).expect("the volume can be written to");
    }
}
