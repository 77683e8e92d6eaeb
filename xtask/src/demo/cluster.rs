//! What the demo runs: the private PostgreSQL, the embedded chain and the runners, with the commands that start them
//! again, and the end of them all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::chain::Chain;
use super::curio::Curio;
use super::local::{SEALING, SNARK};
use super::memory::Meter;
use crate::cargo::Programs;
use crate::postgres::{self, Durability, Installation, Server};
use crate::{interrupt, places, process};

/// Every process of one demo has `CURIO_DEMO=ID` in its environment, also a runner started again by hand.
const MARK: &str = "CURIO_DEMO";

/// A runner stops its tasks within this time when the demo ends.
const GRACE: Duration = Duration::from_secs(10);

pub struct Cluster {
    id: String,
    programs: Programs,
    server: Server,
    chain: Option<(Chain, Child)>,
    runners: Vec<Runner>,
    meter: Meter,
    /// Last, so that it is removed after everything in it has stopped.
    dir: tempfile::TempDir,
}

/// One `curio run`.
pub struct Runner {
    pub name: &'static str,
    pub url: String,
    pub layers: Vec<String>,
    /// Starts it in the foreground, from any folder: a script with the environment and the arguments.
    pub command: String,
    ready: PathBuf,
    child: Option<Child>,
    last_pid: u32,
}

#[derive(Deserialize)]
struct ChainReady {
    url: String,
    token: String,
}

#[derive(Deserialize)]
struct RunnerReady {
    pid: u32,
}

impl Runner {
    /// The process that runs now under this name; `None` while there is none.
    pub fn pid(&self) -> Option<u32> {
        let ready: RunnerReady = serde_json::from_str(&fs::read_to_string(&self.ready).ok()?).ok()?;
        process::is_alive(ready.pid).then_some(ready.pid)
    }
}

