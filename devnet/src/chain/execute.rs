//! Turning messages into state: the ends of the null rounds below, the messages, the end of the epoch.

use std::collections::HashMap;
use std::sync::Arc;

use curio_chain::types::{Message, SignedMessage};
use fil_actors_shared::v18::BURNT_FUNDS_ACTOR_ID;
use fvm_shared::address::Address;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;

use super::block::Block;
use super::{Chain, Tickets, Tip};
use crate::state::StateTree;
use crate::vm::{Applied, Payment, Vm, World};

/// Tokens that circulate before anything is burnt or pledged, in FIL (disbursed reserve and vested
/// allocations of a private Lotus network).
const CIRCULATING_FIL: u64 = 560_756_901;

pub(super) struct Executed {
    pub between: StateTree,
    pub after: StateTree,
    pub applied: Vec<Applied>,
}

/// Messages of a tipset's blocks in the order of execution: each once, and of several with the same nonce the
/// one in the first block.
pub(super) fn in_order(blocks: &[Arc<Block>], before: &StateTree) -> Vec<SignedMessage> {
    let mut nonces: HashMap<Address, u64> = HashMap::new();
    let messages = blocks.iter().flat_map(|block| &block.messages);
    let next = messages.filter(|message| {
        let nonce = nonces.entry(message.message.from);
        let nonce =
            nonce.or_insert_with(|| before.lookup(&message.message.from).map_or(0, |(_, account)| account.nonce));
        let fits = message.message.nonce == *nonce;
        *nonce += u64::from(fits);
        fits
    });
    next.cloned().collect()
}

impl Chain {
    /// Executes a tipset on top of `parent`.
    pub(super) fn execute(&self, parent: &Arc<Tip>, height: ChainEpoch, messages: &[SignedMessage]) -> Executed {
        let randomness = Tickets { chain: self, base: parent };
        let circulating = self.circulating(&parent.after);
        let mut tree = (*parent.after).clone();
        for null_round in parent.height + 1..height {
            tree = self.end_epoch(self.world(&randomness, null_round, &circulating), tree);
        }
        let world = self.world(&randomness, height, &circulating);
        let mut vm = Vm::new(world, tree);
        let applied: Vec<Applied> =
            messages.iter().map(|message| vm.apply(&message.message, Payment::Charged)).collect();
        let between = vm.tree;
        let after = self.end_epoch(world, between.clone());
        Executed { between, after, applied }
    }

    /// Executes one message on top of a tipset and its messages, without keeping anything: first
    /// `before` (what its sender has in the pool), then the message.
    pub(super) fn try_message(&self, tip: &Arc<Tip>, before: &[SignedMessage], message: &Message) -> Applied {
        let randomness = Tickets { chain: self, base: tip };
        let circulating = self.circulating(&tip.before);
        let world = self.world(&randomness, tip.height, &circulating);
        let mut vm = Vm::new(world, (*tip.between).clone());
        for pending in before {
            vm.apply(&pending.message, Payment::Charged);
        }
        vm.apply(message, Payment::Free)
    }

    /// A machine that only looks at a tipset's state.
    pub fn look<T>(&self, tip: &Arc<Tip>, read: impl FnOnce(&Vm<'_>) -> T) -> T {
        let randomness = Tickets { chain: self, base: tip };
        let circulating = self.circulating(&tip.before);
        read(&Vm::new(self.world(&randomness, tip.height, &circulating), (*tip.before).clone()))
    }

    fn world<'a>(&'a self, randomness: &'a Tickets<'a>, epoch: ChainEpoch, circulating: &'a TokenAmount) -> World<'a> {
        World {
            network: &self.network,
            store: &self.store,
            verifier: self.verifier.as_ref(),
            randomness,
            epoch,
            circulating,
            base_fee: &self.base_fee,
        }
    }

    fn end_epoch(&self, world: World<'_>, tree: StateTree) -> StateTree {
        let mut vm = Vm::new(world, tree);
        if let Err(abort) = vm.tick() {
            tracing::error!(error = abort.backtrace(), "the end of epoch {} failed", world.epoch);
        }
        vm.tree
    }

    /// Tokens in circulation at a state.
    pub fn circulating(&self, tree: &StateTree) -> TokenAmount {
        let pledge = tree
            .load::<crate::actors::power::State>(&self.store, fil_actors_shared::v18::STORAGE_POWER_ACTOR_ID)
            .map(|power| power.total_pledge)
            .unwrap_or_default();
        TokenAmount::from_whole(CIRCULATING_FIL) - tree.balance(BURNT_FUNDS_ACTOR_ID) - pledge
    }
}
