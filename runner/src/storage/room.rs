//! Which path gets a sector's files: the pure half of reserving.
//!
//! Room is what the file system and the path's limit leave, less what other sectors on the path will
//! still grow by. A promise is the peak of a sector's files; what is on disk already is in the used bytes,
//! so only the rest is taken away.

use std::collections::BTreeMap;
use std::fmt;

use curio_core::{SectorRef, SpId};

use super::path::LocalPath;
use super::sector_file::{SectorFile, of_bits};

/// What a path is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathUse {
    /// Sealing: layers and trees, much and short-lived.
    Seal,
    /// Keeping finished sectors.
    Store,
}

/// Left free on every file system: directories, logs, what the figures of a moment ago did not show.
pub const MARGIN_BYTES: u64 = 64 << 20;

/// Room wanted for one sector on one path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    pub sector: SectorRef,
    pub usage: PathUse,
    /// The files that `peak_bytes` is for, bits of [`SectorFile`].
    pub files: i32,
    /// Bytes of these files at their largest, including what is there already.
    pub peak_bytes: u64,
    /// Only a path that holds the sector's files will do.
    pub must_hold: bool,
}

/// A path of this machine with the figures of a moment ago.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub path: LocalPath,
    pub can_seal: bool,
    pub can_store: bool,
    pub weight: u64,
    /// 0 is no limit.
    pub max_storage_bytes: u64,
    pub allow_types: Vec<String>,
    pub deny_types: Vec<String>,
    pub allow_miners: Vec<String>,
    pub deny_miners: Vec<String>,
    /// Why nothing new may be put here now, if so.
    pub unwell: Option<String>,
    /// Whether the files that must be here are declared here.
    pub holds: bool,
    pub fs_available_bytes: u64,
    pub used_bytes: u64,
    /// What other sectors on this path will still grow by.
    pub promised_bytes: u64,
    /// What the wanted files take here already.
    pub own_bytes: u64,
}

impl Candidate {
    /// Bytes that may be promised now.
    pub fn free_bytes(&self) -> u64 {
        free_bytes(self.fs_available_bytes, self.max_storage_bytes, self.used_bytes, self.promised_bytes)
    }

    fn serves(&self, usage: PathUse) -> bool {
        match usage {
            PathUse::Seal => self.can_seal,
            PathUse::Store => self.can_store,
        }
    }

    fn takes(&self, want: &Want) -> bool {
        let types_allowed = of_bits(want.files).iter().all(|file| {
            let named = |list: &[String]| list.iter().any(|word| word == file.dir_name());
            (self.allow_types.is_empty() || named(&self.allow_types)) && !named(&self.deny_types)
        });
        let named = |list: &[String]| list.iter().any(|word| names_miner(word, want.sector.sp));
        let miner_allowed = (self.allow_miners.is_empty() || named(&self.allow_miners)) && !named(&self.deny_miners);
        types_allowed && miner_allowed
    }
}

/// Whether a word of a path's filter (`1000`, `f01000`, `t01000`) names this storage provider.
fn names_miner(word: &str, sp: SpId) -> bool {
    word.parse::<SpId>().or_else(|error| word.parse::<u64>().map(SpId).map_err(|_| error)) == Ok(sp)
}

/// Bytes that may be promised: what the file system and the limit (0 is none) leave, less what is promised already.
pub fn free_bytes(fs_available_bytes: u64, max_storage_bytes: u64, used_bytes: u64, promised_bytes: u64) -> u64 {
    let by_limit = match max_storage_bytes {
        0 => u64::MAX,
        limit => limit.saturating_sub(used_bytes),
    };
    fs_available_bytes.saturating_sub(MARGIN_BYTES).min(by_limit).saturating_sub(promised_bytes)
}

