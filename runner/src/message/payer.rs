//! Which key pays for and signs a message of a miner actor.
//!
//! Order: the keys configured for the purpose, then control addresses that the configuration names for
//! nothing, then the worker, then the owner (the last two unless switched off). The first one whose key
//! the node holds and whose balance covers value and fee is taken.

use std::collections::HashSet;

use curio_chain::types::{MinerInfo, TipSetKey};
use curio_chain::{Address, Client, RpcError, TokenAmount, address};
use curio_core::config::{AddressSet, Config};
use curio_core::{Classify, Failure, SpId};

use super::purpose::Purpose;

/// No key can pay.
#[derive(Debug, thiserror::Error)]
pub enum PayerError {
    #[error("failed to ask the chain node for the keys of miner {miner}")]
    Chain {
        miner: String,
        #[source]
        source: RpcError,
    },
    #[error(
        "the chain node holds no key that may send a {purpose} message for miner {miner} (looked for: {looked_for}); import the key, or name another under [[Addresses]]"
    )]
    NoKey { miner: String, purpose: Purpose, looked_for: String },
    #[error(
        "no key of miner {miner} can pay {need} FIL for a {purpose} message; the richest, {richest}, has {have} FIL: send funds to it"
    )]
    Funds { miner: String, purpose: Purpose, need: TokenAmount, richest: String, have: TokenAmount },
    #[error("'{text}' under [[Addresses]] is not an address")]
    Config { text: String },
}

impl Classify for PayerError {
    fn classify(self) -> Failure {
        match self {
            PayerError::Chain { source, .. } => source.classify(),
            // A person has to act; until then every attempt would end the same.
            other => Failure::Unavailable(Box::new(other)),
        }
    }
}

/// A key that may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Candidate {
    key: Address,
    balance: TokenAmount,
}

/// The key address that sends a message worth `need` (value and the most for gas).
///
/// # Errors
/// [`PayerError`]; without funds or keys the task waits for a person.
pub async fn choose(
    chain: &Client,
    config: &Config,
    sp: SpId,
    purpose: Purpose,
    need: &TokenAmount,
) -> Result<Address, PayerError> {
    let miner = sp.to_string();
    let chain_error = |source| PayerError::Chain { miner: miner.clone(), source };
    let info = chain.state_miner_info(&address::id_address(sp), &TipSetKey::HEAD).await.map_err(chain_error)?;
    let none = AddressSet::default();
    let order = order(&info, config.addresses_of(&miner).unwrap_or(&none), purpose)?;
    let mut candidates = Vec::new();
    for address in &order {
        // An owner may be a multisig or another actor without a key: it cannot sign, so it is passed over.
        let key = match chain.state_account_key(address, &TipSetKey::HEAD).await {
            Ok(key) => key,
            Err(error) if error.node_message().is_some() => continue,
            Err(error) => return Err(chain_error(error)),
        };
        if !chain.wallet_has(&key).await.map_err(chain_error)? {
            continue;
        }
        let balance = chain.wallet_balance(&key).await.map_err(chain_error)?;
        if balance >= *need {
            return Ok(key);
        }
        candidates.push(Candidate { key, balance });
    }
    Err(refusal(miner.clone(), purpose, need, &order, &candidates))
}

fn refusal(
    miner: String,
    purpose: Purpose,
    need: &TokenAmount,
    order: &[Address],
    candidates: &[Candidate],
) -> PayerError {
    match candidates.iter().max_by_key(|candidate| candidate.balance.clone()) {
        Some(richest) => PayerError::Funds {
            miner,
            purpose,
            need: need.clone(),
            richest: address::to_mainnet_text(&richest.key),
            have: richest.balance.clone(),
        },
        None => {
            let looked_for = order.iter().map(address::to_mainnet_text).collect::<Vec<_>>().join(", ");
            PayerError::NoKey { miner, purpose, looked_for }
        }
    }
}

