//! Starting sectors, for `curio seal start` and for requests: gives out sector numbers and puts the sectors, with the
//! pieces of the first one, into the pipeline. Everything is checked before the one transaction that writes.

use std::path::{Path, PathBuf};

use curio_chain::message::unsealed_cid;
use curio_chain::types::TipSetKey;
use curio_chain::{Cid, Client, RpcError, address};
use curio_core::{Classify, Failure, SealProof, SpId};
use curio_harmony::{Db, TxError};
use curio_pipeline::insert::{NewPiece, NewSectors, insert};
use curio_pipeline::numbers::Numbers;
use curio_proofs::{PieceError, layout};
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::piece_data::{self, Fetched, PieceDataError};
use crate::prove::{ProveError, Prover};

/// What to seal.
#[derive(Clone, Debug)]
pub struct StartRequest {
    /// Address of the miner actor, in any form.
    pub actor: String,
    /// Number of sectors.
    pub count: u64,
    /// Data of the first sector, in order; the others are empty.
    pub pieces: Vec<StartPiece>,
}

/// One piece of data.
#[derive(Clone, Debug)]
pub struct StartPiece {
    /// A path, `file:///PATH`, or `http(s)://`. A path must lead to the data on the machines that build
    /// trees, too.
    pub data: String,
    /// What the piece CID must be, if known.
    pub piece_cid: Option<Cid>,
    /// What the size must be, in bytes, if known.
    pub raw_size: Option<u64>,
    /// Keep the unsealed copy.
    pub keep: bool,
}

/// A sector that was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Started {
    pub miner: String,
    pub number: u64,
    pub is_cc: bool,
    pub pieces: Vec<NewPiece>,
}

/// Most sectors of one call.
pub const MAX_COUNT: u64 = 10_000;

/// Why nothing was started. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("--count must be 1 to {MAX_COUNT}, not {0}")]
    Count(u64),
    #[error("'{0}' is not an address; give the miner actor as --actor f01000")]
    Address(String),
    #[error("there is no actor {actor} on this chain; check --actor, and that the chain node is on the right network")]
    UnknownActor { actor: String },
    #[error("actor {actor} is not a miner; give the address of a miner actor: {said}")]
    NotAMiner { actor: String, said: String },
    #[error(
        "sectors of {actor} have {size} bytes, which is no size that is sealed here; supported are 2KiB, 8MiB, 512MiB, 32GiB and 64GiB"
    )]
    SectorSize { actor: String, size: u64 },
    #[error(
        "sectors of {actor} are proven with window PoSt type {number}, which does not go with a supported seal proof of {size} bytes"
    )]
    ProofType { actor: String, number: i64, size: u64 },
    #[error("failed to ask the chain node about {actor}: {source}")]
    Chain { actor: String, source: RpcError },
    #[error("piece '{data}': {source}{}", cause(source))]
    Data { data: String, source: PieceDataError },
    #[error("'{text}' is no piece CID; write it as baga6ea4seaq..., or leave it out")]
    NotACid { text: String },
    #[error("piece '{data}' is empty; give a file with data")]
    Empty { data: String },
    #[error("failed to hash piece '{data}': {source}")]
    Hash { data: String, source: ProveError },
    #[error("piece '{data}' has the piece CID {actual}, not {expected}; check --piece-cid and the file")]
    PieceCid { data: String, expected: Box<Cid>, actual: Box<Cid> },
    #[error("the pieces do not fit into one sector of {actor}: {source}; give less data, or shorter pieces")]
    TooLong { actor: String, source: PieceError },
    #[error("failed to use the folder for downloads: {0}")]
    Folder(std::io::Error),
    #[error("failed to write the sectors: {0}")]
    Db(TxError),
}

fn cause(error: &PieceDataError) -> String {
    std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default()
}

