//! A column whose integers lie close together: its distances in 32 bits, four of which go through a register at a time.
//! What is written is what [`integers`](super::integers) would write of the same column in 64 bits.

use alloc::vec::Vec;

use wide::bytemuck::cast;
use wide::{f64x2, u32x4, u64x2};

use super::bits::Writer;
use super::choice::Choice;
use super::exact::Exact;
use super::predict::{self, HISTORY, Predictor};
use super::rice;
use crate::decimal::{POWERS, ROUND};

/// Distances are at least `-REACH` and below `REACH`. Residuals to any prediction are below 2^27 then, and sixteen of them
/// have a sum of 32 bits.
const REACH: i64 = 1 << 24;
/// Mantissas this far from zero and their neighbours within `REACH` are well inside of what [`ROUND`] can round.
const LARGEST_FIRST: f64 = 1_125_899_906_842_624.0;
/// Distances within `REACH` times this factor, as doubles, are exact beside such a mantissa.
const LARGEST_FACTOR: u64 = 1 << 25;

/// Buffers that columns share.
#[derive(Default)]
pub(super) struct Narrow {
    /// `HISTORY` zeros, the distances, and at least as many zeros again.
    distances: Vec<i32>,
    count: usize,
    /// What the distances have been divided by.
    factor: u64,
    residuals: Vec<[u32; HISTORY]>,
    ranks: Vec<u64>,
}

/// Whether a union of distances, each with `REACH` added, tells that all are within reach.
fn within_reach(union: u64) -> bool {
    union < 2 * REACH as u64
}

impl Narrow {
    fn room(&mut self, count: usize, factor: u64) -> &mut [i32] {
        let end = HISTORY + count;
        if self.distances.len() < end + HISTORY {
            self.distances.resize(end + HISTORY, 0);
        }
        (self.count, self.factor) = (count, factor);
        // The zeros in front stay as they are.
        self.distances[end..end + HISTORY].fill(0);
        &mut self.distances[HISTORY..end]
    }

