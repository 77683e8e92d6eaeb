//! Messages, signatures, receipts.

use cid::Cid;
use curio_core::Epoch;
use fvm_ipld_encoding::strict_bytes;
use fvm_shared::address::Address;
use fvm_shared::crypto::signature::SignatureType;
use fvm_shared::econ::TokenAmount;
use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::TipSetKey;
use crate::message::{cbor, dag_cbor_cid};
use crate::wire::{self, Json};

/// A call on chain, unsigned. On the wire out it carries its CID; on the way in the CID is ignored
/// and absent members are zero, as in Lotus.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Message {
    #[serde(default)]
    pub version: u64,
    #[serde(with = "wire")]
    pub to: Address,
    #[serde(with = "wire")]
    pub from: Address,
    #[serde(default)]
    pub nonce: u64,
    #[serde(default, with = "wire")]
    pub value: TokenAmount,
    /// Gas units.
    #[serde(default)]
    pub gas_limit: i64,
    /// AttoFIL per gas unit.
    #[serde(default, with = "wire")]
    pub gas_fee_cap: TokenAmount,
    /// AttoFIL per gas unit.
    #[serde(default, with = "wire")]
    pub gas_premium: TokenAmount,
    #[serde(default)]
    pub method: u64,
    /// CBOR of the method's parameters; empty for none.
    #[serde(default, with = "wire")]
    pub params: Vec<u8>,
}

impl Message {
    /// A message whose nonce and gas are still to be filled.
    pub fn new(from: Address, to: Address, method: u64, value: TokenAmount, params: Vec<u8>) -> Message {
        Message {
            version: 0,
            to,
            from,
            nonce: 0,
            value,
            gas_limit: 0,
            gas_fee_cap: TokenAmount::default(),
            gas_premium: TokenAmount::default(),
            method,
            params,
        }
    }

    /// The message's CBOR, which is what the chain stores and whose CID is signed.
    pub fn to_cbor(&self) -> Vec<u8> {
        cbor(&self.tuple())
    }

    /// Reads the message's CBOR.
    pub fn from_cbor(bytes: &[u8]) -> Result<Message, fvm_ipld_encoding::Error> {
        let (version, to, from, nonce, value, gas_limit, gas_fee_cap, gas_premium, method, params) =
            fvm_ipld_encoding::from_slice(bytes)?;
        let strict_bytes::ByteBuf(params) = params;
        Ok(Message { version, to, from, nonce, value, gas_limit, gas_fee_cap, gas_premium, method, params })
    }

    pub fn cid(&self) -> Cid {
        dag_cbor_cid(&self.tuple())
    }

    /// The most that sending this message can cost in fees.
    pub fn max_fee(&self) -> TokenAmount {
        &self.gas_fee_cap * self.gas_limit
    }

    fn tuple(&self) -> impl Serialize + '_ {
        (
            self.version,
            &self.to,
            &self.from,
            self.nonce,
            &self.value,
            self.gas_limit,
            &self.gas_fee_cap,
            &self.gas_premium,
            self.method,
            strict_bytes::ByteBuf(self.params.clone()),
        )
    }
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Message", 11)?;
        out.serialize_field("Version", &self.version)?;
        out.serialize_field("To", &Json(self.to))?;
        out.serialize_field("From", &Json(self.from))?;
        out.serialize_field("Nonce", &self.nonce)?;
        out.serialize_field("Value", &Json(self.value.clone()))?;
        out.serialize_field("GasLimit", &self.gas_limit)?;
        out.serialize_field("GasFeeCap", &Json(self.gas_fee_cap.clone()))?;
        out.serialize_field("GasPremium", &Json(self.gas_premium.clone()))?;
        out.serialize_field("Method", &self.method)?;
        out.serialize_field("Params", &Json(self.params.clone()))?;
        out.serialize_field("CID", &Json(self.cid()))?;
        out.end()
    }
}

/// Signature type numbers on the wire.
pub const SIGNATURE_SECP256K1: u8 = SignatureType::Secp256k1 as u8;
/// See [`SIGNATURE_SECP256K1`].
pub const SIGNATURE_BLS: u8 = SignatureType::BLS as u8;

