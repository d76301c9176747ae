//! Times as other programs write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de::Error as _};
use toml_datetime::{Datetime, Offset};

use crate::settings::TimeFormat;

/// What a clock that was set shows: 2000-01-01 to 2100-01-01. Anything else is a device that has not been told the time, or
/// a number that is none.
const PLAUSIBLE: std::ops::Range<i64> = 946_684_800_000_000..4_102_444_800_000_000;

/// How far a clock is ahead of UTC.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct UtcOffset {
    minutes: i16,
}

impl fmt::Debug for UtcOffset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, minutes) = (
            if self.minutes < 0 { '-' } else { '+' },
            self.minutes.unsigned_abs(),
        );
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl FromStr for UtcOffset {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // RFC 3339 has one grammar for offsets, and the parser for it wants the rest of a time before it.
        let minutes = match format!("2000-01-01T00:00:00{text}").parse::<Datetime>() {
            Ok(Datetime {
                offset: Some(Offset::Z),
                ..
            }) => 0,
            Ok(Datetime {
                offset: Some(Offset::Custom { minutes }),
                ..
            }) => minutes,
            _ => return Err(format!("{text:?} is not an offset such as \"Z\" or \"+01:00\"")),
        };
        Ok(Self { minutes })
    }
}

impl<'de> Deserialize<'de> for UtcOffset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// The microseconds since the Unix epoch that a number says, if it is a time that makes sense.
pub(crate) fn of_number(number: f64, format: TimeFormat) -> Option<i64> {
    let us = match unit(number.abs(), format)? {
        TimeFormat::S => number * 1e6,
        TimeFormat::Ms => number * 1e3,
        TimeFormat::Us => number,
        _ => number / 1e3,
    };
    // Out of range it saturates, and is not plausible.
    plausible(us.round() as i64)
}

/// As [`of_number`], exactly, of a whole number.
pub(crate) fn of_integer(number: i64, format: TimeFormat) -> Option<i64> {
    let us = match unit(number as f64, format)? {
        TimeFormat::S => number.saturating_mul(1_000_000),
        TimeFormat::Ms => number.saturating_mul(1_000),
        TimeFormat::Us => number,
        _ => number.div_euclid(1_000),
    };
    plausible(us)
}

fn unit(magnitude: f64, format: TimeFormat) -> Option<TimeFormat> {
    match format {
        TimeFormat::Rfc3339 => None,
        TimeFormat::Auto if magnitude < 1e11 => Some(TimeFormat::S),
        TimeFormat::Auto if magnitude < 1e14 => Some(TimeFormat::Ms),
        TimeFormat::Auto if magnitude < 1e17 => Some(TimeFormat::Us),
        TimeFormat::Auto => Some(TimeFormat::Ns),
        format => Some(format),
    }
}

/// The microseconds since the Unix epoch that a text says: a number, or a date and time as of RFC 3339, which may lack its offset
/// if `offset` stands for it.
pub(crate) fn of_text(text: &str, format: TimeFormat, offset: Option<UtcOffset>) -> Option<i64> {
    let text = text.trim();
    if format != TimeFormat::Rfc3339 {
        if let Ok(number) = text.parse() {
            return of_integer(number, format);
        }
        if let Ok(number) = text.parse() {
            return of_number(number, format);
        }
        if format != TimeFormat::Auto {
            return None;
        }
    }
    let Datetime {
        date: Some(date),
        time: Some(time),
        offset: own,
    } = text.parse().ok()?
    else {
        return None;
    };
    let ahead_min = match own {
        Some(Offset::Z) => 0,
        Some(Offset::Custom { minutes }) => minutes,
        None => offset?.minutes,
    };
    let days = days(i64::from(date.year), i64::from(date.month), i64::from(date.day));
    let minutes = (days * 24 + i64::from(time.hour)) * 60 + i64::from(time.minute) - i64::from(ahead_min);
    let seconds = minutes * 60 + i64::from(time.second.unwrap_or(0));
    plausible(seconds * 1_000_000 + i64::from(time.nanosecond.unwrap_or(0) / 1_000))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, by years that begin in March, so that a leap day is their last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year - 719_468
}

fn plausible(us: i64) -> Option<i64> {
    PLAUSIBLE.contains(&us).then_some(us)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: i64 = 1_700_000_000_000_000;

    #[test]
    fn a_number_is_taken_in_the_unit_that_puts_it_in_our_time() {
        for number in [
            1_700_000_000,
            1_700_000_000_000,
            1_700_000_000_000_000,
            1_700_000_000_000_000_000,
        ] {
            assert_eq!(of_integer(number, TimeFormat::Auto), Some(T));
            assert_eq!(of_number(number as f64, TimeFormat::Auto), Some(T));
            assert_eq!(of_text(&number.to_string(), TimeFormat::Auto, None), Some(T));
        }
        assert_eq!(
            of_number(1_700_000_000.123_456, TimeFormat::Auto),
            Some(T + 123_456)
        );
        assert_eq!(of_text("1700000000.5", TimeFormat::S, None), Some(T + 500_000));
    }

    #[test]
    fn a_text_is_a_date_and_time_with_an_offset() {
        for (text, expected) in [
            ("2023-11-14T22:13:20Z", T),
            ("2023-11-14T22:13:20.123456Z", T + 123_456),
            ("2023-11-14 23:13:20+01:00", T),
            ("2023-11-14t16:43:20-05:30", T),
            ("2000-02-29T00:00:00Z", 951_782_400_000_000),
            ("2024-12-31T23:59:59.999999999Z", 1_735_689_599_999_999),
        ] {
            assert_eq!(of_text(text, TimeFormat::Auto, None), Some(expected), "{text}");
        }
    }

    #[test]
    fn without_an_offset_a_text_is_a_time_only_where_the_settings_give_one() {
        let text = "2023-11-14T23:13:20";
        assert_eq!(of_text(text, TimeFormat::Auto, None), None);
        assert_eq!(
            of_text(text, TimeFormat::Auto, Some("+01:00".parse().unwrap())),
            Some(T)
        );
        assert!("Berlin".parse::<UtcOffset>().is_err());
        assert!("".parse::<UtcOffset>().is_err());
    }

    #[test]
    fn what_no_clock_that_was_set_shows_is_no_time() {
        for text in [
            "1970-01-01T00:00:07Z",
            "9999-01-01T00:00:00Z",
            "2023-02-30T00:00:00Z",
            "23:13:20",
            "2023-11-14",
            "soon",
            "",
            "NaN",
            "inf",
            "1e300",
            "17",
            "-1700000000",
        ] {
            assert_eq!(of_text(text, TimeFormat::Auto, None), None, "{text}");
        }
        assert_eq!(of_text("1700000000", TimeFormat::Rfc3339, None), None);
        assert_eq!(of_text("2023-11-14T22:13:20Z", TimeFormat::Ms, None), None);
    }
}
