//! Proof calls in a process of their own: a crash, an abort or a kill for memory ends the child and
//! not the runner, and settings of the library (environment variables) belong to one call.
//!
//! One JSON [`Request`] on stdin, until its end. On stdout one JSON [`Message`] a line: any number of
//! `progress`, then exactly one `done` or `failed`. stderr is the log. The exit status is 0 after
//! `done` and 1 after `failed`. The child dies when its parent does.
//!
//! The parent sets `FIL_PROOFS_PARAMETER_CACHE`, `FIL_PROOFS_PARENT_CACHE` and, to bound threads,
//! `RAYON_NUM_THREADS` in the child's environment.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use curio_core::{SealProof, SectorRef};
use serde::{Deserialize, Serialize};

use crate::params::ParamsProgress;
use crate::{
    C1Input, Commitment, PieceCommitment, PieceError, PieceFile, PieceSpec, ProofError, SdrInput, SdrProgress, Snark,
    VerifyInput, params,
};

/// One proof call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Request {
    /// Hash a file as a piece.
    PieceCommitment { path: PathBuf, raw_size: u64 },
    /// Write the SDR layers into `cache`; finished layers stay.
    Sdr {
        proof: SealProof,
        sector: SectorRef,
        #[serde(with = "hex::serde")]
        ticket: [u8; 32],
        #[serde(with = "hex::serde")]
        comm_d: Commitment,
        cache: PathBuf,
    },
    /// Write the data tree into `cache`; its root must be `comm_d`.
    TreeD {
        proof: SealProof,
        pieces: Vec<PieceFile>,
        #[serde(with = "hex::serde")]
        comm_d: Commitment,
        cache: PathBuf,
    },
    /// Write the replica and its trees, then check them by three vanilla proofs whose seeds derive
    /// from `check_entropy`, which the caller draws at random.
    TreeRc {
        proof: SealProof,
        sector: SectorRef,
        #[serde(with = "hex::serde")]
        ticket: [u8; 32],
        #[serde(with = "hex::serde")]
        comm_d: Commitment,
        pieces: Vec<PieceSpec>,
        cache: PathBuf,
        sealed: PathBuf,
        #[serde(with = "hex::serde")]
        check_entropy: [u8; 32],
    },
    /// Make the vanilla proof, where the cache lies.
    C1 {
        proof: SealProof,
        sector: SectorRef,
        #[serde(with = "hex::serde")]
        ticket: [u8; 32],
        #[serde(with = "hex::serde")]
        seed: [u8; 32],
        #[serde(with = "hex::serde")]
        comm_d: Commitment,
        #[serde(with = "hex::serde")]
        comm_r: Commitment,
        pieces: Vec<PieceSpec>,
        cache: PathBuf,
        sealed: PathBuf,
    },
    /// Make the SNARK of a vanilla proof (2.7 GB at 2 KiB). The result verifies.
    C2 { sector: SectorRef, vanilla_proof: String, snark: Snark },
    /// Verify a SNARK as a chain does.
    Verify {
        proof: SealProof,
        sector: SectorRef,
        #[serde(with = "hex::serde")]
        ticket: [u8; 32],
        #[serde(with = "hex::serde")]
        seed: [u8; 32],
        #[serde(with = "hex::serde")]
        comm_d: Commitment,
        #[serde(with = "hex::serde")]
        comm_r: Commitment,
        #[serde(with = "hex::serde")]
        porep: Vec<u8>,
    },
    /// Copy the padded data out of the data tree.
    UnsealedCopy { proof: SealProof, cache: PathBuf, unsealed: PathBuf },
    /// Remove what proving does not need.
    ClearCache { proof: SealProof, cache: PathBuf },
    /// Make or check parameters; without `dir` in the folder that the environment names.
    EnsureParams { proof: SealProof, dir: Option<PathBuf>, verifying_key_only: bool },
}

/// The result of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    PieceCommitment(PieceCommitment),
    Sdr,
    TreeD,
    TreeRc {
        #[serde(with = "hex::serde")]
        comm_r: Commitment,
    },
    C1 {
        /// JSON as Lotus and Curio exchange it.
        vanilla_proof: String,
    },
    C2 {
        #[serde(with = "hex::serde")]
        porep: Vec<u8>,
    },
    Verify {
        valid: bool,
    },
    UnsealedCopy,
    ClearCache,
    EnsureParams {
        dir: PathBuf,
    },
}

/// How far a call has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    Sdr(SdrProgress),
    Params(ParamsProgress),
}

/// A call that failed, for the task's history.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct CallError {
    /// One sentence with its causes.
    pub message: String,
    /// Whether another attempt may succeed. If not, `reason` is set.
    pub retryable: bool,
    /// Closed word for `Failure::Permanent`.
    pub reason: Option<String>,
}

/// One line on stdout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    Progress(Progress),
    Done(Response),
    Failed(CallError),
}

