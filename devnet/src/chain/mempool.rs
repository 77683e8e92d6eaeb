//! The message pool: what waits to be included, with a Lotus node's rules and words for what it refuses.

use std::collections::{BTreeMap, HashMap, HashSet};

use cid::Cid;
use curio_chain::address::to_text;
use curio_chain::types::{Message, SignedMessage};
use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;
use num_traits::Zero;

use super::{Chain, Refused};
use crate::network::BLOCK_GAS_LIMIT;
use crate::state::StateTree;
use crate::vm::gas;
use crate::wallet;

/// A replacement needs a premium this many percent of the old one.
const REPLACE_PERCENT: u64 = 110;

/// Messages by sender (key address) and nonce.
#[derive(Default)]
pub struct Mempool {
    pending: BTreeMap<Address, BTreeMap<u64, SignedMessage>>,
    /// Answers of `MpoolPushMessage` by the caller's id, so that asking twice sends once.
    pub by_uuid: HashMap<String, SignedMessage>,
    /// What goes into no block, however long it waits.
    pub exclusion: Exclusion,
}

/// Messages that blocks leave out, as those of a crowded network do.
#[derive(Default)]
pub struct Exclusion {
    /// By CID; a message that replaces one of them is another one.
    pub messages: HashSet<Cid>,
    /// Everything that offers a lower premium, attoFIL per unit of gas.
    pub below_premium: TokenAmount,
}

impl Exclusion {
    fn excludes(&self, message: &SignedMessage) -> bool {
        message.message.gas_premium < self.below_premium || self.messages.contains(&message.cid())
    }
}

impl Mempool {
    /// Everything that waits, by sender and nonce.
    pub fn all(&self) -> Vec<SignedMessage> {
        self.pending.values().flat_map(|sender| sender.values().cloned()).collect()
    }

    /// What a sender has waiting without a gap above the nonce of its account.
    pub fn ready(&self, sender: &Address, nonce: u64) -> Vec<SignedMessage> {
        let Some(waiting) = self.pending.get(sender) else { return Vec::new() };
        (nonce..).map_while(|nonce| waiting.get(&nonce).cloned()).collect()
    }

    /// Messages for the next block, in the order of execution: BLS first, nonces of a sender ascending.
    pub fn select(&self, tree: &StateTree) -> Vec<SignedMessage> {
        let mut selected = Vec::new();
        let mut gas_left = BLOCK_GAS_LIMIT;
        for sender in self.pending.keys() {
            let Some((_, account)) = tree.lookup(sender) else { continue };
            let mut money = account.balance.clone();
            for message in self.ready(sender, account.nonce) {
                let limit = message.message.gas_limit.unsigned_abs();
                let fee = message.message.max_fee();
                if limit > gas_left || fee > money || self.exclusion.excludes(&message) {
                    break;
                }
                gas_left -= limit;
                money -= fee;
                selected.push(message);
            }
        }
        selected.sort_by_key(|message| message.signature.kind != curio_chain::types::SIGNATURE_BLS);
        selected
    }

    /// Drops what the state has already executed.
    pub(super) fn forget_executed(&mut self, tree: &StateTree) {
        for (sender, waiting) in &mut self.pending {
            let nonce = tree.lookup(sender).map_or(0, |(_, account)| account.nonce);
            *waiting = waiting.split_off(&nonce);
        }
        self.pending.retain(|_, waiting| !waiting.is_empty());
    }

    /// Takes back a message whose tipset left the chain.
    pub(super) fn put_back(&mut self, message: SignedMessage) {
        let waiting = self.pending.entry(message.message.from).or_default();
        waiting.entry(message.message.nonce).or_insert(message);
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        self.pending.clear();
    }

    fn add(&mut self, message: SignedMessage) -> Result<(), Refused> {
        let waiting = self.pending.entry(message.message.from).or_default();
        if let Some(old) = waiting.get(&message.message.nonce) {
            let (sender, nonce) = (to_text(&message.message.from), message.message.nonce);
            let taken = format!("failed to add locked: message from {sender} with nonce {nonce} already in mpool");
            if old.cid() == message.cid() {
                return Err(Refused(format!("{taken}: message with nonce already exists")));
            }
            let have = &message.message.gas_premium;
            let need = (&old.message.gas_premium * REPLACE_PERCENT).div_floor(100) + TokenAmount::from_atto(1);
            if *have < need {
                return Err(Refused(format!(
                    "{taken}, increase GasPremium to {} from {} to trigger replace by fee: replace by fee has too low \
                     GasPremium",
                    need.atto(),
                    have.atto()
                )));
            }
        }
        waiting.insert(message.message.nonce, message);
        Ok(())
    }
}

impl Chain {
    /// Takes a message into the pool and answers its CID.
    ///
    /// # Errors
    /// In the words of a Lotus node, whatever is wrong with the message first.
    pub fn push(&mut self, message: SignedMessage) -> Result<Cid, Refused> {
        check_form(&message.message).map_err(|why| Refused(format!("message not valid for block inclusion: {why}")))?;
        if message.message.gas_fee_cap < *self.base_fee() {
            return Err(Refused("gas fee cap too low".to_owned()));
        }
        check_signature(&message)?;
        let (nonce, balance) = self.account_after(&message.message.from)?;
        if message.message.nonce < nonce {
            let got = message.message.nonce;
            return Err(Refused(format!("minimum expected nonce is {nonce}, got {got}: message nonce too low")));
        }
        check_inclusion(&message)?;
        self.check_fees(&message, &balance)?;
        let cid = message.cid();
        self.pool.add(message.clone())?;
        self.remember(&message);
        Ok(cid)
    }

