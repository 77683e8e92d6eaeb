//! What the election of a miner for an epoch is held with: power and sectors of some time ago, the beacon,
//! and whether it may take part at all. `MinerGetBaseInfo` answers it, and a block is held against it.

use std::sync::Arc;

use curio_chain::election;
use curio_chain::types::{BeaconEntry, ExtendedSectorInfo, MiningBaseInfo, SIGNATURE_BLS};
use curio_core::{Epoch, SealProof, SpId};
use fil_actor_miner_state::v18 as actor;
use fil_actors_shared::v18::STORAGE_POWER_ACTOR_ID;
use fvm_ipld_bitfield::BitField;
use fvm_shared::ActorID;
use fvm_shared::address::Address;
use fvm_shared::clock::ChainEpoch;
use num_traits::{Signed, Zero};

use super::{Chain, Refused, Tip};
use crate::actors::power;
use crate::state::{Kind, StateTree};

/// Beacon entries of one block, that is null rounds before it and one: more than any network has seen.
const MOST_ENTRIES: i64 = 10_000;

/// Why there is no miner's state.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoMiner {
    #[error("actor: actor not found")]
    NotFound,
    #[error("actor state: actor code is not miner: {}", .0.name())]
    Other(Kind),
    #[error("actor state: {0:#}")]
    Unreadable(anyhow::Error),
}

impl From<NoMiner> for Refused {
    fn from(why: NoMiner) -> Refused {
        Refused(format!("failed to load miner {why}"))
    }
}

impl Chain {
    /// What the election of a miner for `round` on top of `base` is held with; none for a miner that had no
    /// proven sector at the lookback.
    ///
    /// # Errors
    /// When the address is no miner's, or the epoch is far above the base.
    pub fn base_info(
        &self,
        miner: &Address,
        round: ChainEpoch,
        base: &Arc<Tip>,
    ) -> Result<Option<MiningBaseInfo>, Refused> {
        if round > base.height + MOST_ENTRIES {
            return Err(Refused(format!(
                "a block of epoch {round} on one of {} has too many beacon entries",
                base.height
            )));
        }
        let lookback = self.lookback(base, round);
        let (id, state) = match self.miner(miner, &lookback.after) {
            Ok(found) => found,
            Err(NoMiner::NotFound) => {
                return match base.before.lookup(miner) {
                    Some(_) => Ok(None),
                    None => Err(Refused("loading miner in current state: actor not found".to_owned())),
                };
            }
            Err(why) => return Err(why.into()),
        };
        let prev_beacon_entry = self.beacon_entry(base, base.height);
        let beacon_entries: Vec<BeaconEntry> =
            (base.height + 1..=round).map(|epoch| self.beacon_entry(base, epoch)).collect();
        let beacon = beacon_entries.last().unwrap_or(&prev_beacon_entry);
        let randomness = election::winning_post_randomness(beacon, Epoch(round), SpId(id));
        let info = state.get_info(&self.store).map_err(unreadable)?;
        let sectors = self.winning_sectors(id, &state, &randomness)?;
        if sectors.is_empty() {
            return Ok(None);
        }
        let power: power::State = lookback.after.load(&self.store, STORAGE_POWER_ACTOR_ID).map_err(unreadable)?;
        Ok(Some(MiningBaseInfo {
            miner_power: power.claim(id).map(|claim| claim.qa.clone()).unwrap_or_default(),
            network_power: &power.total_qa + self.election.other_power,
            sectors,
            worker_key: self.worker_key(miner, &base.after)?,
            sector_size: info.sector_size as u64,
            prev_beacon_entry,
            beacon_entries,
            eligible_for_mining: self.is_eligible(id, base, &lookback)?,
        }))
    }

    /// Whether a miner whose worker key is in the wallet wins the next epoch on top of the head: somebody
    /// for whose block it is worth to wait.
    pub fn is_won_next(&self) -> bool {
        let head = self.head();
        let round = head.height + 1;
        let Ok(power) = head.after.load::<power::State>(&self.store, STORAGE_POWER_ACTOR_ID) else { return false };
        power.miners().any(|id| {
            let Ok(Some(info)) = self.base_info(&Address::new_id(id), round, head) else { return false };
            let input = election::election_input(info.beacon(), Epoch(round), SpId(id));
            let Ok(proof) = self.wallet.sign(&info.worker_key, &input) else { return false };
            let wins = election::win_count(&proof.data, &info.miner_power, &info.network_power);
            info.eligible_for_mining && proof.kind == SIGNATURE_BLS && wins > 0
        })
    }

