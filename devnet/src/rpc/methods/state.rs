//! Actors, addresses, and what the network is.

use std::collections::BTreeMap;
use std::sync::Arc;

use curio_chain::address::to_text;
use curio_chain::types::{Actor, NetworkParams, TipSetKey};
use curio_chain::wire::Json;
use fil_actors_shared::v18::{BURNT_FUNDS_ACTOR_ID, STORAGE_POWER_ACTOR_ID};
use fvm_shared::address::{Address, Payload};
use serde_json::{Value, json};

use super::at;
use crate::actors::power;
use crate::chain::Tip;
use crate::network::{CHAIN_ID, NETWORK_VERSION};
use crate::node::Node;
use crate::rpc::fault::Fault;
use crate::rpc::table::{Answer, Table, answer};
use crate::state::Kind;

pub(super) fn register(table: &mut Table) {
    table
        .read("StateNetworkName", |node: &Node, (): ()| answer(&node.chain().network.name))
        .read("StateNetworkVersion", |node: &Node, (key,): (TipSetKey,)| {
            at(&node.chain(), &key)?;
            Ok(json!(NETWORK_VERSION))
        })
        .read("StateGetNetworkParams", network_params)
        .read("StateActorCodeCIDs", state_actor_code_cids)
        .read("StateGetActor", state_get_actor)
        .read("StateLookupID", state_lookup_id)
        .read("StateLookupRobustAddress", state_lookup_robust_address)
        .read("StateAccountKey", state_account_key)
        .read("StateListMiners", state_list_miners)
        .read("StateListActors", |node: &Node, (key,): (TipSetKey,)| {
            let tip = at(&node.chain(), &key)?;
            let ids: Vec<String> = tip.before.actors().map(|(id, _)| to_text(&Address::new_id(id))).collect();
            answer(ids)
        })
        .read("StateMarketBalance", |_, _: (Address, TipSetKey)| Ok(json!({ "Escrow": "0", "Locked": "0" })))
        .read("StateCirculatingSupply", circulating_supply)
        .read("StateVMCirculatingSupplyInternal", circulating_supply_parts)
        .read("StateGetAllocation", |_, _: (Address, u64, TipSetKey)| Ok(Value::Null))
        .read("StateGetClaim", |_, _: (Address, u64, TipSetKey)| Ok(Value::Null));
}

/// Codes of the v18 bundle that no actor of this chain has.
const OTHER_CODES: [(&str, &str); 5] = [
    ("ethaccount", "bafk2bzacedsbwrrjywdmxeluuzwfhmam2jmrm6ivj72ggw6qaijcx7ilw5fvk"),
    ("evm", "bafk2bzacec273j42hyrcaeqms6xuuezkozjhptmyniwtr7y4jzjdoflccn2is"),
    ("multisig", "bafk2bzacecquc4zxikmjfwsiyzx4tbxlsvauf53c7spf3hdz6jwmkczyqwbrg"),
    ("paymentchannel", "bafk2bzacecf3jaqzs757hmyxpthnj7vaxr2z6h5v6yubptvqasgabxiubeoim"),
    ("placeholder", "bafk2bzacedfvut2myeleyq67fljcrw4kkmn5pb5dpyozovj7jpoez5irnc3ro"),
];

fn state_actor_code_cids(_: &Node, _: (u32,)) -> Answer {
    let ours = Kind::ALL.into_iter().map(|kind| (kind.name(), kind.code().to_string()));
    let others = OTHER_CODES.into_iter().map(|(name, code)| (name, code.to_owned()));
    let codes: BTreeMap<&str, Value> = ours.chain(others).map(|(name, code)| (name, json!({ "/": code }))).collect();
    answer(codes)
}

fn network_params(node: &Node, (): ()) -> Answer {
    let chain = node.chain();
    answer(NetworkParams {
        network_name: chain.network.name.clone(),
        block_delay_secs: node.options.block_delay_seconds(),
        consensus_miner_min_power: chain.network.policy.minimum_consensus_power.clone(),
        pre_commit_challenge_delay: chain.network.policy.pre_commit_challenge_delay,
        fork_upgrade_params: upgrades(),
        eip155_chain_id: CHAIN_ID,
        genesis_timestamp: chain.genesis_timestamp(),
    })
}

