//! What the SealingSector controller does and says, from rows and objects to acts, statuses and events, as golden files.
//! No server and no clock takes part.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use curio_core::{SectorRef, SpId};
use curio_harmony::tasks::TaskState;
use curio_operator::api::conditions::{self, undocumented};
use curio_operator::api::sealing_sector::{Removal, SealingSectorStatus};
use curio_operator::api::{SealingSector, SealingSectorSpec};
use curio_operator::databases::ClusterKey;
use curio_operator::sector::news::News;
use curio_operator::sector::observe::{Facts, Observed, Rows, Subject};
use curio_operator::sector::status::{Outcomes, of_orphans, report};
use curio_operator::sector::{desired, validate};
use curio_pipeline::act::{RemovalPreview, Removed};
use curio_pipeline::request::{RequestRow, RequestState};
use curio_pipeline::status::SectorState;
use curio_pipeline::view::{SectorView, TaskView};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Value, json};

const NOON: i64 = 1_800_000_000;
const MINER: SpId = SpId(1000);

fn facts() -> Facts {
    Facts {
        key: ClusterKey::new("curio", "curio"),
        owner: OwnerReference {
            api_version: "curio.filecoin.io/v1alpha1".to_owned(),
            kind: "CurioCluster".to_owned(),
            name: "curio".to_owned(),
            uid: "uid-cluster".to_owned(),
            ..OwnerReference::default()
        },
        miners: BTreeSet::new(),
        finished_ttl: Duration::from_secs(3600),
        paused: false,
    }
}

/// An object as a person writes it: its name is its uid, too.
fn object(name: &str, spec: Value, status: Option<SealingSectorStatus>) -> Subject {
    let mut whole = json!({"cluster": "curio", "miner": "f01000"});
    whole.as_object_mut().expect("it is an object").extend(spec.as_object().expect("it is an object").clone());
    let spec: SealingSectorSpec = serde_json::from_value(whole).expect("it has the fields of a spec");
    let mut object = SealingSector::new(name, spec);
    object.metadata.uid = Some(name.to_owned());
    object.metadata.namespace = Some("curio".to_owned());
    object.metadata.generation = Some(1);
    object.status.clone_from(&status);
    Subject { object: Arc::new(object), before: status.unwrap_or_default() }
}

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).expect("a small number")
}

fn sector(number: u64) -> SectorRef {
    SectorRef::new(MINER, number)
}

fn view(number: u64, stage: &'static str) -> SectorView {
    SectorView {
        sector: sector(number),
        stage,
        state: SectorState::Sealing,
        task: None,
        attempts: 0,
        last_error: None,
        ticket_epoch: None,
        seed_epoch: None,
        unsealed_cid: None,
        sealed_cid: None,
        precommit_cid: None,
        commit_cid: None,
        deadline: None,
        partition: None,
        precommitted: false,
        committed: false,
        failed_reason: None,
        failed_message: None,
        request_uid: None,
        created_at: at(NOON - 600),
        ended_at: None,
        waiting_since_s: None,
    }
}

fn proven(number: u64) -> SectorView {
    SectorView {
        state: SectorState::Proven,
        ticket_epoch: Some(-893),
        seed_epoch: Some(19),
        unsealed_cid: Some("baga6ea4seaq".to_owned()),
        sealed_cid: Some("bagboea4b5abc".to_owned()),
        precommit_cid: Some("bafy2bzaceprecommit".to_owned()),
        commit_cid: Some("bafy2bzacecommit".to_owned()),
        deadline: Some(17),
        partition: Some(0),
        precommitted: true,
        committed: true,
        ended_at: Some(at(NOON - 60)),
        ..view(number, "Done")
    }
}

fn task(id: i64, kind: &str, machine: Option<&str>, state: TaskState) -> Option<TaskView> {
    Some(TaskView { id, kind: kind.to_owned(), machine: machine.map(str::to_owned), state })
}

