//! A sector's messages in the outbox: their keys, and whether one of them is, or may come, on chain.

use curio_core::SectorRef;

/// Idempotency key of a message: `purpose/miner/number/generation`.
pub fn key(purpose: &str, sector: SectorRef, generation: i64) -> String {
    format!("{purpose}/{}/{}/{generation}", sector.sp, sector.number)
}

/// What the keys of all generations are LIKE.
pub(crate) fn any_of(purpose: &str, sector: SectorRef) -> String {
    format!("{purpose}/{}/{}/%", sector.sp, sector.number)
}
