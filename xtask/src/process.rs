//! Child processes that never outlive this program: each runs in a process group of its own, gets SIGTERM when
//! this program dies, and is ended as a group. Every wait looks at the Ctrl-C flag.

use std::collections::HashSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::interrupt;

/// Lets a child lead its own group and die with this program.
///
/// The parent-death signal is bound to the thread that spawns: spawn from the main thread only.
pub fn tied(command: &mut Command) -> &mut Command {
    command.process_group(0);
    // SAFETY: prctl and getppid are async-signal-safe, and nothing is allocated between fork and exec.
    unsafe {
        command.pre_exec(|| {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        })
    }
}

/// Sends `signal` to the process group that `pid` leads.
pub fn signal_group(pid: u32, signal: libc::c_int) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: killpg takes plain numbers; a group that is gone is an error that does not matter here.
    unsafe {
        libc::killpg(pid, signal);
    }
}

pub fn signal_process(pid: u32, signal: libc::c_int) {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return };
    // SAFETY: kill takes plain numbers; a process that is gone is an error that does not matter here.
    unsafe {
        libc::kill(pid, signal);
    }
}

/// Waits for a child, however long it takes.
///
/// # Errors
/// [`interrupt::Interrupted`] after the child's group was ended.
pub fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait().context("failed to wait for a child process")? {
            return Ok(status);
        }
        if let Err(interrupted) = interrupt::pause(Duration::from_millis(50)) {
            end(child, Duration::from_secs(10));
            return Err(interrupted);
        }
    }
}

/// Ends a child and its group: SIGTERM, then SIGKILL after `grace`.
pub fn end(child: &mut Child, grace: Duration) {
    signal_group(child.id(), libc::SIGTERM);
    finish(child, grace);
}

/// Waits for a child that was asked to end, and kills its group after `grace`.
pub fn finish(child: &mut Child, grace: Duration) {
    let due_by = Instant::now() + grace;
    while Instant::now() < due_by {
        if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    signal_group(child.id(), libc::SIGKILL);
    // A killed child ends at once; without this it would stay a zombie and hold its pid.
    drop(child.wait());
}

/// Runs a command to its end with its output on our terminal.
///
/// # Errors
/// When it cannot be started, is interrupted or exits with anything but 0.
pub fn run(what: &str, command: &mut Command) -> Result<()> {
    let mut child =
        tied(command).stdin(Stdio::null()).spawn().with_context(|| format!("failed to start {}", show(command)))?;
    let status = wait(&mut child)?;
    if !status.success() {
        bail!("{what} failed ({status}): {}", show(command));
    }
    Ok(())
}

/// Runs a short command and returns its standard output.
///
/// # Errors
/// When it cannot be started, is interrupted, or exits with anything but 0; its own words are in the error.
pub fn capture(what: &str, command: &mut Command) -> Result<String> {
    let output = output(command)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{what} failed ({}): {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a short command and returns all it said; its streams go to files, so that it can never block on us.
///
/// # Errors
/// When it cannot be started or is interrupted.
pub fn output(command: &mut Command) -> Result<Output> {
    use std::io::{Read, Seek};
    let mut stdout = tempfile::tempfile().context("failed to make a temporary file")?;
    let mut stderr = tempfile::tempfile().context("failed to make a temporary file")?;
    let out = stdout.try_clone().context("failed to share a temporary file")?;
    let err = stderr.try_clone().context("failed to share a temporary file")?;
    let mut child = tied(command)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .with_context(|| format!("failed to start {}", show(command)))?;
    let status = wait(&mut child)?;
    let mut result = Output { status, stdout: Vec::new(), stderr: Vec::new() };
    for (file, text) in [(&mut stdout, &mut result.stdout), (&mut stderr, &mut result.stderr)] {
        file.rewind().and_then(|()| file.read_to_end(text)).context("failed to read a child's output")?;
    }
    Ok(result)
}

/// The command as a person would type it.
pub fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// One word for a POSIX shell.
pub fn quote(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@+%".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Processes that carry `NAME=value` in the environment they were started with. This finds a runner that somebody
/// started again by hand, which is no child of ours.
pub fn marked(name: &str, value: &str) -> Vec<u32> {
    let wanted = format!("{name}={value}");
    all()
        .filter(|pid| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environ| environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()))
        })
        .collect()
}

/// Every other process.
pub fn all() -> impl Iterator<Item = u32> {
    let own = std::process::id();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(move |pid| *pid != own)
}

/// Ends every marked process: SIGTERM, then SIGKILL after `grace`.
pub fn end_marked(name: &str, value: &str, grace: Duration) {
    let due_by = Instant::now() + grace;
    let mut asked = HashSet::new();
    // A process may fork while we look, hence the rounds; five seconds after the kill there is nothing left to try.
    while Instant::now() < due_by + Duration::from_secs(5) {
        let left: Vec<u32> = marked(name, value).into_iter().filter(|pid| is_alive(*pid)).collect();
        if left.is_empty() {
            return;
        }
        for pid in left {
            if Instant::now() >= due_by {
                signal_process(pid, libc::SIGKILL);
            } else if asked.insert(pid) {
                // Once: a runner takes a second signal as "at once".
                signal_process(pid, libc::SIGTERM);
            }
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Whether a process runs. One that has ended and was not yet collected by its parent does not.
pub fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z')))
}

/// The first program of this name on the search path.
pub fn on_path(program: &str) -> Option<PathBuf> {
    std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for word in ["plain", "with space", "it's", "", "$HOME;`id`"] {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("printf %s {}", quote(word))]);
            assert_eq!(capture("the shell", &mut command).expect("sh runs"), word);
        }
    }

    #[test]
    fn a_marked_process_is_found_and_ended() {
        let mark = format!("test-{}", std::process::id());
        let mut child = Command::new("sleep").arg("60").env("XTASK_TEST_MARK", &mark).spawn().expect("sleep starts");
        while marked("XTASK_TEST_MARK", &mark).is_empty() {
            std::thread::yield_now();
        }
        end_marked("XTASK_TEST_MARK", &mark, Duration::from_secs(5));
        let status = child.wait().expect("the child can be waited for");
        assert!(!status.success(), "sleep ended by itself: {status}");
    }

    #[test]
    fn a_failing_command_says_why() {
        let error = capture("the check", Command::new("sh").args(["-c", "echo no room >&2; exit 3"]))
            .expect_err("exit 3 is a failure");
        let text = error.to_string();
        assert!(text.contains("the check failed") && text.contains("no room"), "{text}");
    }
}
