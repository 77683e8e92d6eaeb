//! A chain that believes every proof of sectors, miners with power on it, and their blocks.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use curio_chain::message::{
    Cbor, CreateMinerParams, CreateMinerReturn, POWER_ACTOR, PoStPartition, PoStProof, PreCommitSectorBatch2Params,
    ProofBytes, ProveCommitSectors3Params, SectorActivationManifest, SectorPreCommit, SubmitWindowedPoStParams, method,
    sealed_cid,
};
use curio_chain::types::{
    BlockMsg, BlockTemplate, ElectionProof, HeadChange, Message, MiningBaseInfo, MsgLookup, Ticket, TipSet, TipSetKey,
};
use curio_chain::{Address, BitField, Client, ClientOptions, Endpoint, TokenAmount, address, election};
use curio_core::{Epoch, SealProof, SpId};
use curio_devnet::proof::{Piece, PostClaim, ProofVerifier, SealClaim};
use curio_devnet::{Devnet, Options, PostPolicy};
use fvm_shared::sector::RegisteredSealProof;
use serde_json::{Value, json};

pub const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;
/// The only winning PoSt that the verifier of these tests takes.
pub const GOOD_POST: &[u8] = b"a winning proof";
/// Epochs that the power of a miner takes to count.
pub const LOOKBACK: i64 = 5;
/// How long a test waits for what must come.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Takes every proof of a sector, and of winning PoSts the good one.
pub struct Believer;

impl ProofVerifier for Believer {
    fn verify_seal(&self, _: &SealClaim<'_>) -> bool {
        true
    }

    fn verify_window_post(&self, _: &PostClaim<'_>) -> bool {
        true
    }

    fn verify_winning_post(&self, claim: &PostClaim<'_>) -> bool {
        claim.post == GOOD_POST
    }

    fn winning_sector_indices(&self, _: SealProof, _: SpId, _: &[u8; 32], eligible: u64) -> Vec<u64> {
        (0..eligible.min(1)).collect()
    }

    fn comm_d(&self, _: RegisteredSealProof, _: &[Piece]) -> Result<[u8; 32], String> {
        Ok([0; 32])
    }
}

/// A chain and a client of it.
pub struct Net {
    pub devnet: Devnet,
    pub client: Client,
    pub http: reqwest::Client,
}

/// A miner, whose worker's key is in the wallet.
#[derive(Clone, Copy)]
pub struct Miner {
    pub address: Address,
    pub worker: Address,
    pub sp: SpId,
}

/// A chain of short proving periods, advanced by hand.
pub fn options() -> Options {
    Options {
        winning_lookback: LOOKBACK,
        post: PostPolicy { deadlines: 4, challenge_window: 10, challenge_lookback: 3, fault_cutoff: 5 },
        ..Options::manual(PathBuf::new())
    }
}

impl Net {
    pub async fn start(options: Options) -> Net {
        Net::start_with(options, Arc::new(Believer)).await
    }

    /// The same with a verifier of the test's.
    pub async fn start_with(options: Options, verifier: Arc<dyn ProofVerifier>) -> Net {
        let devnet = Devnet::start_with(options, verifier).await.unwrap();
        let endpoint = Endpoint::parse(&format!("{}:{}", devnet.token, devnet.url)).unwrap();
        let client = Client::new(vec![endpoint], ClientOptions::default()).unwrap();
        Net { devnet, client, http: reqwest::Client::new() }
    }

    /// A chain with one miner that wins nearly every epoch.
    pub async fn with_miner() -> (Net, Miner) {
        let net = Net::start(options()).await;
        let miner = net.powerful_miner().await;
        (net, miner)
    }

    pub fn head(&self) -> TipSet {
        self.devnet.head()
    }

    /// Makes tipsets until the head is at this height.
    pub fn advance_to(&self, height: i64) {
        while self.head().height < Epoch(height) {
            self.devnet.advance(1);
        }
    }

    /// Waits until the head is above a height.
    pub async fn wait_above(&self, height: Epoch) {
        let mut changes = self.devnet.follow();
        let above = async { while changes.recv().await.is_some_and(|_| self.head().height <= height) {} };
        tokio::time::timeout(DEADLINE, above).await.unwrap_or_else(|_| panic!("the head stayed at {height}"));
    }

    /// The answer of a method with all permissions, error or result.
    pub async fn call(&self, method: &str, params: Value) -> Value {
        let body = json!({ "jsonrpc": "2.0", "method": format!("Filecoin.{method}"), "params": params, "id": 1 });
        let url = self.devnet.url.join("/rpc/v1").unwrap();
        let request = self.http.post(url).bearer_auth(&self.devnet.token).body(body.to_string());
        serde_json::from_str(&request.send().await.unwrap().text().await.unwrap()).unwrap()
    }

