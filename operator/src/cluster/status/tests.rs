use rstest::rstest;
use serde_json::json;

use super::*;
use crate::api::conditions::undocumented;
use crate::conditions::find;

const IMAGE: &str = "localhost/curio-runner:dev";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a small number")
}

fn spec(more: serde_json::Value) -> CurioClusterSpec {
    let mut json = json!({
        "database": {"urlSecret": {"name": "curio-db"}},
        "chain": {"apiSecrets": [{"name": "lotus"}]},
    });
    json.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    serde_json::from_value(json).expect("a spec")
}

/// A cluster in which all is well, except what a test changes.
struct Scene {
    spec: CurioClusterSpec,
    before: CurioClusterStatus,
    standing: Standing,
    chain_missing: Vec<String>,
    layers: Result<Vec<LayerText>, Refusal>,
    sync: LayerSync,
    migration: Migration,
    pods: Vec<Arc<Pod>>,
    numbers: Option<Numbers>,
}

impl Scene {
    /// All well but the database itself: a standing with one needs a server.
    fn without_database(standing: Standing) -> Scene {
        Scene {
            spec: spec(json!({})),
            before: CurioClusterStatus::default(),
            standing,
            chain_missing: Vec::new(),
            layers: Ok(Vec::new()),
            sync: LayerSync::Unknown,
            migration: Migration::Waits,
            pods: Vec::new(),
            numbers: None,
        }
    }

    /// The schema is newer than this operator, which shows a database that answers without being one.
    fn with_database() -> Scene {
        Scene {
            sync: LayerSync::InSync,
            migration: Migration::Done,
            ..Scene::without_database(Standing::SchemaUnfit("the schema is newer".to_owned()))
        }
    }

    fn status(&self) -> CurioClusterStatus {
        let seen = Seen {
            spec: &self.spec,
            generation: Some(3),
            before: &self.before,
            standing: &self.standing,
            chain_missing: &self.chain_missing,
            layers: &self.layers,
            sync: &self.sync,
            migration: &self.migration,
            image: Some(IMAGE),
            pods: &self.pods,
            numbers: self.numbers.as_ref(),
        };
        let status = status(&seen, at(100));
        assert_eq!(undocumented(cluster::ALL, &status.conditions), [] as [String; 0]);
        status
    }
}

fn runner(name: &str, uid: &str, ready: bool, busy: bool) -> Arc<Pod> {
    let mut labels = labels::of_slot("curio", "sealing", name);
    if busy {
        labels.insert(labels::BUSY.to_owned(), "true".to_owned());
    }
    let ready = if ready { "True" } else { "False" };
    let json = json!({
        "metadata": {"name": name, "uid": uid, "labels": labels},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    });
    Arc::new(serde_json::from_value(json).expect("a pod"))
}

fn machine(name: &str, instance: &str, state: MachineState) -> MachineRow {
    let time = "2026-01-01T00:00:00Z".parse().expect("a time");
    MachineRow {
        id: 1,
        name: name.to_owned(),
        incarnation: 1,
        instance: instance.to_owned(),
        address: String::new(),
        cpu: 1,
        ram_bytes: 1,
        gpu_milli: 0,
        kinds: Vec::new(),
        layers: Vec::new(),
        labels: Vec::new(),
        version: "0.1.0".to_owned(),
        started_at: time,
        process_started_at: None,
        cordoned_at: None,
        last_contact: time,
        contact_age_s: 1.0,
        running: 0,
        state,
    }
}

fn ready(status: &CurioClusterStatus) -> (&str, &str, &str) {
    let ready = find(&status.conditions, cluster::READY).expect("there is always one");
    (&ready.status, &ready.reason, &ready.message)
}

#[test]
fn a_cluster_in_which_all_is_well_is_ready_and_says_what_goes_on() {
    let scene = Scene { pods: vec![runner("sealing-0", "u0", true, true)], ..Scene::with_database() };
    let status = scene.status();
    assert_eq!(ready(&status), ("True", "Ok", "1 of 1 runners ready, 1 busy; 0 sectors in flight, 0 failed"));
    assert_eq!(status.migrated_version.as_deref(), Some(IMAGE));
    assert_eq!(status.observed_generation, Some(3));
}

#[rstest]
#[case(Standing::Unknown, "Unknown", "Progressing")]
#[case(Standing::SecretMissing("there is no Secret 'curio-db'".to_owned()), "False", "SecretMissing")]
#[case(Standing::InvalidUrl("not understood".to_owned()), "False", "InvalidUrl")]
#[case(Standing::Unreachable("no database answers".to_owned()), "False", "Unreachable")]
#[case(Standing::InUse { owner: "ns/first".to_owned() }, "False", "InUse")]
fn a_database_that_cannot_be_used_is_said_in_its_condition_and_in_ready(
    #[case] standing: Standing,
    #[case] expected: &str,
    #[case] reason: &str,
) {
    let words = standing.to_string();
    let status = Scene::without_database(standing).status();
    let database = find(&status.conditions, cluster::DATABASE_READY).expect("there is one");
    assert_eq!((database.status.as_str(), database.reason.as_str()), (expected, reason));
    assert_eq!(ready(&status), ("False", reason, words.as_str()));
}

