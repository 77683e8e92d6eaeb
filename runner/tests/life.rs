//! The life of `curio run` as a process: what it serves, how it waits for its chain node, how it ends.

mod support;

use std::process::{Command, Stdio};

use curio_harmony::testing::TestDb;
use rustix::process::Signal;
use serde_json::Value;
use tokio::io::AsyncReadExt;

use support::{BOUND, Runner, any_port, api_info, chain, curio, layer, run};

/// A runner of the layer `sdr`, which needs no storage path to start.
fn runner(db: &TestDb, name: &str, api_info: &str, arguments: &[&str]) -> Command {
    let mut command = curio(Some(db.url()));
    command.env("FULLNODE_API_INFO", api_info);
    command.args(["run", "--layers", "sdr", "--name", name, "--listen", "127.0.0.1:0"]).args(arguments);
    command
}

async fn get(url: &str) -> (u16, String) {
    // The HTTP library asks for a TLS provider even for plain addresses; an error means that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = tokio::time::timeout(BOUND, reqwest::get(url)).await.expect("it answers").expect("it is reached");
    let status = answer.status().as_u16();
    (status, answer.text().await.expect("the answer is text"))
}

async fn machines(db: &TestDb) -> Vec<Value> {
    let output = run(curio(Some(db.url())).args(["machine", "list", "--json"])).await;
    serde_json::from_slice(&output.stdout).expect("machines are JSON")
}

#[tokio::test]
async fn a_runner_says_when_it_is_ready_and_signs_off_when_told_to_stop() {
    let db = TestDb::new().await;
    let chain = chain(any_port()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let ready_file = dir.path().join("ready.json");
    let mut runner = Runner::start(runner(
        &db,
        "sealing-0",
        &api_info(&chain),
        &["--ready-file", &ready_file.display().to_string()],
    ));
    let url = runner.url().await;
    runner.says("runs SDR").await;

    let ready: Value = serde_json::from_slice(&std::fs::read(&ready_file).expect("the file is there")).expect("JSON");
    assert_eq!(ready["url"], url);
    assert_eq!(ready["machine"], "sealing-0");
    assert_eq!(ready["pid"], runner.child.id().expect("it runs"));
    assert_eq!(get(&format!("{url}/healthz")).await, (200, "ok\n".to_owned()));
    let (status, body) = get(&format!("{url}/readyz")).await;
    assert_eq!(status, 200, "{body}");
    let (status, metrics) = get(&format!("{url}/metrics")).await;
    assert_eq!(status, 200);
    for name in
        ["curio_node_info{machine=\"sealing-0\"", "curio_machine_capacity{resource=\"cpu\"}", "curio_engine_cycles"]
    {
        assert!(metrics.contains(name), "{name} is not in\n{metrics}");
    }
    let up = &machines(&db).await[0];
    assert_eq!((&up["name"], &up["state"]), (&Value::from("sealing-0"), &Value::from("up")));

    runner.signal(Signal::TERM);
    assert_eq!(runner.ends().await, Some(0), "{}", runner.log);
    assert!(!ready_file.exists(), "the ready file is taken away");
    assert_eq!(machines(&db).await[0]["state"], "stopped");
}

#[tokio::test]
async fn a_runner_waits_for_a_chain_node_that_is_away_and_then_goes_on() {
    let db = TestDb::new().await;
    // A port that was free a moment ago: nothing answers there yet. Reading needs no token.
    let taken = std::net::TcpListener::bind(any_port()).expect("a port");
    let api = taken.local_addr().expect("the port has a number");
    drop(taken);
    let mut runner = Runner::start(runner(&db, "m", &format!("http://{api}"), &[]));
    let url = runner.url().await;
    runner.says("no task is taken before it answers").await;

    assert_eq!(get(&format!("{url}/healthz")).await.0, 200, "the process lives");
    let (status, body) = get(&format!("{url}/readyz")).await;
    let readiness: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(status, 503, "{body}");
    assert_eq!(readiness["ready"], false);
    assert_eq!(readiness["checks"]["database"]["ok"], true);
    assert_eq!(readiness["checks"]["chain"]["ok"], false);
    assert!(readiness["checks"]["engine"]["message"].as_str().is_some_and(|text| text.contains("waits for the chain")));

    let _chain = chain(api).await;
    runner.says("runs SDR").await;
    assert_eq!(get(&format!("{url}/readyz")).await.0, 200);
}

#[tokio::test]
async fn a_runner_that_waits_for_its_chain_node_stops_when_told() {
    let db = TestDb::new().await;
    let mut runner = Runner::start(runner(&db, "m", "http://127.0.0.1:1", &[]));
    runner.says("no task is taken before it answers").await;
    runner.signal(Signal::INT);
    assert_eq!(runner.ends().await, Some(0), "{}", runner.log);
}

#[tokio::test]
async fn of_two_runners_with_one_name_the_older_ends_and_says_why() {
    let db = TestDb::new().await;
    let chain = chain(any_port()).await;
    layer(&db, "base", "[Harmony]\nHeartbeat = '100ms'\n").await;
    let mut older = Runner::start(runner(&db, "m", &api_info(&chain), &[]));
    older.says("runs SDR").await;
    let mut newer = Runner::start(runner(&db, "m", &api_info(&chain), &[]));
    newer.says("runs SDR").await;

    assert_eq!(older.ends().await, Some(1), "{}", older.log);
    assert!(older.log.contains("curio: another process runs as machine 'm' now"), "{}", older.log);
    newer.signal(Signal::TERM);
    assert_eq!(newer.ends().await, Some(0), "{}", newer.log);
}

#[tokio::test]
async fn a_runner_ends_with_the_process_that_started_it() {
    let db = TestDb::new().await;
    let chain = chain(any_port()).await;
    // The shell stays between this test and the runner, as the demo does; the runner keeps its stderr open.
    let mut shell = Command::new("sh");
    shell.args(["-c", "\"$0\" run --layers sdr --name m --listen 127.0.0.1:0 --die-with-parent & read line"]);
    shell.arg(env!("CARGO_BIN_EXE_curio"));
    shell.env("CURIO_DB_URL", db.url()).env("FULLNODE_API_INFO", api_info(&chain));
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut shell = tokio::process::Command::from(shell).kill_on_drop(true).spawn().expect("the shell starts");
    let mut log = shell.stderr.take().expect("stderr is a pipe");
    let mut text = String::new();
    let mut buffer = [0; 4096];
    while !text.contains("runs SDR") {
        let read = tokio::time::timeout(BOUND, log.read(&mut buffer)).await.expect("it starts").expect("a pipe");
        assert!(read > 0, "the runner ended: {text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }

    shell.start_kill().expect("the shell runs");
    shell.wait().await.expect("the shell ends");
    // The end of the pipe is the end of the last process that holds it.
    tokio::time::timeout(BOUND, log.read_to_string(&mut text)).await.expect("the runner ends").expect("text");
    assert!(text.contains("stopped"), "{text}");
    assert_eq!(machines(&db).await[0]["state"], "stopped");
}

#[tokio::test]
async fn layers_that_enable_nothing_are_no_machine() {
    let db = TestDb::new().await;
    let output = run(curio(Some(db.url())).env("FULLNODE_API_INFO", "http://127.0.0.1:1").args([
        "run",
        "--layers",
        "gui",
        "--name",
        "m",
        "--listen",
        "127.0.0.1:0",
    ]))
    .await;
    let sentence = support::refused(&output);
    support::contains_all(&sentence, &["base,gui", "enable nothing", "--layers"]);
    assert!(machines(&db).await.is_empty());
}
