//! Amounts of FIL as they are written in a configuration.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// attoFIL per FIL.
const ATTO_PER_FIL: u128 = 1_000_000_000_000_000_000;
/// Digits after the point that still mean something.
const DECIMALS: usize = 18;

/// An amount in attoFIL; written "0.07 FIL" in a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fil(u128);

/// The text is not an amount.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an amount; write it like \"0.07 FIL\" or \"100 attoFIL\"")]
pub struct ParseFilError(pub String);

impl Fil {
    /// Nothing.
    pub const ZERO: Fil = Fil(0);

    /// Thousandths of a FIL.
    pub const fn milli(thousandths: u64) -> Fil {
        Fil(thousandths as u128 * (ATTO_PER_FIL / 1000))
    }

    /// An amount in attoFIL.
    pub const fn from_atto(atto: u128) -> Fil {
        Fil(atto)
    }

    /// The amount in attoFIL.
    pub const fn atto(self) -> u128 {
        self.0
    }
}

/// Digits behind the point that a unit still resolves, by its name in lower case.
fn decimals_of(unit: &str) -> Option<usize> {
    match unit {
        "" | "fil" => Some(DECIMALS),
        "nanofil" | "nfil" => Some(9),
        "attofil" | "afil" => Some(0),
        _ => None,
    }
}

impl FromStr for Fil {
    type Err = ParseFilError;

    /// Takes "0.07 FIL", "0.07", "3 nanoFIL" and "100 attoFIL", as Lotus does. Nothing below one attoFIL,
    /// nothing negative.
    fn from_str(text: &str) -> Result<Fil, ParseFilError> {
        let error = || ParseFilError(text.to_owned());
        let text = text.trim();
        let number_ends = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(number_ends);
        let decimals = decimals_of(&unit.trim().to_ascii_lowercase()).ok_or_else(error)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let no_digits = whole.is_empty() && fraction.is_empty();
        if no_digits || fraction.contains('.') || fraction.len() > decimals {
            return Err(error());
        }
        let digits = format!("{whole}{fraction:0<decimals$}");
        digits.parse().map(Fil).map_err(|_| error())
    }
}

impl super::schema::Leaf for Fil {
    const EXPECTED: &'static str = "an amount such as \"0.07 FIL\"";
}

impl TryFrom<String> for Fil {
    type Error = ParseFilError;

    fn try_from(text: String) -> Result<Fil, ParseFilError> {
        text.parse()
    }
}

impl From<Fil> for String {
    fn from(amount: Fil) -> String {
        amount.to_string()
    }
}

impl fmt::Display for Fil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, fraction) = (self.0 / ATTO_PER_FIL, self.0 % ATTO_PER_FIL);
        if fraction == 0 {
            return write!(f, "{whole} FIL");
        }
        let fraction = format!("{fraction:0>DECIMALS$}");
        write!(f, "{whole}.{} FIL", fraction.trim_end_matches('0'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rstest::rstest;

    #[rstest]
    #[case("0.07 FIL", 70_000_000_000_000_000)]
    #[case("0.07", 70_000_000_000_000_000)]
    #[case("5FIL", 5_000_000_000_000_000_000)]
    #[case(" 12 fil ", 12_000_000_000_000_000_000)]
    #[case(".5 FIL", 500_000_000_000_000_000)]
    #[case("100 attoFIL", 100)]
    #[case("3 nanoFIL", 3_000_000_000)]
    #[case("0.000000000000000001 FIL", 1)]
    fn amounts_are_read_as_lotus_writes_them(#[case] text: &str, #[case] atto: u128) {
        assert_eq!(text.parse(), Ok(Fil(atto)));
    }

    #[rstest]
    #[case("")]
    #[case("FIL")]
    #[case("-1 FIL")]
    #[case("1.2.3 FIL")]
    #[case("1 USD")]
    #[case("0.5 attoFIL")]
    #[case("0.0000000000000000001 FIL")]
    #[case("400000000000000000000 FIL")]
    fn what_is_no_amount_is_refused(#[case] text: &str) {
        assert_eq!(text.parse::<Fil>(), Err(ParseFilError(text.to_owned())));
    }

    proptest! {
        #[test]
        fn a_printed_amount_reads_back(atto in 0..2_000_000_000 * ATTO_PER_FIL) {
            prop_assert_eq!(Fil(atto).to_string().parse(), Ok(Fil(atto)));
        }
    }
}
