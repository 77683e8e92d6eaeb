//! Proof calls in a process of their own: a crash, an abort or a kill for memory ends the child and
//! not the runner, and settings of the library (environment variables) belong to one call.
//!
//! One JSON [`Request`] on stdin, until its end. On stdout one JSON [`Message`] a line: any number of
//! `progress`, then exactly one `done` or `failed`. stderr is the log. The exit status is 0 after
//! `done` and 1 after `failed`. The child dies when its parent does.
//!
//! The parent sets `FIL_PROOFS_PARAMETER_CACHE`, `FIL_PROOFS_PARENT_CACHE` and, to bound threads,
//! `RAYON_NUM_THREADS` in the child's environment.

mod message;

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use self::message::{CallError, Message, Progress, Request, Response};
pub use crate::post::{PostSector, VanillaPost};
use crate::{C1Input, PieceError, ProofError, SdrInput, VerifyInput, params, post};

/// The whole life of `curio prove`: reads a request, runs it, writes the result. Returns the exit
/// status. Call [`die_with_parent`] before.
pub fn serve(stdin: &mut dyn Read, stdout: &mut dyn Write) -> u8 {
    let mut text = String::new();
    let request = stdin
        .read_to_string(&mut text)
        .map_err(|error| format!("failed to read the request on stdin: {error}"))
        .and_then(|_| {
            serde_json::from_str(&text).map_err(|error| format!("the request on stdin is not valid: {error}"))
        });
    let outcome = match request {
        Ok(request) => {
            // A parent that no longer reads has gone; there is nobody left to tell.
            let mut progress = |progress| drop(write_line(stdout, &Message::Progress(progress)));
            run_caught(request, &mut progress)
        }
        Err(message) => Err(CallError { message, retryable: false, reason: Some("bad-request".into()) }),
    };
    let (message, status) = match outcome {
        Ok(response) => (Message::Done(response), 0),
        Err(error) => (Message::Failed(error), 1),
    };
    match write_line(stdout, &message) {
        Ok(()) => status,
        Err(error) => {
            tracing::error!("failed to write the result on stdout: {error}");
            1
        }
    }
}

/// Makes this process end when its parent ends, which must be `parent`.
///
/// Returns false when the parent has gone already; then end at once.
///
/// The system means the *thread* that started the child. Start children from threads that live as
/// long as the program, as the workers of a runtime do, not from short-lived ones.
pub fn die_with_parent(parent: u32) -> bool {
    // The signal is kill: a proof call holds nothing that a later attempt could not do again.
    let set = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    if let Err(error) = set {
        tracing::warn!("failed to ask for the end together with the parent: {error}");
    }
    rustix::process::getppid().is_some_and(|pid| pid.as_raw_nonzero().get() as u32 == parent)
}

fn write_line(stdout: &mut dyn Write, message: &Message) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stdout.write_all(&line)?;
    stdout.flush()
}

/// The library asserts in places; a panic is a failed attempt with its text as message.
fn run_caught(request: Request, progress: &mut dyn FnMut(Progress)) -> Result<Response, CallError> {
    match catch_unwind(AssertUnwindSafe(|| run(request, progress))) {
        Ok(outcome) => outcome.map_err(CallError::from),
        Err(panic) => Err(caught(panic)),
    }
}

fn caught(panic: Box<dyn std::any::Any + Send>) -> CallError {
    CallError { message: caught_text(panic), retryable: true, reason: None }
}

/// What a panic of the library says.
pub(crate) fn caught_text(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    format!("the proof library panicked: {text}")
}

