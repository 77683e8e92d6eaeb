//! The alerts that the chart brings: each can be acted on, and each fires and is silent as `xtask/chart/alerts.yaml` says.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::promtool::Promtool;
use super::rules::{self, Alert};
use crate::places;

/// Every alert asks for a number that runners tell, and names a page that is there; the label that tells clusters apart is put
/// on what is collected.
///
/// # Errors
/// The first that does not.
pub fn can_be_acted_on(documents: &[Value]) -> Result<()> {
    let alerts = rules::alerts(documents);
    ensure!(!alerts.is_empty(), "no alert was found");
    let sources = sources(&places::repository().join("runner").join("src"))?;
    for Alert { name, metrics, runbook } in alerts {
        let page = runbook.rsplit('/').next().unwrap_or_default();
        let page = places::repository().join("docs").join("runbooks").join(page);
        ensure!(page.is_file(), "{name}: there is no {}", page.display());
        for metric in &metrics {
            // The text format gives counters and facts an ending that they are registered without.
            let registered = metric.trim_end_matches("_total").trim_end_matches("_info");
            let quoted = format!("\"{registered}\"");
            ensure!(sources.contains(&quoted), "{name}: no runner tells {metric}");
        }
    }
    let label = rules::CLUSTER_LABEL;
    ensure!(rules::target_labels(documents).contains(label), "no PodMonitor gives what it collects the label {label}");
    Ok(())
}

/// The cases hold for the rules, and every alert has a case in which it fires and one in which it is silent.
///
/// # Errors
/// What does not hold.
pub fn fire_as_told(documents: &[Value], promtool: &Promtool) -> Result<()> {
    let cases = places::repository().join("xtask").join("chart").join("alerts.yaml");
    let text = fs::read_to_string(&cases).with_context(|| format!("failed to read {}", cases.display()))?;
    let told: Value =
        serde_yaml_ng::from_str(&text).with_context(|| format!("{} is no YAML of cases", cases.display()))?;
    for Alert { name, .. } in rules::alerts(documents) {
        for (fires, what) in [(true, "fires"), (false, "is silent")] {
            ensure!(has_case(&told, &name, fires), "{} has no case in which {name} {what}", cases.display());
        }
    }

    let scratch = places::scratch("alerts")?;
    let rule = documents.iter().find(|document| document["kind"] == "PrometheusRule");
    let rule = &rule.context("the chart renders no PrometheusRule")?["spec"];
    let rules_text = serde_yaml_ng::to_string(rule).context("the rules cannot be written as YAML")?;
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let file = scratch.path().join(name);
        fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))?;
        Ok(file)
    };
    promtool.check_rules(&write("rules.yaml", &rules_text)?)?;
    promtool.test_rules(&write("alerts.yaml", &text)?)
}

fn has_case(cases: &Value, alert: &str, fires: bool) -> bool {
    let tests = cases["tests"].as_array().into_iter().flatten();
    let checks = tests.flat_map(|test| test["alert_rule_test"].as_array().into_iter().flatten());
    let mut of_alert = checks.filter(|check| check["alertname"] == alert);
    of_alert.any(|check| check["exp_alerts"].as_array().is_some_and(|expected| expected.is_empty() != fires))
}

/// All Rust files below a folder, one after another.
fn sources(dir: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(dir).with_context(|| format!("failed to read {}", dir.display()))?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            text += &sources(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path).with_context(|| format!("failed to read {}", path.display()))?;
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_alert_needs_a_case_in_which_it_fires_and_one_in_which_it_is_silent() {
        let check = |alert: &str, expected: Value| json!({"alertname": alert, "exp_alerts": expected});
        let cases = json!({"tests": [
            {"alert_rule_test": [check("A", json!([])), check("B", json!([{}]))]},
            {"alert_rule_test": [check("A", json!([{}]))]},
        ]});
        for (alert, fires, expected) in
            [("A", true, true), ("A", false, true), ("B", true, true), ("B", false, false), ("C", false, false)]
        {
            assert_eq!(has_case(&cases, alert, fires), expected, "{alert} {fires}");
        }
    }
}
