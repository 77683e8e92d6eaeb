//! A miner, two sectors, real vanilla proofs: from pre-commit over the seed to sectors on the chain, and
//! to faults when nobody proves them again.

use curio_chain::message::{Cbor, PreCommitSectorBatch2Params, sealed_cid, unsealed_cid};
use curio_chain::types::{Message, TipSetKey};
use curio_chain::{Address, TokenAmount};
use curio_core::Epoch;

use crate::replica::{CHALLENGE_DELAY, PRE_COMMIT, PROOF, PROVE_COMMIT, prove_commit, seal};
use crate::support::Lab;

/// Exit code that a call would have on top of the head.
async fn exit_code(lab: &Lab, message: &Message) -> i64 {
    lab.client.state_call(message, &TipSetKey::HEAD).await.unwrap().msg_rct.exit_code
}

/// Once the deposit doubled within seven epochs and fell to nothing after that; messages with the one told before were
/// refused (exit code 19) and sent again.
#[tokio::test(flavor = "multi_thread")]
async fn a_deposit_told_at_one_epoch_covers_a_message_at_any_later_one() {
    let lab = Lab::start().await;
    let ask = || async {
        let cid = sealed_cid(&[7; 32]).to_string();
        let sector = serde_json::json!({
            "SealProof": PROOF.number(), "SectorNumber": 1, "SealedCID": {"/": cid}, "SealRandEpoch": 1,
            "DealIDs": [], "Expiration": 600_000, "UnsealedCid": null,
        });
        let told = lab.ok("StateMinerPreCommitDepositForPower", serde_json::json!(["t01000", sector, null])).await;
        told.as_str().unwrap().parse::<u128>().unwrap()
    };
    let first = ask().await;
    for _ in 0..20 {
        lab.advance(25);
        assert_eq!(ask().await, first, "at epoch {}", lab.devnet.head().height);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sectors_go_from_pre_commit_to_the_chain_and_fault_without_a_post() {
    let lab = Lab::start().await;
    let worker = lab.funded(100).await;
    let miner = lab.miner(worker).await;
    lab.advance(10);
    let data = seal(&lab, miner, 0, Some(&[7; 1000])).await;
    let empty = seal(&lab, miner, 1, None).await;

    // The deposit comes with the message, as lotus-miner sends it.
    let now = lab.devnet.head().height;
    let batch = PreCommitSectorBatch2Params { sectors: vec![data.pre_commit(now), empty.pre_commit(now)] };
    let value = TokenAmount::from_whole(1);
    let landed = lab.send(Message::new(worker, miner, PRE_COMMIT, value, batch.to_cbor())).await;
    assert_eq!(landed.receipt.exit_code, 0);
    assert!(landed.receipt.events_root.is_some());
    let found = lab.client.state_sector_pre_commit_info(&miner, 0, &TipSetKey::HEAD).await.unwrap().unwrap();
    assert_eq!(found.pre_commit_epoch, landed.height - 1);
    assert_eq!(found.info.unsealed_cid, Some(unsealed_cid(&data.comm_d)));
    let deposit = found.pre_commit_deposit;

    // Too early up to and with the seed's own epoch; the seed is the one that the chain gives out.
    let seed_epoch = found.pre_commit_epoch + CHALLENGE_DELAY;
    lab.advance_to(seed_epoch.0);
    let head = lab.devnet.head();
    let seed = lab.client.seal_seed(data.sector.sp, seed_epoch, head.key()).await.unwrap();
    let proofs = [(&data, data.prove(&seed)), (&empty, empty.prove(&seed))];
    let params = prove_commit(&proofs);
    let message = Message::new(worker, miner, PROVE_COMMIT, TokenAmount::default(), params.to_cbor());
    assert_eq!(exit_code(&lab, &message).await, 18, "the seed's own epoch is too early");
    lab.advance(1);
    assert_eq!(exit_code(&lab, &message).await, 0);

    // Nothing but the right proof for the right sector is taken.
    let swapped = prove_commit(&[(&data, proofs[1].1.clone()), (&empty, proofs[0].1.clone())]);
    let mut bent = prove_commit(&proofs);
    bent.sector_proofs[0].0[100] ^= 1;
    let mut without_pieces = prove_commit(&proofs);
    without_pieces.sector_activations[0].pieces.clear();
    for (what, params) in [("swapped proofs", swapped), ("a bent proof", bent), ("pieces left out", without_pieces)] {
        let message = Message { params: params.to_cbor(), ..message.clone() };
        assert_eq!(exit_code(&lab, &message).await, 16, "{what}");
    }

    let locked_before = lab.client.state_miner_available_balance(&miner, &TipSetKey::HEAD).await.unwrap();
    let landed = lab.send(message).await;
    assert_eq!((landed.receipt.exit_code, landed.receipt.r#return.as_slice()), (0, &[0x82, 2, 0x80][..]));
    let head = lab.devnet.head();
    let sector = lab.client.state_sector_get_info(&miner, 0, head.key()).await.unwrap().unwrap();
    assert_eq!(sector.activation, landed.height - 1);
    assert_eq!(sector.sealed_cid, sealed_cid(&data.comm_r));
    assert_eq!(sector.deal_weight, (sector.expiration - sector.activation) * num_bigint::BigInt::from(1024));
    assert_eq!(sector.initial_pledge, TokenAmount::from_atto(59_604_643_840_u64), "the pledge of 2 KiB is capped");
    assert!(lab.client.state_sector_pre_commit_info(&miner, 0, head.key()).await.unwrap().is_none());
    let freed = lab.client.state_miner_available_balance(&miner, head.key()).await.unwrap() - locked_before;
    assert_eq!(freed, (deposit - sector.initial_pledge) * 2_u64, "deposits come back, pledges stay");

    // New sectors live and have no power; at the end of their deadline they are faulty.
    let count = lab.client.state_miner_sector_count(&miner, head.key()).await.unwrap();
    assert_eq!((count.live, count.active, count.faulty), (2, 0, 0));
    let place = lab.client.state_sector_partition(&miner, 0, head.key()).await.unwrap();
    let proving_period = 2880;
    lab.advance(proving_period + 60);
    let head = lab.devnet.head();
    let count = lab.client.state_miner_sector_count(&miner, head.key()).await.unwrap();
    assert_eq!((count.live, count.active, count.faulty), (2, 0, 2));
    assert_eq!(lab.client.state_sector_partition(&miner, 0, head.key()).await.unwrap(), place);
    let expiration = lab.client.state_sector_expiration(&miner, 0, head.key()).await.unwrap();
    assert_eq!(expiration.on_time, Epoch(0));
    let power = lab.client.state_miner_power(&miner, head.key()).await.unwrap();
    assert_eq!(power.miner_power, Default::default());
    let deadline = lab.client.state_miner_proving_deadline(&miner, head.key()).await.unwrap();
    assert!(deadline.open <= head.height && head.height < deadline.close, "a miner with sectors has a cron");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_commit_can_be_proven_up_to_its_last_epoch_and_then_loses_its_deposit() {
    let lab = Lab::start().await;
    let worker = lab.funded(100).await;
    let miner = lab.miner(worker).await;
    lab.advance(10);
    let replica = seal(&lab, miner, 5, None).await;
    let now = lab.devnet.head().height;
    let batch = PreCommitSectorBatch2Params { sectors: vec![replica.pre_commit(now)] };
    let landed = lab.send(Message::new(worker, miner, PRE_COMMIT, TokenAmount::from_whole(1), batch.to_cbor())).await;
    let pre_commit_epoch = landed.height - 1;
    lab.advance_to(pre_commit_epoch.0 + CHALLENGE_DELAY);
    let seed_epoch = pre_commit_epoch + CHALLENGE_DELAY;
    let seed = lab.client.seal_seed(replica.sector.sp, seed_epoch, lab.devnet.head().key()).await.unwrap();
    let prove = prove_commit(&[(&replica, replica.prove(&seed))]);
    let prove = Message::new(worker, miner, PROVE_COMMIT, TokenAmount::default(), prove.to_cbor());

    // 30 days and the challenge delay; null rounds make them bearable.
    let last = pre_commit_epoch + 86_410;
    lab.devnet.advance_over(u32::try_from(last - lab.devnet.head().height - 1).unwrap());
    assert_eq!(lab.devnet.head().height, last);
    assert_eq!(exit_code(&lab, &prove).await, 0, "the last epoch of the window");
    lab.advance(1);
    assert_eq!(exit_code(&lab, &prove).await, 16, "the window is over");
    let burnt_id = Address::new_id(99);
    let burnt = lab.client.wallet_balance(&burnt_id).await.unwrap();

    // Eight hours later, at the end of a deadline, it is cleaned up.
    let clean_up_delay = 8 * 120;
    let two_deadlines = 2 * 60;
    lab.devnet.advance_over(clean_up_delay + two_deadlines);
    lab.advance(1);

    assert!(lab.client.state_sector_pre_commit_info(&miner, 5, &TipSetKey::HEAD).await.unwrap().is_none());
    assert!(lab.client.wallet_balance(&burnt_id).await.unwrap() > burnt);
    let allocated = lab.client.state_miner_allocated(&miner, &TipSetKey::HEAD).await.unwrap();
    assert!(allocated.get(5), "the number is used for ever");
}
