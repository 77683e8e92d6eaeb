//! An embedded Filecoin chain for demos and tests: the published v18 miner state machine with handlers
//! of our own, every proof verified by the library, Lotus JSON-RPC served. It is a stand-in for a chain
//! and no real network: one process makes all blocks, nothing is kept when it ends, its keys follow from
//! a seed. A real node replaces it by an address.

mod actors;
mod auth;
mod chain;
mod clock;
mod control;
pub mod create_miner;
mod devnet;
mod disputes;
mod network;
mod node;
mod options;
mod post_policy;
pub mod proof;
pub mod ready;
mod rpc;
mod state;
mod steer;
mod store;
mod vm;
mod wallet;

pub use auth::FixedToken;
pub use devnet::{Devnet, StartError};
pub use options::{Clock, Options, WINNING_LOOKBACK, patience};
pub use post_policy::{BadPostPolicy, PostPolicy};
pub use steer::Silence;
