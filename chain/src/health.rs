//! Which of several chain nodes to ask first. Pure: time comes in.

use std::time::{Duration, Instant};

/// First time out of a node that failed; doubles with each further failure.
const FIRST_REST: Duration = Duration::from_secs(1);
/// Longest time out of a node that keeps failing.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// What is remembered about the nodes, by their place in the configuration.
#[derive(Debug)]
pub struct Health {
    nodes: Vec<Node>,
    /// The node that answered last.
    preferred: usize,
}

#[derive(Clone, Debug, Default)]
struct Node {
    failures: u32,
    rests_until: Option<Instant>,
}

impl Health {
    pub fn new(nodes: usize) -> Health {
        Health { nodes: vec![Node::default(); nodes], preferred: 0 }
    }

    /// All nodes in the order in which to ask them: the one that answered last, the others in the
    /// configured order, and those that rest at the end. None is left out: when all rest, all are asked.
    pub fn order(&self, now: Instant) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|&index| (self.rests(index, now), index != self.preferred, index));
        order
    }

    /// The node answered.
    pub fn answered(&mut self, index: usize) {
        self.preferred = index;
        self.nodes[index] = Node::default();
    }

    /// The node could not be reached or is no use.
    pub fn failed(&mut self, index: usize, now: Instant) {
        let node = &mut self.nodes[index];
        let rest = FIRST_REST.saturating_mul(1 << node.failures.min(10)).min(LONGEST_REST);
        node.failures = node.failures.saturating_add(1);
        node.rests_until = Some(now + rest);
    }

    fn rests(&self, index: usize, now: Instant) -> bool {
        self.nodes[index].rests_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_that_answered_last_is_asked_first() {
        let mut health = Health::new(3);
        let now = Instant::now();
        assert_eq!(health.order(now), [0, 1, 2]);
        health.answered(2);
        assert_eq!(health.order(now), [2, 0, 1]);
    }

    #[test]
    fn a_node_that_failed_is_asked_last_until_it_has_rested() {
        let mut health = Health::new(3);
        let now = Instant::now();
        health.failed(0, now);
        assert_eq!(health.order(now), [1, 2, 0]);
        assert_eq!(health.order(now + FIRST_REST), [0, 1, 2]);
        health.failed(0, now);
        assert_eq!(health.order(now + FIRST_REST), [1, 2, 0]);
        assert_eq!(health.order(now + 2 * FIRST_REST), [0, 1, 2]);
    }

    #[test]
    fn when_all_nodes_rest_all_are_asked_and_the_rest_is_bounded() {
        let mut health = Health::new(2);
        let now = Instant::now();
        for _ in 0..100 {
            health.failed(0, now);
            health.failed(1, now);
        }
        assert_eq!(health.order(now), [0, 1]);
        health.answered(1);
        assert_eq!(health.order(now), [1, 0]);
        assert_eq!(health.order(now + LONGEST_REST), [1, 0]);
        health.failed(1, now);
        assert_eq!(health.order(now + LONGEST_REST), [1, 0]);
    }
}
