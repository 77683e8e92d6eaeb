//! Counts of the pipeline, kept in this process and read by `/metrics`. Labels are closed sets.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

/// Plain counters; all of them only grow.
#[derive(Debug, Default)]
pub struct Counters(Mutex<Counts>);

/// A reading of the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tasks created for sectors, by task name.
    pub tasks_created: BTreeMap<&'static str, u64>,
    /// Tasks that vanished without their result and were created again, by task name.
    pub tasks_recreated: BTreeMap<&'static str, u64>,
    /// Messages executed, by purpose and exit code.
    pub messages_landed: BTreeMap<(&'static str, i64), u64>,
    /// Messages given up and asked for again, by purpose.
    pub messages_repeated: BTreeMap<&'static str, u64>,
    /// Messages signed again with a higher price, by purpose.
    pub messages_replaced: BTreeMap<&'static str, u64>,
    /// Sectors sealed anew because their ticket ran out.
    pub reseals: u64,
    /// Sectors failed, by reason.
    pub sectors_failed: BTreeMap<String, u64>,
    /// Rounds of the poller, and those that failed.
    pub polls: u64,
    pub polls_failed: u64,
}

impl Counters {
    pub fn read(&self) -> Counts {
        self.lock().clone()
    }

    pub(crate) fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        // Counters stay usable after a panic elsewhere.
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
