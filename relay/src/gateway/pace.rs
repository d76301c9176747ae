//! How much of the window a link gets at a time, by how quickly it is acknowledged. Pure.
//!
//! What a slow link has not passed on yet waits in buffers on the way, before all that comes later: pongs, answers, newer values. A browser sees
//! whole messages alone, so to a page a link with a minute of data in it is a dead one. So a connection begins with little, gets twice as much each
//! time a whole share came back soon, and less where it took long: what is on its way is some two seconds' worth, whatever window was asked for.

use std::time::{Duration, Instant};

/// What a connection begins with, decoded bytes.
const FIRST: u64 = 32 << 10;
/// It always gets as much, and one frame.
const LEAST: u64 = 2 << 10;
/// A share that took longer than this was too great.
const LONG: Duration = Duration::from_secs(2);
/// One that took no longer than this may be doubled. Acknowledgements wait for up to 50 ms, and a page may draw meanwhile.
const SHORT: Duration = Duration::from_millis(750);

/// What is on its way, and what may be.
#[derive(Clone, Debug)]
pub struct Pace {
    share: u64,
    /// The frame that is timed: decoded bytes sent with it, when it went out, and whether it filled the share.
    timed: Option<(u64, Instant, bool)>,
}

impl Pace {
    /// At the beginning of a connection.
    pub fn new() -> Self {
        let (share, timed) = (FIRST, None);
        Self { share, timed }
    }

    /// Decoded bytes that may be unacknowledged.
    pub fn share(&self) -> u64 {
        self.share
    }

    /// Decoded bytes after which a frame that can be of any size is closed.
    pub fn frame(&self) -> usize {
        usize::try_from(self.share / 2).unwrap_or(usize::MAX)
    }

    /// Whether it has not shown that it is a quick link.
    pub fn may_be_slow(&self) -> bool {
        self.share <= FIRST
    }

    /// Whether another frame may go out; `unacked` bytes are on their way.
    pub fn is_open(&self, unacked: u64) -> bool {
        unacked < self.share
    }

    /// A frame of this length went out, so many bytes in all with it; `unacked` bytes are on their way now.
    pub fn sent(&mut self, length: usize, bytes_total: u64, unacked: u64, now: Instant) {
        // More might have gone in a greater share, or a greater frame.
        let fills = unacked >= self.share || length >= self.frame();
        // One at a time, rather one that fills: those before it stand in its way, as they would stand in a pong's.
        if self.timed.is_none_or(|(_, _, full)| fills && !full) {
            self.timed = Some((bytes_total, now, fills));
        }
    }

    /// So many bytes in all are acknowledged.
    pub fn acked(&mut self, bytes_total: u64, now: Instant) {
        let Some((_, sent, full)) = self.timed.filter(|&(bytes, _, _)| bytes_total >= bytes) else {
            return;
        };
        self.timed = None;
        let took = now.saturating_duration_since(sent);
        if took > LONG {
            let fits = self.share as f64 * LONG.as_secs_f64() / took.as_secs_f64();
            self.share = (fits as u64).max(LEAST);
        } else if full && took <= SHORT {
            self.share = self.share.saturating_mul(2);
        }
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    /// A link of so many bytes a second with a great buffer, a client that acknowledges after 50 ms, and a server with `frame` bytes to send at any
    /// time. Returns what was on its way at most in the last minute of five, seconds, and the bytes a second that passed in it.
    fn over(rate: f64, frame: u64) -> (f64, f64) {
        let (began, mut pace) = (Instant::now(), Pace::new());
        let (mut sent, mut acked, mut free, mut on_its_way) = (0, 0, 0.0_f64, VecDeque::new());
        let (mut longest, mut passed) = (0.0_f64, 0);
        for step in 0..30_000_u32 {
            let at = f64::from(step) / 100.0;
            let now = began + Duration::from_secs_f64(at);
            while let Some(&(arrives, total)) = on_its_way.front()
                && arrives + 0.05 <= at
            {
                on_its_way.pop_front();
                passed += if at > 240.0 { total - acked } else { 0 };
                acked = total;
                pace.acked(acked, now);
            }
            while pace.is_open(sent - acked) {
                sent += frame;
                free = free.max(at) + frame as f64 / rate;
                on_its_way.push_back((free, sent));
                pace.sent(frame as usize, sent, sent - acked, now);
            }
            if at > 240.0 {
                longest = longest.max(free - at);
            }
        }
        (longest, passed as f64 / 60.0)
    }

    #[test]
    fn a_slow_link_has_some_seconds_in_it_and_is_used() {
        for rate in [500.0, 1_500.0, 20_000.0] {
            let (longest, passed) = over(rate, 256);
            assert!(longest < 5.0, "{longest} s at {rate} B/s");
            assert!(passed > rate * 0.5, "{passed} of {rate} B/s");
        }
    }

    #[test]
    fn a_quick_link_gets_what_it_takes() {
        let (_, passed) = over(50_000_000.0, 64 << 10);
        assert!(passed > 40_000_000.0, "{passed} B/s");
    }

    #[test]
    fn little_always_goes_and_a_quiet_link_stays_as_it_is() {
        let (now, mut pace) = (Instant::now(), Pace::new());
        for step in 1..100 {
            pace.sent(1, step, 1, now);
            pace.acked(step, now + LONG * 2);
        }
        assert_eq!(pace.share(), LEAST);
        assert!(pace.is_open(0) && pace.is_open(LEAST - 1) && !pace.is_open(LEAST));
        let mut pace = Pace::new();
        for step in 1..100 {
            pace.sent(1, step, 1, now);
            pace.acked(step, now);
        }
        assert_eq!(pace.share(), FIRST, "it was never used up");
    }
}
