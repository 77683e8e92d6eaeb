//! `curio proving partitions`.

use curio_chain::types::{Deadline, Partition};
use serde::Serialize;

use super::standing::{self, PartitionStanding};
use super::{MinerView, Site};
use crate::cli::CliError;
use crate::cli::output::{Output, Table, number, or_dash, text};

/// A partition on chain, and its newest proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct PartitionRow {
    partition: u64,
    live_sectors: Vec<u64>,
    active_sectors: u64,
    faulty_sectors: Vec<u64>,
    recovering_sectors: Vec<u64>,
    /// Whether the chain has taken its proof; none while the window is not open.
    proven: Option<bool>,
    /// What the cluster did for the newest window.
    proof: Option<PartitionStanding>,
}

pub(super) async fn show(site: &Site, view: &MinerView, output: Output, deadline: u64) -> Result<(), CliError> {
    let deadlines = site.chain.state_miner_deadlines(&view.address, view.key()).await?;
    let index = usize::try_from(deadline).unwrap_or(usize::MAX);
    let Some(on_chain) = deadlines.get(index) else {
        let last = deadlines.len().saturating_sub(1);
        return Err(CliError::refused(format!("there is no deadline {deadline}; deadlines are 0 to {last}")));
    };
    let partitions = view.partitions(&site.chain, deadline).await?;
    let standings = standing::of_deadline(&site.db, view.sp, deadline).await?;
    let is_open = view.window(deadline).is_open();
    let rows: Vec<PartitionRow> = (0..)
        .zip(&partitions)
        .map(|(index, partition)| {
            let proof = standings.iter().find(|standing| standing.partition == index).cloned();
            row(index, partition, is_open.then_some(on_chain), proof)
        })
        .collect();
    output.show(&rows, || table(&rows).render("this deadline has no sectors"));
    Ok(())
}

/// `open` is the deadline's state while its window is open.
fn row(index: u64, partition: &Partition, open: Option<&Deadline>, proof: Option<PartitionStanding>) -> PartitionRow {
    PartitionRow {
        partition: index,
        live_sectors: partition.live_sectors.iter().collect(),
        active_sectors: partition.active_sectors.len(),
        faulty_sectors: partition.faulty_sectors.iter().collect(),
        recovering_sectors: partition.recovering_sectors.iter().collect(),
        proven: open.map(|deadline| deadline.post_submissions.get(index)),
        proof,
    }
}

fn table(rows: &[PartitionRow]) -> Table {
    let mut table = Table::new([
        number("PARTITION"),
        number("SECTORS"),
        number("ACTIVE"),
        number("FAULTY"),
        number("RECOVERING"),
        text("CHAIN"),
        text("WINDOW"),
        text("PROOF").shrinks_to(20),
    ]);
    for row in rows {
        let chain = match row.proven {
            Some(true) => "proven",
            Some(false) => "due",
            None => "-",
        };
        table.row([
            row.partition.to_string(),
            row.live_sectors.len().to_string(),
            row.active_sectors.to_string(),
            row.faulty_sectors.len().to_string(),
            row.recovering_sectors.len().to_string(),
            chain.to_owned(),
            or_dash(row.proof.as_ref().map(|proof| proof.open_epoch.to_string())),
            or_dash(row.proof.as_ref().map(PartitionStanding::phrase)),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use curio_chain::{BitField, TokenAmount};

    fn bits(bits: &[u64]) -> BitField {
        BitField::try_from_bits(bits.iter().copied()).expect("few bits")
    }

    #[test]
    fn the_chain_says_of_an_open_window_what_is_due() {
        let partition = Partition {
            all_sectors: bits(&[0, 1]),
            faulty_sectors: bits(&[1]),
            recovering_sectors: bits(&[]),
            live_sectors: bits(&[0, 1]),
            active_sectors: bits(&[0]),
        };
        let deadline =
            Deadline { post_submissions: bits(&[1]), disputable_proof_count: 0, daily_fee: TokenAmount::default() };
        assert_eq!(row(0, &partition, Some(&deadline), None).proven, Some(false));
        assert_eq!(row(1, &partition, Some(&deadline), None).proven, Some(true));
        let closed = row(0, &partition, None, None);
        assert_eq!(closed.proven, None);
        assert_eq!(closed.faulty_sectors, [1]);
        let shown = table(&[closed]).render("none");
        let cells: Vec<&str> = shown.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        assert_eq!(cells, ["0", "2", "1", "1", "0", "-", "-", "-"], "{shown}");
    }
}
