//! The mock beacon of private Lotus networks: an entry's data is the hash of its round. Anyone can
//! compute it, in advance, too; it is randomness in form only. A reorganisation may give the beacon another
//! turn, from where on its entries differ: that is how a test changes the randomness of a challenge.

use std::collections::BTreeMap;

use curio_chain::types::BeaconEntry;
use fvm_shared::clock::ChainEpoch;

/// Round of an epoch.
const ROUND_OFFSET: i64 = 100;

/// The entries that blocks made from now on carry.
#[derive(Default)]
pub struct Beacon {
    /// Numbers that enter into the entries from an epoch on; none at the start.
    turns: BTreeMap<ChainEpoch, u64>,
}

impl Beacon {
    /// The entry of an epoch.
    pub fn entry(&self, epoch: ChainEpoch) -> BeaconEntry {
        let round = round(epoch);
        let mut text = round.to_be_bytes().to_vec();
        if let Some((_, turn)) = self.turns.range(..=epoch).next_back() {
            text.extend_from_slice(&turn.to_be_bytes());
        }
        BeaconEntry { round, data: blake2b(&text).to_vec() }
    }

    /// From this epoch on there are other entries; they follow from the number.
    pub fn turn(&mut self, from: ChainEpoch, number: u64) {
        self.turns.split_off(&from);
        self.turns.insert(from, number);
    }
}

/// Round of an epoch's entry.
pub fn round(epoch: ChainEpoch) -> u64 {
    (epoch + ROUND_OFFSET).unsigned_abs()
}

/// Blake2b with 32 bytes of output.
pub fn blake2b(data: &[u8]) -> [u8; 32] {
    let hash = blake2b_simd::Params::new().hash_length(32).hash(data);
    hash.as_bytes().try_into().expect("the output length was set to 32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    /// Recorded from a Lotus node (StateGetBeaconEntry).
    #[test]
    fn entries_are_those_of_a_lotus_node() {
        for (epoch, round, data) in [
            (546, 646, "gp93u2BIdv9z+dKIGpbpDh8TAkhZVn39Le6P6BN/PX8="),
            (551, 651, "StQ1z9NQlgyKvSsT3eUa8lyDvW6Dbvi3SWc/EWKKLLI="),
            (1037, 1137, "+DY53Szydjrt+/+wbP5A1VByOevnuuSFVR2cK1lPFJg="),
        ] {
            assert_eq!(Beacon::default().entry(epoch), BeaconEntry { round, data: STANDARD.decode(data).unwrap() });
        }
    }

    #[test]
    fn a_turn_changes_the_entries_from_its_epoch_on() {
        let plain = Beacon::default();
        let mut turned = Beacon::default();
        turned.turn(20, 1);
        turned.turn(10, 2);
        assert_eq!(turned.entry(9), plain.entry(9));
        let mut once = Beacon::default();
        once.turn(10, 2);
        for epoch in [10, 19, 20, 21] {
            assert_ne!(turned.entry(epoch), plain.entry(epoch), "{epoch}");
            assert_eq!(turned.entry(epoch), once.entry(epoch), "{epoch}: the later turn took the place of the earlier");
        }
    }
}
