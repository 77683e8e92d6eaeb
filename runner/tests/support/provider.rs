//! A miner with sectors on a chain that believes proofs of replication, within seconds instead of a story's minute: the
//! sectors are real, and sealed here; only their PoRep is not made.

// Each test file uses a part.
#![allow(dead_code)]

use std::path::PathBuf;
use std::sync::Arc;

use curio_chain::message::{
    Cbor, CreateMinerParams, CreateMinerReturn, POWER_ACTOR, PreCommitSectorBatch2Params, ProofBytes,
    ProveCommitSectors3Params, SectorActivationManifest, SectorPreCommit, method, sealed_cid,
};
use curio_chain::types::{Message, MsgLookup};
use curio_chain::{Address, Client, ClientOptions, Endpoint, TokenAmount, address};
use curio_core::{SealProof, SectorRef, SpId};
use curio_devnet::proof::{LibraryVerifier, Piece, PostClaim, ProofVerifier, SealClaim};
use curio_devnet::{Devnet, Options};
use curio_harmony::Db;
use curio_proofs::child::{Request, Response};
use curio_proofs::{Commitment, params};
use curio_runner::prove::{Prover, ProverOptions};
use fvm_shared::sector::RegisteredSealProof;
use tokio_util::sync::CancellationToken;

use super::world::{BOUND, World};

pub const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;

/// Which window PoSts the chain takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// Those that hold, as it should.
    Judged,
    /// All: for stories that only need the power.
    Believed,
}

/// Takes every proof of replication on trust.
struct Lenient {
    library: LibraryVerifier,
    windows: Windows,
}

impl ProofVerifier for Lenient {
    fn verify_seal(&self, _: &SealClaim<'_>) -> bool {
        true
    }

    fn verify_window_post(&self, claim: &PostClaim<'_>) -> bool {
        match self.windows {
            Windows::Judged => self.library.verify_window_post(claim),
            Windows::Believed => true,
        }
    }

    fn verify_winning_post(&self, claim: &PostClaim<'_>) -> bool {
        self.library.verify_winning_post(claim)
    }

    fn winning_sector_indices(&self, proof: SealProof, sp: SpId, randomness: &[u8; 32], eligible: u64) -> Vec<u64> {
        self.library.winning_sector_indices(proof, sp, randomness, eligible)
    }

    fn comm_d(&self, proof_type: RegisteredSealProof, pieces: &[Piece]) -> Result<[u8; 32], String> {
        self.library.comm_d(proof_type, pieces)
    }
}

/// A world with a chain that is moved by hand, and nothing else yet. `choose` changes its options.
pub async fn chain(db_url: &str, windows: Windows, choose: impl FnOnce(Options) -> Options) -> World {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = params::default_dir();
    let library = LibraryVerifier::open(&dir, &[PROOF]).expect("the verifying keys of 2 KiB");
    let verifier = Arc::new(Lenient { library, windows });
    let devnet = Devnet::start_with(choose(Options::manual(dir)), verifier).await.expect("the chain starts");
    let endpoint = Endpoint::parse(&format!("{}:{}", devnet.token, devnet.url)).expect("the chain's own address");
    let chain = Client::new(vec![endpoint], ClientOptions::default()).expect("a client of the chain");
    let dir = tempfile::tempdir().expect("a temporary folder");
    let db = Db::connect(db_url, "curio-story").await.expect("the database is there");
    World { devnet, chain, sp: SpId(0), db, db_url: db_url.to_owned(), dir }
}

/// Sends a message and makes epochs until it has been executed.
pub async fn send(world: &World, from: Address, to: Address, method: u64, fil: u64, params: Vec<u8>) -> MsgLookup {
    let message = Message::new(from, to, method, TokenAmount::from_whole(fil), params);
    let signed = world.chain.mpool_push_message(&message, None).await.expect("the message is pushed");
    world.devnet.advance(2);
    let landed = world.chain.state_wait_msg(signed.cid(), 0, None, true, BOUND).await.expect("the message lands");
    assert_eq!(landed.receipt.exit_code, 0, "exit code of method {method}");
    landed
}

