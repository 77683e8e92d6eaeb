//! Layers: partial documents, merged in order over the defaults.
//!
//! Tables merge key by key; everything else, lists included, is replaced by the later layer. A layer
//! is checked by itself, so an error names the layer that holds it even when a later one would hide it.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::Config;
use super::schema::{Key, Section, Shape};

/// Origin of a key that no layer sets.
pub const DEFAULT_ORIGIN: &str = "default";

/// How alike two keys must be, from 0 to 1, for one to be suggested in place of the other.
const SUGGEST_FROM: f64 = 0.6;

/// A partial document with its name.
#[derive(Clone, Debug)]
pub struct Layer {
    pub name: String,
    pub text: String,
}

impl Layer {
    /// A layer from its name and TOML text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Layer {
        Layer { name: name.into(), text: text.into() }
    }
}

/// What is wrong with a layer. Each is one sentence that names the layer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    #[error("layer '{layer}' is not valid TOML: line {line}: {message}")]
    Syntax { layer: String, line: usize, message: String },
    #[error("unknown key {path} in layer '{layer}'{}", suggestion.as_ref().map(|key| format!("; did you mean {key}?")).unwrap_or_default())]
    UnknownKey { layer: String, path: String, suggestion: Option<String> },
    #[error("{path} in layer '{layer}' {problem}")]
    Value { layer: String, path: String, problem: String },
}

/// The merged configuration.
#[derive(Clone, Debug)]
pub struct Effective {
    pub config: Config,
    /// The same as a document, complete.
    pub document: Table,
    /// For every key that is no table, such as `Fees.DefaultMaxFee`: the layer that set it, or
    /// [`DEFAULT_ORIGIN`].
    pub origins: BTreeMap<String, String>,
}

impl Effective {
    /// Keys that a layer sets although this version does nothing with them, with the layer.
    pub fn without_effect(&self) -> Vec<(&str, &str)> {
        let inert = inert_paths();
        let default = default_document();
        self.origins
            .iter()
            .filter(|(path, origin)| *origin != DEFAULT_ORIGIN && inert.contains(path))
            .filter(|(path, _)| find(&self.document, path) != find(&default, path))
            .map(|(path, origin)| (path.as_str(), origin.as_str()))
            .collect()
    }

    /// The value at a path such as `Fees.DefaultMaxFee`.
    pub fn value(&self, path: &str) -> Option<&Value> {
        find(&self.document, path)
    }
}

/// Merges layers over the defaults; later ones win.
///
/// # Errors
/// The first thing that is wrong, in the order of the layers.
pub fn merge(layers: &[Layer]) -> Result<Effective, LayerError> {
    let mut document = default_document();
    let mut origins = BTreeMap::new();
    note_origins(&document, "", DEFAULT_ORIGIN, &mut origins);
    for layer in layers {
        let table = parse(layer)?;
        note_origins(&table, "", &layer.name, &mut origins);
        merge_table(&mut document, table);
    }
    let config = Value::Table(document.clone()).try_into().map_err(|error: toml::de::Error| LayerError::Value {
        layer: layers.last().map_or(DEFAULT_ORIGIN.to_owned(), |layer| layer.name.clone()),
        path: "the configuration".to_owned(),
        problem: error.message().to_owned(),
    })?;
    Ok(Effective { config, document, origins })
}

/// Parses and checks one layer.
///
/// # Errors
/// Text that is not TOML, a key that does not exist, a value of the wrong kind, a secret in clear text.
pub fn parse(layer: &Layer) -> Result<Table, LayerError> {
    let table: Table = toml::from_str(&layer.text).map_err(|error: toml::de::Error| {
        let start = error.span().map_or(0, |span| span.start).min(layer.text.len());
        let line = layer.text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count() + 1;
        // The parser's message may go over several lines; the place is in `line`.
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        LayerError::Syntax { layer: layer.name.clone(), line, message }
    })?;
    check_table(&layer.name, "", &table, &Config::keys())?;
    Ok(table)
}

/// The defaults as a document.
pub fn default_document() -> Table {
    Table::try_from(Config::default()).expect("the defaults are plain values")
}

fn check_table(layer: &str, prefix: &str, table: &Table, keys: &[Key]) -> Result<(), LayerError> {
    for (name, value) in table {
        let path = join(prefix, name);
        let Some(key) = keys.iter().find(|key| key.name == name) else {
            let suggestion = suggest(prefix, name, keys);
            return Err(LayerError::UnknownKey { layer: layer.to_owned(), path, suggestion });
        };
        check_value(layer, &path, value, key)?;
    }
    Ok(())
}

