//! `curio proving`: where the proofs of spacetime of a miner stand. What must be proven is the chain's word;
//! what was done about it is in our rows.

mod deadlines;
mod faults;
mod info;
mod partitions;
mod standing;

use clap::Subcommand;

use super::miner::{MinerArgs, MinerView, Site};
use super::output::Output;
use super::{CliError, Database};

#[derive(Debug, Subcommand)]
pub(super) enum ProvingCommand {
    /// Show the proving period of a miner, the deadline that it is at, and how its sectors stand.
    Info {
        #[command(flatten)]
        miner: MinerArgs,
    },
    /// List the deadlines of a miner: when each opens next, what is to be proven in it, how it ended last.
    Deadlines {
        #[command(flatten)]
        miner: MinerArgs,
        /// Show deadlines without sectors, too.
        #[arg(long)]
        all: bool,
    },
    /// List the partitions of a deadline, and the proof that was made of each last.
    Partitions {
        /// Number of the deadline, from 0.
        deadline: u64,
        #[command(flatten)]
        miner: MinerArgs,
    },
    /// List the sectors that the chain holds for faulty, and until when they may be healed.
    Faults {
        #[command(flatten)]
        miner: MinerArgs,
    },
    /// List the faulty sectors that are declared recovered, and when they will be proven.
    Recoveries {
        #[command(flatten)]
        miner: MinerArgs,
    },
}

impl ProvingCommand {
    fn miner(&self) -> &MinerArgs {
        match self {
            ProvingCommand::Info { miner }
            | ProvingCommand::Deadlines { miner, .. }
            | ProvingCommand::Partitions { miner, .. }
            | ProvingCommand::Faults { miner }
            | ProvingCommand::Recoveries { miner } => miner,
        }
    }
}

pub(super) async fn execute(place: &Database, output: Output, command: ProvingCommand) -> Result<(), CliError> {
    let MinerArgs { actor, layers } = command.miner();
    let site = Site::open(place, layers).await?;
    let view = MinerView::load(&site.chain, site.miner(*actor).await?).await?;
    match command {
        ProvingCommand::Info { .. } => info::show(&site, &view, output).await,
        ProvingCommand::Deadlines { all, .. } => deadlines::show(&site, &view, output, all).await,
        ProvingCommand::Partitions { deadline, .. } => partitions::show(&site, &view, output, deadline).await,
        ProvingCommand::Faults { .. } => faults::show_faults(&site, &view, output).await,
        ProvingCommand::Recoveries { .. } => faults::show_recoveries(&site, &view, output).await,
    }
}
