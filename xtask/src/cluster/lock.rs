//! Folders in the cache that one command at a time may change.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::interrupt;

/// Longer than a start on a fresh machine.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// Waits until no other command holds a folder. The lock lies on the folder itself, so there is no file to forget, and
/// goes with the process.
///
/// # Errors
/// When interrupted, or after [`LIMIT`].
pub fn take(dir: &Path) -> Result<File> {
    fs::create_dir_all(dir).with_context(|| format!("failed to make {}", dir.display()))?;
    let file = File::open(dir).with_context(|| format!("failed to open {}", dir.display()))?;
    let due_by = Instant::now() + LIMIT;
    let mut was_told = false;
    // SAFETY: flock takes a descriptor that `file` keeps open.
    while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        if !was_told {
            println!("      another `cargo xtask` is at work in {}; waiting for it", dir.display());
            was_told = true;
        }
        if Instant::now() >= due_by {
            bail!("another `cargo xtask` has held {} for {} minutes; end it", dir.display(), LIMIT.as_secs() / 60);
        }
        interrupt::pause(Duration::from_millis(200))?;
    }
    Ok(file)
}
