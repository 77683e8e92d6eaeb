//! The discipline of writing sector files: temporary name, fsync of file and directory, rename, and
//! only then may anybody declare them. Blocking inside; the public functions run in blocking threads.
//!
//! A failed fsync is data loss: the kernel has dropped the pages. Nothing here tries it a second time
//! on the same file; the work fails and is done again from its inputs.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use curio_core::{Classify, Failure};
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use tokio_util::sync::CancellationToken;

use super::{BlockingError, blocking};

/// Directory inside each type directory for files that are not whole yet.
pub const FETCHING: &str = "fetching";

/// Something about a file failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("failed to {what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("failed to copy {}: the task was cancelled", path.display())]
    Cancelled { path: PathBuf },
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

impl FileError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
        move |source| FileError::Io { what, path: path.to_owned(), source }
    }
}

impl Classify for FileError {
    fn classify(self) -> Failure {
        match self {
            FileError::Cancelled { .. } => Failure::Stopping,
            FileError::Blocking(error) => error.classify(),
            error @ FileError::Io { .. } => Failure::Retry(Box::new(error)),
        }
    }
}

/// Makes `temp` (a file, or a directory of files) durable and renames it to `target`, which is replaced
/// when it exists. After it returns, `target` survives a power cut whole; before, nobody sees a part.
///
/// # Errors
/// [`FileError::Io`]; `temp` may then still exist and is the caller's to remove.
pub async fn publish(temp: &Path, target: &Path) -> Result<(), FileError> {
    let (temp, target) = (temp.to_owned(), target.to_owned());
    blocking("publishing a sector file", move || publish_now(&temp, &target)).await?
}

/// Blocking form of [`publish`].
pub fn publish_now(temp: &Path, target: &Path) -> Result<(), FileError> {
    sync_tree(temp)?;
    if target.is_dir() {
        // A directory cannot be renamed over a full one. Exchanging the two keeps one of them under the
        // name at every moment; removing the old one first would not.
        match rustix::fs::renameat_with(CWD, temp, CWD, target, RenameFlags::EXCHANGE) {
            Ok(()) => {
                sync_parent(target)?;
                fs::remove_dir_all(temp).map_err(FileError::io("remove the replaced", temp))?;
            }
            // NFS cannot exchange. Nothing declares the old directory while it is being replaced.
            Err(Errno::INVAL | Errno::NOSYS) => {
                remove(target)?;
                fs::rename(temp, target).map_err(FileError::io("rename to", target))?;
                sync_parent(target)?;
            }
            Err(errno) => return Err(FileError::io("exchange", target)(errno.into())),
        }
    } else {
        fs::rename(temp, target).map_err(FileError::io("rename to", target))?;
        sync_parent(target)?;
    }
    sync_parent(temp)
}

/// Makes a file, or every file of a directory, durable, with the directories that name them, and
/// returns the bytes in them.
pub fn sync_tree(path: &Path) -> Result<u64, FileError> {
    let metadata = fs::symlink_metadata(path).map_err(FileError::io("look at", path))?;
    let mut bytes = 0;
    if metadata.is_dir() {
        for entry in fs::read_dir(path).map_err(FileError::io("read the directory", path))? {
            let entry = entry.map_err(FileError::io("read the directory", path))?;
            bytes += sync_tree(&entry.path())?;
        }
    } else {
        bytes = metadata.len();
    }
    let file = File::open(path).map_err(FileError::io("open", path))?;
    file.sync_all().map_err(FileError::io("make durable", path))?;
    Ok(bytes)
}

/// Makes the directory that holds `path` durable.
pub fn sync_parent(path: &Path) -> Result<(), FileError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(FileError::io("make durable the directory", parent))
}

/// Bytes that a file, or all files of a directory, take on disk (blocks, not lengths: a file may be
/// set to its length before it is written). Nothing there takes nothing.
pub fn disk_bytes(path: &Path) -> io::Result<u64> {
    /// Unit of `st_blocks`, whatever the block size of the file system (POSIX).
    const BLOCK_BYTES: u64 = 512;
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut bytes = metadata.blocks() * BLOCK_BYTES;
    if metadata.is_dir() {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        for entry in entries {
            // A task may be removing files here at the same moment; what is gone takes nothing.
            bytes += disk_bytes(&entry?.path())?;
        }
    }
    Ok(bytes)
}

/// Brings a file or a directory of files from `source` to `target`, another name. Within one file system it
/// is a hard link, which costs nothing and leaves the source as it is; otherwise a copy.
///
/// The copy is not durable yet: [`publish`] it.
pub fn duplicate(source: &Path, target: &Path, cancelled: &CancellationToken) -> Result<(), FileError> {
    let metadata = fs::symlink_metadata(source).map_err(FileError::io("look at", source))?;
    if !metadata.is_dir() {
        return duplicate_file(source, target, cancelled);
    }
    fs::create_dir_all(target).map_err(FileError::io("create", target))?;
    for entry in fs::read_dir(source).map_err(FileError::io("read the directory", source))? {
        let entry = entry.map_err(FileError::io("read the directory", source))?;
        if entry.file_type().map_err(FileError::io("look at", &entry.path()))?.is_file() {
            duplicate_file(&entry.path(), &target.join(entry.file_name()), cancelled)?;
        }
    }
    Ok(())
}

