//! The recordings; `fixtures/README.md` says where they come from.

use std::path::PathBuf;

use curio_chain::message::Cbor;
use curio_chain::wire::{Json, LotusJson};
use curio_core::Epoch;
use serde_json::Value;

pub struct Recorded {
    /// `METHOD.CASE`.
    pub name: String,
    pub content: Value,
}

impl Recorded {
    pub fn method(&self) -> &str {
        self.name.split('.').next().unwrap()
    }

    /// The answer's body as it goes over the wire.
    pub fn body(&self) -> String {
        match &self.content["response"] {
            Value::Null => self.content["response_raw"].as_str().unwrap_or("").to_owned(),
            response => response.to_string(),
        }
    }

    pub fn status(&self) -> u16 {
        self.content["http"]["status"].as_u64().unwrap_or(200).try_into().unwrap()
    }
}

/// All recordings of a folder, `rpc` or `messages`, by name.
pub fn all(folder: &str) -> Vec<Recorded> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(folder);
    let mut recorded: Vec<Recorded> = std::fs::read_dir(&path)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let content = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            Recorded { name, content }
        })
        .collect();
    recorded.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!recorded.is_empty());
    recorded
}

pub fn one(folder: &str, name: &str) -> Recorded {
    all(folder).into_iter().find(|recorded| recorded.name == name).unwrap_or_else(|| panic!("no recording {name}"))
}

/// The value of a member in the node's JSON.
pub fn wire<T: LotusJson>(value: &Value) -> T {
    serde_json::from_value::<Json<T>>(value.clone()).unwrap_or_else(|error| panic!("{value}: {error}")).0
}

/// Bytes in decoded parameters, which are written as hex.
pub fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value["hex"].as_str().unwrap()).unwrap()
}

pub fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

pub fn epoch(value: &Value) -> Epoch {
    Epoch(value.as_i64().unwrap())
}

/// The members of a list; none of null.
pub fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// The parameters encode to the recorded bytes, and those decode to the parameters.
pub fn check<P: Cbor + PartialEq + std::fmt::Debug>(name: &str, params: &P, cbor: &str) {
    assert_eq!(hex::encode(params.to_cbor()), cbor, "{name}");
    assert_eq!(&P::from_cbor(&hex::decode(cbor).unwrap()).unwrap(), params, "{name}");
}
