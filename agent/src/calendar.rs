//! Days and dates of the Gregorian calendar, and times as people read them.

// Both ways count years from March, so that the leap day comes last, in eras of 400 years (146,097 days).

/// Days since the Unix epoch of a date in the Gregorian calendar.
pub(crate) fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of so many days since the Unix epoch.
pub(crate) fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * of_era + of_era / 4 - of_era / 100);
    let month = (5 * day + 2) / 153;
    let year = era * 400 + of_era + i64::from(month >= 10);
    let day = day - (153 * month + 2) / 5 + 1;
    (year, if month < 10 { month + 3 } else { month - 9 }, day)
}

/// A time of so many microseconds since the Unix epoch, as ISO 8601 in UTC, to the millisecond.
pub(crate) fn iso(us: i64) -> String {
    let (seconds, us) = (us.div_euclid(1_000_000), us.rem_euclid(1_000_000));
    let (day, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = date(day);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        us / 1000
    )
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
    fn times_as_people_read_them() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(-1), "1969-12-31T23:59:59.999Z");
        // 20,779 days, and 13:14:15.678.
        let us = (20_779 * 86_400 + 13 * 3600 + 14 * 60 + 15) * 1_000_000 + 678_999;
        assert_eq!(iso(us), "2026-11-22T13:14:15.678Z");
    }
}
