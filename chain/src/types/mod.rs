//! What a Lotus node answers and accepts, with its member names. Everything is read and written: the
//! client reads answers, the embedded chain serves the same types.

mod actor;
mod message;
mod mining;
mod network;
mod tipset;

pub use actor::*;
pub use message::*;
pub use mining::*;
pub use network::*;
pub use tipset::*;
