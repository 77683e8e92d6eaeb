//! Sectors that a message names by deadline and partition, and when such a message comes too late.

use fil_actor_miner_state::v18::{DeadlineInfo, DeadlineSectorMap, State, new_deadline_info};
use fil_actors_shared::v18::runtime::Policy;
use fvm_ipld_bitfield::BitField;
use fvm_shared::clock::ChainEpoch;

use crate::vm::abort::Abort;

/// One entry of a message.
pub(super) struct Declaration {
    pub deadline: u64,
    pub partition: u64,
    pub sectors: BitField,
}

/// Puts entries together by deadline and partition. What is bounded is the partitions and sectors that they name, not
/// the number of entries.
pub(super) fn grouped(
    policy: &Policy,
    declarations: impl Iterator<Item = Declaration>,
) -> Result<DeadlineSectorMap, Abort> {
    let mut map = DeadlineSectorMap::new();
    for Declaration { deadline, partition, sectors } in declarations {
        map.add(policy, deadline, partition, sectors).map_err(|error| {
            Abort::illegal_argument(format!("failed to process deadline {deadline}, partition {partition}: {error}"))
        })?;
    }
    map.check(policy.addressed_partitions_max, policy.addressed_sectors_max)
        .map_err(|error| Abort::illegal_argument(format!("cannot process requested parameters: {error}")))?;
    Ok(map)
}

/// The next occurrence of a deadline, when faults and recoveries can still be declared for it. `what` is `fault` or
/// `recovery`.
pub(super) fn before_cutoff(
    policy: &Policy,
    what: &str,
    state: &State,
    index: u64,
    epoch: ChainEpoch,
) -> Result<DeadlineInfo, Abort> {
    let period_start = state.current_proving_period_start(policy, epoch);
    let target = new_deadline_info(policy, period_start, index, epoch).next_not_elapsed();
    match target.fault_cutoff_passed() {
        false => Ok(target),
        true => Err(Abort::illegal_argument(format!(
            "failed {what} declaration at deadline {index}: late fault or recovery declaration"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use fvm_shared::error::ExitCode;

    use super::*;

    #[test]
    fn the_partitions_that_a_message_names_are_bounded_and_not_how_often_it_names_them() {
        let policy = Policy::default();
        let most = policy.addressed_partitions_max;
        let of_partition = |partition| Declaration { deadline: 0, partition, sectors: BitField::new() };
        assert!(grouped(&policy, (0..=most).map(|_| of_partition(7))).is_ok());
        let refused = grouped(&policy, (0..=most).map(of_partition)).err();
        assert_eq!(refused.map(|abort| abort.code), Some(ExitCode::USR_ILLEGAL_ARGUMENT));
    }
}
