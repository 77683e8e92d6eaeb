//! Recorded answers of a Lotus node, and what of them is compared.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

/// A recorded call.
pub fn recorded(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/rpc/{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

/// Members and types of a value; a list is as its first member.
pub fn shape(value: &Value) -> Value {
    match value {
        Value::Null => Value::Null,
        Value::Bool(_) => json!("bool"),
        Value::Number(_) => json!("number"),
        Value::String(_) => json!("string"),
        Value::Array(list) => list.iter().take(1).map(shape).collect(),
        Value::Object(members) => {
            members.iter().map(|(name, member)| (name.clone(), shape(member))).collect::<Map<_, _>>().into()
        }
    }
}

/// A text without what differs from chain to chain (numbers, names of blocks) and without Go's traces.
pub fn plain(text: &str) -> String {
    const SHORTEST_ID: usize = 30;
    let (text, _) = text.split_once("\n\nStack backtrace").unwrap_or((text, ""));
    let said = text.lines().filter(|line| !line.contains("github.com/") && !line.contains("/var/lotus/"));
    let words = said.flat_map(|line| line.split_whitespace().map(str::to_owned));
    let words = words.map(|word| {
        let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
        let number =
            !bare.is_empty() && bare.split('=').next_back().is_some_and(|n| n.chars().all(|c| c.is_ascii_digit()));
        match (number, bare.len() > SHORTEST_ID) {
            (true, _) => word.replace(|c: char| c.is_ascii_digit(), "").replace('-', ""),
            (_, true) => word.replace(&bare, "<id>"),
            _ => word,
        }
    });
    // A trace follows a colon.
    words.collect::<Vec<_>>().join(" ").trim_end_matches(':').to_owned()
}
