//! Blocks: headers, message lists and receipts in the form in which Lotus stores them, so that their
//! CIDs are real and `ChainReadObj` answers what a node would.

use std::time::Duration;

use bls_signatures::Serialize as _;
use cid::Cid;
use curio_chain::message::{RandomnessTag, draw_randomness_from_digest};
use curio_chain::types::{BlockHeader, ElectionProof, PoStProof, SIGNATURE_BLS, Signature, SignedMessage, Ticket};
use curio_core::Epoch;
use fil_actors_shared::v18::fvm_ipld_amt::Amtv0;
use fvm_ipld_blockstore::Blockstore;
use fvm_ipld_encoding::strict_bytes::ByteBuf;
use fvm_shared::address::Address;
use fvm_shared::clock::ChainEpoch;
use fvm_shared::econ::TokenAmount;
use multihash_codetable::Code;

use super::{Tip, beacon};
use crate::store::Store;
use crate::vm::Receipt;

/// What a block adds to the weight of its chain.
pub const WEIGHT_PER_BLOCK: u32 = 7_296;
/// The actor that blocks name as their miner: the system actor. This chain has no block producers;
/// its process makes the blocks.
pub const PRODUCER: Address = Address::new_id(0);
/// Wins that a block claims: the expected number of leaders.
const WIN_COUNT: i64 = 5;

/// Makes headers.
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

    /// Blocks from now on belong to another fork.
    pub fn fork(&mut self) {
        self.fork += 1;
    }

    /// Ticket of the genesis block.
    pub fn genesis_ticket(&self) -> Ticket {
        Ticket { vrf_proof: beacon::blake2b(&self.key.public_key().as_bytes()).to_vec() }
    }

    /// Seconds since 1970 at which an epoch begins.
    pub fn timestamp(&self, height: ChainEpoch) -> u64 {
        let passed = u128::from(height.unsigned_abs()) * self.block_time.as_millis() / 1000;
        self.genesis_timestamp + u64::try_from(passed).unwrap_or(u64::MAX)
    }

    /// The signed header of the block on top of `parent`.
    pub fn header(
        &self,
        parent: &Tip,
        height: ChainEpoch,
        messages: &[SignedMessage],
        store: &Store,
        base_fee: &TokenAmount,
    ) -> BlockHeader {
        let ticket = self.ticket(height);
        let mut header = BlockHeader {
            miner: PRODUCER,
            election_proof: Some(ElectionProof { win_count: WIN_COUNT, vrf_proof: ticket.vrf_proof.clone() }),
            ticket: Some(ticket),
            beacon_entries: (parent.height + 1..=height).map(beacon::entry).collect(),
            win_post_proof: vec![PoStProof { post_proof: 0, proof_bytes: b"valid proof".to_vec() }],
            parents: parent.key().clone(),
            parent_weight: parent.weight.clone(),
            height: Epoch(height),
            parent_state_root: parent.after_root,
            parent_message_receipts: parent.receipts_root,
            messages: store_messages(store, messages),
            bls_aggregate: Some(aggregate(messages)),
            timestamp: self.timestamp(height),
            block_sig: None,
            fork_signaling: 0,
            parent_base_fee: base_fee.clone(),
        };
        let signature = self.key.sign(header_bytes(&header, false));
        header.block_sig = Some(Signature { kind: SIGNATURE_BLS, data: signature.as_bytes() });
        header
    }

    /// A signature over the epoch's randomness, as a VRF proof is, by the process's own key. It depends
    /// on seed, fork and height only, so tickets repeat from run to run whatever the clock says.
    fn ticket(&self, height: ChainEpoch) -> Ticket {
        let tag = RandomnessTag::TicketProduction.number();
        let entropy = self.fork.to_be_bytes();
        let randomness = draw_randomness_from_digest(&beacon::digest(height), tag, Epoch(height), &entropy);
        Ticket { vrf_proof: self.key.sign(randomness).as_bytes() }
    }
}

/// Aggregate of the BLS messages' signatures; the point at infinity for none.
fn aggregate(messages: &[SignedMessage]) -> Signature {
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
    put_bytes(store, &cid, &header_bytes(header, true));
    cid
}

/// CBOR of a header, with or without the block's own signature.
fn header_bytes(header: &BlockHeader, signed: bool) -> Vec<u8> {
    let bytes = |bytes: &[u8]| ByteBuf(bytes.to_vec());
    let beacon_entries: Vec<_> = header.beacon_entries.iter().map(|entry| (entry.round, bytes(&entry.data))).collect();
    let win_post_proof: Vec<_> =
        header.win_post_proof.iter().map(|proof| (proof.post_proof, bytes(&proof.proof_bytes))).collect();
    let block_sig = header.block_sig.as_ref().filter(|_| signed).map(|signature| bytes(&signature.to_bytes()));
    let tuple = (
        &header.miner,
        header.ticket.as_ref().map(|ticket| (bytes(&ticket.vrf_proof),)),
        header.election_proof.as_ref().map(|proof| (proof.win_count, bytes(&proof.vrf_proof))),
        beacon_entries,
        win_post_proof,
        &header.parents.0,
        TokenAmount::from_atto(header.parent_weight.clone()),
        header.height,
        header.parent_state_root,
        header.parent_message_receipts,
        header.messages,
        header.bls_aggregate.as_ref().map(|signature| bytes(&signature.to_bytes())),
        header.timestamp,
        block_sig,
        header.fork_signaling,
        &header.parent_base_fee,
    );
    fvm_ipld_encoding::to_vec(&tuple).expect("integers, bytes, CIDs and addresses always encode")
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
