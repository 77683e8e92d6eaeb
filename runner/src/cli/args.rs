//! Values on the command line: sizes, durations, layers, the name of this machine.

use std::time::Duration;

use curio_core::SealProof;
use curio_core::config::Period;

use super::output::bytes;

/// A number of bytes: "4GiB", "512 MiB", "1000000".
///
/// # Errors
/// A sentence about the text.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u32); 6] = [("kib", 10), ("mib", 20), ("gib", 30), ("tib", 40), ("pib", 50), ("b", 0)];
    let error = || format!("'{text}' is not a size; write it like 4GiB or 512MiB");
    let lower = text.trim().to_ascii_lowercase();
    let (number, shift) = UNITS
        .iter()
        .find_map(|(unit, shift)| lower.strip_suffix(unit).map(|number| (number.trim_end(), *shift)))
        .unwrap_or((lower.as_str(), 0));
    let number: u64 = number.parse().map_err(|_| error())?;
    number.checked_mul(1 << shift).ok_or_else(error)
}

/// The seal proof of a sector size.
///
/// # Errors
/// A sentence with the sizes that there are.
pub fn parse_sector_size(text: &str) -> Result<SealProof, String> {
    let size = parse_bytes(text)?;
    SealProof::of_sector_size(size).ok_or_else(|| {
        format!("there are no sectors of {}; sizes are 2KiB, 8MiB, 512MiB, 32GiB and 64GiB", bytes(size))
    })
}

/// A duration in Go's form: "30s", "1h30m".
///
/// # Errors
/// A sentence about the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    text.parse::<Period>().map(Period::get).map_err(|error| error.to_string())
}

/// Which configuration layers to merge over `base`.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct LayerArgs {
    /// Configuration layers over `base`, in order; later ones win.
    #[arg(long, env = "CURIO_LAYERS", value_delimiter = ',', value_name = "A,B")]
    pub layers: Vec<String>,
}

impl LayerArgs {
    /// The names, without empty ones.
    pub fn names(&self) -> Vec<String> {
        self.layers.iter().map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect()
    }
}

/// Who this machine is.
#[derive(Clone, Debug, clap::Args)]
pub struct NameArgs {
    /// Stable name of this machine; a runner with the name of one before takes back its tasks.
    /// Default: the host name.
    #[arg(long, env = "CURIO_NODE_NAME", value_name = "NAME")]
    pub name: Option<String>,
}

/// The name given, else the host's.
///
/// # Errors
/// A sentence when the host has no name.
pub fn machine_name(given: Option<&str>) -> Result<String, String> {
    match given.map(str::trim).filter(|name| !name.is_empty()) {
        Some(name) => Ok(name.to_owned()),
        None => {
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            match host.trim() {
                "" => Err("this machine has no host name; give it a stable name with CURIO_NODE_NAME".to_owned()),
                host => Ok(host.to_owned()),
            }
        }
    }
}

/// Who types commands here, for the record: "ada@host".
pub fn person() -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_default();
    let user = if user.is_empty() { format!("user-{}", rustix::process::getuid().as_raw()) } else { user };
    match machine_name(None) {
        Ok(host) => format!("{user}@{host}"),
        Err(_) => user,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("4GiB", 4 << 30)]
    #[case("512 MiB", 512 << 20)]
    #[case("2kib", 2048)]
    #[case("17", 17)]
    #[case("17B", 17)]
    fn sizes_are_read_with_binary_units(#[case] text: &str, #[case] bytes: u64) {
        assert_eq!(parse_bytes(text), Ok(bytes));
    }

    #[rstest]
    #[case("")]
    #[case("4GB")]
    #[case("-1")]
    #[case("99999999PiB")]
    fn what_is_no_size_is_refused(#[case] text: &str) {
        assert!(parse_bytes(text).is_err());
    }

    #[test]
    fn a_size_without_sectors_is_refused_with_the_list() {
        assert_eq!(parse_sector_size("2KiB"), Ok(SealProof::StackedDrg2KiBV1_1));
        assert!(parse_sector_size("3KiB").is_err_and(|sentence| sentence.contains("32GiB")));
    }

    #[test]
    fn a_given_name_wins_over_the_host() {
        assert_eq!(machine_name(Some(" sealing-0 ")), Ok("sealing-0".to_owned()));
        assert!(machine_name(Some("")).is_ok_and(|name| !name.is_empty()));
    }
}
