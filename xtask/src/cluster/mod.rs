//! `cargo xtask cluster`: a real Kubernetes with two nodes on this machine, for the tests and for a look around.
//!
//! Control plane, kubelets and Helm are built from pinned sources, containerd and etcd come from the distribution.
//! Both nodes run on this machine, each with a containerd, a kubelet, an address and a cgroup of its own; pods are real
//! containers. `docs/cluster.md` tells what it costs and where its limits are.

mod addons;
mod cgroups;
mod condition;
mod config;
mod control_plane;
mod down;
pub mod fingerprint;
mod firewall;
mod keys;
pub mod layout;
pub mod lock;
pub mod mounts;
mod network;
mod node;
pub mod packages;
mod part;
pub mod programs;
mod progress;
mod quietly;
mod status;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use self::condition::{Condition, check_vacant};
use self::layout::{API_URL, GPU_NODE, Layout, NODES, SEALING_NODE};
use self::progress::Progress;
use crate::images::{self, Archive};
use crate::say::{self, Steps};
use crate::{interrupt, postgres, process};

#[derive(clap::Subcommand)]
pub enum Action {
    /// Start the cluster, or say that it runs (needs root; builds its programs the first time)
    Up(Place),
    /// End the cluster and everything in it
    Down(Place),
    /// Show its parts, nodes and pods; exit code 1 when it does not run whole
    Status(Place),
}

#[derive(clap::Args)]
pub struct Place {
    /// Folder of the cluster [default: curio/cluster/state in your cache folder]
    #[arg(long, env = "CURIO_CLUSTER_STATE", value_name = "DIR")]
    state: Option<PathBuf>,
}

/// # Errors
/// One sentence about the first thing that did not work.
pub fn run(action: &Action) -> Result<ExitCode> {
    match action {
        Action::Up(place) => {
            let layout = Layout::new(place.state.as_deref())?;
            let mut steps = Steps::of(3);
            let cluster = Cluster::up_at(&layout, &mut Progress::Steps(&mut steps))?;
            println!("\n{}", status::how_to_use(&cluster));
            Ok(ExitCode::SUCCESS)
        }
        Action::Down(place) => {
            let layout = Layout::new(place.state.as_deref())?;
            require_root()?;
            let _lock = lock::take(&layout::cache()?)?;
            if Condition::of(&layout) == Condition::Absent {
                println!("no cluster runs at {}", layout.root().display());
                return Ok(ExitCode::SUCCESS);
            }
            let began = std::time::Instant::now();
            down::end(&layout)?;
            println!("the cluster is down, nothing is left of it ({})", say::seconds(began.elapsed()));
            Ok(ExitCode::SUCCESS)
        }
        Action::Status(place) => {
            let layout = Layout::new(place.state.as_deref())?;
            match Condition::of(&layout) {
                Condition::Absent => {
                    println!("no cluster runs at {}; start one: cargo xtask cluster up", layout.root().display());
                    Ok(ExitCode::FAILURE)
                }
                Condition::Broken(why) => {
                    println!("{}", status::parts_table(&layout));
                    println!("{why}; `cargo xtask cluster up` cleans up and starts a new cluster");
                    Ok(ExitCode::FAILURE)
                }
                Condition::Whole => {
                    println!("{}", status::parts_table(&layout));
                    let cluster = Cluster::of_whole(&layout)?;
                    println!("{}\n{}", status::objects(&cluster), status::how_to_use(&cluster));
                    Ok(ExitCode::SUCCESS)
                }
            }
        }
    }
}

/// A running cluster. Dropping it leaves it running.
#[derive(Clone, Debug)]
pub struct Cluster {
    layout: Layout,
    programs: PathBuf,
}

impl Cluster {
    /// Whether this machine can have a cluster. Quick; starts and installs nothing.
    ///
    /// # Errors
    /// One sentence about what is missing.
    pub fn possible() -> Result<()> {
        if !cfg!(target_os = "linux") {
            bail!("the test cluster needs Linux");
        }
        require_root()?;
        let missing = packages::missing();
        if !missing.is_empty() && process::on_path("apt-get").is_none() {
            bail!(
                "the test cluster needs programs that are not installed (Debian packages: {}), and there is no \
                 apt-get to install them with",
                missing.join(" ")
            );
        }
        let cache = layout::cache()?;
        fs::create_dir_all(&cache).with_context(|| format!("failed to make {}", cache.display()))?;
        mounts::check_overlay(&cache)?;
        programs::check_possible()
    }

    /// Starts the cluster of the default place (or of `CURIO_CLUSTER_STATE`), or takes the one that runs there. What it
    /// does is told as notes under the running step.
    ///
    /// # Errors
    /// One sentence about what did not work; what was started has been ended by then.
    pub fn up(steps: &Steps) -> Result<Cluster> {
        Cluster::up_at(&default_layout()?, &mut Progress::Notes(steps))
    }

    /// The cluster of the default place, if it runs whole.
    ///
    /// # Errors
    /// When the place cannot be read.
    pub fn find() -> Result<Option<Cluster>> {
        let layout = default_layout()?;
        match Condition::of(&layout) {
            Condition::Whole => Cluster::of_whole(&layout).map(Some),
            Condition::Absent | Condition::Broken(_) => Ok(None),
        }
    }