impl Cluster {
    /// Makes the demo's folder and starts PostgreSQL in it.
    ///
    /// # Errors
    /// When the folder cannot be made or PostgreSQL does not start.
    pub fn prepare(programs: &Programs, installation: &Installation) -> Result<Cluster> {
        let dir = places::scratch("demo")?;
        for part in ["bin", "secrets", "logs", "ready", "layers", SEALING] {
            let path = dir.path().join(part);
            fs::create_dir(&path).with_context(|| format!("failed to make {}", path.display()))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
                .with_context(|| format!("failed to set the mode of {}", path.display()))?;
        }
        // Copies of our own: a build that goes on beside us must not swap the programs that a runner starts.
        let bin = dir.path().join("bin");
        let own = Programs { curio: bin.join("curio"), devnet: bin.join("curio-devnet") };
        for (from, to) in [(&programs.curio, &own.curio), (&programs.devnet, &own.devnet)] {
            fs::hard_link(from, to)
                .or_else(|_| fs::copy(from, to).map(drop))
                .with_context(|| format!("failed to copy {}", from.display()))?;
        }
        let id = postgres::random_word()?;
        let server = Server::start(installation, dir.path(), Durability::Full)?;
        let meter = Meter::start(MARK, id.clone(), server.pid_file());
        Ok(Cluster { id, programs: own, server, chain: None, runners: Vec::new(), meter, dir })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn server(&self) -> &Server {
        &self.server
    }

    pub fn runners(&self) -> &[Runner] {
        &self.runners
    }

    pub fn peak_memory_bytes(&self) -> u64 {
        self.meter.peak_bytes()
    }

    /// Where the chain is asked.
    ///
    /// # Errors
    /// Before [`Cluster::start_chain`].
    pub fn chain(&self) -> Result<&Chain> {
        self.chain.as_ref().map(|(chain, _)| chain).context("the chain was not started")
    }

    /// The `curio` program, pointed at our database and chain.
    ///
    /// # Errors
    /// When the folder of the parameters cannot be told.
    pub fn curio(&self) -> Result<Curio> {
        Ok(Curio { program: self.programs.curio.clone(), environment: self.environment()? })
    }

    fn environment(&self) -> Result<Vec<(String, String)>> {
        let mut environment = vec![
            (MARK.to_owned(), self.id.clone()),
            // The logs are read as files.
            ("NO_COLOR".to_owned(), "1".to_owned()),
            ("CURIO_DB_URL".to_owned(), self.server.url()),
            ("FIL_PROOFS_PARAMETER_CACHE".to_owned(), places::parameters()?.to_string_lossy().into_owned()),
        ];
        if let Ok(chain) = self.chain() {
            environment.push(("FULLNODE_API_INFO".to_owned(), format!("{}:{}", chain.token, chain.url)));
        }
        Ok(environment)
    }

    /// Starts the embedded chain; `pace` are the arguments that say how its time passes.
    ///
    /// # Errors
    /// When it does not come up within a minute.
    pub fn start_chain(&mut self, pace: &[&str]) -> Result<()> {
        let ready = self.dir().join("ready").join("chain.json");
        let mut command = Command::new(&self.programs.devnet);
        command.args(["run", "--api", "127.0.0.1:0", "--seed", "1", "--die-with-parent"]).args(pace);
        command.arg("--params-dir").arg(places::parameters()?).arg("--ready-file").arg(&ready);
        command.env(MARK, &self.id).env("NO_COLOR", "1").stdin(Stdio::null());
        self.log_to("chain", &mut command)?;
        let mut child = process::tied(&mut command).spawn().context("failed to start curio-devnet")?;
        let ready: ChainReady = self.wait_ready("chain", &ready, &mut child)?;
        self.chain = Some((Chain { url: ready.url.trim_end_matches('/').to_owned(), token: ready.token }, child));
        Ok(())
    }

    /// Creates a storage provider for 2 KiB sectors, by a message on the chain, and returns its address.
    ///
    /// # Errors
    /// When the chain refuses.
    pub fn create_miner(&self) -> Result<String> {
        #[derive(Deserialize)]
        struct Created {
            miner: String,
        }
        let chain = self.chain()?;
        let mut command = Command::new(&self.programs.devnet);
        command.args(["create-miner", "--url", &chain.url, "--token", &chain.token, "--sector-size", "2KiB"]);
        command.env(MARK, &self.id);
        let said = process::capture("curio-devnet create-miner", &mut command)?;
        let created: Created =
            serde_json::from_str(&said).context("`curio-devnet create-miner` said something else")?;
        Ok(created.miner)
    }

    /// Stores the layers and attaches the paths of the sealing runner; up to `snarks` are made at a time.
    ///
    /// # Errors
    /// When `curio` refuses.
    pub fn configure(&self, snarks: u32) -> Result<()> {
        let secret = self.dir().join("secrets").join("storage-rpc");
        // 64 hexadecimal digits are base64, too: that of 48 bytes.
        fs::write(&secret, postgres::random_word()? + &postgres::random_word()?)
            .with_context(|| format!("failed to write {}", secret.display()))?;
        let curio = self.curio()?;
        let snark = format!("[Subsystems]\nEnableSendCommitMsg = false\nPoRepProofMaxTasks = {snarks}\n");
        let base = format!("[Apis]\nStorageRPCSecret = \"file:{}\"\n", secret.display());
        for (name, text) in [
            ("base", base.as_str()),
            ("demo", "[Subsystems]\nEnablePoRepProof = false\n"),
            ("demo-snark", snark.as_str()),
        ] {
            let file = self.dir().join("layers").join(format!("{name}.toml"));
            fs::write(&file, text).with_context(|| format!("failed to write {}", file.display()))?;
            curio.set_layer(name, &file)?;
        }
        for (purpose, folder) in [("--seal", "sealing"), ("--store", "long-term")] {
            let path = self.dir().join(SEALING).join(folder);
            fs::create_dir(&path).with_context(|| format!("failed to make {}", path.display()))?;
            curio.attach(SEALING, purpose, &path)?;
        }
        Ok(())
    }

    /// Starts a runner and waits until it serves.
    ///
    /// # Errors
    /// When it does not come up within a minute.
    pub fn start_runner(&mut self, name: &'static str) -> Result<&Runner> {
        let layers = layers_of(name);
        let address = format!("127.0.0.1:{}", postgres::free_port()?);
        let ready = self.dir().join("ready").join(format!("{name}.json"));
        let program = self.programs.curio.to_string_lossy().into_owned();
        let grace = format!("{}s", GRACE.as_secs());
        let arguments = [
            program.as_str(),
            "run",
            "--layers",
            &layers.join(","),
            "--name",
            name,
            "--listen",
            &address,
            "--ready-file",
            &ready.to_string_lossy(),
            "--grace",
            &grace,
        ];
        let environment =
            self.environment()?.into_iter().map(|(key, value)| format!("{key}={}", process::quote(&value)));
        let words = environment.chain(arguments.iter().map(|word| process::quote(word)));
        let script = self.dir().join("bin").join(name);
        let text = format!(
            "#!/bin/sh\n# Starts the runner {name} of this demo, in the foreground.\nexec env {} >>{} 2>&1 </dev/null\n",
            words.collect::<Vec<_>>().join(" "),
            process::quote(&self.log(name).to_string_lossy())
        );
        fs::write(&script, text).with_context(|| format!("failed to write {}", script.display()))?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("failed to set the mode of {}", script.display()))?;
        let child = self.run_script(name, &script, &ready)?;
        let last_pid = child.id();
        self.runners.push(Runner {
            name,
            url: format!("http://{address}"),
            layers: layers.iter().map(|layer| (*layer).to_owned()).collect(),
            command: process::quote(&script.to_string_lossy()),
            ready,
            child: Some(child),
            last_pid,
        });
        self.runners.last().context("the runner was added just above")
    }

