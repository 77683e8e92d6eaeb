//! The section that needs a Kubernetes: the story of `cargo xtask demo --on cluster`, then every scenario of
//! `operator/tests/cluster`, on one cluster.
//!
//! The scenarios share a PostgreSQL and a chain that run on this machine at the address that pods reach, so that the
//! tests and the pods use the same ones. A cluster that ran before stays.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::outcome;
use crate::cargo::Tally;
use crate::cluster::Cluster;
use crate::cluster::layout::GATEWAY;
use crate::postgres::{self, Durability, Installation, Server};
use crate::say::{self, Steps};
use crate::{cargo, demo, images, interrupt, places, process};

/// Scenarios wait most of their time; all of them fit on the two nodes at once.
const AT_ONCE: &str = "--test-threads=16";
/// On the namespaces that the scenarios make.
const MARK: &str = "curio-test=scenario";
/// What a scenario's first release brings and leaves.
const DEFINITIONS: &str =
    "curioclusters.curio.filecoin.io,runnerpools.curio.filecoin.io,sealingsectors.curio.filecoin.io";

/// Four epochs a second, and three deadlines of a minute each in a proving period: a scenario lives to that of its sector.
const PACE: [&str; 5] =
    ["--block-time=250ms", "--deadlines=3", "--challenge-window=240", "--challenge-lookback=80", "--fault-cutoff=100"];

/// Runs the section. `devnet` is the program `curio-devnet`.
///
/// # Errors
/// When the cluster or what the scenarios share cannot be started, or the run is interrupted.
pub fn check(scratch: &Path, devnet: &Path) -> Result<Tally> {
    let mut steps = Steps::of(7);
    let was_up = Cluster::find()?.is_some();
    steps.next("a cluster of two nodes");
    let cluster = Cluster::up(&steps)?;
    steps.end();

    let done = on(&cluster, scratch, devnet, &mut steps);
    let _shield = interrupt::shield();
    let ended = if was_up { sweep(&cluster) } else { cluster.down() };
    let tally = done?;
    ended?;
    println!("the section took {}", say::seconds(steps.elapsed()));
    Ok(tally)
}

fn on(cluster: &Cluster, scratch: &Path, devnet: &Path, steps: &mut Steps) -> Result<Tally> {
    steps.next("images");
    images::load(steps, cluster)?;
    // An interrupted run may have left some of its own.
    sweep(cluster)?;
    steps.end();

    let story = demo::Story { sectors: 1, keep: false, summary: None };
    let mut tally = outcome(story.tell(cluster, steps, true))?;

    steps.next("PostgreSQL and a chain at the address that pods reach");
    let shared = Shared::start(scratch, devnet)?;
    steps.end();

    steps.next("scenarios");
    let mut test = cargo::command("test")?;
    test.args(["--workspace", "--no-fail-fast", "--test=cluster", "--", AT_ONCE, "--show-output"])
        .env("CURIO_TEST_KUBECONFIG", cluster.kubeconfig())
        .env("CURIO_TEST_PROGRAMS", cluster.programs())
        .env("CURIO_TEST_DATABASE_URL", shared.server.url())
        .env("CURIO_TEST_CHAIN", &shared.chain)
        .env("CURIO_TEST_DEVNET", devnet);
    tally.add(cargo::test(&mut test)?);
    steps.end();
    Ok(tally)
}

/// Removes what scenarios leave: definitions outlive their release, and an interrupted run leaves anything.
fn sweep(cluster: &Cluster) -> Result<()> {
    for (what, names) in [
        ("namespaces", ["--selector", MARK].as_slice()),
        ("customresourcedefinitions", &DEFINITIONS.split(',').collect::<Vec<_>>()),
    ] {
        let mut delete = cluster.kubectl();
        delete.args(["delete", what, "--ignore-not-found", "--timeout=120s"]).args(names);
        process::capture("kubectl delete", &mut delete)?;
    }
    Ok(())
}

/// What all scenarios use, each with a database and a storage provider of its own.
struct Shared {
    server: Server,
    /// `TOKEN:URL`.
    chain: String,
    devnet: Child,
}

#[derive(Deserialize)]
struct Ready {
    url: String,
    token: String,
}

impl Shared {
    fn start(scratch: &Path, devnet: &Path) -> Result<Shared> {
        let dir = scratch.join("scenarios");
        fs::create_dir(&dir).with_context(|| format!("failed to make {}", dir.display()))?;
        let installation = Installation::find_or_install()?;
        let server = Server::start_at(GATEWAY, &installation, &dir, Durability::ProcessOnly)?;
        let (ready, log) = (dir.join("chain.json"), dir.join("chain.log"));
        let said = fs::File::create(&log).with_context(|| format!("failed to make {}", log.display()))?;
        let mut command = Command::new(devnet);
        command.arg("run").arg(format!("--api={GATEWAY}:{}", postgres::free_port()?));
        command.args(["--seed=1", "--die-with-parent"]).args(PACE);
        command.arg("--params-dir").arg(places::parameters()?).arg("--ready-file").arg(&ready);
        command.stdin(Stdio::null()).stdout(said.try_clone().context("failed to share a log file")?).stderr(said);
        let child = process::tied(&mut command).spawn().context("failed to start curio-devnet")?;
        let mut shared = Shared { server, chain: String::new(), devnet: child };
        shared.chain = shared.wait_for_chain(&ready, &log)?;
        Ok(shared)
    }

    fn wait_for_chain(&mut self, ready: &Path, log: &Path) -> Result<String> {
        let due_by = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(text) = fs::read_to_string(ready) {
                let Ready { url, token } =
                    serde_json::from_str(&text).context("curio-devnet wrote something else into its ready file")?;
                return Ok(format!("{token}:{}", url.trim_end_matches('/')));
            }
            let ended = self.devnet.try_wait().context("failed to wait for curio-devnet")?;
            if ended.is_some() || Instant::now() > due_by {
                let said = fs::read_to_string(log).unwrap_or_default();
                bail!("curio-devnet did not start: {}", said.lines().last().unwrap_or_default());
            }
            interrupt::pause(Duration::from_millis(50))?;
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        process::end(&mut self.devnet, Duration::from_secs(10));
    }
}
