//! What a raw figure means: value = (raw + before) × factor + after, reckoned in decimals, so that 21573 × 0.001 is the double
//! nearest to 21.573 and not one with noise in its last place.
//!
//! A factor that is no short decimal (0.305175781 of a converter's scale) would give every value a tail of digits that mean
//! nothing and cost bytes: what is finer than a hundredth of the factor, the step between neighbouring raw figures, is rounded.

use std::fmt::{Display, Write};

/// Digits after the point that a [`Decimal`] may have.
const DIGITS: u32 = 18;

/// mantissa / 10^digits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Decimal {
    mantissa: i128,
    digits: u32,
}

impl Decimal {
    pub(crate) const ZERO: Self = Self::integer(0);
    pub(crate) const ONE: Self = Self::integer(1);

    pub(crate) const fn integer(value: i128) -> Self {
        Self {
            mantissa: value,
            digits: 0,
        }
    }

    /// Reads `-12`, `0.305175781`, `1.5e-05`; `None` for what is no such number or has more than 18 digits before or after the
    /// point.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (text, exponent) = match text.split_once(['e', 'E']) {
            Some((text, exponent)) => (text, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let unsigned = whole.strip_prefix(['-', '+']).unwrap_or(whole);
        let count = unsigned.len() + part.len();
        let are_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if !(1..=36).contains(&count) || !are_digits(unsigned) || !are_digits(part) {
            return None;
        }
        let mut mantissa = 0i128;
        for digit in unsigned.bytes().chain(part.bytes()) {
            mantissa = mantissa * 10 + i128::from(digit - b'0');
        }
        if whole.starts_with('-') {
            mantissa = -mantissa;
        }
        let mut digits = i32::try_from(part.len()).ok()?.checked_sub(exponent)?;
        while digits > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            digits -= 1;
        }
        while digits < 0 {
            mantissa = mantissa.checked_mul(10)?;
            digits += 1;
        }
        let digits = u32::try_from(digits).ok()?;
        let short = digits <= DIGITS && mantissa.unsigned_abs() < 10u128.pow(2 * DIGITS);
        short.then_some(Self { mantissa, digits })
    }

    /// The decimal that the double is written as; `None` for what is no number or too long.
    pub(crate) fn from_f64(value: f64) -> Option<Self> {
        text(value, Self::parse)?
    }

    /// Divided by 10^`digits`.
    pub(crate) const fn shifted(self, digits: u32) -> Self {
        Self {
            mantissa: self.mantissa,
            digits: self.digits + digits,
        }
    }

    fn plus(self, other: Self) -> Option<Self> {
        let digits = self.digits.max(other.digits);
        let aligned = |decimal: Self| {
            decimal
                .mantissa
                .checked_mul(10i128.checked_pow(digits - decimal.digits)?)
        };
        Some(Self {
            mantissa: aligned(self)?.checked_add(aligned(other)?)?,
            digits,
        })
    }

    fn times(self, other: Self) -> Option<Self> {
        Some(Self {
            mantissa: self.mantissa.checked_mul(other.mantissa)?,
            digits: self.digits + other.digits,
        })
    }

    /// Rounded to so many digits, halves away from zero.
    fn rounded(self, digits: u32) -> Self {
        let Some(power) = 10i128.checked_pow(self.digits.saturating_sub(digits)) else {
            return Self::ZERO;
        };
        if power == 1 {
            return self;
        }
        let half = power / 2 * self.mantissa.signum();
        Self {
            mantissa: self.mantissa.saturating_add(half) / power,
            digits,
        }
    }

    /// The nearest double.
    pub(crate) fn to_f64(self) -> f64 {
        // Both exact, so the one division rounds correctly.
        if self.mantissa.unsigned_abs() < 1 << 53 && self.digits <= 22 {
            return self.mantissa as f64 / 10f64.powi(self.digits as i32);
        }
        read(format_args!("{}e-{}", self.mantissa, self.digits)).unwrap_or(f64::NAN)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Scale {
    before: Decimal,
    factor: Decimal,
    after: Decimal,
    /// Digits that are kept of raw figures without digits.
    digits: u32,
}

impl Scale {
    pub(crate) fn new(before: Decimal, factor: Decimal, after: Decimal) -> Self {
        let mut step = 0;
        let mut reach = factor.mantissa.unsigned_abs();
        while step < factor.digits && reach < 10u128.pow(factor.digits) {
            reach *= 10;
            step += 1;
        }
        Self {
            before,
            factor,
            after,
            digits: (step + 2).max(after.digits),
        }
    }

    /// raw × `factor` + `offset`, both as in a file of settings; `Err` is the one that is no decimal of at most 18 digits.
    pub(crate) fn from_settings(factor: f64, offset: f64) -> Result<Self, f64> {
        let decimal = |value| Decimal::from_f64(value).ok_or(value);
        Ok(Self::new(Decimal::ZERO, decimal(factor)?, decimal(offset)?))
    }

    /// raw / 10^`digits`.
    pub(crate) fn milli(digits: u32) -> Self {
        Self::new(Decimal::ZERO, Decimal::ONE.shifted(digits), Decimal::ZERO)
    }

    /// Whether the raw figure is the value.
    pub(crate) fn is_identity(&self) -> bool {
        self.before.mantissa == 0 && self.factor == Decimal::ONE && self.after.mantissa == 0
    }

    /// The value of a raw figure.
    pub(crate) fn apply(&self, raw: Decimal) -> f64 {
        let exact = || raw.plus(self.before)?.times(self.factor)?.plus(self.after);
        match exact() {
            Some(value) => value.rounded(self.digits + raw.digits).to_f64(),
            // More digits than 128 bits hold.
            None => self.apply_f64(raw.to_f64()),
        }
    }

    /// The value of a raw figure that is a double: by way of its decimal where it has one.
    pub(crate) fn apply_double(&self, raw: f64) -> f64 {
        if self.is_identity() {
            return raw;
        }
        match Decimal::from_f64(raw) {
            Some(raw) => self.apply(raw),
            None => self.apply_f64(raw),
        }
    }

    fn apply_f64(&self, raw: f64) -> f64 {
        (raw + self.before.to_f64()) * self.factor.to_f64() + self.after.to_f64()
    }
}

/// The double nearest to the shortest decimal that a single-precision figure is written as: 41.27 for 41.27, where widening
/// gives 41.27000045776367. Narrowed again it is the same single.
pub(crate) fn widened(value: f32) -> f64 {
    read(format_args!("{value}"))
        .filter(|wide| value.is_finite() && *wide as f32 == value)
        .unwrap_or(f64::from(value))
}

/// The number that `text` is.
fn read(short: impl Display) -> Option<f64> {
    text(short, |text| text.parse().ok())?
}

/// What `read` makes of a short text, without an allocation; `None` for a long one.
fn text<T>(text: impl Display, read: impl FnOnce(&str) -> T) -> Option<T> {
    struct Short {
        bytes: [u8; 64],
        len: usize,
    }
    impl Write for Short {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            let end = self.len + text.len();
            let room = self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?;
            room.copy_from_slice(text.as_bytes());
            self.len = end;
            Ok(())
        }
    }
    let mut short = Short {
        bytes: [0; 64],
        len: 0,
    };
    match write!(short, "{text}") {
        Ok(()) => Some(read(std::str::from_utf8(&short.bytes[..short.len]).ok()?)),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(raw: i128, factor: f64, offset: f64) -> f64 {
        Scale::from_settings(factor, offset)
            .unwrap()
            .apply(Decimal::integer(raw))
    }

    #[test]
    fn a_scaled_integer_is_the_double_that_its_text_reads_as() {
        for (raw, factor, offset, text) in [
            (21_573, 0.001, 0.0, "21.573"),
            (-31, 0.1, 0.0, "-3.1"),
            (3, 0.1, 0.0, "0.3"),
            (337, 0.0625, 0.0, "21.0625"),
            (650, 0.1, -40.0, "25"),
            (20, 1.0, 273.15, "293.15"),
            (7, 250.0, 0.0, "1750"),
            (i128::from(u64::MAX), 0.001, 0.0, "18446744073709551.615"),
            (65_535, 1e-6, 0.0, "0.065535"),
        ] {
            let want: f64 = text.parse().unwrap();
            assert_eq!(scaled(raw, factor, offset).to_bits(), want.to_bits(), "{text}");
        }
    }

    #[test]
    fn digits_under_a_hundredth_of_the_step_are_rounded_away() {
        // A step of 0.000305: seven digits are under a hundredth of it.
        let factor = Decimal::parse("0.305175781").unwrap().shifted(3);
        let scale = Scale::new(Decimal::ZERO, factor, Decimal::ZERO);
        assert_eq!(scale.apply(Decimal::integer(12_345)).to_string(), "3.767395");
        assert_ne!(scale.apply(Decimal::integer(1)), scale.apply(Decimal::integer(2)));
        assert_eq!(scaled(-12_345, 0.000_305_175_781, 0.0), -3.767395);
    }

    #[test]
    fn decimals_are_read_as_they_are_written() {
        for (text, value) in [
            ("12", Some(12.0)),
            ("-0.5", Some(-0.5)),
            ("+7.25", Some(7.25)),
            ("1.5e-05", Some(1.5e-5)),
            ("2E3", Some(2000.0)),
            (".5", Some(0.5)),
            ("100.000000000", Some(100.0)),
            ("", None),
            ("-", None),
            (".", None),
            ("1.2.3", None),
            ("0x10", None),
            ("nan", None),
            ("1e40", None),
            ("1e-19", None),
            ("1e99999999999", None),
            ("1e-2147483648", None),
        ] {
            assert_eq!(Decimal::parse(text).map(Decimal::to_f64), value, "{text}");
        }
        assert_eq!(
            Scale::from_settings(f64::NAN, 0.0).err().map(f64::is_nan),
            Some(true)
        );
        assert_eq!(Scale::from_settings(1.0, 1e300), Err(1e300));
    }

    #[test]
    fn a_single_becomes_the_decimal_it_is_written_as_and_narrows_back() {
        assert_eq!(widened(41.27).to_string(), "41.27");
        assert_eq!(widened(-0.0).to_bits(), (-0.0f64).to_bits());
        for value in [
            f32::MIN_POSITIVE,
            f32::MAX,
            1e-45,
            16_777_216.0,
            0.1,
            f32::INFINITY,
        ] {
            assert_eq!(widened(value) as f32, value);
        }
        assert!(widened(f32::NAN).is_nan());
    }

    proptest::proptest! {
        #[test]
        fn no_figure_and_no_scale_overflow(raw: i64, factor in -1e17..1e17f64, offset in -1e17..1e17f64) {
            if let Ok(scale) = Scale::from_settings(factor, offset) {
                let value = scale.apply(Decimal::integer(raw.into()));
                let about = raw as f64 * factor + offset;
                proptest::prop_assert!((value - about).abs() <= about.abs().max(1.0) * 1e-6 + (raw as f64 * factor).abs() * 1e-9, "{value} {about}");
            }
        }

        #[test]
        fn every_single_comes_back(bits: u32) {
            let value = f32::from_bits(bits);
            proptest::prop_assert!(value.is_nan() || (widened(value) as f32).to_bits() == bits);
        }
    }
}
