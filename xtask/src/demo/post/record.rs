//! What became of each deadline, by the chain, and the tables about it.

use anyhow::Result;

use super::super::chain::Chain;
use super::super::summary::table;
use super::chain::{Partition, Period, Sectors, Slot, View};

/// A partition in one deadline that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub slot: Slot,
    pub partition: usize,
    /// What a proof had to cover.
    pub due: Sectors,
    /// Of those, what was recovering.
    pub recovering: Sectors,
    /// Whether the chain took a proof of it.
    pub proven: bool,
    /// Faulty once the deadline was over.
    pub faulty: Sectors,
}

impl Outcome {
    pub fn missed(&self) -> bool {
        !self.proven
    }

    /// Healthy when the deadline opened, faulty when it closed.
    pub fn faulted(&self) -> Sectors {
        self.due.intersection(&self.faulty).copied().collect()
    }

    /// Recovering when the deadline opened, healthy when it closed.
    pub fn recovered(&self) -> Sectors {
        self.recovering.difference(&self.faulty).copied().collect()
    }
}

/// Deadlines from one on, each asked for once it is over.
pub struct Record {
    period: Period,
    next: Slot,
    pub outcomes: Vec<Outcome>,
}

impl Record {
    /// Starts with the deadline that follows the one that is open or next.
    pub fn from_next(period: Period) -> Record {
        Record { period, next: period.after(period.current()), outcomes: Vec::new() }
    }

    /// The first epoch that it looks at.
    pub fn begins(&self) -> i64 {
        self.outcomes.first().map_or(self.next.open, |first| first.slot.open)
    }

    /// Looks at the deadlines that have ended by `head`; returns what is new.
    pub fn follow(&mut self, chain: &Chain, miner: &str, head: i64) -> Result<Vec<Outcome>> {
        let mut new = Vec::new();
        // The end of a deadline shows in the tipset after its last epoch.
        while head > self.next.close {
            let slot = self.next;
            let last = View::at(chain, miner, slot.close - 1)?;
            let before = View::at(chain, miner, slot.open)?.partitions(slot.index)?;
            let proven = last.proven_partitions(slot.index)?;
            let after = View::at(chain, miner, slot.close)?.partitions(slot.index)?;
            new.extend(outcomes(slot, &before, &proven, &after));
            self.next = self.period.after(slot);
        }
        self.outcomes.extend(new.iter().cloned());
        Ok(new)
    }
}

fn outcomes(slot: Slot, before: &[Partition], proven: &Sectors, after: &[Partition]) -> Vec<Outcome> {
    let outcome = |(index, (before, after)): (usize, (&Partition, &Partition))| Outcome {
        slot,
        partition: index,
        due: before.due(),
        recovering: before.recovering.clone(),
        proven: proven.contains(&(index as u64)),
        faulty: after.faulty.clone(),
    };
    let all = before.iter().zip(after).enumerate().map(outcome);
    all.filter(|outcome| !outcome.due.is_empty()).collect()
}

/// One line per partition of every deadline that had something to prove.
pub fn deadline_table(outcomes: &[Outcome]) -> String {
    let mut rows = vec![["DEADLINE", "EPOCHS", "PARTITION", "DUE", "PROOF", "FAULTED", "RECOVERED"].map(str::to_owned)];
    for outcome in outcomes {
        rows.push([
            outcome.slot.index.to_string(),
            format!("{}-{}", outcome.slot.open, outcome.slot.close - 1),
            outcome.partition.to_string(),
            list(&outcome.due),
            if outcome.proven { "accepted" } else { "missed" }.to_owned(),
            list(&outcome.faulted()),
            list(&outcome.recovered()),
        ]);
    }
    table(&rows)
}

/// Sector numbers, or a dash.
pub fn list(sectors: &Sectors) -> String {
    let numbers: Vec<String> = sectors.iter().map(u64::to_string).collect();
    if numbers.is_empty() { "-".to_owned() } else { numbers.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: Slot = Slot { index: 1, open: 24, close: 48 };

    #[test]
    fn a_partition_is_judged_by_what_the_chain_held_before_and_after() {
        let before =
            Partition { live: [0, 1, 2].into(), active: [0, 1].into(), faulty: [2].into(), recovering: [2].into() };
        let after = Partition { faulty: [1].into(), ..before.clone() };
        let empty = Partition::default();
        let seen = outcomes(SLOT, &[before, empty.clone()], &[0].into(), &[after, empty]);
        assert_eq!(seen.len(), 1, "a partition without anything to prove is no outcome");
        assert_eq!((seen[0].missed(), seen[0].faulted(), seen[0].recovered()), (false, [1].into(), [2].into()));
        let text = deadline_table(&seen);
        assert!(text.contains("1         24-47   0          0,1,2  accepted  1        2"), "{text}");
    }

    #[test]
    fn a_partition_without_a_proof_is_missed() {
        let partition = Partition { live: [0].into(), active: [0].into(), ..Partition::default() };
        let seen = outcomes(SLOT, std::slice::from_ref(&partition), &Sectors::new(), std::slice::from_ref(&partition));
        assert!(seen[0].missed());
    }
}
