//! The rules of the custom resources, evaluated here: every rule refuses its object below `cluster/bad` with its message, and
//! what users really write passes. The cluster tests send the same objects to an API server.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use curio_operator::api::{CurioCluster, RunnerPool, SealingSector};
use curio_operator::generate::definitions;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use rstest::rstest;
use serde::Deserialize;
use serde_yaml_ng::Value;

/// A file of `cluster/bad`: an object that is refused, perhaps as a change of one that is accepted.
struct Bad {
    file: String,
    words: String,
    accepted: Option<Value>,
    refused: Value,
}

fn bad() -> Vec<Bad> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/bad");
    let mut files: Vec<_> = fs::read_dir(dir).expect("the folder is in the repository").flatten().collect();
    files.sort_by_key(fs::DirEntry::file_name);
    files.iter().map(|entry| read(&entry.file_name().to_string_lossy(), &entry.path())).collect()
}

fn read(file: &str, path: &Path) -> Bad {
    let text = fs::read_to_string(path).expect("the file was just listed");
    let words = text.lines().next().and_then(|line| line.strip_prefix("# refused: "));
    let words = words.unwrap_or_else(|| panic!("{file} does not begin with `# refused: words`")).to_owned();
    let documents = serde_yaml_ng::Deserializer::from_str(&text).map(Value::deserialize);
    let mut documents: Vec<Value> =
        documents.collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{file} is no YAML: {error}"));
    let refused = documents.pop().unwrap_or_else(|| panic!("{file} is empty"));
    Bad { file: file.to_owned(), words, accepted: documents.pop(), refused }
}

/// What the rules say about `new`, which replaces `old`.
fn complaints(old: Option<&Value>, new: &Value) -> Vec<String> {
    macro_rules! judge {
        ($kind:ty) => {{
            let read = |value: &Value| -> $kind {
                serde_yaml_ng::from_value(value.clone()).expect("it has the kind's fields")
            };
            match old {
                Some(old) => read(new).validate_cel_update(&read(old)),
                None => read(new).validate_cel(),
            }
        }};
    }
    let verdict = match new["kind"].as_str() {
        Some("CurioCluster") => judge!(CurioCluster),
        Some("RunnerPool") => judge!(RunnerPool),
        Some("SealingSector") => judge!(SealingSector),
        other => panic!("{other:?} is none of our kinds"),
    };
    verdict.err().map_or_else(Vec::new, |errors| errors.as_slice().iter().map(|error| error.message.clone()).collect())
}

#[test]
fn every_bad_object_is_refused_by_one_rule_in_its_words() {
    for Bad { file, words, accepted, refused } in bad() {
        if let Some(accepted) = &accepted {
            assert_eq!(complaints(None, accepted), [] as [String; 0], "the first object of {file}");
        }
        let said = complaints(accepted.as_ref(), &refused);
        assert!(said.len() == 1 && said[0].contains(&words), "{file} should be refused with '{words}', but: {said:?}");
    }
}

#[test]
fn every_rule_has_a_bad_object() {
    let words: Vec<String> = bad().into_iter().map(|bad| bad.words).collect();
    let mut messages = BTreeSet::new();
    for definition in definitions() {
        let schema = definition.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
        collect_messages(schema.expect("a derived definition has a schema"), &mut messages);
    }
    let untried: Vec<&String> =
        messages.iter().filter(|message| !words.iter().any(|words| message.contains(words))).collect();
    assert!(untried.is_empty(), "no object below cluster/bad is refused by {untried:?}");
}

/// The server asks for every field of these lists; the types here would read an object without them all the same.
#[test]
fn only_what_has_no_default_is_required() {
    let required: Vec<Vec<String>> = definitions()
        .iter()
        .map(|definition| {
            let schema =
                definition.spec.versions[0].schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref());
            let properties = schema.and_then(|schema| schema.properties.as_ref()).expect("a kind has spec and status");
            assert_eq!(properties["status"].required, None, "an empty status is one");
            properties["spec"].required.clone().unwrap_or_default()
        })
        .collect();
    assert_eq!(required, [vec!["chain", "database"], vec!["cluster"], vec!["cluster", "miner"]]);
}

