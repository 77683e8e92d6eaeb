//! `curio fetch-params`: proof parameters of one sector size, checked or made, before they are needed.

use std::io::{IsTerminal, Write};

use clap::Args;
use curio_core::SealProof;
use curio_proofs::params;
use serde_json::json;

use super::CliError;
use super::args::parse_bytes;
use super::output::{Output, bytes};

#[derive(Debug, Args)]
pub(super) struct FetchParamsArgs {
    /// Sector size: 2KiB, 8MiB, 512MiB, 32GiB or 64GiB.
    #[arg(value_name = "SIZE", value_parser = parse_proof)]
    proof: SealProof,
    /// Only the key that verifies proofs.
    #[arg(long)]
    verifying_key_only: bool,
}

fn parse_proof(text: &str) -> Result<SealProof, String> {
    let size = parse_bytes(text)?;
    SealProof::of_sector_size(size).ok_or_else(|| {
        format!("there are no sectors of {}; sizes are 2KiB, 8MiB, 512MiB, 32GiB and 64GiB", bytes(size))
    })
}

pub(super) fn execute(output: Output, args: &FetchParamsArgs) -> Result<(), CliError> {
    let dir = params::default_dir();
    let mut told = Progress::new();
    if args.verifying_key_only {
        params::ensure_verifying_key(&dir, args.proof)?;
    } else {
        params::ensure(&dir, args.proof, &mut |at| told.tell(&at.phase, at.fraction))?;
    }
    told.end();
    let size = bytes(args.proof.sector_size());
    output.show(&json!({ "sector_size": args.proof.sector_size(), "dir": dir }), || {
        format!("parameters for sectors of {size} are whole in {}", dir.display())
    });
    Ok(())
}

/// Progress on stderr: one line that is written over on a terminal, else a line for each tenth.
struct Progress {
    terminal: bool,
    last: Option<(String, u32)>,
}

impl Progress {
    fn new() -> Progress {
        Progress { terminal: std::io::stderr().is_terminal(), last: None }
    }

    fn tell(&mut self, phase: &str, fraction: f64) {
        let percent = (fraction.clamp(0.0, 1.0) * 100.0) as u32;
        let step = if self.terminal { percent } else { percent / 10 * 10 };
        let now = Some((phase.to_owned(), step));
        if self.last == now {
            return;
        }
        self.last = now;
        let mut stderr = std::io::stderr().lock();
        // Progress that cannot be shown is no reason to stop.
        let _ = if self.terminal {
            write!(stderr, "\r\x1b[K{phase}: {percent}%").and_then(|()| stderr.flush())
        } else {
            writeln!(stderr, "{phase}: {step}%")
        };
    }

    fn end(&self) {
        if self.terminal && self.last.is_some() {
            eprintln!();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_without_sectors_is_refused_with_the_list() {
        assert_eq!(parse_proof("2KiB"), Ok(SealProof::StackedDrg2KiBV1_1));
        assert!(parse_proof("3KiB").is_err_and(|sentence| sentence.contains("32GiB")));
    }
}
