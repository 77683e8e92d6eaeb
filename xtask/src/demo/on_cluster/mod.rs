//! The demo on Kubernetes: a two-node cluster on this machine, the chart with its evaluation part, one `kubectl apply`.
//!
//! What belongs to the evaluation runs in pods: database, chain, parameter server, runners. Sectors are asked for by a
//! SealingSector, watched in its status, and checked against the chain by plain HTTP. A cluster that ran before stays.

mod objects;
mod pods;
mod release;
mod verify;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use self::objects::{Objects, SectorStatus};
use self::pods::Pods;
use self::release::Release;
use super::chain::Chain;
use super::curio::{Sector, Started};
use super::memory::Meter;
use super::summary::{self, Summary, count};
use super::watch::{Scene, Watch};
use super::{Options, preflight};
use crate::cluster::Cluster;
use crate::say::{self, Steps};
use crate::{images, interrupt};

/// The SealingSector that asks.
const REQUEST: &str = "demo";
/// A runner has to start before it takes up a request.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(300);

/// # Errors
/// One sentence about the first thing that did not work; what was started is stopped by then.
pub fn run(options: &Options) -> Result<()> {
    let mut steps = Steps::of(7);
    println!(
        "Sealing {} of 2 KiB with real proofs on a Kubernetes of two nodes on this machine.\n\
         The chain is a stand-in that verifies every proof; a real node replaces it by an address.\n",
        count(options.sectors, "sector")
    );

    steps.next("checking this machine");
    preflight::check_machine(&steps)?;
    Cluster::possible()?;
    let found = Cluster::find()?;
    steps.end();

    steps.next("a cluster of two nodes");
    let was_up = found.is_some();
    let cluster = Cluster::up(&steps)?;
    steps.end();

    let done = on(&cluster, options, &mut steps, was_up);
    if was_up {
        return done;
    }
    // Also after Ctrl-C, and whatever the story came to: nothing stays.
    let _shield = interrupt::shield();
    let down = cluster.down();
    done.and(down)
}

fn on(cluster: &Cluster, options: &Options, steps: &mut Steps, stays: bool) -> Result<()> {
    steps.next("images of the runner, the operator and what the evaluation needs");
    images::load(steps, cluster)?;
    steps.end();
    let story = Story { sectors: options.sectors, keep: options.keep, summary: options.summary.as_deref() };
    story.tell(cluster, steps, stays)
}

/// What is to be sealed, on a cluster that has the images.
pub struct Story<'a> {
    pub sectors: u64,
    /// Stay until Ctrl-C.
    pub keep: bool,
    pub summary: Option<&'a Path>,
}

impl Story<'_> {
    /// Four steps: install, seal, verify, and the end. The release is removed when the cluster `stays`; otherwise it
    /// goes with the cluster.
    ///
    /// # Errors
    /// One sentence about the first thing that did not work.
    pub fn tell(&self, cluster: &Cluster, steps: &mut Steps, stays: bool) -> Result<()> {
        steps.next("helm install, in a namespace that enforces the restricted pod security standard");
        let release = Release::install(cluster, steps);
        let told = release.and_then(|release| {
            steps.end();
            let told = self.seal(cluster, &release, steps);
            if let Err(error) = &told
                && !error.is::<interrupt::Interrupted>()
            {
                release.tell_state();
            }
            told
        });
        if stays {
            let _shield = interrupt::shield();
            told.and(release::remove(cluster))
        } else {
            told
        }
    }

    fn seal(&self, cluster: &Cluster, release: &Release<'_>, steps: &mut Steps) -> Result<()> {
        steps.next(&format!("sealing {}", count(self.sectors, "sector")));
        let meter = Meter::of_environment("KUBERNETES_SERVICE_HOST", release.service_host()?);
        let miner = release.miner()?;
        let chain = release.chain()?;
        release.ask(REQUEST, &miner, self.sectors)?;
        steps.note(&format!("kubectl apply: SealingSector {REQUEST}, {} of {miner}", count(self.sectors, "sector")));
        let mut objects = Objects::new(cluster);
        let started = taken_up(&mut objects, &miner, self.sectors, steps)?;
        let summary = Summary::new(self.summary, &miner, &started);
        let mut scene = OnCluster { release, objects, chain: &chain, meter: &meter, summary };
        Watch::new(&started).until_proven(&mut scene)?;
        steps.end();

        steps.next("asking the chain and the cluster");
        let OnCluster { mut objects, mut summary, .. } = scene;
        objects.refresh()?;
        let pods = objects.pods();
        let sectors = pods.sectors(cluster, &started)?;
        summary.update(&chain, surroundings(release, pods, &chain, &meter)?, &sectors)?;
        verify::chain(&chain, &sectors, summary.messages(), steps)?;
        verify::places(pods, &sectors, steps)?;
        let shown = verify::shown(cluster)?;
        if let Some(file) = self.summary {
            steps.note(&format!("summary in {}", file.display()));
        }
        steps.end();

        println!("\n$ kubectl get sealingsectors --namespace {}\n{shown}", release::NAMESPACE);
        println!("{}\n{}", summary::sector_table(&sectors), summary::stage_table(&sectors));
        println!(
            "{} proven, {} from start to end; peak memory of all pods {}",
            count(self.sectors, "sector"),
            say::seconds(steps.elapsed()),
            say::bytes(meter.peak_bytes())
        );
        if self.keep { keep_running(cluster) } else { Ok(()) }
    }
}