impl Classify for StartError {
    fn classify(self) -> Failure {
        match self {
            StartError::Count(_)
            | StartError::Address(_)
            | StartError::UnknownActor { .. }
            | StartError::NotAMiner { .. }
            | StartError::SectorSize { .. }
            | StartError::ProofType { .. }
            | StartError::NotACid { .. }
            | StartError::Empty { .. }
            | StartError::PieceCid { .. }
            | StartError::TooLong { .. } => Failure::Permanent { reason: "refused", cause: Box::new(self) },
            // The source decides, and the sentence stays this one.
            StartError::Data { data, source } => {
                let kept = |source| Box::new(StartError::Data { data, source });
                match source.is_final() {
                    true => Failure::Permanent { reason: "refused", cause: kept(source) },
                    false => Failure::Retry(kept(source)),
                }
            }
            StartError::Hash { .. } | StartError::Folder(_) => Failure::Retry(Box::new(self)),
            StartError::Chain { .. } => Failure::Unavailable(Box::new(self)),
            StartError::Db(error) => error.classify(),
        }
    }
}

/// Starts sealing. Returns the sectors in the order of their numbers; the first has the pieces.
///
/// # Errors
/// [`StartError`]; nothing was written then.
pub async fn start(
    db: &Db,
    chain: &Client,
    prover: &Prover,
    http: &reqwest::Client,
    request: StartRequest,
) -> Result<Vec<Started>, StartError> {
    let new = prepare(chain, prover, http, request).await?;
    let pieces = new.pieces.clone();
    let written = db.transaction("seal start", move |tx| {
        let new = new.clone();
        Box::pin(async move { insert(tx, &new).await })
    });
    let sectors = written.await.map_err(StartError::Db)?;
    let started = sectors.into_iter().enumerate().map(|(index, sector)| {
        let pieces = if index == 0 { pieces.clone() } else { Vec::new() };
        Started { miner: sector.sp.to_string(), number: sector.number, is_cc: pieces.is_empty(), pieces }
    });
    Ok(started.collect())
}

/// Checks everything, and gives what is to be written: the miner as the chain knows it, the pieces as they are.
///
/// # Errors
/// [`StartError`].
pub async fn prepare(
    chain: &Client,
    prover: &Prover,
    http: &reqwest::Client,
    request: StartRequest,
) -> Result<NewSectors, StartError> {
    let StartRequest { actor, count, pieces } = request;
    if count == 0 || count > MAX_COUNT {
        return Err(StartError::Count(count));
    }
    let (sp, proof) = miner(chain, &actor).await?;
    let pieces = take_pieces(prover, http, &actor, proof, &pieces).await?;
    let taken = chain.state_miner_allocated(&address::id_address(sp), &TipSetKey::HEAD).await;
    let taken = taken.map_err(|source| StartError::Chain { actor, source })?;
    let on_chain = Numbers::from_ranges(taken.ranges().map(|range| (range.start, range.end)));
    Ok(NewSectors { sp, proof, on_chain, count, pieces, request_uid: None })
}

/// The miner actor's id and the seal proof of its sectors.
async fn miner(chain: &Client, actor: &str) -> Result<(SpId, SealProof), StartError> {
    let given = address::parse(actor).map_err(|_| StartError::Address(actor.to_owned()))?;
    let unknown = || StartError::UnknownActor { actor: actor.to_owned() };
    let lookup = chain.state_lookup_id(&given, &TipSetKey::HEAD).await;
    let id = lookup.map_err(|error| explain(actor, error))?;
    let sp = address::sp_id(&id).ok_or_else(unknown)?;
    let info = chain.state_miner_info(&id, &TipSetKey::HEAD).await.map_err(|error| explain(actor, error))?;
    let proof = SealProof::of_sector_size(info.sector_size)
        .ok_or_else(|| StartError::SectorSize { actor: actor.to_owned(), size: info.sector_size })?;
    if info.window_po_st_proof_type != window_post_of(proof) {
        let (number, size) = (info.window_po_st_proof_type, info.sector_size);
        return Err(StartError::ProofType { actor: actor.to_owned(), number, size });
    }
    Ok((sp, proof))
}

fn explain(actor: &str, error: RpcError) -> StartError {
    let actor = actor.to_owned();
    match error.node_message().map(str::to_owned) {
        Some(_) if error.is_actor_not_found() || error.is_not_yet() => StartError::UnknownActor { actor },
        Some(said) => StartError::NotAMiner { actor, said },
        None => StartError::Chain { actor, source: error },
    }
}

/// Number of the window PoSt proof (V1_1) that goes with a seal proof: 10 to 14 on chain.
fn window_post_of(proof: SealProof) -> i64 {
    proof.number() + 5
}