/// Why no path was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// This machine has no path for this use, or none whose filters admit the sector.
    NoPath { usage: PathUse },
    /// The files that must be there lie on no path of this machine.
    NotHere,
    /// Every path for it is too full or unwell; what each one has.
    NoRoom { need_bytes: u64, seen: Vec<Seen> },
}

/// A path that was too full or unwell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub root: String,
    pub need_bytes: u64,
    pub free_bytes: u64,
    pub unwell: Option<String>,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.unwell {
            Some(reason) => write!(f, "{}: {reason}", self.root),
            None => write!(f, "{} has {} of {}", self.root, Bytes(self.free_bytes), Bytes(self.need_bytes)),
        }
    }
}

/// A byte count as a person reads it: `451.4 GiB`.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
        let mut unit = 0;
        let mut value = self.0;
        let mut rest = 0;
        while value >= 1024 && unit + 1 < UNITS.len() {
            rest = value % 1024;
            value /= 1024;
            unit += 1;
        }
        match unit {
            0 => write!(f, "{value} B"),
            _ => write!(f, "{value}.{} {}", rest * 10 / 1024, UNITS[unit]),
        }
    }
}

/// Chooses the path: one where the sector's files lie already if it has room, else the one with the most room
/// times weight (Curio's order).
///
/// # Errors
/// A [`Refusal`]; [`Refusal::NoRoom`] may pass with time, the others need a person or another machine.
pub fn choose<'a>(candidates: &'a [Candidate], want: &Want) -> Result<&'a Candidate, Refusal> {
    let fit: Vec<&Candidate> =
        candidates.iter().filter(|candidate| candidate.serves(want.usage) && candidate.takes(want)).collect();
    // Work on files that are here already goes on even where no new sector would be let in.
    let held: Vec<&Candidate> = candidates.iter().filter(|candidate| candidate.holds).collect();
    let pool = match want.must_hold {
        true if held.is_empty() => return Err(Refusal::NotHere),
        true => held,
        false if fit.is_empty() => return Err(Refusal::NoPath { usage: want.usage }),
        false => fit,
    };
    let missing = |candidate: &Candidate| want.peak_bytes.saturating_sub(candidate.own_bytes);
    pool.iter()
        .filter(|candidate| candidate.unwell.is_none() && candidate.free_bytes() >= missing(candidate))
        .max_by(|a, b| {
            let rank = |c: &Candidate| (c.own_bytes > 0, u128::from(c.free_bytes()) * u128::from(c.weight));
            rank(a).cmp(&rank(b)).then_with(|| b.path.storage_id.cmp(&a.path.storage_id))
        })
        .copied()
        .ok_or_else(|| Refusal::NoRoom {
            need_bytes: want.peak_bytes,
            seen: pool
                .iter()
                .map(|candidate| Seen {
                    root: candidate.path.root.display().to_string(),
                    need_bytes: missing(candidate),
                    free_bytes: candidate.free_bytes(),
                    unwell: candidate.unwell.clone(),
                })
                .collect(),
        })
}

/// Room promised to a sector's files on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    pub sector: SectorRef,
    /// Bits of [`SectorFile`].
    pub files: i32,
    /// Bytes of these files at their largest.
    pub peak_bytes: u64,
}

