//! Sector numbers: which are taken, by the chain or by us, and which come next.
//!
//! Kept as run lengths that start with a run of zeros, the form in which Lotus answers bit fields:
//! `{2,3}` is `[2,2]`, `{0}` is `[0,1]`, the empty set is `[0]`.

use curio_core::{SectorRef, SpId};
use curio_harmony::{Tx, TxError};

/// A set of sector numbers, as half-open ranges: sorted, not empty, not touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers(Vec<(u64, u64)>);

/// The largest sector number on chain is 2^63 - 1.
pub const MAX_SECTOR_NUMBER: u64 = i64::MAX as u64;

impl Numbers {
    /// Reads run lengths; runs beyond 64 bits are cut off.
    pub fn from_runs(runs: &[u64]) -> Numbers {
        let mut ranges = Vec::new();
        let mut at = 0u64;
        for (index, run) in runs.iter().enumerate() {
            let end = at.saturating_add(*run);
            if index % 2 == 1 && end > at {
                ranges.push((at, end));
            }
            at = end;
        }
        Numbers::of_ranges(ranges)
    }

    /// The run lengths.
    pub fn to_runs(&self) -> Vec<u64> {
        if self.0.is_empty() {
            return vec![0];
        }
        let mut at = 0;
        let mut runs = Vec::with_capacity(self.0.len() * 2);
        for (start, end) in &self.0 {
            runs.push(start - at);
            runs.push(end - start);
            at = *end;
        }
        runs
    }

    /// Half-open ranges, in any order.
    pub fn from_ranges(ranges: impl IntoIterator<Item = (u64, u64)>) -> Numbers {
        Numbers::of_ranges(ranges.into_iter().filter(|(start, end)| start < end).collect())
    }

    fn of_ranges(mut ranges: Vec<(u64, u64)>) -> Numbers {
        ranges.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            match merged.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => merged.push((start, end)),
            }
        }
        Numbers(merged)
    }

    /// Everything in either.
    pub fn union(&self, other: &Numbers) -> Numbers {
        Numbers::of_ranges(self.0.iter().chain(&other.0).copied().collect())
    }

    /// The `count` lowest numbers that are not in the set, and the set with them; `None` when there are
    /// not that many left.
    pub fn take_lowest(&self, count: u64) -> Option<(Vec<u64>, Numbers)> {
        let mut taken = Vec::new();
        let mut at = 0u64;
        let ends = self.0.iter().copied().chain([(MAX_SECTOR_NUMBER + 1, u64::MAX)]);
        for (start, end) in ends {
            let missing = count - taken.len() as u64;
            taken.extend(at..start.min(at.saturating_add(missing)));
            at = end;
        }
        if (taken.len() as u64) < count {
            return None;
        }
        let with = self.union(&Numbers::of_ranges(taken.iter().map(|n| (*n, n + 1)).collect()));
        Some((taken, with))
    }
}

/// No number is left for the miner.
#[derive(Debug, thiserror::Error)]
#[error("{sp} has no {count} sector numbers left")]
pub struct NoNumbers {
    pub sp: SpId,
    pub count: u64,
}

impl curio_core::Classify for NoNumbers {
    fn classify(self) -> curio_core::Failure {
        curio_core::Failure::Permanent { reason: "no-numbers", cause: Box::new(self) }
    }
}

/// Gives out the `count` lowest numbers that are used neither on chain nor by an earlier call, inside the
/// caller's transaction.
///
/// `on_chain` is the miner's allocated bit field. Two callers at once: the row is locked until the
/// transaction ends, and the primary key keeps two first callers apart (the later one repeats).
pub async fn allocate(tx: &mut Tx, sp: SpId, on_chain: &Numbers, count: u64) -> Result<Vec<SectorRef>, TxError> {
    let sp_id = sp.0 as i64;
    sqlx::query!(
        "INSERT INTO sectors_allocated_numbers (sp_id, allocated) VALUES ($1, '[0]') ON CONFLICT (sp_id) DO NOTHING",
        sp_id
    )
    .execute(&mut *tx)
    .await?;
    // FOR UPDATE: the numbers are taken by whoever holds this row.
    let runs =
        sqlx::query_scalar!("SELECT allocated FROM sectors_allocated_numbers WHERE sp_id = $1 FOR UPDATE", sp_id)
            .fetch_one(&mut *tx)
            .await?;
    let ours: Vec<u64> = serde_json::from_value(runs).unwrap_or_default();
    let (numbers, allocated) = Numbers::from_runs(&ours)
        .union(on_chain)
        .take_lowest(count)
        .ok_or(TxError::Failure(NoNumbers { sp, count }.into()))?;
    let runs = serde_json::Value::from(allocated.to_runs());
    sqlx::query!("UPDATE sectors_allocated_numbers SET allocated = $2 WHERE sp_id = $1", sp_id, runs)
        .execute(&mut *tx)
        .await?;
    Ok(numbers.into_iter().map(|number| SectorRef::new(sp, number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_lengths_read_and_write_as_lotus_does() {
        for runs in [vec![0], vec![0, 1], vec![0, 2], vec![2, 2], vec![3, 1], vec![1, 1, 5, 3]] {
            assert_eq!(Numbers::from_runs(&runs).to_runs(), runs);
        }
        assert_eq!(Numbers::from_runs(&[]).to_runs(), [0]);
        assert_eq!(Numbers::from_runs(&[0, 2, 0, 3]).to_runs(), [0, 5]);
    }

    #[test]
    fn the_lowest_free_numbers_are_taken_from_the_gaps() {
        /// Runs before, how many are taken, which, runs after.
        type Row<'a> = (&'a [u64], u64, &'a [u64], &'a [u64]);
        let table: [Row<'_>; 5] = [
            (&[0], 2, &[0, 1], &[0, 2]),
            (&[0, 4], 1, &[4], &[0, 5]),
            (&[1, 1, 1, 1], 3, &[0, 2, 4], &[0, 5]),
            (&[0, 1, 10, 5], 2, &[1, 2], &[0, 3, 8, 5]),
            (&[0, 3], 0, &[], &[0, 3]),
        ];
        for (runs, count, numbers, after) in table {
            let (taken, with) = Numbers::from_runs(runs).take_lowest(count).expect("there are numbers left");
            assert_eq!(taken, numbers, "from {runs:?}");
            assert_eq!(with.to_runs(), after, "from {runs:?}");
        }
    }

    #[test]
    fn a_full_miner_has_no_numbers_left() {
        assert_eq!(Numbers::from_runs(&[0, MAX_SECTOR_NUMBER]).take_lowest(2), None);
        assert!(Numbers::from_runs(&[0, MAX_SECTOR_NUMBER]).take_lowest(1).is_some());
    }

    #[test]
    fn a_union_joins_what_touches() {
        let union = Numbers::from_runs(&[0, 2]).union(&Numbers::from_runs(&[2, 2, 3, 1]));
        assert_eq!(union.to_runs(), [0, 4, 3, 1]);
    }
}
