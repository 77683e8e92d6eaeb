//! What must hold of everything that the chart renders, as pure functions over its documents.

use std::collections::BTreeSet;

use serde_json::{Value, json};

const KEEP: &str = "/metadata/annotations/helm.sh~1resource-policy";
/// Kinds that lie in no namespace, among those that we render.
const CLUSTER_WIDE: [&str; 3] = ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"];

/// Everything that is not as it must be, each with the object that it is about.
pub fn faults(documents: &[Value], namespace: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for document in documents {
        let kind = text(&document["kind"]);
        let mut wrong = Vec::new();
        if !CLUSTER_WIDE.contains(&kind) && document["metadata"]["namespace"] != namespace {
            wrong.push("is not in the release's namespace".to_owned());
        }
        match kind {
            "Role" | "ClusterRole" => wrong.extend(rights(document)),
            "PersistentVolumeClaim" | "CustomResourceDefinition" if document.pointer(KEEP) != Some(&json!("keep")) => {
                wrong.push("is deleted by `helm uninstall`".to_owned());
            }
            "Secret" => wrong.extend(secret(document)),
            _ => {}
        }
        if let Some(pod) = pod(document) {
            wrong.extend(restricted(pod));
        }
        let name = text(&document["metadata"]["name"]);
        faults.extend(wrong.into_iter().map(|wrong| format!("{kind} {name} {wrong}")));
    }
    faults.extend(images(documents).into_iter().filter_map(|image| moving(&image)));
    faults
}

/// An alert, by what makes it of use.
pub struct Alert {
    pub name: String,
    /// Names of numbers in its condition.
    pub metrics: BTreeSet<String>,
    /// Where it is told what to do.
    pub runbook: String,
}

/// The label that tells the clusters of one Prometheus apart. No number, though it is called like one.
pub const CLUSTER_LABEL: &str = "curio_cluster";

/// Labels that collected numbers are given.
pub fn target_labels(documents: &[Value]) -> BTreeSet<&str> {
    let monitors = documents.iter().filter(|document| document["kind"] == "PodMonitor");
    let endpoints = monitors.flat_map(|monitor| list(&monitor["spec"]["podMetricsEndpoints"]));
    endpoints.flat_map(|endpoint| list(&endpoint["relabelings"])).map(|rule| text(&rule["targetLabel"])).collect()
}

/// The alerts of all rules.
pub fn alerts(documents: &[Value]) -> Vec<Alert> {
    let rules = documents.iter().filter(|document| document["kind"] == "PrometheusRule");
    let groups = rules.flat_map(|rule| list(&rule["spec"]["groups"]));
    let alert = |rule: &Value| Alert {
        name: text(&rule["alert"]).to_owned(),
        metrics: text(&rule["expr"])
            .split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_')
            .filter(|word| word.starts_with("curio_") && *word != CLUSTER_LABEL)
            .map(str::to_owned)
            .collect(),
        runbook: text(&rule["annotations"]["runbook_url"]).to_owned(),
    };
    groups.flat_map(|group| list(&group["rules"])).map(alert).collect()
}

/// Wildcards, and the right to delete what holds a user's data.
fn rights(role: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    for rule in list(&role["rules"]) {
        let words = |key: &str| -> BTreeSet<&str> { list(&rule[key]).iter().map(text).collect() };
        for key in ["apiGroups", "resources", "verbs", "resourceNames", "nonResourceURLs"] {
            if words(key).iter().any(|word| word.contains('*')) {
                wrong.push(format!("has a wildcard in {key}: {rule}"));
            }
        }
        let deletes = words("verbs").contains("delete") || words("verbs").contains("deletecollection");
        if deletes && words("resources").iter().any(|resource| ["persistentvolumeclaims", "secrets"].contains(resource))
        {
            wrong.push(format!("may delete what a user cannot get back: {rule}"));
        }
    }
    wrong
}

fn secret(secret: &Value) -> Vec<String> {
    let words = secret["stringData"].as_object().into_iter().flatten();
    // The seed of the evaluation's chain protects nothing.
    let short = words.filter(|(key, word)| *key != "seed" && text(word).len() < 32);
    short.map(|(key, _)| format!("has a {key} that can be guessed")).collect()
}

