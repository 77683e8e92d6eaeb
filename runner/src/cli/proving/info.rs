//! `curio proving info`.

use curio_chain::types::{MinerPower, MinerSectors, Partition};
use curio_core::{Epoch, SpId};
use serde::Serialize;

use super::{MinerView, Site};
use crate::cli::CliError;
use crate::cli::miner::share;
use crate::cli::output::{Output, bytes, or_dash, properties};

/// A miner in its proving period.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct ProvingInfo {
    miner: SpId,
    sector_size: u64,
    epoch: i64,
    deadlines: u64,
    /// None while no deadline is open: before the first sectors are on chain, and shortly after.
    period: Option<Period>,
    sectors: Sectors,
    /// Bytes, quality-adjusted.
    power: String,
    /// Of the network's, from 0 to 1.
    power_share: f64,
    has_min_power: bool,
}

/// The proving period now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Period {
    start_epoch: i64,
    end_epoch: i64,
    /// The open deadline.
    deadline: u64,
    open_epoch: i64,
    close_epoch: i64,
    challenge_epoch: i64,
    /// Partitions of the open deadline, and how many of them the chain has proofs of.
    partitions: u64,
    proven_partitions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Sectors {
    live: u64,
    active: u64,
    faulty: u64,
    recovering: u64,
}

pub(super) async fn show(site: &Site, view: &MinerView, output: Output) -> Result<(), CliError> {
    let chain = &site.chain;
    let (address, key) = (&view.address, view.key());
    let count = chain.state_miner_sector_count(address, key).await?;
    let recovering = chain.state_miner_recoveries(address, key).await?.len();
    let power = chain.state_miner_power(address, key).await?;
    let deadline = &view.deadline;
    let period = if deadline.is_open() {
        let partitions = view.partitions(chain, deadline.index).await?;
        let deadlines = chain.state_miner_deadlines(address, key).await?;
        let index = usize::try_from(deadline.index).unwrap_or(usize::MAX);
        let proven = deadlines.get(index).map_or(0, |deadline| deadline.post_submissions.len());
        Some(period(view, &partitions, proven))
    } else {
        None
    };
    let info = info(view, period, count, recovering, &power);
    output.show(&info, || page(view, &info));
    Ok(())
}

fn period(view: &MinerView, partitions: &[Partition], proven: u64) -> Period {
    let deadline = &view.deadline;
    Period {
        start_epoch: deadline.period_start.0,
        end_epoch: deadline.next_period_start().0,
        deadline: deadline.index,
        open_epoch: deadline.open.0,
        close_epoch: deadline.close.0,
        challenge_epoch: deadline.challenge.0,
        partitions: partitions.len() as u64,
        proven_partitions: proven,
    }
}

fn info(
    view: &MinerView,
    period: Option<Period>,
    count: MinerSectors,
    recovering: u64,
    power: &MinerPower,
) -> ProvingInfo {
    let MinerSectors { live, active, faulty } = count;
    ProvingInfo {
        miner: view.sp,
        sector_size: view.info.sector_size,
        epoch: view.head.height.0,
        deadlines: view.deadline.wpost_period_deadlines,
        period,
        sectors: Sectors { live, active, faulty, recovering },
        power: power.miner_power.quality_adj_power.to_string(),
        power_share: share(power),
        has_min_power: power.has_min_power,
    }
}

fn page(view: &MinerView, info: &ProvingInfo) -> String {
    let at = |epoch: i64| format!("epoch {epoch}, {}", view.when(Epoch(epoch)));
    let mut lines = vec![
        ("Miner", format!("{} ({} sectors)", info.miner, bytes(info.sector_size))),
        ("Epoch", info.epoch.to_string()),
    ];
    match &info.period {
        Some(period) => {
            let over = 100 * (info.epoch - period.start_epoch) / (period.end_epoch - period.start_epoch).max(1);
            lines.push(("Proving period", format!("{} to {}, {over} % over", period.start_epoch, period.end_epoch)));
            lines.push(("Open deadline", format!("{} of 0 to {}", period.deadline, info.deadlines.saturating_sub(1))));
            lines.push(("  opened", at(period.open_epoch)));
            lines.push(("  closes", at(period.close_epoch)));
            let proven = match period.partitions {
                0 => "no partition".to_owned(),
                partitions => format!("{} of {partitions} partitions", period.proven_partitions),
            };
            lines.push(("  proven", proven));
        }
        None if info.sectors.live > 0 => lines.push(("Proving period", "the first one has not begun".to_owned())),
        None => lines.push(("Proving period", "none: this miner has nothing to prove yet".to_owned())),
    }
    let Sectors { live, active, faulty, recovering } = info.sectors;
    lines.push(("Sectors", format!("{live} live, {active} active, {faulty} faulty, {recovering} recovering")));
    let power = info.power.parse().ok().map(bytes);
    let below = if info.has_min_power { "" } else { ", below the least that wins blocks" };
    lines.push(("Power", format!("{} ({:.2} % of the network){below}", or_dash(power), 100.0 * info.power_share)));
    properties(&lines)
}