fn collect_messages(schema: &JSONSchemaProps, messages: &mut BTreeSet<String>) {
    for rule in schema.x_kubernetes_validations.iter().flatten() {
        messages.insert(rule.message.clone().unwrap_or_else(|| panic!("rule {} has no message", rule.rule)));
    }
    schema.properties.iter().flatten().for_each(|(_, field)| collect_messages(field, messages));
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &schema.items {
        collect_messages(item, messages);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &schema.additional_properties {
        collect_messages(value, messages);
    }
}

#[rstest]
#[case::least_cluster(
    "kind: CurioCluster\nmetadata: {name: curio}\nspec: {database: {urlSecret: {name: db}}, chain: {apiSecrets: [{name: lotus}]}}"
)]
#[case::cluster_with_layers(
    "kind: CurioCluster\nmetadata: {name: curio}\nspec:\n  database: {urlSecret: {name: db, key: uri}}\n  chain: {apiSecrets: [{name: lotus}, {name: forest, key: info}]}\n  miners: [f01000, t01001]\n  layers: {base: {Fees: {DefaultMaxFee: 1 FIL}}, seal_fast: {}}"
)]
#[case::profile_alone("kind: RunnerPool\nmetadata: {name: sealing}\nspec: {cluster: curio, profile: sealing}")]
#[case::custom_with_tasks(
    "kind: RunnerPool\nmetadata: {name: mine}\nspec: {cluster: curio, tasks: [{name: SDR, max: 2}, {name: PoRep}], gpu: {count: 0}}"
)]
#[case::pool_to_zero(
    "kind: RunnerPool\nmetadata: {name: snark}\nspec: {cluster: curio, profile: snark, autoscaling: {max: 2}}"
)]
#[case::pool_with_volumes(
    "kind: RunnerPool\nmetadata: {name: sealing}\nspec:\n  cluster: curio\n  profile: sealing\n  scratch: {template: {size: 10Gi}}\n  longTerm: [{name: store, template: {size: 10Gi}}, {name: tape, existingClaim: tape}]\n  parameters: {existingClaim: parameters}\n  env: [{name: RUST_LOG, value: debug}]\n  podLabels: {team: storage}"
)]
#[case::least_sector("kind: SealingSector\nmetadata: {name: one}\nspec: {cluster: curio, miner: f01000}")]
#[case::many_sectors("kind: SealingSector\nmetadata: {name: many}\nspec: {cluster: curio, miner: f01000, count: 1000}")]
#[case::piece(
    "kind: SealingSector\nmetadata: {name: data}\nspec: {cluster: curio, miner: f01000, piece: {url: 'https://data.example/a'}, removal: Requested}"
)]
fn what_users_write_passes(#[case] yaml: &str) {
    let object =
        serde_yaml_ng::from_str(&format!("apiVersion: curio.filecoin.io/v1alpha1\n{yaml}")).expect("it is YAML");
    assert_eq!(complaints(None, &object), [] as [String; 0]);
}

#[rstest]
#[case::ask_for_removal("removal: None", "removal: Requested")]
#[case::confirm_it("removal: Requested", "removal: Confirmed")]
#[case::think_again("removal: Requested", "removal: None")]
#[case::stay_confirmed("removal: Confirmed", "removal: Confirmed")]
#[case::retry("retry: 1", "retry: 2")]
fn what_users_change_passes(#[case] before: &str, #[case] after: &str) {
    let object = |field: &str| {
        let yaml = format!(
            "apiVersion: curio.filecoin.io/v1alpha1\nkind: SealingSector\nmetadata: {{name: one}}\nspec: {{cluster: curio, miner: f01000, {field}}}"
        );
        serde_yaml_ng::from_str(&yaml).expect("it is YAML")
    };
    // The state before may itself have come by a step that only an update may take.
    assert_eq!(complaints(Some(&object(before)), &object(after)), [] as [String; 0]);
}
