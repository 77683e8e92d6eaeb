//! Durations as they are written in a configuration: Go's form, "1h30m", "10s", "100ms".

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of wall-clock time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Period(Duration);

/// The text is not a duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a duration; write it like \"10m\", \"1h30m\" or \"100ms\"")]
pub struct ParsePeriodError(pub String);

impl Period {
    /// Milliseconds.
    pub const fn millis(millis: u64) -> Period {
        Period(Duration::from_millis(millis))
    }

    /// Seconds.
    pub const fn seconds(seconds: u64) -> Period {
        Period(Duration::from_secs(seconds))
    }

    /// Minutes.
    pub const fn minutes(minutes: u64) -> Period {
        Period(Duration::from_secs(minutes * 60))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }
}

/// Units, in the order in which they are printed.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

impl FromStr for Period {
    type Err = ParsePeriodError;

    /// Takes one or more numbers, each with its unit; numbers may have a fraction. "0" needs no unit.
    fn from_str(text: &str) -> Result<Period, ParsePeriodError> {
        let error = || ParsePeriodError(text.to_owned());
        let mut rest = text.trim();
        if rest == "0" {
            return Ok(Period::default());
        }
        let mut nanos: u64 = 0;
        while !rest.is_empty() || nanos == 0 {
            let unit_starts = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(error)?;
            let (number, tail) = rest.split_at(unit_starts);
            let unit_ends = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit_ends);
            let (_, unit_nanos) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
            let part = scaled(number, unit_nanos).ok_or_else(error)?;
            nanos = nanos.checked_add(part).ok_or_else(error)?;
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        Ok(Period(Duration::from_nanos(nanos)))
    }
}

/// A decimal number times a unit, without going through floating point.
fn scaled(number: &str, unit_nanos: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 9 {
        return None;
    }
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction_value: u64 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let fraction_scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(fraction_value) * u128::from(unit_nanos) / fraction_scale;
    whole.checked_mul(unit_nanos)?.checked_add(u64::try_from(part).ok()?)
}

impl super::schema::Leaf for Period {
    const EXPECTED: &'static str = "a duration such as \"10m\"";
}

impl TryFrom<String> for Period {
    type Error = ParsePeriodError;

    fn try_from(text: String) -> Result<Period, ParsePeriodError> {
        text.parse()
    }
}

impl From<Period> for String {
    fn from(period: Period) -> String {
        period.to_string()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.as_nanos();
        if rest == 0 {
            return f.write_str("0s");
        }
        for (name, unit_nanos) in UNITS {
            let count = rest / u128::from(unit_nanos);
            rest %= u128::from(unit_nanos);
            if count > 0 {
                write!(f, "{count}{name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("10m", 600_000)]
    #[case("1h30m", 5_400_000)]
    #[case("10m0s", 600_000)]
    #[case("1.5s", 1_500)]
    #[case("100ms", 100)]
    #[case("0", 0)]
    #[case("0s", 0)]
    fn durations_are_read_as_go_writes_them(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(text.parse(), Ok(Period::millis(millis)));
    }

    #[rstest]
    #[case("")]
    #[case("10")]
    #[case("10 minutes")]
    #[case("m")]
    #[case("-5s")]
    #[case("1d")]
    #[case("99999999999999h")]
    fn what_is_no_duration_is_refused(#[case] text: &str) {
        assert_eq!(text.parse::<Period>(), Err(ParsePeriodError(text.to_owned())));
    }

    proptest! {
        #[test]
        fn a_printed_duration_reads_back(nanos in 0_u64..1_000_000_000_000_000_000) {
            let period = Period(Duration::from_nanos(nanos));
            prop_assert_eq!(period.to_string().parse(), Ok(period));
        }
    }
}
