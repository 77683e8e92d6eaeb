//! Sealing: from a sector number to a proof that the chain accepted. A const table of stages
//! ([`stage`]), a poller that turns ready stages into tasks ([`poller`]), one file per task kind.

pub mod commit;
pub mod counters;
pub mod fault_pause;
pub mod finalize;
pub mod landing;
pub mod move_storage;
pub mod numbers;
pub mod outcome;
pub mod piece_data;
pub mod pipeline;
pub mod placement;
pub mod poller;
pub mod porep;
pub mod precommit;
pub mod queue;
pub mod sdr;
pub mod stage;
pub mod start;
pub mod status;
pub mod ticket;
pub mod tree_d;
pub mod tree_rc;
