//! The kinds of sector files, and the names of what lies in a cache directory.

use std::fmt;
use std::str::FromStr;

pub use curio_pipeline::sector_file::{SectorFile, UnknownSectorFile, bits, of_bits};
use serde::{Deserialize, Serialize};

/// Name of a file inside a cache directory, from the closed list of names that sealing writes. Nothing
/// else is served or fetched, so a name can never lead out of the directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CacheName(String);

/// The text is not the name of a cache file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the name of a file that sealing writes into a cache")]
pub struct NotACacheName(pub String);

/// Most files a cache directory holds: 16 trees of both kinds, 11 layers, tree-d, two aux files.
pub const MAX_CACHE_FILES: usize = 46;

impl CacheName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn is_known(text: &str) -> bool {
        if matches!(
            text,
            "p_aux" | "t_aux" | "sc-02-data-tree-d.dat" | "sc-02-data-tree-c.dat" | "sc-02-data-tree-r-last.dat"
        ) {
            return true;
        }
        let numbered = |prefix: &str, range: std::ops::RangeInclusive<u32>| {
            text.strip_prefix(prefix)
                .and_then(|rest| rest.strip_suffix(".dat"))
                .and_then(|digits| digits.parse::<u32>().ok().filter(|number| number.to_string() == digits))
                .is_some_and(|number| range.contains(&number))
        };
        numbered("sc-02-data-layer-", 1..=11)
            || numbered("sc-02-data-tree-c-", 0..=15)
            || numbered("sc-02-data-tree-r-last-", 0..=15)
    }
}

impl FromStr for CacheName {
    type Err = NotACacheName;

    fn from_str(text: &str) -> Result<CacheName, NotACacheName> {
        if CacheName::is_known(text) { Ok(CacheName(text.to_owned())) } else { Err(NotACacheName(text.to_owned())) }
    }
}

impl TryFrom<String> for CacheName {
    type Error = NotACacheName;

    fn try_from(text: String) -> Result<CacheName, NotACacheName> {
        text.parse()
    }
}

impl From<CacheName> for String {
    fn from(name: CacheName) -> String {
        name.0
    }
}

impl fmt::Display for CacheName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_that_sealing_writes_is_known_and_nothing_else() {
        let known = [
            "p_aux",
            "t_aux",
            "sc-02-data-layer-1.dat",
            "sc-02-data-layer-11.dat",
            "sc-02-data-tree-d.dat",
            "sc-02-data-tree-c.dat",
            "sc-02-data-tree-c-0.dat",
            "sc-02-data-tree-c-15.dat",
            "sc-02-data-tree-r-last.dat",
            "sc-02-data-tree-r-last-7.dat",
        ];
        for name in known {
            assert_eq!(name.parse::<CacheName>().map(String::from).as_deref(), Ok(name));
        }
        let refused = [
            "",
            ".",
            "..",
            "../p_aux",
            "/etc/passwd",
            "p_aux/",
            "p_aux\0",
            "P_AUX",
            "sc-02-data-layer-0.dat",
            "sc-02-data-layer-12.dat",
            "sc-02-data-layer-01.dat",
            "sc-02-data-layer-+1.dat",
            "sc-02-data-layer-1.dat.tmp",
            "sc-02-data-tree-c-16.dat",
            "sc-02-data-tree-d-0.dat",
            "sc-02-data-tree-r-last-..%2f.dat",
        ];
        for name in refused {
            assert_eq!(name.parse::<CacheName>(), Err(NotACacheName(name.to_owned())), "{name:?}");
        }
    }
}
