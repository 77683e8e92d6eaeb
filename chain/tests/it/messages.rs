//! Parameters of sealing messages, CIDs and randomness against what a Lotus node wrote.

use curio_chain::message::{
    Cbor, CreateMinerParams, CreateMinerReturn, PieceActivationManifest, PreCommitSectorBatch2Params, ProofBytes,
    ProveCommitSectors3Params, ProveCommitSectors3Return, RandomnessTag, SectorActivationManifest, SectorPreCommit,
    comm_d, comm_r, draw_randomness, miner_entropy, sealed_cid, unsealed_cid,
};
use curio_chain::types::{BlockHeader, Message, SignedMessage, TipSet};
use curio_chain::{Address, Cid};
use curio_core::SpId;
use multihash_codetable::{Code, MultihashDigest};
use serde_json::Value;

use crate::fixtures::{self, bytes, check, epoch, list, number, wire};

fn pre_commit(params: &Value) -> PreCommitSectorBatch2Params {
    let sector = |sector: &Value| SectorPreCommit {
        seal_proof: sector["SealProof"].as_i64().unwrap(),
        sector_number: number(&sector["SectorNumber"]),
        sealed_cid: wire(&sector["SealedCID"]),
        seal_rand_epoch: epoch(&sector["SealRandEpoch"]),
        deal_ids: list(&sector["DealIDs"]).iter().map(number).collect(),
        expiration: epoch(&sector["Expiration"]),
        unsealed_cid: wire(&sector["UnsealedCid"]),
    };
    PreCommitSectorBatch2Params { sectors: list(&params["Sectors"]).iter().map(sector).collect() }
}

fn prove_commit(params: &Value) -> ProveCommitSectors3Params {
    let piece = |piece: &Value| PieceActivationManifest {
        cid: wire(&piece["CID"]),
        size: number(&piece["Size"]),
        verified_allocation_key: None,
        notify: vec![],
    };
    let sector = |sector: &Value| SectorActivationManifest {
        sector_number: number(&sector["SectorNumber"]),
        pieces: list(&sector["Pieces"]).iter().map(piece).collect(),
    };
    ProveCommitSectors3Params {
        sector_activations: list(&params["SectorActivations"]).iter().map(sector).collect(),
        sector_proofs: list(&params["SectorProofs"]).iter().map(|proof| ProofBytes(bytes(proof))).collect(),
        aggregate_proof: bytes(&params["AggregateProof"]),
        aggregate_proof_type: params["AggregateProofType"].as_i64().map(Into::into),
        require_activation_success: params["RequireActivationSuccess"].as_bool().unwrap(),
        require_notification_success: params["RequireNotificationSuccess"].as_bool().unwrap(),
    }
}

fn create_miner(params: &Value) -> CreateMinerParams {
    CreateMinerParams {
        owner: wire(&params["Owner"]),
        worker: wire(&params["Worker"]),
        window_post_proof_type: params["WindowPoStProofType"].as_i64().unwrap(),
        peer: bytes(&params["Peer"]),
        multiaddrs: list(&params["Multiaddrs"]).iter().map(|addr| ProofBytes(bytes(addr))).collect(),
    }
}

/// An empty tuple, sent to see it refused.
const UNDECODABLE: &str = "PreCommitSectorBatch2.undecodable_params";

#[test]
fn parameters_encode_to_the_recorded_bytes_and_back() {
    let mut checked = 0;
    for recorded in fixtures::all("messages") {
        let params = &recorded.content["params_decoded"];
        let Some(cbor) = recorded.content["params_hex"].as_str().filter(|_| params.is_object()) else { continue };
        if recorded.name == UNDECODABLE {
            continue;
        }
        match recorded.method() {
            "PreCommitSectorBatch2" => check(&recorded.name, &pre_commit(params), cbor),
            "ProveCommitSectors3" => check(&recorded.name, &prove_commit(params), cbor),
            "CreateMiner" => check(&recorded.name, &create_miner(params), cbor),
            _ => continue,
        }
        checked += 1;
    }
    assert!(checked >= 35, "only {checked} messages were checked");
}

#[test]
fn parameters_that_the_chain_cannot_decode_are_refused() {
    let recorded = fixtures::one("messages", UNDECODABLE);
    let cbor = hex::decode(recorded.content["params_hex"].as_str().unwrap()).unwrap();
    assert!(PreCommitSectorBatch2Params::from_cbor(&cbor).is_err());
}

#[test]
fn return_values_are_read_and_written_back() {
    let created = fixtures::one("messages", "CreateMiner.157");
    let cbor = hex::decode(created.content["return_hex"].as_str().unwrap()).unwrap();
    let made = CreateMinerReturn::from_cbor(&cbor).unwrap();
    assert_eq!(made.id_address, wire::<Address>(&created.content["return_decoded"]["IDAddress"]));
    assert_eq!(made.robust_address, wire::<Address>(&created.content["return_decoded"]["RobustAddress"]));
    assert_eq!(made.to_cbor(), cbor);

    let proven = fixtures::one("messages", "ProveCommitSectors3.207");
    let cbor = hex::decode(proven.content["return_hex"].as_str().unwrap()).unwrap();
    let activated = ProveCommitSectors3Return { success_count: 1, fail_codes: vec![] };
    assert_eq!(ProveCommitSectors3Return::from_cbor(&cbor).unwrap(), activated);
    assert_eq!(activated.to_cbor(), cbor);
}

