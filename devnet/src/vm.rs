//! The machine that applies messages: takes nonce and gas money, calls the actors, undoes what a
//! failed call did, and says what was used. It holds a state tree and changes it; who keeps the result
//! (a tipset) or throws it away (an estimate) is the caller's business.

pub mod abort;
pub mod gas;
mod randomness;

use cid::Cid;
use curio_chain::types::Message;
use fil_actors_shared::v18::{Array, BURNT_FUNDS_ACTOR_ID, REWARD_ACTOR_ID};
use fvm_ipld_encoding::strict_bytes;
use fvm_ipld_encoding::tuple::*;
use fvm_shared::ActorID;
use fvm_shared::address::{Address, Protocol};
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use fvm_shared::error::ExitCode;
use fvm_shared::event::{ActorEvent, StampedEvent};

use crate::actors;
use crate::network::Network;
use crate::proof::ProofVerifier;
use crate::state::StateTree;
use crate::store::Store;
use abort::Abort;
use gas::Work;

pub use randomness::Randomness;

/// Width of the AMT of events in a receipt.
const EVENTS_BIT_WIDTH: u32 = 5;

/// What a message may know of the world.
#[derive(Clone, Copy)]
pub struct World<'a> {
    pub network: &'a Network,
    pub store: &'a Store,
    pub verifier: &'a dyn ProofVerifier,
    pub randomness: &'a dyn Randomness,
    pub epoch: ChainEpoch,
    /// Tokens in circulation before this epoch.
    pub circulating: &'a TokenAmount,
    pub base_fee: &'a TokenAmount,
}

/// Result of a message as the chain keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize_tuple, Deserialize_tuple)]
pub struct Receipt {
    pub exit_code: u32,
    #[serde(with = "strict_bytes")]
    pub return_data: Vec<u8>,
    pub gas_used: u64,
    pub events_root: Option<Cid>,
}

/// Result of a message with what only callers and estimates see.
#[derive(Clone, Debug)]
pub struct Applied {
    pub receipt: Receipt,
    /// Backtrace of a failed message; empty for a good one.
    pub error: String,
}

/// Applies messages to one state tree.
pub struct Vm<'a> {
    pub world: World<'a>,
    pub tree: StateTree,
    /// What the running message did besides its state changes.
    effects: Effects,
}

#[derive(Default)]
struct Effects {
    events: Vec<StampedEvent>,
    /// Address counter for new actors, per message.
    created: u64,
    new_account: bool,
    /// What the message dealt with, for its gas.
    work: Work,
    origin: Option<(Address, u64)>,
}

/// One call of an actor's method.
pub struct Call<'v, 'a> {
    pub vm: &'v mut Vm<'a>,
    pub caller: ActorID,
    pub receiver: ActorID,
    pub method: u64,
    pub value: TokenAmount,
}

/// Who pays: a message on the chain, or nobody (an estimate, a call).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payment {
    Charged,
    Free,
}

