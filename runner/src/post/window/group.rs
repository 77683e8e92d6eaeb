//! Which partitions share a message. Pure.
//!
//! A chain that checks a window PoSt takes all its sectors in ascending order and cuts them into as many as fill a
//! partition. Proofs of several partitions hold together only when that gives the partitions back: when all but
//! the last are full, and the numbers of each lie above those of the one before. Any others go alone, which costs
//! gas and nothing else. So does a proof whose message came to nothing: a message fails as a whole, and one proof that
//! the chain refuses must not keep its neighbours from landing until the window closes.

/// A proof that waits for its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub partition: u64,
    /// Ascending, not empty.
    pub proven: Vec<u64>,
    /// Whether sectors recover by it.
    pub recovering: bool,
    /// Whether its message came to nothing, or it was made anew.
    pub again: bool,
}

/// What a message may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Most partitions of a message, at least 1.
    pub partitions: usize,
    /// Sectors of a full partition.
    pub partition_sectors: usize,
    /// A partition with recovering sectors gets a message of its own.
    pub recovering_alone: bool,
}

/// The messages, as partition numbers; `waiting` is of one deadline, in the order of the partitions.
pub fn group(waiting: &[Waiting], rules: Rules) -> Vec<Vec<u64>> {
    let mut groups: Vec<Vec<&Waiting>> = Vec::new();
    for next in waiting {
        match groups.last_mut().filter(|group| may_join(group, next, rules)) {
            Some(group) => group.push(next),
            None => groups.push(vec![next]),
        }
    }
    groups.into_iter().map(|group| group.iter().map(|waiting| waiting.partition).collect()).collect()
}

fn may_join(group: &[&Waiting], next: &Waiting, rules: Rules) -> bool {
    let Rules { partitions, partition_sectors, recovering_alone } = rules;
    let Some(last) = group.last() else {
        return true;
    };
    let ascends = matches!((last.proven.last(), next.proven.first()), (Some(end), Some(start)) if end < start);
    let is_alone = |waiting: &Waiting| waiting.again || (recovering_alone && waiting.recovering);
    let alone = is_alone(next) || is_alone(last);
    group.len() < partitions && last.proven.len() == partition_sectors && ascends && !alone
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules = Rules { partitions: 3, partition_sectors: 2, recovering_alone: false };

    fn waiting(partition: u64, proven: &[u64]) -> Waiting {
        Waiting { partition, proven: proven.to_vec(), recovering: false, again: false }
    }

    #[test]
    fn full_partitions_go_together_up_to_what_the_chain_takes() {
        let full: Vec<Waiting> = (0..5).map(|index| waiting(index, &[2 * index, 2 * index + 1])).collect();
        assert_eq!(group(&full, RULES), [vec![0, 1, 2], vec![3, 4]]);
        assert_eq!(group(&full, Rules { partitions: 1, ..RULES }), [[0], [1], [2], [3], [4]]);
        assert_eq!(group(&[], RULES), Vec::<Vec<u64>>::new());
    }

    #[test]
    fn only_the_last_partition_of_a_message_may_have_a_gap() {
        type Sets = &'static [&'static [u64]];
        let table: [(Sets, Sets); 4] = [
            (&[&[0, 1], &[2]], &[&[0, 1]]),
            (&[&[0], &[2, 3]], &[&[0], &[1]]),
            (&[&[0, 1], &[2], &[4, 5]], &[&[0, 1], &[2]]),
            (&[&[0], &[2], &[4]], &[&[0], &[1], &[2]]),
        ];
        for (proven, expected) in table {
            let partitions: Vec<Waiting> = (0..).zip(proven).map(|(index, proven)| waiting(index, proven)).collect();
            assert_eq!(group(&partitions, RULES), expected, "{proven:?}");
        }
    }

    #[test]
    fn numbers_that_do_not_ascend_across_partitions_go_apart() {
        assert_eq!(group(&[waiting(0, &[4, 5]), waiting(1, &[2, 3])], RULES), [[0], [1]]);
        assert_eq!(group(&[waiting(0, &[0, 4]), waiting(1, &[2, 6])], RULES), [[0], [1]]);
    }

    #[test]
    fn partitions_that_are_no_neighbours_may_share_a_message() {
        assert_eq!(group(&[waiting(1, &[2, 3]), waiting(4, &[8, 9])], RULES), [[1, 4]]);
    }

    #[test]
    fn a_recovering_partition_goes_alone_when_that_is_wanted() {
        let mut partitions: Vec<Waiting> = (0..3).map(|index| waiting(index, &[2 * index, 2 * index + 1])).collect();
        partitions[1].recovering = true;
        assert_eq!(group(&partitions, RULES), [[0, 1, 2]]);
        assert_eq!(group(&partitions, Rules { recovering_alone: true, ..RULES }), [[0], [1], [2]]);
    }

    #[test]
    fn what_failed_together_is_sent_again_one_by_one() {
        let mut partitions: Vec<Waiting> = (0..5).map(|index| waiting(index, &[2 * index, 2 * index + 1])).collect();
        partitions.iter_mut().take(3).for_each(|waiting| waiting.again = true);
        assert_eq!(group(&partitions, RULES), [vec![0], vec![1], vec![2], vec![3, 4]]);
    }
}
