//! Sectors through proving periods of four deadlines: proven, disputed by the chain itself, faulty, recovered, ended.

use curio_chain::message::{
    Cbor, DeclareFaultsRecoveredParams, PoStPartition, RecoveryDeclaration, SubmitWindowedPoStParams,
    TerminateSectorsParams, TerminationDeclaration, method,
};
use curio_chain::types::{DeadlineInfo, Message, MsgLookup, Partition, TipSetKey};
use curio_chain::{Address, BitField, TokenAmount};
use curio_devnet::{Devnet, Options, PostPolicy, StartError};

use crate::replica::{Replica, empty_sectors, pre_commit_one, submission, window_post};
use crate::support::{Lab, params};

/// The period of the demo: long enough for a proof of some seconds at one block a second.
const SHORT: PostPolicy = PostPolicy { deadlines: 4, challenge_window: 24, challenge_lookback: 8, fault_cutoff: 12 };

/// A miner with four sectors in two deadlines of a short proving period.
struct Story {
    lab: Lab,
    worker: Address,
    miner: Address,
    /// The deadline that opens first, and the other one.
    due: [Due; 2],
}

/// A deadline with two sectors in its only partition.
struct Due {
    index: u64,
    replicas: [Replica; 2],
}

impl Due {
    fn numbers(&self) -> [u64; 2] {
        self.replicas.each_ref().map(|replica| replica.sector.number)
    }
}

impl Story {
    async fn start() -> Story {
        let lab = Lab::start_with(Options { post: SHORT, ..Options::manual(params()) }).await;
        let worker = lab.funded(1_000).await;
        let miner = lab.miner(worker).await;
        lab.advance(10);
        let replicas = empty_sectors(&lab, worker, miner, 4).await;
        // What a miner pays in fees and penalties comes from here.
        let money = Message::new(worker, miner, 0, TokenAmount::from_whole(100), Vec::new());
        assert_eq!(lab.send(money).await.receipt.exit_code, 0);
        let deadline = lab.open_deadline(&miner).await;
        let Ok([a, b, c, d]) = <[Replica; 4]>::try_from(replicas) else { panic!("four sectors") };
        let mut due = [Due { index: 0, replicas: [a, b] }, Due { index: 0, replicas: [c, d] }];
        for due in &mut due {
            let place = lab.client.state_sector_partition(&miner, due.numbers()[0], &TipSetKey::HEAD).await.unwrap();
            due.index = place.deadline;
        }
        assert_ne!(due[0].index, due[1].index);
        due.sort_by_key(|due| deadline.upcoming().position(|next| next.index == due.index));
        Story { lab, worker, miner, due }
    }

    /// Makes tipsets until the deadline opens the next time.
    async fn advance_to_opening(&self, index: u64) -> DeadlineInfo {
        let next = self.lab.open_deadline(&self.miner).await.next();
        let next = next.upcoming().find(|next| next.index == index).expect("one turn has all deadlines");
        self.lab.advance_to(next.open.0);
        let told = self.lab.client.state_miner_proving_deadline(&self.miner, &TipSetKey::HEAD).await.unwrap();
        assert_eq!(told, next.seen_from(next.open));
        told
    }

    async fn submit(&self, open: &DeadlineInfo, partitions: Vec<PoStPartition>, post: Vec<u8>) -> MsgLookup {
        let params: SubmitWindowedPoStParams = submission(&self.lab, open, partitions, post).await;
        self.send(method::SUBMIT_WINDOWED_POST, params.to_cbor()).await
    }

    async fn send(&self, method: u64, params: Vec<u8>) -> MsgLookup {
        self.lab.send(Message::new(self.worker, self.miner, method, TokenAmount::default(), params)).await
    }

    /// Proves the sectors of one of the two deadlines.
    async fn prove(&self, which: usize) -> DeadlineInfo {
        let Due { index, replicas } = &self.due[which];
        let open = self.advance_to_opening(*index).await;
        let post = window_post(&self.lab, &open, &replicas.each_ref()).await;
        let landed = self.submit(&open, whole_partition(), post).await;
        assert_eq!(landed.receipt.exit_code, 0);
        open
    }

    async fn partition(&self, which: usize) -> Partition {
        let key = TipSetKey::HEAD;
        self.lab.client.state_miner_partitions(&self.miner, self.due[which].index, &key).await.unwrap().remove(0)
    }

    async fn counts(&self) -> (u64, u64, u64) {
        let count = self.lab.client.state_miner_sector_count(&self.miner, &TipSetKey::HEAD).await.unwrap();
        (count.live, count.active, count.faulty)
    }

    async fn powerful(&self) -> u64 {
        let power = self.lab.client.state_miner_power(&self.miner, &TipSetKey::HEAD).await.unwrap().miner_power;
        u64::try_from(power.raw_byte_power).unwrap() / 2048
    }
}

fn whole_partition() -> Vec<PoStPartition> {
    vec![PoStPartition { index: 0, skipped: BitField::new() }]
}

