//! A column whose integers lie close together: its distances in 32 bits, four of which go through a register at a time.
//! What is written is what [`integers`](super::integers) would write of the same column in 64 bits.

use alloc::vec::Vec;

use wide::bytemuck::{Pod, cast};
use wide::{f64x2, i64x2, u32x4, u64x2};

use super::bits::Writer;
use super::choice::Choice;
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
    constant: bool,
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

    /// Takes distances if they are close together.
    pub(super) fn take(&mut self, distances: &[i64], from: i64) -> bool {
        let (mut union, mut any) = (0, 0);
        for (narrow, distance) in self.room(distances.len(), 1).iter_mut().zip(distances) {
            let distance = distance.wrapping_sub(from);
            union |= distance.wrapping_add(REACH) as u64;
            any |= distance;
            *narrow = distance as i32;
        }
        self.constant = any == 0;
        within_reach(union)
    }

    /// Takes distances that have been divided by a factor, if they are close together.
    pub(super) fn take_quotients(&mut self, distances: &[i64], factor: u64) -> bool {
        let close = self.take(distances, 0);
        self.factor = factor;
        close
    }

    /// Takes distances divided by a factor, if it divides them all, and they are close together then.
    pub(super) fn take_divided(&mut self, values: &[i64], from: i64, factor: u64) -> bool {
        if factor > LARGEST_FACTOR {
            return false;
        }
        // Integers below 2^51 and doubles turn into each other by adding `ROUND`. What larger ones turn into is no matter:
        // quotients within reach are exact, and whether they are the right ones is told by what they give back.
        let [steps, parts, round] = [factor as f64, 1.0 / factor as f64, ROUND].map(f64x2::splat);
        let (from, bits) = (i64x2::splat(from), i64x2::splat(ROUND.to_bits() as i64));
        let nearest = |values: i64x2| {
            let distance = cast::<i64x2, f64x2>(values - from + bits) - round;
            distance * parts + round
        };
        self.fit_each(values, ROUND, factor, nearest, |sum| {
            let distance = (sum - round) * steps + round;
            cast::<f64x2, i64x2>(distance) - bits + from
        })
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
    fn fit_each<T: Pod, Pair: Pod>(
        &mut self,
        values: &[T],
        origin: f64,
        factor: u64,
        nearest: impl Fn(Pair) -> f64x2,
        back: impl Fn(f64x2) -> Pair,
    ) -> bool {
        let out = self.room(values.len(), factor);
        let origin = u64x2::splat(origin.to_bits());
        let reach = u64x2::splat(REACH as u64);
        let [mut union, mut any, mut differing] = [u64x2::splat(0); 3];
        let mut fit = |out: &mut [i32; 4], values: &[T; 4]| {
            let [early, late]: [Pair; 2] = cast(*values);
            let (early_sum, late_sum) = (nearest(early), nearest(late));
            differing |= cast::<Pair, u64x2>(back(early_sum)) ^ cast::<Pair, u64x2>(early);
            differing |= cast::<Pair, u64x2>(back(late_sum)) ^ cast::<Pair, u64x2>(late);
            let early = cast::<f64x2, u64x2>(early_sum) - origin;
            let late = cast::<f64x2, u64x2>(late_sum) - origin;
            any = any | early | late;
            union = union | (early + reach) | (late + reach);
            // The lower halves.
            let (early, late): (u32x4, u32x4) = (cast(early), cast(late));
            *out = cast(early.unpack_lo(late).unpack_lo(early.unpack_hi(late)));
        };
        let fours = values.as_chunks().0.iter().zip(out.as_chunks_mut().0);
        fours.for_each(|(values, out)| fit(out, values));
        // What is left, together with some of those before it.
        match (values.last_chunk(), out.last_chunk_mut()) {
            _ if values.len().is_multiple_of(4) => {}
            (Some(values), Some(out)) => fit(out, values),
            _ => {
                let (mut few, mut distances) = ([values[0]; 4], [0; 4]);
                few[..values.len()].copy_from_slice(values);
                fit(&mut distances, &few);
                out.copy_from_slice(&distances[..values.len()]);
            }
        }
        let [union, any, differing] = [union, any, differing].map(|lanes| {
            let [a, b] = lanes.to_array();
            a | b
        });
        self.constant = any == 0;
        within_reach(union) & (differing == 0)
    }

    /// Whether all are the same.
    pub(super) fn is_constant(&self) -> bool {
        self.constant
    }

    /// Writes what comes after the first: at least one distance beside it, and not all 0.
    #[inline]
    pub(super) fn encode(&mut self, out: &mut Writer, choice: &mut Choice) {
        match choice.integers().map(|known| known.predictor) {
            Some(known) if suits(known) => {
                predict::residuals_narrow(&self.distances, self.count, known, &mut self.residuals);
                let bits = self.write(out, known);
                choice.judge(bits, self.count - 1);
            }
            _ => self.choose(out, choice),
        }
    }

    #[inline(never)]
    fn choose(&mut self, out: &mut Writer, choice: &mut Choice) {
        if self.factor == 1 {
            self.factor = u64::from(divide(&mut self.distances[HISTORY..HISTORY + self.count]));
        }
        let distances = &self.distances[HISTORY..HISTORY + self.count];
        let predictor = predict::choose_narrow(distances);
        predict::residuals_narrow(&self.distances, self.count, predictor, &mut self.residuals);
        let all = self.residuals.as_flattened();
        let total = all.iter().map(|residual| u64::from(*residual)).sum();
        if let Some(table) = predict::rank(distances, total, &mut self.ranks) {
            predict::head_of_ranks(out, &table, self.factor);
            rice::encode(out, &self.ranks);
            return;
        }
        let bits = self.write(out, predictor);
        choice.keep(self.factor, predictor, bits, self.count - 1);
    }

    /// How many bits the residuals took.
    #[inline(always)]
    fn write(&self, out: &mut Writer, predictor: Predictor) -> usize {
        predict::head(out, predictor, self.factor);
        let before = out.bits();
        rice::encode_narrow(out, &self.residuals, self.count - 1);
        out.bits() - before
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
