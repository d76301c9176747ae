//! A column of 64-bit integers: the first, a common factor of the distances from it, and residuals to a prediction.
//!
//! ```text
//! first      number     zigzag
//! predictor  4 bits     0: all are equal, nothing follows
//! factor     1 bit      0: 1; else a number follows
//! step       number     zigzag; predictor 1 alone
//! ranks      small      predictor 8 alone: how many distinct values there are, then each (number, zigzag)
//! residuals             one for each value but the first: see rice.rs
//! ```
//!
//! All arithmetic wraps around. With n[i] = (value[i] - first) / factor, and n[i] = 0 for i < 0, a residual is the
//! zigzag of n[i] less its prediction: 1 the value before plus `step`; 2 twice the value before less the one before
//! that; 3..=7 the mean of the 1, 2, 4, 8, 16 values before, rounded half up. 8: a residual is an index into `ranks`.

use alloc::vec::Vec;

use super::bits::{Reader, Writer};
use super::narrow::Narrow;
use super::predict::{self, EQUAL, LINEAR, MEANS, RANKS, STEP};
use super::rice;
use crate::decimal::gcd;
use crate::varint::{unzigzag, zigzag};

/// Buffers that columns share.
#[derive(Default)]
pub(super) struct Scratch {
    distances: Vec<i64>,
    residuals: Vec<u64>,
    ranks: Vec<u64>,
    pub(super) narrow: Narrow,
}

pub(super) fn encode(out: &mut Writer, values: &[i64], scratch: &mut Scratch) {
    let Some(&first) = values.first() else {
        return;
    };
    out.number(zigzag(first));
    if values.len() == 1 {
        return;
    }
    if scratch.narrow.take(values, first) {
        encode_narrow(out, &mut scratch.narrow);
        return;
    }
    let Scratch {
        distances,
        residuals,
        ranks,
        narrow,
    } = scratch;
    distances.clear();
    distances.extend(values.iter().map(|value| value.wrapping_sub(first)));
    let factor = divide(distances);
    if factor != 1 && narrow.take(distances, 0) {
        narrow.encode(out, Some(factor));
        return;
    }
    let (predictor, step) = predict::choose(distances);
    let total = predict::residuals(distances, predictor, step, residuals);
    if let Some(table) = predict::rank(distances, total, ranks) {
        head(out, RANKS, factor);
        predict::put_table(out, &table);
        rice::encode(out, ranks);
        return;
    }
    head(out, predictor, factor);
    if predictor == STEP {
        predict::put_step(out, step);
    }
    rice::encode(out, residuals);
}

/// Writes a column whose distances from `first` have been taken.
pub(super) fn encode_taken(out: &mut Writer, first: i64, narrow: &mut Narrow, count: usize) {
    out.number(zigzag(first));
    if count > 1 {
        encode_narrow(out, narrow);
    }
}

fn encode_narrow(out: &mut Writer, narrow: &mut Narrow) {
    if narrow.is_constant() {
        out.put(u64::from(EQUAL), 4);
    } else {
        narrow.encode(out, None);
    }
}

pub(super) fn head(out: &mut Writer, predictor: u32, factor: u64) {
    out.put(u64::from(predictor), 4);
    out.put(u64::from(factor != 1), 1);
    if factor != 1 {
        out.number(factor);
    }
}

