//! The configuration explained: annotated defaults for `curio config default`, and the reference page.

use std::fmt::Write;

use toml::{Table, Value};

use super::Config;
use super::layers::default_document;
use super::schema::{Key, Section, Shape};

/// The defaults as a layer in which every key is commented out, each with its explanation.
/// `with_comments = false` leaves the explanations away.
pub fn annotated_defaults(with_comments: bool) -> String {
    let mut out = String::new();
    write_section(&mut out, "", &Config::keys(), &default_document(), with_comments);
    out
}

fn write_section(out: &mut String, prefix: &str, keys: &[Key], values: &Table, with_comments: bool) {
    let comment = |out: &mut String, key: &Key, indent: &str| {
        if with_comments {
            for line in doc_lines(key) {
                writeln!(out, "{indent}# {line}").expect("writing to a string cannot fail");
            }
        }
    };
    for key in keys.iter().filter(|key| matches!(key.shape, Shape::Leaf { .. })) {
        comment(out, key, "  ");
        if let Some(value) = values.get(key.name) {
            writeln!(out, "  #{} = {value}", key.name).expect("writing to a string cannot fail");
        }
    }
    for key in keys {
        let path = if prefix.is_empty() { key.name.to_owned() } else { format!("{prefix}.{}", key.name) };
        let (header, inner, values) = match key.shape {
            Shape::Leaf { .. } => continue,
            Shape::Section(inner) => {
                (format!("[{path}]"), inner(), values.get(key.name).and_then(Value::as_table).cloned())
            }
            // A list is empty by default; the entry shows what one would hold.
            Shape::Sections(inner) => (format!("#[[{path}]]"), inner(), Some(entry_defaults())),
        };
        if !out.is_empty() {
            out.push('\n');
        }
        comment(out, key, "");
        writeln!(out, "{header}").expect("writing to a string cannot fail");
        write_section(out, &path, &inner, &values.unwrap_or_default(), with_comments);
    }
}

/// Defaults of one entry of `Addresses`, the only list of tables.
fn entry_defaults() -> Table {
    Table::try_from(super::AddressSet::default()).expect("the defaults are plain values")
}

fn doc_lines(key: &Key) -> Vec<String> {
    let mut lines: Vec<String> =
        key.doc.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if key.inert {
        lines.push("Known for compatibility; this version does nothing with it.".to_owned());
    }
    lines
}

/// The page `docs/reference/configuration.md`.
pub fn page() -> String {
    let mut out = String::from(
        "# Configuration\n\n\
         Generated from `core/src/config.rs`; a test fails when this page is stale, and `UPDATE=1` rewrites it.\n\n\
         A layer is a partial TOML document with these keys, stored with `curio config set NAME FILE`. `curio run\n\
         --layers a,b` merges `base`, `a` and `b` over the defaults: tables merge, later values win, lists are\n\
         replaced. Amounts are written \"0.07 FIL\", durations \"1h30m\". `curio config explain --layers a,b` says\n\
         which layer set which key.\n",
    );
    write_page(&mut out, "", &Config::keys(), &default_document());
    out
}

fn write_page(out: &mut String, prefix: &str, keys: &[Key], values: &Table) {
    for key in keys {
        let path = if prefix.is_empty() { key.name.to_owned() } else { format!("{prefix}.{}", key.name) };
        let (title, inner, values) = match key.shape {
            Shape::Leaf { .. } => continue,
            Shape::Section(inner) => {
                (format!("[{path}]"), inner(), values.get(key.name).and_then(Value::as_table).cloned())
            }
            Shape::Sections(inner) => (format!("[[{path}]]"), inner(), Some(entry_defaults())),
        };
        let values = values.unwrap_or_default();
        write!(out, "\n## `{title}`\n\n{}\n\n", doc_lines(key).join("\n")).expect("writing to a string cannot fail");
        out.push_str("| key | default | meaning |\n|---|---|---|\n");
        for key in inner.iter().filter(|key| matches!(key.shape, Shape::Leaf { .. })) {
            let default = values.get(key.name).map(Value::to_string).unwrap_or_default();
            writeln!(out, "| `{}` | `{default}` | {} |", key.name, doc_lines(key).join(" "))
                .expect("writing to a string cannot fail");
        }
        write_page(out, &path, &inner, &values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::{Layer, merge};

    #[test]
    fn the_printed_defaults_are_a_layer_that_changes_nothing() {
        for with_comments in [true, false] {
            let text = annotated_defaults(with_comments);
            let config = merge(&[Layer::new("default", text)]).expect("it is a layer").config;
            assert_eq!(config, Config::default());
        }
    }

    #[test]
    fn the_printed_defaults_stay_right_when_the_keys_are_taken_in() {
        let text: String =
            annotated_defaults(false).lines().map(|l| l.trim().trim_start_matches('#').to_owned() + "\n").collect();
        let config = merge(&[Layer::new("default", text)]).expect("it is a layer").config;
        assert_eq!(config.subsystems, Config::default().subsystems);
        assert_eq!(config.fees, Config::default().fees);
        assert_eq!(config.addresses, [crate::config::AddressSet::default()]);
    }

    #[test]
    fn every_section_is_explained() {
        for key in Config::keys() {
            assert!(!key.doc.trim().is_empty(), "{} has no explanation", key.name);
        }
    }

    #[test]
    fn the_reference_page_is_up_to_date() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/configuration.md");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::create_dir_all(file.parent().expect("the path has a parent")).expect("the folder can be made");
            std::fs::write(&file, page()).expect("the page can be written");
        }
        let stored = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(stored, page(), "docs/reference/configuration.md is stale: UPDATE=1 cargo test -p curio-core");
    }
}
