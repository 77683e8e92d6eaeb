//! Sectors as the chain has them, and whether it would take a change.

use std::collections::{BTreeMap, BTreeSet};

use curio_chain::address::id_address;
use curio_chain::types::{DeadlineInfo, SectorOnChainInfo};
use curio_chain::{BigInt, Client};
use curio_core::epoch::MAX_SECTOR_EXPIRATION_EXTENSION;
use curio_core::{Epoch, SectorRef, SpId};

use super::{Change, ChangeError};
use crate::post::window::select;

/// A sector and where it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Placed {
    pub info: SectorOnChainInfo,
    pub deadline: u64,
    pub partition: u64,
    /// Proven, and not faulty.
    pub active: bool,
}

/// A miner's sectors at one head.
pub(super) struct OnChain {
    pub now: DeadlineInfo,
    pub sectors: BTreeMap<u64, Placed>,
}

/// Finds live sectors.
///
/// # Errors
/// [`ChangeError::NotLive`] for the first one that is not; chain away.
pub(super) async fn find(chain: &Client, sp: SpId, numbers: &[u64]) -> Result<OnChain, ChangeError> {
    let failed = || ChangeError::chain(sp);
    let (miner, wanted) = (id_address(sp), BTreeSet::from_iter(numbers.iter().copied()));
    let head = chain.chain_head().await.map_err(failed())?;
    let now = chain.state_miner_proving_deadline(&miner, head.key()).await.map_err(failed())?.seen_from(head.height);
    let mut live: BTreeMap<u64, (u64, u64, bool)> = BTreeMap::new();
    for deadline in 0..now.wpost_period_deadlines {
        let partitions = chain.state_miner_partitions(&miner, deadline, head.key()).await.map_err(failed())?;
        for (partition, of) in (0..).zip(&partitions) {
            let found = of.live_sectors.iter().filter(|number| wanted.contains(number));
            live.extend(found.map(|number| (number, (deadline, partition, of.active_sectors.get(number)))));
        }
    }
    // Only these: a large miner has millions.
    let filter = select::bits(&live.keys().copied().collect::<Vec<u64>>());
    let infos = chain.state_miner_sectors(&miner, Some(&filter), head.key()).await.map_err(failed())?;
    let place = |info: SectorOnChainInfo| {
        let (deadline, partition, active) = *live.get(&info.sector_number)?;
        Some((info.sector_number, Placed { info, deadline, partition, active }))
    };
    let sectors: BTreeMap<u64, Placed> = infos.into_iter().filter_map(place).collect();
    match wanted.into_iter().find(|number| !sectors.contains_key(number)) {
        Some(number) => Err(ChangeError::NotLive { sector: SectorRef::new(sp, number) }),
        None => Ok(OnChain { now, sectors }),
    }
}

/// Whether the chain would take the change at this epoch.
///
/// # Errors
/// The sentence that says why not.
pub(super) fn allows(sector: SectorRef, placed: &Placed, change: Change, now: Epoch) -> Result<(), ChangeError> {
    let Change::Extend { new_expiration: asked } = change else {
        return Ok(());
    };
    let latest = now + MAX_SECTOR_EXPIRATION_EXTENSION;
    if !placed.active {
        return Err(ChangeError::NotActive { sector });
    }
    if placed.info.verified_deal_weight > BigInt::default() {
        return Err(ChangeError::Verified { sector });
    }
    if asked <= placed.info.expiration {
        return Err(ChangeError::NotLater { sector, now: placed.info.expiration, asked });
    }
    if asked > latest {
        return Err(ChangeError::TooLate { sector, asked, latest });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_is_later_than_now_and_not_beyond_what_the_chain_allows() {
        let sector = SectorRef::new(SpId(1000), 3);
        let text = include_str!("../../../tests/recorded/StateSectorGetInfo.json");
        let info: SectorOnChainInfo = serde_json::from_str(text).expect("the recorded answer is a sector");
        let info = SectorOnChainInfo { expiration: Epoch(1000), verified_deal_weight: BigInt::default(), ..info };
        let placed = Placed { info, deadline: 0, partition: 0, active: true };
        let extend = |epoch| Change::Extend { new_expiration: Epoch(epoch) };
        let verdict = |placed: &Placed, change| allows(sector, placed, change, Epoch(500));
        assert!(matches!(verdict(&placed, extend(1000)), Err(ChangeError::NotLater { .. })));
        assert!(verdict(&placed, extend(1001)).is_ok());
        let latest = 500 + MAX_SECTOR_EXPIRATION_EXTENSION;
        assert!(verdict(&placed, extend(latest)).is_ok());
        assert!(matches!(verdict(&placed, extend(latest + 1)), Err(ChangeError::TooLate { .. })));
        let idle = Placed { active: false, ..placed.clone() };
        assert!(matches!(verdict(&idle, extend(1001)), Err(ChangeError::NotActive { .. })));
        let info = SectorOnChainInfo { verified_deal_weight: BigInt::from(1), ..placed.info.clone() };
        let verified = Placed { info, ..placed };
        assert!(matches!(verdict(&verified, extend(1001)), Err(ChangeError::Verified { .. })));
        assert!(verdict(&verified, Change::Terminate).is_ok());
    }
}
