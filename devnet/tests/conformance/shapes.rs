//! Comparing answers: the same members, null where there was null, an empty list where there was one, the same kind
//! of text, and the same words of an error but for names and numbers.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::plain;

/// Members whose content is not compared, and why.
const IGNORED: &[(&str, &str, &str)] = &[
    ("StateCall.", "/result/ExecutionTrace/InvokedActor", "a trace for people, kept short"),
    ("StateCall.", "/result/ExecutionTrace/GasCharges", "a trace for people, kept short"),
    ("StateCall.", "/result/ExecutionTrace/Subcalls", "a trace for people, kept short"),
];

/// Errors whose words differ, and why. Status and code do not.
const OTHER_WORDS: &[(&str, &str)] = &[
    ("GasEstimateMessageGas.caller_not_allowed", "which decoder stumbles first is the decoder's business"),
    ("GasEstimateMessageGas.not_cbor_params", "which decoder stumbles first is the decoder's business"),
];

/// Members and kinds of a result.
pub fn compare_results(name: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    let ignored: Vec<&str> =
        IGNORED.iter().filter(|(prefix, ..)| name.starts_with(prefix)).map(|(_, path, _)| *path).collect();
    shapes("/result", theirs, ours, &ignored, found);
}

/// Code, data and words of an error.
pub fn compare_errors(name: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    const UNREADABLE: i64 = -32700;
    if ours["code"] != theirs["code"] {
        found.push(format!("error {ours} instead of {theirs}"));
        return;
    }
    if ours.get("data") != theirs.get("data") {
        found.push(format!("data {:?} instead of {:?}", ours.get("data"), theirs.get("data")));
    }
    let words = |error: &Value| plain(error["message"].as_str().unwrap_or_default());
    let exempt = theirs["code"] == UNREADABLE || OTHER_WORDS.iter().any(|(other, _)| *other == name);
    if !exempt && words(ours) != words(theirs) {
        found.push(format!("words\n    ours:   {}\n    theirs: {}", words(ours), words(theirs)));
    }
}

/// What kind of text a text is.
fn kind_of(text: &str) -> &'static str {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text {
        "" => "empty",
        _ if digits(text.trim_start_matches('-')) => "number",
        _ if text.starts_with("baf") || text.starts_with("bag") => "cid",
        _ if is_address(text) => "address",
        _ => "text",
    }
}

fn is_address(text: &str) -> bool {
    let lower = text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    lower && text.starts_with('t') && text.as_bytes().get(1).is_some_and(u8::is_ascii_digit)
}

fn shapes(path: &str, theirs: &Value, ours: &Value, ignored: &[&str], found: &mut Vec<String>) {
    if ignored.contains(&path) {
        return;
    }
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let names = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<BTreeSet<_>>();
            let (their_names, our_names) = (names(theirs), names(ours));
            if their_names != our_names {
                let missing: Vec<_> = their_names.difference(&our_names).collect();
                let surplus: Vec<_> = our_names.difference(&their_names).collect();
                found.push(format!("{path}: members {missing:?} missing, {surplus:?} too many"));
            }
            for (member, theirs) in theirs {
                if let Some(ours) = ours.get(member) {
                    shapes(&format!("{path}/{member}"), theirs, ours, ignored, found);
                }
            }
        }
        (Value::Array(theirs), Value::Array(ours)) => match (theirs.first(), ours.first()) {
            (Some(theirs), Some(ours)) => shapes(&format!("{path}/0"), theirs, ours, ignored, found),
            (None, None) => {}
            _ => found.push(format!("{path}: {} elements instead of {}", ours.len(), theirs.len())),
        },
        (Value::String(theirs), Value::String(ours)) => {
            if kind_of(theirs) != kind_of(ours) {
                found.push(format!("{path}: {ours:?} is no {} like {theirs:?}", kind_of(theirs)));
            }
        }
        (Value::Number(_), Value::Number(_)) | (Value::Bool(_), Value::Bool(_)) | (Value::Null, Value::Null) => {}
        _ => found.push(format!("{path}: {ours} instead of {theirs}")),
    }
}
