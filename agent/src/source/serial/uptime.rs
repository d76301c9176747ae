//! A microcontroller's milliseconds since its start become times. Pure.
//!
//! What counts is the moment of arrival: between two frames the microcontroller's timer only says how far they are apart, so
//! that a regular cadence stays regular to the millisecond while arrivals tremble. When the two drift apart by more than
//! [`TOLERANCE_US`], or the timer goes back (a restart, or 49.7 days), the next frame's arrival counts again. So does a jump of
//! this machine's clock.

/// Arrivals tremble by less than this: the line, its driver, other work of this machine.
const TOLERANCE_US: i64 = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Uptime {
    /// The microcontroller's start by this machine's clock, and its timer at the last frame.
    start: Option<(i64, u32)>,
}

impl Uptime {
    /// When readings were taken that arrived at `arrival_us`; the sender's timer showed `taken_ms` then, and `age_ms` passed until it
    /// sent them. 0 for `taken_ms`: it has none.
    pub(super) fn time(&mut self, arrival_us: i64, taken_ms: u32, age_ms: u32) -> i64 {
        // Whole milliseconds: more is the line's trembling, and costs bytes.
        let arrival_us = arrival_us - arrival_us.rem_euclid(1000);
        let age_us = i64::from(age_ms) * 1000;
        if taken_ms == 0 {
            return arrival_us - age_us;
        }
        let taken_us = i64::from(taken_ms) * 1000;
        let by_arrival = arrival_us - age_us - taken_us;
        let start = match self.start {
            // No frame arrives before it is sent: the earliest start that was seen is the one with the least delay.
            Some((start, last)) if taken_ms >= last && (0..=TOLERANCE_US).contains(&(by_arrival - start)) => {
                start
            }
            _ => by_arrival,
        };
        self.start = Some((start, taken_ms));
        start + taken_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_700_000_000_000_000;

    #[test]
    fn a_regular_cadence_is_regular_though_arrivals_tremble() {
        let mut uptime = Uptime::default();
        // Delays, microseconds; the first is the least.
        for (second, delay) in (1..).zip([2_100i64, 9_000, 40_000, 2_900, 99_000, 7_777]) {
            let arrival = START + i64::from(second) * 1_000_000 + delay;
            assert_eq!(
                uptime.time(arrival, second * 1000, 0),
                START + i64::from(second) * 1_000_000 + 2_000
            );
        }
        // One with less delay shows that all were late.
        assert_eq!(uptime.time(START + 7_000_500, 7_000, 0), START + 7_000_000);
        assert_eq!(uptime.time(START + 8_050_000, 8_000, 0), START + 8_000_000);
    }

    #[test]
    fn a_timer_that_drifts_is_followed_within_a_tenth_of_a_second() {
        let mut uptime = Uptime::default();
        for minute in 1..10_000i64 {
            // 100 ppm slow.
            let true_us = minute * 60_000_000;
            let taken_ms = (true_us / 1000 * 9_999 / 10_000) as u32;
            let error = (uptime.time(START + true_us, taken_ms, 0) - (START + true_us)).abs();
            assert!(error <= TOLERANCE_US + 1_000, "{error} µs after {minute} min");
        }
    }

    #[test]
    fn restarts_ages_and_missing_timers_count_from_the_arrival() {
        let mut uptime = Uptime::default();
        assert_eq!(uptime.time(START + 60_000_000, 60_000, 0), START + 60_000_000);
        // Started anew.
        assert_eq!(uptime.time(START + 90_000_000, 1_000, 0), START + 90_000_000);
        assert_eq!(uptime.time(START + 91_003_000, 2_000, 0), START + 91_000_000);
        // Sent five minutes late, and then the present.
        assert_eq!(
            uptime.time(START + 392_000_000, 3_000, 300_000),
            START + 92_000_000
        );
        assert_eq!(uptime.time(START + 393_000_000, 304_000, 0), START + 393_000_000);
        // This machine's clock was set forward.
        assert_eq!(uptime.time(2 * START, 305_000, 0), 2 * START);
        assert_eq!(uptime.time(START + 999, 0, 5), START - 5_000);
        let mut odd = Uptime::default();
        assert_eq!(odd.time(0, u32::MAX, u32::MAX), -i64::from(u32::MAX) * 1000);
    }
}
