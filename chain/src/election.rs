//! Elections: who may make a block, how often it counts, and how good its ticket is. Pure.
//!
//! A miner signs randomness of the beacon with its worker key; the hash of the signature, a number that
//! nobody can choose, is held against the miner's share of the network's power. What has to be signed
//! is answered here as 32 bytes; `WalletSign` turns them into a VRF proof (the signature's data).

use blake2b_simd::Params as Blake2b;
use curio_core::epoch::{BLOCKS_PER_EPOCH, TICKET_RANDOMNESS_LOOKBACK};
use curio_core::{Epoch, SpId};
use num_bigint::{BigInt, Sign};

use crate::message::{RandomnessTag, draw_randomness, miner_entropy};
use crate::types::{BeaconEntry, MiningBaseInfo, Ticket, TipSet};

/// The most that one block can count.
pub const MAX_WIN_COUNT: i64 = 3 * BLOCKS_PER_EPOCH as i64;

impl MiningBaseInfo {
    /// The beacon entry that the election is drawn from: the newest that the block will carry, else the
    /// last one below.
    pub fn beacon(&self) -> &BeaconEntry {
        self.beacon_entries.last().unwrap_or(&self.prev_beacon_entry)
    }
}

/// What the worker key signs to take part in the election of `round`.
pub fn election_input(beacon: &BeaconEntry, round: Epoch, sp: SpId) -> [u8; 32] {
    let tag = RandomnessTag::ElectionProofProduction.number();
    draw_randomness(&beacon.data, tag, round, &miner_entropy(sp))
}

/// What the worker key signs to make the ticket of a block of `round` on top of `parent`, the ticket of
/// [`min_ticket`].
pub fn ticket_input(beacon: &BeaconEntry, round: Epoch, sp: SpId, parent: &Ticket) -> [u8; 32] {
    let tag = RandomnessTag::TicketProduction.number();
    let entropy = [miner_entropy(sp), parent.vrf_proof.clone()].concat();
    draw_randomness(&beacon.data, tag, round - TICKET_RANDOMNESS_LOOKBACK, &entropy)
}

/// The randomness of the winning PoSt of `round`, as a field element.
pub fn winning_post_randomness(beacon: &BeaconEntry, round: Epoch, sp: SpId) -> [u8; 32] {
    let tag = RandomnessTag::WinningPoStChallengeSeed.number();
    as_field_element(draw_randomness(&beacon.data, tag, round, &miner_entropy(sp)))
}

/// Clears the two highest bits, so that the 32 bytes are below the order of the proofs' field.
pub fn as_field_element(mut randomness: [u8; 32]) -> [u8; 32] {
    randomness[31] &= 0x3f;
    randomness
}

/// The ticket of a tipset: that of the block whose ticket hashes lowest. None for a tipset without
/// tickets, which is the genesis of some networks.
pub fn min_ticket(tipset: &TipSet) -> Option<&Ticket> {
    tipset.blocks.iter().filter_map(|block| block.ticket.as_ref()).min_by_key(|ticket| hash(&ticket.vrf_proof))
}

/// How good a ticket is, from 0 to 1. `MpoolSelect` takes it as the chance that the block comes first.
pub fn ticket_quality(ticket: &Ticket) -> f64 {
    let hash = hash(&ticket.vrf_proof);
    // The first 53 bits are all that a number of this type holds.
    let leading = u64::from_be_bytes(hash[..8].try_into().expect("a hash has 32 bytes"));
    1.0 - leading as f64 / (u64::MAX as f64 + 1.0)
}

/// How often a VRF proof wins for a miner with this share of the network's quality-adjusted power: 0 is
/// no block, at most [`MAX_WIN_COUNT`]. Every node computes it, and a block that claims otherwise is
/// refused, so this is the network's own fixed-point arithmetic and not a better one.
pub fn win_count(vrf_proof: &[u8], miner_power: &BigInt, network_power: &BigInt) -> i64 {
    if miner_power.sign() != Sign::Plus || network_power.sign() != Sign::Plus {
        return 0;
    }
    let drawn = BigInt::from_bytes_be(Sign::Plus, &hash(vrf_proof));
    // Wins are distributed by Poisson: with an expectation of lambda, the chance of k wins is
    // e^-lambda * lambda^k / k!. The count is the lowest k whose chance of more wins is not above the draw.
    let lambda = ((miner_power * BLOCKS_PER_EPOCH) << PRECISION) / network_power;
    let mut exactly = exp_of_negative(&lambda);
    let mut more = (BigInt::from(1) << PRECISION) - &exactly;
    let mut wins = 0;
    while drawn < more && wins < MAX_WIN_COUNT {
        wins += 1;
        exactly = ((exactly / wins) * &lambda) >> PRECISION;
        more -= &exactly;
    }
    wins
}

/// Bits after the binary point of all fractions here.
const PRECISION: u32 = 256;

