//! A winning PoSt of a sealed sector, judged by the proof library: what the election asks for, what is proven and
//! what the chain verifies are the same thing.

use std::ops::ControlFlow;
use std::sync::Arc;

use curio_chain::election;
use curio_core::{SealProof, SectorRef, SpId};
use curio_devnet::Options;
use curio_devnet::proof::{LibraryVerifier, Piece, PostClaim, ProofVerifier, SealClaim};
use curio_proofs::{PostKind, SdrInput, Snark};
use fvm_shared::sector::RegisteredSealProof;

use crate::support::{Believer, Miner, Net, PROOF, options};

/// Takes proofs of sectors unseen, and judges winning PoSts.
struct Judge(LibraryVerifier);

impl ProofVerifier for Judge {
    fn verify_seal(&self, claim: &SealClaim<'_>) -> bool {
        Believer.verify_seal(claim)
    }

    fn verify_window_post(&self, claim: &PostClaim<'_>) -> bool {
        Believer.verify_window_post(claim)
    }

    fn verify_winning_post(&self, claim: &PostClaim<'_>) -> bool {
        self.0.verify_winning_post(claim)
    }

    fn winning_sector_indices(&self, proof: SealProof, sp: SpId, randomness: &[u8; 32], eligible: u64) -> Vec<u64> {
        self.0.winning_sector_indices(proof, sp, randomness, eligible)
    }

    fn comm_d(&self, proof_type: RegisteredSealProof, pieces: &[Piece]) -> Result<[u8; 32], String> {
        Believer.comm_d(proof_type, pieces)
    }
}

/// A sealed sector without data.
struct Replica {
    dir: tempfile::TempDir,
    sector: SectorRef,
    comm_r: [u8; 32],
}

impl Replica {
    fn seal(sector: SectorRef) -> Replica {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        let comm_d = curio_proofs::comm_d(PROOF, &[]).unwrap();
        let input = SdrInput { proof: PROOF, sector, ticket: [1; 32], comm_d };
        curio_proofs::sdr(&input, &cache, &mut |_| ControlFlow::Continue(())).unwrap();
        curio_proofs::tree_d(PROOF, &[], &comm_d, &cache).unwrap();
        let comm_r = curio_proofs::tree_rc(PROOF, &comm_d, &cache, &dir.path().join("sealed")).unwrap();
        Replica { dir, sector, comm_r }
    }

    /// Vanilla proof real, SNARK simulated.
    fn winning_post(&self, randomness: &[u8; 32]) -> Vec<u8> {
        let Replica { dir, sector, comm_r } = self;
        let (cache, sealed) = (dir.path().join("cache"), dir.path().join("sealed"));
        let challenges = curio_proofs::winning_challenges(PROOF, sector.sp, randomness, &[sector.number]).unwrap();
        let asked = &challenges[&sector.number];
        let vanilla =
            curio_proofs::vanilla_post(PostKind::Winning, PROOF, *sector, comm_r, &cache, &sealed, asked).unwrap();
        curio_proofs::winning_post(PROOF, sector.sp, randomness, &[vanilla], Snark::Simulated).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_winning_post_of_the_elected_sector_is_accepted_and_of_another_epoch_refused() {
    let params = curio_proofs::params::default_dir();
    let verifier = LibraryVerifier::open(&params, &[PROOF]).unwrap();
    let net = Net::start_with(Options { params, ..options() }, Arc::new(Judge(verifier))).await;
    let miner = net.miner().await;
    let replica = Replica::seal(SectorRef::new(miner.sp, 0));
    net.add_sector_of(&miner, &replica.comm_r).await;
    net.prove(&miner).await;
    net.devnet.advance(crate::support::LOOKBACK as u32 + 2);

    let block = mine(&net, &miner, &replica, 0).await;
    net.client.sync_submit_block(&block).await.unwrap();
    assert_eq!(net.head().cids.0, [block.header.cid()]);

    let stale = mine(&net, &miner, &replica, -1).await;
    let refusal = net.refusal(&stale).await;
    assert!(refusal.contains("winning post was invalid"), "{refusal}");
}

/// A block with a proof for the randomness of its epoch, or of one beside it.
async fn mine(net: &Net, miner: &Miner, replica: &Replica, beside: i64) -> curio_chain::types::BlockMsg {
    let mut template = net.winning_template(miner).await;
    let info = net.base_info(miner, &net.head(), template.epoch).await.unwrap();
    let elected: Vec<u64> = info.sectors.iter().map(|sector| sector.sector_number).collect();
    assert_eq!(elected, [replica.sector.number]);
    let randomness = election::winning_post_randomness(info.beacon(), template.epoch + beside, miner.sp);
    template.winning_post_proof[0].proof_bytes = replica.winning_post(&randomness);
    net.client.miner_create_block(&template).await.unwrap()
}