async fn take_pieces(
    prover: &Prover,
    http: &reqwest::Client,
    actor: &str,
    proof: SealProof,
    pieces: &[StartPiece],
) -> Result<Vec<NewPiece>, StartError> {
    if pieces.is_empty() {
        return Ok(Vec::new());
    }
    let folder = DownloadFolder::create().map_err(StartError::Folder)?;
    let mut taken = Vec::with_capacity(pieces.len());
    for (index, piece) in pieces.iter().enumerate() {
        let target = folder.0.join(index.to_string());
        taken.push(take_piece(prover, http, actor, proof, piece, &target).await?);
    }
    let sizes: Vec<u64> = taken.iter().map(|piece| piece.padded_size).collect();
    layout(proof, &sizes).map_err(|source| StartError::TooLong { actor: actor.to_owned(), source })?;
    Ok(taken)
}

async fn take_piece(
    prover: &Prover,
    http: &reqwest::Client,
    actor: &str,
    proof: SealProof,
    piece: &StartPiece,
    target: &Path,
) -> Result<NewPiece, StartError> {
    let data = piece.data.clone();
    let data_url = url_of(&piece.data).map_err(|source| StartError::Data { data: data.clone(), source })?;
    // Never cancelled: Ctrl-C ends the whole command.
    let cancelled = CancellationToken::new();
    let fetched: Fetched = piece_data::bring(http, &data_url, piece.raw_size, target, &cancelled)
        .await
        .map_err(|source| StartError::Data { data: data.clone(), source })?;
    if fetched.raw_size == 0 {
        return Err(StartError::Empty { data });
    }
    // Before the data is hashed, which may take hours.
    let padded = curio_proofs::padded_size_of(fetched.raw_size);
    padded
        .and_then(|padded| layout(proof, &[padded]))
        .map_err(|source| StartError::TooLong { actor: actor.to_owned(), source })?;
    let commitment = piece_data::commitment(prover, &fetched, &cancelled)
        .await
        .map_err(|source| StartError::Hash { data: data.clone(), source })?;
    let actual = unsealed_cid(&commitment.comm_p);
    if let Some(expected) = piece.piece_cid.filter(|expected| *expected != actual) {
        return Err(StartError::PieceCid { data, expected: Box::new(expected), actual: Box::new(actual) });
    }
    Ok(NewPiece {
        piece_cid: actual.to_string(),
        padded_size: commitment.padded_size,
        raw_size: commitment.raw_size,
        data_url,
        keep: piece.keep,
    })
}

/// A path as a `file://` address; an address as it is.
fn url_of(data: &str) -> Result<String, PieceDataError> {
    if data.contains("://") {
        return Ok(data.to_owned());
    }
    let path = PathBuf::from(data);
    let absolute = path.canonicalize().map_err(|source| PieceDataError::Read { path, source })?;
    let url = Url::from_file_path(&absolute).map_err(|()| PieceDataError::Url { url: data.to_owned() })?;
    Ok(url.to_string())
}

/// A folder of our own for downloads, removed at the end.
struct DownloadFolder(PathBuf);

impl DownloadFolder {
    fn create() -> std::io::Result<DownloadFolder> {
        let folder = std::env::temp_dir().join(format!("curio-seal-start-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder)?;
        Ok(DownloadFolder(folder))
    }
}

impl Drop for DownloadFolder {
    fn drop(&mut self) {
        // Downloads remove themselves; a folder that stays is empty.
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seal_proof_has_its_window_post() {
        // RegisteredPoStProof of V1_1: 10 is 2 KiB, 13 is 32 GiB.
        assert_eq!(window_post_of(SealProof::StackedDrg2KiBV1_1), 10);
        assert_eq!(window_post_of(SealProof::StackedDrg32GiBV1_1), 13);
    }

    #[test]
    fn a_path_becomes_an_address_and_an_address_stays() {
        assert_eq!(url_of("https://host/data").expect("an address"), "https://host/data");
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("with space");
        std::fs::write(&path, b"x").expect("the file is written");
        let url = url_of(path.to_str().expect("a readable path")).expect("the file is there");
        assert!(url.starts_with("file:///") && url.ends_with("with%20space"), "{url}");
        assert!(matches!(url_of("/no/such/file"), Err(PieceDataError::Read { .. })));
    }
}
