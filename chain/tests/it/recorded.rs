//! Every recorded answer of every method that the client calls: the call writes the recorded request,
//! and what was read is written back as it was recorded.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use curio_chain::types::{BlockHeader, MessageSendSpec, TipSetKey};
use curio_chain::wire::{Json, LotusJson};
use curio_chain::{Address, BitField, Cid, Client, RpcError};
use curio_core::Epoch;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::fake_node::{FakeNode, Reply};
use crate::fixtures;

/// Recordings without a request, and requests that the typed client cannot make: parameters of a wrong
/// type, an empty address, members left out.
const NOT_EXPRESSIBLE: [&str; 10] = [
    "ChainGetBlock.real_winning_post",
    "GasEstimateMessageGas.value_number",
    "MinerCreateBlock.null_template",
    "MpoolPush.null_signature",
    "MpoolPush.to_f3_bad",
    "StateMinerInitialPledgeCollateral.v0_field_missing",
    "StateMinerPreCommitDepositForPower.v0_field_missing",
    "StateWaitMsg.never_included",
    "SyncSubmitBlock.null",
    "WalletSign.bad_base64",
];

/// Recordings whose request has another form than the client's: members left out that it always
/// writes, and the empty bit field as `[]`, which it writes as `[0]`.
const OTHER_FORM: [&str; 3] = [
    "GasEstimateMessageGas.fields_missing",
    "GasEstimateMessageGas.spec_partial",
    "StateMinerSectors.rle_filter_empty_array",
];

/// Recorded with `Params` as the empty text that had been sent; empty bytes are null here.
const ECHOED_EMPTY_TEXT: &str = "GasEstimateMessageGas.params_empty_string";

