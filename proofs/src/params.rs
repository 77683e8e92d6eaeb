//! Groth16 parameters: where they lie, whether they are whole, and how those of the 2 KiB test size
//! are made.
//!
//! There is a set of two files for each circuit and sector size. Parameters of production sizes are
//! published; they are checked against the digests that the proof library ships. Those of 2 KiB are
//! generated here from a constant seed, once for a machine; their digests are constants. Published
//! ones of 2 KiB are accepted, too, so that a folder may be shared with a Lotus test network.
//!
//! Hashing 1.1 GB takes a second, and more for larger sizes. A file found whole is recorded beside
//! itself (`.checked`: digest, length, inode, change times), and hashed again when one of those
//! differs. Damage below the file system is noticed by the prover, which verifies each proof it makes.

mod file;
mod set;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use blake2b_simd::{Params as Blake2b, State};
use curio_core::SealProof;
use serde::{Deserialize, Serialize};
use storage_proofs_core::settings::SETTINGS;

use self::file::hex_digest;
pub use self::file::{Adopted, ParamsFile, Whole};
pub use self::set::{Circuit, Set};
use crate::groth16::Keep;
use crate::library;

/// Environment variable of the proof library for the parameter folder.
pub const DIR_VARIABLE: &str = "FIL_PROOFS_PARAMETER_CACHE";

/// How long to wait for another process that generates the same parameters: several times what two
/// slow cores need.
const GENERATION_TIMEOUT: Duration = Duration::from_secs(45 * 60);

/// Parameters cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParamsError {
    /// A file of a production size is not there.
    #[error(
        "parameter file {} is missing; put the published parameters for sectors of {sector_size} bytes into that folder, \
         or name a server that has them with CURIO_PARAMETERS_URL",
        path.display()
    )]
    Missing { path: PathBuf, sector_size: u64 },
    /// A file of the test size is not there and the call may not make it.
    #[error("parameter file {} is missing; `curio fetch-params` makes it", path.display())]
    NotGenerated { path: PathBuf },
    /// A file has other bytes than it must have.
    #[error(
        "parameter file {} is damaged: its digest is {actual} instead of {expected}; delete the file, then `curio fetch-params` brings it back",
        path.display()
    )]
    Damaged { path: PathBuf, expected: String, actual: String },
    /// The generator made something else than its constant says; the file is not kept.
    #[error("the parameters generated for {} have digest {actual} instead of {expected}; this build of curio is faulty", path.display())]
    Generator { path: PathBuf, expected: String, actual: String },
    #[error("failed to {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Another process generates and does not come to an end.
    #[error("another process has been generating {} for {waited:?}; end it or wait, then try again", path.display())]
    Waited { path: PathBuf, waited: Duration },
    #[error("failed to evaluate the circuit: {0}")]
    Circuit(String),
    /// The library reads its folder once, from the environment, and read another one.
    #[error("the proof library already uses the parameters in {used}; {wanted} needs a process of its own")]
    OtherDir { used: String, wanted: String },
}

impl ParamsError {
    /// A closed word for errors that waiting does not cure.
    pub fn permanent_reason(&self) -> Option<&'static str> {
        match self {
            ParamsError::Damaged { .. }
            | ParamsError::Generator { .. }
            | ParamsError::Circuit(_)
            | ParamsError::OtherDir { .. } => Some("bad-parameters"),
            ParamsError::Missing { .. }
            | ParamsError::NotGenerated { .. }
            | ParamsError::Io { .. }
            | ParamsError::Waited { .. } => None,
        }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ParamsError {
        let path = path.to_path_buf();
        move |source| ParamsError::Io { action, path, source }
    }
}

/// What `ensure` is doing now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ParamsProgress {
    pub phase: String,
    /// 0 to 1.
    pub fraction: f64,
}

/// The folder that the environment names (`FIL_PROOFS_PARAMETER_CACHE`), else one in the user's cache.
pub fn default_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os(DIR_VARIABLE).filter(|dir| !dir.is_empty()) {
        return dir.into();
    }
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .filter(|dir| !dir.is_empty())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
        .unwrap_or_else(std::env::temp_dir);
    cache.join("curio/filecoin-proof-parameters")
}

/// Makes the proof library of this process read its parameters from `dir`.
///
/// The library reads the environment once. Call this before the first proof or verification, in a
/// process that calls them itself; `curio prove` gets the variable from its parent.
///
/// # Errors
/// [`ParamsError::OtherDir`] when the library already uses another folder.
pub fn use_dir(dir: &Path) -> Result<(), ParamsError> {
    static SET: OnceLock<()> = OnceLock::new();
    SET.get_or_init(|| {
        // SAFETY: done once, through Rust's own lock on the environment; no C code of this process
        // reads the environment at the same time.
        unsafe { std::env::set_var(DIR_VARIABLE, dir) };
    });
    let used = Path::new(&SETTINGS.parameter_cache);
    if used == dir {
        return Ok(());
    }
    Err(ParamsError::OtherDir { used: used.display().to_string(), wanted: dir.display().to_string() })
}