/// Runs one call in this process.
///
/// # Errors
/// What the called function says.
pub fn run(request: Request, progress: &mut dyn FnMut(Progress)) -> Result<Response, ProofError> {
    match request {
        Request::PieceCommitment { path, raw_size } => {
            let file = File::open(&path).map_err(ProofError::io("open piece file", &path))?;
            let actual = file.metadata().map_err(ProofError::io("look at", &path))?.len();
            if actual != raw_size {
                let path = path.display().to_string();
                return Err(PieceError::RawSize { path, expected: raw_size, actual }.into());
            }
            crate::piece_commitment(&mut BufReader::with_capacity(1 << 20, file), raw_size)
                .map(Response::PieceCommitment)
        }
        Request::Sdr { proof, sector, ticket, comm_d, cache } => {
            let input = SdrInput { proof, sector, ticket, comm_d };
            crate::sdr(&input, &cache, &mut |at| {
                progress(Progress::Sdr(at));
                std::ops::ControlFlow::Continue(())
            })?;
            Ok(Response::Sdr)
        }
        Request::TreeD { proof, pieces, comm_d, cache } => {
            crate::tree_d(proof, &pieces, &comm_d, &cache)?;
            Ok(Response::TreeD)
        }
        Request::TreeRc { proof, sector, ticket, comm_d, pieces, cache, sealed, check_entropy } => {
            let comm_r = crate::tree_rc(proof, &comm_d, &cache, &sealed)?;
            let input =
                C1Input { proof, sector, ticket, comm_d, comm_r, pieces: &pieces, cache: &cache, sealed: &sealed };
            crate::check_c1(&input, &check_entropy)?;
            Ok(Response::TreeRc { comm_r })
        }
        Request::C1 { proof, sector, ticket, seed, comm_d, comm_r, pieces, cache, sealed } => {
            let input =
                C1Input { proof, sector, ticket, comm_d, comm_r, pieces: &pieces, cache: &cache, sealed: &sealed };
            let json = crate::c1(&input, &seed)?;
            let vanilla_proof = String::from_utf8(json).map_err(|error| ProofError::VanillaProof(error.to_string()))?;
            Ok(Response::C1 { vanilla_proof })
        }
        Request::C2 { sector, vanilla_proof, snark } => {
            Ok(Response::C2 { porep: crate::c2(sector, vanilla_proof.as_bytes(), snark)? })
        }
        Request::Verify { proof, sector, ticket, seed, comm_d, comm_r, porep } => {
            let input = VerifyInput { proof, sector, ticket, seed, comm_d, comm_r };
            Ok(Response::Verify { valid: crate::verify_seal(&input, &porep)? })
        }
        Request::UnsealedCopy { proof, cache, unsealed } => {
            crate::unsealed_copy(proof, &cache, &unsealed)?;
            Ok(Response::UnsealedCopy)
        }
        Request::ClearCache { proof, cache } => {
            crate::clear_cache(proof, &cache)?;
            Ok(Response::ClearCache)
        }
        Request::VanillaPosts { kind, proof, sp, sectors, parallel } => {
            post::vanilla_posts(kind, proof, sp, sectors, parallel, &mut |made| progress(Progress::VanillaPost(made)))?;
            Ok(Response::VanillaPosts)
        }
        Request::WindowPost { proof, sp, randomness, vanilla } => {
            Ok(Response::WindowPost { post: crate::window_post_partition(proof, sp, &randomness, &vanilla)? })
        }
        Request::VerifyWindowPost { proof, sp, randomness, sectors, post } => {
            Ok(Response::Verify { valid: crate::verify_window_post(proof, sp, &randomness, &sectors, &post)? })
        }
        Request::WinningPost { proof, sp, randomness, vanilla, snark } => {
            Ok(Response::WinningPost { post: crate::winning_post(proof, sp, &randomness, &vanilla, snark)? })
        }
        Request::VerifyWinningPost { proof, sp, randomness, sectors, post } => {
            Ok(Response::Verify { valid: crate::verify_winning_post(proof, sp, &randomness, &sectors, &post)? })
        }
        Request::EnsureParams { set, dir } => {
            params::ensure(&dir, set, &mut |at| progress(Progress::Params(at)))?;
            Ok(Response::EnsureParams)
        }
    }
}

#[cfg(test)]
mod tests;