impl<'a> Vm<'a> {
    pub fn new(world: World<'a>, tree: StateTree) -> Vm<'a> {
        Vm { world, tree, effects: Effects::default() }
    }

    /// Applies one message. A message whose sender cannot be charged leaves no trace and gets a system
    /// exit code; any other takes its nonce and its gas, whatever its outcome.
    pub fn apply(&mut self, message: &Message, payment: Payment) -> Applied {
        let Some((sender, key)) = self.sender(message, payment) else {
            return refused(
                ExitCode::SYS_SENDER_STATE_INVALID,
                "the sender has no account, another nonce, or no money",
            );
        };
        let reserved = message.max_fee();
        let gas_limit = message.gas_limit.unsigned_abs();
        if let Some(actor) = self.tree.actor_mut(sender) {
            actor.nonce += 1;
            if payment == Payment::Charged {
                actor.balance -= &reserved;
            }
        }
        self.effects = Effects { origin: Some((key, message.nonce)), ..Effects::default() };

        let before = self.tree.clone();
        let outcome = self.send(sender, &message.to, message.method, &message.params, &message.value);
        let effects = std::mem::take(&mut self.effects);
        let to = self.tree.resolve(&message.to).unwrap_or_default();
        let gas_used = gas::used(to, message.method, outcome.is_ok(), effects.work, effects.new_account);
        let outcome = match gas_used > gas_limit {
            true => Err(Abort::machine(ExitCode::SYS_OUT_OF_GAS, "message ran out of gas")),
            false => outcome,
        };
        if outcome.is_err() {
            self.tree = before;
        }
        let gas_used = gas_used.min(gas_limit);
        if payment == Payment::Charged {
            self.settle(sender, message, gas_used);
        }
        match outcome {
            Ok(return_data) => {
                let events_root = self.store_events(effects.events);
                let receipt = Receipt { exit_code: 0, return_data, gas_used, events_root };
                Applied { receipt, error: String::new() }
            }
            Err(abort) => {
                let receipt =
                    Receipt { exit_code: abort.code.value(), return_data: Vec::new(), gas_used, events_root: None };
                Applied { receipt, error: abort.backtrace() }
            }
        }
    }

    /// The sending account, if it may send this message now.
    fn sender(&self, message: &Message, payment: Payment) -> Option<(ActorID, Address)> {
        let (id, actor) = self.tree.lookup(&message.from)?;
        let key = actor.robust?;
        let reserved = message.max_fee();
        let pays = payment == Payment::Free || (actor.nonce == message.nonce && actor.balance >= reserved);
        (actor.kind == crate::state::Kind::Account && pays).then_some((id, key))
    }

    /// Burns, tips and refunds what the sender had reserved.
    fn settle(&mut self, sender: ActorID, message: &Message, gas_used: u64) {
        let out = gas::outputs(
            gas_used,
            message.gas_limit.unsigned_abs(),
            self.world.base_fee,
            &message.gas_fee_cap,
            &message.gas_premium,
        );
        self.credit(BURNT_FUNDS_ACTOR_ID, &(&out.base_fee_burn + &out.over_estimation_burn));
        self.credit(REWARD_ACTOR_ID, &out.miner_tip);
        self.credit(sender, &out.refund);
    }

    fn credit(&mut self, id: ActorID, amount: &TokenAmount) {
        if let Some(actor) = self.tree.actor_mut(id) {
            actor.balance += amount;
        }
    }

    /// Sends value and calls a method. On failure everything below has to be undone by the caller's
    /// snapshot; the actors here never catch a failed send, so the message's snapshot is enough.
    pub fn send(
        &mut self,
        from: ActorID,
        to: &Address,
        method: u64,
        params: &[u8],
        value: &TokenAmount,
    ) -> Result<Vec<u8>, Abort> {
        let receiver = self.receiver(to)?;
        self.transfer(from, receiver, value)?;
        if method == 0 {
            return Ok(Vec::new());
        }
        let mut call = Call { vm: self, caller: from, receiver, method, value: value.clone() };
        actors::invoke(&mut call, params).map_err(|mut abort| {
            abort.close(receiver, method);
            abort
        })
    }

    /// The receiving actor; a key address that nobody has seen gets an account.
    fn receiver(&mut self, to: &Address) -> Result<ActorID, Abort> {
        if let Some((id, _)) = self.tree.lookup(to) {
            return Ok(id);
        }
        match to.protocol() {
            Protocol::BLS | Protocol::Secp256k1 => {
                self.effects.new_account = true;
                Ok(self.tree.add_account(self.world.store, *to, None))
            }
            _ => {
                let who = to.id().map_or_else(|_| to.to_string(), |id| id.to_string());
                let text = format!("send::send -- actor does not exist: {who} (6: resource not found)");
                Err(Abort::machine(ExitCode::SYS_INVALID_RECEIVER, text))
            }
        }
    }

    /// Moves money between two actors.
    pub fn transfer(&mut self, from: ActorID, to: ActorID, value: &TokenAmount) -> Result<(), Abort> {
        let balance = self.tree.balance(from);
        if &balance < value {
            let text = format!(
                "send::send -- sender does not have funds to transfer (balance {balance}, transfer {value}) \
                 (5: insufficient funds)"
            );
            return Err(Abort::machine(ExitCode::SYS_INSUFFICIENT_FUNDS, text));
        }
        if let Some(actor) = self.tree.actor_mut(from) {
            actor.balance -= value;
        }
        self.credit(to, value);
        Ok(())
    }

    /// A robust address for an actor made by the running message, the same however the chain is reorganised.
    pub fn new_robust_address(&mut self) -> Address {
        let (origin, nonce) = self.effects.origin.unwrap_or((Address::new_id(0), 0));
        let mut bytes = origin.to_bytes();
        bytes.extend_from_slice(&nonce.to_be_bytes());
        bytes.extend_from_slice(&self.effects.created.to_be_bytes());
        self.effects.created += 1;
        Address::new_actor(&bytes)
    }

    fn store_events(&self, events: Vec<StampedEvent>) -> Option<Cid> {
        if events.is_empty() {
            return None;
        }
        let mut list = Array::<StampedEvent, Store>::new_with_bit_width(self.world.store, EVENTS_BIT_WIDTH);
        for (index, event) in events.into_iter().enumerate() {
            list.set(index as u64, event).expect("events encode, and memory does not refuse them");
        }
        Some(list.flush().expect("events encode, and memory does not refuse them"))
    }
}

fn refused(code: ExitCode, message: &str) -> Applied {
    let receipt = Receipt { exit_code: code.value(), return_data: Vec::new(), gas_used: 0, events_root: None };
    Applied { receipt, error: message.to_owned() }
}

impl<'a> Call<'_, 'a> {
    pub fn world(&self) -> World<'a> {
        self.vm.world
    }

    /// Balance of the actor that is called, the value of this call included.
    pub fn balance(&self) -> TokenAmount {
        self.vm.tree.balance(self.receiver)
    }

    /// State of the actor that is called.
    pub fn state<T: serde::de::DeserializeOwned>(&self) -> Result<T, Abort> {
        Ok(self.vm.tree.load(self.vm.world.store, self.receiver)?)
    }

    /// Replaces the state of the actor that is called.
    pub fn save(&mut self, state: &impl serde::Serialize) {
        let head = self.vm.world.store.put(state);
        if let Some(actor) = self.vm.tree.actor_mut(self.receiver) {
            actor.head = head;
        }
    }

    /// Refuses callers that are not on the list.
    pub fn only<'i>(&self, allowed: impl IntoIterator<Item = &'i Address>) -> Result<(), Abort> {
        let caller = Address::new_id(self.caller);
        match allowed.into_iter().any(|address| *address == caller) {
            true => Ok(()),
            false => Err(Abort::forbidden(format!("caller f0{} is not one of supported", self.caller))),
        }
    }

    /// Burns money of the actor that is called.
    pub fn burn(&mut self, amount: &TokenAmount) -> Result<(), Abort> {
        self.vm.transfer(self.receiver, BURNT_FUNDS_ACTOR_ID, amount)
    }

    pub fn emit(&mut self, event: ActorEvent) {
        self.vm.effects.events.push(StampedEvent::new(self.receiver, event));
    }

    /// Counts what this message has to do, for its gas.
    pub fn count(&mut self, work: Work) {
        self.vm.effects.work += work;
    }
}
