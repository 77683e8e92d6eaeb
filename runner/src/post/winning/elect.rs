//! Holding an election: what the miner's worker key signs, and whether it won.

use curio_chain::election::{election_input, min_ticket, ticket_input, win_count};
use curio_chain::types::{ElectionProof, MiningBaseInfo, SIGNATURE_BLS, Ticket, TipSet};
use curio_chain::{Address, Client, RpcError};
use curio_core::{Classify, Epoch, Failure, SpId};

use crate::post::ask::AskError;

/// An election cannot be held.
#[derive(Debug, thiserror::Error)]
pub enum ElectError {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("the worker key of {sp} signed with type {kind}; elections need a BLS key")]
    NotBls { sp: SpId, kind: u8 },
    #[error("the base at epoch {height} has no ticket to draw the next one from")]
    NoTicket { height: Epoch },
}

impl Classify for ElectError {
    fn classify(self) -> Failure {
        match self {
            ElectError::Ask(error) => error.classify(),
            ElectError::NotBls { .. } => Failure::Permanent { reason: "worker-key", cause: Box::new(self) },
            ElectError::NoTicket { .. } => Failure::Retry(Box::new(self)),
        }
    }
}

/// Draws for `round`; none when the draw does not win.
///
/// # Errors
/// The node does not hold the worker key, or cannot be reached.
pub async fn draw(
    chain: &Client,
    sp: SpId,
    round: Epoch,
    info: &MiningBaseInfo,
) -> Result<Option<ElectionProof>, ElectError> {
    let input = election_input(info.beacon(), round, sp);
    let vrf_proof = vrf(chain, sp, &info.worker_key, &input, "its draw in an election").await?;
    let win_count = win_count(&vrf_proof, &info.miner_power, &info.network_power);
    Ok((win_count > 0).then_some(ElectionProof { win_count, vrf_proof }))
}

/// The ticket of a block for `round` on `base`.
///
/// # Errors
/// The node does not hold the worker key, or cannot be reached.
pub async fn ticket(
    chain: &Client,
    sp: SpId,
    round: Epoch,
    info: &MiningBaseInfo,
    base: &TipSet,
) -> Result<Ticket, ElectError> {
    let parent = min_ticket(base).ok_or(ElectError::NoTicket { height: base.height })?;
    let input = ticket_input(info.beacon(), round, sp, parent);
    Ok(Ticket { vrf_proof: vrf(chain, sp, &info.worker_key, &input, "the ticket of its block").await? })
}

/// A BLS signature is a verifiable random function: there is one for each input, and only the key gives it.
async fn vrf(
    chain: &Client,
    sp: SpId,
    worker: &Address,
    input: &[u8; 32],
    what: &'static str,
) -> Result<Vec<u8>, ElectError> {
    let signed: Result<_, RpcError> = chain.wallet_sign(worker, input).await;
    let signature = signed.map_err(AskError::about(what, sp))?;
    match signature.kind {
        SIGNATURE_BLS => Ok(signature.data),
        kind => Err(ElectError::NotBls { sp, kind }),
    }
}