/// What the pod security standard `restricted` asks for, and what we ask for beyond it: a read-only root file system, a memory
/// limit, and a word about the token.
fn restricted(pod: &Value) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            wrong.push(what);
        }
    };
    let security = &pod["securityContext"];
    expect(security["runAsNonRoot"] == true, "may run as root".to_owned());
    expect(security["seccompProfile"]["type"] == "RuntimeDefault", "has no seccomp profile".to_owned());
    expect(pod["automountServiceAccountToken"].is_boolean(), "does not say whether it needs a token".to_owned());
    for shared in ["hostNetwork", "hostPID", "hostIPC"] {
        expect(pod[shared].is_null(), format!("uses {shared}"));
    }
    for volume in list(&pod["volumes"]) {
        let allowed = ["configMap", "emptyDir", "persistentVolumeClaim", "secret", "projected"];
        let known = allowed.iter().any(|kind| !volume[*kind].is_null());
        expect(known, format!("has a volume of a kind that restricted refuses: {volume}"));
    }
    for container in containers(pod) {
        let name = text(&container["name"]);
        let security = &container["securityContext"];
        expect(security["allowPrivilegeEscalation"] == false, format!("lets container {name} gain rights"));
        expect(security["readOnlyRootFilesystem"] == true, format!("lets container {name} write its root"));
        expect(security["capabilities"]["drop"] == json!(["ALL"]), format!("leaves container {name} capabilities"));
        expect(!container["resources"]["limits"]["memory"].is_null(), format!("sets container {name} no memory limit"));
        expect(!container["resources"]["requests"].is_null(), format!("says not what container {name} needs"));
    }
    wrong
}

/// Every image of every pod, and the one that the operator is told to start.
pub fn images(documents: &[Value]) -> BTreeSet<String> {
    let pods = documents.iter().filter_map(pod);
    let mut images: BTreeSet<String> =
        pods.flat_map(containers).map(|container| text(&container["image"]).to_owned()).collect();
    let variables = documents.iter().filter_map(pod).flat_map(containers).flat_map(|container| list(&container["env"]));
    let told = variables.filter(|variable| text(&variable["name"]).ends_with("_IMAGE"));
    images.extend(told.map(|variable| text(&variable["value"]).to_owned()));
    images
}

fn moving(image: &str) -> Option<String> {
    let last = image.rsplit('/').next().unwrap_or(image);
    let fixed = last.contains("@sha256:") || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    (!fixed).then(|| format!("image {image} may be another one tomorrow"))
}

/// Where the rendered definitions of our kinds differ from the generated ones, apart from what the chart adds.
pub fn kinds_differ(documents: &[Value], generated: &[Value]) -> Vec<String> {
    let definitions = documents.iter().filter(|document| document["kind"] == "CustomResourceDefinition");
    let rendered: Vec<Value> = definitions.cloned().map(without_helm).collect();
    if rendered.is_empty() {
        return Vec::new();
    }
    let missing = generated.iter().cloned().map(without_helm).filter(|kind| !rendered.contains(kind));
    let stale = |kind: Value| {
        format!(
            "{} in charts/curio/files/crds is not what crds/ has; run `cargo xtask generate`",
            kind["metadata"]["name"]
        )
    };
    missing.map(stale).collect()
}

fn without_helm(mut definition: Value) -> Value {
    if let Some(metadata) = definition["metadata"].as_object_mut() {
        metadata.retain(|key, _| key == "name");
    }
    with_plain_numbers(definition)
}

/// The generator writes limits as 1000.0, Helm as 1000.
fn with_plain_numbers(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.into_iter().map(with_plain_numbers).collect(),
        Value::Object(fields) => fields.into_iter().map(|(key, field)| (key, with_plain_numbers(field))).collect(),
        plain @ (Value::Null | Value::Bool(_) | Value::String(_)) => plain,
    }
}

