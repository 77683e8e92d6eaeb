//! `cargo xtask`: what a person types. Needs nothing but cargo; each module is one command or one thing that the
//! commands share.

mod bench;
mod cargo;
mod chart;
mod cluster;
mod demo;
mod generate;
mod images;
mod interrupt;
mod places;
mod postgres;
mod process;
mod say;
mod suite;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What a person types in this repository", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Seal sectors with real proofs on this machine, against a chain that verifies them
    Demo(demo::Options),
    /// Format, lints, generated files and every test; what CI runs
    Test(suite::Options),
    /// Measure against the numbers that the project holds itself to
    #[command(subcommand)]
    Bench(bench::Command),
    /// A real Kubernetes with two nodes on this machine
    #[command(subcommand)]
    Cluster(cluster::Action),
    /// Build the container images
    Images(images::Options),
    /// Write the generated files anew (.sqlx)
    Generate,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    interrupt::watch();
    let done = match cli.command {
        Command::Demo(options) => demo::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Test(options) => suite::run(&options),
        Command::Bench(command) => bench::run(&command).map(|()| ExitCode::SUCCESS),
        Command::Cluster(action) => cluster::run(&action),
        Command::Images(options) => images::run(&options).map(|()| ExitCode::SUCCESS),
        Command::Generate => generate::run().map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) if error.is::<interrupt::Interrupted>() => {
            say::error("interrupted; everything that was started has been stopped");
            ExitCode::from(130)
        }
        Err(error) => {
            say::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}
