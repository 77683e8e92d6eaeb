//! Whether this processor is fit for SDR.
//!
//! SDR is hundreds of gigabytes of SHA-256, one hash after another. With the SHA extensions of the
//! processor a sector of 32 GiB takes some hours; without them several times as long, and its ticket may
//! run out meanwhile.

use curio_core::SealProof;
use curio_core::config::Config;

/// Sectors of this size and more are sealed for real networks; smaller ones take seconds on any processor.
const LARGE_SECTOR_BYTES: u64 = 512 << 20;

/// Whether the processor hashes SHA-256 by itself.
#[cfg(target_arch = "x86_64")]
pub fn has_sha() -> bool {
    std::arch::is_x86_feature_detected!("sha")
}

/// Whether the processor hashes SHA-256 by itself.
#[cfg(target_arch = "aarch64")]
pub fn has_sha() -> bool {
    std::arch::is_aarch64_feature_detected!("sha2")
}

/// Of other processors nobody has said that they do.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn has_sha() -> bool {
    false
}

/// Whether this machine labels sectors of this kind.
pub fn takes_sdr_of(config: &Config, proof: SealProof) -> bool {
    is_fit(has_sha(), config.seal.allow_slow_sdr, proof)
}

fn is_fit(has_sha: bool, allow_slow: bool, proof: SealProof) -> bool {
    has_sha || allow_slow || proof.sector_size() < LARGE_SECTOR_BYTES
}

/// How it stands with SDR here, in words.
///
/// # Errors
/// A sentence when the sectors of this network are not taken.
pub fn sdr_readiness(config: &Config, test_network: bool) -> Result<String, String> {
    judge(has_sha(), config.seal.allow_slow_sdr, test_network)
}

fn judge(has_sha: bool, allow_slow: bool, test_network: bool) -> Result<String, String> {
    const WITHOUT: &str = "this processor has no SHA extensions";
    match (has_sha, allow_slow, test_network) {
        (true, _, _) => Ok("has SHA extensions".to_owned()),
        (false, true, _) => Ok(format!("{WITHOUT}; SDR takes several times as long, as Seal.AllowSlowSDR permits")),
        (false, false, true) => Ok(format!("{WITHOUT}; SDR of sectors below 512 MiB is taken, as on a test network")),
        (false, false, false) => Err(format!(
            "{WITHOUT}, and SDR would take several times as long as it should: it is not taken here; use another machine, \
             disable EnableSealSDR, or set Seal.AllowSlowSDR"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: SealProof = SealProof::StackedDrg8MiBV1_1;
    const LARGE: SealProof = SealProof::StackedDrg512MiBV1_1;

    #[test]
    fn only_large_sectors_need_sha_extensions() {
        for (has_sha, allow_slow, proof, fit) in [
            (true, false, LARGE, true),
            (false, false, SMALL, true),
            (false, false, LARGE, false),
            (false, true, LARGE, true),
        ] {
            assert_eq!(is_fit(has_sha, allow_slow, proof), fit, "{has_sha} {allow_slow} {proof:?}");
        }
    }

    #[test]
    fn a_machine_without_sha_extensions_is_ready_on_a_test_network_only() {
        assert!(judge(true, false, false).is_ok());
        assert!(judge(false, false, true).is_ok_and(|text| text.contains("no SHA extensions")));
        assert!(judge(false, true, false).is_ok_and(|text| text.contains("AllowSlowSDR")));
        assert!(judge(false, false, false).is_err_and(|text| text.contains("Seal.AllowSlowSDR")));
    }
}
