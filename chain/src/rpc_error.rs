//! What can go wrong with a call of the chain node, and what that means for the task that made it.

use std::error::Error;
use std::time::Duration;

use curio_core::{Classify, Failure};

/// A call did not give a result. [`RpcError::Node`] is the node's own answer and would be the same
/// from every node; all others are about reaching one.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    #[error("failed to reach the chain node at {url}")]
    Unreachable {
        url: String,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("failed to call {method}: the chain node at {url} did not answer within {} s", after.as_secs_f64().ceil())]
    TimedOut { url: String, method: &'static str, after: Duration },
    #[error("the chain node at {url} refused the token; give one that this node made, as TOKEN:{url}")]
    Unauthorized { url: String },
    /// Something answers there, but not a Filecoin node's JSON-RPC.
    #[error(
        "the answer of {url} is not one of a Filecoin node (HTTP {status}: {excerpt}); \
         the address of a Lotus node looks like http://host:1234/rpc/v1"
    )]
    NotANode { url: String, status: u16, excerpt: String },
    #[error("the chain node at {url} is on the network '{network}', but '{expected}' is wanted")]
    WrongNetwork { url: String, network: String, expected: String },
    #[error("the chain node at {url} speaks API version {version}; version {wanted} is needed (Lotus 1.34 or later)")]
    WrongApi { url: String, version: String, wanted: &'static str },
    #[error("failed to call {method}: {message} (code {code})")]
    Node { method: &'static str, code: i64, message: String },
    #[error("failed to read the chain node's answer to {method}")]
    Result {
        method: &'static str,
        #[source]
        source: serde_json::Error,
    },
}

/// JSON-RPC code of a message whose execution failed in an estimate.
const CODE_EXECUTION_FAILED: i64 = 3;
/// JSON-RPC code of a missing actor, when the node does not wrap it.
const CODE_ACTOR_NOT_FOUND: i64 = 11;

/// Texts of a node that has not seen something yet: the message pool lags the chain by seconds, and
/// a second node may lag the first.
const NOT_YET: [&str; 4] = [
    "not found on chain",
    "ipld: could not find",
    "cannot draw randomness from the future",
    "looking for tipset with height greater than start point",
];

impl RpcError {
    /// The node's own words, if it answered.
    pub fn node_message(&self) -> Option<&str> {
        match self {
            RpcError::Node { message, .. } => Some(message),
            _ => None,
        }
    }

    fn says(&self, text: &str) -> bool {
        self.node_message().is_some_and(|message| message.contains(text))
    }

    /// No such actor in the state asked. Only some methods give the code of its own.
    pub fn is_actor_not_found(&self) -> bool {
        matches!(self, RpcError::Node { code: CODE_ACTOR_NOT_FOUND, .. }) || self.says("actor not found")
    }

    /// The exit code with which a message would fail, out of the text of a gas estimate or of
    /// `MpoolPushMessage`. None when the estimate failed for another reason.
    pub fn exit_code(&self) -> Option<i64> {
        let RpcError::Node { code, message, .. } = self else { return None };
        if *code != CODE_EXECUTION_FAILED && !message.contains("message execution failed") {
            return None;
        }
        let (_, rest) = message.split_once("exit=[")?;
        let (exit, _) = rest.split_once(']')?;
        // A named code reads ErrNotFound(17), an unnamed one is the bare number.
        let number = exit.split_once('(').map_or(exit, |(_, number)| number.trim_end_matches(')'));
        number.parse().ok()
    }

    /// The node has not seen a message, tipset, account or epoch yet; later it may.
    pub fn is_not_yet(&self) -> bool {
        NOT_YET.iter().any(|text| self.says(text))
    }

    /// The message's nonce was used by a message that is on the chain already.
    pub fn is_nonce_too_low(&self) -> bool {
        self.says("message nonce too low")
    }

    /// The pool holds this very message already: pushing it again was needless and did no harm.
    pub fn is_already_in_mpool(&self) -> bool {
        self.says("already in mpool")
    }

    /// Another message with the same sender and nonce and different content was executed: this one
    /// never will be.
    pub fn is_message_replaced(&self) -> bool {
        self.says("message was replaced")
    }

    /// The sender cannot pay the fees, or the value.
    pub fn is_not_enough_funds(&self) -> bool {
        self.says("not enough funds")
    }

    /// The token is good, but not for this method.
    pub fn is_missing_permission(&self) -> bool {
        self.says("missing permission to invoke")
    }

    /// The node answered, whatever it said: asking another node, or again, changes nothing.
    pub(crate) fn is_answer(&self) -> bool {
        matches!(self, RpcError::Node { .. } | RpcError::Result { .. })
    }

    /// Asking the same node again a moment later may help.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, RpcError::Unreachable { .. } | RpcError::TimedOut { .. })
    }
}

impl Classify for RpcError {
    fn classify(self) -> Failure {
        match &self {
            RpcError::Node { .. } if !self.is_not_yet() => Failure::Retry(Box::new(self)),
            RpcError::Result { .. } => Failure::Retry(Box::new(self)),
            _ => Failure::Unavailable(Box::new(self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(code: i64, message: &str) -> RpcError {
        RpcError::Node { method: "Filecoin.GasEstimateMessageGas", code, message: message.to_owned() }
    }

    #[test]
    fn the_exit_code_is_read_out_of_the_text() {
        for (code, message, exit) in [
            (3, "message execution failed (exit=[ErrInsufficientFunds(19)], vm error=[...", Some(19)),
            (3, "message execution failed (exit=[SysErrInvalidReceiver(5)], vm error=[...", Some(5)),
            (3, "message execution failed (exit=[33], vm error=[...", Some(33)),
            (1, "GasEstimateMessageGas error: message execution failed (exit=[ErrSerialization(21)], vm", Some(21)),
            (1, "gas estimation failed: CallWithGas failed: sender t3.. not found on chain", None),
            (1, "exit=[ErrNotFound(17)] in another text", None),
            (3, "message execution failed", None),
        ] {
            assert_eq!(node(code, message).exit_code(), exit, "{message}");
        }
    }

    #[test]
    fn what_is_not_there_yet_does_not_count_as_an_attempt() {
        for (error, unavailable) in [
            (RpcError::Unauthorized { url: "http://node/".into() }, true),
            (RpcError::TimedOut { url: "http://node/".into(), method: "m", after: Duration::from_secs(1) }, true),
            (node(1, "sender t3.. not found on chain: sender validation failed"), true),
            (node(1, "failed to load message: ipld: could not find bafy"), true),
            (node(1, "actor not found"), false),
            (node(3, "message execution failed (exit=[ErrNotFound(17)], vm"), false),
        ] {
            let text = error.to_string();
            assert_eq!(matches!(error.classify(), Failure::Unavailable(_)), unavailable, "{text}");
        }
    }

    #[test]
    fn a_missing_actor_is_known_by_code_or_text() {
        assert!(node(11, "resolve address t1..: whatever").is_actor_not_found());
        assert!(node(1, "failed to load miner actor: actor not found").is_actor_not_found());
        assert!(!node(1, "actor code is not account: storageminer").is_actor_not_found());
    }
}
