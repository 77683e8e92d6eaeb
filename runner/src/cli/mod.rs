//! The commands of `curio`. Results go to stdout, logs and refusals to stderr; a refusal is one
//! sentence that says what to do, with exit code 1 and nothing half done.

mod args;
mod chain;
mod config;
mod error;
mod fetch_params;
mod info;
mod machine;
mod migrate;
mod miner;
pub mod output;
mod params;
mod proving;
mod rehearse;
mod run;
mod seal;
mod sector;
mod sector_change;
mod storage;
mod task;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use curio_harmony::Db;
use tracing_subscriber::EnvFilter;

pub use error::{CliError, sentence};
use output::Output;

use crate::prove::PARENT_VARIABLE;

/// Filecoin storage provider on a cluster of machines that share one database.
#[derive(Debug, Parser)]
#[command(name = "curio", version, disable_help_subcommand = true)]
struct Cli {
    /// The cluster's database: postgres://USER:PASSWORD@HOST:PORT/NAME
    #[arg(long, global = true, env = "CURIO_DB_URL", hide_env_values = true, value_name = "URL")]
    db: Option<String>,
    /// Print results as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Form of the log on stderr; RUST_LOG chooses what is logged.
    #[arg(long, global = true, env = "CURIO_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create or update the tables in the database.
    Migrate(migrate::MigrateArgs),
    /// Run this machine: take tasks that its layers enable, until it is told to stop.
    Run(run::RunArgs),
    /// Seal new sectors.
    #[command(subcommand)]
    Seal(seal::SealCommand),
    /// Show the cluster on one page: chain, machines, tasks, sectors, miners and their keys.
    Info(info::InfoArgs),
    /// Look at sectors; terminate and extend them.
    #[command(subcommand)]
    Sector(sector::SectorCommand),
    /// Look at the proofs of spacetime of a miner: deadlines, partitions, faults, recoveries.
    #[command(subcommand)]
    Proving(proving::ProvingCommand),
    /// Make proofs of spacetime now, to see that they can be made; nothing is sent.
    #[command(subcommand)]
    Test(rehearse::TestCommand),
    /// Compare the database with the chain, and say that it may be trusted.
    #[command(subcommand)]
    Chain(chain::ChainCommand),
    /// Look at tasks, and try failed ones again.
    #[command(subcommand)]
    Task(task::TaskCommand),
    /// Look at machines.
    #[command(subcommand)]
    Machine(machine::MachineCommand),
    /// Attach storage paths and look at them.
    #[command(subcommand)]
    Storage(storage::StorageCommand),
    /// Read and change configuration layers.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Bring the proof parameters of a sector size into the parameter folder.
    FetchParams(fetch_params::FetchParamsArgs),
    /// Serve proof parameters to other machines.
    #[command(subcommand)]
    Params(params::ParamsCommand),
    /// Make one proof: a request on stdin, the result on stdout.
    #[command(hide = true)]
    Prove,
    /// Print the version.
    Version,
}

/// Parses the command line, does what it says, and answers with the exit code.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if matches!(cli.command, Command::Prove) {
        start_log(&cli);
        return prove();
    }
    start_log(&cli);
    rustls::crypto::ring::default_provider().install_default().expect("nothing installed a provider before");
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return refuse(&CliError::Runtime(error)),
    };
    match runtime.block_on(execute(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => refuse(&error),
    }
}

/// The child's whole life. It needs no runtime and no connections.
fn prove() -> ExitCode {
    let parent = std::env::var(PARENT_VARIABLE).ok().and_then(|pid| pid.parse().ok());
    // Typed by a person there is no parent to die with.
    if parent.is_some_and(|parent| !curio_proofs::child::die_with_parent(parent)) {
        return ExitCode::FAILURE;
    }
    curio_proofs::child::serve(&mut std::io::stdin().lock(), &mut std::io::stdout().lock()).into()
}

fn refuse(error: &CliError) -> ExitCode {
    eprintln!("curio: {}", error::sentence(error));
    ExitCode::FAILURE
}

