//! Deadlines of window PoSt: arithmetic over what `StateMinerProvingDeadline` answers. Pure.
//!
//! A proving period is cut into windows, one per deadline: `[Open, Close)` in epochs. A deadline's
//! sectors are proven once in its window, over randomness of its challenge epoch, which lies before it.
//! Every length comes out of the answer itself, so that test networks may have other ones.
//!
//! A miner without sectors has no clock of its own: its answer names the deadline at which the miner
//! was made, often far ahead. `Open > CurrentEpoch` is therefore normal and says nothing of the present.

use curio_core::Epoch;

use crate::types::DeadlineInfo;

impl DeadlineInfo {
    /// A deadline of the public networks, seen from an epoch: the lengths are the policy of their miner actor. For plans
    /// and tests; what is to be done now is said by a node's answer.
    pub fn of_public_networks(period_start: Epoch, index: u64, current_epoch: Epoch) -> DeadlineInfo {
        let lengths = DeadlineInfo {
            current_epoch,
            period_start,
            index: 0,
            open: period_start,
            close: period_start,
            challenge: period_start,
            fault_cutoff: period_start,
            wpost_period_deadlines: 48,
            wpost_proving_period: 2880,
            wpost_challenge_window: 60,
            wpost_challenge_lookback: 20,
            fault_declaration_cutoff: 70,
        };
        lengths.at(period_start, index)
    }

    /// Another deadline of the same network, as seen from the same epoch.
    pub fn at(&self, period_start: Epoch, index: u64) -> DeadlineInfo {
        let open = period_start + self.offset(index);
        DeadlineInfo {
            period_start,
            index,
            open,
            close: open + self.wpost_challenge_window,
            challenge: open - self.wpost_challenge_lookback,
            fault_cutoff: open - self.fault_declaration_cutoff,
            ..*self
        }
    }

    /// The same deadline as seen from another epoch.
    pub fn seen_from(&self, epoch: Epoch) -> DeadlineInfo {
        DeadlineInfo { current_epoch: epoch, ..*self }
    }

    /// Whether proofs are taken now.
    pub fn is_open(&self) -> bool {
        self.current_epoch >= self.open && !self.has_elapsed()
    }

    /// Whether it is too late for proofs.
    pub fn has_elapsed(&self) -> bool {
        self.current_epoch >= self.close
    }

    /// Whether the challenge can be drawn, so that proving can begin.
    pub fn challenge_reached(&self) -> bool {
        self.current_epoch >= self.challenge
    }

    /// Whether the chain refuses declarations of faults and recoveries for this window.
    pub fn fault_cutoff_passed(&self) -> bool {
        self.current_epoch >= self.fault_cutoff
    }

    /// Last epoch in which a message with a proof may be executed.
    pub fn last(&self) -> Epoch {
        self.close - 1
    }

    /// First epoch at which proofs are sent: `confidence` epochs after the opening, so that a
    /// reorganisation of the challenge is seen first, but never beyond a quarter of the window.
    pub fn submit_from(&self, confidence: u32) -> Epoch {
        self.open + i64::from(confidence).min(self.wpost_challenge_window / 4)
    }

    /// First epoch of the proving period after this deadline's.
    pub fn next_period_start(&self) -> Epoch {
        self.period_start + self.wpost_proving_period
    }

    /// The deadline after this one; after the last of a period, the first of the next.
    pub fn next(&self) -> DeadlineInfo {
        match self.index + 1 {
            index if index < self.wpost_period_deadlines => self.at(self.period_start, index),
            _ => self.at(self.next_period_start(), 0),
        }
    }

    /// This deadline, or its first repetition that is not over.
    pub fn next_not_elapsed(&self) -> DeadlineInfo {
        if !self.has_elapsed() {
            return *self;
        }
        let periods = 1 + (self.current_epoch - self.close) / self.wpost_proving_period;
        self.at(self.period_start + periods * self.wpost_proving_period, self.index)
    }

    /// The next window of a deadline that is not over. The answer may name a period that is still to come: of a miner
    /// whose first window has not ended, and at a head after null rounds over the end of a window.
    pub fn window_of(&self, index: u64) -> DeadlineInfo {
        self.at(self.period_start - self.wpost_proving_period, index).next_not_elapsed()
    }

