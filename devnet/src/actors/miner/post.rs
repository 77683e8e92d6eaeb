//! Whether a window PoSt holds, as the chain's own verifier sees it.

use std::collections::BTreeMap;

use curio_chain::message::{RandomnessTag, comm_r, miner_entropy};
use curio_core::{SealProof, SpId};
use curio_proofs::PublicSector;
use fil_actor_miner_state::v18::SectorOnChainInfo;
use fvm_shared::ActorID;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::sector::PoStProof;

use crate::proof::PostClaim;
use crate::vm::World;

/// Randomness of a deadline, by the epoch of its challenge.
pub fn randomness(world: World<'_>, miner: ActorID, challenge: ChainEpoch) -> [u8; 32] {
    let entropy = miner_entropy(SpId(miner));
    world.beacon_randomness(RandomnessTag::WindowedPoStChallengeSeed, challenge, &entropy)
}

/// Whether these proofs prove these sectors, with the randomness of the challenge epoch. The state machine names
/// a good sector in the place of every faulty one; the verifier takes each sector once.
pub fn holds(
    world: World<'_>,
    miner: ActorID,
    challenge: ChainEpoch,
    sectors: &[SectorOnChainInfo],
    proofs: &[PoStProof],
) -> bool {
    let [proof] = proofs else { return false };
    let Some(seal_proof) = SealProof::of_window_post(proof.post_proof.into()) else { return false };
    let mut public = BTreeMap::new();
    for sector in sectors {
        let Ok(comm_r) = comm_r(&sector.sealed_cid) else { return false };
        public.insert(sector.sector_number, PublicSector { number: sector.sector_number, comm_r });
    }
    let public: Vec<PublicSector> = public.into_values().collect();
    world.verifier.verify_window_post(&PostClaim {
        proof: seal_proof,
        sp: SpId(miner),
        randomness: randomness(world, miner, challenge),
        sectors: &public,
        post: &proof.proof_bytes,
    })
}
