//! How long a runnable task waits: from the commit of its add to the start of its run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use curio_harmony::testing::TestDb;
use curio_harmony::{TaskId, tasks};
use futures::future::try_join_all;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::{Connection, PgConnection};
use tokio::sync::mpsc;

use crate::kinds::{COUNT, KINDS, Started, start};

/// Whether adds send hints.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Hints {
    On,
    Off,
}

pub struct Pickup {
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub looks_per_task: f64,
}

/// `rate` tasks per second, Poisson, in each of `clusters` databases with machines of their own.
pub async fn measure(hints: Hints, rate: f64, clusters: usize, seconds: u64) -> Result<Pickup> {
    let all = try_join_all((0..clusters).map(|seed| cluster(hints, rate, seed as u64, seconds))).await?;
    let looks: u64 = all.iter().map(|(_, looks)| looks).sum();
    let mut waits: Vec<f64> = all.into_iter().flat_map(|(waits, _)| waits).collect();
    waits.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (share * waits.len() as f64).ceil() as usize;
        waits.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    };
    Ok(Pickup { p50_ms: at(0.50), p99_ms: at(0.99), looks_per_task: looks as f64 / waits.len() as f64 })
}

/// Waits in milliseconds, and looks at the queue.
async fn cluster(hints: Hints, rate: f64, seed: u64, seconds: u64) -> Result<(Vec<f64>, u64)> {
    let test = TestDb::new().await;
    let (told, mut starts) = mpsc::unbounded_channel();
    let started: Started = Arc::new(move |task, at| {
        // The measurement may be over.
        let _ = told.send((task, at));
    });
    let machines = if hints == Hints::On { 2 } else { 1 };
    let mut engines = Vec::new();
    for index in 0..machines {
        engines.push(start(test.connect().await, &format!("machine-{index}"), COUNT, &started).await?);
    }
    // The adder is another process, as far as the machines know.
    let mut adder = PgConnection::connect(test.url()).await?;
    let setting = if hints == Hints::On { "on" } else { "off" };
    sqlx::query("SELECT set_config('search_path', 'curio', false), set_config('curio.hints', $1, false)")
        .bind(setting)
        .execute(&mut adder)
        .await?;
    tokio::time::sleep(Duration::from_secs(1)).await;

    let looks = || engines.iter().map(|engine| engine.metrics().cycle_count()).sum::<u64>();
    let looks_before = looks();
    let mut chance = StdRng::seed_from_u64(seed);
    let mut added: HashMap<TaskId, Instant> = HashMap::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut next = Instant::now();
    while next < end {
        tokio::time::sleep_until(next.into()).await;
        let kind = KINDS[chance.random_range(0..COUNT)];
        let task = tasks::add(&mut adder, kind).await?;
        added.insert(task, Instant::now());
        // Exponential gaps make a Poisson process; a late add does not delay the ones after it.
        next += Duration::from_secs_f64(-(1.0 - chance.random::<f64>()).ln() / rate);
    }
    let mut waits = Vec::new();
    while waits.len() < added.len() {
        let (task, at) = tokio::time::timeout(Duration::from_secs(30), starts.recv())
            .await
            .context("a task was not picked up")?
            .context("the machines ended")?;
        // A run may start before the adder has read the answer to its commit; that is no wait.
        waits.push(at.saturating_duration_since(added[&task]).as_secs_f64() * 1000.0);
    }
    let looks = looks() - looks_before;
    for engine in engines {
        engine.shutdown(Duration::from_secs(5)).await;
    }
    Ok((waits, looks))
}
