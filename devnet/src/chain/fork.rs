//! Changes of the head that no miner causes: reorganisations of any depth, and a head that goes backwards.

use std::sync::Arc;

use super::{Chain, Refused, Tip};

/// Whether the beacon of a new fork says something else. On the real network it never does, and only
/// tickets differ from fork to fork; here it is how a test changes the randomness of a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherBeacon {
    Yes,
    No,
}

impl Chain {
    /// Replaces the newest `depth` tipsets by `length` empty ones on another fork, with other tickets. Their
    /// messages go back into the pool. Followers see it as one change.
    ///
    /// # Errors
    /// When the chain is not that deep, or the new fork would not be the heavier one.
    pub fn reorganise(&mut self, depth: usize, length: usize, beacon: OtherBeacon) -> Result<Arc<Tip>, Refused> {
        if depth == 0 || length < depth {
            return Err(Refused("a reorganisation needs a depth of at least 1 and a length not below it".to_owned()));
        }
        let mut tip = self.ancestor(depth)?;
        let fork = self.blocks.fork();
        match beacon {
            OtherBeacon::Yes => self.beacon.turn(tip.height + 1, fork),
            OtherBeacon::No => {}
        }
        for _ in 0..length {
            tip = self.extend(&tip, 0, 0, Vec::new());
        }
        self.set_head(tip.clone());
        Ok(tip)
    }

    /// Makes the tipset `depth` below the head the head, as a node does whose chain was reset. The messages
    /// above it go back into the pool.
    ///
    /// # Errors
    /// When the chain is not that deep.
    pub fn rewind(&mut self, depth: usize) -> Result<Arc<Tip>, Refused> {
        if depth == 0 {
            return Err(Refused("the head goes back by at least 1 tipset".to_owned()));
        }
        let tip = self.ancestor(depth)?;
        self.set_head(tip.clone());
        Ok(tip)
    }

    fn ancestor(&self, depth: usize) -> Result<Arc<Tip>, Refused> {
        let mut tip = self.head();
        for _ in 0..depth {
            tip = self.parent(tip).ok_or_else(|| Refused(format!("the chain is not {depth} tipsets deep")))?;
        }
        Ok(tip.clone())
    }
}
