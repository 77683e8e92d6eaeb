//! Proof calls in child processes: `curio prove`, one request on stdin, messages on stdout, its log on stderr.
//!
//! A crash, an abort or a kill for memory costs one attempt of one task. The child sees a fresh environment (no
//! database address, no secrets), one graphics device at most, and ends when the call is dropped.

mod vanilla;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use curio_core::{Classify, Failure};
use curio_proofs::child::{CallError, Message, Progress, Request, Response};
use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

pub use self::vanilla::{VanillaCall, VanillaLimits};
use crate::storage::{BlockingError, blocking};

/// Variables that a child keeps of the runner's environment; all others may hold secrets.
const KEPT_VARIABLES: [&str; 8] =
    ["PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "RUST_LOG", "RUST_BACKTRACE", "RAYON_NUM_THREADS", "TZ"];

/// Variables of the proof library are kept, too.
const KEPT_PREFIX: &str = "FIL_PROOFS_";

/// Names the process that a child dies with.
pub const PARENT_VARIABLE: &str = "CURIO_PARENT_PID";

/// Most bytes of one message: the vanilla proof of a 64 GiB sector, JSON in JSON, with room.
const MESSAGE_LIMIT_BYTES: u64 = 1 << 30;

/// Lines of the child's log that go into the error when it dies without a word.
const LAST_LINES: usize = 8;

/// Most bytes of a log line; a longer one is cut there.
const LINE_LIMIT_BYTES: usize = 4 << 10;

/// How children are started.
#[derive(Clone, Debug)]
pub struct ProverOptions {
    pub program: PathBuf,
    pub args: Vec<OsString>,
    /// `FIL_PROOFS_PARAMETER_CACHE`.
    pub parameter_dir: PathBuf,
    /// `FIL_PROOFS_PARENT_CACHE`.
    pub parent_cache_dir: PathBuf,
    /// Working directory and `TMPDIR`; the library reads a settings file from the working directory, so it is one of
    /// ours.
    pub tmp_dir: PathBuf,
    /// Ordinals of the graphics devices; each call sees the least used one, or none when empty.
    pub devices: Vec<u32>,
}

impl ProverOptions {
    /// Children are this very binary with `prove`; no devices.
    ///
    /// # Errors
    /// When the system does not tell where the binary lies.
    pub fn of_this_binary(
        parameter_dir: PathBuf,
        parent_cache_dir: PathBuf,
        tmp_dir: PathBuf,
    ) -> io::Result<ProverOptions> {
        let program = std::env::current_exe()?;
        let args = vec!["prove".into()];
        Ok(ProverOptions { program, args, parameter_dir, parent_cache_dir, tmp_dir, devices: Vec::new() })
    }
}

/// A proof call gave no result.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    #[error("failed to start {}", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to talk to the proof process")]
    Io(#[source] io::Error),
    /// The call ran and says what went wrong.
    #[error("{0}")]
    Call(CallError),
    #[error("the proof process ended without a result ({status}){}", tail(last_lines))]
    Died { status: ExitStatus, last_lines: Vec<String> },
    #[error(
        "the proof process was killed by the system (signal {signal}); most likely it ran out of memory{}",
        tail(last_lines)
    )]
    Killed { signal: i32, last_lines: Vec<String> },
    #[error("the proof process wrote something that is no message: {0}")]
    BadMessage(String),
    #[error("the proof process answered {0} to another question")]
    Unexpected(&'static str),
    #[error("the proof call was cancelled")]
    Cancelled,
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

fn tail(last_lines: &[String]) -> String {
    if last_lines.is_empty() { String::new() } else { format!("; its last words: {}", last_lines.join(" | ")) }
}

impl Classify for ProveError {
    fn classify(self) -> Failure {
        match self {
            ProveError::Cancelled => Failure::Stopping,
            ProveError::Blocking(error) => error.classify(),
            ProveError::Call(error) if !error.retryable => {
                let reason = known_reason(error.reason.as_deref());
                Failure::Permanent { reason, cause: Box::new(error) }
            }
            error => Failure::Retry(Box::new(error)),
        }
    }
}

/// The reason as a word of our own list: the child is another process, and its words end up in tables.
fn known_reason(reason: Option<&str>) -> &'static str {
    const KNOWN: [&str; 6] =
        ["bad-pieces", "wrong-comm-d", "bad-commitment", "bad-request", "bad-parameters", "no-parameters"];
    KNOWN.into_iter().find(|known| Some(*known) == reason).unwrap_or("proof-failed")
}

