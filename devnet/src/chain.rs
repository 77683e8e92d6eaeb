//! The chain itself: tipsets with their states, the head, the message pool, and the clock's only verb,
//! [`Chain::produce`]. The state before and after every tipset is kept, so any of them can be asked,
//! and a reorganisation is a change of head. Miners' own blocks come in by [`Chain::submit`].

mod base_info;
pub mod beacon;
pub mod block;
pub mod estimate;
mod execute;
mod fork;
mod genesis;
pub mod mempool;
pub mod search;
mod slash_filter;
mod submit;
mod template;
mod tip;
mod validate;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cid::Cid;
use curio_chain::types::{BlockTemplate, HeadChange, SignedMessage, TipSet, TipSetKey};
use fvm_shared::address::Address;
use fvm_shared::bigint::BigInt;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use tokio::sync::{mpsc, watch};

use crate::disputes::Disputes;
use crate::network::{BASE_FEE_ATTO, Network};
use crate::options::Options;
use crate::proof::ProofVerifier;
use crate::store::Store;
use crate::vm::Randomness;
use crate::wallet::Wallet;
use beacon::Beacon;
use block::{Block, BlockSource};
use execute::Executed;
pub use fork::OtherBeacon;
use mempool::Mempool;
use slash_filter::SlashFilter;
pub use tip::Tip;

/// Head changes a follower may be behind before it is dropped.
const FOLLOWER_QUEUE: usize = 1 << 14;

/// A request that the node refuses, in the words of a Lotus node where they are known.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// One head change, as every follower sees it.
pub type Changes = Arc<Vec<HeadChange>>;

/// The chain of one process.
pub struct Chain {
    pub network: Network,
    pub store: Store,
    pub wallet: Wallet,
    pub pool: Mempool,
    verifier: Arc<dyn ProofVerifier>,
    election: Election,
    blocks: BlockSource,
    beacon: Beacon,
    slash_filter: SlashFilter,
    pub disputes: Disputes,
    tips: HashMap<TipSetKey, Arc<Tip>>,
    /// All blocks of all tipsets.
    known: HashMap<Cid, Arc<Block>>,
    /// Blocks of one epoch on the same parents, one of each miner: those of the next tipset there.
    siblings: HashMap<(TipSetKey, ChainEpoch), BTreeMap<Address, Cid>>,
    /// Tipsets of the chain that the head ends, by height.
    main: BTreeMap<ChainEpoch, TipSetKey>,
    head: Arc<Tip>,
    genesis: Arc<Tip>,
    /// Every message ever pushed or included, by the CID it is searched by and by its unsigned CID.
    messages: HashMap<Cid, SignedMessage>,
    followers: Vec<mpsc::Sender<Changes>>,
    height: watch::Sender<ChainEpoch>,
    base_fee: TokenAmount,
}

/// Rules by which blocks are won, besides the network's.
#[derive(Clone, Copy, Debug)]
struct Election {
    /// How many epochs back the power and the sectors of a miner count.
    lookback: ChainEpoch,
    /// Power of everybody who is not on this chain, bytes.
    other_power: u64,
}

impl Chain {
    /// A new chain at its genesis.
    pub fn new(options: &Options, genesis_timestamp: u64, verifier: Arc<dyn ProofVerifier>) -> Chain {
        let store = Store::default();
        let network = Network::of(options);
        let mut wallet = Wallet::new(options.seed);
        let tree = genesis::tree(&store, &network, &mut wallet);
        let blocks = BlockSource::new(options.seed, genesis_timestamp, options.block_time_for_timestamps());
        let base_fee = TokenAmount::from_atto(BASE_FEE_ATTO);
        let genesis = Arc::new(genesis::tip(&store, &blocks, tree, &base_fee));
        Chain {
            network,
            store,
            wallet,
            pool: Mempool::default(),
            verifier,
            election: Election { lookback: options.winning_lookback, other_power: options.other_power },
            blocks,
            beacon: Beacon::default(),
            slash_filter: SlashFilter::default(),
            disputes: Disputes::new(options.disputes),
            tips: HashMap::from([(genesis.key().clone(), genesis.clone())]),
            known: genesis.blocks.iter().map(|block| (block.cid, block.clone())).collect(),
            siblings: HashMap::new(),
            main: BTreeMap::from([(0, genesis.key().clone())]),
            head: genesis.clone(),
            genesis,
            messages: HashMap::new(),
            followers: Vec::new(),
            height: watch::channel(0).0,
            base_fee,
        }
    }

    pub fn head(&self) -> &Arc<Tip> {
        &self.head
    }

    pub fn genesis(&self) -> &Arc<Tip> {
        &self.genesis
    }

    /// Base fee per unit of gas: always the floor.
    pub fn base_fee(&self) -> &TokenAmount {
        &self.base_fee
    }

    /// Seconds since 1970 at which the chain began.
    pub fn genesis_timestamp(&self) -> u64 {
        self.genesis.tipset.timestamp()
    }

    /// Wakes whoever waits for the head to change.
    pub fn heights(&self) -> watch::Receiver<ChainEpoch> {
        self.height.subscribe()
    }

    /// Head changes from now on, with the head as the first one.
    pub fn follow(&mut self) -> mpsc::Receiver<Changes> {
        let (sender, receiver) = mpsc::channel(FOLLOWER_QUEUE);
        let current = Arc::new(vec![HeadChange::Current(self.head.tipset.clone())]);
        if sender.try_send(current).is_ok() {
            self.followers.push(sender);
        }
        receiver
    }

    /// Makes the next tipset, `null_rounds` epochs later than it could be, with all that the pool has
    /// for it.
    pub fn produce(&mut self, null_rounds: u32) -> Arc<Tip> {
        self.add(null_rounds, 0)
    }

