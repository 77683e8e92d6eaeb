//! Messages of sectors on chain as a Lotus node judged them: window PoSts, faults, recoveries, disputes,
//! terminations and extensions. The recorded parameters, with our deadlines, epochs, randomness and proofs in the
//! places of theirs, end with the same exit code and the same words.
//!
//! As in the record, deadline k has the sectors 2k and 2k+1 in its only partition.

use curio_chain::message::{
    Cbor, DeclareFaultsParams, DeclareFaultsRecoveredParams, DisputeWindowedPoStParams, ExtendSectorExpiration2Params,
    SubmitWindowedPoStParams, TerminateSectorsParams, method,
};
use curio_chain::types::{DeadlineInfo, Message, TipSetKey};
use curio_chain::{Address, BitField, TokenAmount};
use curio_devnet::Options;

use crate::messages::compare;
use crate::replica::{Replica, empty_sectors, submission, window_post};
use crate::support::{Lab, fixture, fixtures, params};

/// Methods whose recorded messages are replayed here.
const METHODS: [&str; 6] = [
    "SubmitWindowedPoSt.",
    "DeclareFaults.",
    "DeclareFaultsRecovered.",
    "DisputeWindowedPoSt.",
    "TerminateSectors.",
    "ExtendSectorExpiration2.",
];

/// A chain on which nothing is disputed but by the test, and a miner on it.
struct Scene {
    lab: Lab,
    worker: Address,
    /// Funded, but nothing to the miner.
    stranger: Address,
    miner: Address,
    replicas: Vec<Replica>,
    played: Vec<String>,
    differences: Vec<String>,
}

impl Scene {
    async fn new() -> Scene {
        let lab = Lab::start_with(Options { disputes: false, ..Options::manual(params()) }).await;
        let worker = lab.funded(1_000).await;
        let (stranger, miner) = (lab.funded(1_000).await, lab.miner(worker).await);
        Scene { lab, worker, stranger, miner, replicas: Vec::new(), played: Vec::new(), differences: Vec::new() }
    }

    async fn open(&self) -> DeadlineInfo {
        self.lab.open_deadline(&self.miner).await
    }

    /// Makes tipsets until this deadline has been open for `epochs`.
    async fn advance_into(&self, index: u64, epochs: i64) -> DeadlineInfo {
        let deadline = self.open().await;
        let target = std::iter::successors(Some(deadline.next()), |deadline| Some(deadline.next()))
            .find(|deadline| deadline.index == index)
            .expect("deadlines never end");
        self.lab.advance_to(target.open.0 + epochs);
        target.seen_from(target.open + epochs)
    }

    /// The recorded message to our miner, with other parameters.
    fn message(&self, name: &str, params: Vec<u8>) -> Message {
        let recorded: Message = serde_json::from_value(fixture("messages", name)["message"].clone()).unwrap();
        Message::new(self.worker, self.miner, recorded.method, recorded.value, params)
    }

    fn recorded(&self, name: &str) -> Vec<u8> {
        let message: Message = serde_json::from_value(fixture("messages", name)["message"].clone()).unwrap();
        message.params
    }

    async fn play(&mut self, name: &str, message: &Message) {
        self.differences.extend(compare(&self.lab, message, name).await);
        self.played.push(name.to_owned());
    }

    /// The recorded parameters as they are.
    async fn play_as_recorded(&mut self, name: &str) -> Message {
        let message = self.message(name, self.recorded(name));
        self.play(name, &message).await;
        message
    }

    /// The recorded window PoSt as it would be for this deadline, with the proof given in the place of a real one.
    async fn window_post(&self, name: &str, deadline: &DeadlineInfo, post: Option<Vec<u8>>) -> Message {
        let mut params = SubmitWindowedPoStParams::from_cbor(&self.recorded(name)).unwrap();
        let ours = submission(&self.lab, deadline, params.partitions.clone(), Vec::new()).await;
        params.deadline = deadline.index;
        params.chain_commit_epoch = ours.chain_commit_epoch;
        params.chain_commit_rand = ours.chain_commit_rand;
        if let Some(post) = post {
            params.proofs[0].proof_bytes = post;
        }
        self.message(name, params.to_cbor())
    }

