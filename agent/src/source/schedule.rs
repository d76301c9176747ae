//! Ticks at whole multiples of an interval since the Unix epoch, so that sources of one interval share their ticks and a
//! batch stores one time column for all of them.

use std::time::Duration;

use crate::clock::Clock;

/// When to sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    interval_us: i64,
}

impl Schedule {
    /// Every `interval`, at least a millisecond.
    pub(crate) fn every(interval: Duration) -> Self {
        Self {
            interval_us: i64::try_from(interval.as_micros()).unwrap_or(i64::MAX).max(1_000),
        }
    }

    /// The time between ticks.
    pub(crate) fn interval(self) -> Duration {
        Duration::from_micros(self.interval_us.unsigned_abs())
    }

    /// The first tick after `now_us`.
    pub(crate) fn after(self, now_us: i64) -> i64 {
        (now_us.div_euclid(self.interval_us) + 1).saturating_mul(self.interval_us)
    }

    /// The newest tick that is not after `now_us`.
    fn upto(self, now_us: i64) -> i64 {
        now_us.div_euclid(self.interval_us) * self.interval_us
    }

    /// Waits for the next tick after `previous_us` and returns it. Ticks that passed meanwhile are skipped; a clock that is
    /// set back by more than an interval starts the schedule anew.
    pub(crate) async fn tick(self, clock: &Clock, previous_us: Option<i64>) -> i64 {
        let due = self.next(clock.now_us(), previous_us);
        sleep_until(clock, due).await;
        self.come(due, clock.now_us())
    }

    /// The next tick after `previous_us`, as of `now_us`.
    pub(super) fn next(self, now_us: i64, previous_us: Option<i64>) -> i64 {
        let due = self.after(now_us);
        match previous_us.filter(|previous| *previous >= due && *previous - due < self.interval_us) {
            Some(previous) => previous + self.interval_us,
            None => due,
        }
    }

    /// The tick that has come at `now_us` to who waited for `due`: a later one where that is more than one interval ago (a suspended
    /// machine, a clock set forward).
    pub(super) fn come(self, due: i64, now_us: i64) -> i64 {
        due.max(self.upto(now_us))
    }
}

/// The longest sleep at once, so that a clock set forward is noticed.
pub(super) const PIECE: Duration = Duration::from_secs(10);

/// Sleeps until the clock shows `due_us`.
pub(crate) async fn sleep_until(clock: &Clock, due_us: i64) {
    loop {
        let left = due_us - clock.now_us();
        if left <= 0 {
            return;
        }
        tokio::time::sleep(Duration::from_micros(left.unsigned_abs()).min(PIECE)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_multiples_of_the_interval() {
        let schedule = Schedule::every(Duration::from_secs(10));
        assert_eq!(schedule.after(0), 10_000_000);
        assert_eq!(schedule.after(9_999_999), 10_000_000);
        assert_eq!(schedule.after(10_000_000), 20_000_000);
        assert_eq!(schedule.upto(19_999_999), 10_000_000);
        assert_eq!(schedule.after(-1), 0);
    }

    #[tokio::test]
    async fn a_tick_comes_once_and_not_early() {
        let schedule = Schedule::every(Duration::from_millis(20));
        let clock = Clock::default();
        let mut previous = None;
        for _ in 0..5 {
            let tick = schedule.tick(&clock, previous).await;
            assert!(clock.now_us() >= tick && tick % 20_000 == 0);
            assert!(
                previous.is_none_or(|previous| tick > previous),
                "{previous:?} {tick}"
            );
            previous = Some(tick);
        }
    }
}
