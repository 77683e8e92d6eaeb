//! Everything that reaches a task from outside: database, chain, files, prover, configuration, network
//! and chance. `main` builds it; tests build it with other parts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use curio_chain::Client;
use curio_core::config::Config;
use curio_core::epoch::EpochDelta;
use curio_harmony::Db;
use curio_proofs::Snark;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::chain_sched::Fence;
use crate::parameters::Parameters;
use crate::post::counters::PostCounters;
use crate::prove::Prover;
use crate::seal::counters::Counters;
use crate::seal::fault_pause::FaultPause;
use crate::storage::Storage;

/// Shared by all tasks and loops of one runner; cloning is cheap.
#[derive(Clone)]
pub struct Deps {
    pub db: Db,
    pub chain: Client,
    /// Must pass before anything signed leaves this machine.
    pub fence: Fence,
    pub storage: Storage,
    pub prover: Prover,
    pub config: Arc<Config>,
    pub network: Network,
    /// Stable name of this machine, as registered.
    pub machine: Arc<str>,
    pub chance: Chance,
    /// Real SNARKs, or in a debug build simulated ones.
    pub snark: Snark,
    /// Which proof parameters this machine has.
    pub parameters: Parameters,
    /// For piece data by URL.
    pub http: reqwest::Client,
    pub counters: Arc<Counters>,
    pub post_counters: Arc<PostCounters>,
    pub fault_pause: FaultPause,
}

/// What a runner learns once from its chain node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    pub name: String,
    /// Time between epochs.
    pub block_delay: Duration,
    /// Epochs between the execution of a pre-commit and its seed.
    pub challenge_delay: EpochDelta,
}

/// Time between epochs of the public networks.
const PUBLIC_BLOCK_DELAY: Duration = Duration::from_secs(30);

impl Network {
    /// Asks the chain node.
    ///
    /// # Errors
    /// What the node, or the way to it, said.
    pub async fn learn(chain: &Client) -> Result<Network, curio_chain::RpcError> {
        let params = chain.state_get_network_params().await?;
        Ok(Network {
            name: params.network_name,
            block_delay: Duration::from_secs(params.block_delay_secs),
            challenge_delay: params.pre_commit_challenge_delay,
        })
    }

    /// Whether this is a test network, recognised as Curio does by epochs shorter than 30 s. Its sectors
    /// are small, so tasks ask for small resources.
    pub fn is_test(&self) -> bool {
        self.block_delay < PUBLIC_BLOCK_DELAY
    }
}

/// Where random choices come from.
#[derive(Clone, Debug)]
pub struct Chance(Arc<Mutex<StdRng>>);

impl Chance {
    /// From the operating system.
    pub fn system() -> Chance {
        Chance(Arc::new(Mutex::new(StdRng::from_os_rng())))
    }

    /// The same choices for the same seed.
    pub fn seeded(seed: u64) -> Chance {
        Chance(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// 32 random bytes.
    pub fn entropy(&self) -> [u8; 32] {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_chooses_the_same() {
        assert_eq!(Chance::seeded(1).entropy(), Chance::seeded(1).entropy());
        assert_ne!(Chance::seeded(1).entropy(), Chance::seeded(2).entropy());
    }

    #[test]
    fn short_epochs_make_a_test_network() {
        let network =
            |seconds| Network { name: "n".to_owned(), block_delay: Duration::from_secs(seconds), challenge_delay: 10 };
        assert!(network(4).is_test());
        assert!(!network(30).is_test());
    }
}
