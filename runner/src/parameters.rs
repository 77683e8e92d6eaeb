//! Proof parameters of this machine: which are there and whole, and bringing those that are needed.
//!
//! A machine that runs PoRep keeps looking which seal proofs are in flight. It checks their files, and
//! has those of the test size generated. Until they are whole, PoRep is not accepted here; that is no
//! failure of any task.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use curio_core::SealProof;
use curio_harmony::{Db, DbError};
use curio_proofs::child::{Request, Response};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::prove::Prover;

/// Between two looks at what is in flight.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// How it stands with the parameters of one seal proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Whole.
    Ready,
    /// Being checked or generated.
    Preparing,
    /// Not usable; the sentence says what to do.
    Unusable(String),
}

/// Shared by PoRep, which asks, and by the loop that finds out.
#[derive(Clone, Debug)]
pub struct Parameters {
    dir: PathBuf,
    assumed: bool,
    known: Arc<Mutex<BTreeMap<SealProof, Standing>>>,
}

impl Parameters {
    /// Parameters in a folder; none is ready before it was found to be.
    pub fn new(dir: PathBuf) -> Parameters {
        Parameters { dir, assumed: false, known: Arc::default() }
    }

    /// For proofs that need no parameters: the simulated ones of tests.
    pub fn assume_ready() -> Parameters {
        Parameters { dir: PathBuf::new(), assumed: true, known: Arc::default() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether proofs of this kind can be made here.
    pub fn is_ready(&self, proof: SealProof) -> bool {
        self.assumed || self.known().get(&proof) == Some(&Standing::Ready)
    }

    /// All that were looked at.
    pub fn standings(&self) -> BTreeMap<SealProof, Standing> {
        self.known().clone()
    }

    /// Looks which seal proofs are in flight and brings their parameters, until cancelled. `ready` is
    /// called when some have become usable, so that waiting tasks are taken at once.
    pub async fn keep(self, db: Db, prover: Prover, ready: impl Fn() + Send, cancelled: CancellationToken) {
        if self.assumed {
            return;
        }
        loop {
            match proofs_in_flight(&db).await {
                Ok(proofs) => {
                    for proof in proofs.into_iter().filter(|proof| !self.is_ready(*proof)) {
                        self.bring(proof, &prover, &cancelled).await;
                        if self.is_ready(proof) {
                            ready();
                        }
                    }
                }
                Err(error) => warn!(error = %error, "failed to read which seal proofs are in flight, trying again"),
            }
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    async fn bring(&self, proof: SealProof, prover: &Prover, cancelled: &CancellationToken) {
        let before = self.known().get(&proof).cloned();
        if before.is_none() {
            self.set(proof, Standing::Preparing);
        }
        let request = Request::EnsureParams { proof, dir: Some(self.dir.clone()), verifying_key_only: false };
        let standing = match prover.call(&request, cancelled).await {
            Ok(Response::EnsureParams { .. }) => Standing::Ready,
            Ok(other) => Standing::Unusable(format!("the prover answered {other:?} to a request for parameters")),
            Err(_) if cancelled.is_cancelled() => return,
            Err(error) => Standing::Unusable(error.to_string()),
        };
        let size = super::cli::output::bytes(proof.sector_size());
        match &standing {
            Standing::Unusable(_) if before.as_ref() == Some(&standing) => {}
            Standing::Unusable(problem) => warn!("no PoRep for sectors of {size} on this machine: {problem}"),
            Standing::Ready | Standing::Preparing => info!("parameters for sectors of {size} are ready"),
        }
        self.set(proof, standing);
    }

    fn set(&self, proof: SealProof, standing: Standing) {
        self.known().insert(proof, standing);
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<SealProof, Standing>> {
        // The table stays usable after a panic elsewhere.
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Seal proofs of the sectors that still need a PoRep. Those that this program does not know are left out.
async fn proofs_in_flight(db: &Db) -> Result<Vec<SealProof>, DbError> {
    let rows = sqlx::query_scalar!(
        "SELECT DISTINCT reg_seal_proof FROM sectors_sdr_pipeline WHERE NOT failed AND NOT after_porep"
    )
    .fetch_all(db.pool())
    .await?;
    Ok(rows.into_iter().filter_map(|number| SealProof::from_number(number.into()).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;

    #[test]
    fn nothing_is_ready_before_it_was_looked_at() {
        let parameters = Parameters::new(PathBuf::from("/params"));
        assert!(!parameters.is_ready(PROOF));
        parameters.set(PROOF, Standing::Preparing);
        assert!(!parameters.is_ready(PROOF));
        parameters.set(PROOF, Standing::Ready);
        assert!(parameters.clone().is_ready(PROOF), "clones share what is known");
    }

    #[test]
    fn simulated_proofs_need_none() {
        assert!(Parameters::assume_ready().is_ready(PROOF));
    }
}