/// Runs proof calls. A clone shares the devices.
#[derive(Clone, Debug)]
pub struct Prover {
    options: Arc<ProverOptions>,
    /// Calls on each device, in the order of the options.
    busy: Arc<Mutex<Vec<u32>>>,
}

impl Prover {
    pub fn new(options: ProverOptions) -> Prover {
        let busy = Arc::new(Mutex::new(vec![0; options.devices.len()]));
        Prover { options: Arc::new(options), busy }
    }

    pub fn options(&self) -> &ProverOptions {
        &self.options
    }

    /// Runs one call. How many run at once is the caller's business: the scheduler counts their memory.
    ///
    /// # Errors
    /// [`ProveError::Cancelled`] as soon as `cancelled` is; the child is dead then. Dropping the future kills the
    /// child, too.
    pub async fn call(&self, request: &Request, cancelled: &CancellationToken) -> Result<Response, ProveError> {
        self.call_watched(request, cancelled, |progress| debug!(?progress, "proof call goes on")).await
    }

    /// [`Prover::call`], told how far it has come.
    pub async fn call_watched(
        &self,
        request: &Request,
        cancelled: &CancellationToken,
        watch: impl FnMut(Progress) + Send,
    ) -> Result<Response, ProveError> {
        match cancelled.run_until_cancelled(self.run(request.clone(), watch)).await {
            Some(outcome) => outcome,
            None => Err(ProveError::Cancelled),
        }
    }

    async fn run(&self, request: Request, watch: impl FnMut(Progress) + Send) -> Result<Response, ProveError> {
        let input = blocking("writing a proof request", move || serde_json::to_vec(&request))
            .await?
            .map_err(|error| ProveError::Io(error.into()))?;
        let device = self.take_device();
        let mut running = self.start(&device).await?;
        let (stdin, stdout, stderr) = running.take_pipes().map_err(ProveError::Io)?;
        let ((), outcome, last_lines) =
            tokio::join!(feed(stdin, input), read_messages(stdout, watch), forward_log(stderr));
        let status = running.wait().await.map_err(ProveError::Io)?;
        match outcome? {
            Some(Ok(response)) => Ok(response),
            Some(Err(error)) => Err(ProveError::Call(error)),
            None => Err(match status.signal() {
                Some(signal) if signal == Signal::KILL.as_raw() => ProveError::Killed { signal, last_lines },
                _ => ProveError::Died { status, last_lines },
            }),
        }
    }

