//! Counts of proofs of spacetime, kept in this process and read by `/metrics`. Labels are miners and closed words.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use curio_core::SpId;

/// Plain counters, and one gauge.
#[derive(Debug, Default)]
pub struct PostCounters(Mutex<PostCounts>);

/// A reading of the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PostCounts {
    /// Window PoSts of partitions made here.
    pub proofs: BTreeMap<SpId, u64>,
    /// Partitions whose window closed without their proof.
    pub missed: BTreeMap<SpId, u64>,
    /// Sectors left out of proofs made here.
    pub skipped_sectors: BTreeMap<SpId, u64>,
    /// Proofs made anew because a reorganisation changed their randomness.
    pub remade: BTreeMap<SpId, u64>,
    /// Sectors that were declared recovered, and that were declared faulty.
    pub recoveries_declared: BTreeMap<SpId, u64>,
    pub faults_declared: BTreeMap<SpId, u64>,
    /// Faulty sectors as of the last head that was looked at; not a counter.
    pub faulty_sectors: BTreeMap<SpId, u64>,
    /// Elections won here, blocks found in the chain later, and wins that came to nothing, with why.
    pub wins: BTreeMap<SpId, u64>,
    pub included: BTreeMap<SpId, u64>,
    pub lost: BTreeMap<(SpId, &'static str), u64>,
}

impl PostCounters {
    pub fn read(&self) -> PostCounts {
        self.lock().clone()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut PostCounts)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, PostCounts> {
        // Counters stay usable after a panic elsewhere.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
