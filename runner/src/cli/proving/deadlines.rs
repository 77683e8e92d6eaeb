//! `curio proving deadlines`.

use curio_chain::types::{Deadline, DeadlineInfo, Partition};
use curio_core::Epoch;
use serde::Serialize;

use super::standing::{self, WindowResult};
use super::{MinerView, Site};
use crate::cli::CliError;
use crate::cli::output::{Output, Table, number, or_dash, text};

/// A deadline, its next window that is not over, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct DeadlineRow {
    deadline: u64,
    state: WindowState,
    open_epoch: i64,
    close_epoch: i64,
    challenge_epoch: i64,
    fault_cutoff_epoch: i64,
    partitions: u64,
    /// Partitions that the chain has taken proofs of, in the open window.
    proven_partitions: Option<u64>,
    live_sectors: u64,
    faulty_sectors: u64,
    recovering_sectors: u64,
    /// The newest window that the cluster worked for.
    last: Option<WindowResult>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum WindowState {
    /// Proofs are taken now.
    Open,
    /// The challenge is known: proofs can be made.
    Challenged,
    /// Later.
    Waiting,
}

impl WindowState {
    fn of(window: &DeadlineInfo) -> WindowState {
        match (window.is_open(), window.challenge_reached()) {
            (true, _) => WindowState::Open,
            (false, true) => WindowState::Challenged,
            (false, false) => WindowState::Waiting,
        }
    }
}

pub(super) async fn show(site: &Site, view: &MinerView, output: Output, all: bool) -> Result<(), CliError> {
    let partitions = view.all_partitions(&site.chain).await?;
    let deadlines = site.chain.state_miner_deadlines(&view.address, view.key()).await?;
    let last = standing::of_miner(&site.db, view.sp).await?;
    let rows: Vec<DeadlineRow> = (0..)
        .zip(partitions.iter().zip(&deadlines))
        .filter(|(_, (partitions, _))| all || !partitions.is_empty())
        .map(|(index, (partitions, deadline))| {
            row(&view.window(index), partitions, deadline, last.get(&index).copied())
        })
        .collect();
    output.show(&rows, || table(view, &rows).render("no deadline has sectors yet; --all shows the empty ones"));
    Ok(())
}

fn row(
    window: &DeadlineInfo,
    partitions: &[Partition],
    deadline: &Deadline,
    last: Option<WindowResult>,
) -> DeadlineRow {
    let sum = |count: fn(&Partition) -> u64| partitions.iter().map(count).sum();
    DeadlineRow {
        deadline: window.index,
        state: WindowState::of(window),
        open_epoch: window.open.0,
        close_epoch: window.close.0,
        challenge_epoch: window.challenge.0,
        fault_cutoff_epoch: window.fault_cutoff.0,
        partitions: partitions.len() as u64,
        proven_partitions: window.is_open().then(|| deadline.post_submissions.len()),
        live_sectors: sum(|partition| partition.live_sectors.len()),
        faulty_sectors: sum(|partition| partition.faulty_sectors.len()),
        recovering_sectors: sum(|partition| partition.recovering_sectors.len()),
        last,
    }
}

fn table(view: &MinerView, rows: &[DeadlineRow]) -> Table {
    let mut table = Table::new([
        number("DEADLINE"),
        number("OPENS"),
        text("WHEN"),
        number("PARTITIONS"),
        number("SECTORS"),
        number("FAULTY"),
        number("RECOVERING"),
        text("LAST WINDOW").shrinks_to(11),
    ]);
    for row in rows {
        table.row([
            row.deadline.to_string(),
            row.open_epoch.to_string(),
            match row.state {
                WindowState::Open => "open".to_owned(),
                WindowState::Challenged => "challenged".to_owned(),
                WindowState::Waiting => view.when(Epoch(row.open_epoch)),
            },
            match row.proven_partitions {
                Some(proven) => format!("{proven} of {}", row.partitions),
                None => row.partitions.to_string(),
            },
            row.live_sectors.to_string(),
            row.faulty_sectors.to_string(),
            row.recovering_sectors.to_string(),
            or_dash(row.last.map(|last| last.phrase())),
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

    fn window(epoch: i64) -> DeadlineInfo {
        DeadlineInfo::of_public_networks(Epoch(0), 2, Epoch(epoch))
    }

    #[test]
    fn what_is_proven_counts_in_the_open_window_only() {
        let partition = Partition {
            all_sectors: bits(&[0, 1]),
            faulty_sectors: bits(&[1]),
            recovering_sectors: bits(&[1]),
            live_sectors: bits(&[0, 1]),
            active_sectors: bits(&[0]),
        };
        let partitions = [partition.clone(), partition];
        let deadline =
            Deadline { post_submissions: bits(&[1]), disputable_proof_count: 0, daily_fee: TokenAmount::default() };
        // (seen from, state, partitions proven)
        let table =
            [(99, WindowState::Waiting, None), (100, WindowState::Challenged, None), (120, WindowState::Open, Some(1))];
        for (epoch, state, proven) in table {
            let row = row(&window(epoch), &partitions, &deadline, None);
            assert_eq!((row.state, row.proven_partitions), (state, proven), "seen from {epoch}");
            assert_eq!((row.live_sectors, row.faulty_sectors, row.recovering_sectors), (4, 2, 2));
        }
    }
}
