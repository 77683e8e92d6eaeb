//! C1, the vanilla proof: made where the sealed file and the cache lie, which may be another machine.

use curio_core::{Classify, Failure, SealProof, SectorRef};
use curio_proofs::child::{Request, Response};
use curio_proofs::{Commitment, PieceSpec};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::path::LocalPath;
use super::remote::client::RemoteError;
use super::sector_file::SectorFile;
use super::{LocateError, Storage};
use crate::prove::{ProveError, Prover};

/// What C1 proves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VanillaPorep {
    pub sector: SectorRef,
    pub proof: SealProof,
    #[serde(with = "hex::serde")]
    pub ticket: [u8; 32],
    #[serde(with = "hex::serde")]
    pub seed: [u8; 32],
    #[serde(with = "hex::serde")]
    pub comm_d: Commitment,
    #[serde(with = "hex::serde")]
    pub comm_r: Commitment,
    pub pieces: Vec<PieceSpec>,
}

/// C1 over files that lie here failed.
#[derive(Debug, thiserror::Error)]
pub enum VanillaError {
    #[error(transparent)]
    Locate(#[from] LocateError),
    #[error(transparent)]
    Prove(#[from] ProveError),
}

impl Classify for VanillaError {
    fn classify(self) -> Failure {
        match self {
            VanillaError::Locate(error) => error.classify(),
            VanillaError::Prove(error) => error.classify(),
        }
    }
}

impl Storage {
    /// C1 of a sector, as JSON: here when its sealed file and cache lie here, else on a machine that reaches them.
    ///
    /// # Errors
    /// Retryable when no such machine answers; what the proof says otherwise.
    pub async fn vanilla_porep(
        &self,
        prover: &Prover,
        request: &VanillaPorep,
        cancelled: &CancellationToken,
    ) -> Result<String, Failure> {
        match self.vanilla_porep_here(prover, request, cancelled).await {
            Err(VanillaError::Locate(LocateError::NotHere { .. })) => {}
            outcome => return outcome.map_err(Failure::from),
        }
        let holders = self.peers_holding(request.sector, &[SectorFile::Cache, SectorFile::Sealed]).await?;
        let asked = self.remote().vanilla_porep(&holders, request);
        match cancelled.run_until_cancelled(asked).await {
            Some(outcome) => outcome.map_err(RemoteError::classify),
            None => Err(Failure::Stopping),
        }
    }

    /// C1 of a sector whose sealed file and cache lie on one path of this machine.
    pub async fn vanilla_porep_here(
        &self,
        prover: &Prover,
        request: &VanillaPorep,
        cancelled: &CancellationToken,
    ) -> Result<String, VanillaError> {
        let path = self.expect_local(request.sector, &[SectorFile::Cache, SectorFile::Sealed]).await?;
        match prover.call(&c1(request, &path), cancelled).await? {
            Response::C1 { vanilla_proof } => Ok(vanilla_proof),
            _ => Err(ProveError::Unexpected("no C1").into()),
        }
    }
}

fn c1(request: &VanillaPorep, path: &LocalPath) -> Request {
    let VanillaPorep { sector, proof, ticket, seed, comm_d, comm_r, pieces } = request.clone();
    Request::C1 {
        proof,
        sector,
        ticket,
        seed,
        comm_d,
        comm_r,
        pieces,
        cache: path.file(SectorFile::Cache, sector),
        sealed: path.file(SectorFile::Sealed, sector),
    }
}
