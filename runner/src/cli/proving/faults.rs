//! `curio proving faults` and `curio proving recoveries`: sectors that the chain holds for faulty.

use std::collections::BTreeMap;

use curio_chain::types::Partition;
use curio_core::{Epoch, SectorRef, SpId};
use curio_harmony::{Db, DbError};
use futures::{StreamExt, TryStreamExt};
use serde::Serialize;

use super::{MinerView, Site};
use crate::cli::CliError;
use crate::cli::miner::CALLS_AT_A_TIME;
use crate::cli::output::{Output, Table, number, or_dash, text};
use crate::storage::SectorFile;

/// A faulty sector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Fault {
    sector: String,
    number: u64,
    deadline: u64,
    partition: u64,
    /// Whether it is declared recovered.
    recovering: bool,
    /// The deadline's next window that is not over, in which a recovering sector is proven.
    open_epoch: i64,
    close_epoch: i64,
    /// Until when a recovery for that window may be declared.
    fault_cutoff_epoch: i64,
    /// When the chain terminates it, unless it is healed.
    terminated_epoch: Option<i64>,
    /// Files of it that are declared somewhere.
    files: Vec<String>,
}

pub(super) async fn show_faults(site: &Site, view: &MinerView, output: Output) -> Result<(), CliError> {
    let faults = load(site, view).await?;
    output.show(&faults, || fault_table(view, &faults).render("no sector is faulty"));
    Ok(())
}

pub(super) async fn show_recoveries(site: &Site, view: &MinerView, output: Output) -> Result<(), CliError> {
    let mut recoveries = load(site, view).await?;
    recoveries.retain(|fault| fault.recovering);
    output.show(&recoveries, || recovery_table(view, &recoveries).render("no sector is declared recovered"));
    Ok(())
}

async fn load(site: &Site, view: &MinerView) -> Result<Vec<Fault>, CliError> {
    let partitions = view.all_partitions(&site.chain).await?;
    let faulty = faulty(&partitions);
    let files = files(&site.db, view.sp, &faulty).await?;
    let expirations = futures::stream::iter(&faulty)
        .map(|fault| site.chain.state_sector_expiration(&view.address, fault.number, view.key()))
        .buffered(CALLS_AT_A_TIME);
    let expirations: Vec<_> = expirations.try_collect().await?;
    let rows = faulty.iter().zip(expirations).map(|(fault, expiration)| {
        let window = view.window(fault.deadline);
        Fault {
            sector: SectorRef::new(view.sp, fault.number).to_string(),
            number: fault.number,
            deadline: fault.deadline,
            partition: fault.partition,
            recovering: fault.recovering,
            open_epoch: window.open.0,
            close_epoch: window.close.0,
            fault_cutoff_epoch: window.fault_cutoff.0,
            terminated_epoch: Some(expiration.early.0).filter(|epoch| *epoch != 0),
            files: files.get(&fault.number).cloned().unwrap_or_default(),
        }
    });
    Ok(rows.collect())
}

/// Where a faulty sector lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Faulty {
    number: u64,
    deadline: u64,
    partition: u64,
    recovering: bool,
}

/// The faulty sectors of all deadlines, in the order of deadline, partition and number.
fn faulty(deadlines: &[Vec<Partition>]) -> Vec<Faulty> {
    let mut found = Vec::new();
    for (deadline, partitions) in (0..).zip(deadlines) {
        for (partition, state) in (0..).zip(partitions) {
            found.extend(state.faulty_sectors.iter().map(|number| Faulty {
                number,
                deadline,
                partition,
                recovering: state.recovering_sectors.get(number),
            }));
        }
    }
    found
}

/// Kinds of declared files by sector number.
async fn files(db: &Db, sp: SpId, sectors: &[Faulty]) -> Result<BTreeMap<u64, Vec<String>>, DbError> {
    let numbers: Vec<i64> = sectors.iter().filter_map(|sector| i64::try_from(sector.number).ok()).collect();
    let rows = sqlx::query!(
        r#"
        SELECT DISTINCT sector_num, sector_filetype FROM sector_location
        WHERE miner_id = $1 AND sector_num = ANY($2) AND removal_requested_at IS NULL
        ORDER BY sector_num, sector_filetype
        "#,
        i64::try_from(sp.0).unwrap_or(i64::MAX),
        &numbers,
    )
    .fetch_all(db.pool())
    .await?;
    let mut files: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for row in rows {
        let kind = SectorFile::from_bit(row.sector_filetype);
        if let (Ok(number), Some(kind)) = (u64::try_from(row.sector_num), kind) {
            files.entry(number).or_default().push(kind.to_string());
        }
    }
    Ok(files)
}

fn fault_table(view: &MinerView, faults: &[Fault]) -> Table {
    let mut table = Table::new([
        text("SECTOR"),
        number("DEADLINE"),
        number("PARTITION"),
        text("RECOVERING"),
        number("TERMINATED AT"),
        text("WHEN"),
        text("DECLARED FILES").shrinks_to(14),
    ]);
    for fault in faults {
        table.row([
            fault.sector.clone(),
            fault.deadline.to_string(),
            fault.partition.to_string(),
            if fault.recovering { "yes" } else { "no" }.to_owned(),
            or_dash(fault.terminated_epoch.map(|epoch| epoch.to_string())),
            or_dash(fault.terminated_epoch.map(|epoch| view.when(Epoch(epoch)))),
            or_dash((!fault.files.is_empty()).then(|| fault.files.join(", "))),
        ]);
    }
    table
}

fn recovery_table(view: &MinerView, recoveries: &[Fault]) -> Table {
    let mut table = Table::new([
        text("SECTOR"),
        number("DEADLINE"),
        number("PARTITION"),
        number("WINDOW OPENS"),
        text("WHEN"),
        number("CLOSES"),
        text("DECLARED FILES").shrinks_to(14),
    ]);
    for fault in recoveries {
        table.row([
            fault.sector.clone(),
            fault.deadline.to_string(),
            fault.partition.to_string(),
            fault.open_epoch.to_string(),
            view.when(Epoch(fault.open_epoch)),
            fault.close_epoch.to_string(),
            or_dash((!fault.files.is_empty()).then(|| fault.files.join(", "))),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use curio_chain::BitField;

    #[test]
    fn faulty_sectors_are_listed_where_they_lie() {
        let bits = |bits: &[u64]| BitField::try_from_bits(bits.iter().copied()).expect("few bits");
        let partition = |faulty: &[u64], recovering: &[u64]| Partition {
            all_sectors: bits(&[]),
            faulty_sectors: bits(faulty),
            recovering_sectors: bits(recovering),
            live_sectors: bits(&[]),
            active_sectors: bits(&[]),
        };
        let deadlines = [vec![], vec![partition(&[], &[]), partition(&[7, 3], &[7])]];
        let found = faulty(&deadlines);
        let expected = |number, recovering| Faulty { number, deadline: 1, partition: 1, recovering };
        assert_eq!(found, [expected(3, false), expected(7, true)]);
    }
}
