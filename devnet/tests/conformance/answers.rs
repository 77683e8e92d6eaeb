//! Answers of a Lotus node, replayed: the recorded request, with our actors, keys and CIDs in the places of
//! theirs, gets an answer of the same shape: the same members, null where there was null, an empty list
//! where there was one, the same HTTP status and error code, and the same words but for names and numbers.
//!
//! The scenes follow the recorded network's life, because what is asked refers to what was answered before.

use curio_chain::message::{Cbor, PoStPartition, method};
use curio_chain::types::{Message, TipSetKey};
use curio_chain::{Address, BitField, TokenAmount, address};
use serde_json::json;

use crate::replica;
use crate::stage::{ACTIVE, SECOND_KEY, Stage, excluded};
use crate::support::fixtures;

/// A key of the recorded wallet that was never on the chain.
const UNUSED_KEY: &str = "t3se7qe6h7cwa5cqs66riiivypiipfx6rvnar7ovab7ut2nun3xhr44p33daszcljtfdn7k6gtr34pakragkpq";

#[tokio::test(flavor = "multi_thread")]
async fn recorded_answers_keep_their_shape_their_status_and_their_words() {
    let mut stage = Stage::new().await;
    let lab_worker = stage.lab.funded(1_000).await;
    let miner = stage.lab.miner_with_peer(lab_worker, b"\x00\x24 a peer id of any bytes").await;
    let idle = stage.lab.miner(lab_worker).await;
    let pre_committer = stage.lab.miner(lab_worker).await;
    stage.swap_address("t01000", miner);
    stage.swap_address("t01005", idle);
    stage.swap_address("t01012", pre_committer);

    keys_and_gas(&mut stage).await;
    one_message(&mut stage).await;
    pool(&mut stage).await;
    new_miner(&mut stage).await;
    sealed_sectors(&mut stage, lab_worker, miner, pre_committer).await;
    the_chain(&mut stage).await;
    active_sectors(&mut stage).await;

    let left: Vec<String> =
        fixtures("rpc").into_iter().filter(|name| !excluded(name) && !stage.played.contains(name)).collect();
    assert!(left.is_empty(), "{} recorded situations are neither replayed nor excluded: {left:?}", left.len());
    let (count, differ) = (stage.played.len(), stage.differences.len());
    println!("{count} recorded answers replayed");
    assert!(differ == 0, "{differ} differences in {count} answers:\n{}", stage.differences.join("\n"));
}

/// A fresh key, what can be done without money, and estimates.
async fn keys_and_gas(stage: &mut Stage) {
    stage.play("WalletNew.bls").await;
    stage.play_all(&["WalletNew.secp256k1", "WalletNew.bad_type"]).await;
    let unused = stage.lab.client.wallet_new("bls").await.unwrap();
    stage.swap_address(UNUSED_KEY, unused);
    stage.play_methods(&["WalletList", "WalletDefaultAddress", "WalletHas", "WalletSign"]).await;
    stage.play_methods(&["WalletVerify", "WalletBalance", "WalletSignMessage"]).await;
    stage.play("StateGetActor.new_key").await;
    stage.play("MpoolPending.ok").await;
    stage.play_methods(&["MpoolGetConfig", "GasEstimateGasLimit", "GasEstimateFeeCap", "GasEstimateGasPremium"]).await;
    for name in fixtures("rpc") {
        let later = name.contains("create_miner") || excluded(&name);
        if name.starts_with("GasEstimateMessageGas.") && !later {
            stage.play(&name).await;
        }
    }
    stage.play_all(&["StateCall.send", "StateCall.failing", "StateCall.insufficient_funds"]).await;
    stage.play_all(&["MpoolGetNonce.id_address", "MpoolGetNonce.miner_actor", "MpoolGetNonce.ok"]).await;
    stage.play("MpoolGetNonce.unknown").await;
}

/// One message from push to result.
async fn one_message(stage: &mut Stage) {
    stage.swap_key("MpoolSelect.ok", 0);
    stage.play_all(&["MpoolSelect.null_key", "MpoolSelect.ok"]).await;
    stage.play("MpoolPushMessage.ok").await;
    stage.swap_key("MpoolSelect.one_message", 0);
    stage.play_all(&["MpoolPending.one_message", "MpoolSelect.one_message", "MpoolGetNonce.with_pending"]).await;
    stage.play_all(&["ChainGetMessage.pushed", "StateSearchMsg.pending_is_null"]).await;
    stage.lab.advance(1);
    stage.swap_key("StateSearchMsg.from_inclusion_tipset", 0);
    stage.lab.advance(6);
    stage.play_all(&["StateWaitMsg.ok", "StateWaitMsg.confidence5", "StateWaitMsg.unknown_cid"]).await;
    stage.play_all(&["StateSearchMsg.ok", "StateSearchMsg.null_tsk", "StateSearchMsg.no_replacement"]).await;
    stage.play_all(&["StateSearchMsg.from_execution_tipset", "StateSearchMsg.from_inclusion_tipset"]).await;
    stage.play_all(&["StateSearchMsg.limit_too_small_null", "StateSearchMsg.unknown_cid"]).await;
}

