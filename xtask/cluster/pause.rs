//! The first process of every pod: holds the pod's network open and collects processes that nobody else waits for.
//! Compiled alone and linked statically, because its image holds nothing else.

use std::ffi::c_int;

unsafe extern "C" {
    fn signal(number: c_int, handler: usize) -> usize;
    fn pause() -> c_int;
    fn waitpid(process: c_int, status: *mut c_int, options: c_int) -> c_int;
}

const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;
const WNOHANG: c_int = 1;

extern "C" fn leave(_number: c_int) {
    std::process::exit(0);
}

extern "C" fn collect(_number: c_int) {
    // SAFETY: waitpid may be called in a signal handler and accepts a null status.
    while unsafe { waitpid(-1, std::ptr::null_mut(), WNOHANG) } > 0 {}
}

fn main() {
    // SAFETY: the handlers live for ever. `leave` ends the process while its only thread sleeps in `pause`, so it
    // cannot meet a lock that is held.
    unsafe {
        signal(SIGINT, leave as *const () as usize);
        signal(SIGTERM, leave as *const () as usize);
        signal(SIGCHLD, collect as *const () as usize);
        loop {
            pause();
        }
    }
}
