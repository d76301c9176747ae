//! One stream of one device: which batch is the next, and what is known to be in Kafka.
//!
//! Two positions: `accepted` (handed to Kafka's client, in order) and `delivered` (reported as in Kafka). Only the
//! second is ever acknowledged. `delivered ≤ accepted`; between them is what is in flight.

use std::time::{Duration, Instant};

/// What to do with a sequence number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The stream's next.
    Next,
    /// Already accepted.
    Duplicate,
    /// Something before it did not arrive.
    Gap,
}

/// How far the dead letter of a refused batch has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetterState {
    /// It is to be written when the batch comes again.
    Due,
    /// It is on its way to Kafka.
    Sent,
    /// It is in Kafka, or can never be. Only now the agent is told.
    Done,
}

/// A batch that is refused for good, until a loss record comes in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its sequence number: the stream's next.
    pub seq: u64,
    /// Why, for the agent and the dead letter.
    pub reason: String,
    /// How far its dead letter has come.
    pub letter: LetterState,
    /// Whether Kafka refuses it though it can be decoded.
    pub unfit: bool,
}

/// The state of a stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    accepted: u64,
    delivered: u64,
    /// The agent holds nothing up to here, said its hello.
    floor: u64,
    /// The batch that is refused, if one is.
    pub refused: Option<Refused>,
    went_back: Option<(Instant, u64)>,
    /// Since when no hello lists it.
    unlisted: Option<Instant>,
    /// It ended without a clean stop, said a hello.
    torn: bool,
}

impl Stream {
    /// A stream of which everything up to `position` is in Kafka.
    pub fn new(position: u64) -> Self {
        Self {
            accepted: position,
            delivered: position,
            ..Self::default()
        }
    }

    /// A hello says that it ended without a clean stop. Returns whether that is news.
    pub fn tear(&mut self) -> bool {
        !std::mem::replace(&mut self.torn, true)
    }

    /// A hello lists it.
    pub fn list(&mut self) {
        self.unlisted = None;
    }

    /// A hello does not list it. Returns since when none does.
    pub fn unlist(&mut self, now: Instant) -> Instant {
        *self.unlisted.get_or_insert(now)
    }

    /// The last sequence number that is in Kafka.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// The last sequence number handed to Kafka's client.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// What to do with this sequence number.
    pub fn judge(&self, seq: u64) -> Verdict {
        if seq <= self.accepted {
            Verdict::Duplicate
        } else if seq - self.accepted == 1 {
            Verdict::Next
        } else {
            Verdict::Gap
        }
    }

    /// Whether Kafka has refused this sequence number for good.
    pub fn is_unfit(&self, seq: u64) -> bool {
        self.refused
            .as_ref()
            .is_some_and(|refused| refused.unfit && refused.seq == seq)
    }

    /// The stream's next batch, which covers everything to `through`, was handed to Kafka's client.
    pub fn accept(&mut self, through: u64) {
        debug_assert!(through > self.accepted);
        self.accepted = through;
        self.refused = None;
    }

    /// What was accepted last, from `seq` on, was not handed over after all.
    pub fn take_back(&mut self, seq: u64) {
        self.accepted = self.delivered.max(seq - 1);
    }

    /// Everything up to `through` is in Kafka. Returns whether that is news.
    pub fn deliver(&mut self, through: u64) -> bool {
        let news = through > self.delivered;
        self.delivered = self.delivered.max(through);
        self.accepted = self.accepted.max(through);
        news
    }

    /// What was in flight is void: the next is the one after the last delivered. Returns whether anything was.
    pub fn roll_back(&mut self) -> bool {
        let any = self.accepted > self.delivered;
        self.accepted = self.delivered;
        any
    }

    /// The agent says that it holds nothing before `first_seq`.
    pub fn holds_from(&mut self, first_seq: u64) {
        self.floor = first_seq.saturating_sub(1);
    }

    /// The sequence number up to which the agent holds nothing though Kafka lacks it: a hole that only a loss record
    /// of our own can close. Honest agents never make one; a corrupt journal may.
    pub fn hole(&self) -> Option<u64> {
        (self.floor > self.accepted).then_some(self.floor)
    }

    /// Whether to tell the agent to go back now: not again for the same position within `interval`, since what was on
    /// its way when we said so still arrives.
    pub fn goes_back(&mut self, now: Instant, interval: Duration) -> bool {
        match self.went_back {
            Some((at, position)) if position == self.accepted && now.duration_since(at) < interval => false,
            _ => {
                self.went_back = Some((now, self.accepted));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_next_is_accepted() {
        let mut stream = Stream::new(4);
        assert_eq!(stream.judge(4), Verdict::Duplicate);
        assert_eq!(stream.judge(6), Verdict::Gap);
        assert_eq!(stream.judge(5), Verdict::Next);
        stream.accept(9);
        assert_eq!(
            (stream.judge(9), stream.judge(10)),
            (Verdict::Duplicate, Verdict::Next)
        );
        assert_eq!(stream.delivered(), 4);
        assert!(stream.deliver(9));
        assert!(!stream.deliver(9));
        assert_eq!(stream.delivered(), 9);
    }

    #[test]
    fn what_was_in_flight_is_asked_for_again_after_a_roll_back() {
        let mut stream = Stream::new(0);
        stream.accept(1);
        stream.accept(2);
        stream.deliver(1);
        assert!(stream.roll_back());
        assert_eq!(stream.judge(2), Verdict::Next);
        assert!(!stream.roll_back());
    }

    #[test]
    fn the_last_sequence_number_there_can_be_ends_a_stream_without_a_panic() {
        let mut stream = Stream::new(0);
        stream.accept(u64::MAX);
        assert_eq!(
            (stream.judge(1), stream.judge(u64::MAX)),
            (Verdict::Duplicate, Verdict::Duplicate)
        );
    }

    #[test]
    fn going_back_is_said_once_per_position_and_interval() {
        let (mut stream, start, second) = (Stream::new(0), Instant::now(), Duration::from_secs(1));
        assert!(stream.goes_back(start, second));
        assert!(!stream.goes_back(start + second / 2, second));
        assert!(stream.goes_back(start + second, second));
        stream.accept(1);
        assert!(stream.goes_back(start + second, second));
    }

    #[test]
    fn a_hole_is_what_neither_side_has() {
        let mut stream = Stream::new(3);
        stream.holds_from(3);
        assert_eq!(stream.hole(), None);
        stream.holds_from(4);
        assert_eq!(stream.hole(), None);
        stream.holds_from(7);
        assert_eq!(stream.hole(), Some(6));
    }
}
