//! `cargo xtask demo`: from nothing to sectors that a chain has accepted, with real proofs.
//!
//! On this machine alone ([`local`]) or on a Kubernetes cluster that it makes ([`on_cluster`]). Either way the sectors are
//! sealed by the commands and objects that a person uses, then the chain is asked whether it is true, and nothing is
//! left behind.

mod chain;
mod cluster;
mod curio;
mod local;
mod memory;
mod on_cluster;
mod piece;
mod post;
mod preflight;
mod summary;
mod watch;

use std::path::PathBuf;

use anyhow::Result;

pub use self::on_cluster::Story;

#[derive(clap::Args)]
pub struct Options {
    /// Where the runners are: processes of this machine, or pods of a two-node Kubernetes cluster on it
    #[arg(long, value_enum, default_value_t = Place::Local, value_name = "PLACE")]
    on: Place,
    /// How many sectors to seal, 1 unless --post wants 2; on this machine the first holds a file's bytes
    #[arg(long, default_value_t = 1, default_value_if("post", "true", "2"), value_parser = clap::value_parser!(u64).range(1..=64))]
    sectors: u64,
    /// Then live through a whole proving period on this machine: a sealed file is damaged and healed, a runner is killed
    #[arg(long, conflicts_with = "on")]
    post: bool,
    /// Leave everything running until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Write what runs and what was sealed to this file, as JSON
    #[arg(long, value_name = "FILE")]
    summary: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Place {
    Local,
    Cluster,
}

/// # Errors
/// One sentence about the first thing that did not work; what was started is stopped by then.
pub fn run(options: &Options) -> Result<()> {
    if let Some(file) = &options.summary {
        summary::check_writable(file)?;
    }
    match options.on {
        Place::Local => local::run(options),
        Place::Cluster => on_cluster::run(options),
    }
}
