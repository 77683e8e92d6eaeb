//! `curio config`: the configuration layers of the cluster. A layer is checked before it is stored.

use std::io::Read;
use std::path::{Path, PathBuf};

use chrono::Utc;
use clap::Subcommand;
use curio_core::config::layers::{self, Layer};
use curio_core::config::reference;
use curio_harmony::Db;
use serde_json::json;

use super::args::LayerArgs;
use super::output::{Output, Table, ago, text};
use super::{APPLICATION, CliError, Database};
use crate::settings::{self, BASE_LAYER};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Print all keys with their defaults and meaning, as a layer in which nothing is set.
    Default {
        /// Leave the explanations out.
        #[arg(long)]
        no_comment: bool,
    },
    /// Print a layer.
    Get { name: String },
    /// Store a layer, new or not; unknown keys and wrong values are refused.
    Set {
        name: String,
        /// TOML file; '-' or nothing reads stdin.
        file: Option<PathBuf>,
    },
    /// List the layers.
    List,
    /// Remove a layer.
    Remove { name: String },
    /// Print the whole configuration that some layers give.
    Interpret {
        #[command(flatten)]
        layers: LayerArgs,
    },
    /// Say which layer set which key.
    Explain {
        #[command(flatten)]
        layers: LayerArgs,
        /// Only this key, or the keys of this section, such as Subsystems or Fees.DefaultMaxFee.
        key: Option<String>,
        /// Show keys that no layer sets, too.
        #[arg(long)]
        all: bool,
    },
}

pub(super) async fn execute(place: &Database, output: Output, command: ConfigCommand) -> Result<(), CliError> {
    if let ConfigCommand::Default { no_comment } = command {
        output.show(&layers::default_document(), || reference::annotated_defaults(!no_comment));
        return Ok(());
    }
    let db = place.open(APPLICATION).await?;
    match command {
        ConfigCommand::Default { .. } => unreachable!("answered without a database above"),
        ConfigCommand::Get { name } => get(&db, output, &name).await,
        ConfigCommand::Set { name, file } => set(&db, output, &name, file.as_deref()).await,
        ConfigCommand::List => list(&db, output).await,
        ConfigCommand::Remove { name } => remove(&db, output, &name).await,
        ConfigCommand::Interpret { layers } => {
            let effective = settings::load(&db, &layers.names()).await?;
            output.show(&effective.document, || effective.document.to_string());
            Ok(())
        }
        ConfigCommand::Explain { layers, key, all } => explain(&db, output, &layers, key.as_deref(), all).await,
    }
}

async fn get(db: &Db, output: Output, name: &str) -> Result<(), CliError> {
    match curio_harmony::layers::get(db, name).await? {
        Some(layer) => {
            output.show(&layer, || layer.config.clone());
            Ok(())
        }
        None => Err(settings::missing_layer(db, name).await?.into()),
    }
}

async fn set(db: &Db, output: Output, name: &str, file: Option<&Path>) -> Result<(), CliError> {
    check_name(name)?;
    let text = read(file)?;
    layers::parse(&Layer::new(name, text.as_str()))
        .map_err(|error| CliError::refused(format!("{error}; nothing was stored")))?;
    curio_harmony::layers::set(db, name, &text).await?;
    output.show(&json!({ "title": name }), || format!("stored layer '{name}'; runners read it when they start next"));
    Ok(())
}

/// A name that can stand in `--layers a,b`.
fn check_name(name: &str) -> Result<(), CliError> {
    let fine = !name.is_empty() && !name.contains([',', '\'', '\n']) && name.trim() == name;
    if fine && name.len() <= 300 {
        return Ok(());
    }
    Err(CliError::refused(format!("'{name}' cannot be the name of a layer; use letters, digits and dashes")))
}

fn read(file: Option<&Path>) -> Result<String, CliError> {
    match file.filter(|file| *file != Path::new("-")) {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|error| CliError::refused(format!("the layer file {} cannot be read: {error}", file.display()))),
        None => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| CliError::refused(format!("the layer on stdin cannot be read: {error}")))?;
            Ok(text)
        }
    }
}

async fn list(db: &Db, output: Output) -> Result<(), CliError> {
    let layers = curio_harmony::layers::list(db).await?;
    output.show(&layers, || {
        let now = Utc::now();
        let mut table = Table::new([text("LAYER"), text("CHANGED"), text("SETS").shrinks_to(20)]);
        for layer in &layers {
            let sets = match layers::parse(&Layer::new(layer.title.as_str(), layer.config.as_str())) {
                Ok(document) => leaf_names(&document).join(", "),
                Err(error) => error.to_string(),
            };
            table.row([layer.title.clone(), ago(now, layer.changed_at), sets]);
        }
        table.render("no layer yet")
    });
    Ok(())
}

fn leaf_names(document: &toml::Table) -> Vec<String> {
    document
        .iter()
        .flat_map(|(name, value)| match value {
            toml::Value::Table(table) => leaf_names(table),
            _ => vec![name.clone()],
        })
        .collect()
}

async fn remove(db: &Db, output: Output, name: &str) -> Result<(), CliError> {
    if name == BASE_LAYER {
        return Err(CliError::refused(
            "every runner reads the layer 'base', so it cannot be removed; set it empty instead",
        ));
    }
    if !curio_harmony::layers::remove(db, name).await? {
        return Err(settings::missing_layer(db, name).await?.into());
    }
    output.show(&json!({ "title": name }), || format!("removed layer '{name}'"));
    Ok(())
}

async fn explain(db: &Db, output: Output, layers: &LayerArgs, key: Option<&str>, all: bool) -> Result<(), CliError> {
    let effective = settings::load(db, &layers.names()).await?;
    let wanted = |path: &str| key.is_none_or(|key| path == key || path.starts_with(&format!("{key}.")));
    let set_by_a_layer = |origin: &str| origin != layers::DEFAULT_ORIGIN;
    let rows: Vec<_> = effective
        .origins
        .iter()
        .filter(|(path, origin)| wanted(path) && (all || key.is_some() || set_by_a_layer(origin)))
        .map(|(path, origin)| (path, effective.value(path), origin))
        .collect();
    if rows.is_empty()
        && let Some(key) = key
    {
        return Err(CliError::refused(format!("there is no key {key}; `curio config default` lists all")));
    }
    let json: Vec<_> =
        rows.iter().map(|(path, value, origin)| json!({ "key": path, "value": value, "layer": origin })).collect();
    output.show(&json, || {
        let mut table = Table::new([text("KEY"), text("VALUE").shrinks_to(20), text("SET BY")]);
        for (path, value, origin) in &rows {
            table.row([(*path).clone(), value.map(toml::Value::to_string).unwrap_or_default(), (*origin).clone()]);
        }
        table.render("no layer sets anything; all keys have their defaults")
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_split_in_a_list_are_refused() {
        for name in ["", "a,b", " a", "it's"] {
            assert!(check_name(name).is_err(), "{name}");
        }
        assert!(check_name("seal-gpu").is_ok());
    }
}
