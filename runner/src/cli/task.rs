//! `curio task`: what waits, what runs, what was tried.

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use curio_core::SectorRef;
use curio_harmony::tasks::{self, Filter, HistoryRow, TaskRow};
use curio_harmony::{Db, DbError, TaskId};
use serde_json::json;

use super::output::{Output, Table, ago, ago_or_dash, number, or_dash, text, took};
use super::{APPLICATION, CliError, Database};

#[derive(Debug, Subcommand)]
pub(super) enum TaskCommand {
    /// List the tasks that are not finished.
    List {
        #[command(flatten)]
        filter: FilterArgs,
    },
    /// List the attempts that ended, newest first.
    History {
        #[command(flatten)]
        filter: FilterArgs,
        /// Only attempts for this sector, written f01000:5.
        #[arg(long, value_name = "SECTOR", conflicts_with = "task")]
        sector: Option<SectorRef>,
    },
    /// Give a failed task all its attempts again, at once.
    Retry { task: i64 },
}

#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    /// Only tasks of this kind, such as SDR.
    #[arg(long, value_name = "KIND")]
    name: Option<String>,
    /// Only this task.
    #[arg(long, value_name = "ID")]
    task: Option<i64>,
    /// The most rows.
    #[arg(long, value_name = "ROWS", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

impl FilterArgs {
    fn filter(&self) -> Filter {
        Filter { task: self.task.map(TaskId), kind: self.name.clone(), limit: self.limit }
    }
}

pub(super) async fn execute(place: &Database, output: Output, command: TaskCommand) -> Result<(), CliError> {
    let db = place.open(APPLICATION).await?;
    match command {
        TaskCommand::List { filter } => {
            let tasks = tasks::list(&db, &filter.filter()).await?;
            output.show(&tasks, || open_table(&tasks).render("no open task"));
        }
        TaskCommand::History { filter, sector } => {
            let rows = match sector {
                Some(sector) => history_of(&db, sector, &filter).await?,
                None => tasks::history(&db, &filter.filter()).await?,
            };
            let rows: Vec<Attempt> = rows.into_iter().map(Attempt::from).collect();
            output.show(&rows, || history_table(&rows).render("no attempt has ended yet"));
        }
        TaskCommand::Retry { task } => {
            retry(&db, task).await?;
            output.show(&json!({ "task_id": task }), || format!("task {task} waits for a machine again"));
        }
    }
    Ok(())
}

/// An attempt with the length of its work.
#[derive(Debug, serde::Serialize)]
struct Attempt {
    #[serde(flatten)]
    row: HistoryRow,
    seconds: f64,
}

impl From<HistoryRow> for Attempt {
    fn from(row: HistoryRow) -> Attempt {
        Attempt { seconds: seconds_between(row.work_start, row.work_end), row }
    }
}

fn seconds_between(start: DateTime<Utc>, end: DateTime<Utc>) -> f64 {
    (end - start).to_std().map_or(0.0, |length| length.as_secs_f64())
}

/// Attempts of all tasks that a sector has had.
async fn history_of(db: &Db, sector: SectorRef, filter: &FilterArgs) -> Result<Vec<HistoryRow>, CliError> {
    let tasks = tasks_of(db, sector).await?;
    if tasks.is_empty() && curio_pipeline::status::sector(db, sector).await?.is_none() {
        return Err(super::sector::unknown(sector));
    }
    let mut rows = Vec::new();
    for task in tasks {
        let filter = Filter { task: Some(task), kind: filter.name.clone(), limit: filter.limit };
        rows.extend(tasks::history(db, &filter).await?);
    }
    rows.sort_by_key(|row| std::cmp::Reverse(row.work_end));
    rows.truncate(filter.limit as usize);
    Ok(rows)
}

/// Every task ever created for a sector.
async fn tasks_of(db: &Db, sector: SectorRef) -> Result<Vec<TaskId>, DbError> {
    let ids = sqlx::query_scalar!(
        "SELECT task_id FROM sectors_pipeline_tasks WHERE sp_id = $1 AND sector_number = $2 ORDER BY task_id",
        i64::try_from(sector.sp.0).unwrap_or(i64::MAX),
        i64::try_from(sector.number).unwrap_or(i64::MAX),
    )
    .fetch_all(db.pool())
    .await?;
    Ok(ids.into_iter().map(TaskId).collect())
}

