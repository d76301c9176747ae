//! How many readings a source may hand over. Pure: time is an argument.

use std::time::{Duration, Instant};

/// Seconds' worth of readings that may come at once.
const BURST: f64 = 10.0;

/// A bucket that fills at a rate, ten seconds' worth at most.
#[derive(Debug)]
pub(super) struct Allowance {
    rate: f64,
    left: f64,
    filled: Instant,
}

impl Allowance {
    /// Full, for `rate` readings a second.
    pub(super) fn new(rate: u32, now: Instant) -> Self {
        let rate = f64::from(rate.max(1));
        Self {
            rate,
            left: rate * BURST,
            filled: now,
        }
    }

    /// How many of `readings` may go on now; these are taken.
    pub(super) fn take(&mut self, now: Instant, readings: usize) -> usize {
        self.fill(now);
        let granted = readings.min(self.left.max(0.0) as usize);
        self.left -= granted as f64;
        granted
    }

    /// Takes `readings`, and returns how long to wait before they go on.
    pub(super) fn wait(&mut self, now: Instant, readings: usize) -> Duration {
        self.fill(now);
        self.left -= readings as f64;
        Duration::from_secs_f64((-self.left / self.rate).max(0.0))
    }

    /// How long until `readings` may go on at once; `None`: that is more than ever may.
    #[cfg(feature = "source-http")]
    pub(super) fn room(&mut self, now: Instant, readings: usize) -> Option<Duration> {
        self.fill(now);
        let readings = readings as f64;
        (readings <= self.rate * BURST)
            .then(|| Duration::from_secs_f64(((readings - self.left) / self.rate).max(0.0)))
    }

    fn fill(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.left = (self.left + seconds * self.rate).min(self.rate * BURST);
        self.filled = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let mut allowance = Allowance::new(100, start);
        assert_eq!(allowance.take(start, 5_000), 1_000);
        assert_eq!(allowance.take(start, 1), 0);
        assert_eq!(allowance.take(start + Duration::from_secs(1), 5_000), 100);
        assert_eq!(allowance.take(start + Duration::from_secs(100), 5_000), 1_000);
    }

    #[cfg(feature = "source-http")]
    #[test]
    fn room_is_told_and_not_taken() {
        let start = Instant::now();
        let mut allowance = Allowance::new(100, start);
        assert_eq!(allowance.room(start, 1_000), Some(Duration::ZERO));
        assert_eq!(allowance.room(start, 1_001), None);
        assert_eq!(allowance.take(start, 1_000), 1_000);
        assert_eq!(allowance.room(start, 50), Some(Duration::from_millis(500)));
        assert_eq!(
            allowance.room(start + Duration::from_secs(1), 50),
            Some(Duration::ZERO)
        );
        assert_eq!(
            allowance.room(start + Duration::from_secs(1), 0),
            Some(Duration::ZERO)
        );
    }

    #[test]
    fn who_waits_gets_the_rate_on_average() {
        let start = Instant::now();
        let mut allowance = Allowance::new(10, start);
        let mut now = start;
        for _ in 0..100 {
            now += allowance.wait(now, 7);
        }
        // 700 readings, 100 of them at once.
        let seconds = now.duration_since(start).as_secs_f64();
        assert!((seconds - 60.0).abs() < 0.01, "{seconds}");
    }
}
