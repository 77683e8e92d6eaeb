//! `curio sector`: where sectors stand, from the pipeline's rows, and the way to changes of proven ones.

use std::path::PathBuf;

use chrono::Utc;
use clap::{Subcommand, ValueEnum};
use curio_core::{SealProof, SectorRef, SpId};
use curio_harmony::{Db, DbError};
use serde_json::{Value, json};

use super::output::{Output, Table, ago, ago_or_dash, bytes, number, or_dash, properties, text, took};
use super::sector_change::{self, ExtendArgs, TerminateArgs};
use super::{APPLICATION, CliError, Database};
use crate::storage::{LocalPath, Location, Storage, StorageOptions, StorageTiming, path};
use curio_pipeline::status::{self, MessageStatus, RunState, SectorDetail, SectorState, SectorStatus};

#[derive(Debug, Subcommand)]
pub(super) enum SectorCommand {
    /// List sectors with the stage each has reached.
    List {
        /// Only sectors of this miner actor.
        #[arg(long, value_name = "ADDRESS")]
        actor: Option<SpId>,
        /// Only sectors in this state.
        #[arg(long)]
        state: Option<StateArg>,
    },
    /// Show one sector: stages, machines, times, commitments, messages, files.
    Status {
        /// Such as f01000:5.
        sector: SectorRef,
    },
    /// Give proven sectors up for good; the chain takes a good part of their pledge. Asked first, then approved.
    Terminate(TerminateArgs),
    /// Keep proven sectors until a later epoch. Asked first, then approved.
    Extend(ExtendArgs),
    /// List the terminations and extensions that were asked for, and what became of them.
    Changes,
}

/// A state as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum StateArg {
    Sealing,
    Proven,
    Failed,
}

impl StateArg {
    fn state(self) -> SectorState {
        match self {
            StateArg::Sealing => SectorState::Sealing,
            StateArg::Proven => SectorState::Proven,
            StateArg::Failed => SectorState::Failed,
        }
    }
}

/// The refusal for a sector that the database does not know.
pub(super) fn unknown(sector: SectorRef) -> CliError {
    CliError::refused(format!("there is no sector {sector} in this cluster; `curio sector list` shows all"))
}

pub(super) async fn execute(place: &Database, output: Output, command: SectorCommand) -> Result<(), CliError> {
    match command {
        SectorCommand::List { actor, state } => {
            let db = place.open(APPLICATION).await?;
            let wanted = |sector: &SectorStatus| state.is_none_or(|state| state.state() == sector.state);
            let sectors: Vec<SectorStatus> = status::list(&db, actor).await?.into_iter().filter(wanted).collect();
            let running = running(&db).await?;
            output.show(&sectors, || {
                list_table(&sectors, &running).render("no such sector; queue some with `curio seal start`")
            });
        }
        SectorCommand::Status { sector } => {
            let db = place.open(APPLICATION).await?;
            let detail = status::sector(&db, sector).await?.ok_or_else(|| unknown(sector))?;
            let files = files_of(&db, sector).await?;
            output.show(&as_json(&detail, &files), || page(&detail, &files));
        }
        SectorCommand::Terminate(args) => sector_change::terminate(place, output, &args).await?,
        SectorCommand::Extend(args) => sector_change::extend(place, output, &args).await?,
        SectorCommand::Changes => sector_change::list(place, output).await?,
    }
    Ok(())
}

/// The status as programs read it, with the files and the ways to them.
fn as_json(detail: &SectorDetail, files: &[FileCopy]) -> Value {
    let mut value = serde_json::to_value(detail).expect("a status has text keys and finite numbers");
    value["files"] = files
        .iter()
        .map(|copy| {
            json!({
                "kind": copy.location.file.to_string(),
                "storage_id": copy.location.storage_id,
                "machine": copy.machine,
                "path": copy.path,
                "size_bytes": copy.location.size_bytes,
                "can_seal": copy.location.can_seal,
                "can_store": copy.location.can_store,
            })
        })
        .collect();
    value
}

