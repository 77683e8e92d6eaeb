//! What a chain is started with.

use std::path::PathBuf;
use std::time::Duration;

use curio_core::SealProof;

use crate::auth::FixedToken;

/// How epochs pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// One tipset after each period.
    Running(Duration),
    /// Only when a control call says so.
    Manual,
}

impl std::str::FromStr for Clock {
    type Err = String;

    /// `manual`, or a time such as `250ms`, `4s`, `1.5s`.
    fn from_str(text: &str) -> Result<Clock, String> {
        let wrong = || format!("'{text}' is not a block time; write it like 250ms, 4s or manual");
        if text == "manual" {
            return Ok(Clock::Manual);
        }
        let (number, unit) = match text.strip_suffix("ms") {
            Some(number) => (number, 0.001),
            None => (text.strip_suffix('s').ok_or_else(wrong)?, 1.0),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let seconds = number * unit;
        match (0.001..=3600.0).contains(&seconds) {
            true => Ok(Clock::Running(Duration::from_secs_f64(seconds))),
            false => Err(format!("'{text}' is not between 1ms and 3600s")),
        }
    }
}

/// Settings of a chain. Two chains with the same seed have the same keys, tickets and ids.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the API listens; port 0 takes any.
    pub api: std::net::SocketAddr,
    pub clock: Clock,
    pub seed: u64,
    pub network_name: String,
    /// Sector sizes that miners may have; for each of them there must be a verifying key.
    pub sector_sizes: Vec<SealProof>,
    /// Folder of the proof parameters.
    pub params: PathBuf,
    /// Seconds since 1970; the start of the process when it is not given. Block CIDs depend on it.
    pub genesis_timestamp: Option<u64>,
    /// The token with all permissions; one made up at the start when it is not given.
    pub token: Option<FixedToken>,
    /// Make a miner with sectors of this size before anybody else does; needs a clock that runs.
    pub first_miner: Option<SealProof>,
}

impl Options {
    /// A chain on a port of its own choice, advanced by hand, for 2 KiB sectors.
    pub fn manual(params: PathBuf) -> Options {
        Options {
            api: std::net::SocketAddr::from(([127, 0, 0, 1], 0)),
            clock: Clock::Manual,
            seed: 1,
            network_name: "curio-devnet-2k".to_owned(),
            sector_sizes: vec![SealProof::StackedDrg2KiBV1_1],
            params,
            genesis_timestamp: Some(1_700_000_000),
            token: None,
            first_miner: None,
        }
    }

    /// Distance of block timestamps: the block time, one second by hand.
    pub fn block_time_for_timestamps(&self) -> Duration {
        match self.clock {
            Clock::Running(period) => period,
            Clock::Manual => Duration::from_secs(1),
        }
    }

    /// Block time in whole seconds as the API tells it, at least one.
    pub fn block_delay_seconds(&self) -> u64 {
        self.block_time_for_timestamps().as_secs_f64().ceil().max(1.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_times_are_read_with_their_unit() {
        for (text, clock) in [
            ("250ms", Some(Clock::Running(Duration::from_millis(250)))),
            ("4s", Some(Clock::Running(Duration::from_secs(4)))),
            ("manual", Some(Clock::Manual)),
            ("4", None),
            ("0s", None),
            ("-1s", None),
            ("fast", None),
        ] {
            assert_eq!(text.parse::<Clock>().ok(), clock, "{text}");
        }
    }
}
