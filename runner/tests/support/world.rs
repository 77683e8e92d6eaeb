//! A whole cluster for one story: a chain in this process, a database, and runners as processes of the
//! binary under test, which can be killed and started again by the same command.

// Each test file uses a part.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use curio_chain::types::TipSetKey;
use curio_chain::{Client, ClientOptions, Endpoint, address};
use curio_core::{SealProof, SectorRef, SpId};
use curio_devnet::create_miner::create_miner;
use curio_devnet::{Clock, Devnet, Options};
use curio_harmony::Db;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// Longest that any one thing of a story may take, on two busy cores.
pub const BOUND: Duration = Duration::from_secs(120);

/// Layer of the runner that does everything but PoRep.
const SEALING: &str = "[Subsystems]\nEnableSealSDR = true\nEnableSealSDRTrees = true\nEnableSendPrecommitMsg = true\n\
                       EnableSendCommitMsg = true\nEnableMoveStorage = true\n";
/// Layer of the runner that does everything up to the trees.
const TREES: &str = "[Subsystems]\nEnableSealSDR = true\nEnableSealSDRTrees = true\n";
/// Layer of the runner that does PoRep alone.
const SNARK: &str = "[Subsystems]\nEnablePoRepProof = true\n";

/// Everything that a story happens in.
pub struct World {
    pub devnet: Devnet,
    pub chain: Client,
    pub sp: SpId,
    pub db: Db,
    pub db_url: String,
    pub dir: TempDir,
}

impl World {
    /// A chain with 250 ms epochs and a miner, a migrated and configured cluster with a sealing and a
    /// long-term path for the machine `sealing`; no runner yet.
    pub async fn new(db_url: &str) -> World {
        World::with(db_url, |options| options).await
    }

    /// [`World::new`] with a chain of other options; epochs have to come by themselves until this returns.
    pub async fn with(db_url: &str, choose: impl FnOnce(Options) -> Options) -> World {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let params = curio_proofs::params::default_dir();
        curio_proofs::params::ensure_verifying_keys(&params, SealProof::StackedDrg2KiBV1_1)
            .expect("the verifying key of 2 KiB");
        let options = Options { clock: Clock::Running(Duration::from_millis(250)), ..Options::manual(params) };
        let devnet = Devnet::start(choose(options)).await.expect("the chain starts");
        let endpoint = Endpoint::parse(&format!("{}:{}", devnet.token, devnet.url)).expect("the chain's own address");
        let chain = Client::new(vec![endpoint], ClientOptions::default()).expect("a client of the chain");
        let miner = create_miner(&chain, SealProof::StackedDrg2KiBV1_1, None).await.expect("a miner is made");
        let sp = address::parse(&miner.miner).ok().and_then(|address| address::sp_id(&address)).expect("an id address");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let db = Db::connect(db_url, "curio-story").await.expect("the database is there");
        let world = World { devnet, chain, sp, db, db_url: db_url.to_owned(), dir };
        world.configure().await;
        world
    }

