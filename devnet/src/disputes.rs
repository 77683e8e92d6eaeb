//! Disputes: a chain takes window PoSts unseen, so somebody has to look. Here it is the chain's own process: after
//! each head it verifies what was accepted since the last one, says at once when a proof does not hold, and sends
//! the dispute as soon as the deadline is over.

use std::collections::{HashMap, HashSet};

use cid::Cid;
use curio_chain::message::{Cbor, DisputeWindowedPoStParams, method};
use curio_chain::types::Message;
use fil_actor_miner_state::v18::{
    Deadline, DeadlineInfo, SectorOnChainInfo, Sectors, State, WindowedPoSt,
    deadline_available_for_optimistic_post_dispute,
};
use fil_actors_shared::v18::{Array, STORAGE_POWER_ACTOR_ID};
use fvm_ipld_bitfield::BitField;
use fvm_shared::ActorID;
use fvm_shared::address::Address;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use fvm_shared::sector::PoStProof;

use crate::actors::miner::dispute::last_closed;
use crate::actors::miner::post;
use crate::actors::power;
use crate::chain::beacon::blake2b;
use crate::chain::estimate::premium;
use crate::chain::{Chain, Refused};
use crate::state::StateTree;
use crate::store::Store;
use crate::vm::World;

/// Gas limit of a dispute: it cannot be tried before the epoch in which it may be sent.
const GAS_LIMIT: i64 = 200_000_000;
/// How soon a dispute should land, in blocks.
const SOON: u64 = 2;

/// What is known of the accepted PoSts of every miner.
#[derive(Default)]
pub struct Disputes {
    disabled: bool,
    /// By miner: the root of its deadlines, and the PoSts found in them.
    found: HashMap<ActorID, (Cid, Vec<Found>)>,
    sent: HashSet<Fingerprint>,
}

/// A PoSt with everything that decides whether it holds.
type Fingerprint = [u8; 32];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    deadline: u64,
    place: Place,
    fingerprint: Fingerprint,
    holds: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Among the proofs of the open deadline.
    Open,
    /// The number of a proof of a deadline that is over.
    Over { post_index: u64 },
}

/// A message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dispute {
    miner: ActorID,
    deadline: u64,
    post_index: u64,
    fingerprint: Fingerprint,
}

impl Disputes {
    pub fn new(enabled: bool) -> Disputes {
        Disputes { disabled: !enabled, ..Disputes::default() }
    }

    /// Looks at the state after a head, and answers what can be disputed in the next epoch.
    fn look(&mut self, world: World<'_>, tree: &StateTree) -> anyhow::Result<Vec<Dispute>> {
        let next = world.epoch + 1;
        let power: power::State = tree.load(world.store, STORAGE_POWER_ACTOR_ID)?;
        let mut disputes = Vec::new();
        for miner in power.miners() {
            let state: State = tree.load(world.store, miner)?;
            let known = self.found.remove(&miner);
            let found = match known {
                Some((deadlines, found)) if deadlines == state.deadlines => found,
                known => {
                    let known = known.map(|(_, found)| found).unwrap_or_default();
                    found(world, miner, &state, next, &known)?
                }
            };
            let period_start = state.current_proving_period_start(&world.network.policy, next);
            for post in found.iter().filter(|post| !post.holds && !self.sent.contains(&post.fingerprint)) {
                let Found { deadline, place: Place::Over { post_index }, fingerprint, holds: _ } = *post else {
                    continue;
                };
                let policy = &world.network.policy;
                if deadline_available_for_optimistic_post_dispute(policy, period_start, deadline, next) {
                    disputes.push(Dispute { miner, deadline, post_index, fingerprint });
                }
            }
            self.found.insert(miner, (state.deadlines, found));
        }
        let known: HashSet<Fingerprint> =
            self.found.values().flat_map(|(_, found)| found).map(|found| found.fingerprint).collect();
        self.sent.retain(|fingerprint| known.contains(fingerprint));
        Ok(disputes)
    }
}

/// All PoSts of a miner that are kept for a dispute; those that are known are not verified again.
fn found(
    world: World<'_>,
    miner: ActorID,
    state: &State,
    epoch: ChainEpoch,
    known: &[Found],
) -> anyhow::Result<Vec<Found>> {
    let (policy, store) = (&world.network.policy, world.store);
    let now = state.deadline_info(policy, epoch);
    let mut all = Vec::new();
    state.load_deadlines(store)?.for_each(store, |index, deadline| {
        if index == now.index {
            let sectors = Sectors::load(store, &state.sectors)?;
            for (_, post) in posts(&deadline.optimistic_proofs_amt(store)?)? {
                let (proven, ignored) = sectors_now(&deadline, store, &post.partitions)?;
                let sectors = sectors.load_for_proof(&proven, &ignored)?;
                all.push(judge(world, miner, &now, Place::Open, &sectors, &post.proofs, known));
            }
            return Ok(());
        }
        let over = last_closed(policy, &now, index, epoch);
        let sectors = Sectors::load(store, &deadline.sectors_snapshot)?;
        for (post_index, post) in posts(&deadline.optimistic_proofs_snapshot_amt(store)?)? {
            let info = deadline.load_partitions_for_dispute(store, post.partitions)?;
            let sectors = sectors.load_for_proof(&info.all_sector_nos, &info.ignored_sector_nos)?;
            all.push(judge(world, miner, &over, Place::Over { post_index }, &sectors, &post.proofs, known));
        }
        Ok(())
    })?;
    Ok(all)
}