fn check_value(layer: &str, path: &str, value: &Value, key: &Key) -> Result<(), LayerError> {
    let wrong = |problem: String| LayerError::Value { layer: layer.to_owned(), path: path.to_owned(), problem };
    match (key.shape, value) {
        (Shape::Leaf { check, .. }, value) => check(value).map_err(wrong),
        (Shape::Section(keys), Value::Table(table)) => check_table(layer, path, table, &keys()),
        (Shape::Section(_), _) => Err(wrong(format!("must be a table: [{path}]"))),
        (Shape::Sections(keys), Value::Array(entries)) => {
            entries.iter().enumerate().try_for_each(|(index, entry)| match entry {
                Value::Table(table) => check_table(layer, &format!("{path}[{index}]"), table, &keys()),
                _ => Err(wrong(format!("must be a list of tables: [[{path}]]"))),
            })
        }
        (Shape::Sections(_), _) => Err(wrong(format!("must be a list of tables: [[{path}]]"))),
    }
}

/// The most alike key of the same section, else the full path of one like it elsewhere.
fn suggest(prefix: &str, name: &str, siblings: &[Key]) -> Option<String> {
    let likeness =
        |other: &str| strsim::normalized_damerau_levenshtein(&name.to_ascii_lowercase(), &other.to_ascii_lowercase());
    let best = |candidates: Vec<(f64, String)>| {
        candidates.into_iter().filter(|(score, _)| *score >= SUGGEST_FROM).max_by(|a, b| a.0.total_cmp(&b.0))
    };
    let near = best(siblings.iter().map(|key| (likeness(key.name), key.name.to_owned())).collect());
    let far = best(
        all_paths(&Config::keys(), "")
            .into_iter()
            .filter(|path| !path.starts_with(&format!("{prefix}.")) || prefix.is_empty())
            .map(|path| (likeness(path.rsplit('.').next().unwrap_or(&path)), path))
            .collect(),
    );
    match (near, far) {
        (Some(near), Some(far)) if far.0 > near.0 => Some(far.1),
        (Some(near), _) => Some(near.1),
        (None, far) => far.map(|(_, path)| path),
    }
}

/// Paths of all keys that are no tables.
fn all_paths(keys: &[Key], prefix: &str) -> Vec<String> {
    keys.iter()
        .flat_map(|key| {
            let path = join(prefix, key.name);
            match key.shape {
                Shape::Section(keys) => all_paths(&keys(), &path),
                Shape::Leaf { .. } | Shape::Sections(_) => vec![path],
            }
        })
        .collect()
}