    /// One turn of all deadlines, from this one (or its next repetition) on, in the order of their windows.
    pub fn upcoming(&self) -> impl Iterator<Item = DeadlineInfo> + use<> {
        let turn = usize::try_from(self.wpost_period_deadlines).expect("a period has few deadlines");
        std::iter::successors(Some(self.next_not_elapsed()), |deadline| Some(deadline.next())).take(turn)
    }

    /// The deadlines that can be proven now: the challenge is known, the window is not over. The open
    /// one first, if there is one.
    pub fn provable(&self) -> impl Iterator<Item = DeadlineInfo> + use<> {
        self.upcoming().take_while(DeadlineInfo::challenge_reached)
    }

    /// Whether sectors may be moved out of this deadline or terminated in it: not in its window, and not
    /// in the one before.
    pub fn is_mutable(&self) -> bool {
        self.current_epoch < self.next_not_elapsed().open - self.wpost_challenge_window
    }

    /// The end of a window of this deadline at or after `epoch`. Sectors leave the chain there: an
    /// expiration in between counts as this epoch.
    pub fn quantize_up(&self, epoch: Epoch) -> Epoch {
        let period = self.wpost_proving_period;
        let into_period = (epoch - self.last()).rem_euclid(period);
        match into_period {
            0 => epoch,
            into_period => epoch + (period - into_period),
        }
    }

