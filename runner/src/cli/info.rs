//! `curio info`: the cluster on one page.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use clap::Args;
use curio_chain::types::{MinerPower, MinerSectors};
use curio_chain::{Address, TokenAmount, address};
use curio_core::SpId;
use curio_core::config::Fil;
use curio_harmony::machines::{self, MachineState};
use curio_harmony::{Db, DbError, tasks};
use curio_pipeline::status::{self, SectorState};
use serde::Serialize;

use super::args::LayerArgs;
use super::chain::{self, ChainStatus};
use super::miner::{MinerView, Site, share};
use super::output::{Output, Table, ago, bytes, fil, number, paragraph, properties, text};
use super::{CliError, Database};

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    #[command(flatten)]
    layers: LayerArgs,
}

pub(super) async fn execute(place: &Database, output: Output, args: InfoArgs) -> Result<(), CliError> {
    let site = Site::open(place, &args.layers).await?;
    let info = load(&site).await?;
    output.show(&info, || page(&info, Utc::now()));
    Ok(())
}

#[derive(Clone, Debug, Serialize)]
struct ClusterInfo {
    chain: ChainStatus,
    machines: Machines,
    tasks: Tasks,
    sectors: SectorCounts,
    /// Of the last day.
    blocks: Blocks,
    miners: Vec<MinerInfo>,
    keys: Vec<KeyInfo>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Machines {
    up: u64,
    /// Late or lost.
    away: u64,
    stopped: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Tasks {
    running: i64,
    waiting: i64,
    backing_off: i64,
    failed: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct SectorCounts {
    proven: u64,
    sealing: u64,
    failed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Blocks {
    /// Elections.
    won: i64,
    included: i64,
    /// Won, and no block in the chain came of it.
    lost: i64,
}

#[derive(Clone, Debug, Serialize)]
struct MinerInfo {
    miner: SpId,
    sector_size: u64,
    /// Bytes, quality-adjusted.
    power: String,
    /// Of the network's, from 0 to 1.
    power_share: f64,
    live_sectors: u64,
    active_sectors: u64,
    faulty_sectors: u64,
    /// The open deadline; none for a miner without sectors.
    deadline: Option<u64>,
    /// AttoFIL.
    available_balance: String,
    available: String,
}

/// A key that acts for a miner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct KeyInfo {
    miner: SpId,
    role: &'static str,
    address: String,
    /// AttoFIL.
    balance_atto: String,
    balance: String,
    /// Less than `Alerting.MinimumWalletBalance`.
    low: bool,
}

async fn load(site: &Site) -> Result<ClusterInfo, CliError> {
    let mut miners = Vec::new();
    let mut keys = Vec::new();
    for sp in crate::post::miners::of(&site.db, &site.config).await? {
        let view = MinerView::load(&site.chain, sp).await?;
        miners.push(miner(site, &view).await?);
        keys.extend(keys_of(site, &view).await?);
    }
    Ok(ClusterInfo {
        chain: chain::look(site).await?,
        machines: count_machines(&machines::list(&site.db).await?),
        tasks: count_tasks(&tasks::load(&site.db).await?),
        sectors: count_sectors(&status::list(&site.db, None).await?),
        blocks: blocks(&site.db).await?,
        miners,
        keys,
    })
}

fn count_machines(rows: &[machines::MachineRow]) -> Machines {
    rows.iter().fold(Machines::default(), |mut counts, row| {
        match row.state {
            MachineState::Up => counts.up += 1,
            MachineState::Late | MachineState::Lost => counts.away += 1,
            MachineState::Stopped => counts.stopped += 1,
        }
        counts
    })
}

fn count_tasks(kinds: &[tasks::KindLoad]) -> Tasks {
    kinds.iter().fold(Tasks::default(), |sum, kind| Tasks {
        running: sum.running + kind.running,
        waiting: sum.waiting + kind.waiting,
        backing_off: sum.backing_off + kind.backing_off,
        failed: sum.failed + kind.failed,
    })
}

fn count_sectors(sectors: &[status::SectorStatus]) -> SectorCounts {
    sectors.iter().fold(SectorCounts::default(), |mut counts, sector| {
        match sector.state {
            SectorState::Proven => counts.proven += 1,
            SectorState::Sealing => counts.sealing += 1,
            SectorState::Failed => counts.failed += 1,
        }
        counts
    })
}

async fn blocks(db: &Db) -> Result<Blocks, DbError> {
    Ok(sqlx::query_as!(
        Blocks,
        r#"
        SELECT count(*) AS "won!", count(*) FILTER (WHERE included) AS "included!",
            count(*) FILTER (WHERE lost_because IS NOT NULL) AS "lost!"
        FROM mining_tasks WHERE won AND base_compute_time > now() - interval '1 day'
        "#
    )
    .fetch_one(db.pool())
    .await?)
}

async fn miner(site: &Site, view: &MinerView) -> Result<MinerInfo, CliError> {
    let (chain, address, key) = (&site.chain, &view.address, view.key());
    let power: MinerPower = chain.state_miner_power(address, key).await?;
    let MinerSectors { live, active, faulty } = chain.state_miner_sector_count(address, key).await?;
    let available = chain.state_miner_available_balance(address, key).await?;
    Ok(MinerInfo {
        miner: view.sp,
        sector_size: view.info.sector_size,
        power: power.miner_power.quality_adj_power.to_string(),
        power_share: share(&power),
        live_sectors: live,
        active_sectors: active,
        faulty_sectors: faulty,
        deadline: view.deadline.is_open().then_some(view.deadline.index),
        available_balance: available.atto().to_string(),
        available: fil(&available),
    })
}

/// Keys of a miner, each once, under the first of its roles.
async fn keys_of(site: &Site, view: &MinerView) -> Result<Vec<KeyInfo>, CliError> {
    let info = &view.info;
    let roles = std::iter::once((info.worker, "worker"))
        .chain(info.control_addresses.iter().map(|control| (*control, "control")))
        .chain(std::iter::once((info.owner, "owner")));
    let mut first: BTreeMap<Address, &'static str> = BTreeMap::new();
    let mut keys = Vec::new();
    for (id, role) in roles {
        if first.insert(id, role).is_some() {
            continue;
        }
        let balance = site.chain.state_get_actor(&id, view.key()).await?.balance;
        keys.push(key(view.sp, role, &id, &balance, site.config.alerting.minimum_wallet_balance));
    }
    Ok(keys)
}

fn key(miner: SpId, role: &'static str, id: &Address, balance: &TokenAmount, minimum: Fil) -> KeyInfo {
    let minimum = TokenAmount::from_atto(minimum.atto());
    // An owner only receives; nothing stops when it is empty.
    let low = role != "owner" && *balance < minimum;
    KeyInfo {
        miner,
        role,
        address: address::to_mainnet_text(id),
        balance_atto: balance.atto().to_string(),
        balance: fil(balance),
        low,
    }
}

fn page(info: &ClusterInfo, now: DateTime<Utc>) -> String {
    let ClusterInfo { chain, machines, tasks, sectors, blocks, miners, keys } = info;
    let lines = [
        ("Chain", format!("{}, epoch {}, {}", chain.network, chain.head, ago(now, chain.head_at))),
        ("Messages and blocks", if chain.held.is_some() { "held; see below" } else { "may leave" }.to_owned()),
        ("Machines", format!("{} up, {} away, {} stopped", machines.up, machines.away, machines.stopped)),
        (
            "Tasks",
            format!(
                "{} running, {} waiting, {} to be tried again, {} failed",
                tasks.running, tasks.waiting, tasks.backing_off, tasks.failed
            ),
        ),
        ("Sectors", format!("{} proven, {} being sealed, {} failed", sectors.proven, sectors.sealing, sectors.failed)),
        ("Blocks of a day", format!("{} won, {} in the chain, {} lost", blocks.won, blocks.included, blocks.lost)),
    ];
    let mut out = properties(&lines);
    if let Some(reason) = &chain.held {
        out.push('\n');
        out.push_str(&paragraph(reason));
    }
    out.push('\n');
    out.push_str(&miner_table(miners).render("no miner yet; the first sector makes one known"));
    if !keys.is_empty() {
        out.push('\n');
        out.push_str(&key_table(keys).render("no keys"));
    }
    out
}

fn miner_table(miners: &[MinerInfo]) -> Table {
    let mut table = Table::new([
        text("MINER"),
        number("SECTOR"),
        number("POWER"),
        number("SHARE"),
        number("LIVE"),
        number("ACTIVE"),
        number("FAULTY"),
        number("DEADLINE"),
        number("AVAILABLE"),
    ]);
    for miner in miners {
        table.row([
            miner.miner.to_string(),
            bytes(miner.sector_size),
            miner.power.parse().map_or_else(|_| "-".to_owned(), bytes),
            format!("{:.2} %", 100.0 * miner.power_share),
            miner.live_sectors.to_string(),
            miner.active_sectors.to_string(),
            miner.faulty_sectors.to_string(),
            miner.deadline.map_or_else(|| "-".to_owned(), |deadline| deadline.to_string()),
            miner.available.clone(),
        ]);
    }
    table
}

fn key_table(keys: &[KeyInfo]) -> Table {
    let mut table = Table::new([text("MINER"), text("ROLE"), text("KEY"), number("BALANCE"), text("")]);
    for key in keys {
        table.row([
            key.miner.to_string(),
            key.role.to_owned(),
            key.address.clone(),
            key.balance.clone(),
            if key.low { "low: send funds to it" } else { "" }.to_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_sends_is_low_below_the_configured_balance() {
        let balance = |milli: i64| TokenAmount::from_atto(milli * 1_000_000_000_000_000_i64);
        // (role, balance in thousandths of a FIL, low with a minimum of 5 FIL)
        for (role, milli, low) in [("worker", 4999, true), ("worker", 5000, false), ("owner", 0, false)] {
            let found = key(SpId(1000), role, &Address::new_id(101), &balance(milli), Fil::milli(5000));
            assert_eq!((found.low, found.address.as_str()), (low, "f0101"), "{role} with {milli}");
        }
    }

    #[test]
    fn the_page_fits_a_narrow_terminal() {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::days(20_000);
        let info = ClusterInfo {
            chain: ChainStatus {
                network: "mainnet".to_owned(),
                head: 5_900_000,
                head_at: now,
                record: None,
                held: Some("nothing is sent or mined: the database was set back, run `curio chain confirm`".to_owned()),
            },
            machines: Machines { up: 120, away: 2, stopped: 7 },
            tasks: Tasks { running: 1200, waiting: 45_000, backing_off: 12, failed: 3 },
            sectors: SectorCounts { proven: 1_200_000, sealing: 2000, failed: 1 },
            blocks: Blocks { won: 14, included: 13, lost: 1 },
            miners: vec![MinerInfo {
                miner: SpId(3_000_000),
                sector_size: 32 << 30,
                power: (9_u64 << 50).to_string(),
                power_share: 0.000_3,
                live_sectors: 1_200_000,
                active_sectors: 1_199_999,
                faulty_sectors: 1,
                deadline: Some(47),
                available_balance: "1".to_owned(),
                available: "12345.6789 FIL".to_owned(),
            }],
            keys: vec![key(
                SpId(3_000_000),
                "control",
                &Address::new_id(3_000_001),
                &TokenAmount::from_atto(1),
                Fil::milli(5000),
            )],
        };
        let text = page(&info, now);
        assert!(text.lines().all(|line| line.chars().count() <= 90), "{text}");
        assert!(text.contains("low: send funds to it") && text.contains("curio chain confirm"), "{text}");
    }
}
