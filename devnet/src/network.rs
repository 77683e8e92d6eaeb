//! The network that this chain imitates: a private Lotus network with 2 KiB sectors ("2k"), network
//! version 28, actors v18. Periods and deadlines are those of mainnet unless the options shorten them; sector
//! sizes, the pre-commit challenge delay and the minimum power differ.

use curio_core::SealProof;
use fil_actors_shared::v18::runtime::{Policy, ProofSet};
use fvm_shared::bigint::BigInt;
use fvm_shared::sector::{RegisteredPoStProof, RegisteredSealProof};

use crate::options::Options;
use crate::post_policy::PostPolicy;

/// Network version of the imitated network.
pub const NETWORK_VERSION: u32 = 28;
/// EIP-155 chain id of private Lotus networks.
pub const CHAIN_ID: u64 = 31_415_926;
/// Base fee in attoFIL per unit of gas: the floor of the protocol, where an idle network stays.
pub const BASE_FEE_ATTO: u64 = 100;
/// Gas that one block may hold.
pub const BLOCK_GAS_LIMIT: u64 = 10_000_000_000;

/// Epochs from a pre-commit to its seed.
const PRE_COMMIT_CHALLENGE_DELAY: i64 = 10;
/// Raw byte power below which a miner wins nothing, in bytes.
const MINIMUM_POWER_BYTES: i64 = 2048;

/// Name and rules of one network.
#[derive(Clone, Debug)]
pub struct Network {
    /// As `StateNetworkName` says it.
    pub name: String,
    /// The published policy with the 2k network's changes.
    pub policy: Policy,
}

impl Network {
    /// The 2k network with the sector sizes and the proving period of the options.
    pub fn of(options: &Options) -> Network {
        let mut policy = Policy {
            pre_commit_challenge_delay: PRE_COMMIT_CHALLENGE_DELAY,
            minimum_consensus_power: MINIMUM_POWER_BYTES.into(),
            valid_pre_commit_proof_type: ProofSet::default(),
            valid_post_proof_type: ProofSet::default(),
            ..Policy::default()
        };
        set_post_policy(&mut policy, options.post);
        for &proof in &options.sector_sizes {
            let (seal, synthetic, window) = registered(proof);
            policy.valid_pre_commit_proof_type.insert(seal);
            policy.valid_pre_commit_proof_type.insert(synthetic);
            policy.valid_post_proof_type.insert(window);
        }
        Network { name: options.network_name.clone(), policy }
    }

    /// Power whose initial pledge is the deposit for creating a miner, in bytes.
    pub fn create_miner_deposit_power(&self) -> BigInt {
        &self.policy.minimum_consensus_power / 10
    }
}

/// What is counted in proving periods keeps its ratio to them: how long a proof can be disputed, and after how many
/// periods a faulty sector ends.
fn set_post_policy(policy: &mut Policy, post: PostPolicy) {
    let PostPolicy { deadlines, challenge_window, challenge_lookback, fault_cutoff } = post;
    let (period, old_period) = (post.period(), policy.wpost_proving_period);
    policy.wpost_dispute_window = policy.wpost_dispute_window * period / old_period;
    policy.fault_max_age = policy.fault_max_age * period / old_period;
    policy.wpost_proving_period = period;
    policy.wpost_period_deadlines = deadlines;
    policy.wpost_challenge_window = challenge_window;
    policy.wpost_max_chain_commit_age = challenge_window;
    policy.wpost_challenge_lookback = challenge_lookback;
    policy.fault_declaration_cutoff = fault_cutoff;
}

/// The interactive, the synthetic and the window PoSt proof of a sector size.
fn registered(proof: SealProof) -> (RegisteredSealProof, RegisteredSealProof, RegisteredPoStProof) {
    use {RegisteredPoStProof as P, RegisteredSealProof as S};
    match proof {
        SealProof::StackedDrg2KiBV1_1 => {
            (S::StackedDRG2KiBV1P1, S::StackedDRG2KiBV1P1_Feat_SyntheticPoRep, P::StackedDRGWindow2KiBV1P1)
        }
        SealProof::StackedDrg8MiBV1_1 => {
            (S::StackedDRG8MiBV1P1, S::StackedDRG8MiBV1P1_Feat_SyntheticPoRep, P::StackedDRGWindow8MiBV1P1)
        }
        SealProof::StackedDrg512MiBV1_1 => {
            (S::StackedDRG512MiBV1P1, S::StackedDRG512MiBV1P1_Feat_SyntheticPoRep, P::StackedDRGWindow512MiBV1P1)
        }
        SealProof::StackedDrg32GiBV1_1 => {
            (S::StackedDRG32GiBV1P1, S::StackedDRG32GiBV1P1_Feat_SyntheticPoRep, P::StackedDRGWindow32GiBV1P1)
        }
        SealProof::StackedDrg64GiBV1_1 => {
            (S::StackedDRG64GiBV1P1, S::StackedDRG64GiBV1P1_Feat_SyntheticPoRep, P::StackedDRGWindow64GiBV1P1)
        }
    }
}
