//! Commands of the clean-up: bounded, and deaf to Ctrl-C, which is what brought us here.

use std::io::{Read, Seek, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs a command and returns what it printed, or `None` when it failed or took longer than `limit`.
pub fn quietly(command: &mut Command, input: Option<&str>, limit: Duration) -> Option<String> {
    let mut stdout = tempfile::tempfile().ok()?;
    let stdin = match input {
        Some(text) => {
            let mut file = tempfile::tempfile().ok()?;
            file.write_all(text.as_bytes()).and_then(|()| file.rewind()).ok()?;
            Stdio::from(file)
        }
        None => Stdio::null(),
    };
    let mut child = command.stdin(stdin).stdout(stdout.try_clone().ok()?).stderr(Stdio::null()).spawn().ok()?;
    let due_by = Instant::now() + limit;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < due_by => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) | Err(_) => {
                drop(child.kill());
                drop(child.wait());
                return None;
            }
        }
    };
    let mut text = String::new();
    stdout.rewind().and_then(|()| stdout.read_to_string(&mut text)).ok()?;
    status.success().then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_comes_back_unless_the_command_fails_or_hangs() {
        let limit = Duration::from_secs(10);
        assert_eq!(quietly(&mut Command::new("cat"), Some("rules"), limit).as_deref(), Some("rules"));
        assert_eq!(quietly(&mut Command::new("false"), None, limit), None);
        assert_eq!(quietly(Command::new("sleep").arg("60"), None, Duration::from_millis(1)), None);
    }
}