/// Where an open task of a sector is.
struct Running {
    sector: SectorRef,
    machine: String,
    attempt: i32,
}

/// The running tasks of all sectors.
async fn running(db: &Db) -> Result<Vec<Running>, DbError> {
    let rows = sqlx::query!(
        r#"
        SELECT t.sp_id, t.sector_number, m.name AS machine, q.attempt
        FROM harmony_task q
        JOIN sectors_pipeline_tasks t ON t.task_id = q.id
        JOIN harmony_task_machines m ON m.id = q.owner_id
        ORDER BY q.claimed_at
        "#
    )
    .fetch_all(db.pool())
    .await?;
    let rows = rows.into_iter().filter_map(|row| {
        let sp = SpId(u64::try_from(row.sp_id).ok()?);
        let sector = SectorRef::new(sp, u64::try_from(row.sector_number).ok()?);
        Some(Running { sector, machine: row.machine, attempt: row.attempt })
    });
    Ok(rows.collect())
}

/// A declared file and one way to it; without a way when no machine reaches its path.
struct FileCopy {
    location: Location,
    machine: Option<String>,
    path: Option<PathBuf>,
}

async fn files_of(db: &Db, sector: SectorRef) -> Result<Vec<FileCopy>, CliError> {
    let options = StorageOptions { machine: String::new(), secret: None, timing: StorageTiming::default() };
    let locations = Storage::new(db.clone(), options).locations(sector).await?;
    let paths = path::list(db).await?;
    let mut copies = Vec::new();
    for location in locations {
        let machines = paths
            .iter()
            .find(|path| path.storage_id == location.storage_id)
            .map(|path| path.machines.clone())
            .unwrap_or_default();
        if machines.is_empty() {
            copies.push(FileCopy { location, machine: None, path: None });
            continue;
        }
        for (machine, root) in machines {
            let path = LocalPath { storage_id: location.storage_id.clone(), root }.file(location.file, sector);
            copies.push(FileCopy { location: location.clone(), machine: Some(machine), path: Some(path) });
        }
    }
    Ok(copies)
}

fn state_word(state: SectorState) -> &'static str {
    match state {
        SectorState::Sealing => "sealing",
        SectorState::Proven => "proven",
        SectorState::Failed => "failed",
    }
}

fn list_table(sectors: &[SectorStatus], running: &[Running]) -> Table {
    let now = Utc::now();
    let mut table = Table::new([
        text("SECTOR"),
        text("SIZE"),
        text("DATA"),
        text("STATE"),
        text("STAGE"),
        text("RUNS ON").shrinks_to(10),
        number("ATTEMPT"),
        text("CREATED"),
        text("PROBLEM").shrinks_to(7),
    ]);
    for sector in sectors {
        let name = format!("{}:{}", sector.miner, sector.number);
        let run = running.iter().find(|run| run.sector.to_string() == name);
        table.row([
            name,
            size_of(sector.seal_proof),
            if sector.is_cc { "cc" } else { "pieces" }.to_owned(),
            state_word(sector.state).to_owned(),
            sector.stage.to_owned(),
            or_dash(run.map(|run| run.machine.clone())),
            or_dash(run.map(|run| run.attempt.to_string())),
            ago(now, sector.created_at),
            problem(sector).unwrap_or_default(),
        ]);
    }
    table
}

/// Why a sector failed, in one line.
fn problem(sector: &SectorStatus) -> Option<String> {
    let reason = sector.failed_reason.as_deref()?;
    Some(format!("{reason}: {}", sector.failed_message.as_deref().unwrap_or_default()))
}

fn size_of(proof: i64) -> String {
    SealProof::from_number(proof).map_or_else(|_| format!("proof {proof}"), |proof| bytes(proof.sector_size()))
}

