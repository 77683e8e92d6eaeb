//! A miner actor as commands look at it: everything at one head, so that what they show belongs together.

use std::time::Duration;

use curio_chain::types::{DeadlineInfo, MinerInfo, MinerPower, Partition, TipSet, TipSetKey};
use curio_chain::{Address, BigInt, Client, address};
use curio_core::{Config, Epoch, SpId};
use curio_harmony::Db;
use futures::{StreamExt, TryStreamExt};

use super::args::LayerArgs;
use super::output::span;
use super::{APPLICATION, CliError, Database};
use crate::settings::{self, Asker, Process};

/// How many questions to the chain node are on their way at a time.
pub(super) const CALLS_AT_A_TIME: usize = 8;

/// Which miner actor a command is about.
#[derive(Debug, clap::Args)]
pub(super) struct MinerArgs {
    /// Address of the miner actor, such as f01000. Default: the only one of this cluster.
    #[arg(long, value_name = "ADDRESS")]
    pub actor: Option<SpId>,
    #[command(flatten)]
    pub layers: LayerArgs,
}

/// What commands about the chain work with.
pub(super) struct Site {
    pub db: Db,
    pub chain: Client,
    pub config: Config,
}

impl Site {
    /// Opens the database and reads the layers; connects to no chain node yet.
    pub(super) async fn open(place: &Database, layers: &LayerArgs) -> Result<Site, CliError> {
        let db = place.open(APPLICATION).await?;
        let config = settings::load(&db, &layers.names()).await?.config;
        let chain = settings::chain_client(&config, &Process, Asker::Person)?;
        Ok(Site { db, chain, config })
    }

    /// The miner that was named, or the only one there is.
    pub(super) async fn miner(&self, named: Option<SpId>) -> Result<SpId, CliError> {
        if let Some(sp) = named {
            return Ok(sp);
        }
        only(&crate::post::miners::of(&self.db, &self.config).await?).map_err(CliError::refused)
    }
}

/// The only miner of a list.
fn only(miners: &[SpId]) -> Result<SpId, String> {
    match miners {
        [sp] => Ok(*sp),
        [] => Err("this cluster has sealed no sector yet, so it has no miner; name one with --actor".to_owned()),
        several => {
            let names: Vec<String> = several.iter().map(SpId::to_string).collect();
            Err(format!("this cluster has several miners; name one with --actor: {}", names.join(", ")))
        }
    }
}

/// A miner at one head.
pub(super) struct MinerView {
    pub sp: SpId,
    pub address: Address,
    pub head: TipSet,
    pub info: MinerInfo,
    /// The open deadline, or for a miner without sectors some later one.
    pub deadline: DeadlineInfo,
    /// Time between epochs.
    pub block_delay: Duration,
}

impl MinerView {
    /// Asks the chain node.
    ///
    /// # Errors
    /// What the node, or the way to it, said.
    pub(super) async fn load(chain: &Client, sp: SpId) -> Result<MinerView, CliError> {
        let address = address::id_address(sp);
        let block_delay = Duration::from_secs(chain.state_get_network_params().await?.block_delay_secs);
        let head = chain.chain_head().await?;
        let info = chain.state_miner_info(&address, head.key()).await.map_err(|error| match error.node_message() {
            Some(message) => CliError::refused(format!("the chain node knows no miner {sp}: {message}")),
            None => CliError::Chain(error),
        })?;
        let deadline = chain.state_miner_proving_deadline(&address, head.key()).await?;
        Ok(MinerView { sp, address, head, info, deadline, block_delay })
    }

    pub(super) fn key(&self) -> &TipSetKey {
        self.head.key()
    }

    /// The deadline with this index in its next window that is not over.
    pub(super) fn window(&self, index: u64) -> DeadlineInfo {
        self.deadline.window_of(index)
    }

    /// The partitions of one deadline.
    ///
    /// # Errors
    /// What the node, or the way to it, said.
    pub(super) async fn partitions(&self, chain: &Client, deadline: u64) -> Result<Vec<Partition>, CliError> {
        Ok(chain.state_miner_partitions(&self.address, deadline, self.key()).await?)
    }

    /// The partitions of all deadlines, by the deadline's index.
    ///
    /// # Errors
    /// As [`MinerView::partitions`].
    pub(super) async fn all_partitions(&self, chain: &Client) -> Result<Vec<Vec<Partition>>, CliError> {
        let deadlines = 0..self.deadline.wpost_period_deadlines;
        futures::stream::iter(deadlines)
            .map(|index| self.partitions(chain, index))
            .buffered(CALLS_AT_A_TIME)
            .try_collect()
            .await
    }

    /// When an epoch is or was, such as "in 12m" or "3s ago", by the chain's own pace.
    pub(super) fn when(&self, epoch: Epoch) -> String {
        when(epoch, self.deadline.current_epoch, self.block_delay)
    }
}

fn when(epoch: Epoch, now: Epoch, block_delay: Duration) -> String {
    let apart = |epochs: i64| block_delay.saturating_mul(u32::try_from(epochs).unwrap_or(u32::MAX));
    match epoch - now {
        0 => "now".to_owned(),
        epochs @ 1.. => format!("in {}", span(apart(epochs))),
        epochs => format!("{} ago", span(apart(-epochs))),
    }
}

/// The miner's part of the network's quality-adjusted power.
pub(super) fn share(power: &MinerPower) -> f64 {
    // Powers are far below the largest number of this type; its 53 bits do for a percentage.
    let number = |power: &BigInt| power.to_string().parse::<f64>().unwrap_or(0.0);
    let total = number(&power.total_power.quality_adj_power);
    if total > 0.0 { number(&power.miner_power.quality_adj_power) / total } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use curio_chain::types::Power;

    #[test]
    fn the_only_miner_need_not_be_named() {
        assert_eq!(only(&[SpId(1000)]), Ok(SpId(1000)));
        assert!(only(&[]).is_err_and(|sentence| sentence.contains("--actor")));
        assert!(only(&[SpId(1000), SpId(1001)]).is_err_and(|sentence| sentence.ends_with("f01000, f01001")));
    }

    #[test]
    fn a_share_of_no_power_is_none() {
        let power = |miner: u64, total: u64| MinerPower {
            miner_power: Power { raw_byte_power: miner.into(), quality_adj_power: miner.into() },
            total_power: Power { raw_byte_power: total.into(), quality_adj_power: total.into() },
            has_min_power: false,
        };
        assert_eq!([share(&power(0, 0)), share(&power(512, 2048))], [0.0, 0.25]);
    }

    #[test]
    fn epochs_are_told_as_times() {
        // (epoch, text) seen from epoch 100 with 30 s between epochs
        for (epoch, expected) in
            [(100, "now"), (104, "in 2m"), (98, "1m ago"), (3000, "in 1d"), (i64::MAX, "in 1491308d")]
        {
            assert_eq!(when(Epoch(epoch), Epoch(100), Duration::from_secs(30)), expected);
        }
    }
}
