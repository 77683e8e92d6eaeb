//! Numbers, and how they are shown and kept.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};

/// One number: its name, its value, and what it is.
pub struct Number {
    pub name: &'static str,
    pub value: f64,
    pub meaning: &'static str,
    pub samples: usize,
}

/// The sample below which this share of them lies. Sorts them.
pub fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let index = (share * samples.len() as f64).ceil() as usize;
    samples.get(index.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

pub fn print(numbers: &[Number]) {
    for Number { name, value, meaning, samples } in numbers {
        println!("{name:<30} {value:>10.2}  {samples} samples");
        println!("    {meaning}");
    }
}

/// One flat JSON object.
pub fn write(path: &Path, numbers: &[Number]) -> Result<()> {
    let flat: BTreeMap<&str, f64> =
        numbers.iter().map(|number| (number.name, (number.value * 1000.0).round() / 1000.0)).collect();
    let text = serde_json::to_string_pretty(&flat).context("failed to write JSON")?;
    std::fs::write(path, text + "\n").with_context(|| format!("failed to write {}", path.display()))
}
