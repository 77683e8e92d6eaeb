//! What a runner is told: the layers of the database merged, and the secrets that they refer to.
//!
//! Reads `harmony_config`, the environment and secret files. Writes nothing.

use std::path::PathBuf;

use curio_chain::{Client, ClientOptions, Endpoint, NewClientError};
use curio_core::config::layers::{self, Effective, Layer};
use curio_core::config::{ChainApi, Config, LayerError, SecretRef};
use curio_harmony::{Db, DbError};

use crate::prove::{Prover, ProverOptions};
use crate::storage::StorageSecret;

/// The layer that is always first.
pub const BASE_LAYER: &str = "base";

/// Environment variable that wins over `Apis.ChainApiInfo`.
pub const CHAIN_VARIABLE: &str = "FULLNODE_API_INFO";

/// The settings cannot be used. Each is one sentence that says what to do and holds no secret.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("failed to read the configuration layers")]
    Db(#[from] DbError),
    #[error(
        "there is no configuration layer '{name}'{}; existing layers: {}",
        suggestion.as_ref().map(|name| format!("; did you mean '{name}'?")).unwrap_or_default(),
        existing.join(", ")
    )]
    MissingLayer { name: String, suggestion: Option<String>, existing: Vec<String> },
    #[error("{0}; correct it with `curio config set {layer} FILE`", layer = layer_of(.0))]
    Layer(#[from] LayerError),
    #[error("no chain node is configured; set {CHAIN_VARIABLE} to TOKEN:ADDRESS, or Apis.ChainApiInfo in a layer")]
    NoChain,
    #[error("{origin}: {reason}")]
    ChainAddress { origin: String, reason: String },
    #[error("failed to find the file of this program, which is started anew for proofs")]
    Binary(#[source] std::io::Error),
    #[error("failed to make the client of the chain node")]
    ChainClient(#[from] NewClientError),
    #[error("{key} refers to the environment variable {name}, which is not set")]
    NoVariable { key: &'static str, name: String },
    #[error("{key} refers to the file {}, which cannot be read: {cause}", path.display())]
    File { key: &'static str, path: PathBuf, cause: String },
    #[error("Apis.StorageRPCSecret refers to something that is not the base64 of at least 32 bytes: {cause}")]
    StorageSecret { cause: String },
}

fn layer_of(error: &LayerError) -> &str {
    match error {
        LayerError::Syntax { layer, .. } | LayerError::UnknownKey { layer, .. } | LayerError::Value { layer, .. } => {
            layer
        }
    }
}

/// Reads and merges `base` and the named layers, in this order. A cluster without `base` has the defaults.
///
/// # Errors
/// A layer that is not there or is wrong; database trouble.
pub async fn load(db: &Db, names: &[String]) -> Result<Effective, SettingsError> {
    Ok(layers::merge(&stack(db, names).await?)?)
}

/// The documents of `base` and the named layers.
///
/// # Errors
/// A layer that is not there; database trouble.
pub async fn stack(db: &Db, names: &[String]) -> Result<Vec<Layer>, SettingsError> {
    let mut stack = Vec::with_capacity(names.len() + 1);
    let base = curio_harmony::layers::get(db, BASE_LAYER).await?;
    stack.push(Layer::new(BASE_LAYER, base.map(|layer| layer.config).unwrap_or_default()));
    for name in names.iter().filter(|name| *name != BASE_LAYER) {
        match curio_harmony::layers::get(db, name).await? {
            Some(layer) => stack.push(Layer::new(name.as_str(), layer.config)),
            None => return Err(missing_layer(db, name).await?),
        }
    }
    Ok(stack)
}

/// The error for a layer that is not there, with the nearest name that is.
///
/// # Errors
/// Database trouble.
pub async fn missing_layer(db: &Db, name: &str) -> Result<SettingsError, DbError> {
    let existing: Vec<String> = curio_harmony::layers::list(db).await?.into_iter().map(|layer| layer.title).collect();
    Ok(SettingsError::MissingLayer { name: name.to_owned(), suggestion: nearest(name, &existing), existing })
}

/// The existing name most like `name`, when there is one that is rather alike.
fn nearest(name: &str, existing: &[String]) -> Option<String> {
    existing
        .iter()
        .map(|other| (strsim::normalized_damerau_levenshtein(name, other), other))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, other)| other.clone())
}

/// Where secrets are looked up: the process, or a table in tests.
pub trait Surroundings {
    /// An environment variable, if it is set and not empty.
    fn variable(&self, name: &str) -> Option<String>;
    /// The text of a file.
    fn file(&self, path: &std::path::Path) -> std::io::Result<String>;
}

/// This process' environment and file system.
pub struct Process;

impl Surroundings for Process {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.trim().is_empty())
    }

    fn file(&self, path: &std::path::Path) -> std::io::Result<String> {
        std::fs::read_to_string(path)
    }
}

