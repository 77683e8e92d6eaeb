//! The `curio-operator` binary: parses the command line and hands over.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use curio_operator::{check, generate, put, run, telemetry};

/// Kubernetes operator of Curio
#[derive(Parser)]
#[command(name = "curio-operator", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the operator, until it is told to stop
    Run(RunOptions),
    /// Look at an installed operator and say whether it works
    Check(check::Options),
    /// Create or update CurioClusters, RunnerPools and SealingSectors from a file
    Put(put::Options),
    /// Write the definitions of the custom resources, one file per kind
    Crds {
        /// Folder for the files
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Write the reference page of the custom resources
    Reference {
        /// File for the page
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

#[derive(clap::Args)]
struct RunOptions {
    /// Address for probes and metrics
    #[arg(long, value_name = "ADDRESS", env = "CURIO_LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// The only namespace to look after; empty means all
    #[arg(long, value_name = "NAMESPACE", env = "CURIO_WATCH_NAMESPACE")]
    watch_namespace: Option<String>,
    /// Namespace of the leader's lease [default: that of the kubeconfig]
    #[arg(long, value_name = "NAMESPACE", env = "POD_NAMESPACE")]
    pod_namespace: Option<String>,
    /// Name that the lease and events show
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pod_name: Option<String>,
    /// Image of runners whose CurioCluster names none
    #[arg(long, value_name = "IMAGE", env = "CURIO_RUNNER_IMAGE")]
    runner_image: Option<String>,
}

impl From<RunOptions> for run::Settings {
    fn from(options: RunOptions) -> run::Settings {
        let RunOptions { listen, watch_namespace, pod_namespace, pod_name, runner_image } = options;
        run::Settings { watch_namespace, pod_namespace, pod_name, runner_image, listen }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    // Clients of the API server and of the database bring one provider each; both are this one.
    rustls::crypto::ring::default_provider().install_default().expect("nobody has installed another one before main");
    match obey(CommandLine::parse().command).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("curio-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn obey(command: Command) -> Result<()> {
    match command {
        Command::Run(options) => {
            telemetry::init_logs();
            Ok(run::run(options.into()).await?)
        }
        Command::Check(options) => Ok(check::run(options).await?),
        Command::Put(options) => Ok(put::run(options).await?),
        Command::Crds { out } => Ok(generate::write_definitions(&out)?),
        Command::Reference { out } => Ok(generate::write_reference(&out)?),
    }
}
