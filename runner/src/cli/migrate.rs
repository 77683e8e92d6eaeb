//! `curio migrate`: brings the schema of the database to this version.

use super::output::Output;
use super::{APPLICATION, CliError, Database};

pub(super) async fn execute(place: &Database, output: Output) -> Result<(), CliError> {
    let db = place.connect(APPLICATION).await?;
    let report = db.migrate().await?;
    output.show(&report, || match report.applied.as_slice() {
        [] => format!("the schema is up to date (version {})", report.version),
        applied => format!("applied {}; the schema is at version {}", applied.join(", "), report.version),
    });
    Ok(())
}
