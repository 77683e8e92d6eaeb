//! When a ticket is drawn, how long it may be used, and until when a sector lives. Pure arithmetic.

use curio_core::Epoch;
use curio_core::epoch::{
    EpochDelta, MAX_PRE_COMMIT_RANDOMNESS_LOOKBACK, MAX_SECTOR_EXPIRATION_EXTENSION, SEAL_RANDOMNESS_LOOKBACK,
};

/// A seal ticket: chain randomness that is bound into every label of the sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Negative on a chain younger than finality; the actor takes it.
    pub epoch: Epoch,
    pub value: [u8; 32],
}

/// Where a ticket is drawn when the chain is at `head`.
pub fn ticket_epoch(head: Epoch) -> Epoch {
    head - SEAL_RANDOMNESS_LOOKBACK
}

/// Epochs left in which a pre-commit with this ticket may still be executed; zero and below is too late.
///
/// The actor takes `now - 3780` and refuses `now - 3781`, and a message that is built at `head` is
/// executed at `head + 1` at the earliest.
pub fn epochs_left(ticket: Epoch, head: Epoch) -> EpochDelta {
    (ticket + MAX_PRE_COMMIT_RANDOMNESS_LOOKBACK) - head
}

/// Epochs that must be left for labelling to start, or go on, with a stored ticket: 12 hours at 30 s.
/// SDR and the trees take at most half of that; the other half is for a queue before the message.
/// Less than this, and labelling again with a fresh ticket is the cheaper way to lose.
pub const SDR_NEEDS_EPOCHS: EpochDelta = 1440;

/// Epochs that must be left for a pre-commit to be sent: time to be estimated, signed and included.
pub const PRECOMMIT_NEEDS_EPOCHS: EpochDelta = 20;

/// Most times a sector is sealed anew because its ticket ran out; then something else is wrong.
pub const MAX_TICKET_GENERATIONS: i64 = 3;

/// The expiration to ask for: as late as the actor allows, counted from the ticket so that a message
/// which lands late is still inside the limit.
pub fn expiration(ticket: Epoch) -> Epoch {
    ticket + MAX_SECTOR_EXPIRATION_EXTENSION
}

/// How the epochs from the pre-commit's execution to the seed are counted: the seed is drawn at
/// `PreCommitEpoch + delay`.
pub fn seed_epoch(precommit: Epoch, challenge_delay: EpochDelta) -> Epoch {
    precommit + challenge_delay
}

#[cfg(test)]
mod tests {
    use curio_core::epoch::{MAX_PROVE_COMMIT_WINDOW, MIN_SECTOR_EXPIRATION, PRE_COMMIT_CHALLENGE_DELAY};

    use super::*;

    #[test]
    fn a_young_chain_draws_its_ticket_below_zero() {
        assert_eq!(ticket_epoch(Epoch(79)), Epoch(-821));
    }

    #[test]
    fn a_ticket_lasts_exactly_3780_epochs() {
        let table = [(Epoch(100), 2880), (Epoch(2979), 1), (Epoch(2980), 0), (Epoch(2981), -1)];
        for (head, left) in table {
            assert_eq!(epochs_left(ticket_epoch(Epoch(100)), head), left, "at {head}");
        }
    }

    #[test]
    fn a_ticket_that_was_just_drawn_is_good_for_labelling() {
        let head = Epoch(5000);
        assert!(epochs_left(ticket_epoch(head), head) >= SDR_NEEDS_EPOCHS);
    }

    #[test]
    fn the_expiration_is_between_the_shortest_and_the_longest_lifetime_for_as_long_as_the_ticket_lasts() {
        let drawn = Epoch(10_000);
        let ticket = ticket_epoch(drawn);
        for landed in [drawn + 1, ticket + MAX_PRE_COMMIT_RANDOMNESS_LOOKBACK] {
            let activation = landed + MAX_PROVE_COMMIT_WINDOW + PRE_COMMIT_CHALLENGE_DELAY;
            assert!(expiration(ticket) - activation >= MIN_SECTOR_EXPIRATION, "landed at {landed}");
            assert!(expiration(ticket) - landed <= MAX_SECTOR_EXPIRATION_EXTENSION, "landed at {landed}");
        }
    }
}