/// A signature: 65 bytes for secp256k1, 96 for BLS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    #[serde(rename = "Type")]
    pub kind: u8,
    #[serde(rename = "Data", with = "wire")]
    pub data: Vec<u8>,
}

impl Signature {
    /// The form in CBOR: the type's number before the data.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.data.len());
        bytes.push(self.kind);
        bytes.extend_from_slice(&self.data);
        bytes
    }
}

/// A signed message. Its CID is the unsigned message's for BLS and covers the signature otherwise;
/// searching and waiting take this one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct SignedMessage {
    pub message: Message,
    pub signature: Signature,
}

impl SignedMessage {
    pub fn cid(&self) -> Cid {
        match self.signature.kind {
            SIGNATURE_BLS => self.message.cid(),
            _ => dag_cbor_cid(&(self.message.tuple(), strict_bytes::ByteBuf(self.signature.to_bytes()))),
        }
    }

    /// The CBOR as the chain stores it.
    pub fn to_cbor(&self) -> Vec<u8> {
        cbor(&(self.message.tuple(), strict_bytes::ByteBuf(self.signature.to_bytes())))
    }
}

impl Serialize for SignedMessage {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("SignedMessage", 3)?;
        out.serialize_field("Message", &self.message)?;
        out.serialize_field("Signature", &self.signature)?;
        out.serialize_field("CID", &Json(self.cid()))?;
        out.end()
    }
}

/// Result of executing a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Receipt {
    /// 0 is success.
    pub exit_code: i64,
    #[serde(with = "wire")]
    pub r#return: Vec<u8>,
    pub gas_used: i64,
    #[serde(default, with = "wire")]
    pub events_root: Option<Cid>,
}

/// Where a message was executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MsgLookup {
    /// Differs from the CID asked for when a replacement (same content, other gas) was executed.
    #[serde(with = "wire")]
    pub message: Cid,
    pub receipt: Receipt,
    /// The return value decoded by the node for methods it knows, otherwise null.
    #[serde(default)]
    pub return_dec: Value,
    /// The tipset after the one that includes the message: results are in the child.
    pub tip_set: TipSetKey,
    /// Epoch of `tip_set`.
    pub height: Epoch,
}

/// Limits for a gas estimate. Zero `max_fee` leaves the node's default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MessageSendSpec {
    #[serde(default, with = "wire")]
    pub max_fee: TokenAmount,
    /// The same id again gives the very same signed message from `MpoolPushMessage`; all zero for none.
    #[serde(default = "no_uuid")]
    pub msg_uuid: String,
    #[serde(default)]
    pub maximize_fee_cap: bool,
}

impl Default for MessageSendSpec {
    fn default() -> MessageSendSpec {
        MessageSendSpec { max_fee: TokenAmount::default(), msg_uuid: no_uuid(), maximize_fee_cap: false }
    }
}

fn no_uuid() -> String {
    NO_UUID.to_owned()
}

/// The `MsgUuid` that means none.
pub const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";

/// Who paid how much for the gas of a message, in attoFIL but for `gas_used`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct MsgGasCost {
    #[serde(with = "wire")]
    pub message: Option<Cid>,
    #[serde(with = "wire")]
    pub gas_used: num_bigint::BigInt,
    #[serde(with = "wire")]
    pub base_fee_burn: TokenAmount,
    #[serde(with = "wire")]
    pub over_estimation_burn: TokenAmount,
    #[serde(with = "wire")]
    pub miner_penalty: TokenAmount,
    #[serde(with = "wire")]
    pub miner_tip: TokenAmount,
    #[serde(with = "wire")]
    pub refund: TokenAmount,
    #[serde(with = "wire")]
    pub total_cost: TokenAmount,
}

/// Result of `StateCall`: a message executed on top of a tipset without being sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct InvocResult {
    #[serde(with = "wire")]
    pub msg_cid: Cid,
    pub msg: Message,
    pub msg_rct: Receipt,
    pub gas_cost: MsgGasCost,
    /// The node's own trace, kept as it comes.
    pub execution_trace: Value,
    /// Empty when the exit code is 0.
    pub error: String,
    /// Nanoseconds.
    pub duration: i64,
}
