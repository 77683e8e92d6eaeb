//! Ctrl-C, a closed terminal and a polite kill, as a flag that every wait of this program looks at.
//!
//! The children run in process groups of their own, so the terminal's Ctrl-C reaches only this program, which then
//! ends them in order: runners, chain, database.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;

static RAISED: AtomicBool = AtomicBool::new(false);

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

pub fn raised() -> bool {
    RAISED.load(Ordering::SeqCst)
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
