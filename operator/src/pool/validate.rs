//! From what was fetched to what can be built on: is the cluster there and ready, and is the pool's configuration right?
//! Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::layer::{Configuration, LayerTrouble, configuration};
use crate::api::conditions::{cluster, reason};
use crate::api::curio_cluster::UpgradePolicy;
use crate::api::{CurioCluster, CurioClusterSpec, RunnerPool, RunnerPoolSpec};
use crate::conditions::find;
use crate::databases::Standing;

/// What is known of a pool before anything is decided.
#[derive(Debug)]
pub struct Judged {
    /// Whether runners may come and go.
    pub cluster: Result<(), ClusterTrouble>,
    /// What runners are made from; none while there is no cluster to make them for.
    pub pool: Option<Result<ValidPool, LayerTrouble>>,
    /// What the cluster asks of all its pools.
    pub wish: Wish,
}

/// What a CurioCluster asks of all its pools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Run {
        /// Replace idle runners of an older template.
        replace: bool,
    },
    /// Runners go when they are idle, and none comes.
    Hibernate,
    /// Nothing is changed.
    Pause,
}

/// The pool cannot go on because of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterTrouble {
    #[error("there is no CurioCluster {0} in this namespace")]
    Missing(String),
    #[error("waits for CurioCluster {cluster}: {what}")]
    NotReady { cluster: String, what: String },
}

impl ClusterTrouble {
    /// One word for the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            ClusterTrouble::Missing(_) => reason::CLUSTER_MISSING,
            ClusterTrouble::NotReady { .. } => reason::CLUSTER_NOT_READY,
        }
    }
}

/// A pool whose pods can be built; only [`judge`] makes one.
#[derive(Clone, Debug)]
pub struct ValidPool {
    pub namespace: String,
    pub name: String,
    pub owner: OwnerReference,
    pub spec: RunnerPoolSpec,
    pub cluster: CurioClusterSpec,
    pub image: String,
    pub configuration: Configuration,
}

/// Judges a pool. `image` is the runner image of its cluster, if one is known.
pub fn judge(pool: &RunnerPool, of: Option<&CurioCluster>, standing: &Standing, image: Option<&str>) -> Judged {
    let Some(of) = of else {
        let cluster = Err(ClusterTrouble::Missing(pool.spec.cluster.clone()));
        return Judged { cluster, pool: None, wish: Wish::Pause };
    };
    let configuration = configuration(&pool.name_any(), &pool.spec, &of.spec.layers);
    let valid = image.map(|image| {
        configuration.map(|configuration| ValidPool {
            namespace: pool.namespace().unwrap_or_default(),
            name: pool.name_any(),
            owner: pool.controller_owner_ref(&()).expect("an object that was read from the API server has a uid"),
            spec: pool.spec.clone(),
            cluster: of.spec.clone(),
            image: image.to_owned(),
            configuration,
        })
    });
    let not_ready = |what| ClusterTrouble::NotReady { cluster: of.name_any(), what };
    Judged { cluster: readiness(of, standing, image).map_err(not_ready), pool: valid, wish: wish(&of.spec) }
}

fn wish(spec: &CurioClusterSpec) -> Wish {
    if spec.paused {
        return Wish::Pause;
    }
    if spec.hibernated {
        return Wish::Hibernate;
    }
    Wish::Run { replace: spec.upgrade.policy == UpgradePolicy::WhenIdle }
}

