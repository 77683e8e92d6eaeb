//! Client of a Filecoin chain node: typed Lotus JSON-RPC v1 over HTTP and WebSocket, messages and
//! their CBOR and CIDs, chain randomness, deadlines and elections, and head changes that survive a lost
//! connection. No SQL.

pub mod address;
mod backlog;
mod calls;
pub mod client;
pub mod deadline;
pub mod election;
pub mod endpoint;
mod health;
pub mod message;
pub mod notify;
pub mod rpc_error;
pub mod types;
pub mod wire;

pub use client::{Client, ClientOptions, NewClientError};
pub use endpoint::{Endpoint, Secret};
pub use rpc_error::RpcError;

pub use cid::Cid;
pub use fvm_ipld_bitfield::BitField;
pub use fvm_shared::address::Address;
pub use fvm_shared::econ::TokenAmount;
pub use num_bigint::BigInt;
