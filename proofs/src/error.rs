//! What can go wrong in a proof call, as sentences that name the file and say what to do.

use std::io;
use std::path::{Path, PathBuf};

use curio_core::{Classify, Failure, SectorRef};

use crate::params::ParamsError;
use crate::pieces::PieceError;

/// A proof call that ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The operating system refused. `action` completes "failed to".
    #[error("failed to {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file of the sector is not there. `made_by` is the task that writes it.
    #[error("{} is missing; {made_by} writes it, let {made_by} of this sector run again", path.display())]
    Missing { path: PathBuf, made_by: &'static str },
    /// A file of the sector has not the length it must have.
    #[error("{} has {actual} bytes instead of {expected}; remove it and let {made_by} of this sector run again", path.display())]
    WrongSize { path: PathBuf, expected: u64, actual: u64, made_by: &'static str },
    /// The pieces do not make a sector.
    #[error(transparent)]
    Pieces(#[from] PieceError),
    /// Data on disk does not hash to the commitment that it should have.
    #[error(
        "the data in {} has comm_d {actual} but the sector was started with {expected}; a piece was changed after the sector was made",
        path.display()
    )]
    CommD { path: PathBuf, expected: String, actual: String },
    /// Bytes that are no field element where one is needed.
    #[error("{what} is not a valid commitment: {value}")]
    NotACommitment { what: &'static str, value: String },
    /// The proof made does not verify. Never handed on.
    #[error("the proof just made for sector {sector} does not verify; its cache or the parameters are damaged")]
    DoesNotVerify { sector: String },
    /// Parameters are missing or damaged.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// Another process holds the sector's cache.
    #[error("another process works in {}; wait until it ends", path.display())]
    Busy { path: PathBuf },
    /// The caller asked to stop.
    #[error("stopped by request")]
    Stopped,
    /// A file that proves a sector is not there. Nothing can make it again.
    #[error("{} is missing; put it back from a copy, or the sector stays unproven", path.display())]
    Lost { path: PathBuf },
    /// A file that proves a sector has not the length it must have.
    #[error("{} has {actual} bytes instead of {expected}; put it back from a copy, or the sector stays unproven", path.display())]
    Truncated { path: PathBuf, expected: u64, actual: u64 },
    /// A sector's files have their lengths and do not prove it.
    #[error(
        "sector {sector} cannot be proven: {} or a file in {} is damaged ({reason}); put them back from a copy",
        sealed.display(),
        cache.display()
    )]
    BadReplica { sector: SectorRef, sealed: PathBuf, cache: PathBuf, reason: String },
    /// A proof of no sector, or of more than its circuit has room for.
    #[error("a proof of spacetime is of 1 to {most} sectors here, and not of {actual}")]
    SectorCount { most: usize, actual: usize },
    /// The input to a proof of spacetime is not made of vanilla proofs.
    #[error("failed to read the vanilla proofs: {0}; make them again")]
    VanillaPost(String),
    /// The input to C2 is not the output of C1 of this sector.
    #[error("failed to read the vanilla proof: {0}; let PoRep run again")]
    VanillaProof(String),
    /// The proof library refused.
    #[error("failed to run {call} of the proof library: {reason}")]
    Library { call: &'static str, reason: String },
}

impl ProofError {
    /// An io error with what was tried on which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ProofError {
        let path = path.to_path_buf();
        move |source| ProofError::Io { action, path, source }
    }

    /// An error of the proof library, its causes in one line.
    pub(crate) fn library(call: &'static str) -> impl FnOnce(anyhow::Error) -> ProofError {
        move |error| ProofError::Library { call, reason: format!("{error:#}") }
    }

    /// A closed word for errors that no further attempt would cure, else none.
    pub fn permanent_reason(&self) -> Option<&'static str> {
        match self {
            ProofError::Pieces(_) => Some("bad-pieces"),
            ProofError::CommD { .. } => Some("wrong-comm-d"),
            ProofError::NotACommitment { .. } => Some("bad-commitment"),
            ProofError::Params(error) => error.permanent_reason(),
            ProofError::Io { .. }
            | ProofError::Missing { .. }
            | ProofError::WrongSize { .. }
            | ProofError::DoesNotVerify { .. }
            | ProofError::Busy { .. }
            | ProofError::Stopped
            | ProofError::Lost { .. }
            | ProofError::Truncated { .. }
            | ProofError::BadReplica { .. }
            | ProofError::SectorCount { .. }
            | ProofError::VanillaPost(_)
            | ProofError::VanillaProof(_)
            | ProofError::Library { .. } => None,
        }
    }
}

impl Classify for ProofError {
    fn classify(self) -> Failure {
        match (self.permanent_reason(), &self) {
            (Some(reason), _) => Failure::Permanent { reason, cause: Box::new(self) },
            (None, ProofError::Stopped) => Failure::Stopping,
            (None, ProofError::Busy { .. }) => Failure::Unavailable(Box::new(self)),
            (None, _) => Failure::Retry(Box::new(self)),
        }
    }
}