fn set(bits: &[u64]) -> BitField {
    BitField::try_from_bits(bits.iter().copied()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sectors_live_through_short_periods_with_proofs_a_fault_and_a_recovery() {
    let story = Story::start().await;
    let info = story.lab.open_deadline(&story.miner).await;
    assert_eq!(
        (info.wpost_period_deadlines, info.wpost_proving_period, info.wpost_challenge_window),
        (4, 96, 24),
        "{info:?}"
    );
    assert_eq!((info.open - info.challenge, info.open - info.fault_cutoff), (8, 12), "{info:?}");
    assert_eq!(story.lab.client.state_miner_deadlines(&story.miner, &TipSetKey::HEAD).await.unwrap().len(), 4);

    story.prove(0).await;
    story.prove(1).await;
    assert_eq!((story.counts().await, story.powerful().await), ((4, 4, 0), 4));

    // One period later the first is missed and the second is proven.
    let missed = story.advance_to_opening(story.due[0].index).await;
    story.prove(1).await;
    assert!(missed.close <= story.lab.devnet.head().height);
    assert_eq!((story.counts().await, story.powerful().await), ((4, 2, 2), 2));
    let [first, second] = story.due[0].numbers();
    assert_eq!(story.partition(0).await.faulty_sectors, set(&[first, second]));

    // One of its sectors is declared recovered; the proof by which it recovers leaves the other one out.
    let recovery = RecoveryDeclaration { deadline: story.due[0].index, partition: 0, sectors: set(&[second]) };
    let declared = DeclareFaultsRecoveredParams { recoveries: vec![recovery] };
    assert_eq!(story.send(method::DECLARE_FAULTS_RECOVERED, declared.to_cbor()).await.receipt.exit_code, 0);
    let open = story.advance_to_opening(story.due[0].index).await;
    let (none, params) = (TokenAmount::default(), declared.to_cbor());
    let late = Message::new(story.worker, story.miner, method::DECLARE_FAULTS_RECOVERED, none, params);
    let late = story.lab.client.state_call(&late, &TipSetKey::HEAD).await.unwrap();
    assert!(late.error.contains("late fault or recovery declaration"), "{}", late.error);
    let post = window_post(&story.lab, &open, &[&story.due[0].replicas[1]]).await;
    assert_eq!(story.submit(&open, whole_partition(), post).await.receipt.exit_code, 0);
    assert_eq!((story.counts().await, story.powerful().await), ((4, 3, 1), 3));
    let partition = story.partition(0).await;
    assert_eq!((partition.faulty_sectors, partition.recovering_sectors), (set(&[first]), set(&[])));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chain_disputes_a_bad_proof_as_soon_as_its_deadline_is_over_and_leaves_good_ones_alone() {
    let story = Story::start().await;
    let rich = story.lab.rich();
    let before = story.lab.client.mpool_get_nonce(&rich).await.unwrap();
    let good = story.prove(0).await;
    let bad = story.advance_to_opening(story.due[1].index).await;
    assert!(good.close <= bad.open);
    assert_eq!(story.submit(&bad, whole_partition(), vec![7; 192]).await.receipt.exit_code, 0);
    assert_eq!(story.counts().await, (4, 4, 0), "a proof is taken unseen");

    story.lab.advance_to(bad.close.0 - 2);
    assert!(story.lab.devnet.pending().is_empty(), "no dispute before the deadline is over");
    story.lab.advance(1);
    assert_eq!(story.lab.devnet.pending().len(), 1, "one dispute");
    story.lab.advance(2);
    assert_eq!(story.partition(1).await.faulty_sectors, set(&story.due[1].numbers()));
    assert_eq!((story.counts().await, story.powerful().await), ((4, 2, 2), 2));
    assert!(story.lab.devnet.pending().is_empty());
    let nonce = story.lab.client.mpool_get_nonce(&rich).await.unwrap();
    assert_eq!(nonce, before + 1, "one dispute of the bad proof, none of the good one");
    assert_eq!(story.partition(0).await.active_sectors, set(&story.due[0].numbers()));
}

/// The state machine's own bookkeeping must come out even at the end, or the cron fails and the miner loses its power.
#[tokio::test(flavor = "multi_thread")]
async fn sectors_that_stay_faulty_for_42_periods_end() {
    const FAULT_MAX_PERIODS: i64 = 42;
    let story = Story::start().await;
    story.prove(1).await;
    let head = story.lab.devnet.head().height;
    assert_eq!(story.counts().await, (4, 2, 2), "the other deadline was missed");

    // A termination of no sectors leaves nothing behind that would keep the fees of later ones from being taken.
    let again = story.advance_to_opening(story.due[0].index).await;
    story.lab.advance_to(again.close.0);
    let none = TerminationDeclaration { deadline: again.index, partition: 0, sectors: BitField::new() };
    let none = TerminateSectorsParams { terminations: vec![none] };
    assert_eq!(story.send(method::TERMINATE_SECTORS, none.to_cbor()).await.receipt.exit_code, 0);

    story.lab.advance_to(head.0 + (FAULT_MAX_PERIODS - 1) * SHORT.period());
    assert_eq!(story.counts().await, (4, 0, 4));
    story.lab.advance(u32::try_from(4 * SHORT.period()).unwrap());
    assert_eq!(story.counts().await, (0, 0, 0));
    let told = story.lab.client.state_miner_sectors(&story.miner, None, &TipSetKey::HEAD).await.unwrap();
    assert_eq!(told.len(), 4, "they are still told");

    // With its last sector and its last money its deadlines stop to pass, and go on with the next pre-commit.
    let head = TipSetKey::HEAD;
    let told = || story.lab.client.state_miner_proving_deadline(&story.miner, &head);
    assert!(told().await.unwrap().open > story.lab.devnet.head().height);
    pre_commit_one(&story.lab, story.worker, story.miner, 10).await;
    story.lab.advance(u32::try_from(SHORT.challenge_window).unwrap());
    assert!(told().await.unwrap().is_open());
}

#[tokio::test]
async fn a_period_in_which_nothing_could_be_proven_is_refused_at_the_start() {
    let post = PostPolicy { deadlines: 2, ..SHORT };
    let refused = Devnet::start(Options { post, ..Options::manual(params()) }).await.err().unwrap();
    assert!(matches!(refused, StartError::Post(_)), "{refused}");
}
