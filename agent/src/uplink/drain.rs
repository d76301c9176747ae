//! How fast a backlog is sent: a rate in bytes, and a random pause before the first of them. Pure: time is an argument.

use std::time::{Duration, Instant};

use crate::config;

/// A token bucket: over any time it lets pass the rate times that time, and one second's worth, and the last message.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// Bytes per second.
    rate: f64,
    /// Bytes that may pass now. Negative after a message that was larger than what had gathered.
    level: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(rate: u64, now: Instant) -> Self {
        let rate = rate.max(1) as f64;
        Self {
            rate,
            level: rate,
            at: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + since * self.rate).min(self.rate);
        self.at = self.at.max(now);
    }

    /// When the next message may pass; `None`: now.
    pub(super) fn opens_at(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        // Rounded up, so that it is open at the time that was named.
        (self.level <= 0.0)
            .then(|| now + Duration::from_secs_f64(-self.level / self.rate) + Duration::from_millis(1))
    }

    /// A message passes.
    pub(super) fn take(&mut self, now: Instant, bytes: u64) {
        self.fill(now);
        self.level -= bytes as f64;
    }
}

/// What holds a backlog back.
#[derive(Clone, Debug)]
pub(super) struct Drain {
    bucket: Option<Bucket>,
    jitter: Duration,
    starts: Option<Instant>,
}

impl Drain {
    pub(super) fn new(settings: &config::Uplink, now: Instant) -> Self {
        Self {
            bucket: settings.drain_rate.map(|rate| Bucket::new(rate.as_u64(), now)),
            jitter: settings.drain_jitter,
            starts: None,
        }
    }

    pub(super) fn has_rate(&self) -> bool {
        self.bucket.is_some()
    }

    /// The link is back, and there is a backlog. `random` is uniform over all of `u64`.
    pub(super) fn begin(&mut self, now: Instant, random: u64) {
        self.starts = Some(now + self.jitter.mul_f64(random as f64 / u64::MAX as f64));
    }

    /// When backlog may be sent; `None`: now.
    pub(super) fn opens_at(&mut self, now: Instant) -> Option<Instant> {
        let starts = self.starts.filter(|starts| now < *starts);
        starts.or_else(|| self.bucket.as_mut()?.opens_at(now))
    }

    /// A message of the backlog is handed to the network.
    pub(super) fn take(&mut self, now: Instant, bytes: u64) {
        if let Some(bucket) = &mut self.bucket {
            bucket.take(now, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_drain_begins_after_a_random_pause() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let settings = config::Uplink {
            drain_jitter: 10 * second,
            ..Default::default()
        };
        let mut drain = Drain::new(&settings, now);
        assert_eq!(drain.opens_at(now), None);
        drain.begin(now, u64::MAX);
        assert_eq!(drain.opens_at(now + 9 * second), Some(now + 10 * second));
        assert_eq!(drain.opens_at(now + 10 * second), None);
        drain.begin(now, 0);
        assert_eq!(drain.opens_at(now), None);
    }

    proptest! {
        /// Whatever the sizes and times: never more than the rate allows.
        #[test]
        fn the_rate_holds_over_any_time(
            rate in 1u64..1_000_000,
            steps in prop::collection::vec((1u64..300_000, 0u64..2_000), 1..200),
        ) {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate, start);
            let (mut now, mut passed) = (start, 0u64);
            for (bytes, wait) in steps {
                now += Duration::from_millis(wait);
                if let Some(at) = bucket.opens_at(now) {
                    prop_assert!(at > now);
                    now = at;
                    prop_assert_eq!(bucket.opens_at(now), None, "closed at the time it named");
                }
                bucket.take(now, bytes);
                passed += bytes;
                let allowed = ((now - start).as_secs_f64() + 1.0) * rate as f64 + bytes as f64 + 1.0;
                prop_assert!(passed as f64 <= allowed, "{passed} of {allowed}");
            }
        }

        /// Where there is always something to send, the rate is reached.
        #[test]
        fn the_rate_is_reached(rate in 1u64..1_000_000, sizes in prop::collection::vec(1u64..300_000, 1..200)) {
            let start = Instant::now();
            let mut bucket = Bucket::new(rate, start);
            let (mut now, mut passed, count) = (start, 0u64, sizes.len());
            for bytes in sizes {
                now = bucket.opens_at(now).unwrap_or(now);
                let rounding = Duration::from_millis(1) * count as u32;
                let since = (now - start).saturating_sub(rounding).as_secs_f64();
                prop_assert!(passed as f64 + 1.0 >= since * rate as f64, "{passed} in {since} s");
                bucket.take(now, bytes);
                passed += bytes;
            }
        }
    }
}
