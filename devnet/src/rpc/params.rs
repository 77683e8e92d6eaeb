//! Parameters: read strictly, with the words of the Go server where they are short.

use cid::Cid;
use curio_chain::types::{BlockMsg, BlockTemplate, Message, MessageSendSpec, Signature, SignedMessage, TipSetKey};
use curio_chain::wire::Json;
use fvm_ipld_bitfield::BitField;
use fvm_shared::address::Address;
use fvm_shared::econ::TokenAmount;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A parameter that cannot be read: its Go type, and why.
#[derive(Debug)]
pub struct ParamError {
    pub kind: &'static str,
    pub why: String,
}

/// Something that can be a parameter.
pub trait Param: Sized + Send + 'static {
    /// Name of the Go type, for the error text.
    const KIND: &'static str;
    fn read(value: &Value) -> Result<Self, String>;
}

/// The parameters of one method.
pub trait Params: Sized + Send + 'static {
    const COUNT: usize;
    fn read(values: &[Value]) -> Result<Self, ParamError>;
}

fn one<P: Param>(value: &Value) -> Result<P, ParamError> {
    P::read(value).map_err(|why| ParamError { kind: P::KIND, why })
}

impl Params for () {
    const COUNT: usize = 0;

    fn read(_: &[Value]) -> Result<(), ParamError> {
        Ok(())
    }
}

macro_rules! params {
    ($count:literal: $($name:ident $index:tt),+) => {
        impl<$($name: Param),+> Params for ($($name,)+) {
            const COUNT: usize = $count;

            fn read(values: &[Value]) -> Result<Self, ParamError> {
                Ok(($(one::<$name>(&values[$index])?,)+))
            }
        }
    };
}
params!(1: A 0);
params!(2: A 0, B 1);
params!(3: A 0, B 1, C 2);
params!(4: A 0, B 1, C 2, D 3);

/// What Go calls a JSON value.
pub fn go_kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn serde<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    serde_json::from_value(value.clone()).map_err(|error| error.to_string())
}

macro_rules! plain_param {
    ($($type:ty: $kind:literal),+ $(,)?) => {
        $(impl Param for $type {
            const KIND: &'static str = $kind;

            fn read(value: &Value) -> Result<Self, String> {
                serde(value).map_err(|_| {
                    let go = $kind.trim_start_matches('*');
                    format!("json: cannot unmarshal {} into Go value of type {go}", go_kind(value))
                })
            }
        })+
    };
}
plain_param! {
    Option<BlockTemplate>: "**api.BlockTemplate",
    Option<BlockMsg>: "**types.BlockMsg",
    i64: "*abi.ChainEpoch",
    u64: "*uint64",
    u32: "*uint32",
    f64: "*float64",
    bool: "*bool",
    String: "*string",
    Vec<String>: "*[]string",
}

impl Param for Address {
    const KIND: &'static str = "*address.Address";

    fn read(value: &Value) -> Result<Address, String> {
        let text = value.as_str().ok_or("json: cannot unmarshal into address.Address")?;
        curio_chain::address::parse(text).map_err(|_| "unknown address network".to_owned())
    }
}

impl Param for Cid {
    const KIND: &'static str = "*cid.Cid";

    fn read(value: &Value) -> Result<Cid, String> {
        serde::<Json<Cid>>(value).map(|Json(cid)| cid).map_err(|why| format!("invalid cid: {why}"))
    }
}

impl Param for TipSetKey {
    const KIND: &'static str = "*types.TipSetKey";

    fn read(value: &Value) -> Result<TipSetKey, String> {
        serde(value)
    }
}

impl Param for Vec<u8> {
    const KIND: &'static str = "*[]uint8";

    fn read(value: &Value) -> Result<Vec<u8>, String> {
        serde::<Json<Vec<u8>>>(value)
            .map(|Json(bytes)| bytes)
            .map_err(|_| "illegal base64 data at input byte 0".to_owned())
    }
}

/// A filter by sector numbers; null is no filter.
pub struct Sectors(pub Option<BitField>);

impl Param for Sectors {
    const KIND: &'static str = "**bitfield.BitField";

    fn read(value: &Value) -> Result<Sectors, String> {
        serde::<Option<Json<BitField>>>(value).map(|sectors| Sectors(sectors.map(|Json(sectors)| sectors)))
    }
}

impl Param for Signature {
    const KIND: &'static str = "*crypto.Signature";

    fn read(value: &Value) -> Result<Signature, String> {
        serde(value)
    }
}

/// A message as it comes in: absent members are zero, and the receiver may be missing, which is refused later.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LooseMessage {
    #[serde(default)]
    version: u64,
    #[serde(default, with = "curio_chain::wire::undefined_address")]
    to: Option<Address>,
    #[serde(default, with = "curio_chain::wire::undefined_address")]
    from: Option<Address>,
    #[serde(default)]
    nonce: u64,
    #[serde(default, with = "curio_chain::wire")]
    value: TokenAmount,
    #[serde(default)]
    gas_limit: i64,
    #[serde(default, with = "curio_chain::wire")]
    gas_fee_cap: TokenAmount,
    #[serde(default, with = "curio_chain::wire")]
    gas_premium: TokenAmount,
    #[serde(default)]
    method: u64,
    #[serde(default, with = "curio_chain::wire")]
    params: Vec<u8>,
}

/// A message, or the member without which it is none.
pub struct SomeMessage(pub Result<Message, &'static str>);

impl From<LooseMessage> for SomeMessage {
    fn from(loose: LooseMessage) -> SomeMessage {
        let LooseMessage { version, to, from, nonce, value, gas_limit, gas_fee_cap, gas_premium, method, params } =
            loose;
        SomeMessage(match (to, from) {
            (None, _) => Err("To"),
            (_, None) => Err("From"),
            (Some(to), Some(from)) => {
                Ok(Message { version, to, from, nonce, value, gas_limit, gas_fee_cap, gas_premium, method, params })
            }
        })
    }
}

impl Param for SomeMessage {
    const KIND: &'static str = "**types.Message";

    fn read(value: &Value) -> Result<SomeMessage, String> {
        serde::<LooseMessage>(value).map(SomeMessage::from)
    }
}

/// A signed message as it comes in; a missing signature has the type 0.
pub struct SomeSignedMessage(pub Result<SignedMessage, &'static str>);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct LooseSignedMessage {
    message: Option<LooseMessage>,
    signature: Option<Signature>,
}

impl Param for SomeSignedMessage {
    const KIND: &'static str = "**types.SignedMessage";

    fn read(value: &Value) -> Result<SomeSignedMessage, String> {
        let LooseSignedMessage { message, signature } = serde(value)?;
        let signature = signature.unwrap_or(Signature { kind: 0, data: Vec::new() });
        let message = message.map_or(Err("Message"), |message| SomeMessage::from(message).0);
        Ok(SomeSignedMessage(message.map(|message| SignedMessage { message, signature })))
    }
}

/// Limits of a gas estimate; null is none.
pub struct Spec(pub MessageSendSpec);

impl Param for Spec {
    const KIND: &'static str = "**api.MessageSendSpec";

    fn read(value: &Value) -> Result<Spec, String> {
        serde::<Option<MessageSendSpec>>(value).map(|spec| Spec(spec.unwrap_or_default()))
    }
}

/// A pre-commit as far as prices depend on it; the other members may be missing.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct PricedSector {
    pub seal_proof: i64,
}

impl Param for PricedSector {
    const KIND: &'static str = "*miner.SectorPreCommitInfo";

    fn read(value: &Value) -> Result<PricedSector, String> {
        serde(value)
    }
}