    pub fn rich(&self) -> Address {
        address::parse(&self.devnet.default_address).unwrap()
    }

    /// Sends a message and waits until it is on the chain, which makes two tipsets if nobody else does.
    pub async fn send(&self, from: Address, to: Address, method: u64, fil: u64, params: Vec<u8>) -> MsgLookup {
        let message = Message::new(from, to, method, TokenAmount::from_whole(fil), params);
        let signed = self.client.mpool_push_message(&message, None).await.unwrap();
        self.devnet.advance(2);
        let landed = self.client.state_wait_msg(signed.cid(), 0, None, true, DEADLINE).await.unwrap();
        assert_eq!(landed.receipt.exit_code, 0, "method {method}");
        landed
    }

    /// A miner without sectors.
    pub async fn miner(&self) -> Miner {
        let worker = self.client.wallet_new("bls").await.unwrap();
        self.send(self.rich(), worker, 0, 100, Vec::new()).await;
        let params = CreateMinerParams {
            owner: worker,
            worker,
            window_post_proof_type: PROOF.window_post(),
            peer: Vec::new(),
            multiaddrs: Vec::new(),
        };
        let made = self.send(worker, POWER_ACTOR, method::CREATE_MINER, 1, params.to_cbor()).await;
        let CreateMinerReturn { id_address, .. } = CreateMinerReturn::from_cbor(&made.receipt.r#return).unwrap();
        Miner { address: id_address, worker, sp: address::sp_id(&id_address).unwrap() }
    }

    /// A miner with one sector, proven so long ago that it counts.
    pub async fn powerful_miner(&self) -> Miner {
        let [miner] = self.powerful_miners().await;
        miner
    }

    /// The same several times.
    pub async fn powerful_miners<const N: usize>(&self) -> [Miner; N] {
        let mut miners = Vec::new();
        for _ in 0..N {
            let miner = self.miner().await;
            self.add_sector(&miner).await;
            miners.push(miner);
        }
        // Whose deadline opens first is proven first.
        let mut unproven = miners.clone();
        while !unproven.is_empty() {
            self.devnet.advance(1);
            for (index, miner) in unproven.clone().iter().enumerate().rev() {
                if self.prove_if_open(miner).await {
                    unproven.remove(index);
                }
            }
        }
        self.devnet.advance(LOOKBACK as u32 + 2);
        miners.try_into().unwrap_or_else(|_| unreachable!("as many were made"))
    }

    /// Adds a sector, not proven yet.
    pub async fn add_sector(&self, miner: &Miner) {
        self.add_sector_of(miner, &[7; 32]).await;
    }

    /// The same with this replica.
    pub async fn add_sector_of(&self, miner: &Miner, comm_r: &[u8; 32]) {
        const LIFETIME: i64 = 700_000;
        /// Epochs from a pre-commit to its proof.
        const SEED_DELAY: u32 = 11;
        let now = self.head().height;
        let pre_commit = SectorPreCommit {
            seal_proof: PROOF.number(),
            sector_number: 0,
            sealed_cid: sealed_cid(comm_r),
            seal_rand_epoch: now - 1,
            deal_ids: Vec::new(),
            expiration: now + LIFETIME,
            unsealed_cid: None,
        };
        let params = PreCommitSectorBatch2Params { sectors: vec![pre_commit] };
        self.send(miner.worker, miner.address, method::PRE_COMMIT_SECTOR_BATCH2, 1, params.to_cbor()).await;
        self.devnet.advance(SEED_DELAY);
        let params = ProveCommitSectors3Params {
            sector_activations: vec![SectorActivationManifest { sector_number: 0, pieces: Vec::new() }],
            sector_proofs: vec![ProofBytes(vec![0; 192])],
            aggregate_proof: Vec::new(),
            aggregate_proof_type: None,
            require_activation_success: true,
            require_notification_success: false,
        };
        self.send(miner.worker, miner.address, method::PROVE_COMMIT_SECTORS3, 0, params.to_cbor()).await;
    }

    /// A window PoSt for the partition of the miner's sector, at the deadline's next time.
    pub async fn prove(&self, miner: &Miner) {
        while !self.prove_if_open(miner).await {
            self.devnet.advance(1);
        }
    }

    async fn prove_if_open(&self, miner: &Miner) -> bool {
        let place = self.client.state_sector_partition(&miner.address, 0, &TipSetKey::HEAD).await.unwrap();
        let deadline = self.client.state_miner_proving_deadline(&miner.address, &TipSetKey::HEAD).await.unwrap();
        if deadline.index != place.deadline || deadline.open > self.head().height {
            return false;
        }
        let commit_epoch = deadline.challenge;
        let key = self.head().cids;
        let params = SubmitWindowedPoStParams {
            deadline: place.deadline,
            partitions: vec![PoStPartition { index: place.partition, skipped: BitField::new() }],
            proofs: vec![PoStProof { post_proof: PROOF.window_post(), proof_bytes: vec![0; 192] }],
            chain_commit_epoch: commit_epoch,
            chain_commit_rand: self.client.chain_commit_randomness(commit_epoch, &key).await.unwrap().to_vec(),
        };
        self.send(miner.worker, miner.address, method::SUBMIT_WINDOWED_POST, 0, params.to_cbor()).await;
        true
    }

    pub async fn base_info(&self, miner: &Miner, base: &TipSet, round: Epoch) -> Option<MiningBaseInfo> {
        self.client.miner_get_base_info(&miner.address, round, base.key()).await.unwrap()
    }

    /// What a block of this miner for `round` on top of `base` is made from; none when it does not win.
    pub async fn template(&self, miner: &Miner, base: &TipSet, round: Epoch) -> Option<BlockTemplate> {
        let info = self.base_info(miner, base, round).await?;
        let sign = async |input: [u8; 32]| self.client.wallet_sign(&info.worker_key, &input).await.unwrap().data;
        let vrf_proof = sign(election::election_input(info.beacon(), round, miner.sp)).await;
        let win_count = election::win_count(&vrf_proof, &info.miner_power, &info.network_power);
        let parent_ticket = election::min_ticket(base).unwrap();
        let ticket = sign(election::ticket_input(info.beacon(), round, miner.sp, parent_ticket)).await;
        let delay = (round - base.height) as u64;
        (info.eligible_for_mining && win_count > 0).then(|| BlockTemplate {
            miner: miner.address,
            parents: base.cids.clone(),
            ticket: Ticket { vrf_proof: ticket },
            eproof: ElectionProof { win_count, vrf_proof },
            beacon_values: info.beacon_entries.clone(),
            messages: Vec::new(),
            epoch: round,
            timestamp: base.timestamp() + delay,
            winning_post_proof: vec![curio_chain::types::PoStProof {
                post_proof: PROOF.winning_post(),
                proof_bytes: GOOD_POST.to_vec(),
            }],
        })
    }

    /// A block for the next epoch on top of the head.
    pub async fn block(&self, miner: &Miner) -> BlockMsg {
        let template = self.winning_template(miner).await;
        self.client.miner_create_block(&template).await.unwrap()
    }

    /// What a block for the next epoch on top of the head is made from.
    pub async fn winning_template(&self, miner: &Miner) -> BlockTemplate {
        self.winning_templates(&[*miner]).await.remove(0)
    }

    /// The same of several miners for the same epoch. Epochs that one of them does not win are made by the process.
    pub async fn winning_templates(&self, miners: &[Miner]) -> Vec<BlockTemplate> {
        const ROUNDS: usize = 200;
        for _ in 0..ROUNDS {
            let base = self.head();
            let mut templates = Vec::new();
            for miner in miners {
                templates.extend(self.template(miner, &base, base.height + 1).await);
            }
            if templates.len() == miners.len() {
                return templates;
            }
            self.devnet.advance(1);
        }
        panic!("no epoch was won by all miners");
    }

    /// Signs a header anew after a change.
    pub async fn sign(&self, miner: &Miner, block: &mut BlockMsg) {
        let signature = self.client.wallet_sign(&miner.worker, &block.header.signing_bytes()).await.unwrap();
        block.header.block_sig = Some(signature);
    }

    /// Words with which a block is refused.
    pub async fn refusal(&self, block: &BlockMsg) -> String {
        let error = self.client.sync_submit_block(block).await.expect_err("the block is wrong");
        error.to_string()
    }
}

/// Kinds and heights of a change, such as `revert 3, apply 3, apply 4`.
pub fn told(changes: &[HeadChange]) -> String {
    let words: Vec<String> = changes
        .iter()
        .map(|change| match change {
            HeadChange::Current(tipset) => format!("current {}", tipset.height),
            HeadChange::Applied(tipset) => format!("apply {}", tipset.height),
            HeadChange::Reverted(tipset) => format!("revert {}", tipset.height),
        })
        .collect();
    words.join(", ")
}