fn duplicate_file(source: &Path, target: &Path, cancelled: &CancellationToken) -> Result<(), FileError> {
    const BUFFER_BYTES: usize = 4 << 20;
    if fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    let mut from = File::open(source).map_err(FileError::io("open", source))?;
    let mut to = File::create(target).map_err(FileError::io("create", target))?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        if cancelled.is_cancelled() {
            return Err(FileError::Cancelled { path: source.to_owned() });
        }
        let count = from.read(&mut buffer).map_err(FileError::io("read", source))?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).map_err(FileError::io("write", target))?;
    }
}

/// Removes a file or a directory of files, durably. Nothing there is success.
///
/// A directory first leaves its name for one in `fetching`, so that a crash half-way never leaves a
/// directory under its proper name with files missing.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::io("look at", path)(error)),
    };
    if !metadata.is_dir() {
        fs::remove_file(path).map_err(FileError::io("remove", path))?;
        return sync_parent(path);
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    let mut name = path.file_name().map(OsString::from).unwrap_or_default();
    name.push(".removed");
    let grave = parent.join(FETCHING).join(name);
    clear(&grave)?;
    fs::create_dir_all(parent.join(FETCHING)).map_err(FileError::io("create", &grave))?;
    fs::rename(path, &grave).map_err(FileError::io("rename to", &grave))?;
    sync_parent(path)?;
    clear(&grave)
}

/// Removes what lies under a temporary name, if anything.
pub fn clear(temp: &Path) -> Result<(), FileError> {
    let removed = match fs::symlink_metadata(temp) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(temp),
        Ok(_) => fs::remove_file(temp),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::io("remove", temp)(error)),
        _ => Ok(()),
    }
}

/// Writes a small file whole: temporary name beside it, fsync, rename, fsync of the directory. With
/// `fresh`, an existing file is left alone and reported as [`io::ErrorKind::AlreadyExists`].
pub fn write_whole(path: &Path, content: &[u8], fresh: bool) -> io::Result<()> {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temp = path.with_file_name(name);
    let written = (|| {
        let mut file = File::create(&temp)?;
        file.write_all(content)?;
        file.sync_all()?;
        if fresh {
            // A link fails where the name is taken, on every file system; a rename would replace.
            fs::hard_link(&temp, path)?;
            fs::remove_file(&temp)?;
        } else {
            fs::rename(&temp, path)?;
        }
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    })();
    if written.is_err() {
        // The first error is the one to tell; a temporary file left behind harms nobody.
        let _ = fs::remove_file(&temp);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn a_published_directory_replaces_an_older_one_whole() {
        let root = tempfile::tempdir().unwrap();
        let (temp, target) = (root.path().join("fetching/a"), root.path().join("a"));
        write(&temp.join("p_aux"), "new");
        write(&target.join("p_aux"), "old");
        write(&target.join("t_aux"), "left over");
        publish_now(&temp, &target).unwrap();
        assert_eq!(fs::read_to_string(target.join("p_aux")).unwrap(), "new");
        assert!(!target.join("t_aux").exists());
        assert!(!temp.exists());
    }

    #[test]
    fn a_published_file_replaces_an_older_one() {
        let root = tempfile::tempdir().unwrap();
        let (temp, target) = (root.path().join("fetching/a"), root.path().join("a"));
        write(&temp, "new");
        write(&target, "old");
        publish_now(&temp, &target).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "new");
    }

    #[test]
    fn removing_is_the_same_the_second_time_and_after_a_crash_half_way() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("cache/s-t01000-1");
        write(&directory.join("p_aux"), "x");
        write(&root.path().join("cache/fetching/s-t01000-1.removed/p_aux"), "from a crash");
        remove(&directory).unwrap();
        remove(&directory).unwrap();
        assert!(!directory.exists());
        assert_eq!(fs::read_dir(root.path().join("cache/fetching")).unwrap().count(), 0);
    }

    #[test]
    fn a_duplicate_leaves_the_source_and_holds_the_same_bytes() {
        let root = tempfile::tempdir().unwrap();
        let (source, target) = (root.path().join("a"), root.path().join("b"));
        write(&source.join("p_aux"), "bytes");
        duplicate(&source, &target, &CancellationToken::new()).unwrap();
        assert_eq!(fs::read_to_string(target.join("p_aux")).unwrap(), "bytes");
        assert_eq!(fs::read_to_string(source.join("p_aux")).unwrap(), "bytes");
    }

    #[test]
    fn a_small_file_is_written_fresh_only_once() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("sectorstore.json");
        write_whole(&path, b"one", true).unwrap();
        assert_eq!(write_whole(&path, b"two", true).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn disk_bytes_counts_blocks_and_not_holes() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("layer");
        File::create(&path).unwrap().set_len(1 << 30).unwrap();
        assert!(disk_bytes(&path).unwrap() < 1 << 20);
        assert_eq!(disk_bytes(&root.path().join("absent")).unwrap(), 0);
    }
}
