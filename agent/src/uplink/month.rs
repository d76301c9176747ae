//! Months that begin on a day of one's choice, at 00:00 UTC.

use crate::calendar::{date, days};

/// Seconds in a day.
const DAY: i64 = 86_400;

/// When the month that `now` (seconds since the Unix epoch) lies in began, and when the next begins.
pub(super) fn around(now: i64, reset_day: u8) -> (i64, i64) {
    let (year, month, day) = date(now.div_euclid(DAY));
    let begin = |months: i64| {
        let months = year * 12 + (month - 1) + months;
        days(
            months.div_euclid(12),
            months.rem_euclid(12) + 1,
            i64::from(reset_day),
        ) * DAY
    };
    if day >= i64::from(reset_day) {
        (begin(0), begin(1))
    } else {
        (begin(-1), begin(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_is_28_to_31_days_and_holds_the_moment() {
        for reset_day in [1, 15, 28] {
            for now in (0..4_000_000_000).step_by(1_000_003) {
                let (begin, end) = around(now, reset_day);
                assert!(begin <= now && now < end);
                assert!((28..=31).contains(&((end - begin) / DAY)), "{now}");
                assert_eq!(date(begin / DAY).2, i64::from(reset_day));
                assert_eq!(around(end, reset_day).0, end);
            }
        }
    }
}
