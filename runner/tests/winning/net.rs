//! A chain on which a miner with one real sector takes part in elections, and a cluster that mines for it.
//!
//! The chain believes window PoSts, so that there is power within a second; winning PoSts it verifies. Its clock is moved by
//! hand and by the miner's own blocks, which become the head at once.

use std::path::PathBuf;

use curio_chain::message::{Cbor, PoStPartition, PoStProof, SubmitWindowedPoStParams, method};
use curio_chain::types::{TipSet, TipSetKey};
use curio_chain::{Address, BitField, address};
use curio_devnet::{Options, PostPolicy};

use crate::support::provider::{self, PROOF, Windows, attach, commit, make_miner, send};
use crate::support::world::World;

/// Layer of a runner that mines.
pub const LAYER: &str = "story-mining";
/// Layer of a runner that only has files.
pub const FILES: &str = "story-files";

/// Epochs that the power of a miner takes to count.
const LOOKBACK: i64 = 5;
/// Long enough for a story to end before the sector has to be proven again.
const WINDOW: i64 = 400;

/// A world whose miner wins nearly every epoch, with its sector's files on a path of the machine `a`; no runner yet.
/// Machines `a` and `b` mine.
pub async fn mining_world(db_url: &str) -> World {
    let mut world = chain(db_url).await;
    let worker = make_miner(&mut world).await;
    let comm_r = provider::seal(&world, "a", 0).await;
    commit(&world, worker, &[comm_r]).await;
    prove(&world, worker).await;
    configure(&world).await;
    world
}

/// Two worlds with one database whose chain nodes do not know each other, with the same chain but for the head, which is at the
/// same height. Only the first has the sector's files.
pub async fn two_worlds(db_url: &str) -> (World, World) {
    let (mut one, mut other) = (chain(db_url).await, chain(db_url).await);
    let worker = make_miner(&mut one).await;
    let comm_r = provider::seal(&one, "a", 0).await;
    commit(&one, worker, &[comm_r]).await;
    prove(&one, worker).await;
    configure(&one).await;
    let worker = make_miner(&mut other).await;
    commit(&other, worker, &[comm_r]).await;
    prove(&other, worker).await;
    assert_eq!(one.devnet.head(), other.devnet.head(), "the same calls make the same chain");
    other.devnet.reorganise(1, 1).expect("the head is replaced");
    (one, other)
}

async fn chain(db_url: &str) -> World {
    let post = PostPolicy { deadlines: 4, challenge_window: WINDOW, challenge_lookback: 20, fault_cutoff: 70 };
    provider::chain(db_url, Windows::Believed, |options| Options { winning_lookback: LOOKBACK, post, ..options }).await
}

/// Path of the sector's sealed file.
pub fn sealed(world: &World) -> PathBuf {
    provider::file(world, "a", "sealed", 0)
}

/// Has the chain believe a window PoSt of the sector, and waits until its power counts.
async fn prove(world: &World, worker: Address) {
    let miner = address::id_address(world.sp);
    let head = open_deadline(world, miner).await;
    let place = world.chain.state_sector_partition(&miner, 0, &TipSetKey::HEAD).await.expect("the sector has a place");
    let info = world.chain.state_miner_proving_deadline(&miner, &TipSetKey::HEAD).await.expect("there is a deadline");
    let commit = world.chain.chain_commit_randomness(info.challenge, head.key()).await.expect("there is randomness");
    let params = SubmitWindowedPoStParams {
        deadline: place.deadline,
        partitions: vec![PoStPartition { index: place.partition, skipped: BitField::new() }],
        proofs: vec![PoStProof { post_proof: PROOF.window_post(), proof_bytes: vec![0; 192] }],
        chain_commit_epoch: info.challenge,
        chain_commit_rand: commit.to_vec(),
    };
    send(world, worker, miner, method::SUBMIT_WINDOWED_POST, 0, params.to_cbor()).await;
    world.devnet.advance(LOOKBACK as u32 + 2);
}

/// Makes epochs until the deadline of the sector is open.
async fn open_deadline(world: &World, miner: Address) -> TipSet {
    let place = world.chain.state_sector_partition(&miner, 0, &TipSetKey::HEAD).await.expect("the sector has a place");
    loop {
        let info = world.chain.state_miner_proving_deadline(&miner, &TipSetKey::HEAD).await.expect("there is one");
        let head = world.devnet.head();
        if info.index == place.deadline && info.open <= head.height {
            return head;
        }
        // To the next opening at once: there are hundreds of epochs between.
        let next = if info.open > head.height { info.open } else { info.close };
        let steps = u32::try_from(next - head.height).expect("it lies ahead");
        let devnet = &world.devnet;
        tokio::task::block_in_place(|| devnet.advance(steps));
    }
}

async fn configure(world: &World) {
    let secret = world.path("secret");
    std::fs::write(&secret, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").expect("the secret is written");
    world.curio(&["migrate"]).await;
    let base = format!(
        "[[Addresses]]\nMinerAddresses = [\"{}\"]\n[Apis]\nStorageRPCSecret = \"file:{}\"\n\
         [Chain]\nMaxGapEpochs = 500\n[Harmony]\nHeartbeat = \"1s\"\nLease = \"5s\"\n",
        world.sp,
        secret.display()
    );
    world.layer("base", &base).await;
    world.layer(LAYER, "[Subsystems]\nEnableWinningPost = true\n").await;
    world.layer(FILES, "[Subsystems]\nEnableMoveStorage = true\n").await;
    attach(world, "a", &[0]).await;
}

/// Blocks of the miner in the chain, the newest first, down to the height given.
pub async fn blocks_in_chain(world: &World, down_to: i64) -> Vec<(i64, String)> {
    let miner = address::id_address(world.sp);
    let mut blocks = Vec::new();
    let mut tipset = world.devnet.head();
    while tipset.height.0 > down_to {
        for (cid, block) in tipset.cids.0.iter().zip(&tipset.blocks) {
            if block.miner == miner {
                blocks.push((tipset.height.0, cid.to_string()));
            }
        }
        tipset = world.chain.chain_get_tip_set(tipset.parents()).await.expect("the tipset is there");
    }
    blocks
}

/// An election as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub epoch: i64,
    pub won: bool,
    pub lost_because: Option<String>,
    pub mined_cid: Option<String>,
    pub submitted: bool,
    pub included: Option<bool>,
}

/// Columns of [`Row`].
type Columns = (i64, bool, Option<String>, Option<String>, bool, Option<bool>);

/// All elections, the earliest first; none while the database is away.
pub async fn rows(world: &World) -> Vec<Row> {
    let rows: Result<Vec<Columns>, sqlx::Error> = sqlx::query_as(
        "SELECT epoch, won, lost_because, mined_cid, submitted_at IS NOT NULL, included
         FROM mining_tasks ORDER BY epoch",
    )
    .fetch_all(world.db.pool())
    .await;
    let row = |(epoch, won, lost_because, mined_cid, submitted, included): Columns| Row {
        epoch,
        won,
        lost_because,
        mined_cid,
        submitted,
        included,
    };
    rows.unwrap_or_default().into_iter().map(row).collect()
}
