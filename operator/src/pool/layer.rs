//! The pool's own configuration layer, `pool.<pool>`: which kinds of tasks its runners do, with which limits, and what
//! `spec.config` adds.

use curio_core::config::layers::{Effective, Layer, LayerError, merge as merge_layers};
use toml::{Table, Value};

use super::pod::STORAGE_SECRET_ENV;
use crate::api::common::Layers;
use crate::api::conditions::reason;
use crate::api::runner_pool::{Profile, RunnerPoolSpec, TaskGroup};
use crate::cluster::validate::{Refusal, layer};

/// The layer that every runner reads before those it is told.
const BASE: &str = "base";

/// The layers of a pool are not as they should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayerTrouble {
    #[error(
        "layer '{layer}' is not one of CurioCluster {cluster}; add it to its spec.layers, or take it out of the pool's"
    )]
    Missing { layer: String, cluster: String },
    #[error("{}", .0.message)]
    Refused(Refusal),
    #[error(transparent)]
    Config(#[from] LayerError),
    #[error(
        "no kind of task is switched on, so that the runners would have nothing to do; set profile, tasks, or a layer"
    )]
    NothingToDo,
}

impl LayerTrouble {
    /// One word for the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            LayerTrouble::Missing { .. } => reason::LAYER_MISSING,
            LayerTrouble::Config(LayerError::UnknownKey { .. }) => reason::UNKNOWN_KEY,
            LayerTrouble::Refused(Refusal { reason, .. }) => reason,
            LayerTrouble::Config(LayerError::Syntax { .. } | LayerError::Value { .. }) | LayerTrouble::NothingToDo => {
                reason::INVALID_VALUE
            }
        }
    }
}

/// What a pool's runners are configured with.
#[derive(Clone, Debug)]
pub struct Configuration {
    /// Names in the order in which the runners merge them, the pool's own last.
    pub names: Vec<String>,
    /// Title of the pool's own layer.
    pub title: String,
    /// Text of the pool's own layer.
    pub text: String,
    /// All that are known here, in the same order, `base` first: what a runner reads when it starts.
    pub layers: Vec<Layer>,
    /// All of them merged.
    pub effective: Effective,
}

/// Title of the layer of this pool.
pub fn title(pool: &str) -> String {
    format!("pool.{pool}")
}

/// The configuration of a pool, from the layers of its cluster and its own.
///
/// # Errors
/// A layer that is missing, cannot be written, has a key or value that is wrong, or leaves the runners nothing to do.
pub fn configuration(pool: &str, spec: &RunnerPoolSpec, of_cluster: &Layers) -> Result<Configuration, LayerTrouble> {
    let title = title(pool);
    let mut layers = Vec::new();
    if let Some(base) = of_cluster.get(BASE) {
        layers.push(Layer::new(BASE, layer(BASE, base).map_err(LayerTrouble::Refused)?.text));
    }
    for name in &spec.layers {
        let object = of_cluster
            .get(name)
            .ok_or_else(|| LayerTrouble::Missing { layer: name.clone(), cluster: spec.cluster.clone() })?;
        layers.push(Layer::new(name, layer(name, object).map_err(LayerTrouble::Refused)?.text));
    }
    let own = text(&own(&title, spec)?);
    layers.push(Layer::new(&title, &own));
    let effective = merge_layers(&layers)?;
    let on = &effective.config.subsystems;
    if !on.seals() && !on.proves() {
        return Err(LayerTrouble::NothingToDo);
    }
    let names = spec.layers.iter().cloned().chain([title.clone()]).collect();
    let text = format!("# Written by the operator from RunnerPool {pool}; change that instead.\n{own}");
    Ok(Configuration { names, title, text, layers, effective })
}

/// The pool's own layer; what `spec.config` says wins.
fn own(title: &str, spec: &RunnerPoolSpec) -> Result<Table, LayerTrouble> {
    let mut own = Table::new();
    if let Some(subsystems) = subsystems(spec) {
        own.insert("Subsystems".to_owned(), Value::Table(subsystems));
    }
    let secret = Value::String(format!("env:{STORAGE_SECRET_ENV}"));
    own.insert("Apis".to_owned(), Value::Table(Table::from_iter([("StorageRPCSecret".to_owned(), secret)])));
    if let Some(config) = &spec.config {
        let text = layer(title, config).map_err(LayerTrouble::Refused)?.text;
        merge(&mut own, text.parse().expect("a valid layer is TOML"));
    }
    Ok(own)
}

/// Every switch, on or off, so that a layer below cannot switch on what the pool is not for. None when the pool leaves
/// that to the layers.
fn subsystems(spec: &RunnerPoolSpec) -> Option<Table> {
    let groups: Vec<(TaskGroup, Option<i32>)> = if spec.tasks.is_empty() {
        of_profile(spec.profile)?.iter().map(|group| (*group, None)).collect()
    } else {
        spec.tasks.iter().map(|task| (task.name, Some(task.max))).collect()
    };
    let mut table = Table::new();
    for group in ALL_GROUPS {
        let (switch, limit) = keys(group);
        let found = groups.iter().find(|(on, _)| *on == group);
        table.insert(switch.to_owned(), Value::Boolean(found.is_some()));
        if let (Some((_, Some(max))), Some(limit)) = (found, limit) {
            table.insert(limit.to_owned(), Value::Integer(i64::from(*max)));
        }
    }
    Some(table)
}

const ALL_GROUPS: [TaskGroup; 8] = [
    TaskGroup::Sdr,
    TaskGroup::SdrTrees,
    TaskGroup::PreCommit,
    TaskGroup::PoRep,
    TaskGroup::Commit,
    TaskGroup::MoveStorage,
    TaskGroup::WindowPost,
    TaskGroup::WinningPost,
];

