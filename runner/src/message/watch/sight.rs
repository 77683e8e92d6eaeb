//! What a search for a message says. Pure.

use curio_chain::RpcError;
use curio_chain::types::MsgLookup;
use curio_core::Epoch;
use curio_core::epoch::EpochDelta;

/// Where a message is, seen from a head.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Executed, and deep enough to stay.
    Settled(Box<MsgLookup>),
    /// Executed, but a reorganisation may still undo it.
    Fresh,
    /// Not on the chain; perhaps the node does not know it.
    Nowhere,
    /// The chain has executed something else under its nonce.
    Overtaken,
}

pub(super) fn judge(
    found: Result<Option<MsgLookup>, RpcError>,
    head: Epoch,
    confidence: EpochDelta,
) -> Result<Sight, RpcError> {
    match found {
        Ok(Some(lookup)) if head - lookup.height >= confidence => Ok(Sight::Settled(Box::new(lookup))),
        Ok(Some(_)) => Ok(Sight::Fresh),
        Ok(None) => Ok(Sight::Nowhere),
        Err(error) if error.is_message_replaced() => Ok(Sight::Overtaken),
        Err(error) if error.is_not_yet() => Ok(Sight::Nowhere),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(height: i64) -> MsgLookup {
        let text = include_str!("../../../tests/recorded/StateSearchMsg.json");
        MsgLookup { height: Epoch(height), ..serde_json::from_str(text).expect("the recorded answer is a lookup") }
    }

    fn said(message: &str) -> RpcError {
        RpcError::Node { method: "Filecoin.StateSearchMsg", code: 1, message: message.to_owned() }
    }

    #[test]
    fn a_message_has_landed_when_enough_epochs_are_on_top() {
        assert_eq!(judge(Ok(Some(lookup(96))), Epoch(100), 5).expect("an answer"), Sight::Fresh);
        assert!(matches!(judge(Ok(Some(lookup(95))), Epoch(100), 5).expect("an answer"), Sight::Settled(_)));
    }

    #[test]
    fn a_message_that_the_node_does_not_know_is_nowhere_and_not_an_error() {
        let unknown = said("ipld: could not find bafy");
        assert_eq!(judge(Err(unknown), Epoch(100), 5).expect("an answer"), Sight::Nowhere);
        assert_eq!(judge(Ok(None), Epoch(100), 5).expect("an answer"), Sight::Nowhere);
    }

    #[test]
    fn a_message_whose_nonce_another_one_has_used_is_overtaken() {
        let replaced = said("message was replaced: found message with equal nonce than the one we are looking for");
        assert_eq!(judge(Err(replaced), Epoch(100), 5).expect("an answer"), Sight::Overtaken);
    }
}
