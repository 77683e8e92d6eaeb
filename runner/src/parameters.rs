//! Proof parameters of this machine: which are there and whole, and bringing those that are needed.
//!
//! A machine that runs PoRep holds the parameters of the sectors in flight, and of every size that the
//! index of its source lists: so they are there before the first sector needs them. It takes files
//! that are whole as they are, fetches others from the source, and without a source has those of the
//! test size made. Until they are whole, PoRep is not accepted here; that is no failure of any task.

mod fetch;
mod part;
mod progress;
mod serve;
mod source;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use curio_core::SealProof;
use curio_harmony::{Db, DbError};
use curio_proofs::child::{Progress, Request};
use curio_proofs::params::{self, ParamsError};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::output::bytes;
use crate::cli::sentence;
use crate::prove::Prover;
use crate::storage::blocking;

pub use self::fetch::{FetchError, fetch, fetch_file};
pub use self::part::PartError;
pub use self::progress::{Meter, Step};
pub use self::serve::{Shelf, serve};
pub use self::source::{INDEX, Index, Offer, OfferedFile, Pace, SOURCE_VARIABLE, Source, SourceError};

/// Between two looks at what is in flight.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks at the index of a source that has answered.
const INDEX_INTERVAL: Duration = Duration::from_secs(60);

/// After a source served something wrong: fetching a hundred gigabytes again at once would bring the same.
const LASTING_PAUSE: Duration = Duration::from_secs(10 * 60);

/// How it stands with the parameters of one seal proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Whole.
    Ready,
    /// On their way; the words say how far they are.
    Coming(String),
    /// Not usable; the sentence says what to do.
    Unusable(String),
}

/// Whether the source has said what it offers.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Listing {
    Unknown,
    Known,
    Silent(String),
}

#[derive(Debug)]
struct Known {
    standings: BTreeMap<SealProof, Standing>,
    listing: Listing,
}

/// Shared by PoRep, which asks, and by the loop that finds out.
#[derive(Clone, Debug)]
pub struct Parameters {
    dir: PathBuf,
    source: Option<Source>,
    assumed: bool,
    known: Arc<Mutex<Known>>,
}

impl Parameters {
    /// Parameters in a folder; none is ready before it was found to be.
    pub fn new(dir: PathBuf, source: Option<Source>) -> Parameters {
        let known = Known { standings: BTreeMap::new(), listing: Listing::Unknown };
        Parameters { dir, source, assumed: false, known: Arc::new(Mutex::new(known)) }
    }

