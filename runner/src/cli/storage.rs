//! `curio storage`: the storage paths of machines.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::args::{machine_name, parse_bytes};
use super::output::{Output, Table, bytes, number, or_dash, span, text};
use super::{APPLICATION, CliError, Database};
use crate::storage::StorageTiming;
use crate::storage::path::{self, Attach, DEFAULT_WEIGHT, Init, PathRow};

#[derive(Debug, Subcommand)]
pub(super) enum StorageCommand {
    /// Make a directory a storage path of a machine.
    Attach(AttachArgs),
    /// List the storage paths, their room, and the machines that reach them.
    List,
}

#[derive(Debug, Args)]
pub(super) struct AttachArgs {
    /// Directory on this machine.
    path: PathBuf,
    /// Make a new storage path of the directory.
    #[arg(long)]
    init: bool,
    /// With --init: sectors may be sealed here.
    #[arg(long, requires = "init")]
    seal: bool,
    /// With --init: finished sectors may be kept here.
    #[arg(long, requires = "init")]
    store: bool,
    /// With --init: preference among paths with room; larger is preferred.
    #[arg(long, requires = "init", default_value_t = DEFAULT_WEIGHT)]
    weight: u64,
    /// With --init: the most bytes to use, such as 1TiB; 0 is no limit.
    #[arg(long, requires = "init", default_value = "0", value_parser = parse_bytes, value_name = "SIZE")]
    max_storage: u64,
    /// Stable name of the machine that reaches the path (default: the host name).
    #[arg(long, env = "CURIO_NODE_NAME", value_name = "NAME")]
    machine: Option<String>,
}

pub(super) async fn execute(place: &Database, output: Output, command: StorageCommand) -> Result<(), CliError> {
    match command {
        StorageCommand::Attach(args) => attach(place, output, &args).await,
        StorageCommand::List => {
            let db = place.open(APPLICATION).await?;
            let paths = path::list(&db).await?;
            let json: Vec<serde_json::Value> = paths.iter().map(as_json).collect();
            output.show(&json, || table(&paths).render("no storage path yet; add one with `curio storage attach`"));
            Ok(())
        }
    }
}

async fn attach(place: &Database, output: Output, args: &AttachArgs) -> Result<(), CliError> {
    let machine = machine_name(args.machine.as_deref()).map_err(CliError::refused)?;
    let db = place.open(APPLICATION).await?;
    let init = args.init.then_some(Init {
        can_seal: args.seal,
        can_store: args.store,
        weight: args.weight,
        max_storage_bytes: args.max_storage,
    });
    let attached = path::attach(&db, &Attach { root: &args.path, machine: &machine, init }).await?;
    output.show(&attached, || {
        let already = if attached.already { " already" } else { "" };
        format!("{} is{already} storage path {} of machine '{machine}'", attached.root.display(), attached.storage_id)
    });
    Ok(())
}

/// What a person should look at.
fn problem(path: &PathRow) -> Option<String> {
    let lifetime = StorageTiming::default().heartbeat_lifetime;
    match (&path.heartbeat_error, path.heartbeat_age) {
        // Whoever reported it is gone, or hangs; what was said last is no longer so.
        (_, Some(age)) if age > lifetime => Some(format!("no runner has reported it for {}", span(age))),
        (Some(error), _) => Some(error.clone()),
        (None, Some(_)) if path.available_bytes == 0 => Some("full".to_owned()),
        // Until a runner has looked at the path, nothing is known of its room.
        (None, None) => Some("no runner reports it".to_owned()),
        (None, Some(_)) => None,
    }
}

fn as_json(path: &PathRow) -> serde_json::Value {
    let machines: Vec<_> =
        path.machines.iter().map(|(name, local)| json!({ "machine": name, "path": local })).collect();
    json!({
        "storage_id": path.storage_id,
        "seal": path.can_seal,
        "store": path.can_store,
        "weight": path.weight,
        "max_storage_bytes": path.max_storage_bytes,
        "capacity_bytes": path.capacity_bytes,
        "available_bytes": path.available_bytes,
        "reserved_bytes": path.reserved_bytes,
        "used_bytes": path.used_bytes,
        "sector_files": path.sector_files,
        "heartbeat_age_seconds": path.heartbeat_age.map(|age| age.as_secs_f64()),
        "error": path.heartbeat_error,
        "machines": machines,
    })
}

fn table(paths: &[PathRow]) -> Table {
    let mut table = Table::new([
        text("ID"),
        text("USE"),
        number("ROOM"),
        number("RESERVED"),
        number("USED"),
        number("FILES"),
        text("MACHINE: PATH").shrinks_to(20),
        text("PROBLEM").shrinks_to(7),
    ]);
    for path in paths {
        let usage = match (path.can_seal, path.can_store) {
            (true, true) => "seal+store",
            (true, false) => "seal",
            (false, true) => "store",
            (false, false) => "-",
        };
        let machines: Vec<String> =
            path.machines.iter().map(|(machine, local)| format!("{machine}: {}", local.display())).collect();
        table.row([
            path.storage_id.chars().take(8).collect(),
            usage.to_owned(),
            bytes(path.available_bytes),
            bytes(path.reserved_bytes),
            bytes(path.used_bytes),
            path.sector_files.to_string(),
            machines.join(", "),
            or_dash(problem(path)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// A path of a machine that had died was once listed without a word.
    #[test]
    fn a_path_that_nobody_reports_any_more_is_a_problem_whatever_was_said_last() {
        let row = |seconds: Option<u64>, error: Option<&str>, available_bytes: u64| PathRow {
            storage_id: "11ccc3bb".to_owned(),
            can_seal: false,
            can_store: true,
            weight: DEFAULT_WEIGHT,
            max_storage_bytes: 0,
            capacity_bytes: 1 << 40,
            available_bytes,
            fs_available_bytes: available_bytes,
            reserved_bytes: 0,
            used_bytes: 0,
            heartbeat_age: seconds.map(Duration::from_secs),
            heartbeat_error: error.map(str::to_owned),
            machines: vec![("a".to_owned(), PathBuf::from("/store"))],
            sector_files: 4,
        };
        for (row, expected) in [
            (row(Some(12), None, 1), None),
            (row(Some(12), None, 0), Some("full")),
            (row(Some(12), Some("read-only"), 1), Some("read-only")),
            (row(Some(600), None, 1), Some("no runner has reported it for 10m")),
            (row(Some(600), Some("read-only"), 0), Some("no runner has reported it for 10m")),
            (row(None, None, 0), Some("no runner reports it")),
        ] {
            assert_eq!(problem(&row).as_deref(), expected, "{row:?}");
        }
    }
}
