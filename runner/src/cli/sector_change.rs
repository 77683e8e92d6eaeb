//! `curio sector terminate`, `extend` and `changes`: what a person changes about sectors on chain, in two steps.

use chrono::Utc;
use clap::Args;
use curio_core::{Epoch, SectorRef, SpId};
use serde::Serialize;
use serde_json::json;

use super::args::{LayerArgs, person};
use super::miner::Site;
use super::output::{Output, Table, ago, ago_or_dash, number, or_dash, paragraph, text};
use super::{APPLICATION, CliError, Database};
use crate::post::changes::{self, Change, ChangeKind, ChangeState, ChangeStatus, Surroundings};

#[derive(Debug, Args)]
pub(super) struct TerminateArgs {
    /// Such as f01000:5; several must be of one miner.
    #[arg(required = true)]
    sectors: Vec<SectorRef>,
    /// Send what was asked for before. Without this it is only asked.
    #[arg(long)]
    approve: bool,
    #[command(flatten)]
    layers: LayerArgs,
}

#[derive(Debug, Args)]
pub(super) struct ExtendArgs {
    /// Such as f01000:5; several must be of one miner.
    #[arg(required = true)]
    sectors: Vec<SectorRef>,
    /// The new expiration, an epoch of the chain.
    #[arg(long, value_name = "EPOCH", required_unless_present = "approve", conflicts_with = "approve")]
    to: Option<i64>,
    /// Send what was asked for before. Without this it is only asked.
    #[arg(long)]
    approve: bool,
    #[command(flatten)]
    layers: LayerArgs,
}

pub(super) async fn terminate(place: &Database, output: Output, args: &TerminateArgs) -> Result<(), CliError> {
    let step = if args.approve { Step::Approve(ChangeKind::Terminate) } else { Step::Ask(Change::Terminate) };
    take(place, output, &args.sectors, step, &args.layers).await
}

pub(super) async fn extend(place: &Database, output: Output, args: &ExtendArgs) -> Result<(), CliError> {
    let step = match args.to {
        Some(epoch) => Step::Ask(Change::Extend { new_expiration: Epoch(epoch) }),
        None => Step::Approve(ChangeKind::Extend),
    };
    take(place, output, &args.sectors, step, &args.layers).await
}

/// One of the two steps of a change.
#[derive(Clone, Copy, Debug)]
enum Step {
    Ask(Change),
    Approve(ChangeKind),
}

async fn take(
    place: &Database,
    output: Output,
    sectors: &[SectorRef],
    step: Step,
    layers: &LayerArgs,
) -> Result<(), CliError> {
    let (sp, numbers) = of_one_miner(sectors).map_err(CliError::refused)?;
    let site = Site::open(place, layers).await?;
    let around = Surroundings { db: &site.db, chain: &site.chain, config: &site.config };
    match step {
        Step::Ask(change) => {
            changes::ask(around, sp, &numbers, change, &person()).await?;
            let kind = change.kind();
            output.show(&json!({ "miner": sp, "sectors": numbers, "change": kind.as_str(), "state": "asked" }), || {
                let names = names(sp, &numbers);
                format!(
                    "asked to {kind} {names}; nothing is sent before `curio sector {kind} {names} --approve`, and \
                     `curio sector changes` lists what is asked"
                )
            });
        }
        Step::Approve(kind) => {
            let approved = changes::approve(around, sp, &numbers, kind, &person()).await?;
            let value = json!({
                "miner": sp,
                "sectors": approved.sectors,
                "change": kind.as_str(),
                "state": "sent",
                "send_id": approved.send_id,
            });
            output.show(&value, || {
                let names = names(sp, &approved.sectors);
                format!("approved to {kind} {names}; watch the message with `curio sector changes`")
            });
        }
    }
    Ok(())
}

fn names(sp: SpId, numbers: &[u64]) -> String {
    numbers.iter().map(|number| SectorRef::new(sp, *number).to_string()).collect::<Vec<_>>().join(" ")
}