fn page(detail: &SectorDetail, files: &[FileCopy]) -> String {
    let now = Utc::now();
    let sector = &detail.sector;
    let epoch = |epoch: Option<i64>| or_dash(epoch.map(|epoch| epoch.to_string()));
    let mut lines = vec![
        ("Sector", format!("{}:{} ({})", sector.miner, sector.number, size_of(sector.seal_proof))),
        ("State", format!("{} ({})", state_word(sector.state), sector.stage)),
        ("Created", ago(now, sector.created_at)),
    ];
    if let Some(problem) = problem(sector) {
        lines.push(("Failed", format!("{} ({problem})", ago_or_dash(now, sector.failed_at))));
    }
    if sector.reseals > 0 {
        lines.push(("Sealed anew", format!("{} times", sector.reseals)));
    }
    lines.push(("Ticket epoch", epoch(sector.ticket_epoch)));
    lines.push(("Seed epoch", epoch(sector.seed_epoch)));
    lines.push(("Unsealed CID", or_dash(sector.unsealed_cid.clone())));
    lines.push(("Sealed CID", or_dash(sector.sealed_cid.clone())));
    for message in &detail.messages {
        let name = if message.purpose == "precommit" { "Precommit" } else { "Commit" };
        lines.push((name, or_dash(message.cid.clone())));
        lines.push(("", landing(message)));
    }
    if let (Some(deadline), Some(partition)) = (sector.deadline, sector.partition) {
        lines.push(("Proven in", format!("deadline {deadline}, partition {partition}")));
    }

    let mut out = properties(&lines);
    out.push('\n');
    out.push_str(&stage_table(detail).render("no stage has started yet"));
    if !detail.pieces.is_empty() {
        out.push('\n');
        for piece in &detail.pieces {
            out.push_str(&format!("Piece {}\n", piece.piece_cid));
            let raw = bytes(u64::try_from(piece.raw_size).unwrap_or(0));
            out.push_str(&format!("  {raw} of {}\n", piece.data_url));
        }
    }
    out.push('\n');
    out.push_str(&file_table(files).render("no file is declared"));
    out
}

/// What became of a message.
fn landing(message: &MessageStatus) -> String {
    match (message.epoch, message.exit_code, &message.send_error) {
        (Some(epoch), Some(exit), _) => format!("executed at epoch {epoch} with exit code {exit}"),
        (_, _, Some(error)) => format!("not sent: {error}"),
        _ if message.cid.is_some() => "sent, not executed yet".to_owned(),
        _ => "not sent yet".to_owned(),
    }
}

fn stage_table(detail: &SectorDetail) -> Table {
    let now = Utc::now();
    let mut table = Table::new([
        text("STAGE"),
        text("STATE"),
        text("MACHINE").shrinks_to(15),
        number("ATTEMPTS"),
        number("TIME"),
        text("STARTED"),
        text("ERROR").shrinks_to(10),
    ]);
    for (name, run) in &detail.stages.0 {
        table.row([
            (*name).to_owned(),
            run_word(run.state).to_owned(),
            or_dash(run.machine.clone()),
            run.attempts.to_string(),
            or_dash(run.seconds.map(took)),
            ago_or_dash(now, run.started),
            run.error.clone().unwrap_or_default(),
        ]);
    }
    table
}

fn run_word(state: RunState) -> &'static str {
    match state {
        RunState::Waiting => "waiting",
        RunState::Pending => "pending",
        RunState::Running => "running",
        RunState::Retrying => "retrying",
        RunState::Done => "done",
        RunState::Failed => "failed",
    }
}

fn file_table(files: &[FileCopy]) -> Table {
    let mut table = Table::new([
        text("FILE"),
        number("SIZE"),
        text("USE"),
        text("MACHINE").shrinks_to(15),
        text("PATH").shrinks_to(20),
    ]);
    for copy in files {
        let usage = match (copy.location.can_seal, copy.location.can_store) {
            (true, true) => "seal+store",
            (true, false) => "seal",
            (false, true) => "store",
            (false, false) => "-",
        };
        table.row([
            copy.location.file.to_string(),
            bytes(copy.location.size_bytes),
            usage.to_owned(),
            or_dash(copy.machine.clone()),
            or_dash(copy.path.as_ref().map(|path| path.display().to_string())),
        ]);
    }
    table
}
