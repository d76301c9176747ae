//! Division of 64-bit integers by what divides them.

use crate::decimal::gcd;

/// Divides all by their greatest common factor and gives it. At least one is not 0.
pub(super) fn divide(distances: &mut [i64]) -> u64 {
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