/// Reads `count` integers.
///
/// # Errors
/// What is wrong.
pub(super) fn decode(
    bits: &mut Reader<'_>,
    count: usize,
    scratch: &mut Scratch,
) -> Result<Vec<i64>, &'static str> {
    let mut out = Vec::new();
    if count == 0 {
        return Ok(out);
    }
    let first = unzigzag(bits.number());
    out.reserve_exact(count);
    out.push(first);
    if count == 1 {
        return Ok(out);
    }
    let predictor = bits.get(4) as u32;
    if predictor == EQUAL {
        out.resize(count, first);
        return Ok(out);
    }
    if predictor > RANKS {
        return Err("an unknown predictor");
    }
    let factor = if bits.get(1) == 0 { 1 } else { bits.number() as i64 };
    let step = if predictor == STEP {
        unzigzag(bits.number())
    } else {
        0
    };
    let mut table = Vec::new();
    if predictor == RANKS {
        let size = bits.small();
        if size > count as u64 || size > bits.left() as u64 {
            return Err("more ranks than values");
        }
        table.extend((0..size).map(|_| unzigzag(bits.number())));
    }
    if !rice::decode(bits, count - 1, &mut scratch.residuals) {
        return Err("a run of zeros beyond its end");
    }
    let residuals = scratch.residuals.iter();
    let value = |n: i64| first.wrapping_add(n.wrapping_mul(factor));
    match predictor {
        RANKS => {
            for rank in residuals {
                let n = usize::try_from(*rank).ok().and_then(|rank| table.get(rank));
                out.push(value(*n.ok_or("a rank beyond the last")?));
            }
        }
        STEP | LINEAR => {
            let (mut n, mut step) = (0i64, step);
            out.extend(residuals.map(|residual| {
                let before = n;
                n = n.wrapping_add(step).wrapping_add(unzigzag(*residual));
                if predictor == LINEAR {
                    step = n.wrapping_sub(before);
                }
                value(n)
            }));
        }
        MEANS => {
            let mut n = 0i64;
            out.extend(residuals.map(|residual| {
                n = n.wrapping_add(unzigzag(*residual));
                value(n)
            }));
        }
        _ => {
            let shift = predictor - MEANS;
            let window = 1 << shift;
            let half = window as i64 / 2;
            let mut last = [0i64; 16];
            let mut sum = 0i64;
            out.extend(residuals.enumerate().map(|(at, residual)| {
                let n = (sum.wrapping_add(half) >> shift).wrapping_add(unzigzag(*residual));
                let place = &mut last[at & (window - 1)];
                sum = sum.wrapping_add(n).wrapping_sub(core::mem::replace(place, n));
                value(n)
            }));
        }
    }
    Ok(out)
}

/// Divides all by their greatest common factor and gives it. At least one is not 0.
fn divide(distances: &mut [i64]) -> u64 {
    let (early, late) = distances.split_at(distances.len().min(8));
    let mut factor = 0;
    for distance in early {
        factor = gcd(factor, distance.unsigned_abs());
        if factor == 1 {
            return 1;
        }
    }
    // Once a few agree, all the others most often do, and need no division.
    let mut rest = late.iter();
    let mut exact = Exact::new(factor);
    while let Some(distance) = rest.find(|distance| !exact.divides(**distance)) {
        factor = gcd(factor, distance.unsigned_abs());
        if factor == 1 {
            return 1;
        }
        exact = Exact::new(factor);
    }
    if factor > i64::MAX as u64 {
        return 1;
    }
    distances
        .iter_mut()
        .for_each(|distance| *distance = exact.quotient(*distance));
    factor
}

/// Division of multiples, by multiplication with the inverse modulo 2^64.
struct Exact {
    shift: u32,
    below: u64,
    inverse: i64,
    most: u64,
}

impl Exact {
    /// By 0, only 0 can be divided.
    fn new(factor: u64) -> Self {
        let shift = factor.trailing_zeros() & 63;
        let odd = factor >> shift;
        // Newton: correct to 3 bits at first (odd × odd ≡ 1 mod 8), twice as many after each step.
        let mut inverse = odd;
        for _ in 0..5 {
            inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
        }
        let most = (i64::MAX as u64).checked_div(factor).unwrap_or(0);
        let below = if factor == 0 { u64::MAX } else { (1 << shift) - 1 };
        Self {
            shift,
            below,
            inverse: inverse as i64,
            most,
        }
    }

    #[inline(always)]
    fn quotient(&self, value: i64) -> i64 {
        (value >> self.shift).wrapping_mul(self.inverse)
    }

    /// Of an integer that is no multiple, the inverse makes one larger than any quotient. (It also denies the one
    /// multiple of magnitude 2^63, which costs no more than another look.)
    #[inline(always)]
    fn divides(&self, value: i64) -> bool {
        (value as u64 & self.below == 0) & (self.quotient(value).unsigned_abs() <= self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_division() {
        assert!(Exact::new(0).divides(0));
        assert!(!Exact::new(0).divides(8));
        for factor in [2u64, 3, 5, 625, 1000, 4096, 3_000_000, i64::MAX as u64] {
            let exact = Exact::new(factor);
            for n in [-9i64, -1, 0, 1, 2, 77] {
                if let Some(value) = n.checked_mul(factor as i64) {
                    assert!(exact.divides(value), "{value} by {factor}");
                    assert_eq!(exact.quotient(value), n);
                }
                assert!(
                    !exact.divides(n.wrapping_mul(factor as i64).wrapping_add(1)),
                    "{n} × {factor} + 1"
                );
            }
        }
    }
}
