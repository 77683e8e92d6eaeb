//! A rehearsal: holds the election of the next epoch and proves what a block would need, and sends nothing.

use std::time::{Duration, Instant};

use curio_chain::address::id_address;
use curio_chain::election::winning_post_randomness;
use curio_chain::{BigInt, Client};
use curio_core::{Classify, Epoch, Failure, SpId};
use tokio_util::sync::CancellationToken;

pub use super::proof::Tools;
use super::{elect, proof};
use crate::post::ask::AskError;

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rehearsal {
    pub round: Epoch,
    /// Quality-adjusted bytes.
    pub miner_power: BigInt,
    /// Quality-adjusted bytes.
    pub network_power: BigInt,
    /// Whether the chain would take a block of the miner now.
    pub eligible: bool,
    /// How often the block would count; 0 when the election is lost.
    pub win_count: i64,
    /// Sectors that were proven; the proof was verified.
    pub sectors: Vec<u64>,
    /// From the election to the verified proof.
    pub took: Duration,
}

/// Nothing to rehearse with.
#[derive(Debug, thiserror::Error)]
#[error(
    "the chain names no sectors for an election of {sp}: it had no power when elections of epoch {round} look back to"
)]
struct NoPower {
    sp: SpId,
    round: Epoch,
}

impl Classify for NoPower {
    fn classify(self) -> Failure {
        Failure::Permanent { reason: "no-power", cause: Box::new(self) }
    }
}

/// Rehearses a block of this miner on the head. The proof is made whether the election is won or not.
///
/// # Errors
/// A miner without power; a chain node that does not hold the worker key; sectors that cannot be proven.
pub async fn rehearse(
    chain: &Client,
    tools: Tools<'_>,
    sp: SpId,
    cancelled: &CancellationToken,
) -> Result<Rehearsal, Failure> {
    let head = chain.chain_head().await.map_err(AskError::about("the head, for a rehearsal", sp))?;
    let round = head.height + 1;
    let info = chain.miner_get_base_info(&id_address(sp), round, head.key()).await;
    let info = info.map_err(AskError::about("its part in an election", sp))?.ok_or(NoPower { sp, round })?;
    let started = Instant::now();
    let draw = elect::draw(chain, sp, round, &info).await?;
    let randomness = winning_post_randomness(info.beacon(), round, sp);
    let size = proof::of_size(sp, info.sector_size)?;
    proof::winning_post(tools, sp, size, randomness, &info.sectors, cancelled).await?;
    Ok(Rehearsal {
        round,
        eligible: info.eligible_for_mining,
        win_count: draw.map_or(0, |draw| draw.win_count),
        sectors: info.sectors.iter().map(|sector| sector.sector_number).collect(),
        miner_power: info.miner_power,
        network_power: info.network_power,
        took: started.elapsed(),
    })
}
