//! Parameters of window PoSts, faults, recoveries, terminations and extensions against what was on a real chain.

use curio_chain::BitField;
use curio_chain::message::{
    Cbor, DeclareFaultsParams, DeclareFaultsRecoveredParams, DisputeWindowedPoStParams, ExpirationExtension2,
    ExtendSectorExpiration2Params, FaultDeclaration, PoStPartition, PoStProof, RecoveryDeclaration,
    SubmitWindowedPoStParams, TerminateSectorsParams, TerminateSectorsReturn, TerminationDeclaration,
};
use serde_json::Value;

use crate::fixtures::{self, bytes, check, epoch, list, number};

fn sectors(value: &Value) -> BitField {
    BitField::try_from_bits(list(&value["set"]).iter().map(number)).unwrap()
}

fn window_post(params: &Value) -> SubmitWindowedPoStParams {
    let partition = |partition: &Value| PoStPartition {
        index: number(&partition["Index"]),
        skipped: sectors(&partition["Skipped"]),
    };
    let proof = |proof: &Value| PoStProof {
        post_proof: proof["PoStProof"].as_i64().unwrap(),
        proof_bytes: bytes(&proof["ProofBytes"]),
    };
    SubmitWindowedPoStParams {
        deadline: number(&params["Deadline"]),
        partitions: list(&params["Partitions"]).iter().map(partition).collect(),
        proofs: list(&params["Proofs"]).iter().map(proof).collect(),
        chain_commit_epoch: epoch(&params["ChainCommitEpoch"]),
        chain_commit_rand: bytes(&params["ChainCommitRand"]),
    }
}

fn dispute(params: &Value) -> DisputeWindowedPoStParams {
    DisputeWindowedPoStParams { deadline: number(&params["Deadline"]), post_index: number(&params["PoStIndex"]) }
}

fn faults(params: &Value) -> DeclareFaultsParams {
    let fault = |fault: &Value| FaultDeclaration {
        deadline: number(&fault["Deadline"]),
        partition: number(&fault["Partition"]),
        sectors: sectors(&fault["Sectors"]),
    };
    DeclareFaultsParams { faults: list(&params["Declarations"]).iter().map(fault).collect() }
}

fn recoveries(params: &Value) -> DeclareFaultsRecoveredParams {
    let recovery = |recovery: &Value| RecoveryDeclaration {
        deadline: number(&recovery["Deadline"]),
        partition: number(&recovery["Partition"]),
        sectors: sectors(&recovery["Sectors"]),
    };
    DeclareFaultsRecoveredParams { recoveries: list(&params["Declarations"]).iter().map(recovery).collect() }
}

fn terminations(params: &Value) -> TerminateSectorsParams {
    let termination = |termination: &Value| TerminationDeclaration {
        deadline: number(&termination["Deadline"]),
        partition: number(&termination["Partition"]),
        sectors: sectors(&termination["Sectors"]),
    };
    TerminateSectorsParams { terminations: list(&params["Terminations"]).iter().map(termination).collect() }
}

fn extensions(params: &Value) -> ExtendSectorExpiration2Params {
    let extension = |extension: &Value| {
        assert!(list(&extension["SectorsWithClaims"]).is_empty(), "no claims were recorded");
        ExpirationExtension2 {
            deadline: number(&extension["Deadline"]),
            partition: number(&extension["Partition"]),
            sectors: sectors(&extension["Sectors"]),
            sectors_with_claims: vec![],
            new_expiration: epoch(&extension["NewExpiration"]),
        }
    };
    ExtendSectorExpiration2Params { extensions: list(&params["Extensions"]).iter().map(extension).collect() }
}

/// An empty tuple, sent to see it refused.
const UNDECODABLE: &str = "DisputeWindowedPoSt.undecodable";

#[test]
fn parameters_encode_to_the_recorded_bytes_and_back() {
    let mut checked = 0;
    for recorded in fixtures::all("messages") {
        if recorded.name == UNDECODABLE {
            continue;
        }
        let params = &recorded.content["params_decoded"];
        let cbor = recorded.content["params_hex"].as_str().unwrap_or_default();
        match recorded.method() {
            "SubmitWindowedPoSt" => check(&recorded.name, &window_post(params), cbor),
            "DisputeWindowedPoSt" => check(&recorded.name, &dispute(params), cbor),
            "DeclareFaults" => check(&recorded.name, &faults(params), cbor),
            "DeclareFaultsRecovered" => check(&recorded.name, &recoveries(params), cbor),
            "TerminateSectors" => check(&recorded.name, &terminations(params), cbor),
            "ExtendSectorExpiration2" => check(&recorded.name, &extensions(params), cbor),
            _ => continue,
        }
        checked += 1;
    }
    assert_eq!(checked, 42, "every recorded message is checked");
}

#[test]
fn parameters_that_the_chain_cannot_decode_are_refused() {
    let recorded = fixtures::one("messages", UNDECODABLE);
    let cbor = hex::decode(recorded.content["params_hex"].as_str().unwrap()).unwrap();
    assert!(DisputeWindowedPoStParams::from_cbor(&cbor).is_err());
}

#[test]
fn the_return_value_of_a_termination_is_read_and_written_back() {
    let terminated = fixtures::one("messages", "TerminateSectors.ok");
    let cbor = hex::decode(terminated.content["return_hex"].as_str().unwrap()).unwrap();
    let done = TerminateSectorsReturn::from_cbor(&cbor).unwrap();
    assert_eq!(done, TerminateSectorsReturn { done: true });
    assert_eq!(done.to_cbor(), cbor);
}
