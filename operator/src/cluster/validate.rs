//! Judges a CurioCluster's layers by the configuration that runners read: objects of the spec become the
//! TOML documents that are stored, or one sentence says what is wrong.

use curio_core::config::layers::{Layer, LayerError, merge};
use serde_json::Value;

use crate::api::CurioClusterSpec;
use crate::api::common::ConfigObject;
use crate::api::conditions::reason;

/// A layer as it is to stand in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerText {
    pub title: String,
    /// TOML.
    pub text: String,
}

/// A layer that runners would refuse. Nothing is written then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub reason: &'static str,
    pub message: String,
}

/// The layers of a spec by name.
///
/// # Errors
/// Every layer's first mistake.
pub fn layers(spec: &CurioClusterSpec) -> Result<Vec<LayerText>, Refusal> {
    let mut valid = Vec::new();
    let mut refusals: Vec<Refusal> = Vec::new();
    for (title, object) in &spec.layers {
        match layer(title, object) {
            Ok(layer) => valid.push(layer),
            Err(refusal) => refusals.push(refusal),
        }
    }
    match refusals.first() {
        None => Ok(valid),
        Some(first) => {
            let reason = first.reason;
            let messages: Vec<String> = refusals.into_iter().map(|refusal| refusal.message).collect();
            Err(Refusal { reason, message: messages.join("; ") })
        }
    }
}

/// One object as a layer that runners accept.
///
/// # Errors
/// The first key or value that they would not.
pub fn layer(title: &str, object: &ConfigObject) -> Result<LayerText, Refusal> {
    if let Some(path) = object.iter().find_map(|(key, value)| null_in(key, value)) {
        let message = format!("{path} in layer '{title}' has no value; give it one, or leave it out");
        return Err(Refusal { reason: reason::INVALID_VALUE, message });
    }
    let text = toml::to_string(object).map_err(|error| Refusal {
        reason: reason::INVALID_VALUE,
        message: format!("layer '{title}' cannot be written as TOML: {error}"),
    })?;
    match merge(&[Layer::new(title, &text)]) {
        Ok(_) => Ok(LayerText { title: title.to_owned(), text }),
        Err(error) => Err(refusal(&error)),
    }
}

/// Path of the first null, which TOML does not have.
fn null_in(path: &str, value: &Value) -> Option<String> {
    match value {
        Value::Null => Some(path.to_owned()),
        Value::Object(object) => object.iter().find_map(|(key, value)| null_in(&format!("{path}.{key}"), value)),
        Value::Array(values) => {
            values.iter().enumerate().find_map(|(index, value)| null_in(&format!("{path}[{index}]"), value))
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

fn refusal(error: &LayerError) -> Refusal {
    let reason = match error {
        LayerError::UnknownKey { .. } => reason::UNKNOWN_KEY,
        LayerError::Syntax { .. } | LayerError::Value { .. } => reason::INVALID_VALUE,
    };
    Refusal { reason, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> ConfigObject {
        match value {
            Value::Object(object) => object,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn an_object_becomes_the_document_that_runners_read() {
        let base = object(json!({
            "Subsystems": {"EnableSealSDR": true, "SealSDRMaxTasks": 2},
            "Addresses": [{"MinerAddresses": ["f01000"]}],
            "Seal": {"PollInterval": "500ms"},
        }));
        let layer = layer("base", &base).expect("the layer is right");
        let merged = merge(&[Layer::new("base", &layer.text)]).expect("runners accept it");
        assert_eq!(merged.config.subsystems.seal_sdr_max_tasks, 2);
        assert_eq!(merged.config.addresses[0].miner_addresses, ["f01000"]);
    }

    #[rstest]
    #[case(json!({"Subsystems": {"EnableSealSdr": true}}), "UnknownKey", "did you mean EnableSealSDR?")]
    #[case(json!({"Subsystem": {}}), "UnknownKey", "did you mean Subsystems?")]
    #[case(json!({"Subsystems": {"SealSDRMaxTasks": "two"}}), "InvalidValue", "Subsystems.SealSDRMaxTasks in layer 'base' must be")]
    #[case(json!({"Subsystems": {"SealSDRMaxTasks": null}}), "InvalidValue", "Subsystems.SealSDRMaxTasks in layer 'base' has no value")]
    #[case(json!({"Addresses": [{"MinerAddresses": [null]}]}), "InvalidValue", "Addresses[0].MinerAddresses[0]")]
    #[case(json!({"Apis": {"StorageRPCSecret": "c2VjcmV0"}}), "InvalidValue", "secret in clear text")]
    fn a_wrong_layer_is_refused_in_words(#[case] value: Value, #[case] reason: &str, #[case] words: &str) {
        let refusal = layer("base", &object(value)).expect_err("the layer is wrong");
        assert_eq!(refusal.reason, reason);
        assert!(refusal.message.contains(words), "{}", refusal.message);
    }

    #[test]
    fn the_same_object_gives_the_same_text_whatever_the_order_of_its_keys() {
        let one = object(json!({"Subsystems": {"EnableSealSDR": true, "EnablePoRepProof": true}}));
        let other = object(json!({"Subsystems": {"EnablePoRepProof": true, "EnableSealSDR": true}}));
        assert_eq!(layer("base", &one), layer("base", &other));
    }
}
