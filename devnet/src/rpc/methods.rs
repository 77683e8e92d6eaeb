//! What the methods answer, by subject.

mod chain;
mod message;
mod miner;
mod mining;
mod node;
mod randomness;
mod sector;
mod state;
mod wallet;

use std::sync::Arc;

use curio_chain::types::TipSetKey;

use super::fault::Fault;
use super::table::Table;
use crate::chain::{Chain, Tip};

/// Every method that this node serves over HTTP.
pub fn table() -> Table {
    let mut table = Table::default();
    node::register(&mut table);
    chain::register(&mut table);
    randomness::register(&mut table);
    state::register(&mut table);
    miner::register(&mut table);
    sector::register(&mut table);
    message::register(&mut table);
    mining::register(&mut table);
    wallet::register(&mut table);
    table
}

/// The tipset that a method speaks about; the head for an empty key.
fn at(chain: &Chain, key: &TipSetKey) -> Result<Arc<Tip>, Fault> {
    chain.tip_or_head(key).map_err(|refused| Fault::from(refused).within(&format!("loading tipset {key}")))
}
