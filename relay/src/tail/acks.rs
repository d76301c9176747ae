//! When to acknowledge, and what.

use std::time::{Duration, Instant};

use headwater_proto::pb;

/// Acknowledgements wait this long for more.
const WAIT: Duration = Duration::from_millis(50);

/// Counted frames since the connection began, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

/// The counts of one connection.
#[derive(Debug)]
pub(super) struct Acks {
    half: u64,
    received: Total,
    handled: Total,
    acked: Total,
    since: Option<Instant>,
}

impl Acks {
    /// For a window of so many frames.
    pub(super) fn new(window: u32) -> Self {
        Self {
            half: u64::from(window / 2).max(1),
            received: Total::default(),
            handled: Total::default(),
            acked: Total::default(),
            since: None,
        }
    }

    /// A counted frame came. Returns the count with it.
    pub(super) fn received(&mut self, bytes: usize) -> Total {
        self.received.frames += 1;
        self.received.bytes += bytes as u64;
        self.received
    }

    /// Everything up to this count has been handled. A count of an earlier connection is none of this one's: it is handled before another is
    /// begun.
    pub(super) fn handled(&mut self, total: Total, now: Instant) {
        self.handled = total;
        self.since.get_or_insert(now);
    }

    /// When to acknowledge.
    pub(super) fn due(&self) -> Option<Instant> {
        self.since.map(|since| since + WAIT)
    }

    /// The acknowledgement that is due: at half a window, or after a while.
    pub(super) fn take(&mut self, now: Instant) -> Option<pb::ClientAck> {
        let due = self.due()? <= now || self.handled.frames - self.acked.frames >= self.half;
        if !due {
            return None;
        }
        self.since = None;
        self.acked = self.handled;
        Some(pb::ClientAck {
            frames_total: self.acked.frames,
            bytes_total: self.acked.bytes,
            window: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_window_at_once_and_less_after_a_while() {
        let mut acks = Acks::new(8);
        let start = Instant::now();
        assert_eq!((acks.due(), acks.take(start)), (None, None));
        let totals: Vec<Total> = (0..6).map(|_| acks.received(10)).collect();
        acks.handled(totals[2], start);
        assert_eq!(acks.take(start), None);
        assert_eq!(acks.due(), Some(start + WAIT));
        acks.handled(totals[3], start + WAIT / 2);
        let ack = acks.take(start + WAIT / 2).unwrap();
        assert_eq!((ack.frames_total, ack.bytes_total), (4, 40));
        assert_eq!(acks.due(), None);
        acks.handled(totals[4], start + WAIT);
        assert_eq!(acks.take(start + WAIT), None);
        assert_eq!(acks.take(start + WAIT * 2).unwrap().frames_total, 5);
    }
}