/// The chain nodes to use, in order of preference: those of the environment, else those of the layers.
///
/// # Errors
/// No node at all, a reference that leads nowhere, or text that is no address. The text is not
/// repeated, because it may hold a token.
pub fn chain_endpoints(config: &Config, from: &impl Surroundings) -> Result<Vec<Endpoint>, SettingsError> {
    const KEY: &str = "Apis.ChainApiInfo";
    if let Some(text) = from.variable(CHAIN_VARIABLE) {
        return parse_endpoints(&text, CHAIN_VARIABLE);
    }
    let mut endpoints = Vec::new();
    for api in &config.apis.chain_api_info {
        match api {
            ChainApi::Plain(address) => endpoints.extend(parse_endpoints(address, &format!("{KEY} ({address})"))?),
            ChainApi::Secret(reference) => {
                if let Some(text) = resolve(KEY, reference, from)? {
                    endpoints.extend(parse_endpoints(&text, &format!("what {KEY} refers to by {reference}"))?);
                }
            }
        }
    }
    if endpoints.is_empty() { Err(SettingsError::NoChain) } else { Ok(endpoints) }
}

/// Who waits for the answers of a chain node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Has time, and nobody who would ask again.
    Runner,
    /// Is told after one try, and asks again.
    Person,
}

/// A client of the configured chain nodes. Connects to nothing.
///
/// # Errors
/// As [`chain_endpoints`].
pub fn chain_client(config: &Config, from: &impl Surroundings, asker: Asker) -> Result<Client, SettingsError> {
    let usual = ClientOptions::default();
    let rounds = match asker {
        Asker::Runner => usual.rounds,
        Asker::Person => 1,
    };
    let options = ClientOptions { attempt_timeout: config.chain.request_timeout.get(), rounds, ..usual };
    Ok(Client::new(chain_endpoints(config, from)?, options)?)
}

/// The prover of this machine: children of this very binary, with the parameter folder of
/// `FIL_PROOFS_PARAMETER_CACHE` and the parent cache of `FIL_PROOFS_PARENT_CACHE`, else folders in the
/// user's cache.
///
/// # Errors
/// The binary of this process cannot be found.
pub fn prover() -> Result<Prover, SettingsError> {
    let parameters = curio_proofs::params::default_dir();
    let parents = Process
        .variable("FIL_PROOFS_PARENT_CACHE")
        .map_or_else(|| parameters.with_file_name("filecoin-parents"), PathBuf::from);
    let options = ProverOptions::of_this_binary(parameters, parents, std::env::temp_dir());
    Ok(Prover::new(options.map_err(SettingsError::Binary)?))
}

fn parse_endpoints(text: &str, origin: &str) -> Result<Vec<Endpoint>, SettingsError> {
    text.split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| {
            // The reason tells what is wrong with the form and holds nothing of the text.
            Endpoint::parse(part)
                .map_err(|error| SettingsError::ChainAddress { origin: origin.to_owned(), reason: error.to_string() })
        })
        .collect()
}

/// The secret that runners share; none when no layer refers to one.
///
/// # Errors
/// A reference that leads nowhere, or to something that is no such secret.
pub fn storage_secret(config: &Config, from: &impl Surroundings) -> Result<Option<StorageSecret>, SettingsError> {
    let text = resolve("Apis.StorageRPCSecret", &config.apis.storage_rpc_secret, from)?;
    text.map(|text| {
        StorageSecret::from_base64(&text).map_err(|error| SettingsError::StorageSecret { cause: error.to_string() })
    })
    .transpose()
}

