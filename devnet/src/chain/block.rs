//! Blocks: headers, message lists and receipts in the form in which Lotus stores them, so that their
//! CIDs are real and `ChainReadObj` answers what a node would.

use std::sync::Arc;
use std::time::Duration;

use bls_signatures::Serialize as _;
use cid::Cid;
use curio_chain::message::{RandomnessTag, draw_randomness};
use curio_chain::types::{
    BeaconEntry, BlockHeader, BlockTemplate, ElectionProof, PoStProof, SIGNATURE_BLS, Signature, SignedMessage, Ticket,
    TipSet, TipSetKey,
};
use curio_core::Epoch;
use fil_actors_shared::v18::fvm_ipld_amt::Amtv0;
use fvm_ipld_blockstore::Blockstore;
use fvm_shared::address::Address;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use multihash_codetable::Code;

use super::{Tip, beacon};
use crate::store::Store;
use crate::vm::Receipt;

/// The actor that the process's own blocks name as their miner: the system actor.
pub const PRODUCER: Address = Address::new_id(0);
/// Wins that these blocks claim: the expected number of leaders.
const WIN_COUNT: i64 = 5;
/// What they carry for a winning PoSt, as a private Lotus network without proofs has it.
const NO_PROOF: &[u8] = b"valid proof";

/// A block with its messages.
pub struct Block {
    pub header: BlockHeader,
    pub cid: Cid,
    /// BLS first.
    pub messages: Vec<SignedMessage>,
}

/// Puts blocks into the order of a tipset, the lowest ticket first, and answers the tipset's key.
pub fn key_of(blocks: &mut [Arc<Block>]) -> TipSetKey {
    blocks.sort_by_cached_key(|block| {
        let ticket = block.header.ticket.as_ref().map_or(&[][..], |ticket| &ticket.vrf_proof);
        (beacon::blake2b(ticket), block.cid.to_bytes())
    });
    TipSetKey(blocks.iter().map(|block| block.cid).collect())
}

/// Makes the blocks of epochs that no miner makes a block for.
pub struct BlockSource {
    key: bls_signatures::PrivateKey,
    genesis_timestamp: u64,
    block_time: Duration,
    /// Number of the fork that is built: blocks of different forks differ in their tickets.
    fork: u64,
}

impl BlockSource {
    pub fn new(seed: u64, genesis_timestamp: u64, block_time: Duration) -> BlockSource {
        let mut text = b"curio-devnet producer".to_vec();
        text.extend_from_slice(&seed.to_be_bytes());
        let key = bls_signatures::PrivateKey::new(beacon::blake2b(&text));
        BlockSource { key, genesis_timestamp, block_time, fork: 0 }
    }

    /// Blocks from now on belong to another fork, whose number is answered.
    pub fn fork(&mut self) -> u64 {
        self.fork += 1;
        self.fork
    }

    /// Ticket of the genesis block.
    pub fn genesis_ticket(&self) -> Ticket {
        Ticket { vrf_proof: beacon::blake2b(&self.key.public_key().as_bytes()).to_vec() }
    }

    /// Timestamp of the genesis block, in seconds since 1970.
    pub fn genesis_timestamp(&self) -> u64 {
        self.genesis_timestamp
    }

    /// The timestamp that a miner's block for `height` on top of `parent` must carry, in seconds since 1970: counted from the
    /// parent's, as on the public networks.
    pub fn timestamp(&self, parent: &TipSet, height: ChainEpoch) -> u64 {
        let rounds = u128::from(height.abs_diff(parent.height.0));
        let passed = rounds * self.block_time.as_millis() / 1000;
        parent.timestamp().saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
    }

    /// What the process's own block on top of `parent` is made from. On a chain that is late its epoch begins `now`, in
    /// seconds since 1970: the next miners have their whole time for it.
    pub fn template(
        &self,
        parent: &Tip,
        height: ChainEpoch,
        now: u64,
        messages: Vec<SignedMessage>,
        beacon_values: Vec<BeaconEntry>,
    ) -> BlockTemplate {
        let ticket = self.ticket(height);
        BlockTemplate {
            miner: PRODUCER,
            parents: parent.key().clone(),
            eproof: ElectionProof { win_count: WIN_COUNT, vrf_proof: ticket.vrf_proof.clone() },
            ticket,
            beacon_values,
            messages,
            epoch: Epoch(height),
            timestamp: self.timestamp(&parent.tipset, height).max(now),
            winning_post_proof: vec![PoStProof { post_proof: 0, proof_bytes: NO_PROOF.to_vec() }],
        }
    }

    /// Signature of the process's own blocks.
    pub fn sign(&self, bytes: &[u8]) -> Signature {
        Signature { kind: SIGNATURE_BLS, data: self.key.sign(bytes).as_bytes() }
    }