fn request(uid: &str, state: RequestState, error: &str, numbers: &[u64]) -> RequestRow {
    let sectors = numbers.iter().map(|number| sector(*number)).collect();
    RequestRow { uid: uid.to_owned(), state, error: error.to_owned(), sectors }
}

/// Everything of a scene.
struct Scene {
    facts: Facts,
    subjects: Vec<Subject>,
    database: Result<Rows, String>,
    outcomes: Outcomes,
    now: i64,
}

impl Scene {
    fn new(subjects: Vec<Subject>) -> Scene {
        Scene { facts: facts(), subjects, database: Ok(Rows::default()), outcomes: Outcomes::default(), now: NOON }
    }

    fn rows(mut self, requests: Vec<RequestRow>, sectors: Vec<SectorView>) -> Scene {
        self.database = Ok(Rows {
            requests: requests.into_iter().map(|request| (request.uid.clone(), request)).collect(),
            sectors: sectors.into_iter().map(|view| (view.sector, view)).collect(),
            kinds: ["SDR", "TreeD", "PoRep"].map(str::to_owned).into(),
            ..Rows::default()
        });
        self
    }

    fn preview(mut self, number: u64, preview: RemovalPreview) -> Scene {
        let rows = self.database.as_mut().expect("rows were given");
        rows.previews.insert(sector(number), preview);
        self
    }

    fn observed(&self) -> Observed {
        let with_wish = |subject: &Subject| (subject.clone(), validate::wish(&subject.object, &self.facts.miners));
        Observed {
            facts: self.facts.clone(),
            subjects: self.subjects.iter().map(with_wish).collect(),
            taken: self.subjects.iter().map(|subject| subject.object.name_any()).collect(),
            database: self.database.clone(),
            now: Timestamp::from_second(self.now).expect("a small number"),
        }
    }

    /// The statuses after this scene, for the next one.
    fn statuses(&self) -> Vec<SealingSectorStatus> {
        let written = report(&self.observed(), &self.outcomes).changes;
        let after = |subject: &Subject| {
            let change = written.iter().find(|change| change.object.uid() == subject.object.uid());
            change.map_or_else(|| subject.before.clone(), |change| change.after.clone())
        };
        self.subjects.iter().map(after).collect()
    }

    /// Acts, statuses, objects and events as a person reads them.
    fn golden(&self) -> String {
        let observed = self.observed();
        let mut golden = String::new();
        for act in desired::acts(&observed) {
            writeln!(golden, "act for {}: {:?}", act.uid, act.what).expect("a string can be written to");
        }
        let report = report(&observed, &self.outcomes);
        for change in &report.changes {
            let yaml = serde_yaml_ng::to_string(&change.after).expect("a status is YAML");
            writeln!(golden, "--- status of {}\n{yaml}", change.object.name_any()).expect("a string can be written to");
            for News { warning, reason, note } in &change.news {
                let kind = if *warning { "Warning" } else { "Normal" };
                writeln!(golden, "event {kind} {reason}: {note}").expect("a string can be written to");
            }
            assert_eq!(undocumented(conditions::sector::ALL, &change.after.conditions), [] as [String; 0]);
        }
        for object in &report.create {
            let yaml = serde_yaml_ng::to_string(object).expect("an object is YAML");
            writeln!(golden, "--- create\n{yaml}").expect("a string can be written to");
        }
        for object in &report.delete {
            writeln!(golden, "--- delete {}", object.name_any()).expect("a string can be written to");
        }
        golden
    }
}

macro_rules! assert_golden {
    ($name:literal, $scene:expr) => {
        insta::with_settings!({snapshot_path => "golden_sector", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!($name, $scene.golden());
        })
    };
}

