//! The runner: every task kind, the sealing pipeline, storage, and the commands of the `curio` binary.

pub mod attach;
pub mod chain_sched;
pub mod cli;
pub mod cpu;
pub mod database;
pub mod deps;
pub mod http;
pub mod message;
pub mod metrics;
pub mod parameters;
pub mod post;
pub mod prove;
pub mod registry;
pub mod run;
pub mod seal;
pub mod settings;
pub mod storage;