    /// How many were taken.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    fn distances(&self) -> &[i32] {
        &self.distances[HISTORY..HISTORY + self.count]
    }

    /// Takes distances if they are close together.
    pub(super) fn take(&mut self, distances: &[i64], from: i64) -> bool {
        let mut union = 0;
        for (narrow, distance) in self.room(distances.len(), 1).iter_mut().zip(distances) {
            let distance = distance.wrapping_sub(from);
            union |= distance.wrapping_add(REACH) as u64;
            *narrow = distance as i32;
        }
        within_reach(union)
    }

    /// Takes distances that have been divided by a factor, if they are close together.
    pub(super) fn take_quotients(&mut self, distances: &[i64], factor: u64) -> bool {
        let close = self.take(distances, 0);
        self.factor = factor;
        close
    }

    /// Takes distances divided by a factor above 1, if it divides them all, and they are close together then.
    pub(super) fn take_divided(&mut self, values: &[i64], from: i64, by: &Exact) -> bool {
        let factor = by.factor();
        let (mut union, mut rest) = (0, 0);
        for (narrow, value) in self.room(values.len(), factor).iter_mut().zip(values) {
            let distance = value.wrapping_sub(from);
            let quotient = by.quotient(distance);
            union |= quotient.wrapping_add(REACH) as u64;
            rest |= quotient.wrapping_mul(factor as i64) ^ distance;
            *narrow = quotient as i32;
        }
        within_reach(union) & (rest == 0) & (factor <= 1 << 38)
    }

    /// Takes the mantissas of doubles on a scale, divides their distances by the factor, and gives the first, if all are
    /// exact and close together. One pass without a branch.
    pub(super) fn fit(&mut self, values: &[f64], scale: u32, factor: u64) -> Option<i64> {
        let power = POWERS[scale as usize];
        let sum = values.first()? * power + ROUND;
        let mantissa = sum.to_bits().wrapping_sub(ROUND.to_bits()) as i64;
        let first = sum - ROUND;
        let [power, round] = [power, ROUND].map(f64x2::splat);
        let exact = if factor == 1 {
            let nearest = |value: f64x2| value * power + round;
            self.fit_each(values, sum, factor, nearest, |sum| (sum - round) / power)
        } else if factor <= LARGEST_FACTOR {
            let [steps, parts, first] = [factor as f64, 1.0 / factor as f64, first].map(f64x2::splat);
            let nearest = |value: f64x2| (value * power - first) * parts + round;
            self.fit_each(values, ROUND, factor, nearest, |sum| {
                ((sum - round) * steps + first) / power
            })
        } else {
            false
        };
        (exact & (first.abs() <= LARGEST_FIRST)).then_some(mantissa)
    }

    /// `nearest` makes the distance of a value, in the low bits and with `origin` added; `back` gives the value again.
    #[inline(always)]
    fn fit_each(
        &mut self,
        values: &[f64],
        origin: f64,
        factor: u64,
        nearest: impl Fn(f64x2) -> f64x2,
        back: impl Fn(f64x2) -> f64x2,
    ) -> bool {
        let out = self.room(values.len(), factor);
        let origin = u64x2::splat(origin.to_bits());
        let reach = u64x2::splat(REACH as u64);
        let (mut union, mut differing) = (u64x2::splat(0), f64x2::splat(0.0));
        let mut fit = |values: &[f64; 4]| -> [i32; 4] {
            let pairs: [f64x2; 2] = cast(*values);
            let distances = pairs.map(|pair| {
                let sum = nearest(pair);
                let distance = cast::<f64x2, u64x2>(sum) - origin;
                union |= distance + reach;
                differing |= back(sum) ^ pair;
                distance
            });
            // The lower halves.
            let [a, b] = distances.map(cast::<u64x2, u32x4>);
            cast(a.unpack_lo(b).unpack_lo(a.unpack_hi(b)))
        };
        let (fours, rest) = values.as_chunks();
        let (out, out_rest) = out.as_chunks_mut();
        for (out, values) in out.iter_mut().zip(fours) {
            *out = fit(values);
        }
        if let Some(last) = rest.last() {
            let mut values = [*last; 4];
            values.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
            let distances = fit(&values);
            out_rest
                .iter_mut()
                .zip(distances)
                .for_each(|(to, from)| *to = from);
        }
        let [union, differing] = [union, cast(differing)].map(u64x2::to_array);
        within_reach(union[0] | union[1]) & (differing[0] | differing[1] == 0)
    }

    /// Whether all are the same.
    pub(super) fn is_constant(&self) -> bool {
        let union = self
            .distances()
            .iter()
            .fold(0, |union, distance| union | distance);
        union == 0
    }

    /// Writes what comes after the first: at least one distance beside it, and not all 0.
    pub(super) fn encode(&mut self, out: &mut Writer, choice: &mut Choice) {
        let residuals = self.count - 1;
        let known = choice.integers().filter(|known| suits(known.predictor));
        let known = known.map(|known| known.predictor);
        if known.is_none() && self.factor == 1 {
            self.factor = u64::from(divide(&mut self.distances[HISTORY..HISTORY + self.count]));
        }
        let predictor = known.unwrap_or_else(|| predict::choose_narrow(self.distances()));
        predict::residuals_narrow(&self.distances, self.count, predictor, &mut self.residuals);
        if known.is_none() {
            let all = self.residuals.as_flattened();
            let total = all.iter().map(|residual| u64::from(*residual)).sum();
            let distances = &self.distances[HISTORY..HISTORY + self.count];
            if let Some(table) = predict::rank(distances, total, &mut self.ranks) {
                predict::head_of_ranks(out, &table, self.factor);
                rice::encode(out, &self.ranks);
                return;
            }
        }
        predict::head(out, predictor, self.factor);
        let before = out.bits();
        rice::encode_narrow(out, &self.residuals, residuals);
        let bits = out.bits() - before;
        match known {
            Some(_) => choice.judge(bits, residuals),
            None => choice.keep(self.factor, predictor, bits, residuals),
        }
    }
}

