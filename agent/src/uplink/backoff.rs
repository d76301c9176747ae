//! Waiting time between attempts to connect: exponential, with full jitter.

use std::time::{Duration, Instant};

use crate::config;

/// A connection that lived this long was a good one: the next attempt starts from the least waiting time.
const GOOD: Duration = Duration::from_secs(10);

/// How long to wait.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    settings: config::Backoff,
    bound: Duration,
}

impl Backoff {
    pub(crate) fn new(settings: config::Backoff) -> Self {
        Self {
            bound: settings.min,
            settings,
        }
    }

    /// The first bound.
    pub(crate) fn min(&self) -> Duration {
        self.settings.min
    }

    /// The time of the next attempt after a connection that stood since `stood`, or was never made. `random` is uniform over
    /// all of `u64`.
    pub(crate) fn next(&mut self, now: Instant, stood: Option<Instant>, random: u64) -> Instant {
        // Not already at the first sign of life: a broker that takes and drops connections must not be hammered.
        if stood.is_some_and(|stood| now >= stood + GOOD) {
            self.bound = self.settings.min;
        }
        let wait = self.bound.mul_f64(random as f64 / u64::MAX as f64);
        self.bound = (self.bound * 2).min(self.settings.max);
        now + wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_doubles_to_the_maximum_and_jitter_is_full() {
        let now = Instant::now();
        let settings = config::Backoff {
            min: Duration::from_secs(1),
            max: Duration::from_secs(5),
        };
        let mut backoff = Backoff::new(settings);
        for seconds in [1, 2, 4, 5, 5] {
            assert_eq!(backoff.clone().next(now, None, 0), now);
            assert_eq!(
                backoff.next(now, None, u64::MAX),
                now + Duration::from_secs(seconds)
            );
        }
        // A connection that broke at once changes nothing; one that stood begins anew.
        assert_eq!(
            backoff.next(now, Some(now), u64::MAX),
            now + Duration::from_secs(5)
        );
        let later = now + GOOD;
        assert_eq!(
            backoff.next(later, Some(now), u64::MAX),
            later + Duration::from_secs(1)
        );
    }
}
