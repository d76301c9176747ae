//! How much a client may ask of its connection in a second. Pure.

use std::time::Instant;

/// Seconds of allowance that may be saved up.
const SAVED: f64 = 4.0;

/// An allowance that fills up steadily.
#[derive(Clone, Debug)]
pub struct Rate {
    per_second: f64,
    left: f64,
    since: Instant,
}

impl Rate {
    /// Full: so much a second, and four seconds of it at once.
    pub fn new(per_second: u32, now: Instant) -> Self {
        let per_second = f64::from(per_second);
        Self {
            per_second,
            left: per_second * SAVED,
            since: now,
        }
    }

    /// Takes so much of it. Returns whether it was there; if not, nothing is taken.
    pub fn take(&mut self, cost: u32, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.since).as_secs_f64();
        self.since = now;
        self.left = (self.left + passed * self.per_second).min(self.per_second * SAVED);
        let is_there = self.left >= f64::from(cost);
        if is_there {
            self.left -= f64::from(cost);
        }
        is_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn never_more_than_the_rate_and_what_was_saved(
            per_second in 1u32..1000,
            steps in prop::collection::vec((0u64..500, 1u32..60), 1..300),
        ) {
            let began = Instant::now();
            let (mut rate, mut now, mut taken) = (Rate::new(per_second, began), began, 0.0);
            for (ms, cost) in steps {
                now += Duration::from_millis(ms);
                if rate.take(cost, now) {
                    taken += f64::from(cost);
                }
                let most = f64::from(per_second) * ((now - began).as_secs_f64() + SAVED);
                prop_assert!(taken <= most + 1e-6, "{taken} {most}");
            }
        }
    }

    #[test]
    fn who_keeps_to_the_rate_is_never_refused() {
        let mut now = Instant::now();
        let mut rate = Rate::new(100, now);
        for _ in 0..10_000 {
            now += Duration::from_millis(10);
            assert!(rate.take(1, now));
        }
        now += Duration::from_secs(1);
        assert!((0..400).all(|_| rate.take(1, now)), "four seconds at once");
        assert!(!rate.take(1, now));
    }
}