fn of_profile(profile: Profile) -> Option<&'static [TaskGroup]> {
    match profile {
        Profile::Sealing => Some(&[
            TaskGroup::Sdr,
            TaskGroup::SdrTrees,
            TaskGroup::PreCommit,
            TaskGroup::Commit,
            TaskGroup::MoveStorage,
        ]),
        Profile::Snark => Some(&[TaskGroup::PoRep]),
        Profile::Post => Some(&[TaskGroup::WindowPost, TaskGroup::WinningPost]),
        Profile::Storage => Some(&[TaskGroup::MoveStorage]),
        Profile::Custom => None,
    }
}

/// Keys of section `Subsystems`: the switch, and the limit where there is one.
fn keys(group: TaskGroup) -> (&'static str, Option<&'static str>) {
    match group {
        TaskGroup::Sdr => ("EnableSealSDR", Some("SealSDRMaxTasks")),
        TaskGroup::SdrTrees => ("EnableSealSDRTrees", Some("SealSDRTreesMaxTasks")),
        TaskGroup::PreCommit => ("EnableSendPrecommitMsg", None),
        TaskGroup::PoRep => ("EnablePoRepProof", Some("PoRepProofMaxTasks")),
        TaskGroup::Commit => ("EnableSendCommitMsg", None),
        TaskGroup::MoveStorage => ("EnableMoveStorage", Some("MoveStorageMaxTasks")),
        TaskGroup::WindowPost => ("EnableWindowPost", Some("WindowPostMaxTasks")),
        TaskGroup::WinningPost => ("EnableWinningPost", Some("WinningPostMaxTasks")),
    }
}

fn text(table: &Table) -> String {
    toml::to_string(table).expect("a table has text keys and values that TOML knows")
}

fn merge(below: &mut Table, above: Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value as Json, json};

    use super::*;

    fn configured(spec: Json, of_cluster: Json) -> Result<Configuration, LayerTrouble> {
        let mut spec = spec;
        spec["cluster"] = json!("curio");
        let spec = serde_json::from_value(spec).expect("a spec");
        configuration("p", &spec, &serde_json::from_value(of_cluster).expect("layers"))
    }

    #[test]
    fn a_profile_switches_its_kinds_on_and_all_others_off() {
        let of_cluster = json!({"base": {"Subsystems": {"EnableSealSDR": true, "PoRepProofMaxTasks": 2}}});
        let snark = configured(json!({"profile": "snark"}), of_cluster).expect("valid");
        let on = &snark.effective.config.subsystems;
        assert!(on.enable_po_rep_proof && !on.enable_seal_sdr);
        assert_eq!(on.po_rep_proof_max_tasks, 2, "a limit that the pool does not speak of stays");
        assert_eq!(snark.names, ["pool.p"]);
    }

    #[test]
    fn runners_for_proofs_over_time_do_not_seal() {
        let post = configured(json!({"profile": "post"}), json!({})).expect("valid");
        let on = &post.effective.config.subsystems;
        assert!(on.enable_window_post && on.enable_winning_post && !on.seals());
    }

    #[test]
    fn tasks_take_the_place_of_the_profile_and_config_has_the_last_word() {
        let spec = json!({
            "profile": "sealing", "layers": ["fast"],
            "tasks": [{"name": "SDR", "max": 2}, {"name": "SDRTrees"}],
            "config": {"Subsystems": {"SealSDRMaxTasks": 1}, "Seal": {"SeedConfidence": 5}},
        });
        let of_cluster = json!({"fast": {"Seal": {"SeedConfidence": 1}, "Subsystems": {"SealSDRTreesMaxTasks": 7}}});
        let configured = configured(spec, of_cluster).expect("valid");
        let config = &configured.effective.config;
        assert_eq!(config.subsystems.seal_sdr_max_tasks, 1);
        assert_eq!(config.subsystems.seal_sdr_trees_max_tasks, 0, "max 0 means no limit, also over a layer's");
        assert!(!config.subsystems.enable_move_storage);
        assert_eq!(config.seal.seed_confidence, 5);
        assert_eq!(configured.names, ["fast", "pool.p"]);
    }

    #[rstest]
    #[case::missing(
        json!({"profile": "snark", "layers": ["gone"]}), reason::LAYER_MISSING,
        "layer 'gone' is not one of CurioCluster curio; add it to its spec.layers, or take it out of the pool's"
    )]
    #[case::unknown_key(
        json!({"profile": "snark", "config": {"Seal": {"SeedConfidense": 5}}}), reason::UNKNOWN_KEY,
        "unknown key Seal.SeedConfidense in layer 'pool.p'; did you mean SeedConfidence?"
    )]
    #[case::nothing(
        json!({"config": {"Seal": {"SeedConfidence": 5}}}), reason::INVALID_VALUE,
        "no kind of task is switched on, so that the runners would have nothing to do; set profile, tasks, or a layer"
    )]
    fn what_is_wrong_is_said_in_words(#[case] spec: Json, #[case] reason: &str, #[case] message: &str) {
        let trouble = configured(spec, json!({})).expect_err("it is wrong");
        assert_eq!((trouble.reason(), trouble.to_string().as_str()), (reason, message));
    }

    #[test]
    fn a_null_is_no_value() {
        let trouble = configured(json!({"profile": "snark", "config": {"Seal": {"SeedConfidence": null}}}), json!({}));
        assert_eq!(trouble.expect_err("TOML has no null").reason(), reason::INVALID_VALUE);
    }
}