/// The second key gets 5000 FIL; what the pool takes and what it refuses.
async fn pool(stage: &mut Stage) {
    let second = address::parse(&stage.swaps[SECOND_KEY]).unwrap();
    let secp = stage.recorded("WalletNew.secp256k1")["response"]["result"].as_str().unwrap().to_owned();
    let secp = address::parse(&stage.swaps[&secp]).unwrap();
    for (to, fil) in [(second, 4_990), (secp, 10)] {
        let money = Message::new(stage.lab.rich(), to, 0, TokenAmount::from_whole(fil), Vec::new());
        assert_eq!(stage.lab.send(money).await.receipt.exit_code, 0);
    }
    let id = stage.lab.client.state_lookup_id(&second, &TipSetKey::HEAD).await.unwrap();
    stage.swap_address("t01002", id);

    stage.play("MpoolPushMessage.from_id_address").await;
    stage.lab.advance(2);
    stage.play_all(&["MpoolPushMessage.nonce_given", "MpoolPushMessage.insufficient_funds"]).await;
    stage.play_all(&["MpoolPushMessage.key_not_in_wallet", "MpoolPushMessage.sender_without_actor"]).await;
    stage.play_all(&["MpoolPushMessage.execution_fails", "MpoolPushMessage.maxfee_too_small"]).await;
    let first = stage.play("MpoolPushMessage.with_msg_uuid").await;
    let again = stage.play("MpoolPushMessage.same_msg_uuid_again").await;
    assert_eq!(first, again, "the same id gives the very same message");
    stage.play("MpoolPushMessage.gas_given").await;
    let sent = stage.play("MpoolPushMessage.secp_sender").await;
    let theirs = stage.recorded("ChainGetMessage.secp_by_signed_cid")["request"]["params"][0].clone();
    stage.swap(&theirs, &sent["CID"]);
    stage.play("ChainGetMessage.secp_by_signed_cid").await;
    stage.lab.advance(2);

    // A message, again, replaced: by other content, then (the next one) by other gas only.
    let nonce = stage.lab.client.mpool_get_nonce(&second).await.unwrap();
    stage.push("MpoolPush.ok", Some(nonce)).await;
    stage.push("MpoolPush.same_again", Some(nonce)).await;
    stage.push("MpoolPush.replace_premium_too_low", Some(nonce)).await;
    stage.push("MpoolPush.replace_ok", Some(nonce)).await;
    let mut plain_gas = stage.recorded("MpoolPush.replace_gas_only")["request"]["params"][0]["Message"].clone();
    plain_gas = stage.ours(&plain_gas);
    plain_gas["Nonce"] = json!(nonce + 1);
    plain_gas["GasPremium"] = json!("99638");
    let signed = stage.lab.ok("WalletSignMessage", json!([address::to_text(&second), plain_gas])).await;
    let replaced = stage.lab.ok("MpoolPush", json!([signed])).await;
    let theirs = stage.recorded("StateSearchMsg.replaced_gas_only")["request"]["params"][1].clone();
    stage.swap(&theirs, &replaced);
    stage.push("MpoolPush.replace_gas_only", Some(nonce + 1)).await;
    stage.lab.advance(2);
    stage.play_all(&["StateSearchMsg.replaced_by_other_content", "StateWaitMsg.replaced_by_other_content"]).await;
    stage.play_all(&["StateSearchMsg.replaced_gas_only", "StateWaitMsg.replaced_gas_only"]).await;
    stage.play("StateSearchMsg.replaced_not_allowed").await;

    let nonce = nonce + 2;
    for name in fixtures("rpc") {
        let accepted = ["nonce_gap", "nonce_gap_too_large", "underfunded_value"];
        let case = name.strip_prefix("MpoolPush.").unwrap_or_default();
        if !case.is_empty() && !accepted.contains(&case) && !stage.played.contains(&name) {
            let keeps_nonce = ["nonce_too_low", "sender_without_actor"].contains(&case);
            stage.push(&name, (!keeps_nonce).then_some(nonce)).await;
        }
    }

    // Gaps are taken and hang.
    let gap = stage.push("MpoolPush.nonce_gap", Some(nonce + 10)).await;
    stage.push("MpoolPush.nonce_gap_too_large", Some(nonce + 500)).await;
    stage.play_all(&["MpoolPending.with_gap", "MpoolGetNonce.with_gap_pending"]).await;
    let theirs = stage.recorded("StateSearchMsg.dropped_message_null")["request"]["params"][1].clone();
    stage.swap(&theirs, &gap);
    stage.lab.ok("MpoolClear", json!([true])).await;
    stage.play("StateSearchMsg.dropped_message_null").await;
    stage.push("MpoolPush.underfunded_value", Some(nonce)).await;
    stage.play("MpoolPending.after_clear").await;
    stage.lab.advance(2);
    stage.play("StateWaitMsg.exit_code_6").await;
}

