//! `cargo xtask images`: the container images, from the Dockerfiles that everybody uses, without a registry.
//!
//! Here the programs are those that cargo has built anyway, and the base image is made of this machine's own packages;
//! the Dockerfiles take both as arguments. Everything is kept as an archive in the cache under a name that tells its
//! content, so that a second run has nothing to do.

mod builder;
mod recipes;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Result, bail};

use self::builder::Builder;
use crate::cluster::Cluster;
use crate::say::{self, Steps};

pub const RUNNER: &str = "localhost/curio-runner:dev";
pub const OPERATOR: &str = "localhost/curio-operator:dev";
pub const DEVNET: &str = "localhost/curio-devnet:dev";
/// Stands for `docker.io/library/postgres:15`: PostgreSQL's programs on the path, user 999.
pub const POSTGRES: &str = "localhost/curio-postgres:15";
/// Stands for `docker.io/library/debian:bookworm-slim`; the volume provisioner's helper runs in it.
pub const DEBIAN: &str = "localhost/debian:bookworm-slim";
/// Holds a pod's network open.
pub const PAUSE: &str = "localhost/pause:1";

#[derive(clap::Args)]
pub struct Options {
    /// Bring them to the nodes of the running cluster, too
    #[arg(long)]
    load: bool,
}

/// An image in a file that containerd, docker and podman can read.
#[derive(Clone, Debug)]
pub struct Archive {
    pub name: &'static str,
    /// `sha256:` and the digest of its configuration, which is what an image is known by wherever it lies.
    pub id: String,
    pub file: PathBuf,
}

/// # Errors
/// When an image cannot be built, or there is no cluster to load it into.
pub fn run(options: &Options) -> Result<()> {
    let cluster = match (options.load, Cluster::find()?) {
        (true, None) => bail!("there is no running cluster to load images into; start one: cargo xtask cluster up"),
        (wanted, found) => found.filter(|_| wanted),
    };
    let mut steps = Steps::of(if cluster.is_some() { 2 } else { 1 });
    steps.next("building the images");
    let archives = build(&steps)?;
    steps.end();
    if let Some(cluster) = cluster {
        steps.next("bringing them to the nodes");
        tell_loaded(&steps, &cluster.load(&archives)?);
        steps.end();
    }
    println!();
    for Archive { name, file, .. } in &archives {
        println!("{name:<32} {}", file.display());
    }
    Ok(())
}

/// Builds what a chart needs and brings it to the nodes; only what has changed.
///
/// # Errors
/// When something does not compile, build or import.
pub fn load(steps: &Steps, cluster: &Cluster) -> Result<()> {
    let archives = build(steps)?;
    tell_loaded(steps, &cluster.load(&archives)?);
    Ok(())
}

fn tell_loaded(steps: &Steps, names: &[&str]) {
    match names {
        [] => steps.note("every node has them already"),
        names => steps.note(&format!("brought to the nodes: {}", names.join(", "))),
    }
}

fn build(steps: &Steps) -> Result<Vec<Archive>> {
    let programs = recipes::compile()?;
    let builder = Builder::new()?;
    let mut archives = Vec::new();
    for build in [recipes::runner, recipes::operator, recipes::devnet] {
        archives.push(timed(steps, || build(&builder, &programs))?);
    }
    archives.push(timed(steps, || recipes::postgres(&builder))?);
    Ok(archives)
}

/// What a cluster needs before any pod can start.
///
/// # Errors
/// When one cannot be built.
pub fn for_every_cluster(steps: &Steps) -> Result<Vec<Archive>> {
    let builder = Builder::new()?;
    Ok(vec![timed(steps, || recipes::pause(&builder))?, timed(steps, || recipes::debian(&builder))?])
}

/// Tells what was built; what lay in the cache is not worth a line.
fn timed(steps: &Steps, build: impl FnOnce() -> Result<(Archive, bool)>) -> Result<Archive> {
    let began = Instant::now();
    let (archive, is_new) = build()?;
    if is_new {
        let size = std::fs::metadata(&archive.file).map_or(0, |meta| meta.len());
        steps.note(&format!("{}: {} in {}", archive.name, say::bytes(size), say::seconds(began.elapsed())));
    }
    Ok(archive)
}