/// Whether residuals stay below 2^27.
fn suits(predictor: Predictor) -> bool {
    (-2 * REACH..=2 * REACH).contains(&predictor.step)
}

fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// Whether two of the first few are one apart, so that no division is needed to know that they have no common factor.
fn neighbours(distances: &[i32]) -> bool {
    let early = &distances[..distances.len().min(20)];
    (1..4).any(|lag| {
        let pairs = early.iter().zip(early.get(lag..).unwrap_or_default());
        pairs.fold(false, |found, (a, b)| found | ((a - b).unsigned_abs() == 1))
    })
}

/// Divides all by their greatest common factor and gives it. At least one is not 0.
fn divide(distances: &mut [i32]) -> u32 {
    if neighbours(distances) {
        return 1;
    }
    let (early, _) = distances.split_at(distances.len().min(8));
    let mut factor = 0;
    for distance in early {
        factor = gcd(factor, distance.unsigned_abs());
        if factor == 1 {
            return 1;
        }
    }
    // Once a few agree, all the others most often do.
    if factor == 0 || !divides(distances, factor) {
        for distance in distances.iter() {
            factor = gcd(factor, distance.unsigned_abs());
            if factor == 1 {
                return 1;
            }
        }
    }
    let (shift, inverse, _) = inverse(factor);
    distances
        .iter_mut()
        .for_each(|distance| *distance = (*distance >> shift).wrapping_mul(inverse));
    factor
}

/// What divides multiples of a factor: a shift, the inverse modulo 2^32 of what is odd in it, and the largest quotient.
fn inverse(factor: u32) -> (u32, i32, i32) {
    let shift = factor.trailing_zeros() & 31;
    let odd = factor >> shift;
    // Newton: correct to 3 bits at first (odd × odd ≡ 1 mod 8), twice as many after each step.
    let mut inverse = odd;
    for _ in 0..4 {
        inverse = inverse.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(inverse)));
    }
    (shift, inverse as i32, REACH as i32 / factor as i32)
}

/// Of an integer that is no multiple, the inverse makes one larger than any quotient.
fn divides(distances: &[i32], factor: u32) -> bool {
    let (shift, inverse, most) = inverse(factor);
    let below = (1 << shift) - 1;
    let mut rest = 0;
    for distance in distances {
        let quotient = (distance >> shift).wrapping_mul(inverse);
        rest |= (distance & below) | i32::from(quotient > most) | i32::from(quotient < -most);
    }
    rest == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn factors() {
        for factor in [2u32, 3, 5, 25, 625, 1000, 4096, 99_991] {
            let multiples: Vec<i32> = (-60..60).map(|n| n * factor as i32).collect();
            let mut distances = multiples.clone();
            assert_eq!(divide(&mut distances), factor);
            assert!(distances.iter().copied().eq(-60..60));
            // Agreement of the first ends late.
            let mut distances = multiples;
            distances[100] += 1;
            assert_eq!(divide(&mut distances), 1, "{factor}");
        }
        let reach = REACH as i32;
        let mut ends = [0, -reach, reach / 2];
        assert_eq!((divide(&mut ends), ends), (1 << 23, [0, -2, 1]));
    }

    #[test]
    fn reach() {
        let mut narrow = Narrow::default();
        assert!(narrow.take(&[0, REACH - 1, -REACH], 0));
        assert!(!narrow.take(&[0, REACH], 0));
        assert!(!narrow.take(&[0, -REACH - 1], 0));
        assert!(!narrow.take(&[0, i64::MAX], 0));
        // Distances wrap around.
        assert!(narrow.take(&[i64::MIN, i64::MAX], i64::MIN));
        assert_eq!(narrow.fit(&[0.5, 1.25], 2, 1), Some(50));
        assert_eq!(narrow.fit(&[0.5, 1.253], 2, 1), None);
        assert_eq!(narrow.fit(&[0.5, 16_777_216.0], 0, 1), None);
        assert_eq!(narrow.fit(&[1e15, f64::NAN], 0, 1), None);
        assert_eq!(narrow.fit(&[2e15, 2e15], 0, 1), None);
    }
}
