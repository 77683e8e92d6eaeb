//! A question to the chain node that was not answered.

use curio_chain::RpcError;
use curio_core::{Classify, Failure, SpId};

/// Says what was asked, and about whom.
#[derive(Debug, thiserror::Error)]
#[error("failed to ask the chain for {what} of {sp}")]
pub struct AskError {
    pub what: &'static str,
    pub sp: SpId,
    #[source]
    pub source: RpcError,
}

impl AskError {
    /// For `map_err`.
    pub fn about(what: &'static str, sp: SpId) -> impl FnOnce(RpcError) -> AskError {
        move |source| AskError { what, sp, source }
    }
}

impl Classify for AskError {
    fn classify(self) -> Failure {
        match self.source.node_message() {
            Some(_) if !self.source.is_not_yet() => Failure::Retry(Box::new(self)),
            _ => Failure::Unavailable(Box::new(self)),
        }
    }
}
