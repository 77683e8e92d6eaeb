//! Tipsets, block headers and head changes.

use cid::Cid;
use curio_core::Epoch;
use fvm_ipld_encoding::strict_bytes;
use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;
use num_bigint::BigInt;
use serde::{Deserialize, Serialize};

use super::Signature;
use crate::message::{cbor, dag_cbor_cid};
use crate::wire::{self, LotusJson};

/// Names a tipset by the CIDs of its blocks. The empty key means the head in most calls, but not in
/// `ChainGetTipSet`, `StateGetRandomnessFromTickets`, `MinerGetBaseInfo`, which refuse it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TipSetKey(pub Vec<Cid>);

impl TipSetKey {
    /// The empty key: the head, where the method allows it.
    pub const HEAD: TipSetKey = TipSetKey(Vec::new());

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The CID by which a tipset key is stored (Curio's `executed_tsk_cid`): over the CBOR byte
    /// string of all block CIDs.
    pub fn cid(&self) -> Cid {
        let bytes: Vec<u8> = self.0.iter().flat_map(|cid| cid.to_bytes()).collect();
        dag_cbor_cid(&strict_bytes::ByteBuf(bytes))
    }
}

impl Serialize for TipSetKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.is_empty() {
            true => serializer.serialize_none(),
            false => self.0.write(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for TipSetKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<TipSetKey, D::Error> {
        LotusJson::read(deserializer).map(TipSetKey)
    }
}

impl std::fmt::Display for TipSetKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("{")?;
        for (index, cid) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            cid.fmt(f)?;
        }
        f.write_str("}")
    }
}

/// The blocks of one epoch with the same parents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TipSet {
    pub cids: TipSetKey,
    #[serde(with = "wire::list")]
    pub blocks: Vec<BlockHeader>,
    pub height: Epoch,
}

impl TipSet {
    pub fn key(&self) -> &TipSetKey {
        &self.cids
    }

    /// Key of the tipset below; empty for a tipset without blocks, which no node serves.
    pub fn parents(&self) -> &TipSetKey {
        const NONE: &TipSetKey = &TipSetKey::HEAD;
        self.blocks.first().map_or(NONE, |block| &block.parents)
    }

    /// Seconds since 1970 at which the tipset's epoch began; 0 for a tipset without blocks.
    pub fn timestamp(&self) -> u64 {
        self.blocks.iter().map(|block| block.timestamp).min().unwrap_or(0)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    #[serde(rename = "VRFProof", with = "wire")]
    pub vrf_proof: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ElectionProof {
    #[serde(rename = "WinCount")]
    pub win_count: i64,
    #[serde(rename = "VRFProof", with = "wire")]
    pub vrf_proof: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BeaconEntry {
    pub round: u64,
    #[serde(with = "wire")]
    pub data: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoStProof {
    /// Number of the registered PoSt proof.
    #[serde(rename = "PoStProof")]
    pub post_proof: i64,
    #[serde(rename = "ProofBytes", with = "wire")]
    pub proof_bytes: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockHeader {
    #[serde(with = "wire")]
    pub miner: Address,
    pub ticket: Option<Ticket>,
    pub election_proof: Option<ElectionProof>,
    #[serde(with = "wire::null_list")]
    pub beacon_entries: Vec<BeaconEntry>,
    #[serde(rename = "WinPoStProof", with = "wire::null_list")]
    pub win_post_proof: Vec<PoStProof>,
    pub parents: TipSetKey,
    #[serde(with = "wire")]
    pub parent_weight: BigInt,
    pub height: Epoch,
    #[serde(with = "wire")]
    pub parent_state_root: Cid,
    #[serde(with = "wire")]
    pub parent_message_receipts: Cid,
    #[serde(with = "wire")]
    pub messages: Cid,
    #[serde(rename = "BLSAggregate")]
    pub bls_aggregate: Option<Signature>,
    /// Seconds since 1970.
    pub timestamp: u64,
    pub block_sig: Option<Signature>,
    pub fork_signaling: u64,
    #[serde(with = "wire")]
    pub parent_base_fee: TokenAmount,
}

impl BlockHeader {
    /// The block's own CID, over its CBOR.
    pub fn cid(&self) -> Cid {
        dag_cbor_cid(&self.tuple(self.block_sig.as_ref()))
    }

    /// The CBOR as the chain stores it.
    pub fn to_cbor(&self) -> Vec<u8> {
        cbor(&self.tuple(self.block_sig.as_ref()))
    }

    /// What the worker key signs: the block's CBOR without the signature.
    pub fn signing_bytes(&self) -> Vec<u8> {
        cbor(&self.tuple(None))
    }

    fn tuple(&self, block_sig: Option<&Signature>) -> impl Serialize {
        let bytes = |bytes: &[u8]| strict_bytes::ByteBuf(bytes.to_vec());
        let beacon_entries: Vec<_> =
            self.beacon_entries.iter().map(|entry| (entry.round, bytes(&entry.data))).collect();
        let win_post_proof: Vec<_> =
            self.win_post_proof.iter().map(|proof| (proof.post_proof, bytes(&proof.proof_bytes))).collect();
        (
            &self.miner,
            self.ticket.as_ref().map(|ticket| (bytes(&ticket.vrf_proof),)),
            self.election_proof.as_ref().map(|proof| (proof.win_count, bytes(&proof.vrf_proof))),
            beacon_entries,
            win_post_proof,
            &self.parents.0,
            TokenAmount::from_atto(self.parent_weight.clone()),
            self.height,
            self.parent_state_root,
            self.parent_message_receipts,
            self.messages,
            self.bls_aggregate.as_ref().map(|signature| bytes(&signature.to_bytes())),
            self.timestamp,
            block_sig.map(|signature| bytes(&signature.to_bytes())),
            self.fork_signaling,
            &self.parent_base_fee,
        )
    }
}

/// A tipset joined or left the chain that the node follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "Type", content = "Val")]
pub enum HeadChange {
    /// The head as it is now. The way from the head known before is not told: derive everything anew.
    #[serde(rename = "current")]
    Current(TipSet),
    #[serde(rename = "apply")]
    Applied(TipSet),
    #[serde(rename = "revert")]
    Reverted(TipSet),
}

impl HeadChange {
    pub fn tipset(&self) -> &TipSet {
        match self {
            HeadChange::Current(tipset) | HeadChange::Applied(tipset) | HeadChange::Reverted(tipset) => tipset,
        }
    }
}

/// Messages of one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockMessages {
    #[serde(with = "wire::list")]
    pub bls_messages: Vec<super::Message>,
    #[serde(with = "wire::list")]
    pub secpk_messages: Vec<super::SignedMessage>,
    #[serde(with = "wire")]
    pub cids: Vec<Cid>,
}

/// A message under the CID by which it is searched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CidMessage {
    #[serde(with = "wire")]
    pub cid: Cid,
    pub message: super::Message,
}
