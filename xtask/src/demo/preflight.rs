//! Is this machine fit for the demo? Said before anything is built.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::postgres::Installation;
use crate::say::{self, Steps};
use crate::{places, process};

/// A cold build takes about 3 GiB; a warm one next to nothing.
const COLD_BUILD_BYTES: u64 = 6 << 30;
const WARM_BUILD_BYTES: u64 = 1 << 30;
/// Parameters (1.1 GB, written beside their place and renamed) are made once.
const MISSING_PARAMETER_BYTES: u64 = 3 << 30;
const PRESENT_PARAMETER_BYTES: u64 = 0;
/// The proof itself takes 1.3 GiB; compiling takes as much.
const MEMORY_BYTES: u64 = 3 << 30;

/// Checks what any demo needs: the right machine, a C compiler, memory.
///
/// # Errors
/// One sentence that says what is missing and what to do.
pub fn check_machine(steps: &Steps) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        bail!("the demo runs on x86-64 Linux only");
    }
    if process::on_path("cc").is_none() {
        bail!("there is no C compiler; install gcc (Debian: apt-get install -y gcc)");
    }
    let memory = available_memory_bytes()?;
    if memory < MEMORY_BYTES {
        bail!("{} of memory are free, but a proof wants {}", say::bytes(memory), say::bytes(MEMORY_BYTES));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    steps.note(&format!("{cores} cores, {} of memory free", say::bytes(memory)));
    Ok(())
}

/// Checks the rest of what the demo on this machine alone needs, and installs what is missing.
///
/// # Errors
/// One sentence that says what is missing and what to do.
pub fn check(steps: &Steps) -> Result<Installation> {
    check_machine(steps)?;
    let target = places::target_dir()?;
    let parameters = places::parameters()?;
    let present = parameters.read_dir().is_ok_and(|mut files| files.next().is_some());
    let parameter_bytes = if present { PRESENT_PARAMETER_BYTES } else { MISSING_PARAMETER_BYTES };
    let build_bytes = if target.join("debug").join("curio").is_file() { WARM_BUILD_BYTES } else { COLD_BUILD_BYTES };
    for (what, dir, need) in [
        ("the build (CURIO_TARGET_DIR names another place)", target.as_path(), build_bytes),
        ("proof parameters (FIL_PROOFS_PARAMETER_CACHE names another place)", &parameters, parameter_bytes),
    ] {
        let free = free_bytes(dir)?;
        if free < need {
            bail!("{} has {} free, but {what} wants {}", dir.display(), say::bytes(free), say::bytes(need));
        }
    }
    let installation = Installation::find_or_install()?;
    steps.note(&format!("PostgreSQL {}, {} of disk free", installation.version, say::bytes(free_bytes(&target)?)));
    Ok(installation)
}

/// Bytes free for us in the file system that `path` lies in, or will lie in.
fn free_bytes(path: &Path) -> Result<u64> {
    let there = path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"));
    let name = CString::new(there.as_os_str().as_bytes()).context("a path holds a zero byte")?;
    // SAFETY: an all-zero statvfs is a valid value of this plain C struct.
    let mut answer: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `name` ends in a zero byte, and `answer` lives through the call.
    if unsafe { libc::statvfs(name.as_ptr(), &raw mut answer) } != 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("failed to read the free room of {}", there.display()));
    }
    Ok(answer.f_bavail * answer.f_frsize)
}

fn available_memory_bytes() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("failed to read /proc/meminfo")?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB"));
    let kib: u64 = kib.and_then(|number| number.trim().parse().ok()).context("/proc/meminfo has no MemAvailable")?;
    Ok(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_read_for_a_folder_that_is_not_there_yet() {
        let free = free_bytes(Path::new("/tmp/no/such/folder/yet")).expect("the root is there");
        assert!(free > 0);
    }

    #[test]
    fn memory_is_read() {
        assert!(available_memory_bytes().expect("Linux has it") > 0);
    }
}
