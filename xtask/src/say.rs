//! What the commands print: numbered steps with their time, and one place that knows whether a person watches.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// True when standard output is a terminal that can draw.
pub fn on_terminal() -> bool {
    std::io::stdout().is_terminal() && std::env::var("TERM").is_ok_and(|term| term != "dumb")
}

fn colours() -> bool {
    on_terminal() && std::env::var_os("NO_COLOR").is_none()
}

pub fn bold(text: &str) -> String {
    if colours() { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
}

pub fn error(text: &str) {
    eprintln!("xtask: {text}");
}

/// `31 ms`, `7.2 s`, `1 min 03 s`.
pub fn seconds(length: Duration) -> String {
    let whole = length.as_secs();
    match whole {
        0 => format!("{} ms", length.as_millis()),
        1..=9 => format!("{:.1} s", length.as_secs_f64()),
        10..=59 => format!("{whole} s"),
        _ => format!("{} min {:02} s", whole / 60, whole % 60),
    }
}

/// Bytes in binary units, one decimal.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Numbered steps of a long command.
pub struct Steps {
    total: usize,
    done: usize,
    started: Instant,
    step_started: Instant,
}

impl Steps {
    pub fn of(total: usize) -> Steps {
        Steps { total, done: 0, started: Instant::now(), step_started: Instant::now() }
    }

    /// Announces the next step.
    pub fn next(&mut self, what: &str) {
        self.done += 1;
        self.step_started = Instant::now();
        println!("{}", bold(&format!("[{}/{}] {what}", self.done, self.total)));
    }

    /// A fact about the running step.
    pub fn note(&self, text: &str) {
        println!("      {text}");
    }

    /// Says how long the running step took.
    pub fn end(&self) {
        self.note(&format!("done in {}", seconds(self.step_started.elapsed())));
    }

    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_read_naturally() {
        for (millis, text) in
            [(31, "31 ms"), (1_240, "1.2 s"), (10_000, "10 s"), (63_400, "1 min 03 s"), (3_600_000, "60 min 00 s")]
        {
            assert_eq!(seconds(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn sizes_read_naturally() {
        for (count, text) in [(12, "12 B"), (2048, "2.0 KiB"), (3 << 30, "3.0 GiB")] {
            assert_eq!(bytes(count), text);
        }
    }
}
