//! How long a deadline task waits whose machine was killed: from the signal to the second attempt on another machine.

use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use curio_harmony::tasks;
use curio_harmony::testing::TestDb;
use futures::future::try_join_all;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::sync::mpsc;

use crate::machine::{DEADLINE, Started, Work, start};

/// Machines that are killed, each in a cluster of its own. They die at different moments between two heartbeats.
const CLUSTERS: u32 = 6;
const LIMIT: Duration = Duration::from_secs(90);

/// Seconds.
pub async fn measure() -> Result<Vec<f64>> {
    try_join_all((0..CLUSTERS).map(|index| one(Duration::from_millis(500) * index))).await
}

/// Lets the machine live for `beyond` after it has started its task.
async fn one(beyond: Duration) -> Result<f64> {
    let test = TestDb::new().await;
    let mut victim = Command::new(std::env::current_exe()?)
        .args(["machine", "--name", "victim", "--database", test.url()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("failed to start a machine")?;
    let mut said = BufReader::new(victim.stdout.take().context("stdout is a pipe")?).lines();
    let task = test.db().transaction("bench-add", |tx| Box::pin(tasks::add(tx, DEADLINE))).await?;
    let line = tokio::time::timeout(LIMIT, said.next_line()).await.context("the machine did not start its task")??;
    ensure!(line == Some(format!("{task} 1")), "the machine said {line:?}");

    let (told, mut starts) = mpsc::unbounded_channel();
    let started: Started = Arc::new(move |task, attempt, at| {
        // The measurement may be over.
        let _ = told.send((task, attempt, at));
    });
    let other = start(test.connect().await, "other", Work::Endless, started).await?;
    tokio::time::sleep(beyond).await;
    let killed = Instant::now();
    victim.kill().await.context("failed to kill the machine")?;
    let taken = tokio::time::timeout(LIMIT, starts.recv()).await.context("nobody took the task over")?;
    let (again, attempt, at) = taken.context("the other machine ended")?;
    ensure!((again, attempt) == (task, 2), "task {again} was started in attempt {attempt}");
    other.shutdown(Duration::from_secs(5)).await;
    Ok((at - killed).as_secs_f64())
}
