//! Which key pays for and signs a message of a miner actor.
//!
//! Order: the keys configured for the purpose, then control addresses that the configuration names for
//! nothing, then the worker, then the owner (the last two unless switched off). The first one whose key
//! the node holds and whose balance covers value and highest fee is taken. When none has that much, a message with a deadline
//! goes out by the richest: its fee is a small part of the highest one, and unsent it costs more than any fee.

use std::collections::{HashMap, HashSet};

use curio_chain::types::{MinerInfo, TipSetKey};
use curio_chain::{Address, Client, RpcError, TokenAmount, address};
use curio_core::config::{AddressSet, Config};
use curio_core::{Classify, Failure, SpId};
use tracing::warn;

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

/// The key address that sends a message worth `need` (value and the most for gas). That of an urgent message may have less.
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
    let set = config.addresses_of(&miner).unwrap_or(&none);
    let ids = ids_of(chain, &miner, set).await?;
    let order = order(&info, set, purpose, &ids);
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
    best_of(miner.clone(), purpose, need, &order, &candidates)
}

/// The key to take when none has as much as is needed.
fn best_of(
    miner: String,
    purpose: Purpose,
    need: &TokenAmount,
    order: &[Address],
    candidates: &[Candidate],
) -> Result<Address, PayerError> {
    match candidates.iter().max_by_key(|candidate| candidate.balance.clone()) {
        Some(richest) if purpose.is_urgent() && richest.balance.is_positive() => {
            let (key, have) = (address::to_mainnet_text(&richest.key), &richest.balance);
            warn!(
                miner,
                "{key} has {have} FIL, less than the highest fee of a {purpose} message of {miner} ({need} FIL), and sends it all the same: send funds to it"
            );
            Ok(richest.key)
        }
        Some(richest) => Err(PayerError::Funds {
            miner,
            purpose,
            need: need.clone(),
            richest: address::to_mainnet_text(&richest.key),
            have: richest.balance.clone(),
        }),
        None => {
            let looked_for = order.iter().map(address::to_mainnet_text).collect::<Vec<_>>().join(", ");
            Err(PayerError::NoKey { miner, purpose, looked_for })
        }
    }
}

/// The configured addresses by id, as a miner's information has them: the same key must not count as two. One that the chain
/// has never seen stays as it is written.
async fn ids_of<'a>(chain: &Client, miner: &str, set: &'a AddressSet) -> Result<HashMap<&'a str, Address>, PayerError> {
    let mut ids = HashMap::new();
    for text in configured(set).into_iter().flatten() {
        let address = address::parse(text).map_err(|_| PayerError::Config { text: text.clone() })?;
        let id = match chain.state_lookup_id(&address, &TipSetKey::HEAD).await {
            Ok(id) => id,
            Err(error) if error.is_actor_not_found() => address,
            Err(source) => return Err(PayerError::Chain { miner: miner.to_owned(), source }),
        };
        ids.insert(text.as_str(), id);
    }
    Ok(ids)
}

/// All that the configuration names for something.
fn configured(set: &AddressSet) -> [&[String]; 4] {
    let AddressSet {
        pre_commit_control,
        commit_control,
        terminate_control,
        post_control,
        disable_owner_fallback: _,
        disable_worker_fallback: _,
        miner_addresses: _,
    } = set;
    [pre_commit_control, commit_control, terminate_control, post_control]
}

/// Addresses to try, in order, each once. `ids` has every address of the set.
fn order(info: &MinerInfo, set: &AddressSet, purpose: Purpose, ids: &HashMap<&str, Address>) -> Vec<Address> {
    let for_purpose = match purpose {
        Purpose::PreCommit => &set.pre_commit_control,
        Purpose::Commit => &set.commit_control,
        Purpose::WindowPost | Purpose::DeclareFaults | Purpose::DeclareRecovered => &set.post_control,
        Purpose::Terminate | Purpose::Extend => &set.terminate_control,
    };
    let reserved: HashSet<&Address> = ids.values().collect();
    let mut order: Vec<Address> = for_purpose.iter().filter_map(|text| ids.get(text.as_str())).copied().collect();
    order.extend(info.control_addresses.iter().filter(|address| !reserved.contains(address)));
    if !set.disable_worker_fallback {
        order.push(info.worker);
    }
    if !set.disable_owner_fallback {
        order.push(info.owner);
    }
    let mut seen = HashSet::new();
    order.retain(|address| seen.insert(*address));
    order
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

    fn numbers(order: &[Address]) -> Vec<u64> {
        order.iter().map(|address| address.id().expect("all are id addresses")).collect()
    }

    /// The configured addresses as they are written.
    fn written(set: &AddressSet) -> HashMap<&str, Address> {
        let texts = configured(set).into_iter().flatten();
        texts.map(|text| (text.as_str(), address::parse(text).expect("it is an address"))).collect()
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
            let order = order(&info(), &set, Purpose::PreCommit, &written(&set));
            assert_eq!(numbers(&order), expected, "{set:?}");
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
            let order = order(&info(), &set, purpose, &written(&set));
            assert_eq!(numbers(&order), expected, "{purpose}");
        }
    }

    /// Once a key that was configured as `f3...` was taken for another than the control address of its id, and paid for
    /// everything.
    #[test]
    fn a_key_that_is_configured_by_its_key_address_is_known_among_the_control_addresses() {
        let text = "f1abjxfbp274xpdqcpuaykwkfb43omjotacm2p3za";
        let set = AddressSet { post_control: vec![text.to_owned()], ..AddressSet::default() };
        let ids = HashMap::from([(text, Address::new_id(4))]);
        let table: [(Purpose, &[u64]); 2] = [(Purpose::WindowPost, &[4, 3, 2, 1]), (Purpose::Commit, &[3, 2, 1])];
        for (purpose, expected) in table {
            assert_eq!(numbers(&order(&info(), &set, purpose, &ids)), expected, "{purpose}");
        }
    }

    /// Keys 7 and 8 with these balances, each below the need.
    fn best(purpose: Purpose, balances: [u64; 2]) -> Result<Address, PayerError> {
        let candidates: Vec<Candidate> = [7, 8]
            .into_iter()
            .zip(balances)
            .map(|(id, atto)| Candidate { key: Address::new_id(id), balance: TokenAmount::from_atto(atto) })
            .collect();
        best_of("f01000".to_owned(), purpose, &TokenAmount::from_atto(10), &[], &candidates)
    }

    #[test]
    fn without_funds_the_richest_key_is_named() {
        let error = best(Purpose::Commit, [5, 9]).expect_err("nothing pays");
        assert!(error.to_string().contains("f08"), "{error}");
    }

    /// Once a wallet that could pay for a hundred proofs sent none, as it could not pay the highest fee of one.
    #[test]
    fn a_message_with_a_deadline_goes_out_by_the_richest_key() {
        for purpose in Purpose::ALL.into_iter().filter(|purpose| purpose.is_urgent()) {
            assert_eq!(best(purpose, [5, 9]).expect("a key"), Address::new_id(8), "{purpose}");
            assert!(matches!(best(purpose, [0, 0]), Err(PayerError::Funds { .. })), "{purpose}");
        }
    }

    #[test]
    fn without_a_key_all_that_were_looked_for_are_named() {
        let order = [Address::new_id(1), Address::new_id(2)];
        let error = best_of("f01000".to_owned(), Purpose::PreCommit, &TokenAmount::from_atto(10), &order, &[])
            .expect_err("nobody pays");
        assert!(error.to_string().contains("f01, f02"), "{error}");
    }
}
