//! What cannot work is said on the object, in words that name what to do.

use curio_harmony::testing::TestDb;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::settings::settings;
use crate::wait::{SOON, until};
use crate::world::{Kind, World, condition, curio_cluster, is_true, merged, scenario, sealing_pool};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_pulled_is_named() {
    scenario("image", async |world| {
        let _sealing = world.sealing().await;
        world.sealing_pool(json!({"nodeSelector": {}})).await;
        world.until_runners_ready("sealing", 1).await;

        // The same image, but asked of a registry that is not there: pods are replaced and cannot start.
        set_images(world, json!({"pullPolicy": "Always"})).await;
        said(world, Kind::RunnerPool, "sealing", "ImagesPulled", "False", "ImagePull", &["curio-runner"]).await;

        // Another image: its migration comes before any runner of it, so the CurioCluster says what is wrong.
        let missing = "registry.invalid/curio-runner:none";
        set_images(world, json!({"runner": missing, "pullPolicy": "IfNotPresent"})).await;
        said(world, Kind::CurioCluster, "curio", "SchemaMigrated", "False", "", &[missing]).await;
    })
    .await;
}

async fn set_images(world: &World, images: Value) {
    let change = Patch::Merge(json!({"spec": {"images": images}}));
    let clusters = world.objects(Kind::CurioCluster);
    clusters.patch("curio", &PatchParams::default(), &change).await.expect("other images may be named");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_that_no_node_can_take_says_what_the_scheduler_says() {
    scenario("unschedulable", async |world| {
        let _sealing = world.sealing().await;
        world.sealing_pool(json!({"nodeSelector": {"example.com/moon": "full"}})).await;

        said(world, Kind::RunnerPool, "sealing", "Scheduled", "False", "Unschedulable", &["node", "selector"]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_missing_is_named_and_used_once_it_is_there() {
    scenario("secret", async |world| {
        world.apply(Kind::CurioCluster, "curio", curio_cluster("f01000")).await;
        world.apply(Kind::RunnerPool, "sealing", sealing_pool()).await;
        said(world, Kind::CurioCluster, "curio", "DatabaseReady", "False", "SecretMissing", &["curio-db"]).await;
        said(world, Kind::CurioCluster, "curio", "ChainConfigured", "False", "SecretMissing", &["chain"]).await;
        said(world, Kind::RunnerPool, "sealing", "ClusterReady", "False", "", &["curio-db"]).await;

        // One with the right name and the wrong key comes first, as it happens to people.
        let database = TestDb::empty().await;
        world.secret("curio-db", "address", database.url()).await;
        said(world, Kind::CurioCluster, "curio", "DatabaseReady", "False", "SecretMissing", &["url"]).await;
        world.secret("curio-db", "url", "mysql://nobody@nowhere/").await;
        said(world, Kind::CurioCluster, "curio", "DatabaseReady", "False", "InvalidUrl", &["postgres"]).await;
        world.secret("curio-db", "url", database.url()).await;
        world.secret("chain", "FULLNODE_API_INFO", &settings().chain).await;
        world.until_runners_ready("sealing", 1).await;
        world.remove_objects().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_does_not_answer_is_said_and_used_once_it_does() {
    scenario("unreachable", async |world| {
        let database = TestDb::empty().await;
        let at_a_closed_port = at_port(database.url(), 1);
        world.secret("curio-db", "url", &at_a_closed_port).await;
        world.secret("chain", "FULLNODE_API_INFO", &settings().chain).await;
        world.apply(Kind::CurioCluster, "curio", curio_cluster("f01000")).await;
        said(world, Kind::CurioCluster, "curio", "DatabaseReady", "False", "Unreachable", &[":1"]).await;

        world.secret("curio-db", "url", database.url()).await;
        let what = "the database is used";
        until(&world.objects(Kind::CurioCluster), "curio", SOON, what, |object| is_true(object, "DatabaseReady")).await;
        world.remove_objects().await;
    })
    .await;
}

fn at_port(url: &str, port: u16) -> String {
    let mut url = url::Url::parse(url).expect("the test server has an address");
    url.set_port(Some(port)).expect("an address with a host may have a port");
    url.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_curiocluster_over_one_database_is_kept_off_it() {
    scenario("two", async |world| {
        let sealing = world.sealing().await;
        world.apply(Kind::CurioCluster, "other", curio_cluster(&sealing.miner)).await;
        world.apply(Kind::RunnerPool, "greedy", merged(sealing_pool(), json!({"cluster": "other"}))).await;
        said(world, Kind::CurioCluster, "other", "DatabaseReady", "False", "InUse", &["curio"]).await;
        said(world, Kind::RunnerPool, "greedy", "ClusterReady", "False", "", &["belongs to"]).await;

        // The database is free again when the first one goes.
        let clusters = world.objects(Kind::CurioCluster);
        clusters.delete("curio", &Default::default()).await.expect("it may be deleted");
        let what = "the database changed hands";
        until(&clusters, "other", SOON, what, |object| is_true(object, "DatabaseReady")).await;
        let secrets: Api<Secret> = world.api();
        secrets.get("curio-db").await.expect("the person's secret is still there");
        world.remove_objects().await;
    })
    .await;
}

/// Waits for a condition with this status and reason (empty: any) whose message has all the words.
async fn said(world: &World, kind: Kind, name: &str, type_: &str, status: &str, reason: &str, words: &[&str]) {
    let what = format!("{type_}={status} {reason} with the words {words:?}");
    let says = |object: &DynamicObject| {
        condition(object, type_).is_some_and(|(is, why, message)| {
            is == status && (reason.is_empty() || why == reason) && words.iter().all(|word| message.contains(word))
        })
    };
    let object = until(&world.objects(kind), name, SOON, &what, says).await;
    let (is, why, message) = condition(&object, type_).expect("it was just looked at");
    println!("{kind:?} {name}: {type_}={is} {why}: {message}");
    let generation = object.metadata.generation;
    assert_eq!(object.data["status"]["observedGeneration"].as_i64(), generation, "{:#}", object.data["status"]);
}
