//! Lists of sector and partition numbers as `bigint[]` columns.

use crate::storage::{from_column, to_column};

pub(super) fn to_columns(numbers: &[u64]) -> Vec<i64> {
    numbers.iter().map(|number| to_column(*number)).collect()
}

pub(super) fn from_columns(numbers: &[i64]) -> Vec<u64> {
    numbers.iter().map(|number| from_column(*number)).collect()
}
