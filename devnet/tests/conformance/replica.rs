//! Sectors with real files: sealed, pre-committed, proven on the chain, and proven again by window PoSts.

use std::ops::ControlFlow;
use std::sync::OnceLock;

use curio_chain::message::{
    Cbor, PieceActivationManifest, PoStPartition, PoStProof, PreCommitSectorBatch2Params, ProofBytes,
    ProveCommitSectors3Params, SectorActivationManifest, SectorPreCommit, SubmitWindowedPoStParams, method, sealed_cid,
    unsealed_cid,
};
use curio_chain::types::{DeadlineInfo, Message};
use curio_chain::{Address, TokenAmount, address};
use curio_core::{Epoch, SealProof, SectorRef};
use curio_proofs::params::{Circuit, Set};
use curio_proofs::{C1Input, PieceFile, PieceSpec, PostKind, SdrInput, Snark};

use crate::support::{Lab, params};

pub const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;
pub const PRE_COMMIT: u64 = method::PRE_COMMIT_SECTOR_BATCH2;
pub const PROVE_COMMIT: u64 = method::PROVE_COMMIT_SECTORS3;
/// Epochs from a pre-commit to its seed on the 2k network.
pub const CHALLENGE_DELAY: i64 = 10;

/// A sealed sector, in a folder of its own.
pub struct Replica {
    dir: tempfile::TempDir,
    pub sector: SectorRef,
    ticket: [u8; 32],
    ticket_epoch: Epoch,
    pub comm_d: [u8; 32],
    pub comm_r: [u8; 32],
    pieces: Vec<PieceSpec>,
}

/// Seals a sector with the chain's ticket; `data` becomes one piece of 1 KiB.
pub async fn seal(lab: &Lab, miner: Address, number: u64, data: Option<&[u8]>) -> Replica {
    let sp = address::sp_id(&miner).unwrap();
    let sector = SectorRef::new(sp, number);
    let head = lab.devnet.head();
    let ticket_epoch = head.height - 5;
    let ticket = lab.client.seal_ticket(sp, ticket_epoch, head.key()).await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let (cache, sealed) = (dir.path().join("cache"), dir.path().join("sealed"));
    let mut files = Vec::new();
    let mut pieces = Vec::new();
    if let Some(data) = data {
        let path = dir.path().join("piece");
        std::fs::write(&path, data).unwrap();
        let raw_size = data.len() as u64;
        let piece = curio_proofs::piece_commitment(&mut &data[..], raw_size).unwrap();
        files.push(PieceFile { path, raw_size, padded_size: piece.padded_size });
        pieces.push(PieceSpec { comm_p: piece.comm_p, padded_size: piece.padded_size });
    }
    let comm_d = curio_proofs::comm_d(PROOF, &pieces).unwrap();
    let input = SdrInput { proof: PROOF, sector, ticket, comm_d };
    curio_proofs::sdr(&input, &cache, &mut |_| ControlFlow::Continue(())).unwrap();
    curio_proofs::tree_d(PROOF, &files, &comm_d, &cache).unwrap();
    let comm_r = curio_proofs::tree_rc(PROOF, &comm_d, &cache, &sealed).unwrap();
    Replica { dir, sector, ticket, ticket_epoch, comm_d, comm_r, pieces }
}

impl Replica {
    pub fn pre_commit(&self, now: Epoch) -> SectorPreCommit {
        const LIFETIME: i64 = 700_000;
        SectorPreCommit {
            seal_proof: PROOF.number(),
            sector_number: self.sector.number,
            sealed_cid: sealed_cid(&self.comm_r),
            seal_rand_epoch: self.ticket_epoch,
            deal_ids: Vec::new(),
            expiration: now + LIFETIME,
            unsealed_cid: (!self.pieces.is_empty()).then(|| unsealed_cid(&self.comm_d)),
        }
    }

    /// A proof for a seed: vanilla real, SNARK simulated, verified as any other.
    pub fn prove(&self, seed: &[u8; 32]) -> Vec<u8> {
        let (cache, sealed) = (self.dir.path().join("cache"), self.dir.path().join("sealed"));
        let input = C1Input {
            proof: PROOF,
            sector: self.sector,
            ticket: self.ticket,
            comm_d: self.comm_d,
            comm_r: self.comm_r,
            pieces: &self.pieces,
            cache: &cache,
            sealed: &sealed,
        };
        let vanilla = curio_proofs::c1(&input, seed).unwrap();
        curio_proofs::c2(self.sector, &vanilla, Snark::Simulated).unwrap()
    }

    /// What a deadline's randomness asks of the sector's files.
    fn vanilla_window_post(&self, randomness: &[u8; 32]) -> Vec<u8> {
        let SectorRef { sp, number } = self.sector;
        let challenges = curio_proofs::window_challenges(PROOF, sp, randomness, &[number]).unwrap();
        let (cache, sealed) = (self.dir.path().join("cache"), self.dir.path().join("sealed"));
        let (kind, asked) = (PostKind::Window, &challenges[&number]);
        curio_proofs::vanilla_post(kind, PROOF, self.sector, &self.comm_r, &cache, &sealed, asked).unwrap()
    }

