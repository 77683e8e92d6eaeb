//! `curio fetch-params`: proof parameters of one sector size, checked, fetched or made, before they are needed: those of
//! PoRep, of window PoSt and of winning PoSt.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Instant;

use clap::Args;
use curio_core::SealProof;
use curio_proofs::params::{self, Set};
use serde_json::json;

use super::CliError;
use super::args::parse_sector_size;
use super::output::{Output, bytes};
use crate::parameters::{Meter, SOURCE_VARIABLE, Source, Step, about, fetch};

#[derive(Debug, Args)]
pub(super) struct FetchParamsArgs {
    /// Sector size: 2KiB, 8MiB, 512MiB, 32GiB or 64GiB.
    #[arg(value_name = "SIZE", value_parser = parse_sector_size)]
    proof: SealProof,
    /// Only the keys that verify proofs, which are made here.
    #[arg(long, conflicts_with = "from")]
    verifying_key_only: bool,
    /// Server that has the files; without one, those of the test size are made here.
    #[arg(long, env = SOURCE_VARIABLE, value_name = "URL")]
    from: Option<String>,
}

pub(super) async fn execute(output: Output, args: &FetchParamsArgs) -> Result<(), CliError> {
    let dir = params::default_dir();
    let source = args.from.as_deref().filter(|url| !url.trim().is_empty()).map(Source::new).transpose()?;
    if source.is_none() && args.verifying_key_only {
        params::ensure_verifying_keys(&dir, args.proof)?;
    } else {
        for set in Set::all_of(args.proof) {
            let mut told = Progress::new(set);
            match &source {
                Some(source) => bring(source, &dir, set, &mut told).await?,
                None => params::ensure(&dir, set, &mut |at| {
                    told.tell(&Step::Makes { phase: at.phase, fraction: at.fraction });
                })?,
            }
            told.end();
        }
    }
    let size = bytes(args.proof.sector_size());
    output.show(&json!({ "sector_size": args.proof.sector_size(), "dir": dir }), || {
        format!("parameters for sectors of {size} are whole in {}", dir.display())
    });
    Ok(())
}

/// Fetches until the files are there; what has arrived stays when this process is ended.
async fn bring(source: &Source, dir: &Path, set: Set, told: &mut Progress) -> Result<(), CliError> {
    Ok(fetch(source, dir, set, &mut |step| told.tell(&step)).await?)
}

/// Progress on stderr: one line that is written over on a terminal, else a line for each tenth.
struct Progress {
    set: Set,
    terminal: bool,
    meter: Meter,
    shown: Option<String>,
}

impl Progress {
    fn new(set: Set) -> Progress {
        Progress { set, terminal: std::io::stderr().is_terminal(), meter: Meter::new(), shown: None }
    }

    fn tell(&mut self, step: &Step) {
        let (now, about) = (Instant::now(), about(self.set));
        let mut stderr = std::io::stderr().lock();
        // Progress that cannot be shown is no reason to stop.
        if self.terminal {
            let rate = self.meter.rate(step, now);
            if self.shown.as_deref() != Some(&step.to_string()) {
                let rate = rate.map(|rate| format!(", {}/s", bytes(rate))).unwrap_or_default();
                let _ = write!(stderr, "\r\x1b[K{about}: parameters {step}{rate}").and_then(|()| stderr.flush());
                self.shown = Some(step.to_string());
            }
        } else if let Some(line) = self.meter.line(step, now) {
            let _ = writeln!(stderr, "{about}: parameters {line}");
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            eprintln!();
        }
    }
}
