//! The mock beacon of private Lotus networks: an entry's data is the hash of its round. Anyone can
//! compute it, in advance, too; it is randomness in form only.

use curio_chain::types::BeaconEntry;
use fvm_shared::clock::ChainEpoch;

/// Round of an epoch.
const ROUND_OFFSET: i64 = 100;

/// The entry of an epoch.
pub fn entry(epoch: ChainEpoch) -> BeaconEntry {
    let round = (epoch + ROUND_OFFSET).unsigned_abs();
    BeaconEntry { round, data: blake2b(&round.to_be_bytes()).to_vec() }
}

/// Digest from which randomness of an epoch is drawn.
pub fn digest(epoch: ChainEpoch) -> [u8; 32] {
    blake2b(&entry(epoch).data)
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
            assert_eq!(entry(epoch), BeaconEntry { round, data: STANDARD.decode(data).unwrap() });
        }
    }
}
