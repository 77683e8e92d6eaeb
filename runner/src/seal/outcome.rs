//! What becomes of a sector when its message did not do what it should. One pure table: every exit
//! code has a defined outcome.
//!
//! A refusal is seen in one of two places. The gas estimate of a message that was never sent gives the
//! exit code *and* the actor's sentence; the receipt of an executed message gives the exit code alone.
//! Since every message is estimated first, an executed refusal means that the chain changed in between:
//! the message is asked for again, and the next estimate says in words what is wrong.

use std::fmt;

use curio_chain::message::exit_code;

/// The two messages of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    PreCommit,
    Commit,
}

impl Purpose {
    /// The word in `send_reason`, idempotency keys, tables and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Purpose::PreCommit => "precommit",
            Purpose::Commit => "commit",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the chain, or the node, said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The message was executed with this exit code.
    Executed(i64),
    /// The gas estimate ran into this exit code; the message was never sent.
    Refused { exit_code: i64, text: String },
    /// The message pool would not take the message, or another message took its nonce.
    NotSent { text: String },
}

/// What to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Executed: ask the chain for the result and go on.
    Landed,
    /// Build the message anew under the next generation of its key.
    Again,
    /// The effect may be there already, by an earlier message: look, take it if it is ours, and fail
    /// with this reason if it is not.
    Adopt(&'static str),
    /// The ticket is of no use any more: draw another and seal anew.
    Reseal,
    /// The proof is of no use any more (its seed changed): draw the seed anew and prove again.
    Reprove,
    /// The sector cannot go on; a short closed word for `failed_reason`.
    Fail(&'static str),
}

/// Most generations of one message; a sector that needs more has another trouble.
pub const MAX_MESSAGE_GENERATIONS: i64 = 5;
/// Most times a sector is proven anew because the chain refused the proof.
pub const MAX_POREP_GENERATIONS: i64 = 3;

/// The table.
pub fn outcome(purpose: Purpose, answer: &Answer) -> Outcome {
    match answer {
        Answer::Executed(exit_code::OK) => Outcome::Landed,
        Answer::Executed(code) => executed(purpose, *code),
        Answer::Refused { exit_code, text } => refused(purpose, *exit_code, text),
        Answer::NotSent { .. } => Outcome::Again,
    }
}

fn executed(purpose: Purpose, code: i64) -> Outcome {
    match (purpose, code) {
        (Purpose::Commit, exit_code::NOT_FOUND) => Outcome::Adopt("precommit-expired"),
        (
            _,
            exit_code::SYS_INSUFFICIENT_FUNDS
            | exit_code::SYS_OUT_OF_GAS
            | exit_code::INSUFFICIENT_FUNDS
            | exit_code::ILLEGAL_STATE,
        ) => Outcome::Again,
        (_, exit_code::ILLEGAL_ARGUMENT | exit_code::NOT_FOUND | exit_code::FORBIDDEN) => Outcome::Again,
        // The rest do not go away by themselves: receiver missing (5), undecodable parameters (21),
        // unknown method (22), assertions and whatever a future actor invents.
        _ => Outcome::Fail(refused_reason(purpose)),
    }
}

fn refused(purpose: Purpose, code: i64, text: &str) -> Outcome {
    match (purpose, code) {
        (_, exit_code::OK) => Outcome::Again,
        (
            _,
            exit_code::SYS_INSUFFICIENT_FUNDS
            | exit_code::SYS_OUT_OF_GAS
            | exit_code::INSUFFICIENT_FUNDS
            | exit_code::ILLEGAL_STATE,
        ) => Outcome::Again,
        (Purpose::PreCommit, exit_code::ILLEGAL_ARGUMENT) => refused_precommit(text),
        (Purpose::Commit, exit_code::ILLEGAL_ARGUMENT)
            if text.contains("invalid proof") || text.contains("no valid proofs") =>
        {
            Outcome::Reprove
        }
        (Purpose::Commit, exit_code::NOT_FOUND) => Outcome::Adopt("precommit-expired"),
        (Purpose::Commit, exit_code::FORBIDDEN) if text.contains("too early") => Outcome::Again,
        (_, exit_code::FORBIDDEN) => Outcome::Fail("caller-forbidden"),
        _ => Outcome::Fail(refused_reason(purpose)),
    }
}

fn refused_precommit(text: &str) -> Outcome {
    // "seal challenge epoch 736 too old, must be after 740" and "... must be before now 478": the
    // second one after the chain went back further than finality.
    if text.contains("seal challenge epoch") {
        Outcome::Reseal
    } else if text.contains("already allocated") {
        Outcome::Adopt("number-taken")
    } else if text.contains("expiration") {
        Outcome::Again
    } else {
        Outcome::Fail("precommit-refused")
    }
}

fn refused_reason(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::PreCommit => "precommit-refused",
        Purpose::Commit => "commit-refused",
    }
}

