//! A block before and after the node makes it: what it is made from, and whether what came back is that. Pure.

use std::collections::HashSet;

use curio_chain::types::{BlockMsg, BlockTemplate, SIGNATURE_BLS, TipSet, TipSetKey};
use curio_chain::{Address, Cid};

/// The node made something else than it was asked for. It is not submitted: a node remembers the first block for an epoch even
/// when it refuses it, and takes no other.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node made a block whose {0} is not what it was asked for; it is thrown away")]
pub struct Wrong(pub &'static str);

/// Whether a made block is what the template asks for.
///
/// # Errors
/// The first field that differs.
pub fn check(template: &BlockTemplate, block: &BlockMsg) -> Result<(), Wrong> {
    let BlockTemplate { miner, parents, ticket, eproof, beacon_values, messages, epoch, timestamp, winning_post_proof } =
        template;
    let BlockMsg { header, bls_messages, secpk_messages } = block;
    let (bls, others): (Vec<_>, Vec<_>) = messages.iter().partition(|message| message.signature.kind == SIGNATURE_BLS);
    let cids = |messages: &[&curio_chain::types::SignedMessage]| -> Vec<Cid> {
        messages.iter().map(|message| message.cid()).collect()
    };
    let checks = [
        ("miner", header.miner == *miner),
        ("epoch", header.height == *epoch),
        ("list of parents", header.parents == *parents),
        ("timestamp", header.timestamp == *timestamp),
        ("ticket", header.ticket.as_ref() == Some(ticket)),
        ("election proof", header.election_proof.as_ref() == Some(eproof)),
        ("winning PoSt", header.win_post_proof == *winning_post_proof),
        ("list of beacon entries", header.beacon_entries == *beacon_values),
        ("list of messages", *bls_messages == cids(&bls) && *secpk_messages == cids(&others)),
        ("signature", header.block_sig.is_some()),
    ];
    match checks.into_iter().find(|(_, holds)| !holds) {
        Some((field, _)) => Err(Wrong(field)),
        None => Ok(()),
    }
}

/// What is left of a base when the head is looked at once more: blocks that the node has dropped since, because their miner
/// signed two, are dropped here, too. Blocks that came late are not taken in: the election was held without them.
///
/// A block of `miner` itself stays: this miner signs no two, so that its block is missing only from the head of another node,
/// and a block beside it would be a consensus fault.
pub fn without_dropped(base: &TipSet, head: &TipSet, miner: &Address) -> TipSet {
    let still: HashSet<&Cid> = head.cids.0.iter().collect();
    // A head without any of them is another fork, and says nothing about these blocks.
    if head.height != base.height || !base.cids.0.iter().any(|cid| still.contains(cid)) {
        return base.clone();
    }
    let (cids, blocks) = base
        .cids
        .0
        .iter()
        .zip(&base.blocks)
        .filter(|(cid, block)| still.contains(cid) || block.miner == *miner)
        .map(|(cid, block)| (*cid, block.clone()))
        .unzip();
    TipSet { cids: TipSetKey(cids), blocks, height: base.height }
}

#[cfg(test)]
pub(super) mod tests {
    use curio_chain::types::{
        BeaconEntry, BlockHeader, ElectionProof, PoStProof, SIGNATURE_SECP256K1, Signature, SignedMessage, Ticket,
    };
    use curio_chain::{BigInt, TokenAmount};
    use curio_core::Epoch;

    use super::*;

    /// A CID of its own for each number.
    pub(in super::super) fn cid(seed: u8) -> Cid {
        TipSetKey(vec![Cid::default(); usize::from(seed)]).cid()
    }

    fn header(height: i64, timestamp: u64) -> BlockHeader {
        BlockHeader {
            miner: Address::new_id(1000),
            ticket: Some(Ticket { vrf_proof: vec![1] }),
            election_proof: Some(ElectionProof { win_count: 2, vrf_proof: vec![2] }),
            beacon_entries: vec![BeaconEntry { round: 3, data: vec![3] }],
            win_post_proof: vec![PoStProof { post_proof: 0, proof_bytes: vec![4] }],
            parents: TipSetKey(vec![cid(1)]),
            parent_weight: BigInt::from(5),
            height: Epoch(height),
            parent_state_root: cid(0),
            parent_message_receipts: cid(0),
            messages: cid(0),
            bls_aggregate: None,
            timestamp,
            block_sig: Some(Signature { kind: SIGNATURE_BLS, data: vec![6; 96] }),
            fork_signaling: 0,
            parent_base_fee: TokenAmount::from_atto(100),
        }
    }

    /// A tipset of blocks with these CIDs, which are not the hashes of the blocks.
    pub(in super::super) fn tipset(height: i64, timestamp: u64, cids: &[u8]) -> TipSet {
        let blocks = cids.iter().map(|_| header(height, timestamp)).collect();
        TipSet { cids: TipSetKey(cids.iter().map(|seed| cid(*seed)).collect()), blocks, height: Epoch(height) }
    }

    fn message(kind: u8) -> SignedMessage {
        let message = curio_chain::types::Message::new(
            Address::new_id(kind.into()),
            Address::new_id(1000),
            0,
            TokenAmount::default(),
            Vec::new(),
        );
        SignedMessage { message, signature: Signature { kind, data: vec![kind; 65] } }
    }

    fn template() -> BlockTemplate {
        let header = header(12, 1060);
        BlockTemplate {
            miner: header.miner,
            parents: header.parents,
            ticket: header.ticket.expect("it is there"),
            eproof: header.election_proof.expect("it is there"),
            beacon_values: header.beacon_entries,
            messages: vec![message(SIGNATURE_SECP256K1), message(SIGNATURE_BLS)],
            epoch: header.height,
            timestamp: header.timestamp,
            winning_post_proof: header.win_post_proof,
        }
    }

    fn made() -> BlockMsg {
        BlockMsg {
            header: header(12, 1060),
            bls_messages: vec![message(SIGNATURE_BLS).cid()],
            secpk_messages: vec![message(SIGNATURE_SECP256K1).cid()],
        }
    }

    #[test]
    fn the_block_that_was_asked_for_is_taken() {
        assert_eq!(check(&template(), &made()), Ok(()));
    }

    #[test]
    fn every_field_that_differs_is_found() {
        type Change = fn(&mut BlockMsg);
        let table: [(&str, Change); 11] = [
            ("miner", |block| block.header.miner = Address::new_id(7)),
            ("epoch", |block| block.header.height = Epoch(13)),
            ("list of parents", |block| block.header.parents.0.push(cid(7))),
            ("timestamp", |block| block.header.timestamp += 1),
            ("ticket", |block| block.header.ticket = None),
            ("election proof", |block| block.header.election_proof.as_mut().expect("it is there").win_count += 1),
            ("winning PoSt", |block| block.header.win_post_proof[0].proof_bytes[0] ^= 1),
            ("list of beacon entries", |block| block.header.beacon_entries.clear()),
            ("list of messages", |block| block.bls_messages.clear()),
            ("list of messages", |block| block.secpk_messages.push(cid(7))),
            ("signature", |block| block.header.block_sig = None),
        ];
        for (field, change) in table {
            let mut block = made();
            change(&mut block);
            assert_eq!(check(&template(), &block), Err(Wrong(field)));
        }
    }

    #[test]
    fn blocks_that_the_node_dropped_are_dropped_and_no_others() {
        let base = tipset(10, 1000, &[1, 2, 3]);
        let table: [(&[u8], i64, &[u8]); 5] = [
            (&[1, 2, 3], 10, &[1, 2, 3]),
            (&[1, 3], 10, &[1, 3]),
            (&[1, 2, 3, 4], 10, &[1, 2, 3]),
            (&[5], 10, &[1, 2, 3]),
            (&[1], 11, &[1, 2, 3]),
        ];
        for (head, height, kept) in table {
            let left = without_dropped(&base, &tipset(height, 1000, head), &Address::new_id(7));
            assert_eq!(left, tipset(10, 1000, kept), "head {head:?} at {height}");
        }
    }

    /// Once the own block was dropped from the base when the second look was answered by a node that had not received it.
    #[test]
    fn an_own_block_is_never_dropped() {
        let mut base = tipset(10, 1000, &[1, 2, 3]);
        base.blocks[0].miner = Address::new_id(7);
        let table: [(&[u8], &[u8]); 2] = [(&[3], &[1, 3]), (&[5], &[1, 2, 3])];
        for (head, kept) in table {
            let left = without_dropped(&base, &tipset(10, 1000, head), &Address::new_id(7));
            assert_eq!(left.cids, tipset(10, 1000, kept).cids, "head {head:?}");
        }
    }
}
