//! Proof parameters of this machine: which are there and whole, and bringing those that are needed.
//!
//! A machine that makes proofs holds the sets of their circuits for the sectors of the cluster, and for
//! every size that the index of its source lists: so they are there before the first sector needs
//! them. It takes files that are whole as they are, fetches others from the source, and without a
//! source has those of the test size made. Until they are whole, tasks that need them are not accepted
//! here; that is no failure of any task.

mod fetch;
mod part;
mod progress;
mod serve;
mod source;
mod wanted;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use curio_core::SealProof;
use curio_core::config::Subsystems;
use curio_harmony::Db;
use curio_proofs::Snark;
use curio_proofs::child::{Progress, Request};
use curio_proofs::params::{self, Circuit, ParamsError, Set};
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
use self::wanted::Wanted;

/// Between two looks at what is in flight.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Between two looks at the index of a source that has answered.
const INDEX_INTERVAL: Duration = Duration::from_secs(60);

/// After a source served something wrong: fetching a hundred gigabytes again at once would bring the same.
const LASTING_PAUSE: Duration = Duration::from_secs(10 * 60);

/// How it stands with a set of parameters.
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
    standings: BTreeMap<Set, Standing>,
    /// Sets that a task asked for before anybody knew that they are needed.
    wished: BTreeSet<Set>,
    listing: Listing,
}

/// Circuits of the proofs that this configuration makes with parameters.
pub fn circuits_needed(subsystems: &Subsystems, snark: Snark) -> Vec<Circuit> {
    let real = match snark {
        Snark::Real => true,
        #[cfg(debug_assertions)]
        Snark::Simulated => false,
    };
    let needed = Circuit::ALL.into_iter().filter(|circuit| match circuit {
        // Takes seconds at the test size, and is never simulated.
        Circuit::WindowPost => subsystems.enable_window_post,
        Circuit::WinningPost => subsystems.enable_winning_post && real,
        Circuit::Porep => subsystems.enable_po_rep_proof && real,
    });
    needed.collect()
}

/// Shared by the tasks that make proofs, which ask, and by the loop that finds out.
#[derive(Clone, Debug)]
pub struct Parameters {
    dir: PathBuf,
    source: Option<Source>,
    circuits: Arc<[Circuit]>,
    known: Arc<Mutex<Known>>,
}

