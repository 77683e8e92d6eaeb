//! The chain itself: tipsets with their states, the head, the message pool, and the clock's only verb,
//! [`Chain::produce`]. One block per tipset; the state before and after every tipset is kept, so any
//! of them can be asked, and a reorganisation is a change of head.

pub mod beacon;
pub mod block;
pub mod estimate;
mod execute;
mod genesis;
pub mod mempool;
pub mod search;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cid::Cid;
use curio_chain::types::{HeadChange, SignedMessage, TipSet, TipSetKey};
use fvm_shared::bigint::BigInt;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use tokio::sync::{mpsc, watch};

use crate::network::{BASE_FEE_ATTO, Network};
use crate::options::Options;
use crate::proof::ProofVerifier;
use crate::state::StateTree;
use crate::store::Store;
use crate::vm::{Applied, Randomness};
use crate::wallet::Wallet;
use block::BlockSource;
use execute::Executed;
use mempool::Mempool;

/// Head changes a follower may be behind before it is dropped.
const FOLLOWER_QUEUE: usize = 1 << 14;

/// A request that the node refuses, in the words of a Lotus node where they are known.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// A tipset and all that follows from it.
pub struct Tip {
    pub tipset: TipSet,
    /// CID of its only block.
    pub cid: Cid,
    pub height: ChainEpoch,
    /// CID of the block below; none for genesis.
    pub parent: Option<Cid>,
    /// In the order of execution: BLS first.
    pub messages: Vec<SignedMessage>,
    /// State that the tipset builds on: what most questions about a tipset are answered from.
    pub before: Arc<StateTree>,
    /// State after the messages, before the end of the epoch.
    pub between: Arc<StateTree>,
    /// State after the epoch.
    pub after: Arc<StateTree>,
    after_root: Cid,
    /// One per message.
    pub applied: Vec<Applied>,
    receipts_root: Cid,
    weight: BigInt,
}

impl Tip {
    pub fn key(&self) -> &TipSetKey {
        &self.tipset.cids
    }

    /// Weight of the chain up to and with this tipset.
    pub fn weight(&self) -> &BigInt {
        &self.weight
    }
}

/// One head change, as every follower sees it.
pub type Changes = Arc<Vec<HeadChange>>;

/// The chain of one process.
pub struct Chain {
    pub network: Network,
    pub store: Store,
    pub wallet: Wallet,
    pub pool: Mempool,
    verifier: Arc<dyn ProofVerifier>,
    blocks: BlockSource,
    tips: HashMap<Cid, Arc<Tip>>,
    /// Blocks of the chain that the head ends, by height.
    main: BTreeMap<ChainEpoch, Cid>,
    head: Arc<Tip>,
    genesis: Arc<Tip>,
    /// Every message ever pushed or included, by the CID it is searched by and by its unsigned CID.
    messages: HashMap<Cid, SignedMessage>,
    followers: Vec<mpsc::Sender<Changes>>,
    height: watch::Sender<ChainEpoch>,
    base_fee: TokenAmount,
}

impl Chain {
    /// A new chain at its genesis.
    pub fn new(options: &Options, genesis_timestamp: u64, verifier: Arc<dyn ProofVerifier>) -> Chain {
        let store = Store::default();
        let network = Network::with_sector_sizes(&options.network_name, &options.sector_sizes);
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
            blocks,
            tips: HashMap::from([(genesis.cid, genesis.clone())]),
            main: BTreeMap::from([(0, genesis.cid)]),
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
        let messages = self.pool.select(&self.head.after);
        let tip = self.extend(&self.head.clone(), null_rounds, messages);
        self.set_head(tip.clone(), vec![HeadChange::Applied(tip.tipset.clone())]);
        tip
    }

    /// Replaces the newest `depth` tipsets by `length` empty ones on another fork. Their messages go
    /// back into the pool. Followers see it as one change.
    ///
    /// # Errors
    /// When the chain is not that deep, or the new fork would not be the heavier one.
    pub fn reorganise(&mut self, depth: usize, length: usize) -> Result<Arc<Tip>, Refused> {
        if depth == 0 || length < depth {
            return Err(Refused("a reorganisation needs a depth of at least 1 and a length not below it".to_owned()));
        }
        let mut changes = Vec::new();
        let mut base = self.head.clone();
        for _ in 0..depth {
            let parent = base.parent.and_then(|cid| self.tips.get(&cid)).cloned();
            let Some(parent) = parent else {
                return Err(Refused(format!("the chain is not {depth} tipsets deep")));
            };
            changes.push(HeadChange::Reverted(base.tipset.clone()));
            for message in &base.messages {
                self.pool.put_back(message.clone());
            }
            base = parent;
        }
        self.blocks.fork();
        let mut tip = base.clone();
        for _ in 0..length {
            tip = self.extend(&tip, 0, Vec::new());
            changes.push(HeadChange::Applied(tip.tipset.clone()));
        }
        self.main.split_off(&(base.height + 1));
        self.set_head(tip.clone(), changes);
        Ok(tip)
    }

