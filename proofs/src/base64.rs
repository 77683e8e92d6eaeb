//! Vanilla proofs in JSON, as base64: a partition of 32 GiB sectors has more than fifty megabytes of
//! them, which in hex would be twice as long.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// For a list of proofs.
pub(crate) mod list {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(proofs: &[Vec<u8>], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(proofs.iter().map(|proof| STANDARD.encode(proof)))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Vec<u8>>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        texts.iter().map(|text| STANDARD.decode(text).map_err(D::Error::custom)).collect()
    }
}

/// For a proof, or the sentence why there is none.
pub(crate) mod outcome {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        outcome: &Result<Vec<u8>, String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        outcome.as_ref().map(|proof| STANDARD.encode(proof)).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Result<Vec<u8>, String>, D::Error> {
        match Result::<String, String>::deserialize(deserializer)? {
            Ok(text) => STANDARD.decode(text).map(Ok).map_err(D::Error::custom),
            Err(sentence) => Ok(Err(sentence)),
        }
    }
}
