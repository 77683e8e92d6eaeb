//! Elections and tickets against blocks that a Lotus miner won.

use bls_signatures::{PublicKey, Serialize as _, Signature};
use curio_chain::Address;
use curio_chain::election::{election_input, min_ticket, ticket_input, win_count};
use curio_chain::types::{BlockHeader, MiningBaseInfo, TipSet};
use curio_core::SpId;
use num_bigint::BigInt;
use serde_json::Value;

use crate::fixtures;

/// The miner of the recorded networks; it has all the power.
const MINER: SpId = SpId(1000);

/// Every block in an answer, at any depth, but the genesis, which nobody won.
fn blocks(value: &Value, found: &mut Vec<BlockHeader>) {
    match value {
        Value::Object(members) if members.contains_key("ElectionProof") => {
            let block: BlockHeader = serde_json::from_value(value.clone()).unwrap();
            found.extend(Some(block).filter(|block| block.height.0 > 0));
        }
        Value::Object(members) => members.values().for_each(|value| blocks(value, found)),
        Value::Array(items) => items.iter().for_each(|value| blocks(value, found)),
        _ => {}
    }
}

fn recorded_blocks() -> Vec<BlockHeader> {
    let mut found = Vec::new();
    for recorded in fixtures::all("rpc") {
        blocks(&recorded.content["response"], &mut found);
    }
    assert!(found.len() >= 10, "only {} blocks were recorded", found.len());
    found
}

/// The worker keys of the miner on the recorded networks.
fn worker_keys() -> Vec<Address> {
    let mut keys: Vec<Address> = fixtures::all("rpc")
        .iter()
        .filter(|recorded| recorded.method() == "MinerGetBaseInfo")
        .filter_map(|recorded| serde_json::from_value(recorded.content["response"]["result"].clone()).ok()?)
        .map(|info: MiningBaseInfo| info.worker_key)
        .collect();
    keys.sort();
    keys.dedup();
    keys
}

fn signed_by_worker(vrf_proof: &[u8], input: &[u8]) -> bool {
    let signature = Signature::from_bytes(vrf_proof).unwrap();
    worker_keys().iter().any(|key| PublicKey::from_bytes(&key.payload_bytes()).unwrap().verify(signature, input))
}

#[test]
fn a_block_wins_as_often_as_its_election_proof_says() {
    let all = BigInt::from(2048);
    for block in recorded_blocks() {
        let election = block.election_proof.unwrap();
        assert_eq!(win_count(&election.vrf_proof, &all, &all), election.win_count, "height {}", block.height);
    }
}

#[test]
fn a_block_that_claims_a_win_too_many_was_refused_with_the_number_computed_here() {
    let recorded = fixtures::one("rpc", "SyncSubmitBlock.wrong_win_count");
    let header: BlockHeader =
        serde_json::from_value(recorded.content["request"]["params"][0]["Header"].clone()).unwrap();
    let election = header.election_proof.unwrap();
    let all = BigInt::from(2048);
    let computed = win_count(&election.vrf_proof, &all, &all);
    let refusal = recorded.content["response"]["error"]["message"].as_str().unwrap();
    assert!(refusal.contains(&format!("miner: {}, computed: {computed}", election.win_count)), "{refusal}");
}

#[test]
fn an_election_proof_is_the_worker_key_s_signature_over_the_drawn_input() {
    for block in recorded_blocks() {
        let beacon = block.beacon_entries.last().unwrap();
        let input = election_input(beacon, block.height, MINER);
        assert!(signed_by_worker(&block.election_proof.unwrap().vrf_proof, &input), "height {}", block.height);
    }
}

#[test]
fn a_ticket_is_the_worker_key_s_signature_over_the_input_drawn_on_its_parents() {
    let blocks = recorded_blocks();
    let mut checked = 0;
    for block in &blocks {
        let Some(parent) = blocks.iter().find(|parent| block.parents.0 == [parent.cid()]) else { continue };
        let parents = TipSet { cids: block.parents.clone(), blocks: vec![parent.clone()], height: parent.height };
        let beacon = block.beacon_entries.last().unwrap();
        let input = ticket_input(beacon, block.height, MINER, min_ticket(&parents).unwrap());
        assert!(signed_by_worker(&block.ticket.as_ref().unwrap().vrf_proof, &input), "height {}", block.height);
        checked += 1;
    }
    assert!(checked >= 2, "only {checked} tickets were checked");
}

#[test]
fn the_beacon_of_an_election_is_the_newest_that_the_block_will_carry() {
    for (name, round) in [("ok", 650), ("null_rounds", 653), ("epoch_not_above_base", 649)] {
        let recorded = fixtures::one("rpc", &format!("MinerGetBaseInfo.{name}"));
        let info: MiningBaseInfo = serde_json::from_value(recorded.content["response"]["result"].clone()).unwrap();
        assert_eq!(info.beacon().round, round, "{name}");
    }
}

#[test]
fn a_block_is_signed_by_the_worker_key_over_its_bytes_without_the_signature() {
    for block in recorded_blocks() {
        let signature = block.block_sig.as_ref().unwrap();
        assert!(signed_by_worker(&signature.data, &block.signing_bytes()), "height {}", block.height);
    }
}
