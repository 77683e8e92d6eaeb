//! How far the parameters of a sector size have come, in words, and when a log says so.

use std::fmt;
use std::time::{Duration, Instant};

use crate::cli::output::bytes;

/// A log says at least every so often that it goes on.
const LONGEST_SILENCE: Duration = Duration::from_secs(30);

/// What is being done for a file.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Another process brings it.
    Waits { have_bytes: u64 },
    /// From the source.
    Receives { have_bytes: u64, total_bytes: u64 },
    /// Made here, 0 to 1; the phase is a word of who makes them.
    Makes { phase: String, fraction: f64 },
    /// Its digest is computed.
    Checks,
    /// After a failure that may pass.
    TriesAgain { cause: String, pause: Duration },
}

impl Step {
    /// Whole percent, where there is such a thing.
    pub fn percent(&self) -> Option<u64> {
        match self {
            Step::Receives { have_bytes, total_bytes } => {
                // Rounded down: 100 % is said when all of it is there.
                let share = u128::from(*have_bytes) * 100 / u128::from(*total_bytes).max(1);
                Some(u64::try_from(share).unwrap_or(100))
            }
            // The cast saturates, and the value is between 0 and 100 anyway.
            Step::Makes { fraction, .. } => Some((fraction.clamp(0.0, 1.0) * 100.0) as u64),
            Step::Waits { .. } | Step::Checks | Step::TriesAgain { .. } => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.percent().unwrap_or(0);
        match self {
            Step::Waits { have_bytes: 0 } => f.write_str("another process brings them"),
            Step::Waits { have_bytes } => write!(f, "another process brings them, {} so far", bytes(*have_bytes)),
            Step::Receives { total_bytes, .. } => write!(f, "{percent} % of {}", bytes(*total_bytes)),
            Step::Makes { phase, .. } => write!(f, "being made, {percent} % ({phase})"),
            Step::Checks => f.write_str("being checked"),
            Step::TriesAgain { cause, pause } => write!(f, "tried again in {pause:?}: {cause}"),
        }
    }
}

/// Chooses the steps that a log shows, and measures the rate.
#[derive(Debug)]
pub struct Meter {
    /// When the bytes that the rate is about began to arrive, and how many there were.
    from: Option<(Instant, u64)>,
    said: Option<(Instant, String)>,
}

impl Meter {
    pub fn new() -> Meter {
        Meter { from: None, said: None }
    }

    /// The line for a step, if one is due: at each tenth, at a change of what is done, and after a long silence.
    pub fn line(&mut self, step: &Step, now: Instant) -> Option<String> {
        let rate = self.rate(step, now);
        let topic = match (step, step.percent()) {
            (Step::Receives { .. }, Some(percent)) => format!("receives {}", percent / 10),
            (Step::Makes { .. }, Some(percent)) => format!("makes {}", percent / 10),
            (Step::Waits { .. }, _) => "waits".to_owned(),
            (other, _) => other.to_string(),
        };
        let silent = self.said.as_ref().is_none_or(|(at, _)| now.duration_since(*at) >= LONGEST_SILENCE);
        let same = self.said.as_ref().is_some_and(|(_, said)| *said == topic);
        if same && !silent {
            return None;
        }
        self.said = Some((now, topic));
        Some(match rate {
            Some(rate) => format!("{step}, {}/s", bytes(rate)),
            None => step.to_string(),
        })
    }

    /// Bytes a second since they began to arrive; nothing before there is a second to speak of.
    pub fn rate(&mut self, step: &Step, now: Instant) -> Option<u64> {
        let Step::Receives { have_bytes, .. } = step else {
            self.from = None;
            return None;
        };
        let (since, first) = *self.from.get_or_insert((now, *have_bytes));
        // A transfer that begins anew has fewer bytes than before.
        let Some(arrived) = have_bytes.checked_sub(first) else {
            self.from = Some((now, *have_bytes));
            return None;
        };
        let seconds = now.duration_since(since).as_secs_f64();
        // The cast saturates; no disk is that fast.
        (seconds >= 0.1 && arrived > 0).then(|| (arrived as f64 / seconds) as u64)
    }
}

impl Default for Meter {
    fn default() -> Meter {
        Meter::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn receives(have_bytes: u64) -> Step {
        Step::Receives { have_bytes, total_bytes: GIB }
    }

    #[test]
    fn a_step_is_told_in_words() {
        for (step, words) in [
            (receives(GIB * 43 / 100 + 1), "43 % of 1 GiB"),
            (receives(GIB - 1), "99 % of 1 GiB"),
            (Step::Receives { have_bytes: 0, total_bytes: 0 }, "0 % of 0 B"),
            (Step::Makes { phase: "writing".to_owned(), fraction: 0.5 }, "being made, 50 % (writing)"),
            (Step::Waits { have_bytes: 2048 }, "another process brings them, 2 KiB so far"),
            (
                Step::TriesAgain { cause: "no answer".to_owned(), pause: Duration::from_secs(2) },
                "tried again in 2s: no answer",
            ),
        ] {
            assert_eq!(step.to_string(), words);
        }
    }

    #[test]
    fn a_log_has_a_line_for_each_tenth_and_after_a_long_silence() {
        let mut meter = Meter::new();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(meter.line(&receives(0), start).as_deref(), Some("0 % of 1 GiB"));
        assert_eq!(meter.line(&receives(GIB / 20), at(1)), None);
        assert_eq!(meter.line(&receives(GIB / 8), at(2)).as_deref(), Some("12 % of 1 GiB, 64 MiB/s"));
        assert_eq!(meter.line(&receives(GIB / 7), at(3)), None);
        assert!(meter.line(&receives(GIB / 6), at(40)).is_some(), "it is not silent for long");
    }

    #[test]
    fn the_rate_is_that_of_the_transfer_that_goes_on() {
        let mut meter = Meter::new();
        let start = Instant::now();
        assert_eq!(meter.rate(&receives(1000), start), None);
        assert_eq!(meter.rate(&receives(3000), start + Duration::from_secs(2)), Some(1000));
        assert_eq!(meter.rate(&receives(0), start + Duration::from_secs(3)), None, "it began anew");
        assert_eq!(meter.rate(&receives(500), start + Duration::from_secs(4)), Some(500));
    }
}