/// All upgrades lie before genesis, as on a fresh private network; the next one is out of reach.
fn upgrades() -> BTreeMap<String, i64> {
    const PAST: [&str; 31] = [
        "Smoke",
        "Breeze",
        "Ignition",
        "Refuel",
        "Tape",
        "Assembly",
        "Liftoff",
        "Kumquat",
        "Calico",
        "Persian",
        "Orange",
        "Claus",
        "Trust",
        "Norwegian",
        "Turbo",
        "Hyperdrive",
        "Chocolate",
        "OhSnap",
        "Skyr",
        "Shark",
        "Hygge",
        "Lightning",
        "Thunder",
        "Watermelon",
        "Dragon",
        "Phoenix",
        "Waffle",
        "Tuktuk",
        "Teep",
        "Tock",
        "GoldenWeek",
    ];
    const NEVER: i64 = 999_999_999;
    let mut upgrades: BTreeMap<String, i64> =
        (1..).zip(PAST).map(|(number, name): (i64, _)| (format!("Upgrade{name}Height"), -number)).collect();
    upgrades.insert("UpgradeFireHorseHeight".to_owned(), -32);
    upgrades.insert("BreezeGasTampingDuration".to_owned(), 0);
    upgrades.insert("UpgradeXxHeight".to_owned(), NEVER);
    upgrades
}

/// An error for a key address without an actor, in the words of the state lookups.
pub(super) fn unresolved(address: &Address) -> String {
    let text = to_text(address);
    format!("resolution lookup failed ({text}): resolve address {text}: actor not found")
}

fn state_get_actor(node: &Node, (address, key): (Address, TipSetKey)) -> Answer {
    let tip = at(&node.chain(), &key)?;
    let id = tip.before.resolve(&address).ok_or_else(|| Fault::other(unresolved(&address)))?;
    let actor = tip.before.actor(id).ok_or_else(|| Fault::other("actor not found"))?;
    answer(Actor {
        code: actor.kind.code(),
        head: actor.head,
        nonce: actor.nonce,
        balance: actor.balance.clone(),
        delegated_address: None,
    })
}

/// An id address is echoed, whether or not there is such an actor.
fn state_lookup_id(node: &Node, (address, key): (Address, TipSetKey)) -> Answer {
    let tip = at(&node.chain(), &key)?;
    match tip.before.resolve(&address) {
        Some(id) => answer(Json(Address::new_id(id))),
        None => Err(Fault::actor_not_found()),
    }
}

fn state_lookup_robust_address(node: &Node, (address, key): (Address, TipSetKey)) -> Answer {
    let tip = at(&node.chain(), &key)?;
    let robust = tip.before.lookup(&address).and_then(|(_, actor)| actor.robust);
    match robust {
        Some(robust) => answer(Json(robust)),
        None => Err(Fault::other(format!("Address {} not found", to_text(&address)))),
    }
}

fn state_account_key(node: &Node, (address, key): (Address, TipSetKey)) -> Answer {
    let tip = at(&node.chain(), &key)?;
    match account_key(&tip, &address) {
        Ok(key) => answer(Json(key)),
        Err(why) => Err(Fault::other(why)),
    }
}

/// The key behind an account's address.
pub(super) fn account_key(tip: &Arc<Tip>, address: &Address) -> Result<Address, String> {
    if let Payload::BLS(_) | Payload::Secp256k1(_) = address.payload() {
        return Ok(*address);
    }
    let text = to_text(address);
    match tip.before.lookup(address) {
        Some((_, actor)) if actor.kind == Kind::Account => {
            actor.robust.ok_or_else(|| format!("failed to get account actor state for {text}: it has no key"))
        }
        Some((_, actor)) => Err(format!(
            "failed to get account actor state for {text}: actor code is not account: {}",
            actor.kind.name()
        )),
        None => Err(format!("failed to find actor: {text}")),
    }
}

fn state_list_miners(node: &Node, (key,): (TipSetKey,)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    let power: power::State = tip.before.load(&chain.store, STORAGE_POWER_ACTOR_ID)?;
    let miners: Vec<String> = power.miners().map(|id| to_text(&Address::new_id(id))).collect();
    answer(miners)
}

fn circulating_supply(node: &Node, (key,): (TipSetKey,)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    answer(Json(chain.circulating(&tip.before)))
}

fn circulating_supply_parts(node: &Node, (key,): (TipSetKey,)) -> Answer {
    let chain = node.chain();
    let tip = at(&chain, &key)?;
    let power: power::State = tip.before.load(&chain.store, STORAGE_POWER_ACTOR_ID)?;
    let reserve = fvm_shared::econ::TokenAmount::from_whole(550_000_000);
    let burnt = tip.before.balance(BURNT_FUNDS_ACTOR_ID);
    let circulating = chain.circulating(&tip.before);
    let vested = &circulating + &burnt + &power.total_pledge - &reserve;
    Ok(json!({
        "FilVested": vested.atto().to_string(),
        "FilMined": "0",
        "FilBurnt": burnt.atto().to_string(),
        "FilLocked": power.total_pledge.atto().to_string(),
        "FilCirculating": circulating.atto().to_string(),
        "FilReserveDisbursed": reserve.atto().to_string(),
    }))
}