/// The miner and the numbers, each once.
fn of_one_miner(sectors: &[SectorRef]) -> Result<(SpId, Vec<u64>), String> {
    let Some(first) = sectors.first() else { return Err("name a sector, such as f01000:5".to_owned()) };
    if let Some(other) = sectors.iter().find(|sector| sector.sp != first.sp) {
        return Err(format!("{first} and {other} are of two miners; change the sectors of one miner at a time"));
    }
    let mut numbers: Vec<u64> = sectors.iter().map(|sector| sector.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    Ok((first.sp, numbers))
}

/// A change as programs read it.
#[derive(Debug, Serialize)]
struct ChangeRow {
    sector: String,
    change: &'static str,
    new_expiration: Option<i64>,
    asked_at: chrono::DateTime<Utc>,
    asked_by: String,
    approved_at: Option<chrono::DateTime<Utc>>,
    approved_by: Option<String>,
    /// `asked`, `sent`, `landed` or `failed`.
    state: &'static str,
    landed_epoch: Option<i64>,
    problem: Option<String>,
}

impl From<ChangeStatus> for ChangeRow {
    fn from(status: ChangeStatus) -> ChangeRow {
        let ChangeStatus { sector, change, new_expiration, asked_at, asked_by, approved_at, approved_by, state } =
            status;
        let (state, landed_epoch, problem) = match state {
            ChangeState::Asked => ("asked", None, None),
            ChangeState::Sent => ("sent", None, None),
            ChangeState::Landed(epoch) => ("landed", Some(epoch.0), None),
            ChangeState::Failed(problem) => ("failed", None, Some(problem)),
        };
        ChangeRow {
            sector: sector.to_string(),
            change: change.as_str(),
            new_expiration: new_expiration.map(|epoch| epoch.0),
            asked_at,
            asked_by,
            approved_at,
            approved_by,
            state,
            landed_epoch,
            problem,
        }
    }
}

pub(super) async fn list(place: &Database, output: Output) -> Result<(), CliError> {
    let db = place.open(APPLICATION).await?;
    let rows: Vec<ChangeRow> = changes::list(&db).await?.into_iter().map(ChangeRow::from).collect();
    output.show(&rows, || page(&rows));
    Ok(())
}

fn page(rows: &[ChangeRow]) -> String {
    let mut out = table(rows).render("no change of a sector was asked for");
    for row in rows {
        if let Some(problem) = &row.problem {
            out.push_str(&format!("\n{}", paragraph(&format!("{} {}: {problem}", row.change, row.sector))));
        }
    }
    out
}

fn table(rows: &[ChangeRow]) -> Table {
    let now = Utc::now();
    let mut table = Table::new([
        text("SECTOR"),
        text("CHANGE"),
        number("TO EPOCH"),
        text("ASKED"),
        text("BY").shrinks_to(8),
        text("APPROVED"),
        text("BY").shrinks_to(8),
        text("STATE"),
    ]);
    for row in rows {
        table.row([
            row.sector.clone(),
            row.change.to_owned(),
            or_dash(row.new_expiration.map(|epoch| epoch.to_string())),
            ago(now, row.asked_at),
            row.asked_by.clone(),
            ago_or_dash(now, row.approved_at),
            or_dash(row.approved_by.clone()),
            match row.landed_epoch {
                Some(epoch) => format!("{} at {epoch}", row.state),
                None => row.state.to_owned(),
            },
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_that_failed_says_why_below_the_table() {
        let row = ChangeRow {
            sector: "f01000:5".to_owned(),
            change: "extend",
            new_expiration: Some(2_000_000),
            asked_at: Utc::now(),
            asked_by: "ada@a-machine-with-a-long-name".to_owned(),
            approved_at: Some(Utc::now()),
            approved_by: Some("grace@another-machine-with-a-long-name".to_owned()),
            state: "failed",
            landed_epoch: None,
            problem: Some("the chain would refuse it".to_owned()),
        };
        let page = page(&[row]);
        assert!(page.ends_with("\n\nextend f01000:5: the chain would refuse it\n"), "{page}");
        assert!(page.lines().all(|line| line.chars().count() <= crate::cli::output::MAX_WIDTH), "{page}");
    }

    #[test]
    fn sectors_of_one_call_are_of_one_miner_and_counted_once() {
        let sector = |sp, number| SectorRef::new(SpId(sp), number);
        assert_eq!(of_one_miner(&[sector(1000, 5), sector(1000, 3), sector(1000, 5)]), Ok((SpId(1000), vec![3, 5])));
        let refused = of_one_miner(&[sector(1000, 5), sector(1001, 5)]);
        assert!(refused.is_err_and(|sentence| sentence.starts_with("f01000:5 and f01001:5 are of two miners")));
    }
}
