//! A chain in this process with short proving periods, a database, and the `curio` program, which has sealed some
//! sectors. SNARKs of sealing and of elections are simulated; those of windows are real.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use curio_chain::{Client, ClientOptions, Endpoint, address};
use curio_core::{SealProof, SpId};
use curio_devnet::create_miner::create_miner;
use curio_devnet::{Clock, Devnet, Options, PostPolicy};
use curio_harmony::Db;
use curio_harmony::testing::TestDb;
use tempfile::TempDir;
use tokio::process::{Child, Command};

const EPOCH: Duration = Duration::from_secs(1);
/// A proving period of 32 s.
const PERIOD: PostPolicy = PostPolicy { deadlines: 4, challenge_window: 8, challenge_lookback: 4, fault_cutoff: 6 };
const WINNING_LOOKBACK: i64 = 10;
/// As many as fill a partition of each deadline.
const SECTORS: usize = 8;
const LIMIT: Duration = Duration::from_secs(240);
const LOOK: Duration = Duration::from_millis(100);

const LAYERS: [(&str, &str); 3] = [
    (
        "bench-seal",
        "EnableSealSDR = true\nEnableSealSDRTrees = true\nEnablePoRepProof = true\nEnableSendPrecommitMsg = true\n\
         EnableSendCommitMsg = true\nEnableMoveStorage = true\n",
    ),
    ("bench-window", "EnableWindowPost = true\n"),
    ("bench-winning", "EnableWinningPost = true\n"),
];

pub struct World {
    pub devnet: Devnet,
    pub db: Db,
    curio: PathBuf,
    dir: TempDir,
    database: TestDb,
}

impl World {
    /// Seals the sectors and ends the runner that did.
    pub async fn new(curio: &Path) -> Result<World> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let params = curio_proofs::params::default_dir();
        let options = Options {
            clock: Clock::Running(EPOCH),
            genesis_timestamp: None,
            post: PERIOD,
            winning_lookback: WINNING_LOOKBACK,
            // A block that comes late must not find another in its place.
            miner_patience: EPOCH,
            ..Options::manual(params)
        };
        let devnet = Devnet::start(options).await.context("the chain does not start")?;
        let endpoint = Endpoint::parse(&format!("{}:{}", devnet.token, devnet.url))?;
        let chain = Client::new(vec![endpoint], ClientOptions::default())?;
        let miner = create_miner(&chain, SealProof::StackedDrg2KiBV1_1, None).await?;
        let sp = address::parse(&miner.miner).ok().and_then(|address| address::sp_id(&address));
        let sp = sp.context("the miner has an id address")?;
        let database = TestDb::new().await;
        let db = database.connect().await;
        let world = World { devnet, db, curio: curio.to_owned(), dir: tempfile::tempdir()?, database };
        world.configure().await?;
        let sealing = world.runner("sealing", "bench-seal").await?;
        world.curio(&["seal", "start", "--actor", &miner.miner, "--now", "--count", &SECTORS.to_string()]).await?;
        world.until_proven(sp).await?;
        drop(sealing);
        Ok(world)
    }

    async fn configure(&self) -> Result<()> {
        let secret = self.path("secret");
        std::fs::write(&secret, "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")?;
        let base =
            format!("[Apis]\nStorageRPCSecret = \"file:{}\"\n[Chain]\nMessageConfidence = 1\n", secret.display());
        curio_harmony::layers::set(&self.db, "base", &base).await?;
        for (name, keys) in LAYERS {
            curio_harmony::layers::set(&self.db, name, &format!("[Subsystems]\n{keys}")).await?;
        }
        for (usage, folder) in [("--seal", "seal"), ("--store", "store")] {
            let path = self.path(folder);
            std::fs::create_dir(&path)?;
            // One machine has the files; the runners of this bench follow each other under its name.
            self.curio(&["storage", "attach", "--init", usage, "--machine", "sealing", &path.display().to_string()])
                .await?;
        }
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.curio);
        command
            .args(args)
            .env("CURIO_DB_URL", self.database.url())
            .env("FULLNODE_API_INFO", format!("{}:{}", self.devnet.token, self.devnet.url))
            .env("FIL_PROOFS_PARAMETER_CACHE", curio_proofs::params::default_dir())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    async fn curio(&self, args: &[&str]) -> Result<()> {
        let output = tokio::time::timeout(LIMIT, self.command(args).output()).await??;
        if !output.status.success() {
            bail!("curio {args:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Starts the machine `name` with a layer and waits until it is ready. Dropping it kills it.
    pub async fn runner(&self, name: &str, layer: &str) -> Result<Child> {
        let ready = self.path("ready");
        let _ = std::fs::remove_file(&ready);
        let log = std::fs::File::create(self.path(&format!("{layer}.log")))?;
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
        let mut child = self.command(&args).stdout(Stdio::null()).stderr(log).spawn()?;
        let is_ready = async {
            while !ready.exists() {
                if let Some(status) = child.try_wait()? {
                    let log = std::fs::read_to_string(self.path(&format!("{layer}.log"))).unwrap_or_default();
                    bail!("the runner ended with {status}: {log}");
                }
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        tokio::time::timeout(LIMIT, is_ready).await.context("the runner is not ready in time")??;
        Ok(child)
    }

    async fn until_proven(&self, sp: SpId) -> Result<()> {
        let proven = async {
            loop {
                let sectors = curio_pipeline::status::list(&self.db, Some(sp)).await?;
                if let Some(failed) = sectors.iter().find(|sector| sector.failed_at.is_some()) {
                    bail!("sector {} failed: {:?}", failed.number, failed.failed_message);
                }
                if sectors.iter().filter(|sector| sector.stage == "Done").count() == SECTORS {
                    return Ok(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(LIMIT, proven).await.context("the sectors are not proven in time")?
    }
}