#[tokio::test]
async fn every_recorded_call_is_written_and_its_answer_read_and_written_back() {
    let current = Arc::new(Mutex::new((200, String::new())));
    let answers = current.clone();
    let node = FakeNode::start(move |_| {
        let (status, body) = answers.lock().unwrap().clone();
        Reply::Body(status, body)
    })
    .await;
    let client = node.client();
    let mut not_expressible = BTreeSet::new();
    let mut other_form = BTreeSet::new();
    let mut failures = Vec::new();
    let mut count = 0;
    for recorded in fixtures::all("rpc") {
        let method = recorded.method();
        if method == "Transport" || method == "ChainNotify" {
            continue;
        }
        let params = recorded.content["request"]["params"].as_array().cloned().unwrap_or_default();
        *current.lock().unwrap() = (recorded.status(), recorded.body());
        if recorded.content["response"].is_null() {
            not_expressible.insert(recorded.name.clone());
            continue;
        }
        let calls_before = node.calls().len();
        let outcome = match call(&client, method, &params).await {
            Ok(outcome) => outcome,
            Err(_) => {
                not_expressible.insert(recorded.name.clone());
                continue;
            }
        };
        count += 1;
        let calls = node.calls();
        assert_eq!(calls.len(), calls_before + 1, "{}: a node's answer is final", recorded.name);
        let sent = normal(&calls.last().unwrap().body);
        let mut wanted = normal(&recorded.content["request"]);
        wanted["params"] = normal(&Value::Array(params));
        if sent != wanted {
            other_form.insert(recorded.name.clone());
        }
        let response = &recorded.content["response"];
        match outcome {
            Ok(result) if result == response["result"] => {}
            Ok(result) if recorded.name == ECHOED_EMPTY_TEXT && normal(&result) == normal(&response["result"]) => {}
            Err(RpcError::Node { code, message, .. })
                if response["error"]["code"] == code && response["error"]["message"] == message.as_str() => {}
            other => failures.push(format!("{}: {other:?}\n  recorded {response}", recorded.name)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(not_expressible, NOT_EXPRESSIBLE.map(str::to_owned).into());
    assert_eq!(other_form, OTHER_FORM.map(str::to_owned).into());
    assert!(count > 300, "only {count} recordings were replayed");
}

#[test]
fn a_block_with_a_real_winning_post_is_read_and_written_back() {
    let recorded = fixtures::one("rpc", "ChainGetBlock.real_winning_post");
    let content = &recorded.content["block"];
    let block: BlockHeader = serde_json::from_value(content.clone()).unwrap();
    assert_eq!(block.win_post_proof[0].proof_bytes.len(), 192);
    assert_eq!(&serde_json::to_value(block).unwrap(), content);
}

#[tokio::test]
async fn the_exit_code_of_every_refused_estimate_is_known() {
    let mut codes = BTreeSet::new();
    for recorded in fixtures::all("rpc") {
        let error = &recorded.content["response"]["error"];
        let Some(text) = error["message"].as_str().map(str::to_owned) else { continue };
        if !["GasEstimateMessageGas", "MpoolPushMessage"].contains(&recorded.method()) {
            continue;
        }
        let wanted = text.rsplit_once("(RetCode=").map(|(_, rest)| rest.split_once(')').unwrap().0.parse().unwrap());
        let code = error["code"].as_i64().unwrap();
        let node = FakeNode::start(move |_| Reply::error(code, &text)).await;
        let error = node.client().chain_head().await.unwrap_err();
        assert_eq!(error.exit_code(), wanted, "{}", recorded.name);
        codes.extend(wanted);
    }
    assert!(codes.len() >= 3, "only exit codes {codes:?} were recorded");
}

#[tokio::test]
async fn a_missing_actor_is_known_whatever_the_method() {
    for name in [
        "StateGetActor.unknown_actor",
        "StateMinerInfo.unknown_actor",
        "StateLookupID.unknown_key_address",
        "MpoolGetNonce.unknown",
    ] {
        let recorded = fixtures::one("rpc", name);
        let body = recorded.body();
        let node = FakeNode::start(move |_| Reply::Body(200, body.clone())).await;
        let error = node.client().chain_head().await.unwrap_err();
        assert!(error.is_actor_not_found(), "{name}: {error}");
    }
}

/// The same request in one form: without id, without the CIDs that messages carry along, the empty
/// tipset key as null, addresses with the `t` prefix, no number of a specification left out.
fn normal(request: &Value) -> Value {
    match request {
        Value::Object(members) => {
            let dropped = |name: &str| name == "id" || name == "CID";
            members
                .iter()
                .filter(|(name, _)| !dropped(name))
                .map(|(name, value)| (name.clone(), normal(value)))
                .collect()
        }
        Value::Array(items) if items.is_empty() => Value::Null,
        Value::Array(items) => items.iter().map(normal).collect(),
        Value::String(text) if text.is_empty() => Value::Null,
        Value::String(text) if text.starts_with("f0") => Value::String(format!("t{}", &text[1..])),
        other => other.clone(),
    }
}

/// What a parameter could not be read as.
type Unreadable = serde_json::Error;

fn param<T: DeserializeOwned>(params: &[Value], index: usize) -> Result<T, Unreadable> {
    serde_json::from_value(params.get(index).cloned().unwrap_or_default())
}

fn wire<T: LotusJson>(params: &[Value], index: usize) -> Result<T, Unreadable> {
    param::<Json<T>>(params, index).map(|Json(value)| value)
}

fn out<T: Serialize>(result: Result<T, RpcError>) -> Result<Value, RpcError> {
    result.map(|value| serde_json::to_value(value).unwrap())
}

fn out_wire<T: LotusJson>(result: Result<T, RpcError>) -> Result<Value, RpcError> {
    out(result.map(Json))
}

/// A list that was recorded as null when empty.
fn out_null_list<T: Serialize>(result: Result<Vec<T>, RpcError>) -> Result<Value, RpcError> {
    result.map(|list| if list.is_empty() { Value::Null } else { serde_json::to_value(list).unwrap() })
}

/// Makes the typed call of a recorded one, and gives back what the client made of the answer.
async fn call(c: &Client, method: &str, p: &[Value]) -> Result<Result<Value, RpcError>, Unreadable> {
    let key = |index| param::<TipSetKey>(p, index);
    let addr = |index| wire::<Address>(p, index);
    let cid = |index| wire::<Cid>(p, index);
    let epoch = |index| param::<Epoch>(p, index);
    let number = |index| param::<u64>(p, index);
    let randomness = |result: Result<[u8; 32], RpcError>| out_wire(result.map(|value| value.to_vec()));
    let limit = |index| param::<i64>(p, index).map(|limit| (limit != -1).then_some(limit));
    Ok(match method {
        "Version" => out(c.version().await),
        "StateNetworkName" => out(c.state_network_name().await),
        "StateNetworkVersion" => out(c.state_network_version(&key(0)?).await),
        "StateGetNetworkParams" => out(c.state_get_network_params().await),
        "AuthVerify" => out(c.auth_verify(&param::<String>(p, 0)?).await),
        "ChainHead" => out(c.chain_head().await),
        "ChainGetGenesis" => out(c.chain_get_genesis().await),
        "ChainGetTipSet" => out(c.chain_get_tip_set(&key(0)?).await),
        "ChainGetTipSetByHeight" => out(c.chain_get_tip_set_by_height(epoch(0)?, &key(1)?).await),
        "ChainGetTipSetAfterHeight" => out(c.chain_get_tip_set_after_height(epoch(0)?, &key(1)?).await),
        "ChainGetPath" => out(c.chain_get_path(&key(0)?, &key(1)?).await),
        "ChainTipSetWeight" => out_wire(c.chain_tip_set_weight(&key(0)?).await),
        "ChainGetBlock" => out(c.chain_get_block(cid(0)?).await),
        "ChainGetBlockMessages" => out(c.chain_get_block_messages(cid(0)?).await),
        "ChainGetParentMessages" => out_null_list(c.chain_get_parent_messages(cid(0)?).await),
        "ChainGetParentReceipts" => out(c.chain_get_parent_receipts(cid(0)?).await),
        "ChainGetMessagesInTipset" => out_null_list(c.chain_get_messages_in_tipset(&key(0)?).await),
        "ChainGetMessage" => out(c.chain_get_message(cid(0)?).await),
        "ChainReadObj" => out_wire(c.chain_read_obj(cid(0)?).await),
        "ChainHasObj" => out(c.chain_has_obj(cid(0)?).await),
        "StateGetActor" => out(c.state_get_actor(&addr(0)?, &key(1)?).await),
        "StateReadState" => out(c.state_read_state(&addr(0)?, &key(1)?).await),
        "StateAccountKey" => out_wire(c.state_account_key(&addr(0)?, &key(1)?).await),
        "StateLookupID" => out_wire(c.state_lookup_id(&addr(0)?, &key(1)?).await),
        "StateLookupRobustAddress" => out_wire(c.state_lookup_robust_address(&addr(0)?, &key(1)?).await),
        "StateListMiners" => out_wire(c.state_list_miners(&key(0)?).await),
        "StateMinerInfo" => out(c.state_miner_info(&addr(0)?, &key(1)?).await),
        "StateMinerPower" => out(c.state_miner_power(&addr(0)?, &key(1)?).await),
        "StateMinerAllocated" => out_wire(c.state_miner_allocated(&addr(0)?, &key(1)?).await),
        "StateMinerSectorAllocated" => out(c.state_miner_sector_allocated(&addr(0)?, number(1)?, &key(2)?).await),
        "StateMinerSectors" => {
            let filter = wire::<Option<BitField>>(p, 1)?;
            out(c.state_miner_sectors(&addr(0)?, filter.as_ref(), &key(2)?).await)
        }
        "StateMinerActiveSectors" => out(c.state_miner_active_sectors(&addr(0)?, &key(1)?).await),
        "StateMinerSectorCount" => out(c.state_miner_sector_count(&addr(0)?, &key(1)?).await),
        "StateMinerFaults" => out_wire(c.state_miner_faults(&addr(0)?, &key(1)?).await),
        "StateMinerRecoveries" => out_wire(c.state_miner_recoveries(&addr(0)?, &key(1)?).await),
        "StateMinerProvingDeadline" => out(c.state_miner_proving_deadline(&addr(0)?, &key(1)?).await),
        "StateMinerDeadlines" => out(c.state_miner_deadlines(&addr(0)?, &key(1)?).await),
        "StateMinerPartitions" => out_null_list(c.state_miner_partitions(&addr(0)?, number(1)?, &key(2)?).await),
        "StateMinerAvailableBalance" => out_wire(c.state_miner_available_balance(&addr(0)?, &key(1)?).await),
        "StateMinerCreationDeposit" => out_wire(c.state_miner_creation_deposit(&key(0)?).await),
        "StateMinerPreCommitDepositForPower" => {
            out_wire(c.state_miner_pre_commit_deposit_for_power(&addr(0)?, &param(p, 1)?, &key(2)?).await)
        }
        "StateMinerInitialPledgeCollateral" => {
            out_wire(c.state_miner_initial_pledge_collateral(&addr(0)?, &param(p, 1)?, &key(2)?).await)
        }
        "StateMinerInitialPledgeForSector" => {
            out_wire(c.state_miner_initial_pledge_for_sector(param(p, 0)?, number(1)?, number(2)?, &key(3)?).await)
        }
        "StateSectorPreCommitInfo" => out(c.state_sector_pre_commit_info(&addr(0)?, number(1)?, &key(2)?).await),
        "StateSectorGetInfo" => out(c.state_sector_get_info(&addr(0)?, number(1)?, &key(2)?).await),
        "StateSectorExpiration" => out(c.state_sector_expiration(&addr(0)?, number(1)?, &key(2)?).await),
        "StateSectorPartition" => out(c.state_sector_partition(&addr(0)?, number(1)?, &key(2)?).await),
        "StateGetRandomnessFromTickets" => {
            let entropy: Vec<u8> = wire(p, 2)?;
            randomness(c.state_get_randomness_from_tickets(param(p, 0)?, epoch(1)?, &entropy, &key(3)?).await)
        }
        "StateGetRandomnessFromBeacon" => {
            let entropy: Vec<u8> = wire(p, 2)?;
            randomness(c.state_get_randomness_from_beacon(param(p, 0)?, epoch(1)?, &entropy, &key(3)?).await)
        }
        "StateGetBeaconEntry" => out(c.state_get_beacon_entry(epoch(0)?).await),
        "StateSearchMsg" => out(c.state_search_msg(&key(0)?, cid(1)?, limit(2)?, param(p, 3)?).await),
        "StateWaitMsg" => {
            let deadline = Duration::from_secs(5);
            out(c.state_wait_msg(cid(0)?, number(1)?, limit(2)?, param(p, 3)?, deadline).await)
        }
        "StateCall" => out(c.state_call(&param(p, 0)?, &key(1)?).await),
        "GasEstimateMessageGas" => {
            let spec: Option<MessageSendSpec> = param(p, 1)?;
            out(c.gas_estimate_message_gas(&param(p, 0)?, spec.as_ref(), &key(2)?).await)
        }
        "GasEstimateGasPremium" => {
            out_wire(c.gas_estimate_gas_premium(number(0)?, &addr(1)?, param(p, 2)?, &key(3)?).await)
        }
        "GasEstimateFeeCap" => out_wire(c.gas_estimate_fee_cap(&param(p, 0)?, param(p, 1)?, &key(2)?).await),
        "MpoolGetNonce" => out(c.mpool_get_nonce(&addr(0)?).await),
        "MpoolPush" => out_wire(c.mpool_push(&param(p, 0)?).await),
        "MpoolPushMessage" => {
            let spec: Option<MessageSendSpec> = param(p, 1)?;
            out(c.mpool_push_message(&param(p, 0)?, spec.as_ref()).await)
        }
        "MpoolPending" => out(c.mpool_pending(&key(0)?).await),
        "MinerGetBaseInfo" => out(c.miner_get_base_info(&addr(0)?, epoch(1)?, &key(2)?).await),
        "MpoolSelect" => out_null_list(c.mpool_select(&key(0)?, param(p, 1)?).await),
        "MinerCreateBlock" => out(c.miner_create_block(&param(p, 0)?).await),
        "SyncSubmitBlock" => out(c.sync_submit_block(&param(p, 0)?).await),
        "WalletNew" => out_wire(c.wallet_new(&param::<String>(p, 0)?).await),
        "WalletList" => out_wire(c.wallet_list().await),
        "WalletDefaultAddress" => out_wire(c.wallet_default_address().await),
        "WalletBalance" => out_wire(c.wallet_balance(&addr(0)?).await),
        "WalletHas" => out(c.wallet_has(&addr(0)?).await),
        "WalletSign" => out(c.wallet_sign(&addr(0)?, &wire::<Vec<u8>>(p, 1)?).await),
        "WalletSignMessage" => out(c.wallet_sign_message(&addr(0)?, &param(p, 1)?).await),
        "WalletVerify" => out(c.wallet_verify(&addr(0)?, &wire::<Vec<u8>>(p, 1)?, &param(p, 2)?).await),
        other => panic!("{other} is recorded and not called"),
    })
}