/// CreateMiner, without and with its deposit.
async fn new_miner(stage: &mut Stage) {
    use curio_chain::message::{Cbor, CreateMinerParams};
    let second = address::parse(&stage.swaps[SECOND_KEY]).unwrap();
    let mut message: Message =
        serde_json::from_value(stage.params("GasEstimateMessageGas.create_miner")[0].clone()).unwrap();
    let params = CreateMinerParams::from_cbor(&message.params).unwrap();
    message.params = CreateMinerParams { owner: second, worker: second, ..params }.to_cbor();
    let theirs = stage.recorded("GasEstimateMessageGas.create_miner")["request"]["params"][0]["Params"].clone();
    let ours = serde_json::to_value(&message).unwrap()["Params"].clone();
    stage.swap(&theirs, &ours);
    stage.play("StateCall.create_miner_without_deposit").await;
    stage.play_all(&["GasEstimateMessageGas.create_miner_without_deposit", "GasEstimateMessageGas.create_miner"]).await;

    let signed = stage.lab.client.mpool_push_message(&message, None).await.unwrap();
    stage.lab.advance(2);
    let theirs = stage.recorded("StateWaitMsg.create_miner")["request"]["params"][0].clone();
    let ours = serde_json::to_value(curio_chain::wire::Json(signed.cid())).unwrap();
    stage.swap(&theirs, &ours);
    stage.play("StateWaitMsg.create_miner").await;
}

/// One miner with two proven sectors, one with a pre-commit only, one idle; asked at the height of the record.
async fn sealed_sectors(stage: &mut Stage, worker: Address, miner: Address, pre_committer: Address) {
    const RECORDED_AT: i64 = 549;
    replica::prove_two_sectors(&stage.lab, worker, miner).await;
    replica::pre_commit_one(&stage.lab, worker, pre_committer, 201).await;
    stage.swap_key("StateMinerInfo.old_tipset", 1);
    stage.lab.advance_to(500);
    stage.swap_key("StateGetRandomnessFromBeacon.older_key", 3);
    stage.lab.advance_to(RECORDED_AT - 2);
    // A message with parameters; what becomes of it does not matter here.
    let mut message = Message::new(worker, miner, 999, TokenAmount::default(), vec![0x81, 1]);
    message.gas_limit = 10_000_000;
    let sent = stage.lab.client.mpool_push_message(&message, None).await.unwrap();
    stage.lab.advance(1);
    stage.swap_key("ChainGetMessagesInTipset.with_messages", 0);
    let theirs = stage.recorded("ChainGetMessage.ok")["request"]["params"][0].clone();
    let ours = serde_json::to_value(curio_chain::wire::Json(sent.cid())).unwrap();
    stage.swap(&theirs, &ours);
    stage.lab.advance_to(RECORDED_AT);
    stage.play("ChainHead.ok").await;

    let place = stage.lab.client.state_sector_partition(&miner, 0, &TipSetKey::HEAD).await.unwrap();
    for name in fixtures("rpc") {
        if name.starts_with("StateMinerPartitions.") {
            let mut params = stage.params(&name);
            let empty = stage.recorded(&name)["response"]["result"].is_null();
            if params[1] != 48 {
                params[1] = json!(if empty { (place.deadline + 24) % 48 } else { place.deadline });
            }
            stage.play_with(&name, params).await;
        }
    }
    for name in fixtures("rpc") {
        // Sectors 2, 3 and so on of the record are sectors 0 and 1 here.
        const BY_NUMBER: [&str; 3] = ["StateSectorGetInfo.", "StateSectorPartition.", "StateSectorExpiration."];
        if BY_NUMBER.iter().any(|method| name.starts_with(method)) {
            let mut params = stage.params(&name);
            if excluded(&name) {
                continue;
            }
            let proven = stage.recorded(&name)["response"]["result"].is_object();
            if proven {
                params[1] = json!(0);
            }
            stage.play_with(&name, params).await;
        }
    }
    let mut synthetic = stage.params("StateSectorPreCommitInfo.found_synthetic");
    synthetic[1] = json!(201);
    stage.play_with("StateSectorPreCommitInfo.found_synthetic", synthetic).await;
    let mut proven = stage.params("StateSectorPreCommitInfo.null_after_prove");
    proven[1] = json!(0);
    stage.play_with("StateSectorPreCommitInfo.null_after_prove", proven).await;
    let methods = [
        "StateMinerInfo",
        "StateMinerPower",
        "StateMinerAvailableBalance",
        "StateMinerProvingDeadline",
        "StateMinerDeadlines",
        "StateMinerFaults",
        "StateMinerRecoveries",
        "StateMinerSectorCount",
        "StateMinerSectors",
        "StateMinerActiveSectors",
        "StateMinerAllocated",
        "StateMinerSectorAllocated",
        "StateSectorPreCommitInfo",
        "StateMinerPreCommitDepositForPower",
        "StateMinerInitialPledgeCollateral",
        "StateMinerInitialPledgeForSector",
        "StateMinerCreationDeposit",
        "StateGetActor",
        "StateLookupID",
        "StateLookupRobustAddress",
        "StateAccountKey",
        "StateListMiners",
        "StateListActors",
        "StateMarketBalance",
        "StateGetAllocation",
        "StateCirculatingSupply",
        "StateVMCirculatingSupplyInternal",
        "StateActorCodeCIDs",
        "StateNetworkName",
        "StateNetworkVersion",
        "StateGetNetworkParams",
        "Version",
        "ID",
        "Session",
    ];
    stage.play_methods(&methods).await;
    let token = stage.lab.devnet.token.clone();
    stage.play_with("AuthVerify.ok", json!([token])).await;
    stage.play_methods(&["AuthVerify", "AuthNew", "ChainPutObj"]).await;
}

