//! Sealing: from a sector number to a proof that the chain accepted. A const table of stages
//! ([`curio_pipeline::stage`]), a poller that turns ready stages into tasks ([`poller`]), one file per task kind.

pub mod commit;
pub mod counters;
pub mod fault_pause;
pub mod finalize;
pub mod landing;
pub mod move_storage;
pub mod outcome;
pub mod piece_data;
pub mod pipeline;
pub mod placement;
pub mod poller;
pub mod porep;
pub mod precommit;
pub mod queue;
pub mod requests;
pub mod sdr;
pub mod start;
pub mod ticket;
pub mod tree_d;
pub mod tree_rc;
