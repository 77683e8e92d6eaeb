//! Reading sector files on behalf of others. Blocking.
//!
//! A place is a root, a kind, a sector and perhaps a cache name, each from a closed set, so no text of a request
//! becomes a path. Every step below the root is opened without following links.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use curio_core::SectorRef;
use rustix::fs::{AtFlags, Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::BLOCK_BYTES;
use crate::storage::SectorFile;
use crate::storage::sector_file::{CacheName, MAX_CACHE_FILES};

/// Which file of a storage path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: SectorFile,
    pub sector: SectorRef,
    /// Set for a file of a cache, which is a directory.
    pub name: Option<CacheName>,
}

/// The files of a cache directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub files: Vec<ManifestFile>,
}

/// One file of a cache directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    pub name: CacheName,
    pub size_bytes: u64,
    pub etag: String,
}

/// Part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    pub start: u64,
    pub bytes: Vec<u8>,
    /// Bytes of the whole file.
    pub total_bytes: u64,
    /// Changes when the file does.
    pub etag: String,
}

/// Reads up to a block of a file from `start`, at most `length` bytes. `Ok(None)` when `start` is at or past the end of
/// a file that is not empty.
pub fn read_block(root: &Path, place: &Place, start: u64, length: u64) -> io::Result<Option<Block>> {
    let file = open(root, place)?;
    let metadata = file.metadata()?;
    let total_bytes = metadata.len();
    if start >= total_bytes && total_bytes > 0 {
        return Ok(None);
    }
    let wanted = length.min(BLOCK_BYTES).min(total_bytes.saturating_sub(start));
    let mut bytes = vec![0; usize::try_from(wanted).expect("a block fits into memory")];
    file.read_exact_at(&mut bytes, start)?;
    Ok(Some(Block { start, bytes, total_bytes, etag: etag_of(&metadata) }))
}

/// Lists a cache: only files that sealing writes, and only plain ones.
pub fn manifest(root: &Path, sector: SectorRef) -> io::Result<Manifest> {
    let directory = open_dir(root, SectorFile::Cache, sector)?;
    let mut files = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let Some(name) = entry.file_name().to_str().ok().and_then(|name| name.parse::<CacheName>().ok()) else {
            continue;
        };
        let stat = rustix::fs::statat(&directory, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() && files.len() < MAX_CACHE_FILES {
            let file = open_at(&directory, name.as_str())?;
            let metadata = file.metadata()?;
            files.push(ManifestFile { name, size_bytes: metadata.len(), etag: etag_of(&metadata) });
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Manifest { files })
}

fn open(root: &Path, place: &Place) -> io::Result<File> {
    match &place.name {
        Some(name) => open_at(&open_dir(root, place.file, place.sector)?, name.as_str()),
        None => {
            let kind = File::open(root).and_then(|root| open_dir_at(&root, place.file.dir_name()))?;
            open_at(&kind, &place.sector.file_name())
        }
    }
}

fn open_dir(root: &Path, file: SectorFile, sector: SectorRef) -> io::Result<File> {
    let kind = File::open(root).and_then(|root| open_dir_at(&root, file.dir_name()))?;
    open_dir_at(&kind, &sector.file_name())
}

fn open_dir_at(parent: &File, name: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty()).map(File::from)?)
}

/// Opens a plain file; a link, a pipe or a device is refused without waiting for it.
fn open_at(parent: &File, name: &str) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(parent, name, flags, Mode::empty()).map(File::from)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it is not a plain file"));
    }
    Ok(file)
}

fn etag_of(metadata: &std::fs::Metadata) -> String {
    format!("\"{:x}-{:x}-{:x}.{:x}\"", metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use curio_core::SpId;

    use super::*;

    fn sector() -> SectorRef {
        SectorRef::new(SpId(1000), 1)
    }

    fn cache_file(name: &str) -> Place {
        Place { file: SectorFile::Cache, sector: sector(), name: Some(name.parse().unwrap()) }
    }

    #[test]
    fn links_are_not_followed_at_any_step() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("p_aux"), "secret").unwrap();
        fs::write(outside.path().join("s-t01000-1"), "secret").unwrap();
        fs::create_dir(root.path().join("cache")).unwrap();
        symlink(outside.path(), root.path().join("cache/s-t01000-1")).unwrap();
        symlink(outside.path(), root.path().join("sealed")).unwrap();
        fs::create_dir(root.path().join("unsealed")).unwrap();
        symlink(outside.path().join("p_aux"), root.path().join("unsealed/s-t01000-1")).unwrap();
        assert!(read_block(root.path(), &cache_file("p_aux"), 0, 9).is_err());
        assert!(manifest(root.path(), sector()).is_err());
        for file in [SectorFile::Sealed, SectorFile::Unsealed] {
            assert!(read_block(root.path(), &Place { file, sector: sector(), name: None }, 0, 9).is_err(), "{file}");
        }
    }

    #[test]
    fn a_manifest_lists_plain_files_that_sealing_writes() {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("cache/s-t01000-1");
        fs::create_dir_all(cache.join("sc-02-data-tree-d.dat")).unwrap();
        for name in ["p_aux", "t_aux", "sc-02-data-layer-1.dat.tmp", ".hidden"] {
            fs::write(cache.join(name), name).unwrap();
        }
        symlink("/etc/passwd", cache.join("sc-02-data-layer-1.dat")).unwrap();
        let listed: Vec<(String, u64)> = manifest(root.path(), sector())
            .unwrap()
            .files
            .into_iter()
            .map(|file| (file.name.into(), file.size_bytes))
            .collect();
        assert_eq!(listed, [("p_aux".to_owned(), 5), ("t_aux".to_owned(), 5)]);
    }

    #[test]
    fn blocks_end_where_the_file_ends_and_name_its_version() {
        let root = tempfile::tempdir().unwrap();
        let cache = root.path().join("cache/s-t01000-1");
        fs::create_dir_all(&cache).unwrap();
        fs::write(cache.join("p_aux"), "0123456789").unwrap();
        fs::write(cache.join("t_aux"), "").unwrap();
        let block = read_block(root.path(), &cache_file("p_aux"), 7, 100).unwrap().unwrap();
        assert_eq!((block.bytes.as_slice(), block.total_bytes), (b"789".as_slice(), 10));
        assert_eq!(read_block(root.path(), &cache_file("p_aux"), 10, 1).unwrap(), None);
        assert_eq!(read_block(root.path(), &cache_file("t_aux"), 0, 1).unwrap().unwrap().bytes, b"");
        fs::write(cache.join("p_aux"), "other bytes").unwrap();
        let changed = read_block(root.path(), &cache_file("p_aux"), 0, 1).unwrap().unwrap();
        assert_ne!(changed.etag, block.etag);
    }
}