    /// Replays it, and has it executed.
    async fn play_and_send(&mut self, name: &str, message: Message) {
        self.play(name, &message).await;
        let landed = self.lab.send(message).await;
        let recorded = &fixture("messages", name)["receipt"];
        assert_eq!(recorded["ExitCode"], landed.receipt.exit_code, "{name}");
        let gas = recorded["GasUsed"].as_i64().unwrap();
        assert!((landed.receipt.gas_used - gas).abs() * 4 < gas, "{name}: {} gas, {gas}", landed.receipt.gas_used);
    }

    async fn counts(&self) -> (u64, u64, u64) {
        let count = self.lab.client.state_miner_sector_count(&self.miner, &TipSetKey::HEAD).await.unwrap();
        (count.live, count.active, count.faulty)
    }

    async fn partition(&self, deadline: u64) -> curio_chain::types::Partition {
        let partitions = self.lab.client.state_miner_partitions(&self.miner, deadline, &TipSetKey::HEAD).await;
        partitions.unwrap().remove(0)
    }

    /// Active sectors, as their power says.
    async fn powerful(&self) -> u64 {
        const SECTOR_BYTES: u64 = 2048;
        let power = self.lab.client.state_miner_power(&self.miner, &TipSetKey::HEAD).await.unwrap().miner_power;
        u64::try_from(power.raw_byte_power).unwrap() / SECTOR_BYTES
    }
}

