//! The demo on this machine alone: a private PostgreSQL, the embedded chain and two runners as processes.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::Options;
use super::chain::MessageCount;
use super::cluster::Cluster;
use super::curio::{Sector, Started};
use super::piece::Piece;
use super::summary::{self, Summary, count};
use super::watch::{Scene, Watch};
use super::{post, preflight};
use crate::say::Steps;
use crate::{cargo, interrupt, say, suite};

/// Runner that does everything but the SNARK, and the only one with storage.
pub const SEALING: &str = "sealing-0";
/// A block every 250 ms.
const PACE: [&str; 2] = ["--block-time", "250ms"];
/// Runner that only makes SNARKs.
pub const SNARK: &str = "snark-0";

/// # Errors
/// One sentence about the first thing that did not work; what was started is stopped by then.
pub fn run(options: &Options) -> Result<()> {
    let mut steps = Steps::of(if options.post { 8 } else { 7 });
    println!(
        "Sealing {} of 2 KiB with real proofs on this machine: PostgreSQL, an embedded chain, two runners.\n\
         The chain is a stand-in that verifies every proof; a real node replaces it by an address.\n",
        count(options.sectors, "sector")
    );

    steps.next("checking this machine");
    let installation = preflight::check(&steps)?;
    steps.end();

    steps.next("building curio and curio-devnet");
    let programs = cargo::programs()?;
    steps.end();

    steps.next("proof parameters for 2 KiB sectors");
    suite::fetch_parameters(&programs.curio)?;
    steps.end();

    steps.next("database and chain");
    let mut cluster = Cluster::prepare(&programs, &installation)?;
    let sealed = seal(options, &mut steps, &mut cluster);
    if let Err(error) = &sealed
        && !error.is::<interrupt::Interrupted>()
    {
        cluster.keep_logs();
    }
    // Dropping the cluster ends its processes and removes its folder.
    sealed
}

fn seal(options: &Options, steps: &mut Steps, cluster: &mut Cluster) -> Result<()> {
    cluster.curio()?.migrate()?;
    steps.note(&format!("PostgreSQL on 127.0.0.1:{}, schema applied", cluster.server().port()));
    cluster.start_chain(if options.post { &post::PACE } else { &PACE })?;
    let miner = cluster.create_miner()?;
    steps.note(&format!("chain at {}, storage provider {miner}", cluster.chain()?.url));
    steps.end();

    steps.next("runners that share no disk");
    // With --post both sectors are to reach the chain together, so that they share a partition.
    cluster.configure(if options.post { 2 } else { 1 })?;
    let provers = if options.post { post::PROVERS.as_slice() } else { &[] };
    for &name in [SEALING, SNARK].iter().chain(provers) {
        let runner = cluster.start_runner(name)?;
        steps.note(&format!("{name} at {}, layers {}", runner.url, runner.layers.join(",")));
    }
    steps.end();

    steps.next(&format!("sealing {}", count(options.sectors, "sector")));
    let piece = Piece::make(cluster.dir())?;
    let mut started = cluster.curio()?.start_sectors(&miner, 1, Some(&piece.path))?;
    if options.sectors > 1 {
        started.extend(cluster.curio()?.start_sectors(&miner, options.sectors - 1, None)?);
    }
    let mut summary = Summary::new(options.summary.as_deref(), &miner, &started);
    let mut scene = Local { cluster: &mut *cluster, summary: &mut summary, hands_off: options.keep };
    let sectors = Watch::new(&started).until_proven(&mut scene)?;
    steps.end();

    steps.next("asking the chain and the files");
    summary.update(cluster.chain()?, surroundings(cluster)?, &sectors)?;
    verify(options, steps, cluster, &sectors, summary.messages(), &piece)?;
    if let Some(file) = &options.summary {
        steps.note(&format!("summary in {}", file.display()));
    }
    steps.end();

    let told = if options.post {
        steps.next("a whole proving period with faults");
        let told = post::live(steps, cluster, &sectors)?;
        summary.tell("post", told.document());
        summary.update(cluster.chain()?, surroundings(cluster)?, &sectors)?;
        steps.end();
        Some(told)
    } else {
        None
    };

    println!("\n{}\n{}", summary::sector_table(&sectors), summary::stage_table(&sectors));
    if let Some(told) = told {
        println!("{}", told.tables());
    }
    println!(
        "{} proven, {} from start to end; peak memory of all processes {}",
        count(options.sectors, "sector"),
        say::seconds(steps.elapsed()),
        say::bytes(cluster.peak_memory_bytes())
    );
    if options.keep { keep_running(cluster, &sectors, &mut summary) } else { Ok(()) }
}

