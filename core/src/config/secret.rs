//! References to secrets. A layer lies in a database that many can read, so it names where a secret is
//! and never holds it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::schema::{Described, Shape, mismatch};

/// Where a secret is. Resolved by the runner, which reads environment and files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum SecretRef {
    /// Nowhere: written as the empty text.
    #[default]
    Unset,
    /// In an environment variable of the runner.
    Env(String),
    /// In a file, without surrounding white space.
    File(PathBuf),
}

/// A chain node: a plain address, or a reference to `TOKEN:ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ChainApi {
    /// An address without a token.
    Plain(String),
    /// Where `TOKEN:ADDRESS` is.
    Secret(SecretRef),
}

/// The text is no reference. It may be a secret, so it is not repeated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSecretError {
    #[error("is not a reference to a secret; write env:NAME or file:/path")]
    NoReference,
    #[error("holds a token in clear text")]
    ClearText,
}

const EXPECTED_SECRET: &str = "a reference to a secret: \"env:NAME\" or \"file:/path\"";
const EXPECTED_CHAIN: &str = "a list of addresses of chain nodes, or of references: \"env:NAME\" or \"file:/path\"";

/// The rest of the sentence for a secret in a layer. It does not repeat the value.
const CLEAR_TEXT: &str = "holds a secret in clear text, and layers can be read by everyone who reads the \
     database; put the secret into a file or an environment variable and write \"file:/path\" or \"env:NAME\" here";

impl FromStr for SecretRef {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<SecretRef, ParseSecretError> {
        if text.is_empty() {
            return Ok(SecretRef::Unset);
        }
        if let Some(name) = text.strip_prefix("env:") {
            let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            return if is_name { Ok(SecretRef::Env(name.to_owned())) } else { Err(ParseSecretError::NoReference) };
        }
        match text.strip_prefix("file:") {
            Some(path) if path.starts_with('/') => Ok(SecretRef::File(PathBuf::from(path))),
            _ => Err(ParseSecretError::NoReference),
        }
    }
}

impl FromStr for ChainApi {
    type Err = ParseSecretError;

    fn from_str(text: &str) -> Result<ChainApi, ParseSecretError> {
        if text.starts_with("env:") || text.starts_with("file:") {
            return text.parse().map(ChainApi::Secret);
        }
        let is_address = ["http://", "https://", "ws://", "wss://", "/ip4/", "/ip6/", "/dns"]
            .iter()
            .any(|scheme| text.starts_with(scheme));
        // A user, a password or a query in an address is a secret as well.
        if is_address && !text.contains(['@', '?']) {
            Ok(ChainApi::Plain(text.to_owned()))
        } else {
            Err(ParseSecretError::ClearText)
        }
    }
}

impl TryFrom<String> for SecretRef {
    type Error = ParseSecretError;

    fn try_from(text: String) -> Result<SecretRef, ParseSecretError> {
        text.parse()
    }
}

impl TryFrom<String> for ChainApi {
    type Error = ParseSecretError;

    fn try_from(text: String) -> Result<ChainApi, ParseSecretError> {
        text.parse()
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SecretRef::Unset => Ok(()),
            SecretRef::Env(name) => write!(f, "env:{name}"),
            SecretRef::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl fmt::Display for ChainApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChainApi::Plain(address) => f.write_str(address),
            ChainApi::Secret(reference) => reference.fmt(f),
        }
    }
}

impl From<SecretRef> for String {
    fn from(reference: SecretRef) -> String {
        reference.to_string()
    }
}

impl From<ChainApi> for String {
    fn from(api: ChainApi) -> String {
        api.to_string()
    }
}

impl Described for SecretRef {
    fn shape() -> Shape {
        fn check(value: &toml::Value) -> Result<(), String> {
            let Some(text) = value.as_str() else { return Err(mismatch(EXPECTED_SECRET, value)) };
            text.parse::<SecretRef>().map(drop).map_err(|_| CLEAR_TEXT.to_owned())
        }
        Shape::Leaf { expected: EXPECTED_SECRET, check }
    }
}

impl Described for Vec<ChainApi> {
    fn shape() -> Shape {
        fn check(value: &toml::Value) -> Result<(), String> {
            let texts: Option<Vec<&str>> =
                value.as_array().and_then(|list| list.iter().map(toml::Value::as_str).collect());
            // A single text could be a token, so it is not repeated in the sentence.
            let Some(texts) = texts else { return Err(format!("must be {EXPECTED_CHAIN}")) };
            match texts.into_iter().map(str::parse::<ChainApi>).find_map(Result::err) {
                None => Ok(()),
                Some(ParseSecretError::NoReference) => Err(format!("must be {EXPECTED_CHAIN}")),
                Some(ParseSecretError::ClearText) => Err(CLEAR_TEXT.to_owned()),
            }
        }
        Shape::Leaf { expected: EXPECTED_CHAIN, check }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("", SecretRef::Unset)]
    #[case("env:CURIO_SECRET", SecretRef::Env("CURIO_SECRET".to_owned()))]
    #[case("file:/run/secrets/rpc", SecretRef::File(PathBuf::from("/run/secrets/rpc")))]
    fn references_read_back(#[case] text: &str, #[case] reference: SecretRef) {
        assert_eq!(text.parse(), Ok(reference.clone()));
        assert_eq!(reference.to_string(), text);
    }

    #[rstest]
    #[case("c2VjcmV0")]
    #[case("env:")]
    #[case("env:A B")]
    #[case("file:relative")]
    fn a_secret_itself_is_no_reference(#[case] text: &str) {
        assert_eq!(text.parse::<SecretRef>(), Err(ParseSecretError::NoReference));
    }

    #[rstest]
    #[case("http://127.0.0.1:1234", true)]
    #[case("/ip4/127.0.0.1/tcp/1234/http", true)]
    #[case("file:/run/secrets/chain", true)]
    #[case("eyJhbGciOi.J9.x:/ip4/127.0.0.1/tcp/1234/http", false)]
    #[case("eyJhbGciOi.J9.x:http://node:1234", false)]
    #[case("http://user:word@node:1234", false)]
    #[case("http://node:1234/?token=abc", false)]
    fn a_chain_address_is_taken_unless_it_carries_a_token(#[case] text: &str, #[case] taken: bool) {
        assert_eq!(text.parse::<ChainApi>().is_ok(), taken);
    }
}