#[test]
fn the_last_numbers_stay_while_the_database_is_away() {
    let mut scene = Scene::without_database(Standing::Unreachable("no database answers".to_owned()));
    scene.before = CurioClusterStatus {
        sectors_in_flight: 4,
        sectors_failed: 1,
        queue: vec![KindCount { kind: "SDR".to_owned(), waiting: 2, ..KindCount::default() }],
        machines: MachineCount { inside: 2, outside: 1, lost: 0 },
        edited_layers: vec!["base".to_owned()],
        migrated_version: Some(IMAGE.to_owned()),
        ..CurioClusterStatus::default()
    };
    let status = scene.status();
    assert_eq!((status.sectors_in_flight, status.sectors_failed, status.queued), (4, 1, 2));
    assert_eq!(status.machines, scene.before.machines);
    assert_eq!(status.edited_layers, ["base"]);
    assert_eq!(status.migrated_version.as_deref(), Some(IMAGE));
}

#[test]
fn a_machine_is_inside_when_it_is_the_process_of_one_of_our_pods() {
    let machines = vec![
        machine("sealing-0", "u0", MachineState::Up),
        machine("sealing-1", "an-earlier-pod", MachineState::Late),
        machine("bare-metal", "", MachineState::Up),
        machine("gone", "u9", MachineState::Lost),
        machine("ended", "u8", MachineState::Stopped),
    ];
    let numbers = Numbers { loads: Vec::new(), machines, sectors: Vec::new() };
    let pods = vec![runner("sealing-0", "u0", true, false), runner("sealing-1", "u1", false, false)];
    let status = Scene { pods, numbers: Some(numbers), ..Scene::with_database() }.status();
    assert_eq!(status.machines, MachineCount { inside: 1, outside: 2, lost: 1 });
    assert_eq!(status.runners, RunnerCount { total: 2, ready: 1, busy: 0 });
    assert_eq!(status.versions, [VersionCount { version: "0.1.0".to_owned(), runners: 3 }]);
}

#[test]
fn a_layer_edited_by_hand_is_said_and_keeps_nobody_from_working() {
    let scene = Scene { sync: LayerSync::Edited(vec!["base".to_owned()]), ..Scene::with_database() };
    let status = scene.status();
    let sync = find(&status.conditions, cluster::LAYERS_IN_SYNC).expect("there is one");
    assert_eq!((sync.status.as_str(), sync.reason.as_str()), ("False", "EditedByHand"));
    assert!(sync.message.contains("curio.filecoin.io/overwrite-layer=NAME"), "{}", sync.message);
    assert_eq!(ready(&status).0, "True");
    assert_eq!(status.edited_layers, ["base"]);
}

#[test]
fn a_wrong_layer_keeps_a_cluster_from_being_ready_in_words() {
    let refusal = Refusal { reason: reason::UNKNOWN_KEY, message: "did you mean EnableSealSDR?".to_owned() };
    let scene = Scene { layers: Err(refusal), sync: LayerSync::Unknown, ..Scene::with_database() };
    assert_eq!(ready(&scene.status()), ("False", "UnknownKey", "did you mean EnableSealSDR?"));
}

#[rstest]
#[case(Migration::Running("the migration Job waits: ErrImagePull: no such image".to_owned()), "Migrating")]
#[case(Migration::Failed("permission denied".to_owned()), "MigrationFailed")]
#[case(Migration::Unfit("too old".to_owned()), "SchemaUnfit")]
#[case(Migration::NoImage, "ImageMissing")]
#[case(Migration::Due, "Migrating")]
fn a_schema_that_is_not_there_yet_says_why(#[case] migration: Migration, #[case] reason: &str) {
    let scene = Scene { migration, ..Scene::with_database() };
    let status = scene.status();
    assert_eq!((ready(&status).0, ready(&status).1), ("False", reason));
    assert_eq!(status.migrated_version, None);
}

#[test]
fn a_chain_secret_that_is_missing_is_named() {
    let missing = vec!["there is no Secret 'lotus' in namespace 'ns'".to_owned()];
    let status = Scene { chain_missing: missing, ..Scene::with_database() }.status();
    assert_eq!(ready(&status), ("False", "SecretMissing", "there is no Secret 'lotus' in namespace 'ns'"));
}

#[test]
fn paused_and_hibernated_are_said_and_a_migration_waits() {
    let spec = spec(json!({"paused": true, "hibernated": true}));
    let scene = Scene { spec, migration: Migration::Due, sync: LayerSync::Unknown, ..Scene::with_database() };
    let status = scene.status();
    let is = |type_| find(&status.conditions, type_).map(|condition| condition.status.as_str());
    assert_eq!((is(cluster::PAUSED), is(cluster::HIBERNATED)), (Some("True"), Some("True")));
    assert_eq!(ready(&status).1, "Paused");
}

#[rstest]
#[case(0.0, 0)]
#[case(4.9, 0)]
#[case(59.0, 55)]
#[case(119.0, 60)]
#[case(4000.0, 3600)]
fn the_oldest_wait_grows_in_steps(#[case] seconds: f64, #[case] expected: i64) {
    assert_eq!(coarse(seconds), expected);
}