#[test]
fn a_new_object_asks_once_and_waits() {
    let asking = Scene::new(vec![object("first", json!({"piece": {"url": "https://data.example/a"}}), None)]);
    assert_golden!("asks", asking);
    let status = asking.statuses().remove(0);
    let waiting = object("first", json!({"piece": {"url": "https://data.example/a"}}), Some(status));
    let waiting = Scene::new(vec![waiting]).rows(vec![request("first", RequestState::Pending, "", &[])], vec![]);
    assert_eq!(waiting.golden(), "", "nothing is asked or said twice");
}

#[test]
fn an_object_becomes_the_view_of_its_sector() {
    let running = SectorView {
        task: task(37, "SDR", Some("sealing-0"), TaskState::Running),
        ticket_epoch: Some(-893),
        request_uid: Some("first".to_owned()),
        ..view(7, "SDR")
    };
    let scene = Scene::new(vec![object("first", json!({}), None)])
        .rows(vec![request("first", RequestState::Started, "", &[7])], vec![running]);
    assert_golden!("becomes_a_view", scene);
}

#[test]
fn a_proven_sector_says_so_and_stays_as_it_is() {
    let mut done = proven(7);
    done.request_uid = Some("first".to_owned());
    let scene = Scene::new(vec![object("first", json!({}), None)])
        .rows(vec![request("first", RequestState::Started, "", &[7])], vec![done]);
    assert_golden!("proven", scene);
    let status = scene.statuses().remove(0);
    let later = Scene { now: NOON + 86_400, ..Scene::new(vec![object("first", json!({}), Some(status))]) };
    assert_eq!(later.rows(vec![], vec![]).golden(), "", "a person's object stays, whatever left the lists");
}

#[test]
fn a_request_for_many_counts_and_each_sector_gets_an_object() {
    let of_request = |view: SectorView| SectorView { request_uid: Some("many".to_owned()), ..view };
    let failed = SectorView {
        state: SectorState::Failed,
        failed_reason: Some("ticket-expired".to_owned()),
        failed_message: Some("3 tickets expired".to_owned()),
        ..view(9, "Failed")
    };
    let rows = vec![of_request(view(7, "PreCommitSubmit")), of_request(proven(8)), of_request(failed)];
    let scene = Scene::new(vec![object("many", json!({"count": 4}), None)])
        .rows(vec![request("many", RequestState::Started, "", &[6, 7, 8, 9])], rows);
    assert_golden!("many", scene);
}

#[test]
fn a_sector_that_came_from_elsewhere_gets_an_object_and_a_finished_one_does_not() {
    let scene = Scene::new(vec![object("f01000-8", json!({"count": 2}), None)])
        .rows(vec![], vec![view(7, "WaitSeed"), view(8, "SDR"), proven(9)]);
    assert_golden!("from_elsewhere", scene);
}

/// An object as the operator makes it for sector 7.
fn made_by_us(spec: Value, status: Option<SealingSectorStatus>) -> Subject {
    let made = Scene::new(vec![]).rows(vec![], vec![view(7, "SDR")]);
    let labels = report(&made.observed(), &Outcomes::default()).create.remove(0).metadata.labels;
    let mut subject = object("f01000-7", spec, status);
    Arc::make_mut(&mut subject.object).metadata.labels = labels;
    subject
}

#[test]
fn an_object_of_ours_goes_an_hour_after_the_end_of_its_sector_and_not_earlier() {
    let ended = |now: i64| {
        let first = Scene::new(vec![made_by_us(json!({"number": 7}), None)]).rows(vec![], vec![proven(7)]);
        let status = first.statuses().remove(0);
        Scene { now, ..Scene::new(vec![made_by_us(json!({"number": 7}), Some(status))]) }.rows(vec![], vec![])
    };
    assert_eq!(ended(NOON + 3539).golden(), "");
    assert_eq!(ended(NOON + 3540).golden(), "--- delete f01000-7\n");
}

