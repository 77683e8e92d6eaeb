//! A slot: the stable name of a runner, with what Kubernetes and the database say about whoever has it now.

use std::collections::BTreeMap;

use curio_pipeline::pinned::Pinned;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use super::pod::{CONTAINER, TEMPLATE_HASH};
use super::work::{Machine, Work};

/// A slot that has a pod, or a machine in the database.
#[derive(Clone, Debug, PartialEq)]
pub struct Slot {
    pub number: u32,
    pub name: String,
    pub pod: Option<SlotPod>,
    /// Kinds of the tasks that the machine owns.
    pub tasks: Vec<String>,
    pub pinned: Pinned,
    pub process: Process,
}

/// What the database knows of the process in the slot's pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// Nothing: no machine of this name, or one of an instance before.
    Unknown,
    /// It runs and takes work.
    Working,
    /// It runs and has taken nothing new for this long.
    Cordoned(std::time::Duration),
    /// The last process of the name stopped in order, or was lost; its row is still there.
    Gone,
}

/// The pod of a slot.
#[derive(Clone, Debug, PartialEq)]
pub struct SlotPod {
    pub uid: String,
    pub node: Option<String>,
    pub health: Health,
    pub ready: bool,
    /// Whether it was made from the present template.
    pub updated: bool,
    /// Whether it has the label of a busy runner.
    pub labelled_busy: bool,
    /// When its time to stop is over; none while it is not being deleted.
    pub ends_at: Option<Timestamp>,
}

/// How a pod does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// On its way; nothing is wrong yet.
    Starting,
    Running,
    /// It ended and does not come back by itself.
    Ended(String),
    /// The image cannot be pulled; the kubelet's words.
    ImagePull(String),
    /// The container cannot be made, mostly for want of a Secret; the kubelet's words.
    Unmakeable(String),
    /// The container ends again and again.
    Crashing(String),
    /// No node takes it; the scheduler's words.
    Unschedulable(String),
}

impl Health {
    /// One word, as `kubectl get pods` would show it.
    pub fn word(&self) -> &'static str {
        match self {
            Health::Starting => "Starting",
            Health::Running => "Running",
            Health::Ended(_) => "Ended",
            Health::ImagePull(_) => "ImagePull",
            Health::Unmakeable(_) => "ContainerConfig",
            Health::Crashing(_) => "Crashing",
            Health::Unschedulable(_) => "Unschedulable",
        }
    }

    /// Why it does not do its work, in the words of whoever found it.
    pub fn complaint(&self) -> Option<&str> {
        match self {
            Health::Starting | Health::Running => None,
            Health::Ended(why)
            | Health::ImagePull(why)
            | Health::Unmakeable(why)
            | Health::Crashing(why)
            | Health::Unschedulable(why) => Some(why),
        }
    }
}

impl Slot {
    pub fn is_busy(&self) -> bool {
        !self.tasks.is_empty()
    }

    pub fn is_pinned(&self) -> bool {
        self.pinned != Pinned::default()
    }

    /// The pod, if it is there to stay for the present.
    pub fn live(&self) -> Option<&SlotPod> {
        self.pod.as_ref().filter(|pod| pod.ends_at.is_none() && !matches!(pod.health, Health::Ended(_)))
    }
}

/// Name of the slot of this number.
pub fn name(pool: &str, number: u32) -> String {
    format!("{pool}-{number}")
}

/// Number of the slot of this name; none when it is no slot of the pool.
pub fn number(pool: &str, name: &str) -> Option<u32> {
    let digits = name.strip_prefix(pool)?.strip_prefix('-')?;
    let number = digits.parse().ok()?;
    // `+1` and `01` parse, too, and are names of nothing.
    (self::name(pool, number) == name).then_some(number)
}

/// The slots of a pool, by number. A machine counts only if its process ran in a pod: one outside may have any name.
pub fn slots(pool: &str, pods: &[Pod], work: Option<&Work>, hash: Option<&str>) -> Vec<Slot> {
    let mut slots: BTreeMap<u32, Slot> = BTreeMap::new();
    let empty = |number: u32| Slot {
        number,
        name: name(pool, number),
        pod: None,
        tasks: Vec::new(),
        pinned: Pinned::default(),
        process: Process::Unknown,
    };
    for pod in pods {
        let Some(number) = number(pool, &pod.name_any()) else { continue };
        slots.entry(number).or_insert_with(|| empty(number)).pod = Some(slot_pod(pod, hash));
    }
    let machines = work.into_iter().flat_map(|work| &work.machines);
    for (name, machine) in machines.filter(|(_, machine)| !machine.instance.is_empty()) {
        let Some(number) = number(pool, name) else { continue };
        let slot = slots.entry(number).or_insert_with(|| empty(number));
        slot.process = process(machine, slot.pod.as_ref());
        slot.tasks = machine.tasks.clone();
        slot.tasks.sort_unstable();
        slot.pinned = machine.pinned;
    }
    slots.into_values().collect()
}

fn process(machine: &Machine, pod: Option<&SlotPod>) -> Process {
    match pod {
        _ if machine.gone => Process::Gone,
        Some(pod) if pod.uid == machine.instance => machine.cordoned_for.map_or(Process::Working, Process::Cordoned),
        Some(_) | None => Process::Unknown,
    }
}

fn slot_pod(pod: &Pod, hash: Option<&str>) -> SlotPod {
    let status = pod.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    SlotPod {
        uid: pod.uid().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        health: health(pod),
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        updated: hash.is_none() || pod.annotations().get(TEMPLATE_HASH).map(String::as_str) == hash,
        labelled_busy: pod.labels().get(crate::apply::labels::BUSY).is_some_and(|value| value == "true"),
        ends_at: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
    }
}

