//! What is to be proven, looked at or given up in a partition. Pure.

use curio_chain::BitField;
use curio_chain::types::Partition;

/// Sectors that a window PoSt of the partition covers, ascending: the live ones that are not faulty, and the faulty ones
/// that were declared recovered.
pub fn to_prove(partition: &Partition) -> Vec<u64> {
    let Partition { faulty_sectors, recovering_sectors, live_sectors, all_sectors: _, active_sectors: _ } = partition;
    let healthy = live_sectors - faulty_sectors;
    numbers(&(&healthy | &(live_sectors & recovering_sectors)))
}

/// Faulty sectors that nobody declared recovered, ascending.
pub fn to_recover(partition: &Partition) -> Vec<u64> {
    let faulty = &partition.faulty_sectors - &partition.recovering_sectors;
    numbers(&(&faulty & &partition.live_sectors))
}

/// Sectors that the chain takes for healthy, ascending.
pub fn healthy(partition: &Partition) -> Vec<u64> {
    numbers(&(&partition.live_sectors - &partition.faulty_sectors))
}

/// Whether a proof of these sectors makes sectors recover.
pub fn recovers(partition: &Partition, proven: &[u64]) -> bool {
    proven.iter().any(|number| partition.recovering_sectors.get(*number))
}

/// A set of sectors as the chain writes it.
pub fn bits(sectors: &[u64]) -> BitField {
    BitField::try_from_bits(sectors.iter().copied()).expect("sector numbers are far below the largest bit")
}

fn numbers(bits: &BitField) -> Vec<u64> {
    bits.iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten sectors: 0 and 1 terminated, 2 to 4 faulty, 4 recovering, 9 new.
    fn partition() -> Partition {
        Partition {
            all_sectors: bits(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
            faulty_sectors: bits(&[2, 3, 4]),
            recovering_sectors: bits(&[4]),
            live_sectors: bits(&[2, 3, 4, 5, 6, 7, 8, 9]),
            active_sectors: bits(&[5, 6, 7, 8]),
        }
    }

    #[test]
    fn what_is_live_and_not_faulty_is_proven_and_what_recovers_is_too() {
        assert_eq!(to_prove(&partition()), [4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn faulty_sectors_are_looked_at_until_they_are_declared() {
        assert_eq!(to_recover(&partition()), [2, 3]);
    }

    #[test]
    fn a_sector_that_is_faulty_and_recovering_is_not_healthy_yet() {
        assert_eq!(healthy(&partition()), [5, 6, 7, 8, 9]);
    }

    #[test]
    fn a_proof_recovers_only_by_a_sector_that_it_covers() {
        assert!(recovers(&partition(), &[4, 5]));
        assert!(!recovers(&partition(), &[5, 6]));
    }

    #[test]
    fn an_empty_partition_asks_for_nothing() {
        let none = || BitField::new();
        let empty = Partition {
            all_sectors: bits(&[0]),
            faulty_sectors: none(),
            recovering_sectors: none(),
            live_sectors: none(),
            active_sectors: none(),
        };
        assert_eq!(to_prove(&empty), Vec::<u64>::new());
        assert_eq!(to_recover(&empty), Vec::<u64>::new());
    }
}
