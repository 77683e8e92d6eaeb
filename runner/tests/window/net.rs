//! A chain with a miner whose sectors are due in one deadline, and a cluster that proves for it.
//!
//! The chain believes proofs of replication, so that sectors are there within seconds; window PoSts it verifies as it
//! should: at once when sectors recover, and every other one for a dispute. Its clock is moved by hand.

// Each test file uses a part.
#![allow(dead_code, unused_imports)]

use curio_chain::address;
use curio_chain::message::method;
use curio_chain::types::{DeadlineInfo, Partition, TipSetKey};
use curio_core::{Epoch, SpId};
use curio_devnet::{Options, PostPolicy};
use curio_proofs::params::{self, Circuit, Set};

pub use crate::support::provider::file;
use crate::support::provider::{self, PROOF, Windows, attach, commit, declare, make_miner, seal};
use crate::support::world::{World, until};

/// Three deadlines: new sectors go neither into the open one nor into the next, so all of them into the third.
pub const POLICY: PostPolicy =
    PostPolicy { deadlines: 3, challenge_window: 60, challenge_lookback: 20, fault_cutoff: 30 };

/// Layer of a machine that proves windows.
pub const POST: &str = "story-post";
/// Layer of a machine that only has files.
pub const STORE: &str = "story-store";

/// A world with a sector for each machine that is named, whose files lie on a path of that machine; two sectors make
/// a partition. No runner yet.
pub async fn proving_world(db_url: &str, machines: &[&str]) -> World {
    params::ensure(&params::default_dir(), Set { circuit: Circuit::WindowPost, proof: PROOF }, &mut |_| {})
        .expect("the parameters of window PoSt of 2 KiB");
    let mut world = provider::chain(db_url, Windows::Judged, |options| Options { post: POLICY, ..options }).await;
    let worker = make_miner(&mut world).await;
    let mut commitments = Vec::new();
    for (number, machine) in (0..).zip(machines) {
        commitments.push(seal(&world, machine, number).await);
    }
    commit(&world, worker, &commitments).await;
    configure(&world, machines).await;
    world
}

/// Makes another miner, with so many sectors on the path of a machine; the world's miner is this one from now on.
pub async fn add_miner(world: &mut World, machine: &str, sectors: u64) {
    let first = world.sp;
    let worker = make_miner(world).await;
    let mut commitments = Vec::new();
    for number in 0..sectors {
        commitments.push(seal(world, machine, number).await);
    }
    commit(world, worker, &commitments).await;
    for number in 0..sectors {
        declare(world, number, machine).await;
    }
    world.layer(POST, &post_layer(&[first, world.sp])).await;
}

/// The layer of a machine that proves for these miners.
fn post_layer(miners: &[SpId]) -> String {
    // The first actor is no miner: its trouble must not keep runners from proving the others.
    let names = miners.iter().map(|sp| format!(", \"{sp}\"")).collect::<String>();
    format!("[[Addresses]]\nMinerAddresses = [\"f099\"{names}]\n[Subsystems]\nEnableWindowPost = true\n")
}

async fn configure(world: &World, machines: &[&str]) {
    let secret = world.path("secret");
    std::fs::write(&secret, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").expect("the secret is written");
    world.curio(&["migrate"]).await;
    let base = format!(
        "[[Addresses]]\nMinerAddresses = [\"{}\"]\n[Apis]\nStorageRPCSecret = \"file:{}\"\n\
         [Chain]\nMessageConfidence = 1\nRequestTimeout = \"3s\"\n[Harmony]\nHeartbeat = \"1s\"\nLease = \"5s\"\n\
         [Proving]\nSingleCheckTimeout = \"3s\"\nPartitionCheckTimeout = \"10s\"\n",
        world.sp,
        secret.display()
    );
    world.layer("base", &base).await;
    world.layer(POST, &post_layer(&[world.sp])).await;
    world.layer(STORE, "[Subsystems]\nEnableMoveStorage = true\n").await;
    let names: std::collections::BTreeSet<&str> = machines.iter().copied().collect();
    for name in names {
        let numbers: Vec<u64> = (0..).zip(machines).filter(|(_, machine)| **machine == name).map(|(n, _)| n).collect();
        attach(world, name, &numbers).await;
    }
}

/// The next window of the sectors' deadline, or the one that is open.
pub async fn window(world: &World) -> DeadlineInfo {
    let miner = address::id_address(world.sp);
    let now = world.chain.state_miner_proving_deadline(&miner, &TipSetKey::HEAD).await.expect("the chain answers");
    let place = world.chain.state_sector_partition(&miner, 0, &TipSetKey::HEAD).await.expect("the sector has a place");
    let now = now.seen_from(world.devnet.head().height);
    now.window_of(place.deadline)
}

/// Makes epochs until the head is there.
pub fn go_to(world: &World, epoch: Epoch) {
    let steps = u32::try_from(epoch - world.devnet.head().height).expect("the epoch lies ahead");
    tokio::task::block_in_place(|| world.devnet.advance(steps));
}

/// Partitions of the sectors' deadline at the head.
pub async fn partitions(world: &World) -> Vec<Partition> {
    let deadline = window(world).await.index;
    let miner = address::id_address(world.sp);
    world.chain.state_miner_partitions(&miner, deadline, &TipSetKey::HEAD).await.expect("the chain answers")
}

/// Sectors that the chain takes for faulty, and those of them that are declared recovered.
pub async fn faults(world: &World) -> (Vec<u64>, Vec<u64>) {
    let (mut faulty, mut recovering) = (Vec::new(), Vec::new());
    for partition in partitions(world).await {
        faulty.extend(partition.faulty_sectors.iter());
        recovering.extend(partition.recovering_sectors.iter());
    }
    (faulty, recovering)
}

/// A row of `wdpost_proofs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    pub period_start: i64,
    pub partition: i64,
    pub is_made: bool,
    pub proven: Vec<i64>,
    pub skipped: Vec<i64>,
    pub randomness: Vec<u8>,
    pub made_by: String,
    pub landed: bool,
}