/// The runners of this machine and what they seal.
struct Local<'a> {
    cluster: &'a mut Cluster,
    summary: &'a mut Summary,
    /// Whether somebody outside may stop and start runners.
    hands_off: bool,
}

impl Scene for Local<'_> {
    fn news(&mut self) -> Result<Vec<String>> {
        let news = self.cluster.look();
        self.cluster.check_chain()?;
        if !self.hands_off
            && let Some(runner) = self.cluster.missing_runner()
        {
            bail!("runner {} ended before the sectors were proven", runner.name);
        }
        Ok(news)
    }

    fn sectors(&mut self, open: &[&Started]) -> Result<Vec<Sector>> {
        let curio = self.cluster.curio()?;
        open.iter().map(|started| curio.sector(started)).collect()
    }

    fn record(&mut self, known: &[Sector]) -> Result<()> {
        self.summary.update(self.cluster.chain()?, surroundings(self.cluster)?, known)
    }
}

/// What the summary tells beside the sectors.
fn surroundings(cluster: &Cluster) -> Result<Map<String, Value>> {
    let server = cluster.server();
    let chain = cluster.chain()?;
    let runners = cluster.runners().iter().map(|runner| {
        json!({
            "name": runner.name,
            "pid": runner.pid(),
            "url": runner.url,
            "layers": runner.layers,
            "command": runner.command,
        })
    });
    let mut surroundings = Map::new();
    surroundings.insert(
        "database".to_owned(),
        json!({"url": server.url(), "stop": server.stop_command(), "start": server.start_command()}),
    );
    surroundings.insert("chain".to_owned(), json!({"url": chain.url, "token": chain.token}));
    surroundings.insert("runners".to_owned(), runners.collect());
    surroundings.insert("peak_memory_bytes".to_owned(), cluster.peak_memory_bytes().into());
    Ok(surroundings)
}

/// Compares what the pipeline says with what the chain and the disk say.
fn verify(
    options: &Options,
    steps: &Steps,
    cluster: &Cluster,
    sectors: &[Sector],
    messages: &MessageCount,
    piece: &Piece,
) -> Result<()> {
    for sector in sectors {
        let Some(on_chain) = cluster.chain()?.sector_info(&sector.miner, sector.number)? else {
            bail!("the chain does not know sector {}, though it is called proven", sector.name());
        };
        if Some(&on_chain) != sector.sealed_cid.as_ref() {
            bail!("the chain holds {on_chain} for sector {}, not {:?}", sector.name(), sector.sealed_cid);
        }
    }
    steps.note(&format!("Filecoin.StateSectorGetInfo knows {}", count(options.sectors, "sector")));

    let wanted = options.sectors;
    let MessageCount { precommit, commit, .. } = messages;
    if (*precommit, *commit) != (wanted, wanted) {
        bail!(
            "expected {wanted} precommit and {wanted} commit messages for these sectors on the chain, \
             found {precommit} and {commit}"
        );
    }
    steps.note(&format!("{precommit} precommit and {commit} commit on the chain"));

    for sector in sectors {
        for (stage, run) in &sector.stages {
            let place = if stage == "PoRep" { SNARK } else { SEALING };
            if run.machine.as_deref() != Some(place) {
                bail!("{stage} of {} ran on {:?}, not on {place}", sector.name(), run.machine);
            }
        }
    }
    steps.note(&format!("PoRep ran on {SNARK}, everything else on {SEALING}"));

    let first = sectors.first().context("no sector was started")?;
    let unsealed = first.file("unsealed").context("the first sector has no unsealed copy")?;
    let bytes = fs::read(unsealed).with_context(|| format!("failed to read {}", unsealed.display()))?;
    piece.check(&bytes).with_context(|| format!("the unsealed copy {} is wrong", unsealed.display()))?;
    steps.note("the unsealed copy of the first sector holds the file's bytes");
    Ok(())
}

/// Stays until Ctrl-C; runners and database may be stopped and started from outside meanwhile.
fn keep_running(cluster: &mut Cluster, sectors: &[Sector], summary: &mut Summary) -> Result<()> {
    println!("\n{}\n", cluster.how_to_look()?);
    println!("{}", say::bold("Everything keeps running. Ctrl-C ends it."));
    while interrupt::pause(Duration::from_secs(1)).is_ok() {
        for news in cluster.look() {
            println!("{news}");
        }
        cluster.check_chain()?;
        // A message that comes twice after the end must be seen in the summary, too.
        summary.update(cluster.chain()?, surroundings(cluster)?, sectors)?;
    }
    println!();
    Ok(())
}