fn posts(kept: &Array<'_, WindowedPoSt, Store>) -> anyhow::Result<Vec<(u64, WindowedPoSt)>> {
    let mut posts = Vec::new();
    kept.for_each(|index, post| {
        posts.push((index, post.clone()));
        Ok(())
    })?;
    Ok(posts)
}

/// Sectors of partitions of the open deadline, and those of them that a proof leaves out. They stay what they are
/// until its end, as nothing may be added, terminated or declared for an open deadline.
fn sectors_now(deadline: &Deadline, store: &Store, partitions: &BitField) -> anyhow::Result<(BitField, BitField)> {
    let (mut proven, mut ignored) = (BitField::new(), BitField::new());
    for index in partitions.iter() {
        let partition = deadline.load_partition(store, index)?;
        proven |= &partition.sectors;
        ignored |= &partition.faults;
        ignored |= &partition.terminated;
        ignored |= &partition.unproven;
    }
    Ok((proven, ignored))
}

fn judge(
    world: World<'_>,
    miner: ActorID,
    deadline: &DeadlineInfo,
    place: Place,
    sectors: &[SectorOnChainInfo],
    proofs: &[PoStProof],
    known: &[Found],
) -> Found {
    let DeadlineInfo { index, challenge, .. } = *deadline;
    let fingerprint = fingerprint(&post::randomness(world, miner, challenge), sectors, proofs);
    let holds = match known.iter().find(|known| known.fingerprint == fingerprint) {
        Some(known) => known.holds,
        None => {
            let holds = post::holds(world, miner, challenge, sectors, proofs);
            if !holds {
                tracing::warn!(
                    miner,
                    deadline = index,
                    "a window PoSt of miner f0{miner} in deadline {index} does not hold; it is disputed when the deadline \
                     is over"
                );
            }
            holds
        }
    };
    Found { deadline: index, place, fingerprint, holds }
}

/// The randomness is that of one miner and one challenge, so it names both.
fn fingerprint(randomness: &[u8; 32], sectors: &[SectorOnChainInfo], proofs: &[PoStProof]) -> Fingerprint {
    let mut text = randomness.to_vec();
    for sector in sectors {
        text.extend_from_slice(&sector.sector_number.to_be_bytes());
        text.extend_from_slice(&sector.sealed_cid.to_bytes());
    }
    for proof in proofs {
        text.extend_from_slice(&proof.proof_bytes);
    }
    blake2b(&text)
}

impl Chain {
    /// Verifies the window PoSts that are new in the head's state, and disputes bad ones whose deadline is over, with
    /// messages of the default address. To be called after each change of the head.
    pub(crate) fn dispute_bad_posts(&mut self) {
        if self.disputes.disabled {
            return;
        }
        let head = self.head().clone();
        let mut disputes = std::mem::take(&mut self.disputes);
        match self.look(&head, |vm| disputes.look(vm.world, &head.after)) {
            Ok(bad) => {
                for dispute in bad {
                    match self.send(&dispute) {
                        Ok(cid) => {
                            disputes.sent.insert(dispute.fingerprint);
                            tracing::info!(%cid, "message {cid} disputes a window PoSt of miner f0{}", dispute.miner);
                        }
                        // The next head tries again.
                        Err(Refused(why)) => tracing::warn!("a dispute cannot be sent: {why}"),
                    }
                }
            }
            Err(error) => {
                tracing::error!(error = &*error as &dyn std::error::Error, "window PoSts cannot be read");
            }
        }
        self.disputes = disputes;
    }

    fn send(&mut self, dispute: &Dispute) -> Result<Cid, Refused> {
        let Dispute { miner, deadline, post_index, fingerprint: _ } = *dispute;
        let no_sender = || Refused("there is no default address".to_owned());
        let from = self.wallet.default_address().ok_or_else(no_sender)?;
        let gas_premium = premium(SOON, self.head().height);
        let message = Message {
            nonce: self.next_nonce(&from)?,
            gas_limit: GAS_LIMIT,
            gas_fee_cap: self.fee_cap(&gas_premium, SOON),
            gas_premium,
            ..Message::new(
                from,
                Address::new_id(miner),
                method::DISPUTE_WINDOWED_POST,
                TokenAmount::default(),
                DisputeWindowedPoStParams { deadline, post_index }.to_cbor(),
            )
        };
        let signed = self.wallet.sign_message(&from, message).map_err(|error| Refused(error.to_string()))?;
        self.push(signed)
    }
}