fn inert_paths() -> Vec<String> {
    fn walk(keys: &[Key], prefix: &str, found: &mut Vec<String>) {
        for key in keys {
            let path = join(prefix, key.name);
            match key.shape {
                Shape::Section(keys) => walk(&keys(), &path, found),
                _ if key.inert => found.push(path),
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    walk(&Config::keys(), "", &mut found);
    found
}

fn merge_table(below: &mut Table, above: Table) {
    for (name, value) in above {
        match (below.get_mut(&name), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge_table(below, above),
            (_, value) => {
                below.insert(name, value);
            }
        }
    }
}

fn note_origins(table: &Table, prefix: &str, origin: &str, origins: &mut BTreeMap<String, String>) {
    for (name, value) in table {
        let path = join(prefix, name);
        match value {
            Value::Table(table) => note_origins(table, &path, origin, origins),
            _ => {
                origins.insert(path, origin.to_owned());
            }
        }
    }
}

fn find<'t>(table: &'t Table, path: &str) -> Option<&'t Value> {
    match path.split_once('.') {
        None => table.get(path),
        Some((head, rest)) => find(table.get(head)?.as_table()?, rest),
    }
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ChainApi, Fil, Period, SecretRef};
    use rstest::rstest;

    #[test]
    fn no_layer_gives_the_defaults() {
        assert_eq!(merge(&[]).expect("defaults merge").config, Config::default());
    }

    #[test]
    fn a_later_layer_wins_key_by_key() {
        let layers = [
            Layer::new(
                "base",
                "[Subsystems]\nEnablePoRepProof = true\nSealSDRMaxTasks = 3\n[Fees]\nDefaultMaxFee = '1 FIL'",
            ),
            Layer::new(
                "top",
                "[Subsystems]\nEnablePoRepProof = false\n[Fees.MaxCommitBatchGasFee]\nBase = \"0.5 FIL\"",
            ),
        ];
        let effective = merge(&layers).expect("both are right");
        let config = &effective.config;
        assert!(!config.subsystems.enable_po_rep_proof);
        assert_eq!(config.subsystems.seal_sdr_max_tasks, 3);
        assert_eq!(config.fees.default_max_fee, Fil::milli(1000));
        assert_eq!(config.fees.max_commit_batch_gas_fee.base, Fil::milli(500));
        assert_eq!(config.fees.max_commit_batch_gas_fee.per_sector, Fil::milli(30), "the default of the field stays");
        assert_eq!(effective.origins["Subsystems.EnablePoRepProof"], "top");
        assert_eq!(effective.origins["Subsystems.SealSDRMaxTasks"], "base");
        assert_eq!(effective.origins["Fees.MaxCommitBatchGasFee.PerSector"], DEFAULT_ORIGIN);
    }

    #[test]
    fn a_list_is_replaced_as_a_whole() {
        let layers = [
            Layer::new(
                "base",
                "[Apis]\nChainApiInfo = ['http://a:1', 'http://b:1']\n[[Addresses]]\nMinerAddresses = ['f01']\n[[Addresses]]\n",
            ),
            Layer::new(
                "top",
                "[Apis]\nChainApiInfo = ['env:NODE']\n[[Addresses]]\nMinerAddresses = ['f02']\nDisableOwnerFallback = true",
            ),
        ];
        let config = merge(&layers).expect("both are right").config;
        assert_eq!(config.apis.chain_api_info, [ChainApi::Secret(SecretRef::Env("NODE".to_owned()))]);
        assert_eq!(config.addresses.len(), 1);
        assert_eq!(config.addresses[0].miner_addresses, ["f02"]);
        assert!(config.addresses[0].disable_owner_fallback);
    }

    #[rstest]
    #[case(
        "[Subsystems]\nEnableSealSdr = true",
        "unknown key Subsystems.EnableSealSdr in layer 'seal'; did you mean EnableSealSDR?"
    )]
    #[case("[Subsystem]\nEnableSealSDR = true", "unknown key Subsystem in layer 'seal'; did you mean Subsystems?")]
    #[case(
        "[Subsystems]\nMaxQueueSDR = 3",
        "unknown key Subsystems.MaxQueueSDR in layer 'seal'; did you mean Ingest.MaxQueueSDR?"
    )]
    #[case("[Subsystems]\nXyzzy = 1", "unknown key Subsystems.Xyzzy in layer 'seal'")]
    #[case(
        "[[Addresses]]\nMinerAddress = ['f01']",
        "unknown key Addresses[0].MinerAddress in layer 'seal'; did you mean MinerAddresses?"
    )]
    #[case(
        "[Subsystems]\nEnableSealSDR = 'yes'",
        "Subsystems.EnableSealSDR in layer 'seal' must be true or false, not the text \"yes\""
    )]
    #[case(
        "[Subsystems]\nSealSDRMaxTasks = -1",
        "Subsystems.SealSDRMaxTasks in layer 'seal' must be a whole number of at least 0, not -1"
    )]
    #[case(
        "[Fees]\nDefaultMaxFee = 0.07",
        "Fees.DefaultMaxFee in layer 'seal' must be an amount such as \"0.07 FIL\", not 0.07"
    )]
    #[case(
        "[Seal]\nPollInterval = '10'",
        "Seal.PollInterval in layer 'seal' must be a duration such as \"10m\", not the text \"10\""
    )]
    #[case("Subsystems = 3", "Subsystems in layer 'seal' must be a table: [Subsystems]")]
    #[case("[Addresses]\nMinerAddresses = []", "Addresses in layer 'seal' must be a list of tables: [[Addresses]]")]
    #[case(
        "[Apis]\nStorageRPCSecret = 'c2VjcmV0'",
        "Apis.StorageRPCSecret in layer 'seal' holds a secret in clear text, and layers can be read by everyone who reads \
         the database; put the secret into a file or an environment variable and write \"file:/path\" or \"env:NAME\" here"
    )]
    #[case(
        "[Apis]\nChainApiInfo = ['eyJ0.abc.def:/ip4/127.0.0.1/tcp/1234/http']",
        "Apis.ChainApiInfo in layer 'seal' holds a secret in clear text, and layers can be read by everyone who reads \
         the database; put the secret into a file or an environment variable and write \"file:/path\" or \"env:NAME\" here"
    )]
    fn a_wrong_layer_is_refused_in_one_sentence(#[case] text: &str, #[case] sentence: &str) {
        let error = parse(&Layer::new("seal", text)).expect_err("the layer is wrong");
        assert_eq!(error.to_string(), sentence);
    }

    #[test]
    fn a_syntax_error_names_layer_and_line() {
        let error = parse(&Layer::new("seal", "[Subsystems]\nEnableSealSDR = = true")).expect_err("not TOML");
        let LayerError::Syntax { layer, line, .. } = &error else { panic!("{error:?}") };
        assert_eq!((layer.as_str(), *line), ("seal", 2));
        assert!(!error.to_string().contains('\n'), "{error}");
    }

    #[test]
    fn keys_without_effect_are_named_when_a_layer_changes_them() {
        let layers = [Layer::new("post", "[Subsystems]\nEnableWebGui = true\nEnableParkPiece = false")];
        let effective = merge(&layers).expect("the layer is right");
        assert_eq!(effective.without_effect(), [("Subsystems.EnableWebGui", "post")]);
    }

    #[test]
    fn durations_and_amounts_survive_the_round_trip_of_the_defaults() {
        let effective = merge(&[Layer::new("t", "[Harmony]\nPollIdle = '1.5s'")]).expect("right");
        assert_eq!(effective.config.harmony.poll_idle, Period::millis(1500));
        assert_eq!(effective.value("Harmony.PollBusy").and_then(Value::as_str), Some("100ms"));
    }
}