/// Makes the world's miner, without sectors; answers its worker, whose key the chain node holds.
pub async fn make_miner(world: &mut World) -> Address {
    let worker = world.chain.wallet_new("bls").await.expect("a key is made");
    let rich = address::parse(&world.devnet.default_address).expect("an address");
    send(world, rich, worker, 0, 100, Vec::new()).await;
    let params = CreateMinerParams {
        owner: worker,
        worker,
        window_post_proof_type: PROOF.window_post(),
        peer: Vec::new(),
        multiaddrs: Vec::new(),
    };
    let made = send(world, worker, POWER_ACTOR, method::CREATE_MINER, 1, params.to_cbor()).await;
    let made = CreateMinerReturn::from_cbor(&made.receipt.r#return).expect("a miner is made");
    world.sp = address::sp_id(&made.id_address).expect("an id address");
    worker
}

/// Where a machine keeps a sector's file: `sealed` or `cache`.
pub fn file(world: &World, machine: &str, kind: &str, number: u64) -> PathBuf {
    store(world, machine).join(kind).join(SectorRef::new(world.sp, number).file_name())
}

fn store(world: &World, machine: &str) -> PathBuf {
    world.path(&format!("store-{machine}"))
}

/// Seals an empty sector into the long-term path of a machine.
pub async fn seal(world: &World, machine: &str, number: u64) -> Commitment {
    let (sealed, cache) = (file(world, machine, "sealed", number), file(world, machine, "cache", number));
    for folder in [sealed.parent().expect("it lies in a folder"), &cache] {
        std::fs::create_dir_all(folder).expect("the folder is made");
    }
    let sector = SectorRef::new(world.sp, number);
    let (ticket, comm_d) = ([3; 32], curio_proofs::zero_comm_d(PROOF));
    let prover = Prover::new(ProverOptions {
        program: env!("CARGO_BIN_EXE_curio").into(),
        args: vec!["prove".into()],
        parameter_dir: params::default_dir(),
        parent_cache_dir: world.path("parents"),
        tmp_dir: world.path("tmp"),
        devices: Vec::new(),
    });
    let call = async |request| prover.call(&request, &CancellationToken::new()).await.expect("the call succeeds");
    call(Request::Sdr { proof: PROOF, sector, ticket, comm_d, cache: cache.clone() }).await;
    call(Request::TreeD { proof: PROOF, pieces: Vec::new(), comm_d, cache: cache.clone() }).await;
    let trees = Request::TreeRc {
        proof: PROOF,
        sector,
        ticket,
        comm_d,
        pieces: Vec::new(),
        cache: cache.clone(),
        sealed,
        check_entropy: [7; 32],
    };
    let Response::TreeRc { comm_r } = call(trees).await else { panic!("another answer") };
    call(Request::ClearCache { proof: PROOF, cache }).await;
    comm_r
}

/// Has the chain take the sectors.
pub async fn commit(world: &World, worker: Address, commitments: &[Commitment]) {
    const LIFETIME: i64 = 700_000;
    /// Epochs from a pre-commit to its proof.
    const SEED_DELAY: u32 = 11;
    let miner = address::id_address(world.sp);
    let now = world.devnet.head().height;
    let numbered = || (0..).zip(commitments);
    let sectors = numbered().map(|(sector_number, comm_r)| SectorPreCommit {
        seal_proof: PROOF.number(),
        sector_number,
        sealed_cid: sealed_cid(comm_r),
        seal_rand_epoch: now - 1,
        deal_ids: Vec::new(),
        expiration: now + LIFETIME,
        unsealed_cid: None,
    });
    let params = PreCommitSectorBatch2Params { sectors: sectors.collect() };
    send(world, worker, miner, method::PRE_COMMIT_SECTOR_BATCH2, 1, params.to_cbor()).await;
    world.devnet.advance(SEED_DELAY);
    let activation = |(sector_number, _)| SectorActivationManifest { sector_number, pieces: Vec::new() };
    let params = ProveCommitSectors3Params {
        sector_activations: numbered().map(activation).collect(),
        sector_proofs: numbered().map(|_| ProofBytes(vec![0; 192])).collect(),
        aggregate_proof: Vec::new(),
        aggregate_proof_type: None,
        require_activation_success: true,
        require_notification_success: false,
    };
    send(world, worker, miner, method::PROVE_COMMIT_SECTORS3, 0, params.to_cbor()).await;
}

/// Attaches the folder in which a machine keeps its files, and declares the sectors that were sealed into it.
pub async fn attach(world: &World, machine: &str, sectors: &[u64]) {
    let path = store(world, machine).display().to_string();
    world.curio(&["storage", "attach", "--init", "--store", "--machine", machine, &path]).await;
    for number in sectors {
        declare(world, *number, machine).await;
    }
}

/// Puts a sector's sealed file and cache into the index, as the task would have that moved them there.
pub async fn declare(world: &World, number: u64, machine: &str) {
    let declared = sqlx::query(
        "INSERT INTO sector_location (miner_id, sector_num, sector_filetype, storage_id, size_bytes)
         SELECT $1, $2, filetype, storage_id, 2048
         FROM storage_path_machines, unnest(ARRAY[2, 4]) AS filetype WHERE machine_name = $3",
    )
    .bind(world.sp.0 as i64)
    .bind(number as i64)
    .bind(machine)
    .execute(world.db.pool())
    .await;
    assert_eq!(declared.expect("the database answers").rows_affected(), 2, "files of sector {number} on {machine}");
}