    fn extend(&mut self, parent: &Arc<Tip>, null_rounds: u32, messages: Vec<SignedMessage>) -> Arc<Tip> {
        let height = parent.height + 1 + ChainEpoch::from(null_rounds);
        let executed = self.execute(parent, height, &messages);
        let header = self.blocks.header(parent, height, &messages, &self.store, &self.base_fee);
        let cid = block::store_header(&self.store, &header);
        let Executed { between, mut after, applied } = executed;
        let after_root = after.flush(&self.store);
        let receipts_root = block::store_receipts(&self.store, applied.iter().map(|applied| &applied.receipt));
        let tip = Arc::new(Tip {
            tipset: TipSet { cids: TipSetKey(vec![cid]), height: curio_core::Epoch(height), blocks: vec![header] },
            cid,
            height,
            parent: Some(parent.cid),
            messages,
            before: parent.after.clone(),
            between: Arc::new(between),
            after: Arc::new(after),
            after_root,
            applied,
            receipts_root,
            weight: &parent.weight + block::WEIGHT_PER_BLOCK,
        });
        for message in &tip.messages {
            self.remember(message);
        }
        self.tips.insert(cid, tip.clone());
        tip
    }

    fn set_head(&mut self, head: Arc<Tip>, changes: Vec<HeadChange>) {
        let mut tip = Some(head.clone());
        while let Some(current) = tip {
            if self.main.insert(current.height, current.cid) == Some(current.cid) {
                break;
            }
            tip = current.parent.and_then(|cid| self.tips.get(&cid)).cloned();
        }
        self.pool.forget_executed(&head.after);
        self.height.send_replace(head.height);
        self.head = head;
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

    /// The tipset of a block.
    pub fn tip(&self, cid: &Cid) -> Option<&Arc<Tip>> {
        self.tips.get(cid)
    }

    /// The tipset with this key; the head for the empty one.
    ///
    /// # Errors
    /// When there is no such tipset.
    pub fn tip_or_head(&self, key: &TipSetKey) -> Result<Arc<Tip>, Refused> {
        match key.is_empty() {
            true => Ok(self.head.clone()),
            false => self.tip_of_key(key),
        }
    }

    /// The tipset with this key, which must not be empty.
    ///
    /// # Errors
    /// When there is no such tipset.
    pub fn tip_of_key(&self, key: &TipSetKey) -> Result<Arc<Tip>, Refused> {
        let Some(first) = key.0.first() else {
            return Err(Refused("NewTipSet called with zero length array of blocks".to_owned()));
        };
        let mut tips = Vec::new();
        for cid in &key.0 {
            let tip = self.tip(cid).ok_or_else(|| Refused(format!("get block {cid}: ipld: could not find {cid}")))?;
            tips.push(tip);
        }
        match tips.iter().any(|tip| tip.cid != *first) {
            true => Err(Refused("cannot create tipset with mismatching heights".to_owned())),
            false => Ok(tips[0].clone()),
        }
    }

    /// The tipset at a height below `from`; for a null round the one before it, or the one after it.
    ///
    /// # Errors
    /// When the height is negative or above `from`.
    pub fn at_height(&self, height: ChainEpoch, from: &Arc<Tip>, after: bool) -> Result<Arc<Tip>, Refused> {
        if height < 0 {
            return Err(Refused(format!("height {height} is negative")));
        }
        if height > from.height {
            return Err(Refused(format!(
                "looking for tipset with height greater than start point, req: {height}, head: {}",
                from.height
            )));
        }
        Ok(match after {
            false => self.below(from, height),
            true => self.above(from, height),
        })
    }

    /// The newest tipset at or below a height, seen from `from`.
    fn below(&self, from: &Arc<Tip>, height: ChainEpoch) -> Arc<Tip> {
        if self.on_main(from) {
            let found = self.main.range(..=height.min(from.height)).next_back();
            return found.and_then(|(_, cid)| self.tips.get(cid)).unwrap_or(&self.genesis).clone();
        }
        let mut tip = from.clone();
        while tip.height > height {
            let Some(parent) = tip.parent.and_then(|cid| self.tips.get(&cid)) else { break };
            tip = parent.clone();
        }
        tip
    }

    /// The oldest tipset at or above a height, seen from `from`.
    fn above(&self, from: &Arc<Tip>, height: ChainEpoch) -> Arc<Tip> {
        let mut tip = from.clone();
        if self.on_main(from) {
            let found = self.main.range(height..).next();
            return found.and_then(|(_, cid)| self.tips.get(cid)).cloned().unwrap_or(tip);
        }
        while let Some(parent) = tip.parent.and_then(|cid| self.tips.get(&cid)) {
            if parent.height < height {
                break;
            }
            tip = parent.clone();
        }
        tip
    }

    fn on_main(&self, tip: &Tip) -> bool {
        self.main.get(&tip.height) == Some(&tip.cid)
    }

    /// The way from one tipset to another: reverts newest first, then applies oldest first.
    pub fn path(&self, from: &Arc<Tip>, to: &Arc<Tip>) -> Vec<HeadChange> {
        let (mut left, mut right) = (from.clone(), to.clone());
        let (mut reverts, mut applies) = (Vec::new(), Vec::new());
        let parent = |tip: &Arc<Tip>| tip.parent.and_then(|cid| self.tips.get(&cid)).cloned();
        while left.cid != right.cid {
            if left.height >= right.height {
                reverts.push(HeadChange::Reverted(left.tipset.clone()));
                let Some(next) = parent(&left) else { break };
                left = next;
            } else {
                applies.push(HeadChange::Applied(right.tipset.clone()));
                let Some(next) = parent(&right) else { break };
                right = next;
            }
        }
        reverts.extend(applies.into_iter().rev());
        reverts
    }

    /// Digest of the ticket that holds at an epoch, seen from a tipset.
    pub fn ticket_digest(&self, from: &Arc<Tip>, epoch: ChainEpoch) -> [u8; 32] {
        let tip = self.below(from, epoch.max(0));
        let ticket = tip.tipset.blocks.first().and_then(|block| block.ticket.as_ref());
        beacon::blake2b(ticket.map_or(&[], |ticket| &ticket.vrf_proof))
    }
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
}