/// The pod that a document describes, if it describes one.
fn pod(document: &Value) -> Option<&Value> {
    match text(&document["kind"]) {
        "Pod" => Some(&document["spec"]),
        "Deployment" | "StatefulSet" | "Job" => Some(&document["spec"]["template"]["spec"]),
        _ => None,
    }
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["initContainers"]).iter().chain(list(&pod["containers"]))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good_pod() -> Value {
        json!({
            "kind": "Pod",
            "metadata": {"name": "p", "namespace": "ns"},
            "spec": {
                "automountServiceAccountToken": false,
                "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "c",
                    "image": "registry.example:5000/c:1",
                    "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }],
            },
        })
    }

    #[test]
    fn a_pod_that_keeps_all_rules_has_no_fault() {
        assert_eq!(faults(&[good_pod()], "ns"), Vec::<String>::new());
    }

    #[test]
    fn each_broken_rule_of_a_pod_is_one_fault() {
        for (pointer, value, fault) in [
            ("/metadata/namespace", json!("other"), "Pod p is not in the release's namespace"),
            ("/spec/securityContext/runAsNonRoot", json!(false), "Pod p may run as root"),
            ("/spec/securityContext/seccompProfile", json!(null), "Pod p has no seccomp profile"),
            ("/spec/automountServiceAccountToken", json!(null), "Pod p does not say whether it needs a token"),
            ("/spec/containers/0/securityContext/capabilities", json!({}), "Pod p leaves container c capabilities"),
            ("/spec/containers/0/resources/limits", json!({}), "Pod p sets container c no memory limit"),
            ("/spec/containers/0/image", json!("c:latest"), "image c:latest may be another one tomorrow"),
            ("/spec/containers/0/image", json!("host:5000/c"), "image host:5000/c may be another one tomorrow"),
        ] {
            let mut pod = good_pod();
            *pod.pointer_mut(pointer).expect("the good pod has it") = value;
            assert_eq!(faults(&[pod], "ns"), [fault]);
        }
    }

    #[test]
    fn wildcards_and_lost_claims_are_faults() {
        let role = |rule: Value| json!({"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [rule]});
        let wild = role(json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]}));
        assert_eq!(faults(&[wild], "ns").len(), 1);
        let deleting = role(json!({"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["delete"]}));
        assert_eq!(faults(&[deleting], "ns").len(), 1);
        let claim = json!({"kind": "PersistentVolumeClaim", "metadata": {"name": "data", "namespace": "ns"}});
        assert_eq!(faults(&[claim], "ns"), ["PersistentVolumeClaim data is deleted by `helm uninstall`"]);
    }

    #[test]
    fn a_stale_definition_is_named() {
        let kind = |plural: &str| json!({"kind": "CustomResourceDefinition", "metadata": {"name": "runnerpools"}, "spec": {"names": plural, "max": 1000.0}});
        let mut rendered = kind("runnerpools");
        rendered["spec"]["max"] = json!(1000);
        rendered["metadata"]["labels"] = json!({"helm": "3"});
        assert_eq!(kinds_differ(&[rendered.clone()], &[kind("runnerpools")]), Vec::<String>::new());
        assert_eq!(kinds_differ(&[rendered], &[kind("pools")]).len(), 1);
        assert!(kinds_differ(&[], &[kind("pools")]).is_empty(), "a release without them is fine");
    }

    #[test]
    fn an_alert_is_read_with_its_numbers_and_its_page() {
        let rule = json!({
            "alert": "Late", "expr": "min by (curio_cluster, sp) (curio_a_total) < 5 and curio_b{sp=\"f01\"} > 0",
            "annotations": {"runbook_url": "https://pages.example/late.md"},
        });
        let document = json!({"kind": "PrometheusRule", "spec": {"groups": [{"rules": [rule]}]}});
        let alerts = alerts(&[document, good_pod()]);
        let metrics: Vec<&str> = alerts[0].metrics.iter().map(String::as_str).collect();
        assert_eq!((alerts.len(), metrics), (1, vec!["curio_a_total", "curio_b"]));
        assert_eq!(alerts[0].runbook, "https://pages.example/late.md");
    }

    #[test]
    fn a_label_that_is_put_on_what_is_collected_is_found() {
        let endpoint = json!({"port": "http", "relabelings": [{"targetLabel": "curio_cluster"}]});
        let monitor = json!({"kind": "PodMonitor", "spec": {"podMetricsEndpoints": [{"port": "http"}, endpoint]}});
        assert_eq!(target_labels(&[monitor, good_pod()]), BTreeSet::from([CLUSTER_LABEL]));
    }
}
