//! Months that begin on a day of one's choice, at 00:00 UTC.

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

// Both ways count years from March, so that the leap day comes last, in eras of 400 years (146,097 days).

/// Days since the Unix epoch of a date in the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of so many days since the Unix epoch.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * of_era + of_era / 4 - of_era / 100);
    let month = (5 * day + 2) / 153;
    let year = era * 400 + of_era + i64::from(month >= 10);
    let day = day - (153 * month + 2) / 5 + 1;
    (year, if month < 10 { month + 3 } else { month - 9 }, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_days() {
        assert_eq!(
            (days(1970, 1, 1), days(2000, 3, 1), days(2026, 11, 22)),
            (0, 11_017, 20_779)
        );
        assert_eq!(date(20_779), (2026, 11, 22));
        assert_eq!(date(days(2024, 2, 29)), (2024, 2, 29));
    }

    #[test]
    fn every_day_of_centuries_goes_there_and_back_and_follows_the_one_before() {
        let mut before = date(-200_000);
        for day in -199_999..200_000 {
            let (y, m, d) = date(day);
            assert_eq!(days(y, m, d), day);
            let next = (before.0, before.1, before.2 + 1);
            assert!(
                (y, m, d) == next || (d == 1 && before.2 >= 28),
                "{before:?} {:?}",
                (y, m, d)
            );
            before = (y, m, d);
        }
    }

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
