//! Why an attempt at sending ended without a verdict, and what that means for the task.

use curio_chain::{RpcError, TokenAmount};
use curio_core::{Classify, Failure};

use super::lock::LOCK_PATIENCE;

#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    #[error("failed to estimate the gas of a {purpose} message")]
    Estimate {
        purpose: String,
        #[source]
        source: RpcError,
    },
    #[error("failed to learn the next nonce of {from}")]
    Nonce {
        from: String,
        #[source]
        source: RpcError,
    },
    #[error("failed to learn the balance of {from}")]
    Balance {
        from: String,
        #[source]
        source: RpcError,
    },
    #[error("failed to sign with {from}; the chain node's wallet must hold its key")]
    Sign {
        from: String,
        #[source]
        source: RpcError,
    },
    #[error("the chain node signed something else than it was asked to sign with {from}")]
    SignedOther { from: String },
    #[error("failed to push message {cid}")]
    Push {
        cid: String,
        #[source]
        source: RpcError,
    },
    #[error("{from} has {have} FIL, and a {purpose} message needs up to {need} FIL: send funds to it")]
    Funds { from: String, purpose: String, have: TokenAmount, need: TokenAmount },
    #[error(
        "the network's gas price is above the highest fee for a {purpose} message ({max_fee} FIL); waiting for it to fall, or raise the fee under [Fees]"
    )]
    FeeTooLow { purpose: String, max_fee: TokenAmount },
    #[error("the chain does not take a {purpose} message yet: {text}")]
    NotYet { purpose: String, text: String },
    #[error("another task has been sending with {from} for {} s", LOCK_PATIENCE.as_secs())]
    Locked { from: String },
}

impl Classify for SendError {
    fn classify(self) -> Failure {
        match self {
            SendError::Estimate { source, purpose } => keep(source, |source| SendError::Estimate { purpose, source }),
            SendError::Nonce { source, from } => keep(source, |source| SendError::Nonce { from, source }),
            SendError::Balance { source, from } => keep(source, |source| SendError::Balance { from, source }),
            SendError::Sign { source, from } => keep(source, |source| SendError::Sign { from, source }),
            SendError::SignedOther { .. } => Failure::Retry(Box::new(self)),
            // What was signed stays signed: pushing it is tried until the pool takes or refuses it.
            SendError::Push { .. }
            | SendError::Funds { .. }
            | SendError::FeeTooLow { .. }
            | SendError::NotYet { .. }
            | SendError::Locked { .. } => Failure::Unavailable(Box::new(self)),
        }
    }
}

/// The failure that `source` is, with the sentence around it.
fn keep(source: RpcError, around: impl FnOnce(RpcError) -> SendError) -> Failure {
    let answered = source.node_message().is_some() && !source.is_not_yet() && !source.is_actor_not_found();
    let cause = Box::new(around(source));
    if answered { Failure::Retry(cause) } else { Failure::Unavailable(cause) }
}