    /// Makes the next tipset as the clock does, whose epoch begins no earlier than `now`, in seconds since 1970.
    pub fn produce_at(&mut self, now: u64) -> Arc<Tip> {
        self.add(0, now)
    }

    fn add(&mut self, null_rounds: u32, now: u64) -> Arc<Tip> {
        let parent = self.head.clone();
        let messages = self.pool.select(&parent.after);
        let tip = self.extend(&parent, null_rounds, now, messages);
        self.set_head(tip.clone());
        tip
    }

    /// A tipset of one block of the process's own on top of `parent`. Blocks that miners make for this
    /// epoch later join it.
    fn extend(&mut self, parent: &Arc<Tip>, null_rounds: u32, now: u64, messages: Vec<SignedMessage>) -> Arc<Tip> {
        let height = parent.height + 1 + ChainEpoch::from(null_rounds);
        let entries = (parent.height + 1..=height).map(|epoch| self.beacon.entry(epoch)).collect();
        let template = self.blocks.template(parent, height, now, messages, entries);
        let mut header = block::draft(&template, parent, &self.store, &self.base_fee);
        header.block_sig = Some(self.blocks.sign(&header.signing_bytes()));
        let cid = block::store_header(&self.store, &header);
        let BlockTemplate { miner, messages, .. } = template;
        let block = Arc::new(Block { header, cid, messages });
        self.siblings.insert((parent.key().clone(), height), BTreeMap::from([(miner, cid)]));
        self.form(parent, vec![block])
    }

    /// Executes a tipset of these blocks, which have the same parent and height, and keeps it.
    fn form(&mut self, parent: &Arc<Tip>, mut blocks: Vec<Arc<Block>>) -> Arc<Tip> {
        let key = block::key_of(&mut blocks);
        let height = blocks[0].header.height;
        let messages = execute::in_order(&blocks, &parent.after);
        let Executed { between, mut after, applied } = self.execute(parent, height.0, &messages);
        let after_root = after.flush(&self.store);
        let receipts_root = block::store_receipts(&self.store, applied.iter().map(|applied| &applied.receipt));
        let headers = blocks.iter().map(|block| block.header.clone()).collect();
        let tip = Arc::new(Tip {
            tipset: TipSet { cids: key.clone(), height, blocks: headers },
            weight: &parent.weight + weight(&blocks),
            height: height.0,
            parent: Some(parent.key().clone()),
            messages,
            before: parent.after.clone(),
            between: Arc::new(between),
            after: Arc::new(after),
            after_root,
            applied,
            receipts_root,
            blocks,
        });
        for block in &tip.blocks {
            block.messages.iter().for_each(|message| self.remember(message));
            self.known.insert(block.cid, block.clone());
        }
        self.tips.insert(key, tip.clone());
        tip
    }

    /// Makes a tipset the head, whatever the head was: messages of tipsets that leave the chain go back into
    /// the pool, and followers see it as one change.
    fn set_head(&mut self, head: Arc<Tip>) {
        let changes = self.path(&self.head, &head);
        let reverted = changes.iter().filter(|change| matches!(change, HeadChange::Reverted(_)));
        let reverted: Vec<Arc<Tip>> = reverted.filter_map(|change| self.tip(&change.tipset().cids)).cloned().collect();
        for message in reverted.iter().flat_map(|tip| &tip.messages) {
            self.pool.put_back(message.clone());
        }
        if let Some(lowest) = reverted.last() {
            self.main.split_off(&lowest.height);
        }
        for change in &changes {
            if let HeadChange::Applied(tipset) = change {
                self.main.insert(tipset.height.0, tipset.cids.clone());
            }
        }
        self.pool.forget_executed(&head.after);
        self.height.send_replace(head.height);
        self.head = head;
        self.dispute_bad_posts();
        self.tell(changes);
    }

    fn tell(&mut self, changes: Vec<HeadChange>) {
        let changes = Arc::new(changes);
        self.followers.retain(|follower| match follower.try_send(changes.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!("a follower of the chain was too slow and is dropped");
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        });
    }

    /// Keeps a message so that it can be asked for by CID.
    pub fn remember(&mut self, message: &SignedMessage) {
        block::store_message(&self.store, message);
        self.messages.insert(message.cid(), message.clone());
        self.messages.entry(message.message.cid()).or_insert_with(|| message.clone());
    }

    /// A message by either of its CIDs.
    pub fn message(&self, cid: &Cid) -> Option<&SignedMessage> {
        self.messages.get(cid)
    }
}

/// Binary logarithm of the power that the weight of a block counts: about that of the recorded network. The
/// true one would be nothing on a chain whose miners have no sectors yet.
const LOG2_POWER: u32 = 19;

/// What a tipset of these blocks adds to the weight of its chain, by the formula of the protocol: the power's
/// logarithm once, and in proportion to the wins, half as much for the five that are expected.
fn weight(blocks: &[Arc<Block>]) -> BigInt {
    let wins: i64 = blocks.iter().filter_map(|block| Some(block.header.election_proof.as_ref()?.win_count)).sum();
    let of_power = BigInt::from(LOG2_POWER << 8);
    &of_power + &of_power * wins / 10
}

/// Randomness as messages on top of a tipset see it.
struct Tickets<'a> {
    chain: &'a Chain,
    base: &'a Arc<Tip>,
}

impl Randomness for Tickets<'_> {
    fn ticket_digest(&self, epoch: ChainEpoch) -> [u8; 32] {
        self.chain.ticket_digest(self.base, epoch)
    }

    fn beacon_digest(&self, epoch: ChainEpoch) -> [u8; 32] {
        beacon::blake2b(&self.chain.beacon_entry(self.base, epoch).data)
    }
}