#[test]
fn message_cids_are_those_of_the_chain() {
    let mut checked = 0;
    for recorded in fixtures::all("messages") {
        let content = &recorded.content["message"];
        if !content["CID"].is_object() {
            continue;
        }
        let message: Message = serde_json::from_value(content.clone()).unwrap();
        assert_eq!(message.cid(), wire::<Cid>(&content["CID"]), "{}", recorded.name);
        assert_eq!(Message::from_cbor(&message.to_cbor()).unwrap(), message, "{}", recorded.name);
        checked += 1;
    }
    assert!(checked >= 35, "only {checked} messages were checked");
}

#[test]
fn the_cid_of_a_signed_message_covers_a_secp256k1_signature_and_not_a_bls_one() {
    for (name, covers) in [("WalletSignMessage.bls", false), ("WalletSignMessage.secp256k1", true)] {
        let recorded = fixtures::one("rpc", name);
        let content = &recorded.content["response"]["result"];
        let message: SignedMessage = serde_json::from_value(content.clone()).unwrap();
        assert_eq!(message.cid(), wire::<Cid>(&content["CID"]), "{name}");
        assert_eq!(message.cid() != message.message.cid(), covers, "{name}");
    }
}

/// Every tipset in a value, at any depth.
fn tipsets(value: &Value, found: &mut Vec<TipSet>) {
    match value {
        Value::Object(members) if members.contains_key("Blocks") => {
            found.push(serde_json::from_value(value.clone()).unwrap());
        }
        Value::Object(members) => members.values().for_each(|value| tipsets(value, found)),
        Value::Array(items) => items.iter().for_each(|value| tipsets(value, found)),
        _ => {}
    }
}

#[test]
fn block_cids_are_those_of_the_chain() {
    let mut found = Vec::new();
    for recorded in fixtures::all("rpc") {
        tipsets(&recorded.content["response"], &mut found);
    }
    for tipset in &found {
        let cids: Vec<Cid> = tipset.blocks.iter().map(BlockHeader::cid).collect();
        assert_eq!(tipset.key().0, cids, "height {}", tipset.height);
    }
    assert!(found.len() >= 10, "only {} tipsets were checked", found.len());
}

#[test]
fn randomness_drawn_here_is_what_the_node_answers() {
    let head: TipSet =
        serde_json::from_value(fixtures::one("rpc", "ChainHead.ok").content["response"]["result"].clone()).unwrap();
    let block = &head.blocks[0];
    let entropy = miner_entropy(SpId(1000));
    for (name, base) in [
        ("StateGetRandomnessFromTickets.at_head", &block.ticket.as_ref().unwrap().vrf_proof),
        ("StateGetRandomnessFromBeacon.at_head", &block.beacon_entries.last().unwrap().data),
    ] {
        let recorded = fixtures::one("rpc", name);
        let params = &recorded.content["request"]["params"];
        assert_eq!(params[1], head.height.0, "the recording is about the recorded head");
        assert_eq!(wire::<Vec<u8>>(&params[2]), entropy, "{name}");
        let drawn = draw_randomness(base, params[0].as_i64().unwrap(), head.height, &entropy);
        assert_eq!(drawn.to_vec(), wire::<Vec<u8>>(&recorded.content["response"]["result"]), "{name}");
    }
    assert_eq!(RandomnessTag::SealRandomness.number(), 5);
    assert_eq!(RandomnessTag::InteractiveSealChallengeSeed.number(), 6);
}

#[test]
fn commitments_and_their_cids_turn_into_each_other() {
    let recorded = fixtures::one("messages", "PreCommitSectorBatch2.full_s12_h4950");
    let sector = &pre_commit(&recorded.content["params_decoded"]).sectors[0];
    let unsealed = sector.unsealed_cid.unwrap();
    assert_eq!(sealed_cid(&comm_r(&sector.sealed_cid).unwrap()), sector.sealed_cid);
    assert_eq!(unsealed_cid(&comm_d(&unsealed).unwrap()), unsealed);
    assert!(comm_d(&sector.sealed_cid).is_err());
    assert_eq!(
        comm_r(&unsealed).unwrap_err().to_string(),
        format!("{unsealed} is not the CID of a sealed sector (bagb...)")
    );
}

#[test]
fn the_cid_of_a_tipset_key_is_over_the_byte_string_of_its_block_cids() {
    let head: TipSet =
        serde_json::from_value(fixtures::one("rpc", "ChainHead.ok").content["response"]["result"].clone()).unwrap();
    let block = head.key().0[0].to_bytes();
    let mut cbor = vec![0x58, u8::try_from(block.len()).unwrap()];
    cbor.extend(block);
    assert_eq!(head.key().cid(), Cid::new_v1(0x71, Code::Blake2b256.digest(&cbor)));
}
