//! The first tipset: built-in actors, and one key with money.

use std::sync::Arc;

use curio_chain::types::{BeaconEntry, BlockHeader, ElectionProof, TipSet, TipSetKey};
use curio_core::Epoch;
use fil_actors_shared::v18::STORAGE_POWER_ACTOR_ID;
use fvm_shared::ActorID;
use fvm_shared::bigint::BigInt;
use fvm_shared::econ::TokenAmount;
use num_traits::Zero;

use super::Tip;
use super::block::{self, Block, BlockSource, PRODUCER};
use crate::actors::power;
use crate::network::Network;
use crate::state::StateTree;
use crate::store::Store;
use crate::wallet::{KeyKind, Wallet};

/// Id of the account with the money.
const RICH_ID: ActorID = 100;
/// What it has, in FIL, as on a private Lotus network.
const RICH_FIL: u64 = 50_000_000;

/// State at genesis; makes the wallet's first key, the default address, and gives it the money.
pub(super) fn tree(store: &Store, network: &Network, wallet: &mut Wallet) -> StateTree {
    let mut tree = StateTree::genesis(store, &network.name);
    let rich = wallet.make(KeyKind::Bls);
    tree.add_account(store, rich, Some(RICH_ID));
    if let Some(actor) = tree.actor_mut(RICH_ID) {
        actor.balance = TokenAmount::from_whole(RICH_FIL);
    }
    if let Some(actor) = tree.actor_mut(STORAGE_POWER_ACTOR_ID) {
        actor.head = store.put(&power::State::genesis());
    }
    tree
}

/// The genesis tipset, shaped as Lotus makes it.
pub(super) fn tip(store: &Store, blocks: &BlockSource, mut tree: StateTree, base_fee: &TokenAmount) -> Tip {
    let root = tree.flush(store);
    let receipts_root = block::store_receipts(store, [].iter());
    let header = BlockHeader {
        miner: PRODUCER,
        ticket: Some(blocks.genesis_ticket()),
        election_proof: Some(ElectionProof { win_count: 0, vrf_proof: Vec::new() }),
        beacon_entries: vec![BeaconEntry { round: 0, data: vec![0; 32] }],
        win_post_proof: Vec::new(),
        parents: TipSetKey(vec![block::genesis_parent()]),
        parent_weight: BigInt::zero(),
        height: Epoch(0),
        parent_state_root: root,
        parent_message_receipts: receipts_root,
        messages: block::store_messages(store, &[]),
        bls_aggregate: None,
        timestamp: blocks.genesis_timestamp(),
        block_sig: None,
        fork_signaling: 0,
        parent_base_fee: base_fee.clone(),
    };
    let cid = block::store_header(store, &header);
    let tree = Arc::new(tree);
    Tip {
        tipset: TipSet { cids: TipSetKey(vec![cid]), height: Epoch(0), blocks: vec![header.clone()] },
        blocks: vec![Arc::new(Block { header, cid, messages: Vec::new() })],
        height: 0,
        parent: None,
        messages: Vec::new(),
        before: tree.clone(),
        between: tree.clone(),
        after: tree,
        after_root: root,
        applied: Vec::new(),
        receipts_root,
        weight: BigInt::zero(),
    }
}
