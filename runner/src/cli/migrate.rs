//! `curio migrate`: brings the schema of the database to this version.

use std::time::Duration;

use clap::Args;

use super::args::parse_duration;
use super::output::Output;
use super::{APPLICATION, CliError, Database};
use crate::database;

#[derive(Debug, Args)]
pub(super) struct MigrateArgs {
    /// How long to wait for a database that does not answer yet.
    #[arg(long, default_value = "2m", value_parser = parse_duration, value_name = "TIME")]
    wait: Duration,
}

pub(super) async fn execute(place: &Database, output: Output, args: &MigrateArgs) -> Result<(), CliError> {
    let db = database::connect_within(place.url()?, APPLICATION, args.wait).await?;
    let report = db.migrate().await?;
    output.show(&report, || match report.applied.as_slice() {
        [] => format!("the schema is up to date (version {})", report.version),
        applied => format!("applied {}; the schema is at version {}", applied.join(", "), report.version),
    });
    Ok(())
}