fn set(bits: &[u64]) -> BitField {
    BitField::try_from_bits(bits.iter().copied()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_messages_of_sectors_end_with_the_recorded_exit_codes_and_words() {
    let mut scene = Scene::new().await;
    without_sectors(&mut scene).await;
    seal_ten(&mut scene).await;
    faults_and_recoveries(&mut scene).await;
    proofs(&mut scene).await;
    disputes(&mut scene).await;
    ends(&mut scene).await;

    let of_these_methods = |name: &String| METHODS.iter().any(|method| name.starts_with(method));
    let left: Vec<String> = fixtures("messages")
        .into_iter()
        .filter(|name| of_these_methods(name) && !scene.played.contains(name))
        .collect();
    assert!(left.is_empty(), "{} recorded messages are not replayed: {left:?}", left.len());
    let (count, differ) = (scene.played.len(), scene.differences.len());
    println!("{count} recorded messages of sectors replayed");
    assert!(differ == 0, "{differ} differences in {count} messages:\n{}", scene.differences.join("\n"));
}

/// A miner that has no sectors: everything that is refused before a partition is looked at.
async fn without_sectors(scene: &mut Scene) {
    const RECORDED_AT: i64 = 479;
    scene.lab.advance_to(RECORDED_AT);
    let open = scene.open().await;
    let elsewhere = (open.index + 10) % open.wpost_period_deadlines;
    for name in ["commit_rand_too_long", "deadline_out_of_range", "no_proofs", "two_proofs", "wrong_proof_type"] {
        scene.play_as_recorded(&format!("SubmitWindowedPoSt.{name}")).await;
    }
    for (name, deadline) in [
        ("no_partitions", open.index),
        ("open_deadline_no_such_partition", open.index),
        ("closed_deadline", elsewhere),
        ("deadline_closed_on_active_miner", elsewhere),
    ] {
        let name = format!("SubmitWindowedPoSt.{name}");
        let mut message = scene.window_post(&name, &open, None).await;
        let params = SubmitWindowedPoStParams::from_cbor(&message.params).unwrap();
        message.params = SubmitWindowedPoStParams { deadline, ..params }.to_cbor();
        scene.play(&name, &message).await;
    }
    for name in ["old_commit_epoch", "future_commit_epoch", "wrong_commit_rand"] {
        let name = format!("SubmitWindowedPoSt.{name}");
        let mut params = SubmitWindowedPoStParams::from_cbor(&scene.recorded(&name)).unwrap();
        params.deadline = open.index;
        if name.ends_with("wrong_commit_rand") {
            params.chain_commit_epoch = open.challenge;
        }
        let message = scene.message(&name, params.to_cbor());
        scene.play(&name, &message).await;
    }

    scene.play_as_recorded("DeclareFaults.empty").await;
    let mut faults = DeclareFaultsParams::from_cbor(&scene.recorded("DeclareFaults.no_such_sector")).unwrap();
    faults.faults[0].deadline = elsewhere;
    let message = scene.message("DeclareFaults.no_such_sector", faults.to_cbor());
    scene.play("DeclareFaults.no_such_sector", &message).await;
    let name = "DeclareFaultsRecovered.no_such_sector";
    let mut recovered = DeclareFaultsRecoveredParams::from_cbor(&scene.recorded(name)).unwrap();
    recovered.recoveries[0].deadline = elsewhere;
    let message = scene.message(name, recovered.to_cbor());
    scene.play(name, &message).await;
}

/// Ten sectors in the deadlines 0 to 4, all of which are still to come in the next proving period.
async fn seal_ten(scene: &mut Scene) {
    const QUIET: u64 = 20;
    scene.advance_into(QUIET, 0).await;
    scene.replicas = empty_sectors(&scene.lab, scene.worker, scene.miner, 10).await;
    for number in 0..10 {
        let place = scene.lab.client.state_sector_partition(&scene.miner, number, &TipSetKey::HEAD).await.unwrap();
        assert_eq!((place.deadline, place.partition), (number / 2, 0), "sector {number}");
    }
    assert_eq!((scene.counts().await, scene.powerful().await), ((10, 0, 0), 0), "new sectors have no power");
    // What a miner pays in fees and penalties comes from here.
    let money = Message::new(scene.worker, scene.miner, 0, TokenAmount::from_whole(100), Vec::new());
    assert_eq!(scene.lab.send(money).await.receipt.exit_code, 0);
}

/// Sector 3 is declared faulty, then recovered.
async fn faults_and_recoveries(scene: &mut Scene) {
    let message = scene.message("DeclareFaults.ok", scene.recorded("DeclareFaults.ok"));
    scene.play_and_send("DeclareFaults.ok", message).await;
    let partition = scene.partition(1).await;
    assert_eq!((partition.faulty_sectors, partition.recovering_sectors), (set(&[3]), set(&[])));
    let name = "DeclareFaultsRecovered.h581.nonce17";
    let message = scene.message(name, scene.recorded(name));
    scene.play_and_send(name, message).await;
    let recovering = scene.lab.client.state_miner_recoveries(&scene.miner, &TipSetKey::HEAD).await.unwrap();
    assert_eq!(recovering, set(&[3]));
    assert_eq!(scene.partition(1).await.faulty_sectors, set(&[3]), "until it is proven");
}

/// Deadline 0 with a sector left out, 1 with one that recovers, 2 with garbage, 3 as it should be, 4 not at all.
async fn proofs(scene: &mut Scene) {
    let open = scene.advance_into(0, 7).await;
    let post = window_post(&scene.lab, &open, &[&scene.replicas[0]]).await;
    let message = scene.window_post("SubmitWindowedPoSt.skipped_sector", &open, Some(post)).await;
    scene.play_and_send("SubmitWindowedPoSt.skipped_sector", message).await;
    assert_eq!((scene.counts().await, scene.powerful().await), ((10, 1, 2), 1));
    let message = scene.window_post("SubmitWindowedPoSt.already_proven", &open, None).await;
    scene.play("SubmitWindowedPoSt.already_proven", &message).await;

    let open = scene.advance_into(1, 7).await;
    let name = "SubmitWindowedPoSt.h725.nonce19";
    let garbage = scene.window_post(name, &open, Some(vec![7; 192])).await;
    let called = scene.lab.client.state_call(&garbage, &TipSetKey::HEAD).await.unwrap();
    assert_eq!(called.msg_rct.exit_code, 16, "by which a sector recovers is verified: {}", called.error);
    let post = window_post(&scene.lab, &open, &[&scene.replicas[2], &scene.replicas[3]]).await;
    let message = scene.window_post(name, &open, Some(post)).await;
    scene.play_and_send(name, message).await;
    assert_eq!((scene.counts().await, scene.powerful().await), ((10, 3, 1), 3), "sector 3 has its power back");

    let open = scene.advance_into(2, 7).await;
    for name in fixtures("messages") {
        if name.starts_with("SubmitWindowedPoSt.invalid_accepted_") {
            let message = scene.window_post(&name, &open, None).await;
            scene.play(&name, &message).await;
        }
    }
    let message = scene.window_post("SubmitWindowedPoSt.invalid_accepted_d2_h3662", &open, None).await;
    assert_eq!(scene.lab.send(message).await.receipt.exit_code, 0);
    assert_eq!((scene.counts().await, scene.powerful().await), ((10, 5, 1), 5), "garbage counts until it is disputed");

    let open = scene.advance_into(3, 7).await;
    let post = window_post(&scene.lab, &open, &[&scene.replicas[6], &scene.replicas[7]]).await;
    let message = scene.window_post("SubmitWindowedPoSt.valid_then_disputed", &open, Some(post)).await;
    scene.play("SubmitWindowedPoSt.valid_then_disputed", &message).await;
    scene.play_and_send("SubmitWindowedPoSt.h665.nonce18", message).await;
}

/// Of the garbage of deadline 2, and in vain of everything else.
async fn disputes(scene: &mut Scene) {
    let dispute = |scene: &Scene, deadline: u64, post_index: u64| {
        let params = DisputeWindowedPoStParams { deadline, post_index }.to_cbor();
        Message::new(scene.stranger, scene.miner, method::DISPUTE_WINDOWED_POST, TokenAmount::default(), params)
    };
    for name in ["undecodable", "deadline_out_of_range", "no_post_in_deadline"] {
        scene.play_as_recorded(&format!("DisputeWindowedPoSt.{name}")).await;
    }
    let message = dispute(scene, 3, 0);
    scene.play("DisputeWindowedPoSt.deadline_open", &message).await;
    let message = dispute(scene, 2, 7);
    scene.play("DisputeWindowedPoSt.no_such_index", &message).await;

    let before = scene.lab.client.wallet_balance(&scene.stranger).await.unwrap();
    let message = dispute(scene, 2, 0);
    scene.play_and_send("DisputeWindowedPoSt.ok", message.clone()).await;
    let reward = scene.lab.client.wallet_balance(&scene.stranger).await.unwrap() - before;
    assert!(reward > TokenAmount::from_nano(3_990_000_000_u64) && reward < TokenAmount::from_whole(4), "{reward}");
    assert_eq!(scene.partition(2).await.faulty_sectors, set(&[4, 5]));
    assert_eq!((scene.counts().await, scene.powerful().await), ((10, 5, 3), 5), "0, 2, 3, 6 and 7");
    let deadlines = scene.lab.client.state_miner_deadlines(&scene.miner, &TipSetKey::HEAD).await.unwrap();
    assert_eq!(deadlines[2].disputable_proof_count, 0);
    scene.play("DisputeWindowedPoSt.again", &message).await;

    scene.advance_into(5, 0).await;
    let deadlines = scene.lab.client.state_miner_deadlines(&scene.miner, &TipSetKey::HEAD).await.unwrap();
    let disputable: Vec<u64> = deadlines[..5].iter().map(|deadline| deadline.disputable_proof_count).collect();
    assert_eq!(disputable, [1, 0, 0, 1, 0], "not the one that was verified, the disputed and the missed one");
    assert_eq!((scene.counts().await, scene.powerful().await), ((10, 5, 5), 5), "deadline 4 was missed");
    let message = dispute(scene, 3, 0);
    scene.play("DisputeWindowedPoSt.valid_post", &message).await;
    let message = dispute(scene, 0, 0);
    let called = scene.lab.client.state_call(&message, &TipSetKey::HEAD).await.unwrap();
    assert_eq!(called.msg_rct.exit_code, 16, "the proof without sector 1 is good, too: {}", called.error);
    let message = dispute(scene, 4, 0);
    scene.play("DisputeWindowedPoSt.no_post_missed_deadline", &message).await;
}

/// Late declarations, a termination, extensions.
async fn ends(scene: &mut Scene) {
    let name = "DeclareFaults.deadline_fault_cutoff_passed_or_open";
    let mut faults = DeclareFaultsParams::from_cbor(&scene.recorded(name)).unwrap();
    faults.faults[0].deadline = scene.open().await.index;
    let message = scene.message(name, faults.to_cbor());
    scene.play(name, &message).await;

    scene.play_as_recorded("TerminateSectors.no_such_partition").await;
    scene.play_as_recorded("TerminateSectors.not_live").await;
    let mut now = TerminateSectorsParams::from_cbor(&scene.recorded("TerminateSectors.ok")).unwrap();
    now.terminations[0].deadline = scene.open().await.index;
    let message = scene.message("TerminateSectors.ok", now.to_cbor());
    let called = scene.lab.client.state_call(&message, &TipSetKey::HEAD).await.unwrap();
    assert!(called.error.contains("cannot terminate sectors in immutable deadline"), "{}", called.error);
    let message = scene.message("TerminateSectors.ok", scene.recorded("TerminateSectors.ok"));
    scene.play_and_send("TerminateSectors.ok", message).await;
    let partition = scene.partition(3).await;
    assert_eq!((partition.live_sectors, partition.all_sectors), (set(&[6]), set(&[6, 7])));
    let told = scene.lab.client.state_sector_get_info(&scene.miner, 7, &TipSetKey::HEAD).await.unwrap();
    assert!(told.is_some(), "a terminated sector is still told");
    assert_eq!((scene.counts().await, scene.powerful().await), ((9, 4, 5), 4));

    let name = "ExtendSectorExpiration2.reduce_expiration";
    let sector = scene.lab.client.state_sector_get_info(&scene.miner, 2, &TipSetKey::HEAD).await.unwrap().unwrap();
    let mut shorter = ExtendSectorExpiration2Params::from_cbor(&scene.recorded(name)).unwrap();
    shorter.extensions[0].new_expiration = sector.expiration - 1;
    let message = scene.message(name, shorter.to_cbor());
    scene.play(name, &message).await;
    scene.play_as_recorded("ExtendSectorExpiration2.too_far").await;
    let name = "ExtendSectorExpiration2.ok";
    let message = scene.message(name, scene.recorded(name));
    let extended = ExtendSectorExpiration2Params::from_cbor(&message.params).unwrap().extensions[0].new_expiration;
    scene.play_and_send(name, message).await;
    let sector = scene.lab.client.state_sector_get_info(&scene.miner, 3, &TipSetKey::HEAD).await.unwrap().unwrap();
    assert_eq!(sector.expiration, extended);
    assert!(sector.power_base_epoch > sector.activation);
    let expires = scene.lab.client.state_sector_expiration(&scene.miner, 3, &TipSetKey::HEAD).await.unwrap();
    let deadline = scene.open().await;
    let due = deadline.at(deadline.period_start, 1).quantize_up(extended);
    assert_eq!(expires.on_time, due, "at the end of its deadline");
    assert_eq!(scene.powerful().await, 4, "power does not change");
}