    /// Started by the very command that the summary shows, so that the command is known to work.
    fn run_script(&self, name: &str, script: &Path, ready: &Path) -> Result<Child> {
        let mut start = Command::new(script);
        start.current_dir("/").stdin(Stdio::null());
        let mut child = process::tied(&mut start).spawn().with_context(|| format!("failed to start {name}"))?;
        let _: RunnerReady = self.wait_ready(name, ready, &mut child)?;
        Ok(child)
    }

    /// Ends a runner as a power cut does.
    ///
    /// # Errors
    /// When there is no process of that name.
    pub fn kill_runner(&mut self, name: &str) -> Result<()> {
        let runner = self.runners.iter_mut().find(|runner| runner.name == name);
        let Some((runner, mut child)) = runner.and_then(|runner| runner.child.take().map(|child| (runner, child)))
        else {
            bail!("there is no runner {name} to kill");
        };
        child.kill().with_context(|| format!("failed to kill {name}"))?;
        child.wait().with_context(|| format!("failed to wait for the end of {name}"))?;
        // What it said of itself is no longer so.
        fs::remove_file(&runner.ready).with_context(|| format!("failed to remove {}", runner.ready.display()))
    }

    /// Starts a runner again that was killed.
    ///
    /// # Errors
    /// When it does not come up within a minute.
    pub fn restart_runner(&mut self, name: &'static str) -> Result<()> {
        let script = self.dir().join("bin").join(name);
        let ready = self.dir().join("ready").join(format!("{name}.json"));
        let child = self.run_script(name, &script, &ready)?;
        let runner = self.runners.iter_mut().find(|runner| runner.name == name);
        let runner = runner.with_context(|| format!("there is no runner {name}"))?;
        runner.last_pid = child.id();
        runner.child = Some(child);
        Ok(())
    }

    fn log(&self, name: &str) -> PathBuf {
        self.dir().join("logs").join(format!("{name}.log"))
    }

    fn log_to(&self, name: &str, command: &mut Command) -> Result<()> {
        let path = self.log(name);
        let file = fs::File::create(&path).with_context(|| format!("failed to make {}", path.display()))?;
        command.stdout(file.try_clone().context("failed to share a log file")?).stderr(file);
        Ok(())
    }

