//! `curio chain`: what the database has seen of the chain, and a person's word that it may be trusted.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use curio_core::Epoch;
use curio_core::epoch::EpochDelta;
use serde::Serialize;

use super::args::{LayerArgs, person};
use super::miner::Site;
use super::output::{Output, ago, paragraph, properties};
use super::{CliError, Database};
use crate::chain_sched::fence::{self, Record, Verdict};

#[derive(Debug, Subcommand)]
pub(super) enum ChainCommand {
    /// Show the chain's head, what the database saw of it last, and whether messages and blocks may leave.
    Status {
        #[command(flatten)]
        layers: LayerArgs,
    },
    /// Say that the database is whole, so that runners send messages and make blocks again.
    ///
    /// Runners stop doing so when the database seems to have been set back, or has not seen the chain for long:
    /// it may have forgotten blocks that were won and messages that were sent, and to sign them a second time
    /// costs collateral. Before confirming, make sure that this is the newest copy of the database and that no
    /// runner is left on another one. After a restore, wait until the chain is further than it was at the time of
    /// the failure; what was sent meanwhile is found on the chain.
    Confirm {
        #[command(flatten)]
        layers: LayerArgs,
    },
}

pub(super) async fn execute(place: &Database, output: Output, command: ChainCommand) -> Result<(), CliError> {
    match command {
        ChainCommand::Status { layers } => {
            let site = Site::open(place, &layers).await?;
            let status = look(&site).await?;
            output.show(&status, || page(&status, Utc::now()));
        }
        ChainCommand::Confirm { layers } => {
            let site = Site::open(place, &layers).await?;
            let before = look(&site).await?;
            let record = fence::confirm(&site.db, &before.network, Epoch(before.head), &person()).await?;
            output.show(&record, || confirmed(&before, &record));
        }
    }
    Ok(())
}

/// The chain and the database side by side.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ChainStatus {
    pub network: String,
    pub head: i64,
    /// When the head's epoch began.
    pub head_at: DateTime<Utc>,
    /// None before the first runner has seen a head.
    pub record: Option<Record>,
    /// Why nothing is sent or mined.
    pub held: Option<String>,
}

/// Asks both.
///
/// # Errors
/// Trouble with the chain node or the database.
pub(super) async fn look(site: &Site) -> Result<ChainStatus, CliError> {
    let network = site.chain.state_network_name().await?;
    let head = site.chain.chain_head().await?;
    let record = fence::record(&site.db, &network).await?;
    let max_gap = EpochDelta::from(site.config.chain.max_gap_epochs);
    let held = held(record.as_ref(), head.height, max_gap);
    let seconds = i64::try_from(head.timestamp()).unwrap_or(i64::MAX);
    let head_at = DateTime::from_timestamp(seconds, 0).unwrap_or(DateTime::UNIX_EPOCH);
    Ok(ChainStatus { network, head: head.height.0, head_at, record, held })
}

/// The verdict of a runner that starts now.
fn held(record: Option<&Record>, head: Epoch, max_gap: EpochDelta) -> Option<String> {
    let doubt = record.and_then(|record| record.held_reason.as_deref());
    match fence::judge(record.map(Record::seen), doubt, head, None, max_gap) {
        Verdict::Open => None,
        Verdict::Held(held) => Some(held.to_string()),
    }
}

fn page(status: &ChainStatus, now: DateTime<Utc>) -> String {
    let ChainStatus { network, head, head_at, record, held } = status;
    let seen = match record {
        Some(record) => format!("epoch {}, {}", record.epoch, ago(now, record.recorded_at)),
        None => "nothing yet; the first runner that starts takes down the head".to_owned(),
    };
    let state = match (held, record.as_ref().and_then(|record| record.held_since)) {
        (None, _) => "may leave".to_owned(),
        (Some(_), Some(since)) => format!("held since {}", ago(now, since)),
        (Some(_), None) => "held".to_owned(),
    };
    let mut lines = vec![
        ("Network", network.clone()),
        ("Head", format!("epoch {head}, {}", ago(now, *head_at))),
        ("Seen by the database", seen),
        ("Messages and blocks", state),
    ];
    if let Some(Record { confirmed_epoch: Some(epoch), confirmed_by, confirmed_at: Some(at), .. }) = record {
        let by = confirmed_by.as_deref().unwrap_or("somebody");
        lines.push(("Last confirmed", format!("at epoch {epoch} by {by}, {}", ago(now, *at))));
    }
    let mut out = properties(&lines);
    if let Some(reason) = held {
        let _ = write!(out, "\n{}", paragraph(reason));
    }
    out
}

fn confirmed(before: &ChainStatus, record: &Record) -> String {
    match before.held {
        Some(_) => format!("the database is trusted from epoch {} on; runners send and mine again", record.epoch),
        None => format!("nothing was held; the database is trusted from epoch {} on", record.epoch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(epoch: i64, reason: Option<&str>) -> Record {
        let at = DateTime::UNIX_EPOCH + chrono::Duration::days(20_000);
        Record {
            epoch,
            revision: 7,
            recorded_at: at,
            held_since: reason.map(|_| at),
            held_reason: reason.map(str::to_owned),
            confirmed_epoch: Some(90),
            confirmed_by: Some("ada@host".to_owned()),
            confirmed_at: Some(at),
        }
    }

    fn status(record: Option<Record>) -> ChainStatus {
        let held = held(record.as_ref(), Epoch(1100), 900);
        let head_at = DateTime::UNIX_EPOCH + chrono::Duration::days(20_000);
        ChainStatus { network: "2k".to_owned(), head: 1100, head_at, record, held }
    }

    fn shown(record: Option<Record>) -> String {
        let now = DateTime::UNIX_EPOCH + chrono::Duration::days(20_000) + chrono::Duration::minutes(3);
        page(&status(record), now)
    }

    #[test]
    fn a_whole_database_lets_messages_leave() {
        assert_eq!(
            shown(Some(record(1099, None))),
            "Network               2k\n\
             Head                  epoch 1100, 3m ago\n\
             Seen by the database  epoch 1099, 3m ago\n\
             Messages and blocks   may leave\n\
             Last confirmed        at epoch 90 by ada@host, 3m ago\n"
        );
    }

    #[test]
    fn a_held_fence_says_why_and_names_the_command() {
        for record in [record(100, None), record(1099, Some("somebody said so, run `curio chain confirm`"))] {
            let text = shown(Some(record));
            assert!(text.contains("Messages and blocks   held"), "{text}");
            assert!(text.contains("curio chain confirm"), "{text}");
            assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
    }

    #[test]
    fn a_new_database_is_open() {
        assert!(shown(None).contains("Messages and blocks   may leave"));
    }
}
