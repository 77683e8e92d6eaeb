//! The binary as a person runs it, and a chain for it to talk to.

// Each test file uses a part.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use curio_chain::{Client, ClientOptions, Endpoint};
use curio_core::SealProof;
use curio_devnet::create_miner::create_miner;
use curio_devnet::{Clock, Devnet, Options};
use curio_harmony::testing::TestDb;
use sqlx::Row;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr};

/// Longest wait for anything in these tests.
pub const BOUND: Duration = Duration::from_secs(60);

/// `curio` without anything of the caller's surroundings.
pub fn curio(db: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_curio"));
    for (name, _) in std::env::vars() {
        if name.starts_with("CURIO_") || name == "FULLNODE_API_INFO" || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    if let Some(url) = db {
        command.env("CURIO_DB_URL", url);
    }
    command
}

/// Runs to the end. The test's own server goes on meanwhile.
pub async fn run(command: &mut Command) -> Output {
    let mut command = tokio::process::Command::from(std::mem::replace(command, Command::new("true")));
    let output = command.kill_on_drop(true).output();
    tokio::time::timeout(BOUND, output).await.expect("the command ends").expect("the binary starts")
}

/// Asserts exit code 1 and one sentence on stderr, and gives the sentence.
#[track_caller]
pub fn refused(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "stderr: {stderr}\nstdout: {stdout}");
    let sentences: Vec<&str> = stderr.lines().filter(|line| line.starts_with("curio: ")).collect();
    assert_eq!(sentences.len(), 1, "one sentence is expected: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    sentences[0].trim_start_matches("curio: ").to_owned()
}

#[track_caller]
pub fn contains_all(sentence: &str, parts: &[&str]) {
    for part in parts {
        assert!(sentence.contains(part), "'{part}' is not in: {sentence}");
    }
}

/// Everything that a command could have changed, as text.
pub async fn contents(db: &TestDb) -> String {
    let tables = [
        "harmony_task",
        "harmony_task_machines",
        "harmony_config",
        "storage_path",
        "storage_path_machines",
        "sectors_sdr_pipeline",
        "sectors_sdr_initial_pieces",
        "sectors_allocated_numbers",
        "message_sends",
    ];
    let mut text = String::new();
    for table in tables {
        // The table names are the constants above.
        let statement = sqlx::AssertSqlSafe(format!("SELECT t::text AS line FROM curio.{table} t ORDER BY 1"));
        for row in sqlx::query(statement).fetch_all(db.db().pool()).await.expect("the table can be read") {
            text.push_str(&format!("{table}: {}\n", row.get::<String, _>("line")));
        }
    }
    text
}

/// Stores a configuration layer as it is.
pub async fn layer(db: &TestDb, name: &str, text: &str) {
    curio_harmony::layers::set(db.db(), name, text).await.expect("the layer can be stored");
}

/// A chain in this process with epochs of 50 ms.
pub async fn chain(api: SocketAddr) -> Devnet {
    let options = Options {
        api,
        clock: Clock::Running(Duration::from_millis(50)),
        ..Options::manual(curio_proofs::params::default_dir())
    };
    Devnet::start(options).await.expect("the chain starts")
}

/// Any free port of this machine.
pub fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// `TOKEN:URL` of the chain, as in `FULLNODE_API_INFO`.
pub fn api_info(chain: &Devnet) -> String {
    format!("{}:{}", chain.token, chain.url)
}

/// A new miner actor with sectors of 2 KiB.
pub async fn miner(chain: &Devnet) -> String {
    let endpoint = Endpoint::parse(&api_info(chain)).expect("the chain tells its address");
    let client = Client::new(vec![endpoint], ClientOptions::default()).expect("one node");
    let made = tokio::time::timeout(BOUND, create_miner(&client, SealProof::StackedDrg2KiBV1_1, None));
    made.await.expect("messages land").expect("the chain makes a miner").miner
}

/// A running `curio run`, killed when dropped.
pub struct Runner {
    pub child: Child,
    lines: Lines<BufReader<ChildStderr>>,
    /// What was read of its log.
    pub log: String,
}

impl Runner {
    /// Starts it; `command` has all arguments.
    pub fn start(mut command: Command) -> Runner {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = tokio::process::Command::from(command).kill_on_drop(true).spawn().expect("the binary starts");
        let lines = BufReader::new(child.stderr.take().expect("stderr is a pipe")).lines();
        Runner { child, lines, log: String::new() }
    }

    /// Reads the log up to a line with this text.
    pub async fn says(&mut self, text: &str) -> String {
        loop {
            let line = tokio::time::timeout(BOUND, self.lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("'{text}' did not come:\n{}", self.log));
            let Some(line) = line.expect("the log can be read") else {
                panic!("the runner ended before it said '{text}':\n{}", self.log);
            };
            self.log.push_str(&line);
            self.log.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }

    /// Reads the log to its end, and gives the exit code.
    pub async fn ends(&mut self) -> Option<i32> {
        while let Some(line) = tokio::time::timeout(BOUND, self.lines.next_line())
            .await
            .unwrap_or_else(|_| panic!("the runner does not end:\n{}", self.log))
            .expect("the log can be read")
        {
            self.log.push_str(&line);
            self.log.push('\n');
        }
        self.child.wait().await.expect("it can be waited for").code()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("it runs"), signal).expect("it can be signalled");
    }

    /// The address that it said it serves on.
    pub async fn url(&mut self) -> String {
        let line = self.says("serves on").await;
        let address = line.split("serves on ").nth(1).and_then(|rest| rest.split_whitespace().next());
        format!("http://{}", address.expect("the line names the address"))
    }
}