impl Parameters {
    /// Parameters in a folder, for the circuits that are proven with them here; none is ready before it was found to be.
    pub fn new(dir: PathBuf, source: Option<Source>, circuits: Vec<Circuit>) -> Parameters {
        let known = Known { standings: BTreeMap::new(), wished: BTreeSet::new(), listing: Listing::Unknown };
        Parameters { dir, source, circuits: circuits.into(), known: Arc::new(Mutex::new(known)) }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether any proof here needs parameters.
    pub fn is_needed(&self) -> bool {
        !self.circuits.is_empty()
    }

    /// Whether proofs of this kind can be made here; always, when they are made without parameters. A set that nobody
    /// knew to be needed is brought from now on.
    pub fn is_ready(&self, circuit: Circuit, proof: SealProof) -> bool {
        if !self.circuits.contains(&circuit) {
            return true;
        }
        let set = Set { circuit, proof };
        let mut known = self.known();
        let standing = known.standings.get(&set).cloned();
        if standing.is_none() {
            known.wished.insert(set);
        }
        standing == Some(Standing::Ready)
    }

    /// How it stands with a set; nothing when nobody needed it yet.
    pub fn standing(&self, set: Set) -> Option<Standing> {
        self.known().standings.get(&set).cloned()
    }

    /// Whether this machine has what its tasks need, in words.
    ///
    /// # Errors
    /// A sentence about what is missing.
    pub fn readiness(&self) -> Result<String, String> {
        let known = self.known();
        let missing = known.standings.iter().find_map(|(set, standing)| {
            let about = about(*set);
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

    /// Holds what the sectors of the cluster need and what the source lists, until cancelled. `ready` is called when
    /// some have become usable, so that waiting tasks are taken at once.
    pub async fn keep(self, db: Db, prover: Prover, ready: impl Fn() + Send, cancelled: CancellationToken) {
        self.look_into_folder().await;
        let mut wanted = Wanted::new(db);
        let mut listed = Listed { sets: Vec::new(), asked: None };
        let mut not_before = BTreeMap::new();
        loop {
            let mut sets = wanted.of_sectors(&self.circuits).await;
            sets.extend(self.listed(&mut listed).await);
            sets.extend(self.known().wished.iter().copied());
            for set in sets.into_iter().filter(|set| self.standing(*set) != Some(Standing::Ready)) {
                if not_before.get(&set).is_some_and(|due| Instant::now() < *due) {
                    continue;
                }
                if let Some(pause) = self.bring(set, &prover, &cancelled).await {
                    not_before.insert(set, Instant::now() + pause);
                }
                if self.standing(set) == Some(Standing::Ready) {
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
        for set in SealProof::ALL.into_iter().flat_map(Set::all_of).filter(|set| self.circuits.contains(&set.circuit)) {
            if set.params().path(&self.dir).exists() && self.check(set).await.is_ok() {
                self.set(set, Standing::Ready);
            }
        }
    }

    /// What the source lists, asked again from time to time.
    async fn listed(&self, listed: &mut Listed) -> Vec<Set> {
        let Some(source) = &self.source else { return Vec::new() };
        if listed.asked.is_some_and(|asked| asked.elapsed() < INDEX_INTERVAL) {
            return listed.sets.clone();
        }
        let listing = match source.index().await {
            Ok(index) => {
                listed.asked = Some(Instant::now());
                let sets = index.map(|index| index.sets()).unwrap_or_default().into_iter();
                listed.sets = sets.filter(|set| self.circuits.contains(&set.circuit)).collect();
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
        listed.sets.clone()
    }

    /// Brings a set, or says why not; then perhaps after which pause to try again.
    pub async fn bring(&self, set: Set, prover: &Prover, cancelled: &CancellationToken) -> Option<Duration> {
        let before = self.standing(set);
        // What was wrong stays to be read until there is something new to say.
        if before.is_none() {
            self.set(set, Standing::Coming("being looked for".to_owned()));
        }
        let brought = cancelled.run_until_cancelled(self.try_to_bring(set, prover, cancelled)).await;
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
            Standing::Unusable(problem) => warn!("{}: {problem}", about(set)),
            Standing::Ready | Standing::Coming(_) => info!("{}: parameters are ready", about(set)),
        }
        self.set(set, standing);
        pause
    }

    async fn try_to_bring(&self, set: Set, prover: &Prover, cancelled: &CancellationToken) -> Result<(), BringError> {
        match self.check(set).await {
            Ok(()) => return Ok(()),
            Err(BringError::Params(ParamsError::Missing { .. } | ParamsError::NotGenerated { .. })) => {}
            Err(error) => return Err(error),
        }
        let mut meter = Meter::new();
        if let Some(source) = &self.source {
            let place = source.place();
            // A source that was away at the last look, too, is no news.
            let is_known_trouble = matches!(self.standing(set), Some(Standing::Unusable(_)));
            let mut told = |step: Step| {
                let again = matches!(step, Step::TriesAgain { .. });
                let from = if again { String::new() } else { format!(" from {place}") };
                if !(again && is_known_trouble)
                    && let Some(line) = meter.line(&step, Instant::now())
                {
                    info!("{}: parameters {line}{from}", about(set));
                }
                self.set(set, Standing::Coming(format!("{step}{from}")));
            };
            return Ok(fetch(source, &self.dir, set, &mut told).await?);
        }
        if set.can_be_made() {
            let request = Request::EnsureParams { set, dir: self.dir.clone() };
            let told = |progress: Progress| {
                let Progress::Params(at) = progress else { return };
                let step = Step::Makes { phase: at.phase, fraction: at.fraction };
                if let Some(line) = meter.line(&step, Instant::now()) {
                    info!("{}: parameters {line}", about(set));
                }
                self.set(set, Standing::Coming(step.to_string()));
            };
            prover.call_watched(&request, cancelled, told).await?;
        }
        // Says which file is missing and where it goes, for a size that nobody brings.
        self.check(set).await
    }

    async fn check(&self, set: Set) -> Result<(), BringError> {
        let dir = self.dir.clone();
        Ok(blocking("checking proof parameters", move || params::check(&dir, set)).await??)
    }

    fn set(&self, set: Set, standing: Standing) {
        self.known().standings.insert(set, standing);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // The table stays usable after a panic elsewhere.
        self.known.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// What a source listed, and when it was asked last.
struct Listed {
    sets: Vec<Set>,
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

/// What a set of parameters is for.
pub fn about(set: Set) -> String {
    let circuit = match set.circuit {
        Circuit::WindowPost => "window PoSt",
        Circuit::WinningPost => "winning PoSt",
        Circuit::Porep => "PoRep",
    };
    format!("{circuit} of {} sectors", bytes(set.proof.sector_size()))
}

#[cfg(test)]
mod tests;
