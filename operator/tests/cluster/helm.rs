//! The chart under both versions of Helm that people have.

use std::process::Stdio;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::settings::{Helm, chart, run, settings};
use crate::world::{Kind, World, bare, curio_cluster};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_rendered_is_admitted_where_only_restricted_pods_are() {
    bare("restricted", async |world| {
        for version in [Helm::V3, Helm::V4] {
            let mut template = settings().helm(version);
            // The pod of `helm test` needs the account that an installation makes; it runs in another scenario.
            template.args(["template", "curio", "--skip-tests"]).arg(chart()).args(["--namespace", &world.namespace]);
            // Helm asks no server here, and a Helm that was built from its sources knows none of today by itself.
            template.args(["--kube-version=1.35", "--set=evaluation.enabled=true,crds.install=false,images.tag=dev"]);
            let manifests = run(&mut template).await;
            let mut apply = settings().kubectl();
            apply.args(["--namespace", &world.namespace, "apply", "--dry-run=server", "--filename=-"]);
            apply.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            let mut apply = apply.spawn().expect("kubectl starts");
            let mut stdin = apply.stdin.take().expect("it has an input");
            stdin.write_all(manifests.as_bytes()).await.expect("kubectl reads");
            drop(stdin);
            let output = apply.wait_with_output().await.expect("kubectl ends");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{version:?}: {said}");
            assert!(!said.contains("would violate PodSecurity"), "{version:?}: {said}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn uninstalling_leaves_the_objects_and_claims_of_the_user() {
    bare("helm", async |world| {
        for version in [Helm::V3, Helm::V4] {
            world.install_by(version, &["--set=crds.install=false"]).await;
            let mut test = settings().helm(version);
            run(test.args(["test", "curio", "--timeout=120s", "--namespace", &world.namespace])).await;
            users_things(world).await;

            world.uninstall_by(version).await;

            for kind in Kind::ALL {
                world.objects(kind).get("mine").await.unwrap_or_else(|error| panic!("{version:?} {kind:?}: {error}"));
            }
            let claims: Api<PersistentVolumeClaim> = world.api();
            claims.get("mine").await.unwrap_or_else(|error| panic!("{version:?} claim: {error}"));
            let pods: Api<Pod> = world.api();
            let left = pods.list(&ListParams::default()).await.expect("pods can be listed").items;
            // Helm leaves the pods of `helm test` until the next one.
            let stays = |pod: &&Pod| {
                pod.metadata.deletion_timestamp.is_none() && !pod.annotations().contains_key("helm.sh/hook")
            };
            let left: Vec<String> = left.iter().filter(stays).map(ResourceExt::name_any).collect();
            assert!(left.is_empty(), "{version:?} left {left:?}");
        }
    })
    .await;
}

/// One object of each kind and a claim, made or already there.
async fn users_things(world: &World) {
    world.apply(Kind::CurioCluster, "mine", curio_cluster("f01000")).await;
    world.apply(Kind::RunnerPool, "mine", json!({"cluster": "mine", "profile": "storage", "replicas": 1})).await;
    let sector = json!({"cluster": "mine", "miner": "f01000", "count": 1});
    world.apply(Kind::SealingSector, "mine", sector).await;
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "mine"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
    });
    let claim = serde_json::from_value(claim).expect("it has the shape of a claim");
    let claims: Api<PersistentVolumeClaim> = world.api();
    // The second version of Helm finds the first one's.
    if claims.get_opt("mine").await.expect("claims can be read").is_none() {
        claims.create(&PostParams::default(), &claim).await.expect("a claim can be made");
    }
}

/// The release that brought the definitions goes and comes back by the other Helm; nobody loses an object by it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_definitions_outlive_their_release() {
    bare("definitions", async |world| {
        let base = World::of_definitions(&world.client);
        world.apply(Kind::CurioCluster, "kept", curio_cluster("f01000")).await;
        base.uninstall_by(Helm::V3).await;
        let definitions: Api<CustomResourceDefinition> = Api::all(world.client.clone());
        for plural in ["curioclusters", "runnerpools", "sealingsectors"] {
            let definition = definitions.get(&format!("{plural}.curio.filecoin.io")).await;
            let definition = definition.unwrap_or_else(|error| panic!("{plural} went with the release: {error}"));
            assert!(definition.metadata.deletion_timestamp.is_none(), "{plural} is going");
        }
        world.objects(Kind::CurioCluster).get("kept").await.expect("the object is still there");

        base.install_by(Helm::V4, &["--set=crds.install=true"]).await;
    })
    .await;
}