#[test]
fn a_task_without_attempts_left_is_told_and_retried_once_when_asked() {
    let failed = || SectorView {
        task: task(41, "PoRep", None, TaskState::Failed),
        attempts: 5,
        last_error: Some("the proof parameters are missing".to_owned()),
        ..view(7, "PoRep")
    };
    let told = Scene::new(vec![made_by_us(json!({"number": 7}), None)]).rows(vec![], vec![failed()]);
    assert_golden!("task_failed", told);

    let status = told.statuses().remove(0);
    let mut asked = Scene::new(vec![made_by_us(json!({"number": 7, "retry": 1}), Some(status))])
        .rows(vec![], vec![SectorView { task: task(41, "PoRep", None, TaskState::Waiting), ..failed() }]);
    asked.outcomes.retried.insert("f01000-7".to_owned(), vec![41]);
    assert_golden!("retried", asked);

    let status = asked.statuses().remove(0);
    let done =
        Scene::new(vec![made_by_us(json!({"number": 7, "retry": 1}), Some(status))]).rows(vec![], vec![failed()]);
    assert_eq!(desired::acts(&done.observed()), [], "one step is one try");
}

#[test]
fn a_task_that_nobody_does_is_stuck_after_a_minute() {
    let waiting = |seconds: f64| {
        let waits = SectorView {
            task: task(12, "MoveStorage", None, TaskState::Waiting),
            waiting_since_s: Some(seconds),
            ..view(7, "MoveStorage")
        };
        Scene::new(vec![made_by_us(json!({"number": 7}), None)]).rows(vec![], vec![waits])
    };
    assert_golden!("nobody_does_it", waiting(60.0));
    assert!(!waiting(59.0).golden().contains("NoRunner"));
}

#[test]
fn a_stage_that_lasts_half_a_day_is_stuck() {
    let running = || SectorView { task: task(12, "SDR", Some("sealing-0"), TaskState::Running), ..view(7, "SDR") };
    let first = Scene::new(vec![made_by_us(json!({"number": 7}), None)]).rows(vec![], vec![running()]);
    let status = first.statuses().remove(0);
    let after = |seconds: i64| {
        let subject = made_by_us(json!({"number": 7}), Some(status.clone()));
        Scene { now: NOON + seconds, ..Scene::new(vec![subject]) }.rows(vec![], vec![running()])
    };
    assert_eq!(after(12 * 3600 - 1).golden(), "", "nothing new is nothing to write");
    assert_golden!("no_progress", after(12 * 3600));
}

#[test]
fn what_a_cluster_does_not_allow_is_refused_and_never_asked() {
    let mut scene = Scene::new(vec![object("first", json!({}), None)]);
    scene.facts.miners = [SpId(9)].into();
    assert_golden!("miner_not_allowed", scene);
}

#[test]
fn what_the_runner_refuses_is_told_in_its_words() {
    let refusal = "miner f01000 does not exist on this chain";
    let scene = Scene::new(vec![object("first", json!({}), None)])
        .rows(vec![request("first", RequestState::Refused, refusal, &[])], vec![]);
    assert_golden!("refused", scene);
}

#[test]
fn a_database_that_is_away_is_told_to_who_asks_and_changes_nothing_else() {
    let known = Scene::new(vec![made_by_us(json!({"number": 7}), None)]).rows(vec![], vec![view(7, "SDR")]);
    let status = known.statuses().remove(0);
    let mut scene = Scene::new(vec![object("first", json!({}), None), made_by_us(json!({"number": 7}), Some(status))]);
    scene.database = Err("db.example:5432 refuses the connection".to_owned());
    assert_golden!("database_away", scene);
}

#[test]
fn a_paused_cluster_is_told_and_left_alone() {
    let mut scene = Scene::new(vec![object("first", json!({}), None)]).rows(vec![], vec![]);
    scene.facts.paused = true;
    assert_golden!("paused", scene);
}

