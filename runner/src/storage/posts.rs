//! Vanilla PoSts: the challenged nodes of many sectors, read where their files lie.
//!
//! Sectors of one storage path go together to whoever reaches it: a proof process here, or another machine by
//! `/remote`. Outcomes come one by one, so that a file, a path or a machine that hangs loses its own sectors and no
//! others. What failed is tried once more, by another way when there is one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use curio_core::config::Proving;
use curio_core::{Failure, SealProof, SectorRef, SpId};
use curio_proofs::child::PostSector;
use curio_proofs::{Commitment, PostKind};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Storage;
use super::path::LocalPath;
use super::places::{Place, Places};
use super::sector_file::SectorFile;
use crate::prove::{Prover, VanillaCall, VanillaLimits};

/// Sectors of one miner, and where each is opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VanillaPosts {
    pub kind: PostKind,
    pub proof: SealProof,
    pub sp: SpId,
    pub sectors: Vec<ChallengedSector>,
}

impl VanillaPosts {
    /// Most sectors that should be asked for together, about those of a partition: more could be too long a request for
    /// another machine, and their proofs too much memory here.
    pub const MOST_SECTORS: usize = 2400;
}

/// A sector and the leaves that are asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChallengedSector {
    pub number: u64,
    #[serde(with = "hex::serde")]
    pub comm_r: Commitment,
    pub challenges: Vec<u64>,
}

/// For each sector its vanilla proof, which was checked, or a sentence that says why there is none.
pub type VanillaOutcomes = BTreeMap<u64, Result<Vec<u8>, String>>;

/// How much at once, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostLimits {
    /// Sectors read at once, on all machines together.
    pub parallel: u32,
    /// How long a path may be silent before its remaining sectors count as unreadable.
    pub single: Duration,
    /// For all sectors, second tries included.
    pub whole: Duration,
}

/// Sectors read at once when the configuration sets no limit.
const PARALLEL: u32 = 128;

impl PostLimits {
    /// Those of the configuration.
    pub fn of(proving: &Proving) -> PostLimits {
        let parallel = match proving.parallel_check_limit {
            0 => PARALLEL,
            limit => limit,
        };
        let (single, whole) = (proving.single_check_timeout.get(), proving.partition_check_timeout.get());
        PostLimits { parallel, single, whole }
    }

    /// The same within `time`: what hangs is given up early enough for its second try.
    pub fn within(self, time: Duration) -> PostLimits {
        PostLimits { single: self.single.min(time / 2), whole: self.whole.min(time), ..self }
    }
}

/// Tries of one sector.
const TRIES: usize = 2;

impl Storage {
    /// Vanilla PoSts of these sectors, from wherever their sealed files and caches lie. Every sector has an
    /// outcome; one that has no proof is bad, or out of reach within the limits.
    ///
    /// # Errors
    /// Database trouble; [`Failure::Stopping`] when `cancelled`.
    pub async fn vanilla_posts(
        &self,
        prover: &Prover,
        request: &VanillaPosts,
        limits: &PostLimits,
        cancelled: &CancellationToken,
    ) -> Result<VanillaOutcomes, Failure> {
        let until = Instant::now() + limits.whole;
        let numbers: Vec<u64> = request.sectors.iter().map(|sector| sector.number).collect();
        let places = self.places_of(request.sp, &numbers).await?;
        let mut outcomes = VanillaOutcomes::new();
        let mut open = request.sectors.clone();
        for attempt in 0..TRIES {
            let Plan { batches, nowhere } = plan(&places, open, attempt);
            for sector in nowhere {
                let sentence = "no running machine reaches a path with its sealed file and cache".to_owned();
                outcomes.insert(sector.number, Err(sentence));
            }
            let limits = PostLimits { whole: until.saturating_duration_since(Instant::now()), ..*limits };
            outcomes.extend(self.ask_all(prover, request, batches, limits, cancelled).await?);
            let failed = |number| outcomes.get(number).is_none_or(Result::is_err) && places.has(*number);
            open = request.sectors.iter().filter(|sector| failed(&sector.number)).cloned().collect();
            if open.is_empty() || Instant::now() >= until {
                break;
            }
        }
        Ok(outcomes)
    }

    /// All batches at once; how many sectors each reads at once is its share of the limit.
    async fn ask_all(
        &self,
        prover: &Prover,
        request: &VanillaPosts,
        batches: Vec<Batch>,
        limits: PostLimits,
        cancelled: &CancellationToken,
    ) -> Result<VanillaOutcomes, Failure> {
        let share = limits.parallel.checked_div(u32::try_from(batches.len()).unwrap_or(u32::MAX)).unwrap_or(1).max(1);
        let limits = PostLimits { parallel: share, ..limits };
        let mut asked: FuturesUnordered<_> = batches
            .into_iter()
            .map(|Batch { place, sectors }| {
                let (storage, prover, cancelled) = (self.clone(), prover.clone(), cancelled.clone());
                let request = VanillaPosts { sectors, ..request.clone() };
                async move { storage.ask(&prover, &request, &place, limits, &cancelled).await }
            })
            .collect();
        let mut outcomes = VanillaOutcomes::new();
        while let Some(answer) = asked.next().await {
            outcomes.extend(answer?);
        }
        Ok(outcomes)
    }

