//! The shape of a proving period. The true one lasts a day; a test that lives through one takes a shorter.

/// When sectors are proven. The default is what real networks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PostPolicy {
    /// Deadlines of a proving period.
    pub deadlines: u64,
    /// Epochs for which a deadline is open.
    pub challenge_window: i64,
    /// Epochs before its opening at which the randomness of a deadline is drawn.
    pub challenge_lookback: i64,
    /// Epochs before its opening from which faults and recoveries of a deadline cannot be declared any more.
    pub fault_cutoff: i64,
}

impl Default for PostPolicy {
    fn default() -> PostPolicy {
        PostPolicy { deadlines: 48, challenge_window: 60, challenge_lookback: 20, fault_cutoff: 70 }
    }
}

/// No chain can have this proving period.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPostPolicy {
    #[error("there must be 3 to 48 deadlines, not {0}: new sectors go to none that is open, and to none that is next")]
    Deadlines(u64),
    #[error("a challenge window must have 4 to 2880 epochs, not {0}")]
    ChallengeWindow(i64),
    #[error("the challenge must lie 1 to {most} epochs before the opening (the challenge window), not {actual}")]
    ChallengeLookback { most: i64, actual: i64 },
    #[error(
        "the fault cutoff must lie {least} to {most} epochs before the opening, not {actual}: not after the challenge, \
         and not before the deadline's last closing"
    )]
    FaultCutoff { least: i64, most: i64, actual: i64 },
}

impl PostPolicy {
    /// Epochs of a proving period.
    pub fn period(&self) -> i64 {
        i64::try_from(self.deadlines).map_or(i64::MAX, |deadlines| deadlines.saturating_mul(self.challenge_window))
    }

    /// Whether a chain can have it.
    ///
    /// # Errors
    /// What must be different.
    pub fn check(&self) -> Result<(), BadPostPolicy> {
        let PostPolicy { deadlines, challenge_window, challenge_lookback, fault_cutoff } = *self;
        if !(3..=48).contains(&deadlines) {
            return Err(BadPostPolicy::Deadlines(deadlines));
        }
        if !(4..=2880).contains(&challenge_window) {
            return Err(BadPostPolicy::ChallengeWindow(challenge_window));
        }
        if !(1..=challenge_window).contains(&challenge_lookback) {
            return Err(BadPostPolicy::ChallengeLookback { most: challenge_window, actual: challenge_lookback });
        }
        let (least, most) = (challenge_lookback, self.period() - challenge_window);
        match (least..most).contains(&fault_cutoff) {
            true => Ok(()),
            false => Err(BadPostPolicy::FaultCutoff { least, most: most - 1, actual: fault_cutoff }),
        }
    }
}

#[cfg(test)]
mod tests {
    use fil_actors_shared::v18::runtime::Policy;

    use super::*;

    #[test]
    fn the_default_is_that_of_the_published_actors() {
        let (ours, theirs) = (PostPolicy::default(), Policy::default());
        assert_eq!(ours.deadlines, theirs.wpost_period_deadlines);
        assert_eq!(ours.challenge_window, theirs.wpost_challenge_window);
        assert_eq!(ours.challenge_lookback, theirs.wpost_challenge_lookback);
        assert_eq!(ours.fault_cutoff, theirs.fault_declaration_cutoff);
        assert_eq!(ours.period(), theirs.wpost_proving_period);
    }

    #[test]
    fn periods_in_which_nothing_could_be_proven_are_refused() {
        let demo = PostPolicy { deadlines: 4, challenge_window: 24, challenge_lookback: 8, fault_cutoff: 12 };
        for (policy, expected) in [
            (PostPolicy::default(), Ok(())),
            (demo, Ok(())),
            (PostPolicy { deadlines: 2, ..demo }, Err(BadPostPolicy::Deadlines(2))),
            (PostPolicy { deadlines: 49, ..demo }, Err(BadPostPolicy::Deadlines(49))),
            (PostPolicy { challenge_window: 3, ..demo }, Err(BadPostPolicy::ChallengeWindow(3))),
            (
                PostPolicy { challenge_lookback: 25, ..demo },
                Err(BadPostPolicy::ChallengeLookback { most: 24, actual: 25 }),
            ),
            (PostPolicy { fault_cutoff: 7, ..demo }, Err(BadPostPolicy::FaultCutoff { least: 8, most: 71, actual: 7 })),
            (
                PostPolicy { fault_cutoff: 72, ..demo },
                Err(BadPostPolicy::FaultCutoff { least: 8, most: 71, actual: 72 }),
            ),
        ] {
            assert_eq!(policy.check(), expected, "{policy:?}");
        }
    }
}
