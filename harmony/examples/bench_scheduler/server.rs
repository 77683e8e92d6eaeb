//! Processor time of the PostgreSQL server: all its processes, the ended ones included.

use anyhow::{Context, Result, ensure};
use sqlx::PgPool;

/// Ticks per second of the times in `/proc`; fixed on Linux for programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// Process id of the postmaster that serves this pool.
pub async fn postmaster(pool: &PgPool) -> Result<u32> {
    let (backend, name): (i32, String) =
        sqlx::query_as("SELECT pg_backend_pid(), current_setting('server_version')").fetch_one(pool).await?;
    let stat = Stat::read(u32::try_from(backend)?);
    let stat = stat.with_context(|| {
        format!("PostgreSQL {name} does not run on this machine, so its processor time cannot be read")
    })?;
    ensure!(stat.command.contains("postgres"), "process {backend} is '{}', not PostgreSQL", stat.command);
    Ok(stat.parent)
}

/// Processor seconds of the server since its start.
pub fn cpu_seconds(postmaster: u32) -> Result<f64> {
    let mut ticks = 0;
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between the listing and the reading; its time is the postmaster's then.
        if let Ok(stat) = Stat::read(pid)
            && stat.parent == postmaster
        {
            ticks += stat.ticks;
        }
    }
    let own = Stat::read(postmaster)?;
    ticks += own.ticks + own.children_ticks;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

struct Stat {
    command: String,
    parent: u32,
    ticks: u64,
    children_ticks: u64,
}

impl Stat {
    fn read(pid: u32) -> Result<Stat> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (head, tail) = text.rsplit_once(')').context("no command in stat")?;
        let command = head.split_once('(').map_or("", |(_, command)| command).to_owned();
        // From field 3 on: state, parent, ...; times are fields 14 to 17.
        let fields: Vec<&str> = tail.split_whitespace().collect();
        let number = |index: usize| -> Result<u64> {
            Ok(fields.get(index - 3).context("stat is short")?.parse::<i64>()?.max(0).unsigned_abs())
        };
        Ok(Stat {
            command,
            parent: u32::try_from(number(4)?)?,
            ticks: number(14)? + number(15)?,
            children_ticks: number(16)? + number(17)?,
        })
    }
}