/// The container of a runner, as the kubelet reports it.
pub fn runner(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_deref()?;
    statuses.iter().find(|status| status.name == CONTAINER)
}

fn health(pod: &Pod) -> Health {
    let Some(status) = &pod.status else { return Health::Starting };
    if let Some(phase @ ("Failed" | "Succeeded")) = status.phase.as_deref() {
        let why = [&status.reason, &status.message].into_iter().flatten().cloned().collect::<Vec<_>>().join(": ");
        return Health::Ended(if why.is_empty() { format!("the pod is {phase}") } else { why });
    }
    let unscheduled = status.conditions.iter().flatten().find(|condition| {
        condition.type_ == "PodScheduled"
            && condition.status == "False"
            && condition.reason.as_deref() == Some("Unschedulable")
    });
    if let Some(condition) = unscheduled {
        return Health::Unschedulable(condition.message.clone().unwrap_or_default());
    }
    runner(pod).map_or(Health::Starting, container_health)
}

fn container_health(container: &ContainerStatus) -> Health {
    /// What the kubelet says of an image that it cannot get.
    const IMAGE: [&str; 6] = [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
    ];
    /// What it says of a container that it cannot make.
    const UNMAKEABLE: [&str; 3] = ["CreateContainerConfigError", "CreateContainerError", "RunContainerError"];
    let Some(state) = &container.state else { return Health::Starting };
    if state.running.is_some() {
        return Health::Running;
    }
    let Some(waiting) = &state.waiting else { return Health::Starting };
    let reason = waiting.reason.as_deref().unwrap_or_default();
    let words = || waiting.message.clone().filter(|words| !words.is_empty()).unwrap_or_else(|| reason.to_owned());
    match reason {
        reason if IMAGE.contains(&reason) => Health::ImagePull(words()),
        reason if UNMAKEABLE.contains(&reason) => Health::Unmakeable(words()),
        "CrashLoopBackOff" => Health::Crashing(last_end(container)),
        _ => Health::Starting,
    }
}

/// How the container ended last, in a sentence.
fn last_end(container: &ContainerStatus) -> String {
    let count = container.restart_count;
    let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let Some(ended) = ended else { return format!("the container was started {count} times and ended each time") };
    let reason = ended.reason.as_deref().unwrap_or("Error");
    let words = ended.message.as_deref().map(str::trim).filter(|words| !words.is_empty());
    let words = words.map(|words| format!(": {words}")).unwrap_or_default();
    format!("the container ended with exit code {} ({reason}) after {count} restarts{words}", ended.exit_code)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    #[rstest]
    #[case("sealing-0", Some(0))]
    #[case("sealing-17", Some(17))]
    #[case("sealing-01", None)]
    #[case("sealing-+1", None)]
    #[case("sealing-a-0", None)]
    #[case("sealing", None)]
    #[case("seal-0", None)]
    fn only_the_names_that_we_give_are_slots(#[case] name: &str, #[case] expected: Option<u32>) {
        assert_eq!(number("sealing", name), expected);
    }

    fn pod(status: Value) -> Pod {
        let pod = json!({"metadata": {"name": "snark-0", "uid": "u1"}, "status": status});
        serde_json::from_value(pod).expect("a pod")
    }

    fn container(state: Value, last: Value) -> Value {
        json!({"phase": "Pending", "containerStatuses": [{
            "name": CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 3, "state": state, "lastState": last,
        }]})
    }

    #[rstest]
    #[case::new(json!({"phase": "Pending"}), "Starting", None)]
    #[case::running(container(json!({"running": {}}), json!({})), "Running", None)]
    #[case::image(
        container(json!({"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image \"x\""}}), json!({})),
        "ImagePull", Some("Back-off pulling image \"x\"")
    )]
    #[case::secret(
        container(json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"s\" not found"}}), json!({})),
        "ContainerConfig", Some("secret \"s\" not found")
    )]
    #[case::crashing(
        container(
            json!({"waiting": {"reason": "CrashLoopBackOff"}}),
            json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}}),
        ),
        "Crashing", Some("the container ended with exit code 137 (OOMKilled) after 3 restarts")
    )]
    #[case::unschedulable(
        json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes are available"}
        ]}),
        "Unschedulable", Some("0/2 nodes are available")
    )]
    #[case::evicted(
        json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}),
        "Ended", Some("Evicted: low on memory")
    )]
    fn health_is_told_in_the_words_of_who_found_it(
        #[case] status: Value,
        #[case] word: &str,
        #[case] complaint: Option<&str>,
    ) {
        let health = health(&pod(status));
        assert_eq!((health.word(), health.complaint()), (word, complaint));
    }

    fn work(instance: &str, gone: bool) -> Work {
        let machine =
            Machine { instance: instance.to_owned(), gone, tasks: vec!["SDR".to_owned()], ..Machine::default() };
        let machines = BTreeMap::from([("snark-0".to_owned(), machine)]);
        Work { machines, queue: Vec::new(), requests: 0, proofs_due: 0 }
    }

    #[rstest]
    #[case::its_own_process("u1", false, Process::Working)]
    #[case::the_pod_before("u0", false, Process::Unknown)]
    #[case::it_stopped("u1", true, Process::Gone)]
    fn a_machine_is_matched_by_name_and_instance(
        #[case] instance: &str,
        #[case] gone: bool,
        #[case] expected: Process,
    ) {
        let slots = slots("snark", &[pod(json!({}))], Some(&work(instance, gone)), None);
        assert_eq!(slots.len(), 1);
        assert_eq!(slots[0].process, expected);
        assert!(slots[0].is_busy(), "what a name owns, its slot owns");
    }

    #[test]
    fn a_machine_outside_of_kubernetes_is_no_slot() {
        assert_eq!(slots("snark", &[], Some(&work("", false)), None), []);
    }
}