/// Columns of [`Proof`].
type Columns = (i64, i64, bool, Vec<i64>, Vec<i64>, Vec<u8>, String, bool);

/// Proofs of a window of the world's miner, by partition.
pub async fn proofs(world: &World, window: &DeadlineInfo) -> Vec<Proof> {
    let rows: Vec<Columns> = sqlx::query_as(
        "SELECT proving_period_start, partition, proof IS NOT NULL, proven_sectors, skipped_sectors, challenge_rand, made_by,
                landed_epoch IS NOT NULL
         FROM wdpost_proofs WHERE proving_period_start = $1 AND deadline = $2 AND sp_id = $3 ORDER BY partition",
    )
    .bind(window.period_start.0)
    .bind(window.index as i64)
    .bind(world.sp.0 as i64)
    .fetch_all(world.db.pool())
    .await
    .unwrap_or_default();
    let row = |(period_start, partition, is_made, proven, skipped, randomness, made_by, landed): Columns| Proof {
        period_start,
        partition,
        is_made,
        proven,
        skipped,
        randomness,
        made_by,
        landed,
    };
    rows.into_iter().map(row).collect()
}

/// Waits until that many partitions of a window are proven.
pub async fn until_proven(world: &World, window: &DeadlineInfo, count: usize) -> Vec<Proof> {
    until("the partitions are proven", || async {
        let proofs = proofs(world, window).await;
        (proofs.iter().filter(|proof| proof.is_made).count() == count).then_some(proofs)
    })
    .await
}

/// Messages of the outbox with this purpose that the pool took or that had a result.
pub async fn sent(world: &World, purpose: &str) -> usize {
    let sends = curio_runner::message::outbox::list(&world.db).await.unwrap_or_default();
    sends.iter().filter(|send| send.purpose == purpose && send.sent == Some(true)).count()
}

/// Waits until that many messages of a purpose were sent, and makes the epochs that they need to land.
pub async fn until_landed(world: &World, purpose: &str, count: usize) {
    until(&format!("{count} {purpose} messages are sent"), || async {
        (sent(world, purpose).await >= count).then_some(())
    })
    .await;
    world.devnet.advance(4);
    until(&format!("the {purpose} messages landed"), || async {
        let sends = curio_runner::message::outbox::list(&world.db).await.ok()?;
        let landed = sends.iter().filter(|send| send.purpose == purpose && send.exit_code == Some(0)).count();
        (landed >= count).then_some(())
    })
    .await;
}

/// Outcomes of a window's partitions, by partition; none for one that is not over. Of the world's miner.
pub async fn outcomes(world: &World, window: &DeadlineInfo) -> Vec<Option<String>> {
    sqlx::query_scalar(
        "SELECT outcome FROM wdpost_partition_tasks
         WHERE proving_period_start = $1 AND deadline_index = $2 AND sp_id = $3 ORDER BY partition_index",
    )
    .bind(window.period_start.0)
    .bind(window.index as i64)
    .bind(world.sp.0 as i64)
    .fetch_all(world.db.pool())
    .await
    .unwrap_or_default()
}

/// Waits until every partition of a window has this outcome.
pub async fn until_outcome(world: &World, window: &DeadlineInfo, outcome: &str, count: usize) {
    until(&format!("{count} partitions are {outcome}"), || async {
        let outcomes = outcomes(world, window).await;
        let all = outcomes.len() == count && outcomes.iter().all(|found| found.as_deref() == Some(outcome));
        all.then_some(())
    })
    .await;
}

/// Goes past the end of a window, to where the chain has disputed what did not hold, and asserts that nothing was.
pub async fn assert_holds(world: &World, window: &DeadlineInfo, faulty: &[u64]) {
    go_to(world, window.close + 4);
    assert_eq!(faults(world).await.0, faulty, "faulty sectors after the window");
    assert_eq!(world.messages_on_chain(method::DISPUTE_WINDOWED_POST).await, 0, "disputes");
}