    /// Waits for the file that a program writes once it serves. Ends the program when it does not.
    fn wait_ready<T: for<'de> Deserialize<'de>>(&self, name: &str, file: &Path, child: &mut Child) -> Result<T> {
        let due_by = Instant::now() + Duration::from_secs(60);
        loop {
            if let Ok(text) = fs::read_to_string(file) {
                return serde_json::from_str(&text)
                    .with_context(|| format!("{name} wrote something else into {}", file.display()));
            }
            let ended = child.try_wait().context("failed to wait for a child process")?;
            if let Some(status) = ended {
                bail!("{name} did not start ({status}): {}", self.log_end(name));
            }
            let late = Instant::now() > due_by;
            if late || interrupt::raised() {
                process::end(child, GRACE);
                interrupt::check()?;
                bail!("{name} was not ready within a minute: {}", self.log_end(name));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The last lines of a log, for an error.
    fn log_end(&self, name: &str) -> String {
        let text = fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(3)..].join(" / ")
    }

    /// Collects what ended and says what changed since the last look: one line each.
    pub fn look(&mut self) -> Vec<String> {
        self.server.reap();
        let mut news = Vec::new();
        for runner in &mut self.runners {
            if let Some(status) = ended(&mut runner.child) {
                news.push(format!("{} ended ({status}); its command in the summary starts it again", runner.name));
            }
            if let Some(pid) = runner.pid()
                && pid != runner.last_pid
            {
                runner.last_pid = pid;
                news.push(format!("{} runs again as process {pid}", runner.name));
            }
        }
        news
    }

    /// # Errors
    /// When the chain has ended, since nothing can go on without it.
    pub fn check_chain(&mut self) -> Result<()> {
        let Some((_, child)) = &mut self.chain else { return Ok(()) };
        match child.try_wait().context("failed to wait for a child process")? {
            Some(status) => bail!("the chain ended ({status}): {}", self.log_end("chain")),
            None => Ok(()),
        }
    }

    /// Whether a runner that we started has ended and nobody has started it again.
    pub fn missing_runner(&self) -> Option<&Runner> {
        self.runners.iter().find(|runner| runner.child.is_none() && runner.pid().is_none())
    }

    /// What to type in another terminal while everything runs.
    ///
    /// # Errors
    /// Before [`Cluster::start_chain`].
    pub fn how_to_look(&self) -> Result<String> {
        let mut lines = vec!["In another terminal:".to_owned()];
        for (key, value) in self.environment()? {
            if key != MARK && key != "NO_COLOR" {
                lines.push(format!("  export {key}={}", process::quote(&value)));
            }
        }
        let curio = self.programs.curio.display();
        lines.push(format!("  {curio} sector list        (also: machine list, task history, storage list)"));
        Ok(lines.join("\n"))
    }

    /// Copies the logs to a place that stays, and says where.
    pub fn keep_logs(&self) {
        let Ok(kept) = tempfile::Builder::new().prefix("curio-demo-logs-").tempdir() else { return };
        let kept = kept.keep();
        for entry in fs::read_dir(self.dir().join("logs")).into_iter().flatten().flatten() {
            // Keeping the logs is a courtesy; the error that brought us here is the one to report.
            drop(fs::copy(entry.path(), kept.join(entry.file_name())));
        }
        println!("      logs of the runners and the chain: {}", kept.display());
    }

    /// Ends everything: runners, then the chain; the database ends when this is dropped.
    fn end_programs(&mut self) {
        for runner in &self.runners {
            if let Some(child) = &runner.child {
                process::signal_group(child.id(), libc::SIGTERM);
            }
        }
        for runner in &mut self.runners {
            if let Some(mut child) = runner.child.take() {
                process::finish(&mut child, GRACE + Duration::from_secs(2));
            }
        }
        if let Some((_, mut child)) = self.chain.take() {
            process::end(&mut child, GRACE);
        }
        process::end_marked(MARK, &self.id, GRACE);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end_programs();
    }
}

/// Layers of each runner of the demo.
fn layers_of(runner: &str) -> &'static [&'static str] {
    match runner {
        SNARK => &["seal-snark", "demo-snark"],
        SEALING => &["seal", "demo"],
        _ => &["post"],
    }
}

fn ended(child: &mut Option<Child>) -> Option<ExitStatus> {
    let status = child.as_mut()?.try_wait().ok()??;
    *child = None;
    Some(status)
}
