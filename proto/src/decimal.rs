//! Doubles that are decimals of limited digits: which scale suits a column, and its mantissas.
//!
//! A value is on scale `s` if an integer `m`, |m| ≤ 2^51, gives it back bit for bit as `m as f64 / 10^s`: the correctly
//! rounded quotient, which is what parsing the decimal text gives. Values that are not (NaN, infinities, -0.0, noise
//! in the last bits) are exceptions. Encoders stay within 2^51 because there rounding is one addition; decoders take
//! anything up to 2^53.

use alloc::vec::Vec;

/// 10^0 ..= 10^22: the powers of ten that a double holds exactly.
pub(crate) const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Added to a double of at most 2^51, it leaves the nearest integer in the low bits of the sum.
pub(crate) const ROUND: f64 = 6_755_399_441_055_744.0;
pub(crate) const LARGEST: f64 = 2_251_799_813_685_248.0;

/// Bits that one more digit costs each value.
const DIGIT_BITS: f64 = 3.32;
/// Bits that an exception costs beside its place in the column.
const EXCEPTION_BITS: f64 = 48.0;

/// The nearest integer of `x`, as a double and as an integer. Meaningless beyond ±2^51: compare before use.
#[inline(always)]
pub(crate) fn round(x: f64) -> (f64, i64) {
    let sum = x + ROUND;
    (
        sum - ROUND,
        (sum.to_bits() as i64).wrapping_sub(ROUND.to_bits() as i64),
    )
}

/// The mantissa of `value` on the scale whose power of ten is given, and whether it gives the value back exactly.
#[inline(always)]
fn mantissa(value: f64, power: f64) -> (i64, bool) {
    let x = value * power;
    let (rounded, integer) = round(x);
    (
        integer,
        (x.abs() <= LARGEST) & ((rounded / power).to_bits() == value.to_bits()),
    )
}

/// The scale with the least cost for the column, counting exceptions; `None` if most values are on no scale.
pub(crate) fn scale(values: &[f64]) -> Option<u32> {
    for samples in [8, 64] {
        let step = values.len().div_ceil(samples).max(1);
        let mut sample = [0.0; 64];
        let mut len = 0;
        for value in values.iter().step_by(step) {
            sample[len] = *value;
            len += 1;
        }
        let (scale, misses) = cheapest(&sample[..len])?;
        if misses * 2 > len && samples == 64 {
            return None;
        }
        // A small sample is believed only if the whole column is much like it.
        if len == values.len() || samples == 64 || misses_at(values, scale) * 8 <= values.len() {
            return (misses * 2 <= len).then_some(scale);
        }
    }
    None
}

fn cheapest(sample: &[f64]) -> Option<(u32, usize)> {
    let mut best = None;
    let mut best_cost = f64::INFINITY;
    for scale in 0..POWERS.len() as u32 {
        let digits = f64::from(scale) * DIGIT_BITS * sample.len() as f64;
        if digits >= best_cost {
            break;
        }
        let misses = misses_at(sample, scale);
        let cost = digits + misses as f64 * EXCEPTION_BITS;
        if cost < best_cost {
            best_cost = cost;
            best = Some((scale, misses));
        }
        if misses == 0 {
            break;
        }
    }
    best
}

/// The mantissas on a scale into `out`, and whether all are exact. One pass without a branch.
pub(crate) fn fit(values: &[f64], scale: u32, out: &mut Vec<i64>) -> bool {
    let power = POWERS[scale as usize];
    let (mut differing, mut outside) = (0, 0);
    out.clear();
    out.extend(values.iter().map(|value| {
        let sum = value * power + ROUND;
        // Within ±2^51 the sum keeps the exponent of ROUND.
        outside |= sum.to_bits() ^ ROUND.to_bits();
        differing |= ((sum - ROUND) / power).to_bits() ^ value.to_bits();
        (sum.to_bits() as i64).wrapping_sub(ROUND.to_bits() as i64)
    }));
    (differing == 0) & (outside >> 52 == 0)
}

pub(crate) fn misses_at(values: &[f64], scale: u32) -> usize {
    let power = POWERS[scale as usize];
    values
        .iter()
        .map(|value| usize::from(!mantissa(*value, power).1))
        .sum()
}

/// The mantissas on a scale, and the indices of the exceptions, whose mantissa repeats the one before (0 at first).
pub(crate) fn mantissas(values: &[f64], scale: u32) -> (Vec<i64>, Vec<u32>) {
    let power = POWERS[scale as usize];
    let mut misses = 0;
    let mut out = Vec::with_capacity(values.len());
    out.extend(values.iter().map(|value| {
        let (integer, exact) = mantissa(*value, power);
        misses += usize::from(!exact);
        integer
    }));
    let mut exceptions = Vec::new();
    if misses > 0 {
        let mut last = 0;
        for (at, value) in values.iter().enumerate() {
            if mantissa(*value, power).1 {
                last = out[at];
            } else {
                out[at] = last;
                exceptions.push(at as u32);
            }
        }
    }
    (out, exceptions)
}

/// The greatest common divisor of all magnitudes; 1 if they are all 0 or it would not fit an `i64`.
pub(crate) fn common_factor(values: impl IntoIterator<Item = i64>) -> u64 {
    let mut factor = 0u64;
    for value in values {
        let value = value.unsigned_abs();
        if factor == 0 || value % factor != 0 {
            factor = gcd(factor, value);
            if factor == 1 {
                break;
            }
        }
    }
    if factor == 0 || factor > i64::MAX as u64 {
        1
    } else {
        factor
    }
}

pub(crate) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_does_not_drag_the_column_to_its_digits() {
        let mut values: Vec<f64> = (0..60).map(|i| f64::from(7_396_732 + i) / 1e5).collect();
        values[7] = 74.935_881_999_999_98;
        values[30] = f64::NAN;
        values[31] = -0.0;
        assert_eq!(scale(&values), Some(5));
        let (mantissas, exceptions) = mantissas(&values, 5);
        assert_eq!(exceptions, [7, 30, 31]);
        assert_eq!(mantissas[31], mantissas[29]);
        assert_eq!(mantissas[59], 7_396_791);
    }

    #[test]
    fn noise_alone_has_no_scale() {
        let values: Vec<f64> = (1..100).map(|i| 1.0 / f64::from(i) + 0.1 / 3.0).collect();
        assert_eq!(scale(&values), None);
    }

    #[test]
    fn factors() {
        assert_eq!(common_factor([0, 0]), 1);
        assert_eq!(common_factor([i64::MIN]), 1);
        assert_eq!(common_factor([1500, -2500, 0]), 500);
        assert_eq!(common_factor([i64::MIN, 6]), 2);
    }
}
