//! Words that the control plane and the runners share: ids, epochs, proof types, resources,
//! failures, configuration. No IO happens here.

pub mod config;
pub mod epoch;
pub mod failure;
pub mod ids;
pub mod resources;
pub mod seal_proof;

pub use config::Config;
pub use epoch::Epoch;
pub use failure::{Classify, Failure};
pub use ids::{SectorRef, SpId};
pub use resources::Resources;
pub use seal_proof::SealProof;