    fn offset(&self, index: u64) -> i64 {
        i64::try_from(index).expect("a deadline index is small") * self.wpost_challenge_window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// t01000 of the recordings at epoch 549, as the node answered it.
    fn recorded() -> DeadlineInfo {
        DeadlineInfo {
            current_epoch: Epoch(549),
            period_start: Epoch(-2222),
            index: 46,
            open: Epoch(538),
            close: Epoch(598),
            challenge: Epoch(518),
            fault_cutoff: Epoch(468),
            wpost_period_deadlines: 48,
            wpost_proving_period: 2880,
            wpost_challenge_window: 60,
            wpost_challenge_lookback: 20,
            fault_declaration_cutoff: 70,
        }
    }

    /// t01005 of the recordings at epoch 549: a miner without sectors, whose answer names a window far ahead.
    fn idle() -> DeadlineInfo {
        recorded().at(Epoch(1232), 30)
    }

    /// Windows of 10 epochs, challenges 25 epochs ahead: several challenges are known at a time.
    fn short() -> DeadlineInfo {
        let policy = DeadlineInfo {
            wpost_period_deadlines: 4,
            wpost_proving_period: 40,
            wpost_challenge_window: 10,
            wpost_challenge_lookback: 25,
            fault_declaration_cutoff: 30,
            ..recorded()
        };
        policy.at(Epoch(100), 2).seen_from(Epoch(124))
    }

    fn indices(deadlines: impl Iterator<Item = DeadlineInfo>) -> Vec<(i64, u64)> {
        deadlines.map(|deadline| (deadline.period_start.0, deadline.index)).collect()
    }

    #[test]
    fn a_deadline_made_from_its_period_and_index_is_the_node_s() {
        assert_eq!(recorded().at(Epoch(-2222), 46), recorded());
        assert_eq!(DeadlineInfo::of_public_networks(Epoch(-2222), 46, Epoch(549)), recorded());
        let idle = idle();
        assert_eq!(
            (idle.open, idle.close, idle.challenge, idle.fault_cutoff),
            (Epoch(3032), Epoch(3092), Epoch(3012), Epoch(2962))
        );
    }

    #[test]
    fn a_window_includes_its_opening_and_not_its_close() {
        // (seen from, challenge reached, cutoff passed, open, elapsed)
        let table = [
            (467, false, false, false, false),
            (468, false, true, false, false),
            (517, false, true, false, false),
            (518, true, true, false, false),
            (537, true, true, false, false),
            (538, true, true, true, false),
            (597, true, true, true, false),
            (598, true, true, false, true),
        ];
        for (epoch, challenge, cutoff, open, elapsed) in table {
            let seen = recorded().seen_from(Epoch(epoch));
            let found = (seen.challenge_reached(), seen.fault_cutoff_passed(), seen.is_open(), seen.has_elapsed());
            assert_eq!(found, (challenge, cutoff, open, elapsed), "seen from {epoch}");
        }
        assert_eq!(recorded().last(), Epoch(597));
    }

    #[test]
    fn the_last_deadline_of_a_period_is_followed_by_the_first_of_the_next() {
        let last = recorded().next();
        assert_eq!((last.index, last.open), (47, Epoch(598)));
        let first = last.next();
        assert_eq!((first.period_start, first.index, first.open), (Epoch(658), 0, Epoch(658)));
    }

    #[test]
    fn a_deadline_that_is_over_comes_again_in_a_later_period() {
        // (seen from, opening of the next window that is not over)
        for (epoch, open) in
            [(549, 538), (597, 538), (598, 3418), (3477, 3418), (3478, 6298), (9000, 9178), (9238, 12058)]
        {
            let next = recorded().seen_from(Epoch(epoch)).next_not_elapsed();
            assert_eq!((next.index, next.open), (46, Epoch(open)), "seen from {epoch}");
        }
    }

    #[test]
    fn the_next_window_of_a_deadline_does_not_depend_on_the_period_that_is_named() {
        let ahead = recorded().at(Epoch(658), 46);
        for (index, epoch, open) in [(46, 597, 538), (46, 598, 3418), (47, 598, 598), (45, 598, 3358), (0, 598, 658)] {
            for answer in [recorded(), ahead] {
                assert_eq!(answer.seen_from(Epoch(epoch)).window_of(index).open, Epoch(open), "{index} from {epoch}");
            }
        }
        assert_eq!(idle().window_of(30), idle());
    }

    #[test]
    fn a_turn_has_every_deadline_once_in_the_order_of_their_windows() {
        let turn: Vec<DeadlineInfo> = recorded().upcoming().collect();
        assert_eq!(turn.len(), 48);
        assert_eq!((turn[0].index, turn[1].index, turn[2].index, turn[47].index), (46, 47, 0, 45));
        assert!(turn.windows(2).all(|pair| pair[0].close == pair[1].open));
    }

    #[test]
    fn what_can_be_proven_now_begins_at_the_challenge() {
        let provable = |epoch| indices(recorded().seen_from(Epoch(epoch)).provable());
        assert_eq!(provable(517), []);
        assert_eq!(provable(518), [(-2222, 46)]);
        assert_eq!(provable(577), [(-2222, 46)]);
        assert_eq!(provable(578), [(-2222, 46), (-2222, 47)]);
    }

    #[test]
    fn several_challenges_may_be_known_at_a_time() {
        assert_eq!(indices(short().provable()), [(100, 2), (100, 3), (140, 0)]);
    }

    #[test]
    fn a_miner_without_sectors_has_nothing_to_prove_although_its_answer_names_a_deadline() {
        assert!(!idle().is_open() && !idle().has_elapsed());
        assert_eq!(indices(idle().provable()), []);
    }

    #[test]
    fn proofs_are_sent_a_little_after_the_opening() {
        // (configured confidence, first epoch)
        for (confidence, epoch) in [(0, 538), (4, 542), (15, 553), (16, 553), (u32::MAX, 553)] {
            assert_eq!(recorded().submit_from(confidence), Epoch(epoch), "confidence {confidence}");
        }
        assert_eq!(short().submit_from(4), Epoch(122));
    }

    #[test]
    fn a_deadline_is_mutable_until_the_window_before_its_own() {
        for (epoch, mutable) in
            [(477, true), (478, false), (538, false), (597, false), (598, true), (3357, true), (3358, false)]
        {
            assert_eq!(recorded().seen_from(Epoch(epoch)).is_mutable(), mutable, "seen from {epoch}");
        }
    }

    #[test]
    fn expirations_count_from_the_end_of_a_window() {
        // Sector 3 of the recordings lies in deadline 1, expires at 1800000 and counts as 1800777.
        let deadline = recorded().at(Epoch(-2222), 1);
        for (epoch, end) in [
            (1_800_000, 1_800_777),
            (1_800_777, 1_800_777),
            (1_800_778, 1_803_657),
            (-2103, -2103),
            (-2104, -2103),
            (-5000, -4983),
        ] {
            assert_eq!(deadline.quantize_up(Epoch(epoch)), Epoch(end), "{epoch}");
        }
    }
}