/// Bytes that the promises of a path will still take, leaving out one sector's own. Several promises to one
/// sector (its task's and its pipeline's) are for the same bytes, so the largest counts.
pub fn promised(
    promises: &[Promise],
    except: Option<SectorRef>,
    mut on_disk: impl FnMut(SectorRef, SectorFile) -> u64,
) -> u64 {
    let mut by_sector: BTreeMap<SectorRef, u64> = BTreeMap::new();
    for promise in promises.iter().filter(|promise| Some(promise.sector) != except) {
        let there: u64 = of_bits(promise.files).into_iter().map(|file| on_disk(promise.sector, file)).sum();
        let rest = promise.peak_bytes.saturating_sub(there);
        let most = by_sector.entry(promise.sector).or_default();
        *most = rest.max(*most);
    }
    by_sector.values().fold(0, |sum, rest| sum.saturating_add(*rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn candidate(id: &str, free_gib: u64) -> Candidate {
        Candidate {
            path: LocalPath { storage_id: id.to_owned(), root: format!("/{id}").into() },
            can_seal: true,
            can_store: false,
            weight: 10,
            max_storage_bytes: 0,
            allow_types: Vec::new(),
            deny_types: Vec::new(),
            allow_miners: Vec::new(),
            deny_miners: Vec::new(),
            unwell: None,
            holds: false,
            fs_available_bytes: free_gib * GIB + MARGIN_BYTES,
            used_bytes: 0,
            promised_bytes: 0,
            own_bytes: 0,
        }
    }

    fn sector(number: u64) -> SectorRef {
        SectorRef::new(SpId(1000), number)
    }

    fn want(peak_gib: u64) -> Want {
        Want {
            sector: sector(1),
            usage: PathUse::Seal,
            files: SectorFile::Cache.bit(),
            peak_bytes: peak_gib * GIB,
            must_hold: false,
        }
    }

    #[test]
    fn the_best_path_is_the_one_that_fits_with_most_room_times_weight() {
        let plain = candidate;
        let heavy = |id, gib| Candidate { weight: 100, ..candidate(id, gib) };
        let table: &[(&str, Vec<Candidate>, u64, Option<&str>)] = &[
            ("one that fits", vec![plain("a", 100)], 100, Some("a")),
            ("one byte would be short", vec![plain("a", 99)], 100, None),
            ("the emptier", vec![plain("a", 100), plain("b", 200)], 50, Some("b")),
            ("the heavier", vec![heavy("a", 100), plain("b", 200)], 50, Some("a")),
            ("heavy and full is not taken", vec![heavy("a", 10), plain("b", 200)], 50, Some("b")),
            ("equal ones by id", vec![plain("b", 100), plain("a", 100)], 50, Some("a")),
            (
                "the one with the unfinished cache, though smaller",
                vec![plain("a", 500), Candidate { own_bytes: 40 * GIB, ..plain("b", 60) }],
                100,
                Some("b"),
            ),
            (
                "not the one with the unfinished cache when it is too full",
                vec![plain("a", 500), Candidate { own_bytes: 40 * GIB, ..plain("b", 59) }],
                100,
                Some("a"),
            ),
            (
                "what is promised to others is not free",
                vec![Candidate { promised_bytes: 60 * GIB, ..plain("a", 100) }],
                41,
                None,
            ),
            (
                "a limit below the file system counts",
                vec![Candidate { max_storage_bytes: 50 * GIB, used_bytes: 20 * GIB, ..plain("a", 100) }],
                31,
                None,
            ),
            (
                "a limit with room is fine",
                vec![Candidate { max_storage_bytes: 50 * GIB, used_bytes: 20 * GIB, ..plain("a", 100) }],
                30,
                Some("a"),
            ),
            (
                "a used path beyond its limit has none",
                vec![Candidate { max_storage_bytes: 50 * GIB, used_bytes: 80 * GIB, ..plain("a", 100) }],
                1,
                None,
            ),
            (
                "an unwell one is passed over",
                vec![Candidate { unwell: Some("hangs".into()), ..plain("a", 900) }, plain("b", 100)],
                50,
                Some("b"),
            ),
        ];
        for (name, candidates, peak_gib, expected) in table {
            let chosen = choose(candidates, &want(*peak_gib)).ok().map(|c| c.path.storage_id.as_str());
            assert_eq!(chosen, *expected, "{name}");
        }
    }

    #[test]
    fn uses_and_filters_decide_who_is_asked_at_all() {
        type Change = fn(&mut Candidate);
        let filters: &[(&str, Change, bool)] = &[
            ("for storing only", |c| (c.can_seal, c.can_store) = (false, true), false),
            ("another type", |c| c.allow_types = vec!["sealed".into()], false),
            ("this type", |c| c.allow_types = vec!["sealed".into(), "cache".into()], true),
            ("type denied", |c| c.deny_types = vec!["cache".into()], false),
            ("this miner, f0", |c| c.allow_miners = vec!["f01000".into()], true),
            ("this miner, t0", |c| c.allow_miners = vec!["t01000".into()], true),
            ("this miner, number", |c| c.allow_miners = vec!["1000".into()], true),
            ("a longer number", |c| c.allow_miners = vec!["10001".into()], false),
            ("miner denied", |c| c.deny_miners = vec!["1000".into()], false),
            ("nonsense allows nobody", |c| c.allow_miners = vec!["all".into()], false),
        ];
        for (name, change, admitted) in filters {
            let mut one = candidate("a", 100);
            change(&mut one);
            let expected = if *admitted { Ok("a".to_owned()) } else { Err(Refusal::NoPath { usage: PathUse::Seal }) };
            let chosen = choose(std::slice::from_ref(&one), &want(1)).map(|c| c.path.storage_id.clone());
            assert_eq!(chosen, expected, "{name}");
        }
    }

    #[test]
    fn work_on_files_that_are_here_needs_them_here_and_ignores_filters() {
        let work = Want { must_hold: true, ..want(100) };
        assert_eq!(choose(&[candidate("a", 500)], &work).map(|_| ()), Err(Refusal::NotHere));
        let held =
            Candidate { holds: true, own_bytes: 90 * GIB, deny_miners: vec!["1000".into()], ..candidate("b", 10) };
        assert_eq!(choose(&[candidate("a", 500), held], &work).unwrap().path.storage_id, "b");
    }

    #[test]
    fn a_refusal_for_room_says_what_each_path_has() {
        let unwell = Candidate { unwell: Some("failed to write: disk full".into()), ..candidate("b", 9) };
        let Err(Refusal::NoRoom { need_bytes, seen }) = choose(&[candidate("a", 99), unwell], &want(100)) else {
            panic!("there is no room");
        };
        assert_eq!(need_bytes, 100 * GIB);
        let seen: Vec<String> = seen.iter().map(Seen::to_string).collect();
        assert_eq!(seen, ["/a has 99.0 GiB of 100.0 GiB", "/b: failed to write: disk full"]);
    }

    #[test]
    fn a_promise_is_what_a_sector_will_still_grow_by() {
        let (cache, both) = (SectorFile::Cache.bit(), SectorFile::Cache.bit() | SectorFile::Sealed.bit());
        let promise = |number, files, peak_bytes| Promise { sector: sector(number), files, peak_bytes };
        let on_disk = |sector: SectorRef, file| match (sector.number, file) {
            (2, SectorFile::Cache) => 60,
            (2, SectorFile::Sealed) => 5,
            (3, SectorFile::Cache) => 500,
            _ => 0,
        };
        let table: &[(&str, Vec<Promise>, u64)] = &[
            ("nothing", vec![], 0),
            ("nothing written yet", vec![promise(4, cache, 100)], 100),
            ("partly written", vec![promise(2, cache, 100)], 40),
            ("files not in the promise do not count", vec![promise(2, both, 100)], 35),
            ("already larger than promised", vec![promise(3, cache, 100)], 0),
            ("twice to one sector is the larger", vec![promise(2, cache, 100), promise(2, both, 115)], 50),
            ("two sectors add up", vec![promise(2, cache, 100), promise(4, cache, 100)], 140),
            ("one's own is left out", vec![promise(1, cache, 100), promise(4, cache, 7)], 7),
        ];
        for (name, promises, expected) in table {
            assert_eq!(promised(promises, Some(sector(1)), on_disk), *expected, "{name}");
        }
    }

    #[test]
    fn byte_counts_read_well() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (451 * GIB + GIB / 2, "451.5 GiB")] {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }
}
