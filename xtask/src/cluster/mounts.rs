//! What is mounted on this machine, and how to unmount what lies below a folder.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A line of `/proc/self/mounts`.
#[derive(Debug, PartialEq, Eq)]
pub struct Mount {
    pub path: PathBuf,
    pub kind: String,
    pub options: String,
}

/// In the order in which they were mounted.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn all() -> Result<Vec<Mount>> {
    Ok(parse(&fs::read_to_string("/proc/self/mounts").context("failed to read /proc/self/mounts")?))
}

pub fn parse(text: &str) -> Vec<Mount> {
    let read = |line: &str| {
        let mut fields = line.split(' ').skip(1);
        let path = PathBuf::from(plain(fields.next()?));
        Some(Mount { path, kind: fields.next()?.to_owned(), options: fields.next()?.to_owned() })
    };
    text.lines().filter_map(read).collect()
}

/// The kernel writes white space and backslashes in a path as a backslash and three octal digits.
fn plain(field: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = field.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| *first == b'\\') {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

pub fn below(dir: &Path) -> Result<Vec<PathBuf>> {
    Ok(all()?.into_iter().map(|mount| mount.path).filter(|path| path.starts_with(dir)).collect())
}

/// Unmounts everything below a folder, the newest first.
///
/// # Errors
/// When something stays mounted: deleting the folder would then delete what is mounted there.
pub fn detach_below(dir: &Path) -> Result<()> {
    for path in below(dir)?.iter().rev() {
        let target = CString::new(path.as_os_str().as_bytes()).context("a mounted path holds a zero byte")?;
        // SAFETY: umount2 reads a string that lives for the call. MNT_DETACH also takes what a process still uses.
        unsafe {
            libc::umount2(target.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW);
        }
    }
    match below(dir)?.first() {
        None => Ok(()),
        Some(path) => bail!("failed to unmount {}; type: umount -l {}", path.display(), path.display()),
    }
}

/// Whether containers' file systems work in a folder: they are overlays, and an overlay cannot lie on every file system
/// (not on another overlay, as in most containers).
///
/// # Errors
/// One sentence about what to do.
pub fn check_overlay(dir: &Path) -> Result<()> {
    let trial = tempfile::Builder::new()
        .prefix("overlay-")
        .tempdir_in(dir)
        .with_context(|| format!("failed to make a folder in {}", dir.display()))?;
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| trial.path().join(name));
    for path in [&lower, &upper, &work, &merged] {
        fs::create_dir(path).with_context(|| format!("failed to make {}", path.display()))?;
    }
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let text = |value: &str| CString::new(value).context("a path holds a zero byte");
    let (target, options) = (text(&merged.to_string_lossy())?, text(&options)?);
    // SAFETY: all strings live for the call.
    let failed = unsafe {
        libc::mount(c"overlay".as_ptr(), target.as_ptr(), c"overlay".as_ptr(), 0, options.as_ptr().cast()) != 0
    };
    if failed {
        let error = std::io::Error::last_os_error();
        bail!(
            "containers need overlay mounts, and one in {} failed ({error}); run this as root of the machine or of a \
             privileged container, and name a folder on a plain disk with --state",
            dir.display()
        );
    }
    detach_below(trial.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_with_a_space_is_read_as_it_is() {
        let mounts = parse("tmpfs /mnt/a\\040b\\134c tmpfs rw 0 0\n");
        assert_eq!(mounts[0].path, Path::new("/mnt/a b\\c"));
    }
}
