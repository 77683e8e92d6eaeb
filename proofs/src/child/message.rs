//! What goes over the pipes between a runner and its proof processes.

use std::path::PathBuf;

use curio_core::{SealProof, SectorRef, SpId};
use serde::{Deserialize, Serialize};

use crate::params::{ParamsProgress, Set};
use crate::post::{PostKind, PostSector, PublicSector, VanillaPost};
use crate::{Commitment, PieceCommitment, PieceFile, PieceSpec, ProofError, SdrProgress, Snark};

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
    /// Make the vanilla proofs of sectors, where their files lie, `parallel` at a time. Each outcome is
    /// a [`Progress`] as soon as it is there: what has come counts, also when this call is ended because
    /// a file hangs.
    VanillaPosts { kind: PostKind, proof: SealProof, sp: SpId, sectors: Vec<PostSector>, parallel: u32 },
    /// Make the SNARK of one partition. The caller verifies it, by what the chain knows.
    WindowPost {
        proof: SealProof,
        sp: SpId,
        #[serde(with = "hex::serde")]
        randomness: [u8; 32],
        #[serde(with = "crate::base64::list")]
        vanilla: Vec<Vec<u8>>,
    },
    /// Verify a window PoSt as a chain does.
    VerifyWindowPost {
        proof: SealProof,
        sp: SpId,
        #[serde(with = "hex::serde")]
        randomness: [u8; 32],
        sectors: Vec<PublicSector>,
        #[serde(with = "hex::serde")]
        post: Vec<u8>,
    },
    /// Make the SNARK of an election. The caller verifies it, by what the chain knows.
    WinningPost {
        proof: SealProof,
        sp: SpId,
        #[serde(with = "hex::serde")]
        randomness: [u8; 32],
        #[serde(with = "crate::base64::list")]
        vanilla: Vec<Vec<u8>>,
        snark: Snark,
    },
    /// Verify a winning PoSt as a chain does.
    VerifyWinningPost {
        proof: SealProof,
        sp: SpId,
        #[serde(with = "hex::serde")]
        randomness: [u8; 32],
        sectors: Vec<PublicSector>,
        #[serde(with = "hex::serde")]
        post: Vec<u8>,
    },
    /// Make or check parameters.
    EnsureParams { set: Set, dir: PathBuf },
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
    /// All outcomes were told.
    VanillaPosts,
    WindowPost {
        #[serde(with = "hex::serde")]
        post: Vec<u8>,
    },
    WinningPost {
        #[serde(with = "hex::serde")]
        post: Vec<u8>,
    },
    EnsureParams,
}

/// How far a call has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    Sdr(SdrProgress),
    VanillaPost(VanillaPost),
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
