//! What a person would look at after a failed scenario, shortened.

use crate::settings::settings;

/// Prints the namespace's objects, the reasons of those of our kinds, its last events and the ends of its logs.
pub async fn namespace(namespace: &str) {
    eprintln!("-- {namespace} when it failed --");
    let columns = "custom-columns=KIND:.kind,NAME:.metadata.name,STATUS:.status.conditions[*].type,\
                   IS:.status.conditions[*].status,SAYS:.status.conditions[*].message";
    for arguments in [
        &["get", "curioclusters,runnerpools,sealingsectors,pods,jobs,persistentvolumeclaims", "--output=wide"][..],
        &["get", "curioclusters,runnerpools,sealingsectors", &format!("--output={columns}")],
        &[
            "get",
            "events",
            "--sort-by=.metadata.creationTimestamp",
            "--output=custom-columns=OBJECT:.involvedObject.name,REASON:.reason,SAYS:.message",
        ],
    ] {
        say(namespace, arguments, 25).await;
    }
    let pods = kubectl(namespace, &["get", "pods", "--output=name"]).await;
    for pod in pods.lines() {
        eprintln!("-- log of {pod}");
        say(namespace, &["logs", pod, "--all-containers", "--tail=15"], 15).await;
    }
}

async fn say(namespace: &str, arguments: &[&str], lines: usize) {
    let said = kubectl(namespace, arguments).await;
    let all: Vec<&str> = said.lines().collect();
    for line in &all[all.len().saturating_sub(lines)..] {
        eprintln!("{}", line.chars().take(400).collect::<String>());
    }
}

/// What it says on both streams; a dump of a failure must not fail itself.
async fn kubectl(namespace: &str, arguments: &[&str]) -> String {
    let mut kubectl = settings().kubectl();
    kubectl.args(["--namespace", namespace]).args(arguments).kill_on_drop(true);
    match kubectl.output().await {
        Ok(output) => String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
        Err(error) => format!("kubectl does not start: {error}"),
    }
}
