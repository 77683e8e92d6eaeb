//! Proofs of spacetime: window PoSt with its recoveries, block production, and what a person changes about sectors on
//! chain.

pub mod ask;
pub mod changes;
mod columns;
pub mod counters;
pub mod miners;
pub mod plan;
pub mod sent;
pub mod window;
pub mod winning;
