//! The part of a file that has arrived, on disk beside the file's place.

use std::io;
use std::path::{Path, PathBuf};

use curio_proofs::params::ParamsFile;
use tokio::io::{AsyncSeekExt, BufWriter};

/// Bytes that are collected before they are written.
const BUFFER_BYTES: usize = 1 << 20;

/// The folder of the parameters cannot take a file.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error("no room for {}: {need} more are needed in {} and {have} are free; make room there", name, dir.display())]
    NoRoom { name: String, dir: PathBuf, need: String, have: String },
    #[error("{} is full; make room there, then the rest is fetched", dir.display())]
    Full { dir: PathBuf },
    #[error("failed to {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What has arrived of a file, and of which state of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Arrived {
    pub size_bytes: u64,
    /// The ETag that the source gave it.
    pub tag: String,
}

/// Where a file that is being fetched lies. Only who holds the file's lock writes it.
#[derive(Debug)]
pub(super) struct Part {
    dir: PathBuf,
    name: String,
    path: PathBuf,
    tag_path: PathBuf,
}

impl Part {
    pub(super) fn of(dir: &Path, file: &ParamsFile) -> Part {
        let path = dir.join(format!("{}.part", file.name));
        let tag_path = dir.join(format!("{}.part.tag", file.name));
        Part { dir: dir.to_owned(), name: file.name.clone(), path, tag_path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes on disk; none when there is no part.
    pub(super) async fn size(&self) -> u64 {
        tokio::fs::metadata(&self.path).await.map_or(0, |found| found.len())
    }

    /// What a transfer can go on from. Bytes without a tag are worth nothing: what they are part of is not known.
    pub(super) async fn arrived(&self) -> Option<Arrived> {
        let tag = tokio::fs::read_to_string(&self.tag_path).await.ok().filter(|tag| !tag.is_empty())?;
        match self.size().await {
            0 => None,
            size_bytes => Some(Arrived { size_bytes, tag }),
        }
    }

    /// Opens the part for writing from a place on; at the beginning, of a state of the file that has this tag.
    pub(super) async fn open_at(
        &self,
        from: u64,
        tag: Option<String>,
    ) -> Result<BufWriter<tokio::fs::File>, PartError> {
        if from == 0 {
            // Bytes of an older state go before the new tag comes, so that the two never meet.
            self.forget().await?;
            if let Some(tag) = tag {
                tokio::fs::write(&self.tag_path, tag).await.map_err(|source| self.failed("write", source))?;
            }
        }
        let opened = tokio::fs::File::options().create(true).truncate(false).write(true).open(&self.path).await;
        let mut file = opened.map_err(|source| self.failed("open", source))?;
        file.seek(io::SeekFrom::Start(from)).await.map_err(|source| self.failed("write", source))?;
        Ok(BufWriter::with_capacity(BUFFER_BYTES, file))
    }

    /// Removes what is there of the part.
    pub(super) async fn forget(&self) -> Result<(), PartError> {
        for path in [&self.tag_path, &self.path] {
            match tokio::fs::remove_file(path).await {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(self.failed("remove", error)),
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Whether the rest fits. Room that others take meanwhile shows when it is written.
    pub(super) fn check_room(&self, need_bytes: u64) -> Result<(), PartError> {
        let found = rustix::fs::statvfs(&self.dir).map_err(|error| self.failed("look at", error.into()))?;
        let have_bytes = found.f_bavail.saturating_mul(found.f_frsize);
        if have_bytes >= need_bytes {
            return Ok(());
        }
        let (need, have) = (crate::cli::output::bytes(need_bytes), crate::cli::output::bytes(have_bytes));
        Err(PartError::NoRoom { name: self.name.clone(), dir: self.dir.clone(), need, have })
    }

    pub(super) fn failed(&self, action: &'static str, source: io::Error) -> PartError {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => PartError::Full { dir: self.dir.clone() },
            _ => PartError::Io { action, path: self.path.clone(), source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    fn part(dir: &Path) -> Part {
        let name = "v1-test.params".to_owned();
        Part::of(dir, &ParamsFile { name, digests: Vec::new(), sector_size: 2048, can_be_made: false })
    }

    async fn write(part: &Part, from: u64, tag: Option<&str>, text: &str) {
        let mut writer = part.open_at(from, tag.map(str::to_owned)).await.expect("it opens");
        writer.write_all(text.as_bytes()).await.expect("it is written");
        writer.shutdown().await.expect("it is written");
    }

    #[tokio::test]
    async fn a_transfer_goes_on_only_from_bytes_whose_origin_is_known() {
        let dir = tempfile::tempdir().expect("a folder");
        let part = part(dir.path());
        assert_eq!(part.arrived().await, None);
        write(&part, 0, Some("\"a\""), "01234").await;
        assert_eq!(part.arrived().await, Some(Arrived { size_bytes: 5, tag: "\"a\"".to_owned() }));
        write(&part, 5, Some("\"a\""), "56789").await;
        assert_eq!(std::fs::read_to_string(part.path()).expect("it is there"), "0123456789");
        write(&part, 0, None, "xy").await;
        assert_eq!((part.arrived().await, part.size().await), (None, 2), "the older tag is gone");
        part.forget().await.expect("it goes");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_file_larger_than_the_disk_is_refused_in_a_sentence() {
        let dir = tempfile::tempdir().expect("a folder");
        part(dir.path()).check_room(1).expect("one byte fits");
        let text = part(dir.path()).check_room(u64::MAX).expect_err("it does not fit").to_string();
        assert!(text.starts_with("no room for v1-test.params: 16384 PiB more are needed in "), "{text}");
        assert!(text.ends_with("make room there"), "{text}");
    }

    #[test]
    fn a_full_disk_is_a_sentence_of_its_own() {
        let failed = part(Path::new("/parameters")).failed("write", io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(failed.to_string(), "/parameters is full; make room there, then the rest is fetched");
    }
}