    /// For proofs that need no parameters: the simulated ones of tests.
    pub fn assume_ready() -> Parameters {
        Parameters { assumed: true, ..Parameters::new(PathBuf::new(), None) }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether proofs of this kind can be made here.
    pub fn is_ready(&self, proof: SealProof) -> bool {
        self.assumed || self.known().standings.get(&proof) == Some(&Standing::Ready)
    }

    /// How it stands with one seal proof; nothing when nobody needed it yet.
    pub fn standing(&self, proof: SealProof) -> Option<Standing> {
        self.known().standings.get(&proof).cloned()
    }

    /// Whether this machine has what its PoRep tasks need, in words.
    ///
    /// # Errors
    /// A sentence about what is missing.
    pub fn readiness(&self) -> Result<String, String> {
        if self.assumed {
            return Ok("not needed: SNARKs are simulated here".to_owned());
        }
        let known = self.known();
        let missing = known.standings.iter().find_map(|(proof, standing)| {
            let about = about(*proof);
            match standing {
                Standing::Ready => None,
                Standing::Coming(words) => Some(format!("{about}: parameters {words}")),
                Standing::Unusable(problem) => Some(format!("{about}: {problem}")),
            }
        });
        if let Some(missing) = missing {
            return Err(missing);
        }
        if !known.standings.is_empty() {
            return Ok(format!("whole in {}", self.dir.display()));
        }
        match (&self.source, &known.listing) {
            // Without a source nobody says beforehand which sizes will come.
            (None, _) => Ok("no sector has needed any yet".to_owned()),
            (Some(_), Listing::Known) => Ok("no sector has needed any yet, and the source lists none".to_owned()),
            (Some(source), Listing::Unknown) => Err(format!("{} was not asked yet", source.place())),
            (Some(_), Listing::Silent(problem)) => Err(problem.clone()),
        }
    }

    /// Holds what sectors in flight need and what the source lists, until cancelled. `ready` is called when some have
    /// become usable, so that waiting tasks are taken at once.
    pub async fn keep(self, db: Db, prover: Prover, ready: impl Fn() + Send, cancelled: CancellationToken) {
        if self.assumed {
            return;
        }
        self.look_into_folder().await;
        let mut listed = Listed { proofs: Vec::new(), asked: None };
        let mut not_before = BTreeMap::new();
        loop {
            let mut wanted = self.listed(&mut listed).await;
            match proofs_in_flight(&db).await {
                Ok(proofs) => wanted.extend(proofs),
                Err(error) => warn!(error = %error, "failed to read which seal proofs are in flight, trying again"),
            }
            wanted.sort_unstable();
            wanted.dedup();
            for proof in wanted.into_iter().filter(|proof| !self.is_ready(*proof)) {
                if not_before.get(&proof).is_some_and(|due| Instant::now() < *due) {
                    continue;
                }
                if let Some(pause) = self.bring(proof, &prover, &cancelled).await {
                    not_before.insert(proof, Instant::now() + pause);
                }
                if self.is_ready(proof) {
                    ready();
                }
            }
            tokio::select! {
                () = cancelled.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }

    /// Takes what lies here already, so that a source that is away keeps no machine from work. Files that are not whole
    /// are no trouble before somebody needs them.
    async fn look_into_folder(&self) {
        for proof in SealProof::ALL {
            if params::params_path(&self.dir, proof).exists() && self.check(proof).await.is_ok() {
                self.set(proof, Standing::Ready);
            }
        }
    }

    /// What the source lists, asked again from time to time.
    async fn listed(&self, listed: &mut Listed) -> Vec<SealProof> {
        let Some(source) = &self.source else { return Vec::new() };
        if listed.asked.is_some_and(|asked| asked.elapsed() < INDEX_INTERVAL) {
            return listed.proofs.clone();
        }
        let listing = match source.index().await {
            Ok(index) => {
                listed.asked = Some(Instant::now());
                listed.proofs = index.map(|index| index.proofs()).unwrap_or_default();
                Listing::Known
            }
            Err(error) => Listing::Silent(sentence(&error)),
        };
        let before = std::mem::replace(&mut self.known().listing, listing.clone());
        match (&before, &listing) {
            (_, Listing::Silent(problem)) if before != listing => warn!("{problem}; asking again"),
            (Listing::Silent(_), Listing::Known) => info!("the parameter source answers at {}", source.place()),
            (Listing::Unknown | Listing::Known | Listing::Silent(_), _) => {}
        }
        listed.proofs.clone()
    }

    /// Brings the parameters of one seal proof, or says why not; then perhaps after which pause to try again.
    pub async fn bring(&self, proof: SealProof, prover: &Prover, cancelled: &CancellationToken) -> Option<Duration> {
        let before = self.standing(proof);
        // What was wrong stays to be read until there is something new to say.
        if before.is_none() {
            self.set(proof, Standing::Coming("being looked for".to_owned()));
        }
        let brought = cancelled.run_until_cancelled(self.try_to_bring(proof, prover, cancelled)).await;
        let (standing, pause) = match brought {
            None => return None,
            Some(Ok(())) => (Standing::Ready, None),
            Some(Err(BringError::Fetch(error))) if error.is_lasting() => {
                (Standing::Unusable(sentence(&error)), Some(LASTING_PAUSE))
            }
            Some(Err(error)) => (Standing::Unusable(sentence(&error)), None),
        };
        match &standing {
            Standing::Unusable(_) if before.as_ref() == Some(&standing) => {}
            Standing::Unusable(problem) => warn!("{}: {problem}", about(proof)),
            Standing::Ready | Standing::Coming(_) => info!("{}: parameters are ready", about(proof)),
        }
        self.set(proof, standing);
        pause
    }

    async fn try_to_bring(
        &self,
        proof: SealProof,
        prover: &Prover,
        cancelled: &CancellationToken,
    ) -> Result<(), BringError> {
        match self.check(proof).await {
            Ok(()) => return Ok(()),
            Err(BringError::Params(ParamsError::Missing { .. } | ParamsError::NotGenerated { .. })) => {}
            Err(error) => return Err(error),
        }
        let mut meter = Meter::new();
        if let Some(source) = &self.source {
            let place = source.place();
            // A source that was away at the last look, too, is no news.
            let is_known_trouble = matches!(self.standing(proof), Some(Standing::Unusable(_)));
            let mut told = |step: Step| {
                let again = matches!(step, Step::TriesAgain { .. });
                let from = if again { String::new() } else { format!(" from {place}") };
                if !(again && is_known_trouble)
                    && let Some(line) = meter.line(&step, Instant::now())
                {
                    info!("{}: parameters {line}{from}", about(proof));
                }
                self.set(proof, Standing::Coming(format!("{step}{from}")));
            };
            return Ok(fetch(source, &self.dir, proof, &mut told).await?);
        }
        if params::can_make(proof) {
            let request = Request::EnsureParams { proof, dir: Some(self.dir.clone()), verifying_key_only: false };
            let told = |progress: Progress| {
                let Progress::Params(at) = progress else { return };
                let step = Step::Makes { phase: at.phase, fraction: at.fraction };
                if let Some(line) = meter.line(&step, Instant::now()) {
                    info!("{}: parameters {line}", about(proof));
                }
                self.set(proof, Standing::Coming(step.to_string()));
            };
            prover.call_watched(&request, cancelled, told).await?;
        }
        // Says which file is missing and where it goes, for a size that nobody brings.
        self.check(proof).await
    }

    async fn check(&self, proof: SealProof) -> Result<(), BringError> {
        let dir = self.dir.clone();
        Ok(blocking("checking proof parameters", move || params::check(&dir, proof)).await??)
    }

    fn set(&self, proof: SealProof, standing: Standing) {
        self.known().standings.insert(proof, standing);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // The table stays usable after a panic elsewhere.
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a source listed, and when it was asked last.
struct Listed {
    proofs: Vec<SealProof>,
    asked: Option<Instant>,
}

#[derive(Debug, thiserror::Error)]
enum BringError {
    #[error(transparent)]
    Params(#[from] ParamsError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Prove(#[from] crate::prove::ProveError),
    #[error(transparent)]
    Blocking(#[from] crate::storage::BlockingError),
}

/// What parameters are for.
fn about(proof: SealProof) -> String {
    format!("PoRep of {} sectors", bytes(proof.sector_size()))
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

    fn with_source() -> Parameters {
        let _ = rustls::crypto::ring::default_provider().install_default();
        Parameters::new(PathBuf::from("/params"), Some(Source::new("http://params:12400").expect("an address")))
    }

    #[test]
    fn nothing_is_ready_before_it_was_looked_at() {
        let parameters = Parameters::new(PathBuf::from("/params"), None);
        assert!(!parameters.is_ready(PROOF));
        parameters.set(PROOF, Standing::Coming("being looked for".to_owned()));
        assert!(!parameters.is_ready(PROOF));
        parameters.set(PROOF, Standing::Ready);
        assert!(parameters.clone().is_ready(PROOF), "clones share what is known");
    }

    #[test]
    fn simulated_proofs_need_none() {
        assert!(Parameters::assume_ready().is_ready(PROOF));
        assert!(Parameters::assume_ready().readiness().is_ok());
    }

    #[test]
    fn a_machine_says_what_is_missing_and_how_far_it_is() {
        let parameters = with_source();
        let receives = Step::Receives { have_bytes: 43 << 20, total_bytes: 100 << 20 };
        parameters.set(PROOF, Standing::Coming(format!("{receives} from http://params:12400/")));
        let said = "PoRep of 2 KiB sectors: parameters 43 % of 100 MiB from http://params:12400/";
        assert_eq!(parameters.readiness(), Err(said.to_owned()));
        parameters.set(PROOF, Standing::Ready);
        assert_eq!(parameters.readiness(), Ok("whole in /params".to_owned()));
    }

    #[test]
    fn with_a_source_nothing_is_ready_before_the_source_said_what_it_has() {
        assert!(Parameters::new(PathBuf::from("/params"), None).readiness().is_ok());
        let parameters = with_source();
        assert_eq!(parameters.readiness(), Err("http://params:12400/ was not asked yet".to_owned()));
        parameters.known().listing = Listing::Silent("the parameter source does not answer".to_owned());
        assert_eq!(parameters.readiness(), Err("the parameter source does not answer".to_owned()));
        parameters.set(PROOF, Standing::Ready);
        assert!(parameters.readiness().is_ok(), "what lies here is enough, whatever the source says");
        let parameters = with_source();
        parameters.known().listing = Listing::Known;
        assert!(parameters.readiness().is_ok());
    }
}
