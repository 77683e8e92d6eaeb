//! Ids of storage providers and sectors.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Actor id of a storage provider's miner actor: the number in `f01000`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SpId(pub u64);

/// One sector of one storage provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SectorRef {
    pub sp: SpId,
    pub number: u64,
}

impl SectorRef {
    /// A sector of a storage provider.
    pub fn new(sp: SpId, number: u64) -> SectorRef {
        SectorRef { sp, number }
    }

    /// Name of the sector's files in every storage path, as Lotus and Curio write it: `s-t01000-5`.
    pub fn file_name(&self) -> String {
        format!("s-t0{}-{}", self.sp.0, self.number)
    }
}

/// The text is not an id of the expected form.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdError {
    #[error("'{0}' is not a miner id address; write it like f01000")]
    Sp(String),
    #[error("'{0}' is not a sector; write it like f01000:5 or s-t01000-5")]
    Sector(String),
}

impl FromStr for SpId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<SpId, ParseIdError> {
        text.strip_prefix("f0")
            .or_else(|| text.strip_prefix("t0"))
            .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .map(SpId)
            .ok_or_else(|| ParseIdError::Sp(text.to_owned()))
    }
}

impl FromStr for SectorRef {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<SectorRef, ParseIdError> {
        let error = || ParseIdError::Sector(text.to_owned());
        let (sp, number) = match text.strip_prefix("s-") {
            Some(rest) => rest.split_once('-').ok_or_else(error)?,
            None => text.split_once(':').ok_or_else(error)?,
        };
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        Ok(SectorRef { sp: sp.parse().map_err(|_| error())?, number: number.parse().map_err(|_| error())? })
    }
}

impl fmt::Display for SpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "f0{}", self.0)
    }
}

impl fmt::Display for SectorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sp, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let sector = SectorRef::new(SpId(1000), 5);
        assert_eq!(sector.to_string(), "f01000:5");
        assert_eq!(sector.file_name(), "s-t01000-5");
        assert_eq!("f01000:5".parse(), Ok(sector));
        assert_eq!("t01000:5".parse(), Ok(sector));
        assert_eq!("s-t01000-5".parse(), Ok(sector));
    }

    #[test]
    fn anything_else_is_refused_with_an_example() {
        for text in ["", "1000", "f1abc", "f0", "f0-5", "f0+5"] {
            assert_eq!(text.parse::<SpId>(), Err(ParseIdError::Sp(text.to_owned())), "{text}");
        }
        for text in ["f01000", "f01000:", "f01000:x", "s-t01000", "s-t01000--1", "../s-t01000-5", "f01000:+5"] {
            assert_eq!(text.parse::<SectorRef>(), Err(ParseIdError::Sector(text.to_owned())), "{text}");
        }
    }
}
