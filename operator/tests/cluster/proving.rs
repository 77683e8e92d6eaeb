//! Proofs over time: a pool that keeps no files finds the deadline of a sealed sector, gets its vanilla proof from the runner that
//! has the files, and the chain takes the window PoSt. Nobody stops the runner meanwhile.

use std::time::Duration;

use curio_harmony::tasks;
use curio_pipeline::windows;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::settings::{run, settings};
use crate::wait::{SOON, polled_every, until};
use crate::world::{Kind, Sealing, World, merged, scenario};

/// From the landing of a commit to the end of the sector's deadline, and some time for a busy machine: the chain has three
/// deadlines of a minute each.
const IN_ITS_DEADLINE: Duration = Duration::from_secs(240);
/// Between two questions, in minutes of waiting with other scenarios beside this one.
const BETWEEN_LOOKS: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pool_without_files_proves_a_sector_in_its_deadline_and_is_left_alone_until_then() {
    scenario("proving", async |world| {
        let sealing = world.sealing().await;
        world.sealing_pool(json!({})).await;
        world.prover_pool(json!({})).await;
        post_pool(world, json!({})).await;
        world.until_runners_ready("post", 1).await;
        world.ask("one", &sealing, 1).await;
        world.until_proven("one").await;

        let sector = world.objects(Kind::SealingSector).get("one").await.expect("it is there");
        let place = ask_chain("StateSectorPartition", json!([sealing.miner, 0, null])).await;
        let status = &sector.data["status"];
        assert_eq!((&status["deadline"], &status["partition"]), (&place["Deadline"], &place["Partition"]));

        due(&sealing).await;
        let prover = world.api::<Pod>().get("post-0").await.expect("it is there");
        // From now on its runner is of an older template.
        post_pool(world, json!({"env": [{"name": "RUST_LOG", "value": "info"}]})).await;
        settled(world, &sealing, &prover).await;

        let active = ask_chain("StateMinerActiveSectors", json!([sealing.miner, null])).await;
        assert_eq!(active.as_array().map(Vec::len), Some(1), "the chain has no window PoSt of the sector: {active}");
        let partitions = asked_in_a_pod(world, &["proving", "partitions", &place["Deadline"].to_string()]).await;
        assert_eq!(partitions[0]["active_sectors"], 1, "{partitions}");
        let attempts = tasks::history(&sealing.db, &tasks::Filter::default()).await.expect("the database answers");
        let proofs: Vec<_> = attempts.iter().filter(|attempt| attempt.kind == "WdPost").collect();
        assert!(proofs.iter().any(|attempt| attempt.ok && attempt.machine == "post-0"), "{proofs:#?}");
        println!("deadline {}: proven with {} attempts", place["Deadline"], proofs.len());
        let is_another = |pod: &Pod| pod.uid() != prover.uid() && pod.metadata.deletion_timestamp.is_none();
        until(&world.api::<Pod>(), "post-0", SOON * 2, "the runner is replaced", is_another).await;
    })
    .await;
}

/// Without blocks: they carry whole seconds, and this chain has four epochs in each.
async fn post_pool(world: &World, more: Value) {
    let spec = json!({
        "cluster": "curio", "profile": "post", "gpu": {"count": 0}, "gracePeriodSeconds": 5,
        "config": {"Subsystems": {"EnableWinningPost": false}},
    });
    world.apply(Kind::RunnerPool, "post", merged(spec, more)).await;
}

async fn due(sealing: &Sealing) {
    polled_every(BETWEEN_LOOKS, "the challenge of the sector's deadline", IN_ITS_DEADLINE, async || {
        let due = windows::due(&sealing.db).await.expect("the database answers");
        (due > 0).then_some(())
    })
    .await;
}

/// Waits until no proof is due, and sees that the pod of the runner stays as it was until then.
async fn settled(world: &World, sealing: &Sealing, prover: &Pod) {
    polled_every(BETWEEN_LOOKS, "the proof is on the chain", IN_ITS_DEADLINE, async || {
        let pod = world.api::<Pod>().get_opt(&prover.name_any()).await.expect("pods can be read");
        let stays = pod.is_some_and(|pod| pod.uid() == prover.uid() && pod.metadata.deletion_timestamp.is_none());
        let due = windows::due(&sealing.db).await.expect("the database answers");
        assert!(stays || due == 0, "the runner was stopped before the chain had the proof");
        (due == 0).then_some(())
    })
    .await;
}

/// What `curio` says when a person asks it as docs/kubernetes.md and the runbooks say: any runner will do.
async fn asked_in_a_pod(world: &World, question: &[&str]) -> Value {
    let mut exec = settings().kubectl();
    exec.args(["--namespace", &world.namespace, "exec", "sealing-0", "--", "curio", "--json"]).args(question);
    serde_json::from_str(&run(&mut exec).await).expect("it answers with JSON")
}

/// One call of the chain by plain HTTP.
async fn ask_chain(method: &str, params: Value) -> Value {
    let (token, url) = settings().chain.split_once(':').expect("CURIO_TEST_CHAIN is TOKEN:URL");
    let question = json!({"jsonrpc": "2.0", "id": 1, "method": format!("Filecoin.{method}"), "params": params});
    let answer = reqwest::Client::new().post(format!("{url}/rpc/v1")).bearer_auth(token).json(&question).send();
    let answer = answer.await.expect("the chain answers").json::<Value>().await.expect("it answers with JSON");
    assert!(answer["error"].is_null(), "the chain refused {method}: {}", answer["error"]);
    answer["result"].clone()
}
