//! Why a change was not asked for or not approved. Each is one sentence for the person who wanted it.

use curio_chain::RpcError;
use curio_core::{Epoch, SectorRef, SpId};
use curio_harmony::{DbError, TxError};

use super::ChangeKind;
use crate::message::payer::PayerError;

#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("failed to use the database")]
    Db(#[from] DbError),
    #[error("failed to store the change")]
    Store(#[from] TxError),
    #[error("failed to ask the chain about {sp}")]
    Chain {
        sp: SpId,
        #[source]
        source: RpcError,
    },
    #[error(transparent)]
    Payer(#[from] PayerError),
    #[error("sector {sector} is not live on chain: it was never proven, is terminated or has expired")]
    NotLive { sector: SectorRef },
    #[error(
        "sector {sector} was not proven yet, or is faulty; the chain extends only what it knows to be well: ask after its window"
    )]
    NotActive { sector: SectorRef },
    #[error("sector {sector} expires at epoch {now} already; choose a later epoch than {asked}")]
    NotLater { sector: SectorRef, now: Epoch, asked: Epoch },
    #[error("sector {sector} cannot be kept until epoch {asked}; the chain allows epoch {latest} at most")]
    TooLate { sector: SectorRef, asked: Epoch, latest: Epoch },
    #[error(
        "sector {sector} holds verified data, whose claims would have to be extended with it; this version does not do that"
    )]
    Verified { sector: SectorRef },
    #[error("the message that is to {change} sector {sector} is on its way; wait for its result")]
    OnItsWay { sector: SectorRef, change: ChangeKind },
    #[error(
        "what is to be approved was asked anew or approved meanwhile; look at `curio sector changes`, then {change} again"
    )]
    AskedAnew { change: ChangeKind },
    #[error("nobody asked to {change} sector {sector}; ask first, then look at it, then approve it")]
    NotAsked { sector: SectorRef, change: ChangeKind },
    #[error(
        "deadline {deadline} of sector {sector} is open or next, and the chain terminates nothing in it; approve after epoch {after}"
    )]
    Immutable { sector: SectorRef, deadline: u64, after: Epoch },
}

impl ChangeError {
    /// For `map_err`.
    pub(super) fn chain(sp: SpId) -> impl FnOnce(RpcError) -> ChangeError {
        move |source| ChangeError::Chain { sp, source }
    }
}