    async fn configure(&self) {
        let secret = self.path("secret");
        std::fs::write(&secret, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").expect("the secret is written");
        self.curio(&["migrate"]).await;
        // Stories jump over days, which the fence would take for a database that was switched off.
        let base = format!(
            "[Apis]\nStorageRPCSecret = \"file:{}\"\n[Chain]\nMessageConfidence = 1\nMaxGapEpochs = 1000000\n[Harmony]\nHeartbeat = \"1s\"\nLease = \"5s\"\n",
            secret.display()
        );
        for (name, text) in
            [("base", base.as_str()), ("story-sealing", SEALING), ("story-trees", TREES), ("story-snark", SNARK)]
        {
            self.layer(name, text).await;
        }
        for (usage, folder) in [("--seal", "seal"), ("--store", "store")] {
            let path = self.path(folder);
            std::fs::create_dir(&path).expect("the path's folder is made");
            self.curio(&["storage", "attach", "--init", usage, "--machine", "sealing", &path.display().to_string()])
                .await;
        }
    }

    /// Stores a configuration layer.
    pub async fn layer(&self, name: &str, text: &str) {
        let file = self.path(&format!("{name}.toml"));
        std::fs::write(&file, text).expect("the layer is written");
        self.curio(&["config", "set", name, &file.display().to_string()]).await;
    }

    /// A file or folder of the story.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_curio"));
        command
            .args(args)
            .env("CURIO_DB_URL", &self.db_url)
            .env("FULLNODE_API_INFO", format!("{}:{}", self.devnet.token, self.devnet.url))
            .env("FIL_PROOFS_PARAMETER_CACHE", curio_proofs::params::default_dir())
            .env_remove("CURIO_FAULT_PAUSE")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command to its end and gives back the JSON that it prints.
    pub async fn curio(&self, args: &[&str]) -> Value {
        let (ok, json, said) = self.try_curio(args).await;
        assert!(ok, "curio {args:?} failed: {said}");
        json
    }

    /// Runs a command to its end: whether it succeeded, its JSON, and what it said.
    pub async fn try_curio(&self, args: &[&str]) -> (bool, Value, String) {
        let args: Vec<&str> = ["--json"].into_iter().chain(args.iter().copied()).collect();
        let output = timeout(BOUND, self.command(&args).output())
            .await
            .expect("the command ends in time")
            .expect("the command starts");
        let json = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        (output.status.success(), json, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts the runner `sealing` or `snark` and waits until it is ready. `pause` is a fault pause.
    pub async fn runner(&self, name: &str, pause: Option<&Pause>) -> Runner {
        self.runner_with(name, &format!("story-{name}"), pause).await
    }

    /// [`World::runner`] with another layer.
    pub async fn runner_with(&self, name: &str, layer: &str, pause: Option<&Pause>) -> Runner {
        let ready = self.path(&format!("{name}.ready"));
        let _ = std::fs::remove_file(&ready);
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{name}.log")))
            .expect("a log file");
        let ready_text = ready.display().to_string();
        let args = [
            "run",
            "--layers",
            layer,
            "--name",
            name,
            "--listen",
            "127.0.0.1:0",
            "--ready-file",
            &ready_text,
            "--die-with-parent",
            "--simulated-snarks",
        ];
        let mut command = self.command(&args);
        command.stdout(Stdio::null()).stderr(log);
        if let Some(pause) = pause {
            command.env("CURIO_FAULT_PAUSE", format!("{}:{}", pause.point, pause.flag.display()));
        }
        let child = command.spawn().expect("the runner starts");
        let mut runner = Runner { child, log: self.path(&format!("{name}.log")), ready: ready.clone() };
        let due_by = Instant::now() + BOUND;
        while !ready.exists() {
            if let Ok(Some(status)) = runner.child.try_wait() {
                panic!("runner {name} ended with {status} before it was ready: {}", runner.last_words());
            }
            assert!(Instant::now() < due_by, "runner {name} is not ready in time: {}", runner.last_words());
            sleep(LOOK).await;
        }
        runner
    }

    /// A pause at `point` of a runner that is started with it.
    pub fn pause(&self, point: &'static str) -> Pause {
        Pause { point, flag: self.path(&format!("pause-{point}")) }
    }

    /// Waits until every sector is proven; ends at once when one fails.
    pub async fn until_proven(&self, count: usize) {
        until("all sectors are proven", || async {
            let sectors = curio_pipeline::status::list(&self.db, Some(self.sp)).await.ok()?;
            for sector in &sectors {
                let problem = (&sector.failed_reason, &sector.failed_message);
                assert!(sector.failed_at.is_none(), "sector {} failed: {problem:?}", sector.number);
            }
            let proven = sectors.iter().filter(|sector| sector.stage == "Done").count();
            (proven == count).then_some(())
        })
        .await;
    }

    /// Column of a sector's row as text.
    pub async fn column(&self, sector: SectorRef, column: &str) -> Option<String> {
        let query = format!("SELECT {column}::text FROM sectors_sdr_pipeline WHERE sp_id = $1 AND sector_number = $2");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .bind(sector.sp.0 as i64)
            .bind(sector.number as i64)
            .fetch_one(self.db.pool())
            .await
            .ok()
            .flatten()
    }

    /// Highest epoch that the database has seen.
    pub async fn fence_epoch(&self) -> i64 {
        let epoch = sqlx::query_scalar("SELECT max(epoch) FROM chain_fence").fetch_one(self.db.pool()).await;
        epoch.ok().flatten().unwrap_or(0)
    }

    /// Messages to the miner on the chain with this method, from the head down to the beginning.
    pub async fn messages_on_chain(&self, method: u64) -> usize {
        let miner = address::id_address(self.sp);
        let mut key = self.chain.chain_head().await.expect("the chain answers").key().clone();
        let mut found = 0;
        loop {
            let tipset = self.chain.chain_get_tip_set(&key).await.expect("the tipset is there");
            let messages = self.chain.chain_get_messages_in_tipset(&key).await.expect("its messages are there");
            found += messages
                .iter()
                .filter(|message| message.message.to == miner && message.message.method == method)
                .count();
            if tipset.height.0 == 0 {
                return found;
            }
            key = tipset.parents().clone();
        }
    }

    /// What must hold at the end of every story: each sector on chain with the CID that we computed, each
    /// message there once, and no nonce left out.
    pub async fn assert_sealed(&self, count: usize) {
        use curio_chain::message::method;
        assert_eq!(self.messages_on_chain(method::PRE_COMMIT_SECTOR_BATCH2).await, count, "pre-commits on chain");
        assert_eq!(self.messages_on_chain(method::PROVE_COMMIT_SECTORS3).await, count, "commits on chain");
        let sectors = curio_pipeline::status::list(&self.db, Some(self.sp)).await.expect("the database answers");
        assert_eq!(sectors.len(), count);
        for sector in sectors {
            let miner = address::id_address(self.sp);
            let info = self
                .chain
                .state_sector_get_info(&miner, sector.number, &TipSetKey::HEAD)
                .await
                .expect("the chain answers");
            let on_chain = info.map(|info| info.sealed_cid.to_string());
            assert_eq!(on_chain, sector.sealed_cid, "sealed CID of sector {}", sector.number);
            for file in ["sealed", "cache"] {
                let place = self.path("store").join(file).join(SectorRef::new(self.sp, sector.number).file_name());
                assert!(place.exists(), "{} is in long-term storage", place.display());
            }
        }
        let sends = curio_runner::message::outbox::list(&self.db).await.expect("the database answers");
        assert_eq!(sends.len(), 2 * count, "messages in the outbox: {sends:#?}");
        assert!(sends.iter().all(|send| send.exit_code == Some(0)), "every message succeeded: {sends:#?}");
    }
}

/// Between two looks at something that has no notification.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until `look` gives a value.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let due_by = Instant::now() + BOUND;
    loop {
        if let Some(value) = look().await {
            return value;
        }
        assert!(Instant::now() < due_by, "not in time: {what}");
        sleep(LOOK).await;
    }
}

/// A point at which a task holds, and the file by which it says so.
pub struct Pause {
    point: &'static str,
    flag: PathBuf,
}

impl Pause {
    /// Waits until a task is held here.
    pub async fn reached(&self) {
        until(&format!("a task holds at {}", self.point), || async { self.flag.exists().then_some(()) }).await;
    }

    /// Lets the task go on, and clears the way for a runner that is started with the same pause.
    pub fn remove(&self) {
        let _ = std::fs::remove_file(&self.flag);
    }
}

/// A runner process.
pub struct Runner {
    child: Child,
    log: PathBuf,
    ready: PathBuf,
}

impl Runner {
    /// Answer of `/readyz`: whether it is ready, and its checks.
    pub async fn readiness(&self) -> Option<(bool, Value)> {
        let ready: Value = serde_json::from_slice(&std::fs::read(&self.ready).ok()?).ok()?;
        let answer = reqwest::get(format!("{}/readyz", ready["url"].as_str()?)).await.ok()?;
        let is_ready = answer.status().is_success();
        Some((is_ready, answer.json().await.ok()?))
    }

    /// Sum of a metric's lines; none while the runner does not tell it.
    pub async fn metric(&self, name: &str) -> Option<f64> {
        let ready: Value = serde_json::from_slice(&std::fs::read(&self.ready).ok()?).ok()?;
        let text = reqwest::get(format!("{}/metrics", ready["url"].as_str()?)).await.ok()?.text().await.ok()?;
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
        });
        values.reduce(|sum, value| sum + value)
    }

    /// Stops the process without ending it; nothing of it goes on until [`Runner::go_on`].
    pub fn freeze(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// After [`Runner::freeze`].
    pub fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("it runs"), signal).expect("it can be signalled");
    }

    /// kill -9.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the runner is killed");
    }

    fn last_words(&self) -> String {
        last_lines(&self.log)
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.last_words());
        }
    }
}

fn last_lines(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}
