//! One long-running process of the cluster: started so that it outlives this program, recorded so that the next call
//! knows it again, with a log of its own.

use std::fmt;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::layout::{Layout, MARK};
use crate::{interrupt, process, say};

/// Which process a part was. The start time tells it from a later process with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub pid: u32,
    /// Clock ticks between the start of the machine and the start of the process.
    pub start_ticks: u64,
}

impl Record {
    /// `None` when no such process runs, or it has ended and its parent has not collected it yet.
    pub fn of(pid: u32) -> Option<Record> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Record { pid, start_ticks: start_ticks(&stat)? })
    }

    pub fn is_running(self) -> bool {
        Record::of(self.pid) == Some(self)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Record { pid, start_ticks } = self;
        write!(f, "{pid} {start_ticks}")
    }
}

impl FromStr for Record {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Record> {
        let bad = || format!("{text:?} is not a process number and a start time");
        let (pid, start_ticks) = text.trim().split_once(' ').with_context(bad)?;
        Ok(Record { pid: pid.parse().with_context(bad)?, start_ticks: start_ticks.parse().with_context(bad)? })
    }
}

/// Field 22 of `/proc/<pid>/stat`. The name in field 2 may hold spaces and brackets, so counting starts behind it.
fn start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Starts a part in a session of its own.
///
/// It gets a bare environment: what a person has set for another cluster or another etcd must not reach it.
///
/// # Errors
/// When its program cannot be started or recorded.
pub fn start(layout: &Layout, part: &str, command: &mut Command) -> Result<()> {
    interrupt::check()?;
    let log_file = layout.log(part);
    let log = fs::File::create(&log_file).with_context(|| format!("failed to make {}", log_file.display()))?;
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into()))
        .env("HOME", layout.root())
        .env(MARK, layout.mark())
        .current_dir(layout.root())
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("failed to share a log")?)
        .stderr(log);
    // SAFETY: setsid is async-signal-safe, and nothing is allocated between fork and exec.
    unsafe {
        command.pre_exec(|| if libc::setsid() < 0 { Err(std::io::Error::last_os_error()) } else { Ok(()) });
    }
    let child = command.spawn().with_context(|| format!("failed to start {}", process::show(command)))?;
    let record = Record::of(child.id()).with_context(|| format!("{part} ended at once{}", said_last(layout, part)))?;
    layout.write(&layout.record(part), &record.to_string())
}

/// The recorded process of a part, if it runs.
pub fn running(layout: &Layout, part: &str) -> Option<Record> {
    let record: Record = fs::read_to_string(layout.record(part)).ok()?.parse().ok()?;
    record.is_running().then_some(record)
}

/// Kills a part and its children. All that it could save on a polite request is about to be deleted.
///
/// Does not look at Ctrl-C, which may be what led here; a process that the kernel does not let go of is left to it.
pub fn kill(layout: &Layout, part: &str) {
    let due_by = Instant::now() + Duration::from_secs(5);
    while let Some(record) = running(layout, part) {
        process::signal_group(record.pid, libc::SIGKILL);
        reap(record.pid);
        if Instant::now() >= due_by {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Collects a process that this very program started; for any other this does nothing.
fn reap(pid: u32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: waitpid accepts a null status; WNOHANG keeps it from blocking.
    unsafe {
        libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG);
    }
}

/// A wait for something that parts of the cluster bring about.
pub struct Wait<'a> {
    pub layout: &'a Layout,
    /// What is waited for, as in "the API server is not ready".
    pub subject: &'a str,
    /// Parts that must stay alive meanwhile; the last lines of their logs explain a failure.
    pub parts: &'a [&'a str],
    pub limit: Duration,
}

impl Wait<'_> {
    /// # Errors
    /// When a part dies or the limit passes, with the end of the logs; when `ready` fails; when interrupted.
    pub fn until(&self, mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
        let due_by = Instant::now() + self.limit;
        loop {
            if ready()? {
                return Ok(());
            }
            if let Some(dead) = self.parts.iter().find(|part| running(self.layout, part).is_none()) {
                bail!("{dead} ended before {} was ready{}", self.subject, said_last(self.layout, dead));
            }
            if Instant::now() >= due_by {
                let said: String = self.parts.iter().map(|part| said_last(self.layout, part)).collect();
                bail!("{} was not ready after {}{said}", self.subject, say::seconds(self.limit));
            }
            interrupt::pause(Duration::from_millis(50))?;
        }
    }
}

/// The end of a part's log, as a block to hang on a sentence.
pub fn said_last(layout: &Layout, part: &str) -> String {
    const LINES: usize = 8;
    let file = layout.log(part);
    let text = fs::read(&file).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LINES)..];
    if last.is_empty() {
        return format!("\n  ({} is empty)", file.display());
    }
    format!("\n  end of {}:\n    {}", file.display(), last.join("\n    "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = Record { pid: 4711, start_ticks: 8_123_456 };
        assert_eq!(record.to_string().parse::<Record>().expect("it was just written"), record);
        for text in ["", "4711", "4711 soon", "-1 5"] {
            assert!(text.parse::<Record>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let rest = "S 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8123456 100 200";
        assert_eq!(start_ticks(&format!("4711 (etcd) {rest}")), Some(8_123_456));
        assert_eq!(start_ticks(&format!("4711 (a) b) (c) {rest}")), Some(8_123_456));
        assert_eq!(start_ticks("4711 (etcd) Z 1 4711 4711 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 8123456"), None);
    }

    #[test]
    fn another_process_with_the_same_number_is_not_ours() {
        let own = Record::of(std::process::id()).expect("this process runs");
        assert!(own.is_running());
        assert!(!Record { start_ticks: own.start_ticks + 1, ..own }.is_running());
    }

    #[test]
    fn a_part_is_started_found_and_killed() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let layout = Layout::new(Some(&dir.path().join("s"))).expect("a good path");
        layout.claim().expect("an empty folder");
        start(&layout, "sleeper", Command::new("sleep").arg("60")).expect("sleep starts");
        let record = running(&layout, "sleeper").expect("it runs");
        assert_eq!(process::marked(MARK, &layout.mark()), [record.pid]);
        kill(&layout, "sleeper");
        assert!(!record.is_running());
    }

    #[test]
    fn a_wait_ends_with_the_log_of_the_part_that_died() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let layout = Layout::new(Some(&dir.path().join("s"))).expect("a good path");
        layout.claim().expect("an empty folder");
        // It lives until it is told, so that it is recorded while it runs.
        start(&layout, "liar", Command::new("sh").args(["-c", "echo no room; exec sleep 60"])).expect("sh starts");
        while !said_last(&layout, "liar").contains("no room") {
            std::thread::yield_now();
        }
        kill(&layout, "liar");
        let wait = Wait { layout: &layout, subject: "the truth", parts: &["liar"], limit: Duration::from_secs(60) };
        let error = wait.until(|| Ok(false)).expect_err("the part is dead").to_string();
        assert!(error.contains("liar ended before the truth was ready") && error.contains("no room"), "{error}");
    }
}
