//! What the answers of the chain node mean for a message that is being sent. Pure.

use curio_chain::RpcError;
use curio_chain::message::exit_code;
use curio_chain::types::Message;

use super::SendError;

/// What the estimate of a message said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Estimated {
    Good(Box<Message>),
    /// It would fail, and waiting does not help.
    Refused {
        exit_code: i64,
        text: String,
    },
}

/// What the pool said to a push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It is in the pool, or on chain.
    Taken,
    /// The nonce has been used; only the chain knows by whom.
    NonceUsed,
    /// Nobody took it and nobody will, as it is.
    Refused(String),
    /// No verdict: try again later.
    Later,
}

/// The nonce of the next message: what the node says, or one above what we gave out and the node has not
/// seen yet.
pub(super) fn nonce(node_says: u64, last_stored: Option<u64>) -> u64 {
    last_stored.map_or(node_says, |last| node_says.max(last + 1))
}

/// What a message that the estimate could not execute means for its sending: some things come by waiting.
pub(super) fn refusal(purpose: &str, code: i64, text: &str) -> Result<Estimated, SendError> {
    let not_yet =
        code == exit_code::SYS_INSUFFICIENT_FUNDS || (code == exit_code::FORBIDDEN && text.contains("too early"));
    if not_yet {
        return Err(SendError::NotYet { purpose: purpose.to_owned(), text: text.to_owned() });
    }
    Ok(Estimated::Refused { exit_code: code, text: text.to_owned() })
}

/// The pool's verdict.
pub(super) fn pushed(answer: Result<(), &RpcError>) -> Pushed {
    let Err(error) = answer else {
        return Pushed::Taken;
    };
    let Some(text) = error.node_message() else {
        return Pushed::Later;
    };
    if error.is_nonce_too_low() {
        Pushed::NonceUsed
    } else if text.contains("increase GasPremium") {
        // Another message of ours or of somebody else with the same key waits under this nonce.
        Pushed::Refused(text.to_owned())
    } else if error.is_already_in_mpool() {
        Pushed::Taken
    } else if error.is_not_enough_funds() || error.is_not_yet() || text.contains("gas fee cap too low") {
        Pushed::Later
    } else if text.contains("not valid for block inclusion")
        || text.contains("will not be included")
        || text.contains("signature")
    {
        Pushed::Refused(text.to_owned())
    } else {
        Pushed::Later
    }
}

/// The verdict on a message whose nonce is used, from a search for it on the chain.
pub(super) fn landed(search: Result<bool, RpcError>) -> Pushed {
    match search {
        Ok(true) => Pushed::Taken,
        Ok(false) => Pushed::Later,
        // The node says outright that another one was executed, or has never seen this one.
        Err(error) if error.is_message_replaced() || error.is_not_yet() => Pushed::Refused(error.to_string()),
        // Nothing was learned. A message that is called refused is asked for anew, and nobody watches it any more.
        Err(_) => Pushed::Later,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn said(text: &str) -> RpcError {
        RpcError::Node { method: "Filecoin.MpoolPush", code: 1, message: text.to_owned() }
    }

    #[test]
    fn the_nonce_is_above_both_what_the_node_knows_and_what_we_gave_out() {
        let table = [(0, None, 0), (5, None, 5), (5, Some(3), 5), (5, Some(4), 5), (5, Some(5), 6), (5, Some(9), 10)];
        for (node, stored, expected) in table {
            assert_eq!(nonce(node, stored), expected, "node {node}, stored {stored:?}");
        }
    }

    #[test]
    fn the_pool_takes_the_same_bytes_once() {
        // Texts as recorded from a Lotus 1.36 node.
        let already =
            "failed to add locked: message from t3sb with nonce 2 already in mpool: message with nonce already exists";
        let other = "failed to add locked: message from t3sb with nonce 2 already in mpool, increase GasPremium to 109602 from 99638 to trigger replace by fee";
        let table = [
            (already, Pushed::Taken),
            (other, Pushed::Refused(other.to_owned())),
            ("minimum expected nonce is 2, got 0: message nonce too low", Pushed::NonceUsed),
            ("failed to check balance: not enough funds (required: 2 FIL, balance: 1 FIL)", Pushed::Later),
            ("gas fee cap too low", Pushed::Later),
            (
                "message not valid for block inclusion: 'Version' unsupported",
                Pushed::Refused("message not valid for block inclusion: 'Version' unsupported".to_owned()),
            ),
        ];
        for (text, expected) in table {
            assert_eq!(pushed(Err(&said(text))), expected, "{text}");
        }
        assert_eq!(pushed(Ok(())), Pushed::Taken);
    }

    #[test]
    fn a_lost_answer_is_no_verdict() {
        let lost = RpcError::TimedOut {
            url: "http://node/".to_owned(),
            method: "Filecoin.MpoolPush",
            after: Duration::from_secs(1),
        };
        assert_eq!(pushed(Err(&lost)), Pushed::Later);
        assert_eq!(landed(Err(lost)), Pushed::Later);
        // Once any error of the node was taken for a refusal, and a message that had landed was asked for again.
        assert_eq!(landed(Err(said("failed to load state tree: context deadline exceeded"))), Pushed::Later);
    }

    #[test]
    fn a_used_nonce_is_ours_when_the_chain_has_the_message() {
        assert_eq!(landed(Ok(true)), Pushed::Taken);
        assert_eq!(landed(Ok(false)), Pushed::Later);
        assert!(matches!(
            landed(Err(said("message was replaced: found message with equal nonce"))),
            Pushed::Refused(_)
        ));
        assert!(matches!(landed(Err(said("failed to load message: ipld: could not find bafy"))), Pushed::Refused(_)));
    }

    #[test]
    fn what_comes_by_waiting_is_waited_for() {
        assert!(matches!(refusal("commit", 18, "too early to prove sector 3"), Err(SendError::NotYet { .. })));
        assert!(matches!(refusal("precommit", 6, "sender does not have funds"), Err(SendError::NotYet { .. })));
        let text = "caller f01010 is not one of supported";
        assert_eq!(
            refusal("commit", 18, text).expect("a refusal"),
            Estimated::Refused { exit_code: 18, text: text.to_owned() }
        );
        assert_eq!(
            refusal("precommit", 19, "deposit").expect("a refusal"),
            Estimated::Refused { exit_code: 19, text: "deposit".to_owned() }
        );
    }
}