/// Whether a runner that starts now finds what it needs; what it waits for, if not.
fn readiness(of: &CurioCluster, standing: &Standing, image: Option<&str>) -> Result<(), String> {
    /// Of the conditions of a cluster those without which a runner cannot work.
    const NEEDED: [&str; 4] =
        [cluster::DATABASE_READY, cluster::CHAIN_CONFIGURED, cluster::LAYERS_VALID, cluster::SCHEMA_MIGRATED];
    let image = image.ok_or("no runner image is known; set its spec.images.runner")?;
    let status = of.status.as_ref().ok_or("the operator has not looked at it yet")?;
    for needed in NEEDED {
        let condition = find(&status.conditions, needed).ok_or_else(|| format!("{needed} is not known yet"))?;
        if condition.status != "True" {
            return Err(condition.message.clone());
        }
        if condition.observed_generation < of.metadata.generation {
            return Err("the operator has not looked at its present spec yet".to_owned());
        }
    }
    if standing.db().is_none() {
        return Err(standing.to_string());
    }
    if status.migrated_version.as_deref() != Some(image) {
        return Err(format!("the database is not migrated for {image} yet"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;

    fn pool(profile: &str) -> RunnerPool {
        serde_json::from_value(json!({
            "apiVersion": "curio.filecoin.io/v1alpha1", "kind": "RunnerPool",
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"cluster": "curio", "profile": profile},
        }))
        .expect("a pool")
    }

    fn of(spec: Value, status: Value) -> CurioCluster {
        let mut whole = json!({
            "apiVersion": "curio.filecoin.io/v1alpha1", "kind": "CurioCluster",
            "metadata": {"name": "curio", "namespace": "ns", "uid": "c", "generation": 2},
            "spec": {"database": {"urlSecret": {"name": "db"}}, "chain": {"apiSecrets": [{"name": "lotus"}]}},
            "status": status,
        });
        for (key, value) in spec.as_object().expect("an object") {
            whole["spec"][key] = value.clone();
        }
        serde_json::from_value(whole).expect("a cluster")
    }

    fn conditions(bad: Option<&str>, generation: i64) -> Value {
        let all = ["DatabaseReady", "ChainConfigured", "LayersValid", "SchemaMigrated"].map(|type_| {
            json!({
                "type": type_, "status": if bad == Some(type_) { "False" } else { "True" }, "reason": "Any",
                "message": format!("about {type_}"), "observedGeneration": generation,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            })
        });
        json!({"conditions": all, "migratedVersion": "runner:1"})
    }

    fn trouble(of: Option<CurioCluster>, image: Option<&str>) -> String {
        let judged = judge(&pool("snark"), of.as_ref(), &Standing::Unknown, image);
        judged.cluster.expect_err("there is always something").to_string()
    }

    #[test]
    fn a_missing_cluster_is_named() {
        assert_eq!(trouble(None, Some("runner:1")), "there is no CurioCluster curio in this namespace");
    }

    #[rstest]
    #[case::no_image(conditions(None, 2), None, "no runner image is known; set its spec.images.runner")]
    #[case::chain(conditions(Some("ChainConfigured"), 2), Some("runner:1"), "about ChainConfigured")]
    #[case::an_older_answer(
        conditions(None, 1),
        Some("runner:1"),
        "the operator has not looked at its present spec yet"
    )]
    #[case::no_answer(json!({}), Some("runner:1"), "DatabaseReady is not known yet")]
    #[case::the_database_itself(conditions(None, 2), Some("runner:1"), "connecting to the database")]
    fn what_the_pool_waits_for_is_said(#[case] status: Value, #[case] image: Option<&str>, #[case] what: &str) {
        assert_eq!(trouble(Some(of(json!({}), status)), image), format!("waits for CurioCluster curio: {what}"));
    }

    #[rstest]
    #[case(json!({}), Wish::Run { replace: true })]
    #[case(json!({"upgrade": {"policy": "Manual"}}), Wish::Run { replace: false })]
    #[case(json!({"hibernated": true}), Wish::Hibernate)]
    #[case(json!({"hibernated": true, "paused": true}), Wish::Pause)]
    fn a_cluster_says_what_its_pools_do(#[case] spec: Value, #[case] expected: Wish) {
        assert_eq!(wish(&of(spec, json!({})).spec), expected);
    }

    #[test]
    fn a_pool_that_is_wrong_is_told_apart_from_a_cluster_that_is_not_ready() {
        let judged = judge(&pool("custom"), Some(&of(json!({}), json!({}))), &Standing::Unknown, Some("runner:1"));
        let trouble = judged.pool.expect("there is a cluster").expect_err("nothing is switched on");
        assert_eq!(trouble.reason(), reason::INVALID_VALUE);
    }
}
