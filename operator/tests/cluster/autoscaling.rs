//! A pool that is there only while there is work for it.

use std::pin::pin;
use std::time::{Duration, Instant};

use curio_harmony::tasks;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DynamicObject;
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;

use crate::wait::{SEALED, SOON, polled, until};
use crate::world::{Kind, World, condition, scenario, simulated};

/// From the first PoRep in the queue to a runner that is being started for it.
const STARTED_WITHIN: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snark_pool_is_woken_by_work_and_goes_back_to_nothing() {
    scenario("autoscaling", async |world| {
        let sealing = world.sealing().await;
        world.sealing_pool(json!({})).await;
        let spec = json!({
            "cluster": "curio", "profile": "snark", "autoscaling": {"min": 0, "max": 2, "idleSeconds": 5},
            "gracePeriodSeconds": 5, "env": [simulated()],
        });
        world.apply(Kind::RunnerPool, "snark", spec).await;
        world.until_runners_ready("sealing", 1).await;
        let pools = world.objects(Kind::RunnerPool);
        let rests = |pool: &DynamicObject| {
            pool.data["status"]["desiredRunners"] == json!(0) && pool.data["status"]["replicas"] == json!(0)
        };
        let pool = until(&pools, "snark", SOON, "the pool rests without runners", rests).await;
        println!("resting: {}", reason(&pool));

        world.ask("work", &sealing, 3).await;
        let (waited, pod) = tokio::join!(work_appears(&sealing.db), first_runner(world));
        let woken = pod.0.saturating_duration_since(waited);

        println!("woken: pod {} was there {} ms after PoRep work", pod.1, woken.as_millis());
        assert!(woken <= STARTED_WITHIN, "the first runner came {woken:?} after the work");
        world.until_proven("work").await;
        let pool = until(&pools, "snark", SOON * 2, "the pool has gone back to nothing", rests).await;
        println!("resting again: {}", reason(&pool));
        let (status, why, _) = condition(&pool, "Autoscaling").expect("the condition is there");
        assert_eq!((status.as_str(), why.as_str()), ("True", "Active"));
        let attempts = tasks::history(&sealing.db, &tasks::Filter::default()).await.expect("the database answers");
        let lost: Vec<_> = attempts.iter().filter(|attempt| !attempt.ok).collect();
        assert!(lost.is_empty(), "a runner was taken away from its work: {lost:#?}");
    })
    .await;
}

/// When a PoRep is first seen in the queue.
async fn work_appears(db: &curio_harmony::Db) -> Instant {
    polled("there is PoRep work", SEALED, async || {
        let load = tasks::load(db).await.expect("the database answers");
        load.iter().any(|kind| kind.kind == "PoRep" && kind.waiting + kind.running > 0).then(Instant::now)
    })
    .await
}

/// When the first pod of the pool is announced, and its name.
async fn first_runner(world: &World) -> (Instant, String) {
    let of_pool = watcher::Config::default().labels("curio.filecoin.io/pool=snark");
    let pods: Api<Pod> = world.api();
    let found = tokio::time::timeout(SEALED, async {
        let mut pods = pin!(watcher(pods, of_pool).default_backoff().applied_objects());
        while let Some(pod) = pods.next().await {
            if let Ok(pod) = pod {
                return (Instant::now(), pod.metadata.name.unwrap_or_default());
            }
        }
        unreachable!("a watch ends only when it is dropped")
    });
    found.await.expect("a pod of the pool comes")
}

fn reason(pool: &DynamicObject) -> String {
    pool.data["status"]["desiredReason"].as_str().unwrap_or("no reason was given").to_owned()
}
