//! One parameter file: its name, the contents it may have, whether a folder has it whole, and taking one
//! into a folder that was brought under another name.
//!
//! Writes `.checked` beside a file found whole, and `.lock` while somebody brings it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use blake2b_simd::{Params as Blake2b, State};
use curio_core::SealProof;
use serde::{Deserialize, Serialize};
use storage_proofs_core::parameter_cache;

use super::ParamsError;

/// A file, and what it must contain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamsFile {
    /// Its name in every folder and on every server.
    pub name: String,
    /// First 128 bits of BLAKE2b-512 in hex; any of these will do.
    pub digests: Vec<String>,
    /// Padded bytes of the sectors that it is for.
    pub sector_size: u64,
    /// Whether this program makes it.
    pub can_be_made: bool,
}

/// A file that is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    pub digest: String,
    pub size_bytes: u64,
}

/// What became of a file that was brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It has its name now.
    Kept,
    /// It has another content; it is where it was.
    Refused { actual: String },
}

impl ParamsFile {
    /// A file that the library's manifest knows, or whose digest we know because we make it.
    pub(super) fn known(name: String, proof: SealProof, made: Option<&str>) -> ParamsFile {
        let published = parameter_cache::get_parameter_data_from_id(&name).map(|data| data.digest.as_str());
        let digests = made.into_iter().chain(published).map(str::to_owned).collect();
        ParamsFile { name, digests, sector_size: proof.sector_size(), can_be_made: made.is_some() }
    }

    /// Where it lies in a folder.
    pub fn path(&self, dir: &Path) -> PathBuf {
        dir.join(&self.name)
    }

    /// The digests in words.
    pub fn expected(&self) -> String {
        self.digests.join(" or ")
    }

    /// Looks whether `dir` has it whole. Reads all of it unless that was done before and the file was not touched since.
    ///
    /// # Errors
    /// [`ParamsError::Missing`], [`ParamsError::NotGenerated`], [`ParamsError::Damaged`], or io.
    pub fn check(&self, dir: &Path) -> Result<Whole, ParamsError> {
        let path = self.path(dir);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.can_be_made => {
                return Err(ParamsError::NotGenerated { path });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(ParamsError::Missing { path, sector_size: self.sector_size });
            }
            Err(error) => return Err(ParamsError::io("open", &path)(error)),
        };
        let seen = Seen::of(&file).map_err(ParamsError::io("look at", &path))?;
        let size_bytes = seen.size_bytes;
        if let Some(record) = Record::read(&path)
            && record.seen == seen
            && self.digests.contains(&record.digest)
        {
            return Ok(Whole { digest: record.digest, size_bytes });
        }
        let actual = digest(file).map_err(ParamsError::io("read", &path))?;
        if !self.digests.contains(&actual) {
            return Err(ParamsError::Damaged { path, expected: self.expected(), actual });
        }
        // A folder may be read-only; then every process hashes for itself.
        let _ = Record { digest: actual.clone(), seen }.write(&path);
        Ok(Whole { digest: actual, size_bytes })
    }

    /// Reads a file that somebody brought, and gives it its name when it is right. Under the lock.
    ///
    /// # Errors
    /// Only io; a file that is not right is [`Adopted::Refused`].
    pub fn adopt(&self, dir: &Path, brought: &Path) -> Result<Adopted, ParamsError> {
        let file = File::open(brought).map_err(ParamsError::io("open", brought))?;
        file.sync_all().map_err(ParamsError::io("write", brought))?;
        let actual = digest(file).map_err(ParamsError::io("read", brought))?;
        self.keep(dir, brought, actual)
    }

    /// [`ParamsFile::adopt`] for a file that was hashed while it was written.
    pub(super) fn keep(&self, dir: &Path, brought: &Path, actual: String) -> Result<Adopted, ParamsError> {
        if !self.digests.contains(&actual) {
            return Ok(Adopted::Refused { actual });
        }
        let path = self.path(dir);
        fs::rename(brought, &path).map_err(ParamsError::io("rename", brought))?;
        let file = File::open(&path).map_err(ParamsError::io("open", &path))?;
        if let Ok(seen) = Seen::of(&file) {
            let _ = Record { digest: actual, seen }.write(&path);
        }
        crate::cache::sync_dir(&path).map_err(ParamsError::io("write the folder of", &path))?;
        Ok(Adopted::Kept)
    }

    /// Takes the lock for bringing this file; nothing while another process has it, on this machine or on another one
    /// that shares the folder. Makes the folder. The operating system gives the lock back when the process ends.
    ///
    /// # Errors
    /// The folder cannot be made or written to.
    pub fn try_lock(&self, dir: &Path) -> Result<Option<File>, ParamsError> {
        fs::create_dir_all(dir).map_err(ParamsError::io("create", dir))?;
        let path = crate::cache::with_suffix(&self.path(dir), ".lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(ParamsError::io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(ParamsError::io("lock", &path)(error)),
        }
    }
}

