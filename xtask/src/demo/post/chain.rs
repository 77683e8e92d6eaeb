//! What the chain says of deadlines, partitions and blocks, at one tipset, by plain HTTP.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::super::chain::{Chain, same_actor};

pub type Sectors = BTreeSet<u64>;

/// Where a miner is in its proving period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Epoch of the tipset that was asked.
    pub now: i64,
    pub start: i64,
    /// The deadline that is open or comes next.
    pub index: u64,
    pub deadlines: u64,
    /// Epochs that a deadline is open.
    pub window: i64,
}

impl Period {
    /// The deadline that is open or comes next, counted from the start of this period on.
    pub fn current(&self) -> Slot {
        let open = self.start + i64::try_from(self.index).unwrap_or(0) * self.window;
        Slot { index: self.index, open, close: open + self.window }
    }

    /// The deadline after `slot`.
    pub fn after(&self, slot: Slot) -> Slot {
        Slot { index: (slot.index + 1) % self.deadlines, open: slot.close, close: slot.close + self.window }
    }
}

/// One deadline at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot {
    pub index: u64,
    pub open: i64,
    /// First epoch after it.
    pub close: i64,
}

/// Sectors of a partition, by what the chain holds of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    pub live: Sectors,
    pub active: Sectors,
    pub faulty: Sectors,
    pub recovering: Sectors,
}

impl Partition {
    /// What a proof has to cover.
    pub fn due(&self) -> Sectors {
        self.live
            .iter()
            .filter(|sector| !self.faulty.contains(sector) || self.recovering.contains(sector))
            .copied()
            .collect()
    }
}

/// The chain as it was at one epoch.
pub struct View<'a> {
    chain: &'a Chain,
    miner: &'a str,
    key: Value,
    /// Epoch of the tipset.
    pub height: i64,
}

impl<'a> View<'a> {
    pub fn of_head(chain: &'a Chain, miner: &'a str) -> Result<View<'a>> {
        View::of(chain, miner, &chain.call("ChainHead", json!([]))?)
    }

    /// The tipset of this epoch, or the one before it when the epoch stayed without a block.
    pub fn at(chain: &'a Chain, miner: &'a str, epoch: i64) -> Result<View<'a>> {
        View::of(chain, miner, &chain.call("ChainGetTipSetByHeight", json!([epoch, null]))?)
    }

    fn of(chain: &'a Chain, miner: &'a str, tipset: &Value) -> Result<View<'a>> {
        let height = tipset["Height"].as_i64().context("the chain sent a tipset without a height")?;
        Ok(View { chain, miner, key: tipset["Cids"].clone(), height })
    }

    fn ask(&self, method: &str, before_key: &[Value]) -> Result<Value> {
        let mut params = vec![json!(self.miner)];
        params.extend_from_slice(before_key);
        params.push(self.key.clone());
        self.chain.call(method, Value::Array(params))
    }

    pub fn period(&self) -> Result<Period> {
        let told = self.ask("StateMinerProvingDeadline", &[])?;
        let number = |name: &str| {
            told[name].as_i64().with_context(|| format!("StateMinerProvingDeadline answered without {name}"))
        };
        Ok(Period {
            now: self.height,
            start: number("PeriodStart")?,
            index: u64::try_from(number("Index")?).context("a deadline has a negative index")?,
            deadlines: u64::try_from(number("WPoStPeriodDeadlines")?).context("a period has a negative length")?,
            window: number("WPoStChallengeWindow")?,
        })
    }

    pub fn partitions(&self, deadline: u64) -> Result<Vec<Partition>> {
        let told = self.ask("StateMinerPartitions", &[json!(deadline)])?;
        told.as_array().into_iter().flatten().map(partition).collect()
    }

    /// Partitions that were proven so far in a deadline that is open.
    pub fn proven_partitions(&self, deadline: u64) -> Result<Sectors> {
        let told = self.ask("StateMinerDeadlines", &[])?;
        let place = usize::try_from(deadline).context("a deadline's index is too large")?;
        bit_field(&told[place]["PostSubmissions"])
    }

    /// Every partition of every deadline, by deadline and index.
    pub fn all_partitions(&self) -> Result<BTreeMap<(u64, usize), Partition>> {
        let mut all = BTreeMap::new();
        for deadline in 0..self.period()?.deadlines {
            for (index, partition) in self.partitions(deadline)?.into_iter().enumerate() {
                all.insert((deadline, index), partition);
            }
        }
        Ok(all)
    }

    pub fn faulty(&self) -> Result<Sectors> {
        bit_field(&self.ask("StateMinerFaults", &[])?)
    }

    pub fn recovering(&self) -> Result<Sectors> {
        bit_field(&self.ask("StateMinerRecoveries", &[])?)
    }
}

/// Blocks of this miner in the chain, from `from` to `to`, both included.
pub fn blocks_of(chain: &Chain, miner: &str, from: i64, to: i64) -> Result<Vec<i64>> {
    let mut epochs = Vec::new();
    let mut tipset = chain.call("ChainGetTipSetByHeight", json!([to, null]))?;
    loop {
        let height = tipset["Height"].as_i64().context("the chain sent a tipset without a height")?;
        if height < from || height == 0 {
            epochs.reverse();
            return Ok(epochs);
        }
        let blocks = tipset["Blocks"].as_array().context("the chain sent a tipset without blocks")?;
        if blocks.iter().any(|block| block["Miner"].as_str().is_some_and(|of| same_actor(of, miner))) {
            epochs.push(height);
        }
        tipset = chain.call("ChainGetTipSet", json!([blocks[0]["Parents"]]))?;
    }
}

fn partition(told: &Value) -> Result<Partition> {
    Ok(Partition {
        live: bit_field(&told["LiveSectors"])?,
        active: bit_field(&told["ActiveSectors"])?,
        faulty: bit_field(&told["FaultySectors"])?,
        recovering: bit_field(&told["RecoveringSectors"])?,
    })
}

/// A set as run lengths that start with a run of what is not in it.
fn bit_field(told: &Value) -> Result<Sectors> {
    let runs = told.as_array().context("the chain sent a bit field that is no list")?;
    let mut set = Sectors::new();
    let mut at = 0;
    for (place, run) in runs.iter().enumerate() {
        let length = run.as_u64().context("the chain sent a bit field with something else than lengths")?;
        if place % 2 == 1 {
            set.extend(at..at + length);
        }
        at += length;
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_field_is_read_as_runs_that_start_with_what_is_not_in_it() {
        for (runs, set) in [
            (json!([0]), vec![]),
            (json!([]), vec![]),
            (json!([0, 1]), vec![0]),
            (json!([2, 2]), vec![2, 3]),
            (json!([1, 1, 2, 1]), vec![1, 4]),
        ] {
            assert_eq!(bit_field(&runs).expect("a bit field"), set.into_iter().collect(), "{runs}");
        }
        assert!(bit_field(&json!("text")).is_err());
    }

    #[test]
    fn what_is_due_are_live_sectors_that_are_well_or_recover() {
        let partition =
            Partition { live: [1, 2, 3].into(), active: [1].into(), faulty: [2, 3].into(), recovering: [3].into() };
        assert_eq!(partition.due(), [1, 3].into());
    }

    #[test]
    fn deadlines_follow_one_another_over_the_end_of_a_period() {
        let period = Period { now: 130, start: 100, index: 1, deadlines: 2, window: 20 };
        let first = period.current();
        assert_eq!(first, Slot { index: 1, open: 120, close: 140 });
        assert_eq!(period.after(first), Slot { index: 0, open: 140, close: 160 });
    }
}