/// Waits until the request has all its sectors, and says meanwhile what the runners do.
fn taken_up(objects: &mut Objects<'_>, miner: &str, wanted: u64, steps: &Steps) -> Result<Vec<Started>> {
    let due_by = Instant::now() + TAKEN_UP_WITHIN;
    let mut told = String::new();
    loop {
        objects.refresh()?;
        objects.news().iter().for_each(|news| steps.note(news));
        let request = objects.sector(REQUEST).map(|object| object.status.clone()).unwrap_or_default();
        if request.is_refused() {
            bail!("the request for sectors was refused: {}", request.message);
        }
        let numbers = request.numbers();
        if numbers.len() as u64 >= wanted {
            return Ok(numbers.into_iter().map(|number| Started { miner: miner.to_owned(), number }).collect());
        }
        if Instant::now() > due_by {
            bail!("no runner took up the request within {}: {}", say::seconds(TAKEN_UP_WITHIN), request.message);
        }
        if told != request.message {
            steps.note(&request.message);
            told = request.message;
        }
        interrupt::pause(Duration::from_secs(1))?;
    }
}

/// The sectors as their SealingSectors show them.
struct OnCluster<'a> {
    release: &'a Release<'a>,
    objects: Objects<'a>,
    chain: &'a Chain,
    meter: &'a Meter,
    summary: Summary,
}

impl Scene for OnCluster<'_> {
    fn news(&mut self) -> Result<Vec<String>> {
        Ok(self.objects.news())
    }

    fn sectors(&mut self, open: &[&Started]) -> Result<Vec<Sector>> {
        self.objects.refresh()?;
        open.iter()
            .map(|started| match self.objects.sector_with(started) {
                Some(object) => Ok(object.status.as_sector(started)),
                // The operator shows a sector within a second or two.
                None => Ok(SectorStatus::default().as_sector(started)),
            })
            .collect()
    }

    fn record(&mut self, known: &[Sector]) -> Result<()> {
        let surroundings = surroundings(self.release, self.objects.pods(), self.chain, self.meter)?;
        self.summary.update(self.chain, surroundings, known)
    }
}

/// What the summary tells beside the sectors.
fn surroundings(release: &Release<'_>, pods: &Pods, chain: &Chain, meter: &Meter) -> Result<Map<String, Value>> {
    let mut surroundings = Map::new();
    surroundings.insert("database".to_owned(), json!({"url": release.database_url()}));
    surroundings.insert("chain".to_owned(), json!({"url": chain.url, "token": chain.token}));
    surroundings.insert("runners".to_owned(), pods.runners());
    surroundings.insert("kubeconfig".to_owned(), json!(release.cluster.kubeconfig()));
    surroundings.insert("peak_memory_bytes".to_owned(), meter.peak_bytes().into());
    Ok(surroundings)
}

/// Stays until Ctrl-C.
fn keep_running(cluster: &Cluster) -> Result<()> {
    println!("\nIn another terminal:");
    println!("  export KUBECONFIG={}", cluster.kubeconfig().display());
    println!("  export PATH={}:$PATH", cluster.programs().display());
    println!("  kubectl --namespace {} get curio", release::NAMESPACE);
    println!("\n{}", say::bold("Everything keeps running. Ctrl-C ends it."));
    while interrupt::pause(Duration::from_secs(60)).is_ok() {}
    println!();
    Ok(())
}