/// Turns an outcome into a failure when it has been tried often enough.
///
/// `messages`, `tickets` and `proofs` are the generations given up so far.
pub fn bounded(outcome: Outcome, messages: i64, tickets: i64, proofs: i64) -> Outcome {
    match outcome {
        Outcome::Again if messages + 1 >= MAX_MESSAGE_GENERATIONS => Outcome::Fail("message-refused"),
        Outcome::Reseal if tickets + 1 >= super::ticket::MAX_TICKET_GENERATIONS => Outcome::Fail("ticket-expired"),
        Outcome::Reprove if proofs + 1 >= MAX_POREP_GENERATIONS => Outcome::Fail("proof-refused"),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: i64, text: &str) -> Answer {
        Answer::Refused { exit_code: code, text: text.to_owned() }
    }

    #[test]
    fn refusals_of_a_precommit_lead_where_the_table_says() {
        // Texts as recorded from a Lotus 1.36 node on a private 2 KiB network.
        let table = [
            (16, "seal challenge epoch -3364 too old, must be after -3302", Outcome::Reseal),
            (16, "seal challenge epoch 1476 must be before now 478", Outcome::Reseal),
            (
                16,
                "sector numbers BitField { ranges: [201..202], set: {}, unset: {} } already allocated",
                Outcome::Adopt("number-taken"),
            ),
            (16, "invalid expiration 6000476, cannot be more than 3680640 past current epoch 479", Outcome::Again),
            (16, "sector expiration 5 must be after activation 86889", Outcome::Again),
            (16, "sealed CID had wrong prefix", Outcome::Fail("precommit-refused")),
            (16, "unsupported seal proof type 8", Outcome::Fail("precommit-refused")),
            (18, "caller f01010 is not one of supported", Outcome::Fail("caller-forbidden")),
            (
                19,
                "insufficient funds 0.000000000593718132 for pre-commit deposit: 0.000000892989542666",
                Outcome::Again,
            ),
            (21, "Serialization error for Cbor protocol", Outcome::Fail("precommit-refused")),
            (22, "unknown method", Outcome::Fail("precommit-refused")),
            (5, "receiver does not exist", Outcome::Fail("precommit-refused")),
        ];
        for (code, text, expected) in table {
            assert_eq!(outcome(Purpose::PreCommit, &refusal(code, text)), expected, "{text}");
        }
    }

    #[test]
    fn refusals_of_a_commit_lead_where_the_table_says() {
        let table = [
            (16, "invalid proof for sector 201 while requiring activation success: [false]", Outcome::Reprove),
            (16, "no valid proofs specified", Outcome::Reprove),
            (16, "no sectors to prove", Outcome::Fail("commit-refused")),
            (17, "loading precommits: sector 3 not found", Outcome::Adopt("precommit-expired")),
            (18, "too early to prove sector", Outcome::Again),
            (18, "caller f01010 is not one of supported", Outcome::Fail("caller-forbidden")),
            (19, "insufficient funds", Outcome::Again),
            (20, "illegal state", Outcome::Again),
        ];
        for (code, text, expected) in table {
            assert_eq!(outcome(Purpose::Commit, &refusal(code, text)), expected, "{text}");
        }
    }

    #[test]
    fn every_exit_code_of_an_executed_message_has_an_outcome() {
        for purpose in [Purpose::PreCommit, Purpose::Commit] {
            for code in 0..64 {
                let expected = match (purpose, code) {
                    (_, 0) => Outcome::Landed,
                    (Purpose::Commit, 17) => Outcome::Adopt("precommit-expired"),
                    (_, 6 | 7 | 16 | 17 | 18 | 19 | 20) => Outcome::Again,
                    (Purpose::PreCommit, _) => Outcome::Fail("precommit-refused"),
                    (Purpose::Commit, _) => Outcome::Fail("commit-refused"),
                };
                assert_eq!(outcome(purpose, &Answer::Executed(code)), expected, "{purpose} exit {code}");
            }
        }
    }

    #[test]
    fn nothing_is_tried_for_ever() {
        assert_eq!(bounded(Outcome::Again, 3, 0, 0), Outcome::Again);
        assert_eq!(bounded(Outcome::Again, 4, 0, 0), Outcome::Fail("message-refused"));
        assert_eq!(bounded(Outcome::Reseal, 0, 1, 0), Outcome::Reseal);
        assert_eq!(bounded(Outcome::Reseal, 0, 2, 0), Outcome::Fail("ticket-expired"));
        assert_eq!(bounded(Outcome::Reprove, 0, 0, 2), Outcome::Fail("proof-refused"));
        assert_eq!(bounded(Outcome::Landed, 9, 9, 9), Outcome::Landed);
    }

    #[test]
    fn reasons_fit_their_column() {
        for reason in [
            "precommit-expired",
            "number-taken",
            "caller-forbidden",
            "precommit-refused",
            "commit-refused",
            "message-refused",
            "ticket-expired",
            "proof-refused",
            "task-exhausted",
            "precommit-missing",
            "sector-missing",
        ] {
            assert!(reason.len() <= 20, "{reason}");
        }
    }
}