/// First 128 bits of BLAKE2b-512, in hex: how the library's manifest names contents.
fn digest(mut file: File) -> io::Result<String> {
    let mut hash = Blake2b::new().to_state();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex_digest(&hash)),
            read => hash.update(&buffer[..read]),
        };
    }
}

pub(super) fn hex_digest(hash: &State) -> String {
    hash.finalize().to_hex()[..32].to_owned()
}

/// What tells that a file was touched since it was hashed. Without the number of the device: machines that share a
/// folder number it differently, and would hash the file anew in turns.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    size_bytes: u64,
    inode: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl Seen {
    fn of(file: &File) -> io::Result<Seen> {
        let metadata = file.metadata()?;
        let ns = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
        Ok(Seen {
            size_bytes: metadata.size(),
            inode: metadata.ino(),
            modified_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// The `.checked` file.
#[derive(Serialize, Deserialize)]
struct Record {
    digest: String,
    seen: Seen,
}

impl Record {
    fn path(of: &Path) -> PathBuf {
        crate::cache::with_suffix(of, ".checked")
    }

    fn read(of: &Path) -> Option<Record> {
        serde_json::from_slice(&fs::read(Record::path(of)).ok()?).ok()
    }

    fn write(&self, of: &Path) -> io::Result<()> {
        let path = Record::path(of);
        // The process number keeps two writers of one machine apart, and the time those of two containers, where
        // everybody is process 1.
        let now_ns = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let temporary = crate::cache::with_suffix(&path, &format!(".{}-{now_ns}.tmp", std::process::id()));
        fs::write(&temporary, serde_json::to_vec(self)?)?;
        fs::rename(&temporary, &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file whose right content is `text`.
    fn file_of(text: &str) -> ParamsFile {
        let mut hash = Blake2b::new().to_state();
        hash.update(text.as_bytes());
        let digests = vec![hex_digest(&hash)];
        ParamsFile { name: "v1-test.params".to_owned(), digests, sector_size: 2048, can_be_made: false }
    }

    #[test]
    fn what_was_brought_gets_its_name_only_when_it_is_right() {
        let dir = tempfile::tempdir().unwrap();
        let (file, part) = (file_of("right"), dir.path().join("part"));
        fs::write(&part, "wrong").unwrap();
        assert!(matches!(file.adopt(dir.path(), &part).unwrap(), Adopted::Refused { .. }));
        assert!(part.exists() && !file.path(dir.path()).exists());
        fs::write(&part, "right").unwrap();
        assert_eq!(file.adopt(dir.path(), &part).unwrap(), Adopted::Kept);
        assert_eq!(file.check(dir.path()).unwrap(), Whole { digest: file.digests[0].clone(), size_bytes: 5 });
    }

    #[test]
    fn a_file_that_somebody_brings_is_locked_for_everybody_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = file_of("right");
        let held = file.try_lock(dir.path()).unwrap();
        assert!(held.is_some() && file.try_lock(dir.path()).unwrap().is_none());
        drop(held);
        assert!(file.try_lock(dir.path()).unwrap().is_some());
    }
}