#[test]
fn an_object_without_its_cluster_says_so() {
    let orphan = object("first", json!({}), None);
    let report = of_orphans(&[orphan], Timestamp::from_second(NOON).expect("a small number"));
    let change = &report.changes[0];
    assert_eq!(change.after.message, "there is no CurioCluster curio in this namespace; create it, or ask another one");
    assert_eq!(undocumented(conditions::sector::ALL, &change.after.conditions), [] as [String; 0]);
    assert!(change.news[0].warning);
}

fn costs_work() -> RemovalPreview {
    RemovalPreview {
        allowed: true,
        reason: "it is not pre-committed yet; nothing is lost but the work".to_owned(),
        files: vec!["cache of 591 bytes on path 6f of sealing-0".to_owned()],
        on_chain: false,
    }
}

/// A later state of the object of sector 7.
fn edited(removal: Removal, generation: i64, status: SealingSectorStatus) -> Subject {
    let mut subject = made_by_us(json!({"number": 7, "removal": removal}), Some(status));
    Arc::make_mut(&mut subject.object).metadata.generation = Some(generation);
    subject
}

#[test]
fn a_removal_goes_in_two_steps() {
    let asked = Scene::new(vec![edited(Removal::Requested, 1, SealingSectorStatus::default())])
        .rows(vec![], vec![view(7, "SDR")])
        .preview(7, costs_work());
    assert_golden!("removal_requested", asked);

    let status = asked.statuses().remove(0);
    let mut confirmed = Scene::new(vec![edited(Removal::Confirmed, 2, status)])
        .rows(vec![], vec![view(7, "SDR")])
        .preview(7, costs_work());
    confirmed.outcomes.removed.insert("f01000-7".to_owned(), Removed::Waiting("SDR runs on sealing-0".to_owned()));
    assert_golden!("removal_waits", confirmed);

    let status = confirmed.statuses().remove(0);
    let mut goes = Scene::new(vec![edited(Removal::Confirmed, 2, status)])
        .rows(vec![], vec![view(7, "SDR")])
        .preview(7, costs_work());
    goes.outcomes.removed.insert("f01000-7".to_owned(), Removed::Done);
    assert_golden!("removed", goes);

    let status = goes.statuses().remove(0);
    let gone = Scene::new(vec![edited(Removal::Confirmed, 2, status)]).rows(vec![], vec![]);
    assert_eq!(gone.golden(), "", "it stays removed");
}

#[test]
fn a_removal_that_was_confirmed_before_its_cost_was_shown_does_nothing() {
    let born_confirmed = Scene::new(vec![edited(Removal::Confirmed, 1, SealingSectorStatus::default())])
        .rows(vec![], vec![view(7, "SDR")])
        .preview(7, costs_work());
    assert_eq!(desired::acts(&born_confirmed.observed()), []);
    let status = born_confirmed.statuses().remove(0);
    let again = Scene::new(vec![edited(Removal::Confirmed, 1, status)])
        .rows(vec![], vec![view(7, "SDR")])
        .preview(7, costs_work());
    assert_eq!(again.golden(), "", "nor does it later, as long as nobody edits it");
}

#[test]
fn a_sector_that_may_not_go_says_why() {
    let on_chain = RemovalPreview {
        allowed: false,
        reason: "it is on chain, and its files are needed to prove it".to_owned(),
        files: Vec::new(),
        on_chain: true,
    };
    let scene = Scene::new(vec![edited(Removal::Requested, 1, SealingSectorStatus::default())])
        .rows(vec![], vec![proven(7)])
        .preview(7, on_chain);
    assert_golden!("removal_refused", scene);
}

#[test]
fn a_sector_that_left_the_database_is_told_as_removed() {
    let known = Scene::new(vec![made_by_us(json!({"number": 7}), None)]).rows(vec![], vec![view(7, "SDR")]);
    let status = known.statuses().remove(0);
    let scene = Scene::new(vec![made_by_us(json!({"number": 7}), Some(status))]).rows(vec![], vec![]);
    assert_golden!("removed_elsewhere", scene);
}
