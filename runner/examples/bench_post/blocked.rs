//! How soon a deadline task starts that another process adds, while tens of thousands of sealing tasks wait: half of
//! them for room on machines that are full, half for files that are not there.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use curio_harmony::testing::TestDb;
use curio_harmony::{TaskId, tasks};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc;

use crate::machine::{DEADLINE, ELSEWHERE, FULL, Started, Work, start};

/// Deadline tasks per second, Poisson.
const RATE: f64 = 8.0;
const LIMIT: Duration = Duration::from_secs(30);

/// Waits in seconds.
pub async fn measure(backlog: u32, seconds: u64) -> Result<Vec<f64>> {
    let test = TestDb::new().await;
    let (told, mut starts) = mpsc::unbounded_channel();
    let started: Started = Arc::new(move |task, _, at| {
        // The measurement may be over.
        let _ = told.send((task, at));
    });
    // The adder is another process, as far as the machines know.
    let mut adder = PgConnection::connect(test.url()).await?;
    sqlx::query("SELECT set_config('search_path', 'curio', false), set_config('curio.hints', 'on', false)")
        .execute(&mut adder)
        .await?;
    tasks::add_many(&mut adder, FULL, backlog / 2).await?;
    tasks::add_many(&mut adder, ELSEWHERE, backlog / 2).await?;
    let mut engines = Vec::new();
    for name in ["one", "two"] {
        engines.push(start(test.connect().await, name, Work::Nothing, started.clone()).await?);
    }
    until_full(&engines).await?;

    let mut chance = StdRng::seed_from_u64(1);
    let mut added: HashMap<TaskId, Instant> = HashMap::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut next = Instant::now();
    while next < end {
        tokio::time::sleep_until(next.into()).await;
        let task = tasks::add(&mut adder, DEADLINE).await?;
        added.insert(task, Instant::now());
        // Exponential gaps make a Poisson process; a late add does not delay the ones after it.
        next += Duration::from_secs_f64(-(1.0 - chance.random::<f64>()).ln() / RATE);
    }
    let mut waits = Vec::new();
    while waits.len() < added.len() {
        let (task, at) = tokio::time::timeout(LIMIT, starts.recv())
            .await
            .context("a deadline task was not picked up")?
            .context("the machines ended")?;
        // A run may start before the adder has read the answer to its commit; that is no wait.
        waits.push(at.saturating_duration_since(added[&task]).as_secs_f64());
    }
    for engine in engines {
        engine.shutdown(Duration::from_secs(5)).await;
    }
    Ok(waits)
}

/// Waits until sealing work has taken all the room that it gets.
async fn until_full(engines: &[curio_harmony::Engine]) -> Result<()> {
    let full = async {
        // Eight cores, one of them kept.
        while engines.iter().any(|engine| engine.running() < 7) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(LIMIT, full).await.context("the machines did not fill up")
}
