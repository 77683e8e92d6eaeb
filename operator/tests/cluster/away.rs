//! The operator dies and stays away: runners need it for nothing, and when it is back it catches up.

use std::time::{Duration, Instant};

use curio_harmony::machines::{self, MachineState};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams};
use serde_json::json;

use crate::host::kill_container;
use crate::settings::{run, settings};
use crate::wait::{SEALED, SOON, polled, until};
use crate::world::{Kind, World, is_true, scenario};

const AWAY: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sealing_goes_on_while_the_operator_is_away_for_two_minutes_and_then_it_catches_up() {
    scenario("away", async |world| {
        let sealing = world.sealing().await;
        world.sealing_pool(json!({})).await;
        world.prover_pool(json!({})).await;
        world.until_runners_ready("sealing", 1).await;
        world.until_runners_ready("prover", 1).await;
        world.ask("before", &sealing, 1).await;
        let sectors = world.objects(Kind::SealingSector);
        let has_begun = |sector: &DynamicObject| sector.data["status"]["number"].is_u64();
        until(&sectors, "before", SOON, "the sector has a number", has_begun).await;

        kill_operator(world).await;
        let gone_at = Instant::now();
        // What a person does meanwhile is not lost; nobody acts on it yet.
        world.ask("meanwhile", &sealing, 1).await;
        world.prover_pool(json!({"replicas": 2})).await;
        let proven = polled("the sector is proven without an operator", AWAY, async || {
            let sectors = curio_pipeline::view::sectors(&sealing.db, AWAY * 10).await.expect("the database answers");
            sectors.iter().any(|sector| sector.committed).then(|| gone_at.elapsed())
        })
        .await;
        println!("operator away: a sector was proven {} s after its death", proven.as_secs());
        let sector = sectors.get("before").await.expect("it is there");
        assert!(!is_true(&sector, "Proven"), "somebody wrote the status while no operator ran");
        tokio::time::sleep_until((gone_at + AWAY).into()).await;

        scale_operator(world, 1).await;
        let back_at = Instant::now();
        until(&sectors, "before", SOON, "the proof of the first sector is seen", |sector| is_true(sector, "Proven"))
            .await;
        println!("operator back: it knew of the proof {} ms after it was asked for", back_at.elapsed().as_millis());
        world.until_runners_ready("prover", 2).await;
        until(&sectors, "meanwhile", SEALED, "the second sector is proven", |sector| is_true(sector, "Proven")).await;
        let machines = machines::list(&sealing.db).await.expect("the database answers");
        let lost: Vec<_> = machines.iter().filter(|machine| machine.state == MachineState::Lost).collect();
        assert!(lost.is_empty(), "a machine was given up: {lost:?}");
    })
    .await;
}

/// No grace for its process, and no successor.
async fn kill_operator(world: &World) {
    let deployment = world.operator().await;
    let pods: Api<Pod> = world.api();
    let of_operator = |pod: &&Pod| pod.metadata.name.as_ref().is_some_and(|name| name.starts_with(&deployment));
    let found = pods.list(&ListParams::default()).await.expect("pods can be listed").items;
    let operators: Vec<&Pod> = found.iter().filter(of_operator).collect();
    assert!(!operators.is_empty(), "no pod of {deployment} runs");
    scale_operator(world, 0).await;
    for pod in operators {
        kill_container(pod);
        let name = pod.metadata.name.as_deref().expect("a pod has a name");
        // The ReplicaSet may have removed it already.
        let _ = pods.delete(name, &DeleteParams::default().grace_period(0)).await;
    }
}

async fn scale_operator(world: &World, replicas: u32) {
    let mut scale = settings().kubectl();
    scale.args(["--namespace", &world.namespace, "scale", "deployment", &world.operator().await]);
    run(scale.arg(format!("--replicas={replicas}"))).await;
}