    async fn start(&self, device: &Device) -> Result<Running, ProveError> {
        let ProverOptions { program, args, parameter_dir, parent_cache_dir, tmp_dir, devices: _ } = &*self.options;
        let failed = |source| ProveError::Start { program: program.clone(), source };
        tokio::fs::create_dir_all(tmp_dir).await.map_err(failed)?;
        let kept = std::env::vars_os().filter(|(name, _)| {
            let name = name.to_string_lossy();
            KEPT_VARIABLES.contains(&&*name) || name.starts_with(KEPT_PREFIX)
        });
        let visible = device.ordinal.map(|ordinal| ordinal.to_string()).unwrap_or_default();
        let child = Command::new(program)
            .args(args)
            .env_clear()
            .envs(kept)
            .env("FIL_PROOFS_PARAMETER_CACHE", parameter_dir)
            .env("FIL_PROOFS_PARENT_CACHE", parent_cache_dir)
            .env("TMPDIR", tmp_dir)
            .env("CUDA_VISIBLE_DEVICES", &visible)
            .env("GPU_DEVICE_ORDINAL", &visible)
            // The library panics over damaged files, and a panic of a proof is told as its failure: to name every
            // function on the way takes seconds of all cores, each time.
            .env("RUST_BACKTRACE", "0")
            .env(PARENT_VARIABLE, std::process::id().to_string())
            .current_dir(tmp_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A Ctrl-C at the terminal is for the runner, which decides what becomes of its calls.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let group = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        Ok(Running { child, group })
    }

    fn take_device(&self) -> Device {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let least = (0..busy.len()).min_by_key(|&index| busy[index]);
        if let Some(index) = least {
            busy[index] += 1;
        }
        let ordinal = least.map(|index| self.options.devices[index]);
        Device { ordinal, slot: least.map(|index| (index, self.busy.clone())) }
    }
}

/// The device of one call; dropping it gives it back.
struct Device {
    ordinal: Option<u32>,
    slot: Option<(usize, Arc<Mutex<Vec<u32>>>)>,
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Some((index, busy)) = &self.slot {
            busy.lock().unwrap_or_else(PoisonError::into_inner)[*index] -= 1;
        }
    }
}

/// A child and the process group that it leads; dropping it kills the group.
struct Running {
    child: Child,
    /// `None` once the child has been waited for: its number may be another's by then.
    group: Option<Pid>,
}

impl Running {
    fn take_pipes(&mut self) -> io::Result<(ChildStdin, ChildStdout, ChildStderr)> {
        match (self.child.stdin.take(), self.child.stdout.take(), self.child.stderr.take()) {
            (Some(stdin), Some(stdout), Some(stderr)) => Ok((stdin, stdout, stderr)),
            _ => Err(io::Error::other("a pipe of the proof process is missing")),
        }
    }

    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.group = None;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // It may have ended by itself; `kill_on_drop` sees to the rest.
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

async fn feed(mut stdin: ChildStdin, input: Vec<u8>) {
    // A child that ends early closes the pipe; what it says, or how it ended, is the error to tell.
    if let Err(error) = stdin.write_all(&input).await {
        debug!("the proof process did not read its whole request: {error}");
    }
}

/// Reads messages until the result or the end; `None` when there was no result.
async fn read_messages(
    stdout: ChildStdout,
    mut watch: impl FnMut(Progress) + Send,
) -> Result<Option<Result<Response, CallError>>, ProveError> {
    let mut reader = BufReader::new(stdout);
    let mut result = None;
    loop {
        let mut line = Vec::new();
        let count =
            (&mut reader).take(MESSAGE_LIMIT_BYTES).read_until(b'\n', &mut line).await.map_err(ProveError::Io)?;
        if count == 0 {
            return Ok(result);
        }
        match blocking("reading a proof message", move || parse(&line)).await?? {
            Message::Progress(progress) => watch(progress),
            Message::Done(response) => result = Some(Ok(response)),
            Message::Failed(error) => result = Some(Err(error)),
        }
    }
}

fn parse(line: &[u8]) -> Result<Message, ProveError> {
    serde_json::from_slice(line).map_err(|error| {
        let shown: String = String::from_utf8_lossy(line).trim_end().chars().take(200).collect();
        ProveError::BadMessage(format!("{shown} ({error})"))
    })
}

/// Puts the child's log into ours and returns its last lines.
async fn forward_log(stderr: ChildStderr) -> Vec<String> {
    let mut reader = BufReader::new(stderr);
    let mut last: VecDeque<String> = VecDeque::with_capacity(LAST_LINES);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LINE_LIMIT_BYTES as u64).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return last.into(),
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() {
            continue;
        }
        info!(target: "curio::prove", "{text}");
        if last.len() == LAST_LINES {
            last.pop_front();
        }
        last.push_back(text);
    }
}

#[cfg(test)]
mod tests;
