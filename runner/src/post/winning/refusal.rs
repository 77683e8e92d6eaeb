//! What an answer to a submitted block means. Pure.

use curio_chain::RpcError;

/// What the node's refusal of a block means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It holds another block of this miner for the epoch or the parents. No other attempt would end otherwise.
    Never,
    /// Its clock is behind ours.
    TooEarly,
    /// The identical block may be submitted again.
    Other,
}

impl Refusal {
    pub(super) fn of(error: &RpcError) -> Refusal {
        match error.node_message() {
            Some(text) if text.contains("SLASH FILTER") => Refusal::Never,
            Some(text) if text.contains("from the future") => Refusal::TooEarly,
            Some(_) | None => Refusal::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_refused_block_is_submitted_again_unless_the_node_knows_another() {
        // Texts as recorded from a Lotus 1.36 node.
        let table = [
            ("<!!> SLASH FILTER DETECTED FAULT due to witness bafy2bzacecy7z7kmfq", Refusal::Never),
            ("block was from the future (now=1795240912, blk=1795240931): temporal error", Refusal::TooEarly),
            ("sync to submitted block failed: collectChain failed", Refusal::Other),
        ];
        for (text, expected) in table {
            let method = "Filecoin.SyncSubmitBlock";
            let error = RpcError::Node { method, code: 1, message: text.to_owned() };
            assert_eq!(Refusal::of(&error), expected, "{text}");
        }
        let lost = RpcError::TimedOut { url: String::new(), method: "Filecoin.SyncSubmitBlock", after: Duration::ZERO };
        assert_eq!(Refusal::of(&lost), Refusal::Other);
    }
}
