//! A runner's container dies while it works: the operator releases its tasks as soon as the kubelet says so.

use std::pin::pin;
use std::time::{Duration, Instant};

use chrono::Utc;
use curio_harmony::{machines, tasks};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::watch_object;
use serde_json::json;

use crate::host::{Pause, kill_container};
use crate::wait::{SEALED, SOON, polled, until};
use crate::world::{Sealing, World, held_in, scenario, simulated};

/// From the kubelet's report to tasks that anybody may take.
const RELEASED_WITHIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sdr_of_a_killed_container_is_released_at_once_and_the_sector_is_proven() {
    scenario("killed-in-sdr", async |world| {
        let sealing = world.sealing().await;
        world.sealing_pool(json!({"env": [simulated(), held_in("SDR")]})).await;
        world.prover_pool(json!({})).await;
        world.until_runners_ready("sealing", 1).await;
        // A container that dies for the first time is started again at once, and would take its task back before
        // anybody could release it. So the first death finds an idle runner.
        kill_container(&running(world, "sealing-0", 0).await);
        let pod = running(world, "sealing-0", 1).await;
        world.until_runners_ready("sealing", 1).await;
        let pause = Pause::in_scratch_of(world, "sealing-0").await;
        world.ask("one", &sealing, 1).await;
        polled("SDR is under way", SEALED, async || pause.is_reached().then_some(())).await;

        let waited = killed_until_released(world, &sealing, &pod, "SDR").await;

        println!("killed in SDR: released {} ms after the kubelet's report", waited.as_millis());
        pause.remove();
        world.until_proven("one").await;
        let attempts = tasks::history(&sealing.db, &of_kind("SDR")).await.expect("the database answers");
        let outcomes: Vec<bool> = attempts.iter().map(|attempt| attempt.ok).collect();
        assert_eq!(outcomes, [true, false], "newest first: {attempts:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn porep_of_a_killed_container_is_released_at_once_and_the_sector_is_proven() {
    scenario("killed-in-porep", async |world| {
        let sealing = world.sealing().await;
        world.sealing_pool(json!({})).await;
        world.prover_pool(json!({"env": [simulated(), held_in("PoRep")]})).await;
        world.until_runners_ready("prover", 1).await;
        let pause = Pause::in_scratch_of(world, "prover-0").await;
        world.ask("one", &sealing, 1).await;
        polled("PoRep is under way", SEALED, async || pause.is_reached().then_some(())).await;

        // The first death: the container starts again in the same pod and goes on with what was its own.
        pause.forget();
        kill_container(&running(world, "prover-0", 0).await);
        polled("PoRep is under way again", SOON, async || pause.is_reached().then_some(())).await;
        let pod = running(world, "prover-0", 1).await;
        let waited = killed_until_released(world, &sealing, &pod, "PoRep").await;

        println!("killed in PoRep: released {} ms after the kubelet's report", waited.as_millis());
        pause.remove();
        world.until_proven("one").await;
    })
    .await;
}

/// Kills a pod's container and waits until no machine owns a task of `kind`. The time is counted from the first status
/// of the pod that says that the container has ended.
async fn killed_until_released(world: &World, sealing: &Sealing, pod: &Pod, kind: &str) -> Duration {
    let slot = pod.metadata.name.clone().expect("a pod has a name");
    let before = runner(pod).map_or(0, |runner| runner.restart_count);
    // The kubelet tells times in whole seconds, rounded down: of a process that ends in the second of its start it cannot be
    // told whether that or the one before has ended, and the lease decides.
    polled("a second has passed since the start", SOON, async || {
        let machines = machines::list(&sealing.db).await.expect("the database answers");
        let machine = machines.iter().find(|machine| machine.name == slot)?;
        (machine.process_started_at?.timestamp() < Utc::now().timestamp()).then_some(())
    })
    .await;
    // The watch stands before the blow, so that the report is seen when it comes.
    let mut states = pin!(watch_object(world.api::<Pod>(), &slot).default_backoff());
    states.next().await;
    kill_container(pod);
    let reported = tokio::time::timeout(SOON, async {
        while let Some(state) = states.next().await {
            if let Ok(Some(pod)) = state
                && has_ended(&pod, before)
            {
                return Instant::now();
            }
        }
        unreachable!("a watch ends only when it is dropped")
    });
    let reported = reported.await.expect("the kubelet reports the death of a container");
    polled(&format!("{kind} is released"), RELEASED_WITHIN, async || {
        let running = tasks::running(&sealing.db).await.expect("the database answers");
        (!running.iter().any(|task| task.kind == kind)).then_some(())
    })
    .await;
    let waited = reported.elapsed();
    let machines = machines::list(&sealing.db).await.expect("the database answers");
    let machine = machines.iter().find(|machine| machine.name == slot).expect("the machine is known");
    assert_eq!(machine.instance, pod.metadata.uid.clone().unwrap_or_default(), "{machine:?}");
    waited
}

/// Whether the runner container is dead and was not started again since it had `restarts`.
fn has_ended(pod: &Pod, restarts: i32) -> bool {
    runner(pod).is_some_and(|runner| {
        let state = runner.state.clone().unwrap_or_default();
        runner.restart_count == restarts && state.running.is_none()
    })
}

/// The pod of a slot once its container runs after so many restarts.
async fn running(world: &World, slot: &str, restarts: i32) -> Pod {
    until(&world.api::<Pod>(), slot, SOON, "the container runs", |pod| {
        runner(pod).is_some_and(|runner| {
            runner.restart_count >= restarts && runner.state.as_ref().is_some_and(|state| state.running.is_some())
        })
    })
    .await
}

fn runner(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.as_ref()?.iter().find(|container| container.name == "runner")
}

fn of_kind(kind: &str) -> tasks::Filter {
    tasks::Filter { kind: Some(kind.to_owned()), ..tasks::Filter::default() }
}