fn start_log(cli: &Cli) {
    // Commands that stay tell what they do; others tell results on stdout.
    // The proof library describes each circuit that it names, and each challenge that it draws, at info.
    let stays = matches!(cli.command, Command::Run(_) | Command::Params(_));
    let default = if stays { "info,storage_proofs_core=warn,filecoin_proofs=warn" } else { "warn" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    match cli.log_format {
        LogFormat::Text => subscriber.with_target(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
}

async fn execute(cli: Cli) -> Result<(), CliError> {
    let Cli { db, json, log_format: _, command } = cli;
    let output = Output { json };
    let place = Database { url: db };
    match command {
        Command::Migrate(args) => migrate::execute(&place, output, &args).await,
        Command::Run(args) => run::execute(&place, args).await,
        Command::Seal(command) => seal::execute(&place, output, command).await,
        Command::Info(args) => info::execute(&place, output, args).await,
        Command::Sector(command) => sector::execute(&place, output, command).await,
        Command::Proving(command) => proving::execute(&place, output, command).await,
        Command::Test(command) => rehearse::execute(&place, output, command).await,
        Command::Chain(command) => chain::execute(&place, output, command).await,
        Command::Task(command) => task::execute(&place, output, command).await,
        Command::Machine(command) => machine::execute(&place, output, command).await,
        Command::Storage(command) => storage::execute(&place, output, command).await,
        Command::Config(command) => config::execute(&place, output, command).await,
        Command::FetchParams(args) => fetch_params::execute(output, &args).await,
        Command::Params(command) => params::execute(command).await,
        Command::Prove => unreachable!("handled before the runtime starts"),
        Command::Version => {
            let version = env!("CARGO_PKG_VERSION");
            output.show(&serde_json::json!({ "version": version }), || format!("curio {version}"));
            Ok(())
        }
    }
}

/// Where the database is, if somebody said so.
#[derive(Debug)]
struct Database {
    url: Option<String>,
}

impl Database {
    /// Host and port, as far as the address names them.
    fn host(&self) -> Option<(String, u16)> {
        const POSTGRES_PORT: u16 = 5432;
        let url = url::Url::parse(self.url.as_deref()?).ok()?;
        Some((url.host_str()?.to_owned(), url.port().unwrap_or(POSTGRES_PORT)))
    }

    /// The address.
    fn url(&self) -> Result<&str, CliError> {
        self.url.as_deref().filter(|url| !url.is_empty()).ok_or(CliError::NoDatabase)
    }

    /// Connects to a database with the schema of this version.
    async fn open(&self, application: &str) -> Result<Db, CliError> {
        let db = Db::connect(self.url()?, application).await?;
        db.check_schema().await?;
        Ok(db)
    }
}

/// The name that the database shows for commands.
const APPLICATION: &str = "curio cli";

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_may_stand_anywhere() {
        for line in [["curio", "--json", "machine", "list"], ["curio", "machine", "list", "--json"]] {
            assert!(Cli::try_parse_from(line).expect("the line is right").json);
        }
    }

    /// The help of every command, in the order of the command line.
    fn pages() -> Vec<(String, String)> {
        fn walk(path: &str, command: &clap::Command, found: &mut Vec<(String, String)>) {
            let mut rendered = command.clone().term_width(output::MAX_WIDTH);
            let help = rendered.render_long_help().to_string();
            found.push((path.to_owned(), help.lines().map(|line| format!("{}\n", line.trim_end())).collect()));
            for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
                walk(&format!("{path} {}", inner.get_name()), inner, found);
            }
        }
        let mut command = Cli::command();
        command.build();
        let mut found = Vec::new();
        walk("curio", &command, &mut found);
        found
    }

    #[test]
    fn help_fits_a_hundred_columns() {
        for (path, help) in pages() {
            for line in help.lines() {
                assert!(line.chars().count() <= output::MAX_WIDTH, "{path}: {line}");
            }
        }
    }

    #[test]
    fn the_page_of_commands_is_up_to_date() {
        let mut page = String::from(
            "# Commands\n\nGenerated from the command line of `curio`; a test fails when this page is stale, and \
             `UPDATE=1` rewrites it.\n",
        );
        for (path, help) in pages() {
            page.push_str(&format!("\n## {path}\n\n```text\n{}\n```\n", help.trim_end()));
        }
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/commands.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(file.parent().expect("the path has a parent")).expect("the folder can be made");
            std::fs::write(&file, &page).expect("the page can be written");
        }
        let stored = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(stored, page, "docs/reference/commands.md is stale: UPDATE=1 cargo test -p curio-runner --lib cli");
    }
}