/// Whether `dir` has the whole set, for making proofs. Makes nothing.
///
/// # Errors
/// [`ParamsError::Missing`], [`ParamsError::NotGenerated`], [`ParamsError::Damaged`], or io.
pub fn check(dir: &Path, set: Set) -> Result<(), ParamsError> {
    set.files().iter().try_for_each(|file| file.check(dir).map(drop))
}

/// Whether `dir` has the whole verifying key of the set. Makes nothing.
///
/// # Errors
/// As [`check`].
pub fn check_verifying_key(dir: &Path, set: Set) -> Result<(), ParamsError> {
    set.verifying_key().check(dir).map(drop)
}

/// Brings the set for making proofs into `dir`: those of 2 KiB are generated when they are missing
/// (PoRep: four CPU-minutes, 0.6 GB of memory, 1.1 GB of disk; proofs of spacetime: seconds), all are
/// checked.
///
/// Two processes that start together make one file: the second waits, at most 45 minutes.
///
/// # Errors
/// As [`check`], and [`ParamsError::Waited`].
pub fn ensure(dir: &Path, set: Set, progress: &mut dyn FnMut(ParamsProgress)) -> Result<(), ParamsError> {
    ensure_key(dir, set)?;
    let mut told = |phase: &str, fraction: f64| progress(ParamsProgress { phase: phase.to_owned(), fraction });
    ensure_file(dir, &set.params(), set, Keep::All, &mut told)
}

/// Brings the verifying keys of a sector size into `dir`, which is all that checking proofs needs:
/// four CPU-seconds for 2 KiB when they are missing.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_verifying_keys(dir: &Path, proof: SealProof) -> Result<(), ParamsError> {
    Set::all_of(proof).into_iter().try_for_each(|set| ensure_key(dir, set))
}

/// [`ensure_verifying_keys`] of one set.
pub(crate) fn ensure_key(dir: &Path, set: Set) -> Result<(), ParamsError> {
    ensure_file(dir, &set.verifying_key(), set, Keep::VerifyingKey, &mut |_, _| ())
}

fn ensure_file(
    dir: &Path,
    file: &ParamsFile,
    set: Set,
    keep: Keep,
    told: &mut dyn FnMut(&'static str, f64),
) -> Result<(), ParamsError> {
    match file.check(dir) {
        Err(ParamsError::NotGenerated { .. }) => {}
        checked => return checked.map(drop),
    }
    let _lock = lock(dir, file, &mut || told("waiting for another process that brings the same file", 0.0))?;
    generate(dir, file, set, keep, told)
}

/// Takes the lock for bringing a file; the operating system gives it back when the process ends.
fn lock(dir: &Path, file: &ParamsFile, waiting: &mut dyn FnMut()) -> Result<File, ParamsError> {
    let start = Instant::now();
    loop {
        if let Some(lock) = file.try_lock(dir)? {
            return Ok(lock);
        }
        if start.elapsed() > GENERATION_TIMEOUT {
            return Err(ParamsError::Waited { path: file.path(dir), waited: start.elapsed() });
        }
        waiting();
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// Makes one file under a temporary name, checks it, and gives it its name. Under the lock.
fn generate(
    dir: &Path,
    file: &ParamsFile,
    set: Set,
    keep: Keep,
    told: &mut dyn FnMut(&'static str, f64),
) -> Result<(), ParamsError> {
    // Whoever held the lock before may have brought it.
    match file.check(dir) {
        Err(ParamsError::NotGenerated { .. }) => {}
        checked => return checked.map(drop),
    }
    let path = file.path(dir);
    let setup = library::evaluate(set, keep, told)?;
    let temporary = crate::cache::with_suffix(&path, ".tmp");
    let mut write = || -> io::Result<String> {
        let mut hashed = Hashed { file: File::create(&temporary)?, hash: Blake2b::new().to_state() };
        let mut buffered = BufWriter::with_capacity(1 << 20, &mut hashed);
        match keep {
            Keep::All => setup.write(&mut buffered, told)?,
            Keep::VerifyingKey => setup.verifying_key().write(&mut buffered)?,
        }
        buffered.flush()?;
        drop(buffered);
        hashed.file.sync_all()?;
        Ok(hex_digest(&hashed.hash))
    };
    let written = write().map_err(ParamsError::io("write", &temporary));
    let kept = written.and_then(|actual| match file.keep(dir, &temporary, actual)? {
        Adopted::Kept => Ok(()),
        Adopted::Refused { actual } => Err(ParamsError::Generator { path, expected: file.expected(), actual }),
    });
    if kept.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    kept
}

/// Hashes what goes into a file, so that it need not be read again.
struct Hashed {
    file: File,
    hash: State,
}

impl Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests;