    /// The tipset whose state counts in elections for `round` on top of `base`.
    pub(super) fn lookback(&self, base: &Arc<Tip>, round: ChainEpoch) -> Arc<Tip> {
        self.below(base, (round - self.election.lookback).max(0))
    }

    /// Key of the worker of a miner.
    pub(super) fn worker_key(&self, miner: &Address, tree: &StateTree) -> Result<Address, NoMiner> {
        let (_, state) = self.miner(miner, tree)?;
        let info = state.get_info(&self.store).map_err(NoMiner::Unreadable)?;
        let account = tree.lookup(&info.worker).and_then(|(_, account)| account.robust);
        account.ok_or_else(|| NoMiner::Unreadable(anyhow::anyhow!("its worker {} has no account", info.worker)))
    }

    fn miner(&self, miner: &Address, tree: &StateTree) -> Result<(ActorID, actor::State), NoMiner> {
        let (id, found) = tree.lookup(miner).ok_or(NoMiner::NotFound)?;
        match found.kind {
            Kind::Miner => Ok((id, self.store.load(&found.head).map_err(NoMiner::Unreadable)?)),
            other => Err(NoMiner::Other(other)),
        }
    }

    /// The sectors that the randomness chooses out of the active ones, in the order of the proof.
    fn winning_sectors(
        &self,
        id: ActorID,
        state: &actor::State,
        randomness: &[u8; 32],
    ) -> Result<Vec<ExtendedSectorInfo>, Refused> {
        let mut active = BitField::new();
        let deadlines = state.load_deadlines(&self.store).map_err(unreadable)?;
        deadlines
            .for_each(&self.store, |_, deadline| {
                deadline.for_each(&self.store, |_, partition| {
                    active |= &partition.active_sectors();
                    Ok(())
                })
            })
            .map_err(unreadable)?;
        if active.is_empty() {
            return Ok(Vec::new());
        }
        let numbers: Vec<u64> = active.iter().collect();
        let info = state.get_info(&self.store).map_err(unreadable)?;
        let Some(proof) = SealProof::of_window_post(info.window_post_proof_type.into()) else {
            return Err(Refused(format!("miner f0{id} has sectors of a kind without winning PoSt")));
        };
        self.verifier
            .winning_sector_indices(proof, SpId(id), randomness, numbers.len() as u64)
            .into_iter()
            .map(|index| {
                let number = numbers[index as usize];
                let sector = state.get_sector(&self.store, number).map_err(unreadable)?;
                let sector = sector.ok_or_else(|| Refused(format!("failed to find sector {number}")))?;
                Ok(ExtendedSectorInfo {
                    seal_proof: sector.seal_proof.into(),
                    sector_number: number,
                    sector_key: sector.sector_key_cid,
                    sealed_cid: sector.sealed_cid,
                })
            })
            .collect()
    }

    /// Enough power at the lookback, and now some power, no debt and no recent consensus fault.
    fn is_eligible(&self, id: ActorID, base: &Tip, lookback: &Tip) -> Result<bool, Refused> {
        let power =
            |tip: &Tip| tip.before.load::<power::State>(&self.store, STORAGE_POWER_ACTOR_ID).map_err(unreadable);
        let Ok((_, state)) = self.miner(&Address::new_id(id), &base.before) else { return Ok(false) };
        let info = state.get_info(&self.store).map_err(unreadable)?;
        let minimum = &self.network.policy.minimum_consensus_power;
        let had_enough = power(lookback)?.claim(id).is_some_and(|claim| !claim.raw.is_zero() && claim.raw >= *minimum);
        let has_some = power(base)?.claim(id).is_some_and(|claim| claim.qa.is_positive());
        Ok(had_enough && has_some && state.fee_debt.is_zero() && info.consensus_fault_elapsed < base.height)
    }
}

fn unreadable(error: impl Into<anyhow::Error>) -> Refused {
    Refused(format!("failed to load miner actor state: {:#}", error.into()))
}