/// Addresses to try, in order, each once.
fn order(info: &MinerInfo, set: &AddressSet, purpose: Purpose) -> Result<Vec<Address>, PayerError> {
    let AddressSet {
        pre_commit_control,
        commit_control,
        terminate_control,
        post_control,
        disable_owner_fallback,
        disable_worker_fallback,
        miner_addresses: _,
    } = set;
    let configured = match purpose {
        Purpose::PreCommit => parse(pre_commit_control)?,
        Purpose::Commit => parse(commit_control)?,
        Purpose::WindowPost | Purpose::DeclareFaults | Purpose::DeclareRecovered => parse(post_control)?,
        Purpose::Terminate | Purpose::Extend => parse(terminate_control)?,
    };
    let mut reserved: HashSet<Address> = HashSet::new();
    for list in [pre_commit_control, commit_control, terminate_control, post_control] {
        reserved.extend(parse(list)?);
    }
    let mut order = configured;
    order.extend(info.control_addresses.iter().filter(|address| !reserved.contains(address)));
    if !disable_worker_fallback {
        order.push(info.worker);
    }
    if !disable_owner_fallback {
        order.push(info.owner);
    }
    let mut seen = HashSet::new();
    order.retain(|address| seen.insert(*address));
    Ok(order)
}

fn parse(texts: &[String]) -> Result<Vec<Address>, PayerError> {
    texts.iter().map(|text| address::parse(text).map_err(|_| PayerError::Config { text: text.clone() })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> MinerInfo {
        let text = include_str!("../../tests/recorded/StateMinerInfo.json");
        MinerInfo {
            owner: Address::new_id(1),
            worker: Address::new_id(2),
            control_addresses: vec![Address::new_id(3), Address::new_id(4)],
            ..serde_json::from_str(text).expect("the recorded answer is a miner's information")
        }
    }

    fn ids(order: &[Address]) -> Vec<u64> {
        order.iter().map(|address| address.id().expect("all are id addresses")).collect()
    }

    #[test]
    fn keys_are_tried_from_the_configured_ones_to_the_owner() {
        let set = |pre: &[&str], commit: &[&str], worker, owner| AddressSet {
            pre_commit_control: pre.iter().map(|text| (*text).to_owned()).collect(),
            commit_control: commit.iter().map(|text| (*text).to_owned()).collect(),
            disable_worker_fallback: worker,
            disable_owner_fallback: owner,
            ..AddressSet::default()
        };
        let table: [(AddressSet, &[u64]); 5] = [
            (set(&[], &[], false, false), &[3, 4, 2, 1]),
            (set(&["f04"], &[], false, false), &[4, 3, 2, 1]),
            (set(&["f09"], &["f03"], false, false), &[9, 4, 2, 1]),
            (set(&[], &[], true, false), &[3, 4, 1]),
            (set(&["f03"], &["f04"], true, true), &[3]),
        ];
        for (set, expected) in table {
            let order = order(&info(), &set, Purpose::PreCommit).expect("the addresses are fine");
            assert_eq!(ids(&order), expected, "{set:?}");
        }
    }

    #[test]
    fn proofs_are_paid_by_their_own_key_and_nothing_else_by_that_one() {
        let set = AddressSet {
            post_control: vec!["f04".to_owned()],
            terminate_control: vec!["f09".to_owned()],
            ..AddressSet::default()
        };
        let table: [(Purpose, &[u64]); 5] = [
            (Purpose::WindowPost, &[4, 3, 2, 1]),
            (Purpose::DeclareFaults, &[4, 3, 2, 1]),
            (Purpose::DeclareRecovered, &[4, 3, 2, 1]),
            (Purpose::Terminate, &[9, 3, 2, 1]),
            (Purpose::Commit, &[3, 2, 1]),
        ];
        for (purpose, expected) in table {
            let order = order(&info(), &set, purpose).expect("the addresses are fine");
            assert_eq!(ids(&order), expected, "{purpose}");
        }
    }

    #[test]
    fn without_funds_the_richest_key_is_named() {
        let candidates = [(7, 5), (8, 9)]
            .map(|(id, atto)| Candidate { key: Address::new_id(id), balance: TokenAmount::from_atto(atto) });
        let error = refusal("f01000".to_owned(), Purpose::Commit, &TokenAmount::from_atto(10), &[], &candidates);
        assert!(error.to_string().contains("f08"), "{error}");
    }

    #[test]
    fn without_a_key_all_that_were_looked_for_are_named() {
        let error = refusal(
            "f01000".to_owned(),
            Purpose::PreCommit,
            &TokenAmount::from_atto(10),
            &[Address::new_id(1), Address::new_id(2)],
            &[],
        );
        assert!(error.to_string().contains("f01, f02"), "{error}");
    }
}