/// Tipsets, blocks, objects and randomness at the height of the record, then over a null round.
async fn the_chain(stage: &mut Stage) {
    stage.play_all(&["ChainGetTipSetByHeight.ok", "ChainGetGenesis.ok"]).await;
    let theirs = stage.recorded("ChainGetPath.ok")["request"]["params"][0].clone();
    let mut below = stage.lab.devnet.head();
    for _ in 0..2 {
        below = stage.lab.client.chain_get_tip_set(below.parents()).await.unwrap();
    }
    stage.swap(&theirs, &serde_json::to_value(&below.cids).unwrap());
    stage.play("ChainGetPath.ok").await;
    for name in fixtures("rpc") {
        let later = name.contains("null_round") || excluded(&name) || stage.played.contains(&name);
        let chain =
            name.starts_with("Chain") || name.starts_with("StateGetRandomness") || name.starts_with("StateGetB");
        if chain && !later {
            stage.play(&name).await;
        }
    }

    const BEFORE_NULL_ROUND: i64 = 1036;
    stage.lab.advance_to(BEFORE_NULL_ROUND);
    let theirs = stage.recorded("ChainGetPath.over_null_rounds")["request"]["params"].clone();
    stage.swap(&theirs[0], &serde_json::to_value(&stage.lab.devnet.head().cids).unwrap());
    stage.lab.devnet.advance_over(1);
    stage.swap(&theirs[1], &serde_json::to_value(&stage.lab.devnet.head().cids).unwrap());
    let names: Vec<String> = fixtures("rpc").into_iter().filter(|name| name.contains("null_round")).collect();
    for name in names.iter().filter(|name| !excluded(name)) {
        stage.play(name).await;
    }
}

/// Two sectors proven again, by a proof that nobody looks at, on a chain of their own.
async fn active_sectors(main: &mut Stage) {
    let mut stage = Stage::new().await;
    let worker = stage.lab.funded(1_000).await;
    let miner = stage.lab.miner(worker).await;
    stage.swap_address("t01000", miner);
    replica::prove_two_sectors(&stage.lab, worker, miner).await;
    let place = stage.lab.client.state_sector_partition(&miner, 0, &TipSetKey::HEAD).await.unwrap();
    let now = stage.lab.open_deadline(&miner).await;
    let due = now.upcoming().find(|deadline| deadline.index == place.deadline).unwrap();
    stage.lab.advance_to(due.open.0);
    let partitions = vec![PoStPartition { index: place.partition, skipped: BitField::new() }];
    let params = replica::submission(&stage.lab, &due, partitions, vec![7; 192]).await.to_cbor();
    let message = Message::new(worker, miner, method::SUBMIT_WINDOWED_POST, TokenAmount::default(), params);
    assert_eq!(stage.lab.send(message).await.receipt.exit_code, 0);

    stage.play_all(&ACTIVE).await;
    main.played.append(&mut stage.played);
    main.differences.append(&mut stage.differences);
}
