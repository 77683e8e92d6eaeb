//! What a chain is started with.

use std::path::PathBuf;
use std::time::Duration;

use curio_core::SealProof;

use crate::auth::FixedToken;
use crate::post_policy::PostPolicy;

/// What real networks have.
pub const WINNING_LOOKBACK: i64 = 900;

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
        if text == "manual" {
            return Ok(Clock::Manual);
        }
        let seconds =
            seconds(text).ok_or_else(|| format!("'{text}' is not a block time; write it like 250ms, 4s or manual"))?;
        match (0.001..=3600.0).contains(&seconds) {
            true => Ok(Clock::Running(Duration::from_secs_f64(seconds))),
            false => Err(format!("'{text}' is not between 1ms and 3600s")),
        }
    }
}

/// Reads a time of waiting such as `0s`, `250ms`, `20s`.
///
/// # Errors
/// A sentence, when it is none.
pub fn patience(text: &str) -> Result<Duration, String> {
    let seconds = seconds(text).ok_or_else(|| format!("'{text}' is not a time; write it like 250ms or 20s"))?;
    match (0.0..=3600.0).contains(&seconds) {
        true => Ok(Duration::from_secs_f64(seconds)),
        false => Err(format!("'{text}' is not between 0s and 3600s")),
    }
}

/// Seconds of a number with the unit `ms` or `s`.
fn seconds(text: &str) -> Option<f64> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 0.001),
        None => (text.strip_suffix('s')?, 1.0),
    };
    number.parse::<f64>().ok().map(|number| number * unit)
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
    /// When sectors are proven.
    pub post: PostPolicy,
    /// Send a dispute for every accepted window PoSt that does not hold.
    pub disputes: bool,
    /// Epochs between the state by which a miner takes part in an election and the block.
    pub winning_lookback: i64,
    /// How long an epoch in which a miner of this chain wins waits for that miner's block.
    pub miner_patience: Duration,
    /// Power of miners that never make a block, bytes: ours win the less the more it is.
    pub other_power: u64,
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
            post: PostPolicy::default(),
            disputes: true,
            winning_lookback: WINNING_LOOKBACK,
            miner_patience: Duration::ZERO,
            other_power: 0,
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

    #[test]
    fn patience_may_be_nothing() {
        for (text, milliseconds) in
            [("0s", Some(0)), ("250ms", Some(250)), ("20s", Some(20_000)), ("-1s", None), ("20", None)]
        {
            assert_eq!(patience(text).ok(), milliseconds.map(Duration::from_millis), "{text}");
        }
    }
}
