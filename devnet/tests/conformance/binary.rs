//! The program: its ready file, making a miner by RPC, its end.

use std::process::Stdio;
use std::time::Duration;

use curio_chain::types::TipSetKey;
use curio_chain::{Client, ClientOptions, Endpoint, address};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Bound on everything that is waited for; making the verifying key may come first.
const PATIENCE: Duration = Duration::from_secs(120);

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curio-devnet"));
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

async fn bounded<T>(what: &str, wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what} took too long"))
}

/// Reads the log until a line has these words; answers everything read.
async fn read_until(child: &mut Child, words: &str) -> String {
    let mut lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    let mut log = String::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        log.push_str(&line);
        log.push('\n');
        if line.contains(words) {
            return log;
        }
    }
    panic!("the program ended without saying {words:?}:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_serves_makes_a_miner_and_ends_on_sigterm() {
    // The HTTP library asks for a TLS provider even for plain addresses; an error means that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let ready = dir.path().join("ready.json");
    let mut child = program()
        .args(["run", "--block-time", "20ms", "--seed", "5", "--die-with-parent"])
        .args(["--deadlines", "4", "--challenge-window", "24", "--challenge-lookback", "8", "--fault-cutoff", "12"])
        .args(["--winning-lookback", "10", "--miner-patience", "0s", "--other-power", "1048576", "--no-disputes"])
        .arg("--ready-file")
        .arg(&ready)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = bounded("the start", read_until(&mut child, "serving Lotus JSON-RPC")).await;
    assert!(log.contains("stand-in for a chain"), "{log}");
    let description: Value = serde_json::from_str(&std::fs::read_to_string(&ready).unwrap()).unwrap();
    for member in ["url", "rpc", "token", "default_address", "genesis", "network"] {
        assert!(!description[member].is_null(), "{member} is missing: {description}");
    }

    let made = program()
        .args(["create-miner", "--url", description["url"].as_str().unwrap()])
        .args(["--token", description["token"].as_str().unwrap(), "--sector-size", "2KiB"])
        .output();
    let made = bounded("making a miner", made).await.unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let miner: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert!(miner["miner"].as_str().unwrap().starts_with("f01"), "{miner}");
    assert!(miner["worker"].as_str().unwrap().starts_with("t3"), "{miner}");

    let endpoint = format!("{}:{}", description["token"].as_str().unwrap(), description["url"].as_str().unwrap());
    let client = Client::new(vec![Endpoint::parse(&endpoint).unwrap()], ClientOptions::default()).unwrap();
    let miner = address::parse(miner["miner"].as_str().unwrap()).unwrap();
    let deadline = client.state_miner_proving_deadline(&miner, &TipSetKey::HEAD).await.unwrap();
    assert_eq!((deadline.wpost_period_deadlines, deadline.wpost_challenge_window), (4, 24));
    assert_eq!((deadline.wpost_challenge_lookback, deadline.fault_declaration_cutoff), (8, 12));
    let power = client.state_miner_power(&miner, &TipSetKey::HEAD).await.unwrap();
    assert_eq!(power.total_power.quality_adj_power, 1_048_576.into(), "the others' power");

    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let ended = bounded("the end", child.wait()).await.unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_with_a_first_miner_and_a_fixed_token_is_the_same_at_each_start() {
    // The HTTP library asks for a TLS provider even for plain addresses; an error means that there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let dir = tempfile::tempdir().unwrap();
    let (ready, token) = (dir.path().join("ready.json"), dir.path().join("token"));
    std::fs::write(&token, "evaluation-token-1\n").unwrap();
    let mut miners = Vec::new();
    for _ in 0..2 {
        let mut child = program()
            .args(["run", "--api", "0.0.0.0:0", "--block-time", "20ms", "--create-miner", "2KiB", "--ready-file"])
            .arg(&ready)
            .arg("--token-file")
            .arg(&token)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        bounded("the start", read_until(&mut child, "the first miner is f01001")).await;
        let description: Value = serde_json::from_str(&std::fs::read_to_string(&ready).unwrap()).unwrap();
        let url = description["url"].as_str().unwrap();
        assert!(url.starts_with("http://127.0.0.1:"), "an address that this machine can use: {url}");
        assert_eq!(description["token"], "evaluation-token-1");
        miners.push(description["miner"].clone());

        for path in ["healthz", "readyz"] {
            let answer = bounded("the probe", reqwest::get(format!("{url}/{path}"))).await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
        }
        let question = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "Filecoin.WalletList", "params": []});
        let request = reqwest::Client::new().post(url).bearer_auth("evaluation-token-1").json(&question);
        let answer: Value = bounded("a call", request.send()).await.unwrap().json().await.unwrap();
        assert_eq!(answer["result"].as_array().map(Vec::len), Some(2), "the token may list the wallet: {answer}");
        child.start_kill().unwrap();
        bounded("the end", child.wait()).await.unwrap();
    }
    assert_eq!(miners[0], miners[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_arguments_get_one_sentence() {
    for (arguments, words) in [
        (&["run", "--block-time", "fast"][..], "is not a block time; write it like 250ms, 4s or manual"),
        (&["run", "--sector-sizes", "3KiB"], "is not a sector size"),
        (&["run", "--deadlines", "2"], "there must be 3 to 48 deadlines, not 2"),
        (&["run", "--miner-patience", "long"], "is not a time; write it like 250ms or 20s"),
        (&["run", "--block-time", "250ms", "--miner-patience", "20s"], "their blocks carry whole seconds"),
        (&["run", "--token", "short"], "a token has at least 16 characters"),
        (&["run", "--block-time", "manual", "--create-miner", "2KiB"], "needs a clock that runs"),
        (&["create-miner", "--url", "http://127.0.0.1:1", "--token", "x"], "failed to ask the chain node"),
    ] {
        let output = bounded("the refusal", program().args(arguments).output()).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{arguments:?}: {said}");
    }
}
