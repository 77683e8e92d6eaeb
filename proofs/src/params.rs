//! Groth16 parameters: where they lie, whether they are whole, and how those of the 2 KiB test size
//! are made.
//!
//! Parameters of production sizes are published; they are checked against the digests that the proof
//! library ships. Those of 2 KiB are generated here from a constant seed, once for a machine; their
//! digests are constants below. Published ones of 2 KiB are accepted, too, so that a folder may be
//! shared with a Lotus test network.
//!
//! Hashing 1.1 GB takes a second, and more for larger sizes. A file found whole is recorded beside
//! itself (`.checked`: digest, length, inode, change times), and hashed again when one of those
//! differs. Damage below the file system is noticed by the prover, which verifies each proof it makes.

mod file;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use blake2b_simd::{Params as Blake2b, State};
use curio_core::SealProof;
use serde::{Deserialize, Serialize};
use storage_proofs_core::parameter_cache;
use storage_proofs_core::settings::SETTINGS;

use self::file::hex_digest;
pub use self::file::{Adopted, ParamsFile, Whole};
use crate::groth16::Keep;
use crate::library;

/// Environment variable of the proof library for the parameter folder.
pub const DIR_VARIABLE: &str = "FIL_PROOFS_PARAMETER_CACHE";

/// How long to wait for another process that generates the same parameters: several times what two
/// slow cores need.
const GENERATION_TIMEOUT: Duration = Duration::from_secs(45 * 60);

/// Digests (first 128 bits of BLAKE2b, in hex, as the library's manifest has them) of the files that
/// the generator makes. Both follow from the seed and the circuit alone.
const GENERATED: [(SealProof, Digests); 1] = [(
    SealProof::StackedDrg2KiBV1_1,
    Digests { params: "65cfbec8d46256cde46412d820d9eea0", verifying_key: "8742038036e9ddb53894dc1787aaa6d6" },
)];

struct Digests {
    params: &'static str,
    verifying_key: &'static str,
}

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

/// The files for making proofs of this kind: the key that verifies them, which is small, then the parameters.
pub fn files(proof: SealProof) -> [ParamsFile; 2] {
    [verifying_key(proof), params(proof)]
}

fn verifying_key(proof: SealProof) -> ParamsFile {
    let name = parameter_cache::verifying_key_id(&library::circuit_id(proof));
    ParamsFile::known(name, proof, generated(proof).map(|digests| digests.verifying_key))
}

fn params(proof: SealProof) -> ParamsFile {
    let name = parameter_cache::parameter_id(&library::circuit_id(proof));
    ParamsFile::known(name, proof, generated(proof).map(|digests| digests.params))
}

fn generated(proof: SealProof) -> Option<&'static Digests> {
    GENERATED.iter().find(|(of, _)| *of == proof).map(|(_, digests)| digests)
}

/// Whether the parameters of this kind are made here when nobody brings them.
pub fn can_make(proof: SealProof) -> bool {
    generated(proof).is_some()
}

/// Path of the parameters that make proofs.
pub fn params_path(dir: &Path, proof: SealProof) -> PathBuf {
    params(proof).path(dir)
}

/// Path of the key that verifies them.
pub fn verifying_key_path(dir: &Path, proof: SealProof) -> PathBuf {
    verifying_key(proof).path(dir)
}

/// Whether `dir` has whole parameters for making proofs of this kind. Makes nothing.
///
/// # Errors
/// [`ParamsError::Missing`], [`ParamsError::NotGenerated`], [`ParamsError::Damaged`], or io.
pub fn check(dir: &Path, proof: SealProof) -> Result<(), ParamsError> {
    files(proof).iter().try_for_each(|file| file.check(dir).map(drop))
}

/// Whether `dir` has the whole verifying key for this kind. Makes nothing.
///
/// # Errors
/// As [`check`].
pub fn check_verifying_key(dir: &Path, proof: SealProof) -> Result<(), ParamsError> {
    verifying_key(proof).check(dir).map(drop)
}

/// Brings the parameters for making proofs into `dir`: those of 2 KiB are generated when they are
/// missing (four CPU-minutes, 0.6 GB of memory, 1.1 GB of disk), all are checked.
///
/// Two processes that start together make one file: the second waits, at most 45 minutes.
///
/// # Errors
/// As [`check`], and [`ParamsError::Waited`].
pub fn ensure(dir: &Path, proof: SealProof, progress: &mut dyn FnMut(ParamsProgress)) -> Result<(), ParamsError> {
    ensure_verifying_key(dir, proof)?;
    let mut told = |phase: &str, fraction: f64| progress(ParamsProgress { phase: phase.to_owned(), fraction });
    ensure_file(dir, &params(proof), proof, Keep::All, &mut told)
}

/// Brings the verifying key into `dir`, which is all that checking proofs needs: three CPU-seconds
/// for 2 KiB when it is missing.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_verifying_key(dir: &Path, proof: SealProof) -> Result<(), ParamsError> {
    ensure_file(dir, &verifying_key(proof), proof, Keep::VerifyingKey, &mut |_, _| ())
}

