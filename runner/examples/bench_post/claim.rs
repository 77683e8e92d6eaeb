//! How soon the proof of a partition begins: from the head that reaches the challenge of its deadline to the claim.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use chrono::{DateTime, Utc};
use tokio::time::Instant;

use crate::world::World;

/// How often the head is looked at: the error of this measurement.
const LOOK: Duration = Duration::from_millis(5);

/// Seconds of each partition.
pub async fn measure(world: &World, seconds: u64) -> Result<Vec<f64>> {
    let _runner = world.runner("sealing", "bench-window").await?;
    // When each epoch was first reached; what a runner finds at its start has been there for longer.
    let first = world.devnet.head().height.0 + 1;
    let mut reached: BTreeMap<i64, DateTime<Utc>> = BTreeMap::new();
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        reached.entry(world.devnet.head().height.0).or_insert_with(Utc::now);
        tokio::time::sleep(LOOK).await;
    }
    let claims: Vec<(i64, DateTime<Utc>)> = sqlx::query_as(
        // One that nobody has claimed has waited until now, at least.
        "SELECT p.challenge_epoch, coalesce(h.work_start, q.claimed_at, now()) FROM wdpost_partition_tasks p
         LEFT JOIN harmony_task_history h ON h.task_id = p.task_id AND h.attempt = 1
         LEFT JOIN harmony_task q ON q.id = p.task_id AND q.attempt = 1
         WHERE p.challenge_epoch >= $1",
    )
    .bind(first)
    .fetch_all(world.db.pool())
    .await?;
    let waits: Vec<f64> = claims
        .into_iter()
        // A null round at the challenge is reached by the head after it.
        .filter_map(|(challenge, at)| Some((at - *reached.range(challenge..).next()?.1).as_seconds_f64()))
        .collect();
    ensure!(!waits.is_empty(), "no partition was proven in {seconds} s");
    Ok(waits)
}