    /// One batch. When it fails as a whole it fails for each of its sectors.
    async fn ask(
        &self,
        prover: &Prover,
        request: &VanillaPosts,
        place: &Place,
        limits: PostLimits,
        cancelled: &CancellationToken,
    ) -> Result<VanillaOutcomes, Failure> {
        let (sp, count) = (request.sp, request.sectors.len());
        debug!("making vanilla proofs of {count} sectors of {sp} from {place}");
        let PostLimits { parallel, single, whole } = limits;
        let answer = match place {
            Place::Here(path) => {
                let sectors = request.sectors.iter().map(|sector| on_path(path, sp, sector)).collect();
                let call = VanillaCall { kind: request.kind, proof: request.proof, sp, sectors, parallel };
                prover.vanilla_posts(call, VanillaLimits { single, whole }, cancelled).await.map_err(Failure::from)
            }
            Place::There(peer) => {
                let asked = self.remote().vanilla_posts(peer, request, limits);
                match cancelled.run_until_cancelled(asked).await {
                    Some(answer) => answer.map_err(Failure::from),
                    None => Err(Failure::Stopping),
                }
            }
        };
        match answer {
            Ok(outcomes) => Ok(outcomes),
            Err(Failure::Stopping) => Err(Failure::Stopping),
            Err(failure) => {
                info!("no vanilla proofs of {count} sectors of {sp} from {place}: {failure}");
                Ok(request.sectors.iter().map(|sector| (sector.number, Err(failure.to_string()))).collect())
            }
        }
    }
}

/// A challenged sector with its files on a path of this machine.
pub(super) fn on_path(path: &LocalPath, sp: SpId, sector: &ChallengedSector) -> PostSector {
    let ChallengedSector { number, comm_r, challenges } = sector.clone();
    let name = SectorRef::new(sp, number);
    let (cache, sealed) = (path.file(SectorFile::Cache, name), path.file(SectorFile::Sealed, name));
    PostSector { number, comm_r, cache, sealed, challenges }
}

/// Sectors of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Batch {
    place: Arc<Place>,
    sectors: Vec<ChallengedSector>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    batches: Vec<Batch>,
    /// Sectors without a place.
    nowhere: Vec<ChallengedSector>,
}

/// Who is asked for which sectors: at first the best place of each, then the next one, or the same when there is no
/// other.
fn plan(places: &Places, sectors: Vec<ChallengedSector>, attempt: usize) -> Plan {
    let mut plan = Plan::default();
    let mut of_place: HashMap<Arc<Place>, usize> = HashMap::new();
    for sector in sectors {
        let Some(place) = places.choose(sector.number, attempt) else {
            plan.nowhere.push(sector);
            continue;
        };
        let index = *of_place.entry(place.clone()).or_insert_with(|| {
            plan.batches.push(Batch { place: place.clone(), sectors: Vec::new() });
            plan.batches.len() - 1
        });
        plan.batches[index].sectors.push(sector);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::super::remote::client::Peer;
    use super::*;

    fn sectors(numbers: std::ops::Range<u64>) -> Vec<ChallengedSector> {
        numbers.map(|number| ChallengedSector { number, comm_r: [0; 32], challenges: vec![1] }).collect()
    }

    fn place(machine: &str) -> Arc<Place> {
        let (machine, address) = (machine.to_owned(), "h:1".to_owned());
        Arc::new(Place::There(Peer { machine, address, storage_id: "path".to_owned() }))
    }

    /// Sectors of each batch, with the machine that is asked.
    fn shape(plan: &Plan) -> Vec<(String, Vec<u64>)> {
        let numbers = |batch: &Batch| batch.sectors.iter().map(|sector| sector.number).collect();
        plan.batches.iter().map(|batch| (batch.place.to_string(), numbers(batch))).collect()
    }

    #[test]
    fn sectors_of_one_place_go_together() {
        let (a, b) = (place("a"), place("b"));
        let places = Places::from_iter([(0, vec![a.clone()]), (1, vec![b]), (2, vec![a])]);
        let shape = shape(&plan(&places, sectors(0..3), 0));
        assert_eq!(shape, [("a".to_owned(), vec![0, 2]), ("b".to_owned(), vec![1])]);
    }

    #[test]
    fn the_second_try_goes_elsewhere_when_there_is_another_place() {
        let (a, b) = (place("a"), place("b"));
        let places = Places::from_iter([(0, vec![a.clone(), b]), (1, vec![a])]);
        let shape = shape(&plan(&places, sectors(0..2), 1));
        assert_eq!(shape, [("b".to_owned(), vec![0]), ("a".to_owned(), vec![1])]);
    }

    #[test]
    fn a_sector_without_files_is_not_asked_for() {
        let plan = plan(&Places::default(), sectors(0..1), 0);
        assert_eq!((plan.batches.len(), plan.nowhere.len()), (0, 1));
    }

    #[test]
    fn limits_only_shrink_with_the_time_that_is_left_and_leave_half_of_it_for_a_second_try() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let limits = PostLimits { parallel: 3, single: minutes(10), whole: minutes(20) };
        for (left, single, whole) in [(40, 10, 20), (20, 10, 20), (12, 6, 12), (0, 0, 0)] {
            let expected = PostLimits { parallel: 3, single: minutes(single), whole: minutes(whole) };
            assert_eq!(limits.within(minutes(left)), expected, "{left} minutes");
        }
    }

    #[test]
    fn a_limit_of_zero_is_none() {
        let limits = |parallel_check_limit| PostLimits::of(&Proving { parallel_check_limit, ..Proving::default() });
        assert_eq!(limits(0).parallel, PARALLEL);
        assert_eq!(limits(7).parallel, 7);
    }
}
