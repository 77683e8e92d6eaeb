//! What a won election costs: from the choice of its base to the signed block that is stored to be submitted.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::world::World;

/// Seconds of each win.
pub async fn measure(world: &World, seconds: u64) -> Result<Vec<f64>> {
    let _runner = world.runner("sealing", "bench-winning").await?;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let spent: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM mined_at - base_compute_time)::float8 FROM mining_tasks WHERE mined_at IS NOT NULL",
    )
    .fetch_all(world.db.pool())
    .await?;
    ensure!(!spent.is_empty(), "no election was won in {seconds} s");
    Ok(spent)
}
