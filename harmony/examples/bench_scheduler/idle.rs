//! What a machine with nothing to do asks of the database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use curio_harmony::testing::TestDb;

use crate::counter;
use crate::kinds::{Started, start};

/// Statements per second of one machine with `kinds` kinds, after its start has settled.
pub async fn measure(kinds: usize, seconds: u64) -> Result<f64> {
    let thread = if kinds == 3 { "idle-3" } else { "idle-30" };
    let test = TestDb::new().await;
    let started: Started = Arc::new(|_, _| {});
    let engine = start(test.db().clone(), "machine", kinds, &started).await?;
    // Registration, the listener, and the look that follows it.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (statements, began) = (counter::statements(thread), Instant::now());
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let statements = counter::statements(thread) - statements;
    let rate = statements as f64 / began.elapsed().as_secs_f64();
    engine.shutdown(Duration::from_secs(5)).await;
    Ok(rate)
}