impl From<ProofError> for CallError {
    fn from(error: ProofError) -> CallError {
        let mut message = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            message.push_str(&format!(": {error}"));
            source = error.source();
        }
        let reason = error.permanent_reason().map(str::to_owned);
        CallError { message, retryable: reason.is_none(), reason }
    }
}

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
        Err(panic) => Err(caught_text(panic)),
    }
}

fn caught_text(panic: Box<dyn std::any::Any + Send>) -> CallError {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no text");
    CallError { message: format!("the proof library panicked: {text}"), retryable: true, reason: None }
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
        Request::EnsureParams { proof, dir, verifying_key_only } => {
            let dir = dir.unwrap_or_else(params::default_dir);
            if verifying_key_only {
                params::ensure_verifying_key(&dir, proof)?;
            } else {
                params::ensure(&dir, proof, &mut |at| progress(Progress::Params(at)))?;
            }
            Ok(Response::EnsureParams { dir })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use curio_core::SpId;

    const PROOF: SealProof = SealProof::StackedDrg2KiBV1_1;

    fn answers(request: &str) -> (u8, Vec<Message>) {
        let mut out = Vec::new();
        let status = serve(&mut request.as_bytes(), &mut out);
        let text = String::from_utf8(out).unwrap();
        (status, text.lines().map(|line| serde_json::from_str(line).unwrap()).collect())
    }

    #[test]
    fn a_call_tells_its_progress_then_its_result() {
        let cache = tempfile::tempdir().unwrap();
        let request = Request::Sdr {
            proof: PROOF,
            sector: SectorRef::new(SpId(1000), 5),
            ticket: [1; 32],
            comm_d: crate::zero_comm_d(PROOF),
            cache: cache.path().to_owned(),
        };
        let (status, messages) = answers(&serde_json::to_string(&request).unwrap());
        let at = |layer, nodes_done| {
            Message::Progress(Progress::Sdr(SdrProgress { layer, layers: 2, nodes_done, nodes: 64 }))
        };
        assert_eq!(status, 0);
        assert_eq!(messages, [at(1, 0), at(1, 64), at(2, 0), at(2, 64), Message::Done(Response::Sdr)]);
    }

    #[test]
    fn the_words_on_the_wire_stay_what_they_are() {
        let request = r#"{"call":"piece-commitment","path":"/does/not/exist","raw_size":127}"#;
        let expected = Request::PieceCommitment { path: "/does/not/exist".into(), raw_size: 127 };
        assert_eq!(serde_json::from_str::<Request>(request).unwrap(), expected);
        assert_eq!(serde_json::to_string(&expected).unwrap(), request);
        let failed = Message::Failed(CallError { message: "m".into(), retryable: true, reason: None });
        assert_eq!(
            serde_json::to_string(&failed).unwrap(),
            r#"{"failed":{"message":"m","retryable":true,"reason":null}}"#
        );
        let done = Message::Done(Response::TreeRc { comm_r: [0xab; 32] });
        let expected = format!(r#"{{"done":{{"tree-rc":{{"comm_r":"{}"}}}}}}"#, "ab".repeat(32));
        assert_eq!(serde_json::to_string(&done).unwrap(), expected);
    }

    #[test]
    fn a_failed_call_says_why_and_whether_to_try_again() {
        let failure = |request: &str| match answers(request) {
            (1, messages) => match &messages[..] {
                [Message::Failed(error)] => error.clone(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        let error = failure(r#"{"call":"piece-commitment","path":"/does/not/exist","raw_size":127}"#);
        assert_eq!(error.message, "failed to open piece file /does/not/exist: No such file or directory (os error 2)");
        assert!(error.retryable);

        let file = tempfile::NamedTempFile::new().unwrap();
        let request = Request::PieceCommitment { path: file.path().to_owned(), raw_size: 127 };
        let error = failure(&serde_json::to_string(&request).unwrap());
        assert!(error.message.contains("has 0 bytes instead of 127"), "{error}");
        assert_eq!(error.reason.as_deref(), Some("bad-pieces"));

        for request in ["", "{}", r#"{"call":"dance"}"#] {
            let error = failure(request);
            assert_eq!(error.reason.as_deref(), Some("bad-request"), "{error}");
        }
    }

    #[test]
    fn a_panic_is_a_failed_attempt() {
        let request = Request::ClearCache { proof: PROOF, cache: "/".into() };
        let mut progress = |_| ();
        let caught = catch_unwind(AssertUnwindSafe(|| run_caught(request, &mut progress)));
        assert!(matches!(caught, Ok(Err(_))), "an ordinary error passes");
        let error = caught_text(catch_unwind(|| panic!("assertion of {}", "the library")).unwrap_err());
        assert_eq!(error.message, "the proof library panicked: assertion of the library");
        assert!(error.retryable);
    }
}
