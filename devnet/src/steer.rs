//! What a test does to a chain, besides making epochs: forks with another beacon, a head that goes backwards,
//! a node that does not answer, messages that do not land.

use std::time::Duration;

use cid::Cid;
use curio_chain::TokenAmount;
use curio_chain::types::TipSet;

use crate::chain::{OtherBeacon, Refused};
use crate::{Devnet, clock};

/// While this lives the node answers nobody; see [`Devnet::silence`].
#[must_use = "the node answers again when this is dropped"]
pub struct Silence<'a>(&'a Devnet);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.node.silence(false);
    }
}

impl Devnet {
    /// From now on epochs pass by themselves, on a chain that was advanced by hand until now.
    pub fn let_run(&mut self, period: Duration) {
        let clock = clock::run(self.node.clone(), period, self.stop.clone());
        self.tasks.push(tokio::spawn(clock));
    }

    /// As [`Devnet::reorganise`], with another beacon from the fork on: randomness that was drawn from
    /// these epochs before is another one now.
    ///
    /// # Errors
    /// A sentence, when the chain is not that deep or the new fork would be the shorter one.
    pub fn reorganise_with_other_beacon(&self, depth: usize, length: usize) -> Result<TipSet, String> {
        let tip = self.node.chain().reorganise(depth, length, OtherBeacon::Yes);
        tip.map(|tip| tip.tipset.clone()).map_err(|Refused(why)| why)
    }

    /// The head goes back by `depth` tipsets; their messages go back to the pool.
    ///
    /// # Errors
    /// A sentence, when the chain is not that deep.
    pub fn rewind(&self, depth: usize) -> Result<TipSet, String> {
        let tip = self.node.chain().rewind(depth);
        tip.map(|tip| tip.tipset.clone()).map_err(|Refused(why)| why)
    }

    /// Calls are not answered and head changes not told until the guard is dropped; then all of them are.
    /// Connections stay open, the chain goes on.
    pub fn silence(&self) -> Silence<'_> {
        self.node.silence(true);
        Silence(self)
    }

    /// Closes every websocket.
    pub fn hang_up(&self) {
        self.node.hang_up();
    }

    /// This message goes into no block, until [`Devnet::hold_nothing_back`]. One that replaces it may.
    pub fn hold_back(&self, message: Cid) {
        self.node.chain().pool.exclusion.messages.insert(message);
    }

    /// Messages that offer a lower premium per unit of gas go into no block, as on a crowded network, until
    /// [`Devnet::hold_nothing_back`]. What the node suggests to offer stays as it is.
    pub fn hold_back_below(&self, premium: TokenAmount) {
        self.node.chain().pool.exclusion.below_premium = premium;
    }

    /// From now on every message may go into a block.
    pub fn hold_nothing_back(&self) {
        self.node.chain().pool.exclusion = Default::default();
    }
}
