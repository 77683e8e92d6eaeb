//! `curio params serve`: a parameter folder for other machines, over HTTP.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use curio_core::SealProof;
use curio_proofs::params::{self, Circuit, Set};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::CliError;
use super::args::parse_sector_size;
use super::run::StopSignals;
use crate::parameters::{self, Parameters, Shelf};
use crate::run::RunError;
use crate::settings;

#[derive(Debug, Subcommand)]
pub(super) enum ParamsCommand {
    /// Serve the proof parameters of a folder, read-only, until told to stop; other machines fetch them
    /// with CURIO_PARAMETERS_URL.
    Serve(ServeArgs),
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// Address to serve on; port 0 takes any free one.
    #[arg(long, env = "CURIO_LISTEN", default_value = "0.0.0.0:12400", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// Folder of the parameters (default: that of FIL_PROOFS_PARAMETER_CACHE, else one in the user's cache).
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Make the parameters of a test size first, when they are missing: 2KiB.
    #[arg(long, value_name = "SIZE", value_delimiter = ',', value_parser = parse_test_size)]
    make: Vec<SealProof>,
}

fn parse_test_size(text: &str) -> Result<SealProof, String> {
    let proof = parse_sector_size(text)?;
    if Set::all_of(proof).into_iter().all(Set::can_be_made) {
        return Ok(proof);
    }
    Err(format!("parameters for sectors of {text} are published and not made here; put the files into the folder"))
}

pub(super) async fn execute(command: ParamsCommand) -> Result<(), CliError> {
    let ParamsCommand::Serve(ServeArgs { listen, dir, make }) = command;
    let signals = StopSignals::listen()?;
    let dir = dir.unwrap_or_else(params::default_dir);
    let failed = |source| RunError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    info!("serves {} on {}", dir.display(), listener.local_addr().map_err(failed)?);
    let stop = CancellationToken::new();
    let watch = tokio::spawn(signals.watch(stop.clone()));
    let shelf = Shelf::new(Parameters::new(dir, None, Circuit::ALL.to_vec()), &make);
    let filling = tokio::spawn(shelf.clone().fill(settings::prover()?, stop.clone()));
    let served = parameters::serve(listener, shelf, stop.clone()).await;
    stop.cancel();
    // It ends at once: a child that makes parameters is killed, and begins anew at the next start.
    let _ = filling.await;
    watch.abort();
    served.map_err(CliError::Runtime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parameters_of_the_test_size_are_made() {
        assert_eq!(parse_test_size("2KiB"), Ok(SealProof::StackedDrg2KiBV1_1));
        assert!(parse_test_size("32GiB").is_err_and(|text| text.contains("are published and not made here")));
    }
}
