//! ExtendSectorExpiration2: sectors that are proven go on being proven beyond their term. Power and pledge stay.

use std::collections::BTreeMap;

use fil_actor_miner_state::v18::{
    Deadline, ExpirationExtension2, ExtendSectorExpiration2Params, PowerPair, QuantSpec, SectorOnChainInfo, Sectors,
    State, ValidatedExpirationExtension,
};
use fil_actors_shared::v18::actor_error::ActorContext;
use fil_actors_shared::v18::runtime::Policy;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use fvm_shared::error::ExitCode;
use fvm_shared::sector::SectorSize;
use num_traits::{Signed, Zero};

use super::precommit::check_expiration;
use super::{controllers, notify_pledge, notify_power};
use crate::store::Store;
use crate::vm::abort::{Abort, Within};
use crate::vm::{Call, World};

pub(super) fn extend_expirations(
    call: &mut Call<'_, '_>,
    ExtendSectorExpiration2Params { extensions }: ExtendSectorExpiration2Params,
) -> Result<Vec<u8>, Abort> {
    let world = call.world();
    let (policy, store) = (&world.network.policy, world.store);
    let by_deadline = validated(policy, extensions)?;
    let mut state: State = call.state()?;
    let info = state.get_info(store)?;
    call.only(controllers(&info))?;

    let mut deadlines = state.load_deadlines(store)?;
    let mut sectors = Sectors::load(store, &state.sectors).map_err(anyhow::Error::from)?;
    let (mut power, mut pledge) = (PowerPair::zero(), TokenAmount::zero());
    for (index, extensions) in by_deadline {
        let quant = state.quant_spec_for_deadline(policy, index);
        let mut deadline = deadlines.load_deadline(store, index)?;
        for extension in &extensions {
            let changed = extend(world, &mut deadline, &mut sectors, info.sector_size, quant, extension)?;
            power += &changed.power;
            pledge += changed.pledge;
        }
        deadlines
            .update_deadline(policy, store, index, &deadline)
            .within(|| format!("failed to save deadline {index}"))?;
    }
    state.sectors = sectors.amt.flush().map_err(anyhow::Error::from)?;
    state.save_deadlines(store, deadlines)?;
    call.save(&state);
    notify_power(call, &power)?;
    notify_pledge(call, &pledge)?;
    Ok(Vec::new())
}

/// The extensions by deadline. Sectors with claims need the verified registry, which is not part of this chain.
fn validated(
    policy: &Policy,
    extensions: Vec<ExpirationExtension2>,
) -> Result<BTreeMap<u64, Vec<ValidatedExpirationExtension>>, Abort> {
    let mut by_deadline: BTreeMap<u64, Vec<_>> = BTreeMap::new();
    for extension in extensions {
        let (deadline, deadlines) = (extension.deadline, policy.wpost_period_deadlines);
        if deadline >= deadlines {
            return Err(Abort::illegal_argument(format!("deadline {deadline} not in range 0..{deadlines}")));
        }
        let claims = |claim: &&fil_actor_miner_state::v18::SectorClaim| {
            !claim.maintain_claims.is_empty() || !claim.drop_claims.is_empty()
        };
        if let Some(claim) = extension.sectors_with_claims.iter().find(claims) {
            let text = format!("failed to get claims for sector {}: invalid claims", claim.sector_number);
            return Err(Abort::illegal_argument(text));
        }
        by_deadline.entry(deadline).or_default().push(extension.into());
    }
    Ok(by_deadline)
}

/// What an extension changes in the miner's totals: nothing, as long as power and pledge stay with the sector.
struct Changed {
    power: PowerPair,
    pledge: TokenAmount,
}

fn extend(
    world: World<'_>,
    deadline: &mut Deadline,
    sectors: &mut Sectors<'_, Store>,
    size: SectorSize,
    quant: QuantSpec,
    extension: &ValidatedExpirationExtension,
) -> Result<Changed, Abort> {
    let ValidatedExpirationExtension { deadline: index, partition: partition_index, sectors: numbers, new_expiration } =
        extension;
    let policy = &world.network.policy;
    let key = || format!("PartitionKey {{ deadline: {index}, partition: {partition_index} }}");
    let mut partitions = deadline.partitions_amt(world.store)?;
    let found = partitions.get(*partition_index).map_err(anyhow::Error::from)?.cloned();
    let mut partition =
        found.ok_or_else(|| Abort::new(ExitCode::USR_NOT_FOUND, format!("no such partition {}", key())))?;
    let old = sectors.load_sectors(numbers).context("failed to load sectors")?;
    let new: Vec<SectorOnChainInfo> =
        old.iter().map(|sector| extended(policy, world.epoch, sector, *new_expiration)).collect::<Result<_, _>>()?;
    sectors.store(new.clone()).within(|| format!("failed to update sectors {numbers:?}"))?;
    let (power, pledge, fee) = partition
        .replace_sectors(world.store, &old, &new, size, quant)
        .within(|| format!("failed to replace sector expirations at {}", key()))?;
    partitions.set(*partition_index, partition).map_err(anyhow::Error::from)?;
    deadline.partitions = partitions.flush().map_err(anyhow::Error::from)?;
    deadline
        .add_expiration_partitions(world.store, *new_expiration, &[*partition_index], quant)
        .within(|| format!("failed to add expiration partitions to deadline {index} epoch {new_expiration}"))?;
    deadline.live_power += &power;
    deadline.daily_fee += fee;
    Ok(Changed { power, pledge })
}

/// A sector with a later expiration. Its power counts from now on, so the weight of its data is cut to what is left
/// of the old term.
fn extended(
    policy: &Policy,
    epoch: ChainEpoch,
    sector: &SectorOnChainInfo,
    expiration: ChainEpoch,
) -> Result<SectorOnChainInfo, Abort> {
    // Its deadline's end, at which it goes, is still to come.
    if sector.expiration < epoch {
        return Err(Abort::forbidden(format!(
            "cannot extend expiration for expired sector {} at {}",
            sector.sector_number, sector.expiration
        )));
    }
    if expiration < sector.expiration {
        return Err(Abort::illegal_argument(format!(
            "cannot reduce sector {} expiration to {expiration} from {}",
            sector.sector_number, sector.expiration
        )));
    }
    check_expiration(policy, epoch, sector.activation, expiration, sector.seal_proof)?;
    let mut extended = SectorOnChainInfo { expiration, power_base_epoch: epoch, ..sector.clone() };
    if sector.deal_weight.is_positive() {
        let (left, whole) = (sector.expiration - epoch, sector.expiration - sector.power_base_epoch);
        extended.deal_weight = &sector.deal_weight * left / whole;
    }
    Ok(extended)
}

#[cfg(test)]
mod tests {
    use fvm_shared::sector::RegisteredSealProof;

    use super::*;

    /// It goes at the end of its deadline, up to a proving period after its expiration.
    #[test]
    fn a_sector_past_its_expiration_is_not_extended_while_it_is_still_there() {
        let sector = SectorOnChainInfo {
            seal_proof: RegisteredSealProof::StackedDRG2KiBV1P1,
            activation: 100,
            power_base_epoch: 100,
            expiration: 600_000,
            ..SectorOnChainInfo::default()
        };
        let extended = |epoch| extended(&Policy::default(), epoch, &sector, 1_200_000);
        assert_eq!(extended(600_000).unwrap().expiration, 1_200_000);
        let refused = extended(600_001).unwrap_err();
        assert_eq!(refused.code, ExitCode::USR_FORBIDDEN, "{refused:?}");
    }
}