    fn manifest(&self) -> SectorActivationManifest {
        let pieces = self.pieces.iter().map(|piece| PieceActivationManifest {
            cid: unsealed_cid(&piece.comm_p),
            size: piece.padded_size,
            verified_allocation_key: None,
            notify: Vec::new(),
        });
        SectorActivationManifest { sector_number: self.sector.number, pieces: pieces.collect() }
    }
}

pub fn prove_commit(sectors: &[(&Replica, Vec<u8>)]) -> ProveCommitSectors3Params {
    ProveCommitSectors3Params {
        sector_activations: sectors.iter().map(|(replica, _)| replica.manifest()).collect(),
        sector_proofs: sectors.iter().map(|(_, proof)| ProofBytes(proof.clone())).collect(),
        aggregate_proof: Vec::new(),
        aggregate_proof_type: None,
        require_activation_success: true,
        require_notification_success: false,
    }
}

/// Seals sectors 0 (with a piece) and 1 (empty), pre-commits and proves them.
pub async fn prove_two_sectors(lab: &Lab, worker: Address, miner: Address) {
    let replicas = [seal(lab, miner, 0, Some(&[7; 1000])).await, seal(lab, miner, 1, None).await];
    bring_on_chain(lab, worker, miner, &replicas).await;
}

/// Seals empty sectors, numbered from 0, and brings them on the chain.
pub async fn empty_sectors(lab: &Lab, worker: Address, miner: Address, count: u64) -> Vec<Replica> {
    let mut replicas = Vec::new();
    for number in 0..count {
        replicas.push(seal(lab, miner, number, None).await);
    }
    bring_on_chain(lab, worker, miner, &replicas).await;
    replicas
}

/// Pre-commits and proves sectors, all in one message each.
async fn bring_on_chain(lab: &Lab, worker: Address, miner: Address, replicas: &[Replica]) {
    let now = lab.devnet.head().height;
    let batch =
        PreCommitSectorBatch2Params { sectors: replicas.iter().map(|replica| replica.pre_commit(now)).collect() };
    let message = Message::new(worker, miner, PRE_COMMIT, TokenAmount::from_whole(1), batch.to_cbor());
    let landed = lab.send(message).await;
    assert_eq!(landed.receipt.exit_code, 0);
    let seed_epoch = landed.height - 1 + CHALLENGE_DELAY;
    lab.advance_to(seed_epoch.0 + 1);
    let seed = lab.client.seal_seed(replicas[0].sector.sp, seed_epoch, lab.devnet.head().key()).await.unwrap();
    let proofs: Vec<_> = replicas.iter().map(|replica| (replica, replica.prove(&seed))).collect();
    let params = prove_commit(&proofs);
    let landed = lab.send(Message::new(worker, miner, PROVE_COMMIT, TokenAmount::default(), params.to_cbor())).await;
    assert_eq!(landed.receipt.exit_code, 0);
}

/// Pre-commits one sector that is never proven.
pub async fn pre_commit_one(lab: &Lab, worker: Address, miner: Address, number: u64) {
    let replica = seal(lab, miner, number, None).await;
    let now = lab.devnet.head().height;
    let batch = PreCommitSectorBatch2Params { sectors: vec![replica.pre_commit(now)] };
    let message = Message::new(worker, miner, PRE_COMMIT, TokenAmount::from_whole(1), batch.to_cbor());
    assert_eq!(lab.send(message).await.receipt.exit_code, 0);
}

/// A real window PoSt of the sectors of one partition, with the randomness of a deadline.
pub async fn window_post(lab: &Lab, deadline: &DeadlineInfo, replicas: &[&Replica]) -> Vec<u8> {
    window_post_parameters();
    let sp = replicas[0].sector.sp;
    let key = lab.devnet.head().cids;
    let randomness = lab.client.window_post_randomness(sp, deadline.challenge, &key).await.unwrap();
    let vanilla: Vec<Vec<u8>> = replicas.iter().map(|replica| replica.vanilla_window_post(&randomness)).collect();
    curio_proofs::window_post_partition(PROOF, sp, &randomness, &vanilla).unwrap()
}

/// A message's parameters: this proof for these partitions of the open deadline.
pub async fn submission(
    lab: &Lab,
    deadline: &DeadlineInfo,
    partitions: Vec<PoStPartition>,
    post: Vec<u8>,
) -> SubmitWindowedPoStParams {
    let key = lab.devnet.head().cids;
    SubmitWindowedPoStParams {
        deadline: deadline.index,
        partitions,
        proofs: vec![PoStProof { post_proof: PROOF.window_post(), proof_bytes: post }],
        chain_commit_epoch: deadline.challenge,
        chain_commit_rand: lab.client.chain_commit_randomness(deadline.challenge, &key).await.unwrap().to_vec(),
    }
}

/// The parameters of the circuit, made when they are missing; one thread makes them, the others wait.
fn window_post_parameters() {
    static MADE: OnceLock<()> = OnceLock::new();
    let set = Set { circuit: Circuit::WindowPost, proof: PROOF };
    MADE.get_or_init(|| curio_proofs::params::ensure(&params(), set, &mut |_| {}).unwrap());
}