    /// A signature over the epoch's randomness, as a VRF proof is, by the process's own key. It depends
    /// on seed, fork and height only, so tickets repeat from run to run whatever the clock says.
    fn ticket(&self, height: ChainEpoch) -> Ticket {
        let tag = RandomnessTag::TicketProduction.number();
        let entropy = self.fork.to_be_bytes();
        let entry = beacon::Beacon::default().entry(height);
        let randomness = draw_randomness(&entry.data, tag, Epoch(height), &entropy);
        Ticket { vrf_proof: self.key.sign(randomness).as_bytes() }
    }
}

/// The header of a block from a template, without the signature.
pub fn draft(template: &BlockTemplate, parent: &Tip, store: &Store, base_fee: &TokenAmount) -> BlockHeader {
    let BlockTemplate { miner, parents, ticket, eproof, beacon_values, messages, epoch, timestamp, winning_post_proof } =
        template;
    BlockHeader {
        miner: *miner,
        ticket: Some(ticket.clone()),
        election_proof: Some(eproof.clone()),
        beacon_entries: beacon_values.clone(),
        win_post_proof: winning_post_proof.clone(),
        parents: parents.clone(),
        parent_weight: parent.weight.clone(),
        height: *epoch,
        parent_state_root: parent.after_root,
        parent_message_receipts: parent.receipts_root,
        messages: store_messages(store, messages),
        bls_aggregate: Some(aggregate(messages)),
        timestamp: *timestamp,
        block_sig: None,
        fork_signaling: 0,
        parent_base_fee: base_fee.clone(),
    }
}

/// Aggregate of the BLS messages' signatures; the point at infinity for none.
pub fn aggregate(messages: &[SignedMessage]) -> Signature {
    let signatures: Vec<_> = messages
        .iter()
        .filter(|message| message.signature.kind == SIGNATURE_BLS)
        .filter_map(|message| bls_signatures::Signature::from_bytes(&message.signature.data).ok())
        .collect();
    let data = bls_signatures::aggregate(&signatures).map(|signature| signature.as_bytes()).unwrap_or_else(|_| {
        let mut infinity = vec![0; 96];
        infinity[0] = 0xc0;
        infinity
    });
    Signature { kind: SIGNATURE_BLS, data }
}

/// Stores a header under its CID.
pub fn store_header(store: &Store, header: &BlockHeader) -> Cid {
    let cid = header.cid();
    put_bytes(store, &cid, &header.to_cbor());
    cid
}

/// Stores the lists of a block's messages and answers the CID that the header names.
pub fn store_messages(store: &Store, messages: &[SignedMessage]) -> Cid {
    let (bls, other): (Vec<_>, Vec<_>) = messages.iter().partition(|message| message.signature.kind == SIGNATURE_BLS);
    let list = |messages: Vec<&SignedMessage>| {
        Amtv0::new_from_iter(store, messages.into_iter().map(|message| message.cid()))
            .expect("CIDs encode, and memory does not refuse them")
    };
    store.put(&(list(bls), list(other)))
}

/// Stores receipts and answers the CID that the child's header names.
pub fn store_receipts<'a>(store: &Store, receipts: impl Iterator<Item = &'a Receipt>) -> Cid {
    Amtv0::new_from_iter(store, receipts.cloned()).expect("receipts encode, and memory does not refuse them")
}

/// Stores a message under the CID by which the chain names it.
pub fn store_message(store: &Store, message: &SignedMessage) {
    put_bytes(store, &message.message.cid(), &message.message.to_cbor());
    if message.signature.kind != SIGNATURE_BLS {
        put_bytes(store, &message.cid(), &message.to_cbor());
    }
}

fn put_bytes(store: &Store, cid: &Cid, bytes: &[u8]) {
    store.put_keyed(cid, bytes).expect("memory does not refuse it");
}

/// A CID of bytes that nobody has: the parent that the genesis block names.
pub fn genesis_parent() -> Cid {
    use multihash_codetable::MultihashDigest;
    Cid::new_v1(fvm_ipld_encoding::DAG_CBOR, Code::Sha2_256.digest(b"before the first block of curio-devnet"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The CIDs that every empty block of a Lotus network names (recorded).
    #[test]
    fn empty_lists_have_the_cids_of_a_lotus_node() {
        let store = Store::default();
        let messages = store_messages(&store, &[]);
        assert_eq!(messages.to_string(), "bafy2bzacecmda75ovposbdateg7eyhwij65zklgyijgcjwynlklmqazpwlhba");
        let receipts = store_receipts(&store, [].iter());
        assert_eq!(receipts.to_string(), "bafy2bzacedswlcz5ddgqnyo3sak3jmhmkxashisnlpq6ujgyhe4mlobzpnhs6");
    }
}
