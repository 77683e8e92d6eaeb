//! A busy queue: four machines with 30 kinds, eight adders that add one task at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use curio_harmony::tasks;
use curio_harmony::testing::TestDb;
use futures::future::try_join_all;
use tokio::sync::Semaphore;

use crate::kinds::{COUNT, KINDS, Started, start};
use crate::{counter, server};

const MACHINES: usize = 4;
const ADDERS: u32 = 8;
const LIMIT: Duration = Duration::from_secs(120);

pub struct Busy {
    pub statements_per_task: f64,
    pub tasks_per_second: f64,
    pub tasks_per_db_second: f64,
}

pub async fn measure(tasks: u32) -> Result<Busy> {
    let test = TestDb::new().await;
    let left = Arc::new(Semaphore::new(0));
    let told = left.clone();
    let started: Started = Arc::new(move |_, _| told.add_permits(1));
    let mut engines = Vec::new();
    for index in 0..MACHINES {
        engines.push(start(test.connect().await, &format!("machine-{index}"), COUNT, &started).await?);
    }
    let postmaster = server::postmaster(test.db().pool()).await?;

    let (cpu, statements, began) = (server::cpu_seconds(postmaster)?, counter::statements("busy"), Instant::now());
    let adders = (0..ADDERS).map(|adder| {
        let db = test.db().clone();
        async move {
            let mut connection = db.pool().acquire().await?;
            for index in (adder..tasks).step_by(ADDERS as usize) {
                // Commits by itself: a task whose asker has nothing else to write.
                tasks::add(&mut connection, KINDS[index as usize % COUNT]).await?;
            }
            anyhow::Ok(())
        }
    });
    try_join_all(adders).await?;
    tokio::time::timeout(LIMIT, left.acquire_many(tasks)).await.context("not all tasks ran in time")??.forget();
    // Until every end is stored.
    for engine in engines {
        engine.shutdown(Duration::from_secs(10)).await;
    }
    let elapsed = began.elapsed().as_secs_f64();
    let statements = counter::statements("busy") - statements;
    // Processor time is counted when a process ends or is asked; sleeping backends are asked here.
    let cpu = server::cpu_seconds(postmaster)? - cpu;

    let done: i64 = sqlx::query_scalar("SELECT count(*) FROM harmony_task_history WHERE result AND attempt = 1")
        .fetch_one(test.db().pool())
        .await?;
    ensure!(done == i64::from(tasks), "{done} of {tasks} tasks were done at the first attempt");
    Ok(Busy {
        statements_per_task: statements as f64 / f64::from(tasks),
        tasks_per_second: f64::from(tasks) / elapsed,
        tasks_per_db_second: f64::from(tasks) / cpu.max(0.01),
    })
}