fn ensure_file(
    dir: &Path,
    file: &ParamsFile,
    proof: SealProof,
    keep: Keep,
    told: &mut dyn FnMut(&'static str, f64),
) -> Result<(), ParamsError> {
    match file.check(dir) {
        Err(ParamsError::NotGenerated { .. }) => {}
        checked => return checked.map(drop),
    }
    let _lock = lock(dir, file, &mut || told("waiting for another process that brings the same file", 0.0))?;
    generate(dir, file, proof, keep, told)
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
    proof: SealProof,
    keep: Keep,
    told: &mut dyn FnMut(&'static str, f64),
) -> Result<(), ParamsError> {
    // Whoever held the lock before may have brought it.
    match file.check(dir) {
        Err(ParamsError::NotGenerated { .. }) => {}
        checked => return checked.map(drop),
    }
    let path = file.path(dir);
    let setup = library::evaluate_porep(proof, keep, told)?;
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
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;

    /// A folder with the verifying key of 2 KiB.
    fn with_key() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        ensure_verifying_key(&default_dir(), PROOF).unwrap();
        let path = verifying_key_path(dir.path(), PROOF);
        fs::copy(verifying_key_path(&default_dir(), PROOF), &path).unwrap();
        (dir, path)
    }

    #[test]
    fn a_flipped_byte_is_one_sentence_also_after_the_file_was_found_whole() {
        let (dir, path) = with_key();
        check_verifying_key(dir.path(), PROOF).unwrap();
        assert!(crate::cache::with_suffix(&path, ".checked").exists(), "the file is recorded as whole");
        let mut bytes = fs::read(&path).unwrap();
        bytes[1000] ^= 1;
        fs::write(&path, &bytes).unwrap();
        for called in [check_verifying_key(dir.path(), PROOF), ensure_verifying_key(dir.path(), PROOF)] {
            let error = called.unwrap_err();
            assert_eq!(error.permanent_reason(), Some("bad-parameters"));
            let text = error.to_string();
            let start = format!("parameter file {} is damaged: its digest is ", path.display());
            assert!(text.starts_with(&start), "{text}");
            assert!(text.contains("instead of 8742038036e9ddb53894dc1787aaa6d6"), "{text}");
            assert!(text.ends_with("delete the file, then `curio fetch-params` brings it back"), "{text}");
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "the damaged file is left to look at");
    }

    #[test]
    fn what_is_missing_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = check(dir.path(), PROOF).unwrap_err();
        assert!(matches!(error, ParamsError::NotGenerated { .. }), "{error}");
        for result in [
            check(dir.path(), SealProof::StackedDrg32GiBV1_1),
            ensure(dir.path(), SealProof::StackedDrg32GiBV1_1, &mut |_| ()),
        ] {
            let text = result.unwrap_err().to_string();
            assert!(
                text.contains("is missing; put the published parameters for sectors of 34359738368 bytes"),
                "{text}"
            );
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "a check makes nothing");
    }

    #[test]
    fn parameters_missing_beside_a_good_key_are_named() {
        let (dir, _) = with_key();
        let error = check(dir.path(), PROOF).unwrap_err();
        assert!(
            matches!(&error, ParamsError::NotGenerated { path } if *path == params_path(dir.path(), PROOF)),
            "{error}"
        );
    }

    #[test]
    fn damaged_parameters_beside_a_good_key_are_named() {
        let (dir, _) = with_key();
        let path = params_path(dir.path(), PROOF);
        fs::write(&path, "a file that was cut off").unwrap();
        for called in [check(dir.path(), PROOF), ensure(dir.path(), PROOF, &mut |_| panic!("nothing is made"))] {
            let text = called.unwrap_err().to_string();
            assert!(text.starts_with(&format!("parameter file {} is damaged", path.display())), "{text}");
        }
    }

    #[test]
    fn two_that_start_together_make_one_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = verifying_key(PROOF);
        // Another process that generates: it holds the lock, and gives it back when we have waited.
        let held = lock(dir.path(), &file, &mut || ()).unwrap();
        let (waits, waiting) = mpsc::channel();
        std::thread::scope(|scope| {
            let (file, dir) = (&file, dir.path());
            scope.spawn(move || {
                let _lock = lock(dir, file, &mut || waits.send(()).unwrap_or_default()).unwrap();
                let twice = &mut |_: &'static str, _: f64| panic!("the file is made twice");
                generate(dir, file, PROOF, Keep::VerifyingKey, twice).unwrap();
            });
            waiting.recv().unwrap();
            generate(dir, file, PROOF, Keep::VerifyingKey, &mut |_, _| ()).unwrap();
            drop(held);
            check_verifying_key(dir, PROOF).unwrap();
        });
        assert!(!crate::cache::with_suffix(&file.path(dir.path()), ".tmp").exists());
    }

    #[test]
    fn a_file_given_back_after_damage_is_taken_again() {
        let (dir, path) = with_key();
        let good = fs::read(&path).unwrap();
        fs::write(&path, "nothing of the kind").unwrap();
        assert!(check_verifying_key(dir.path(), PROOF).is_err());
        fs::write(&path, good).unwrap();
        check_verifying_key(dir.path(), PROOF).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = ensure_verifying_key(&file.join("params"), PROOF).unwrap_err().to_string();
        assert!(error.starts_with("failed to") && error.contains(&file.display().to_string()), "{error}");
    }
}
