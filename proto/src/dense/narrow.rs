//! A column whose integers lie close together: its distances in 32 bits, four of which go through a register at a time.
//! What is written is what [`integers`](super::integers) would write of the same column in 64 bits.

use alloc::vec::Vec;

use super::bits::Writer;
use super::integers::head;
use super::predict::{self, HISTORY, RANKS, STEP};
use super::rice;
use crate::decimal::{POWERS, ROUND};

/// Distances are at least `-REACH` and below `REACH`. Residuals to any prediction are below 2^27 then, and sixteen of them
/// have a sum of 32 bits.
const REACH: i64 = 1 << 24;
/// Mantissas this far from zero and their neighbours within `REACH` are well inside of what [`ROUND`] can round.
const LARGEST_FIRST: f64 = 1_125_899_906_842_624.0;

/// Buffers that columns share.
#[derive(Default)]
pub(super) struct Narrow {
    /// `HISTORY` zeros, then the distances.
    distances: Vec<i32>,
    sums: [Vec<i32>; 2],
    residuals: Vec<u32>,
    ranks: Vec<u64>,
}

/// Whether a union of distances, each with `REACH` added, tells that all are within reach.
fn within_reach(union: u64) -> bool {
    union < 2 * REACH as u64
}

impl Narrow {
    fn room(&mut self, count: usize) -> &mut [i32] {
        // The zeros in front stay as they are.
        self.distances.resize(HISTORY + count, 0);
        &mut self.distances[HISTORY..]
    }

    /// Takes distances if they are close together.
    pub(super) fn take(&mut self, distances: &[i64], from: i64) -> bool {
        let mut union = 0;
        for (narrow, distance) in self.room(distances.len()).iter_mut().zip(distances) {
            let distance = distance.wrapping_sub(from);
            union |= distance.wrapping_add(REACH) as u64;
            *narrow = distance as i32;
        }
        within_reach(union)
    }

    /// Takes the mantissas of doubles on a scale, and gives the first, if all are exact and close together. One pass
    /// without a branch.
    pub(super) fn fit(&mut self, values: &[f64], scale: u32) -> Option<i64> {
        let power = POWERS[scale as usize];
        let first = values.first()? * power;
        let origin = (first + ROUND).to_bits();
        let (mut differing, mut union) = (0, 0);
        for (narrow, value) in self.room(values.len()).iter_mut().zip(values) {
            let sum = value * power + ROUND;
            let distance = sum.to_bits().wrapping_sub(origin);
            union |= distance.wrapping_add(REACH as u64);
            differing |= ((sum - ROUND) / power).to_bits() ^ value.to_bits();
            *narrow = distance as i32;
        }
        let exact = (first.abs() <= LARGEST_FIRST) & within_reach(union) & (differing == 0);
        exact.then(|| origin.wrapping_sub(ROUND.to_bits()) as i64)
    }

    /// Whether all are the same.
    pub(super) fn is_constant(&self) -> bool {
        self.distances.iter().fold(0, |union, distance| union | distance) == 0
    }

    /// Writes what comes after the first: at least one distance beside it, and not all 0. They are `factor` times what
    /// they were, if that is not known yet.
    pub(super) fn encode(&mut self, out: &mut Writer, factor: Option<u64>) {
        let factor = factor.unwrap_or_else(|| u64::from(divide(&mut self.distances[HISTORY..])));
        let distances = &self.distances[HISTORY..];
        let (predictor, step) = predict::choose_narrow(distances);
        predict::residuals_narrow(
            &self.distances,
            predictor,
            step as i32,
            &mut self.sums,
            &mut self.residuals,
        );
        let total = self.residuals.iter().map(|residual| u64::from(*residual)).sum();
        if let Some(table) = predict::rank(distances, total, &mut self.ranks) {
            head(out, RANKS, factor);
            predict::put_table(out, &table);
            rice::encode(out, &self.ranks);
            return;
        }
        head(out, predictor, factor);
        if predictor == STEP {
            predict::put_step(out, step);
        }
        rice::encode_narrow(out, &self.residuals);
    }
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
        assert_eq!(narrow.fit(&[0.5, 1.25], 2), Some(50));
        assert_eq!(narrow.fit(&[0.5, 1.253], 2), None);
        assert_eq!(narrow.fit(&[0.5, 16_777_216.0], 0), None);
        assert_eq!(narrow.fit(&[1e15, f64::NAN], 0), None);
        assert_eq!(narrow.fit(&[2e15, 2e15], 0), None);
    }
}
