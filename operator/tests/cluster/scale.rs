//! A pool that grows and shrinks under work.

use curio_harmony::tasks;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::Api;
use kube::api::{DynamicObject, PostParams};
use serde_json::json;

use crate::settings::{run, settings};
use crate::wait::{SEALED, SOON, polled, until};
use crate::world::{Kind, World, scenario};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_from_one_to_three_to_one_loses_no_attempt() {
    scenario("scale", async |world| {
        let sealing = world.sealing().await;
        // Long-term storage that all runners reach: a runner that alone reaches a sector would have to stay.
        shared_store(world).await;
        let store = json!([{"name": "store", "existingClaim": "shared"}]);
        world.sealing_pool(json!({"longTerm": store})).await;
        world.prover_pool(json!({})).await;
        world.until_runners_ready("sealing", 1).await;
        world.ask("first", &sealing, 3).await;

        scale(world, 3).await;
        world.until_runners_ready("sealing", 3).await;
        world.ask("second", &sealing, 3).await;
        polled("a second runner has worked", SEALED, async || {
            let attempts = tasks::history(&sealing.db, &tasks::Filter::default()).await.expect("the database answers");
            attempts
                .iter()
                .any(|attempt| attempt.machine == "sealing-1" || attempt.machine == "sealing-2")
                .then_some(())
        })
        .await;
        scale(world, 1).await;

        world.until_proven("first").await;
        world.until_proven("second").await;
        let pools = world.objects(Kind::RunnerPool);
        let is_one = |pool: &DynamicObject| pool.data["status"]["replicas"] == json!(1);
        until(&pools, "sealing", SOON * 2, "the pool has one runner again", is_one).await;
        let attempts = tasks::history(&sealing.db, &tasks::Filter::default()).await.expect("the database answers");
        let lost: Vec<_> = attempts.iter().filter(|attempt| !attempt.ok).collect();
        assert!(lost.is_empty(), "attempts were lost: {lost:#?}");
        println!("scaled 1 -> 3 -> 1: {} attempts, none lost", attempts.len());
    })
    .await;
}

async fn scale(world: &World, replicas: u32) {
    let mut scale = settings().kubectl();
    scale.args(["--namespace", &world.namespace, "scale", "runnerpool", "sealing"]);
    run(scale.arg(format!("--replicas={replicas}"))).await;
}

async fn shared_store(world: &World) {
    let claims: Api<PersistentVolumeClaim> = world.api();
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "shared"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}},
    });
    let claim = serde_json::from_value(claim).expect("it has the shape of a claim");
    claims.create(&PostParams::default(), &claim).await.expect("a claim can be made");
}
