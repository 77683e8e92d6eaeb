//! Ctrl-C, a closed terminal and a polite kill, as a flag that every wait of this program looks at.
//!
//! The children run in process groups of their own, so the terminal's Ctrl-C reaches only this program, which then
//! ends them in order: runners, chain, database.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

static RAISED: AtomicBool = AtomicBool::new(false);
/// How many shields live.
static SHIELDS: AtomicUsize = AtomicUsize::new(0);

/// Somebody asked this program to stop. Carried as an error so that every `?` leads to the clean-up.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

extern "C" fn raise(_signal: libc::c_int) {
    RAISED.store(true, Ordering::SeqCst);
}

/// From here on SIGINT, SIGTERM and SIGHUP raise the flag instead of ending the program.
pub fn watch() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: `raise` only stores to an atomic, which is allowed in a signal handler, and lives for ever.
        unsafe {
            libc::signal(signal, raise as extern "C" fn(libc::c_int) as libc::sighandler_t);
        }
    }
}

/// While one lives, the flag is not seen: cleaning up runs commands and waits for them, too, also after Ctrl-C.
/// Every wait under a shield needs a bound of its own.
pub struct Shield(());

pub fn shield() -> Shield {
    SHIELDS.fetch_add(1, Ordering::SeqCst);
    Shield(())
}

impl Drop for Shield {
    fn drop(&mut self) {
        SHIELDS.fetch_sub(1, Ordering::SeqCst);
    }
}

pub fn raised() -> bool {
    RAISED.load(Ordering::SeqCst) && SHIELDS.load(Ordering::SeqCst) == 0
}

/// # Errors
/// [`Interrupted`] once the flag is up.
pub fn check() -> Result<()> {
    if raised() { Err(Interrupted.into()) } else { Ok(()) }
}

/// Waits `length`, or until the flag is up.
///
/// # Errors
/// [`Interrupted`] when the flag went up first.
pub fn pause(length: Duration) -> Result<()> {
    const STEP: Duration = Duration::from_millis(50);
    let end = Instant::now() + length;
    loop {
        check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(STEP));
    }
}