/// Coefficients of the two polynomials whose quotient stands for e^-x, highest power first, times 2^128.
/// Consensus: digits of a better approximation would be wrong.
const NUMERATOR: [&str; 8] = [
    "-648770010757830093818553637600",
    "67469480939593786226847644286976",
    "-3197587544499098424029388939001856",
    "89244641121992890118377641805348864",
    "-1579656163641440567800982336819953664",
    "17685496037279256458459817590917169152",
    "-115682590513835356866803355398940131328",
    "340282366920938463463374607431768211456",
];
/// See [`NUMERATOR`].
const DENOMINATOR: [&str; 14] = [
    "1225524182432722209606361",
    "114095592300906098243859450",
    "5665570424063336070530214243",
    "194450132448609991765137938448",
    "5068267641632683791026134915072",
    "104716890604972796896895427629056",
    "1748338658439454459487681798864896",
    "23704654329841312470660182937960448",
    "259380097567996910282699886670381056",
    "2250336698853390384720606936038375424",
    "14978272436876548034486263159246028800",
    "72144088983913131323343765784380833792",
    "224599776407103106596571252037123047424",
    "340282366920938463463374607431768211456",
];

/// e^-x for 0 <= x <= 5, where both polynomials are positive.
fn exp_of_negative(x: &BigInt) -> BigInt {
    (polynomial(&NUMERATOR, x) << PRECISION) / polynomial(&DENOMINATOR, x)
}

fn polynomial(coefficients: &[&str], x: &BigInt) -> BigInt {
    coefficients.iter().fold(BigInt::ZERO, |sum, coefficient| {
        let coefficient: BigInt = coefficient.parse().expect("the table holds decimal numbers");
        ((sum * x) >> PRECISION) + (coefficient << (PRECISION - 128))
    })
}

fn hash(vrf_proof: &[u8]) -> [u8; 32] {
    let hash = Blake2b::new().hash_length(32).hash(vrf_proof);
    hash.as_bytes().try_into().expect("the hash length was set to 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power(bytes: u64) -> BigInt {
        BigInt::from(bytes)
    }

    /// Distinct VRF proofs; their hashes are as good as random.
    fn proofs() -> impl Iterator<Item = [u8; 4]> {
        (0..4000_u32).map(u32::to_le_bytes)
    }

    fn ticket(byte: u8) -> Ticket {
        Ticket { vrf_proof: vec![byte; 96] }
    }

    #[test]
    fn wins_are_distributed_as_the_share_of_the_power() {
        // (miner's power of 100, mean wins: the share of five blocks)
        for (share, mean) in [(100, 5.0), (20, 1.0), (4, 0.2)] {
            let wins: i64 = proofs().map(|proof| win_count(&proof, &power(share), &power(100))).sum();
            let found = wins as f64 / proofs().count() as f64;
            // Five standard deviations of the mean of a Poisson distribution.
            let tolerance = 5.0 * (mean / proofs().count() as f64).sqrt();
            assert!((found - mean).abs() < tolerance, "share {share}: {found} wins, expected {mean}");
        }
    }

    #[test]
    fn more_power_never_wins_less() {
        for proof in proofs().take(200) {
            let wins: Vec<i64> = (0..=100).map(|share| win_count(&proof, &power(share), &power(100))).collect();
            assert!(wins.is_sorted(), "{wins:?}");
            assert!(wins[100] <= MAX_WIN_COUNT);
        }
    }

    #[test]
    fn without_power_nothing_is_won() {
        for (miner, network) in [(0, 100), (0, 0), (1, 0)] {
            assert_eq!(win_count(b"proof", &power(miner), &power(network)), 0, "{miner} of {network}");
        }
    }

    #[test]
    fn the_exponential_is_the_real_one() {
        let one = (BigInt::from(1) << PRECISION).to_string().parse::<f64>().expect("a number");
        for (numerator, expected) in
            [(0, 1.0), (1, 0.606_530_659_712_633_4), (2, 0.367_879_441_171_442_3), (10, 0.006_737_946_999_085_467)]
        {
            let x = (BigInt::from(numerator) << PRECISION) / 2;
            let found = exp_of_negative(&x).to_string().parse::<f64>().expect("a number") / one;
            assert!((found - expected).abs() < 1e-14, "e^-{}: {found}", numerator as f64 / 2.0);
        }
    }

    #[test]
    fn the_quality_of_a_ticket_falls_with_its_hash() {
        let mut tickets: Vec<Ticket> = (0..50).map(ticket).collect();
        tickets.sort_by_key(|ticket| hash(&ticket.vrf_proof));
        let qualities: Vec<f64> = tickets.iter().map(ticket_quality).collect();
        assert!(qualities.is_sorted_by(|a, b| a > b), "{qualities:?}");
        assert!(qualities.iter().all(|quality| (0.0..=1.0).contains(quality)));
    }

    #[test]
    fn randomness_of_a_proof_is_below_the_order_of_its_field() {
        assert_eq!(as_field_element([0xff; 32])[31], 0x3f);
        assert_eq!(as_field_element([0xff; 32])[..31], [0xff; 31]);
    }

    #[test]
    fn every_draw_has_its_own_input() {
        let beacon = BeaconEntry { round: 7, data: vec![1; 48] };
        let draws = [
            election_input(&beacon, Epoch(9), SpId(1000)),
            election_input(&beacon, Epoch(10), SpId(1000)),
            election_input(&beacon, Epoch(9), SpId(1001)),
            ticket_input(&beacon, Epoch(9), SpId(1000), &ticket(1)),
            ticket_input(&beacon, Epoch(9), SpId(1000), &ticket(2)),
            winning_post_randomness(&beacon, Epoch(9), SpId(1000)),
        ];
        for (index, draw) in draws.iter().enumerate() {
            assert!(!draws[..index].contains(draw), "draw {index}");
        }
    }
}