    /// Nonce for the next message of an address: above what is pending without a gap.
    ///
    /// # Errors
    /// When the address has no account.
    pub fn next_nonce(&self, address: &Address) -> Result<u64, Refused> {
        let key = match address.id() {
            Ok(_) => {
                let (_, actor) = self.head().after.lookup(address).ok_or_else(not_in_lookback)?;
                let account = (actor.kind == crate::state::Kind::Account).then_some(actor.robust).flatten();
                account.ok_or_else(not_in_lookback)?
            }
            Err(_) => *address,
        };
        let (nonce, _) = self.account_after(&key).map_err(|Refused(why)| {
            let why = why.trim_start_matches("failed to look up actor state nonce: ");
            Refused(why.trim_end_matches(": validation failure").to_owned())
        })?;
        Ok(nonce + self.pool.ready(&key, nonce).len() as u64)
    }

    /// Nonce and balance of a sender after the head.
    fn account_after(&self, address: &Address) -> Result<(u64, TokenAmount), Refused> {
        match self.head().after.lookup(address) {
            Some((_, actor)) => Ok((actor.nonce, actor.balance.clone())),
            None => {
                let text = to_text(address);
                Err(Refused(format!(
                    "failed to look up actor state nonce: resolution lookup failed ({text}): resolve address {text}: \
                     actor not found: validation failure"
                )))
            }
        }
    }

    /// Only fees are checked, of this message and of all that wait before it; the value may exceed the balance.
    fn check_fees(&self, message: &SignedMessage, balance: &TokenAmount) -> Result<(), Refused> {
        let Message { from, nonce, .. } = message.message;
        let waiting: TokenAmount = match self.pool.pending.get(&from) {
            Some(waiting) => {
                waiting.iter().filter(|(other, _)| **other != nonce).map(|(_, other)| other.message.max_fee()).sum()
            }
            None => TokenAmount::zero(),
        };
        let required = waiting + message.message.max_fee();
        match required > *balance {
            true => Err(Refused(format!(
                "failed to check balance: not enough funds (required: {required} FIL, balance: {balance} FIL): not \
                 enough funds to execute transaction"
            ))),
            false => Ok(()),
        }
    }
}

fn not_in_lookback() -> Refused {
    Refused("ID address not found in lookback state".to_owned())
}

/// What can be judged from the message alone.
fn check_form(message: &Message) -> Result<(), String> {
    let Message { version, value, gas_limit, gas_fee_cap, gas_premium, .. } = message;
    if *version != 0 {
        return Err("'Version' unsupported".to_owned());
    }
    if value.is_negative() {
        return Err("'Value' field cannot be negative".to_owned());
    }
    if *value > TokenAmount::from_whole(2_000_000_000_u64) {
        return Err("'Value' field cannot be greater than total filecoin supply".to_owned());
    }
    if gas_fee_cap.is_negative() {
        return Err("'GasFeeCap' field cannot be negative".to_owned());
    }
    if gas_premium.is_negative() {
        return Err("'GasPremium' field cannot be negative".to_owned());
    }
    if gas_premium > gas_fee_cap {
        return Err("'GasFeeCap' less than 'GasPremium'".to_owned());
    }
    if *gas_limit > 0 && gas_limit.unsigned_abs() > BLOCK_GAS_LIMIT {
        return Err(format!(
            "'GasLimit' field cannot be greater than a block's gas limit ({gas_limit} > {BLOCK_GAS_LIMIT})"
        ));
    }
    if *gas_limit <= 0 {
        return Err(format!("'GasLimit' field {gas_limit} must be positive"));
    }
    Ok(())
}

fn check_signature(message: &SignedMessage) -> Result<(), Refused> {
    let SignedMessage { message: unsigned, signature } = message;
    let cid = unsigned.cid();
    match wallet::verify(&unsigned.from, &cid.to_bytes(), signature) {
        Ok(()) => Ok(()),
        Err(wallet::BadSignature::Kind(kind)) => {
            Err(Refused(format!("signature verification failed: unrecognized signature type: {kind}")))
        }
        Err(error) => Err(Refused(format!(
            "signature verification failed: failed to validate signature: invalid signature for message {cid} (type \
             {}): {error}",
            signature.kind
        ))),
    }
}

fn check_inclusion(message: &SignedMessage) -> Result<(), Refused> {
    let lowest = gas::inclusion_cost(message.to_cbor().len());
    let limit = message.message.gas_limit;
    match limit.unsigned_abs() < lowest {
        true => Err(Refused(format!(
            "verify msg failed: message will not be included in a block: 'GasLimit' field cannot be less than the \
             cost of storing a message on chain {limit} < {lowest}"
        ))),
        false => Ok(()),
    }
}