async fn retry(db: &Db, task: i64) -> Result<(), CliError> {
    if tasks::retry(db, TaskId(task)).await? {
        return Ok(());
    }
    let filter = Filter { task: Some(TaskId(task)), ..Filter::default() };
    let found = tasks::list(db, &filter).await?.pop();
    Err(CliError::refused(match found {
        Some(row) => format!(
            "task {task} ({}) is {}{}; only a task that failed or waits can be tried again",
            row.kind,
            row.state.as_str(),
            row.machine.map(|machine| format!(" on {machine}")).unwrap_or_default(),
        ),
        None => format!("there is no open task {task}; `curio task list` shows those that are"),
    }))
}

fn open_table(tasks: &[TaskRow]) -> Table {
    let now = Utc::now();
    let mut table = Table::new([
        number("TASK"),
        text("KIND"),
        text("STATE"),
        text("MACHINE").shrinks_to(8),
        number("ATTEMPT"),
        text("POSTED"),
        text("STARTED"),
        text("ERROR").shrinks_to(6),
    ]);
    for task in tasks {
        let started = match task.machine {
            Some(_) => ago_or_dash(now, task.claimed_at),
            None if task.run_after > now => ago(now, task.run_after),
            None => "-".to_owned(),
        };
        let error = [task.failed_reason.as_str(), task.failed_error.as_str()];
        table.row([
            task.id.to_string(),
            task.kind.clone(),
            task.state.as_str().to_owned(),
            or_dash(task.machine.clone()),
            task.attempt.to_string(),
            ago(now, task.posted_at),
            started,
            error.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": "),
        ]);
    }
    table
}

fn history_table(rows: &[Attempt]) -> Table {
    let now = Utc::now();
    let mut table = Table::new([
        number("TASK"),
        text("KIND"),
        number("ATTEMPT"),
        text("RESULT"),
        text("MACHINE").shrinks_to(8),
        text("ENDED"),
        number("WAITED"),
        number("WORKED"),
        text("ERROR").shrinks_to(6),
    ]);
    for attempt in rows {
        let row = &attempt.row;
        table.row([
            row.task_id.to_string(),
            row.kind.clone(),
            row.attempt.to_string(),
            result_word(row.ok, row.counted).to_owned(),
            row.machine.clone(),
            ago(now, row.work_end),
            took(seconds_between(row.posted_at, row.work_start)),
            took(attempt.seconds),
            row.error.clone(),
        ]);
    }
    table
}

/// How an attempt ended, in a word.
fn result_word(ok: bool, counted: bool) -> &'static str {
    match (ok, counted) {
        (true, _) => "done",
        (false, true) => "failed",
        (false, false) => "given back",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::MAX_WIDTH;
    use curio_harmony::tasks::TaskState;

    #[test]
    fn tables_of_tasks_fit_whatever_the_errors_say() {
        let at = Utc::now() - chrono::Duration::days(300);
        let long = "failed to reach the chain node ".repeat(10);
        let open = TaskRow {
            id: 1_000_000_000_000,
            kind: "PreCommitSubmit!".to_owned(),
            state: TaskState::Running,
            machine: Some("a-machine-with-a-rather-long-stable-name-0".to_owned()),
            posted_at: at,
            run_after: at,
            claimed_at: Some(at),
            attempt: 1000,
            failures: 0,
            max_failures: None,
            failed_reason: "ticket-expired".to_owned(),
            failed_error: long.clone(),
        };
        let ended = HistoryRow {
            task_id: 1_000_000_000_000,
            kind: "PreCommitSubmit!".to_owned(),
            attempt: 1000,
            posted_at: at,
            work_start: at,
            work_end: at,
            ok: false,
            counted: false,
            error: long,
            machine: "a-machine-with-a-rather-long-stable-name-0".to_owned(),
            address: "127.0.0.1:1".to_owned(),
        };
        for text in [open_table(&[open]).render(""), history_table(&[ended.into()]).render("")] {
            assert!(text.lines().all(|line| line.chars().count() <= MAX_WIDTH), "{text}");
        }
    }
}