    fn of_whole(layout: &Layout) -> Result<Cluster> {
        let file = layout.finished();
        let programs = fs::read_to_string(&file).with_context(|| format!("failed to read {}", file.display()))?;
        Ok(Cluster { layout: layout.clone(), programs: PathBuf::from(programs.trim()) })
    }

    fn up_at(layout: &Layout, progress: &mut Progress<'_>) -> Result<Cluster> {
        require_root()?;
        let _lock = lock::take(&layout::cache()?)?;
        match Condition::of(layout) {
            Condition::Whole => {
                progress.note(&format!("the cluster runs already: {API_URL}"));
                return Cluster::of_whole(layout);
            }
            Condition::Broken(why) => {
                progress.note(&format!("cleaning up after an earlier cluster: {why}"));
                down::end(layout)?;
            }
            Condition::Absent => {}
        }
        // Before anything that takes long.
        check_vacant(layout)?;
        progress.next("programs of the test cluster");
        packages::find_or_install()?;
        let programs = programs::find_or_build(progress.steps())?;
        programs::remove_others(&programs)?;
        progress.end();

        progress.next("images that the cluster itself needs");
        let archives = images::for_every_cluster(progress.steps())?;
        progress.end();

        progress.next("control plane and two nodes");
        let cluster = Cluster { layout: layout.clone(), programs };
        if let Err(error) = cluster.start(&archives, progress) {
            let kept = if error.is::<interrupt::Interrupted>() { None } else { keep_logs(layout) };
            down::end(layout).context("failed to clean up after a cluster that did not start")?;
            return Err(match kept {
                Some(dir) => error.context(format!("the cluster did not start; its logs are in {}", dir.display())),
                None => error,
            });
        }
        progress.end();
        Ok(cluster)
    }

    fn start(&self, archives: &[Archive], progress: &Progress<'_>) -> Result<()> {
        let Cluster { layout, programs } = self;
        layout.claim()?;
        mounts::check_overlay(layout.root())?;
        keys::make(layout)?;
        layout.write(&layout.cni().join("10-pods.conflist"), &config::pod_network(layout))?;
        layout.write(&layout.root().join("resolv.conf"), &config::resolver())?;
        cgroups::make()?;
        network::up(layout)?;

        control_plane::start_etcd(layout)?;
        control_plane::start_api(layout, programs)?;
        // The API server needs seconds to get ready; the nodes get their images meanwhile.
        for node in NODES {
            node::start_containerd(layout, node)?;
        }
        for node in NODES {
            node::wait_for_containerd(layout, node)?;
        }
        node::load(layout, archives)?;
        control_plane::wait_for_api(layout, || self.kubectl())?;
        control_plane::start_controllers(layout, programs)?;
        progress.note(&format!("API server at {API_URL}"));

        for node in NODES {
            node::start_kubelet(layout, programs, node)?;
        }
        addons::start(self)?;
        addons::wait_for_nodes(self)?;
        progress.note(&format!("{} has the label of SHA extensions{}", SEALING_NODE.name, addons::about_sha()));
        progress.note(&format!("{} offers {} of {}", GPU_NODE.name, addons::GPUS, addons::GPU_RESOURCE));
        addons::wait_until_usable(self)?;
        progress.note("names resolve, claims get volumes");
        layout.write(&layout.finished(), &programs.to_string_lossy())
    }

    /// Ends it and everything in it.
    ///
    /// # Errors
    /// When something is left that could not be removed.
    pub fn down(self) -> Result<()> {
        let _lock = lock::take(&layout::cache()?)?;
        down::end(&self.layout)
    }

    /// Its folder.
    pub fn state(&self) -> &Path {
        self.layout.root()
    }

    /// The file of a user who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.layout.kubeconfig(keys::ADMIN)
    }

    /// The folder with kubectl, helm and helm4.
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    pub fn kubectl(&self) -> Command {
        let mut kubectl = Command::new(self.programs.join("kubectl"));
        kubectl.env("KUBECONFIG", self.kubeconfig()).env("KUBECACHEDIR", self.state().join("kubectl"));
        kubectl
    }

    /// Helm 3 with folders of its own, so that a person's plugins and repositories play no part.
    pub fn helm(&self) -> Command {
        let mut helm = Command::new(self.programs.join("helm"));
        helm.env("KUBECONFIG", self.kubeconfig());
        for folder in ["CACHE", "CONFIG", "DATA"] {
            helm.env(format!("HELM_{folder}_HOME"), self.state().join("helm").join(folder.to_lowercase()));
        }
        helm
    }

    /// Brings images to every node that lacks them. Returns the names that some node lacked.
    ///
    /// # Errors
    /// When an import fails.
    pub fn load(&self, archives: &[Archive]) -> Result<Vec<&'static str>> {
        node::load(&self.layout, archives)
    }
}

fn default_layout() -> Result<Layout> {
    let given = std::env::var_os("CURIO_CLUSTER_STATE").filter(|value| !value.is_empty()).map(PathBuf::from);
    Layout::new(given.as_deref())
}

fn require_root() -> Result<()> {
    if !postgres::is_root() {
        bail!("the test cluster starts containers, which needs root; run this as root");
    }
    Ok(())
}

/// The logs go with the state folder, and they are what explains a failure.
fn keep_logs(layout: &Layout) -> Option<PathBuf> {
    let kept = layout::cache().ok()?.join("log-of-failed-start");
    drop(fs::remove_dir_all(&kept));
    fs::rename(layout.logs(), &kept).ok().map(|()| kept)
}