fn resolve(
    key: &'static str,
    reference: &SecretRef,
    from: &impl Surroundings,
) -> Result<Option<String>, SettingsError> {
    match reference {
        SecretRef::Unset => Ok(None),
        SecretRef::Env(name) => match from.variable(name) {
            Some(value) => Ok(Some(value.trim().to_owned())),
            None => Err(SettingsError::NoVariable { key, name: name.clone() }),
        },
        SecretRef::File(path) => match from.file(path) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) => Err(SettingsError::File { key, path: path.clone(), cause: error.to_string() }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[derive(Default)]
    struct Given {
        variables: HashMap<&'static str, &'static str>,
        files: HashMap<&'static str, &'static str>,
    }

    impl Surroundings for Given {
        fn variable(&self, name: &str) -> Option<String> {
            self.variables.get(name).map(|value| (*value).to_owned())
        }

        fn file(&self, path: &std::path::Path) -> std::io::Result<String> {
            let text = path.to_str().and_then(|path| self.files.get(path));
            text.map(|text| (*text).to_owned()).ok_or_else(|| std::io::ErrorKind::NotFound.into())
        }
    }

    fn config(apis: &str) -> Config {
        layers::merge(&[Layer::new("base", format!("[Apis]\n{apis}"))]).expect("the layer is right").config
    }

    #[tokio::test]
    async fn a_node_that_says_nothing_is_asked_once_for_a_person_and_again_for_a_runner() {
        for (asker, rounds) in [(Asker::Person, 1), (Asker::Runner, ClientOptions::default().rounds)] {
            // Connections are taken by the system and answered by nobody.
            let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            let address = silent.local_addr().expect("an address");
            let config = config(&format!("ChainApiInfo = ['http://{address}']\n[Chain]\nRequestTimeout = '50ms'"));
            let chain = chain_client(&config, &Given::default(), asker).expect("one node");

            let error = chain.chain_head().await.expect_err("nobody answers").to_string();

            assert!(error.contains("did not answer within 1 s"), "{error}");
            silent.set_nonblocking(true).expect("a socket");
            assert_eq!(silent.incoming().map_while(Result::ok).count(), rounds as usize, "{asker:?}");
        }
    }

    #[test]
    fn the_environment_wins_over_the_layers() {
        let given = Given {
            variables: HashMap::from([(CHAIN_VARIABLE, "tok.en:/ip4/127.0.0.1/tcp/1234/http,http://b:1")]),
            ..Given::default()
        };
        let endpoints = chain_endpoints(&config("ChainApiInfo = ['http://c:1']"), &given).expect("two nodes");
        assert_eq!(endpoints.len(), 2);
    }

    #[test]
    fn a_token_comes_from_a_file() {
        let given = Given { files: HashMap::from([("/run/chain", "tok.en:http://a:1234\n")]), ..Given::default() };
        let endpoints = chain_endpoints(&config("ChainApiInfo = ['file:/run/chain']"), &given).expect("one node");
        assert_eq!(endpoints.len(), 1);
    }

    #[test]
    fn references_that_lead_nowhere_are_named() {
        let error =
            chain_endpoints(&config("ChainApiInfo = ['env:NODE']"), &Given::default()).expect_err("no variable");
        assert_eq!(error.to_string(), "Apis.ChainApiInfo refers to the environment variable NODE, which is not set");
        let error = storage_secret(&config("StorageRPCSecret = 'file:/gone'"), &Given::default()).expect_err("no file");
        assert!(error.to_string().starts_with("Apis.StorageRPCSecret refers to the file /gone, which cannot be read"));
    }

    #[test]
    fn without_any_node_the_sentence_says_where_to_name_one() {
        let error = chain_endpoints(&Config::default(), &Given::default()).expect_err("no node");
        assert!(error.to_string().contains("FULLNODE_API_INFO"), "{error}");
    }

    #[test]
    fn a_wrong_address_with_a_token_is_not_repeated() {
        let given = Given { variables: HashMap::from([(CHAIN_VARIABLE, "s3cret.token:nonsense")]), ..Given::default() };
        let error = chain_endpoints(&Config::default(), &given).expect_err("no address").to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }
}
