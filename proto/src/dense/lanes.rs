//! What is done four or two values at a time.
//!
//! Written down with vectors, since compilers make none of loops as short as a block, nor when they build for size, as
//! for a gateway. Where a processor has no vectors these are loops over arrays.

use wide::bytemuck::cast;
use wide::{f64x2, i32x4, u32x4, u64x2};

use super::bits::JOINED_BITS;
use super::predict::HISTORY as BLOCK;

/// Added to a double below 2^52, it leaves an integer in the low bits of the sum.
const LOW: f64 = 4_503_599_627_370_496.0;

/// Four values from this place on.
#[inline(always)]
fn load(window: &[i32; 2 * BLOCK], at: usize) -> i32x4 {
    let mut four = [0; 4];
    four.copy_from_slice(&window[at..at + 4]);
    i32x4::new(four)
}

#[inline(always)]
fn zigzag(value: i32x4) -> u32x4 {
    cast((value + value) ^ (value >> 31u32))
}

/// Makes all after the first `count` 0.
pub(super) fn keep(block: &mut [u32; BLOCK], count: usize) {
    let places = i32x4::new([0, 1, 2, 3]);
    let [a, b, c, d]: [u32x4; 4] = cast(*block);
    let kept = |residuals: u32x4, from: i32| {
        let kept = places.simd_lt(i32x4::splat(count as i32 - from));
        residuals & cast::<i32x4, u32x4>(kept)
    };
    *block = cast([kept(a, 0), kept(b, 4), kept(c, 8), kept(d, 12)]);
}

/// How many residuals are 0.
pub(super) fn zeros(blocks: &[[u32; BLOCK]]) -> usize {
    let mut less = u32x4::splat(0);
    for block in blocks {
        let fours: [u32x4; 4] = cast(*block);
        // A comparison gives -1 where it holds.
        let found = fours.map(|four| four.simd_eq(u32x4::splat(0)));
        less = less + (found[0] + found[1]) + (found[2] + found[3]);
    }
    less.to_array()
        .iter()
        .fold(0u32, |sum, less| sum.wrapping_sub(*less)) as usize
}

/// The sum of a block's residuals, and their union.
#[inline(always)]
pub(super) fn sum(block: &[u32; BLOCK]) -> (u32, u32) {
    let [a, b, c, d]: [u32x4; 4] = cast(*block);
    let sum = ((a + b) + (c + d)).to_array();
    let union = ((a | b) | (c | d)).to_array();
    (
        sum[0]
            .wrapping_add(sum[1])
            .wrapping_add(sum[2])
            .wrapping_add(sum[3]),
        union[0] | union[1] | union[2] | union[3],
    )
}

/// Residuals to a prediction from the distances just before, and what comes of the window's places 15.. in `before`.
#[inline(always)]
pub(super) fn each(
    window: &[i32; 2 * BLOCK],
    out: &mut [u32; BLOCK],
    prediction: impl Fn(i32x4, i32x4) -> i32x4,
) {
    let four = |at| {
        let (value, last, before) = (load(window, at), load(window, at - 1), load(window, at - 2));
        zigzag(value - prediction(last, before))
    };
    *out = cast([four(BLOCK), four(BLOCK + 4), four(BLOCK + 8), four(BLOCK + 12)]);
}

/// Sums of the values before, of a block and for the next.
#[derive(Default)]
pub(super) struct Sums {
    /// The last four sums of four.
    fours: i32x4,
    /// The last eight sums of eight.
    eights: [i32x4; 2],
}

impl Sums {
    /// Residuals to the mean of the last `2^SHIFT`.
    #[inline(always)]
    pub(super) fn means<const SHIFT: u32>(&mut self, window: &[i32; 2 * BLOCK], out: &mut [u32; BLOCK]) {
        let pair = |at| load(window, at - 1) + load(window, at - 2);
        let four = |at| pair(at) + pair(at - 2);
        let sums = if SHIFT == 1 {
            [pair(BLOCK), pair(BLOCK + 4), pair(BLOCK + 8), pair(BLOCK + 12)]
        } else {
            let [a, b, c, d] = [four(BLOCK), four(BLOCK + 4), four(BLOCK + 8), four(BLOCK + 12)];
            if SHIFT == 2 {
                [a, b, c, d]
            } else {
                let [a, b, c, d] = [a + core::mem::replace(&mut self.fours, d), b + a, c + b, d + c];
                if SHIFT == 3 {
                    [a, b, c, d]
                } else {
                    let [before_a, before_b] = core::mem::replace(&mut self.eights, [c, d]);
                    [a + before_a, b + before_b, c + a, d + b]
                }
            }
        };
        let half = i32x4::splat(1 << (SHIFT - 1));
        let residual = |sum: i32x4, at| zigzag(load(window, at) - ((sum + half) >> SHIFT));
        *out = cast([
            residual(sums[0], BLOCK),
            residual(sums[1], BLOCK + 4),
            residual(sums[2], BLOCK + 8),
            residual(sums[3], BLOCK + 12),
        ]);
    }
}

/// The codes of four residuals each, joined, and their lengths. A code is at most 13 bits long: `residual >> k` zeros, a one, and the
/// low `k` bits. They are joined in doubles, which can be shifted side by side, by multiplying with powers of two, where
/// integers cannot.
#[inline(always)]
pub(super) fn join_fours(block: &[u32; BLOCK], k: u32) -> ([u64; 4], [u32; 4]) {
    let [a, b, c, d] = u32x4::transpose(cast(*block));
    let codes = Codes::new(k);
    let mut joined = codes.first(a);
    codes.join(&mut joined, b);
    codes.join(&mut joined, c);
    codes.join(&mut joined, d);
    codes.finish(&joined)
}

/// As [`join_fours`], two each; a code is at most 26 bits long.
#[inline(always)]
pub(super) fn join_pairs(block: &[u32; BLOCK], k: u32) -> ([u64; 8], [u32; 8]) {
    let [a, b, c, d]: [u32x4; 4] = cast(*block);
    let codes = Codes::new(k);
    let half = |a: u32x4, b: u32x4| {
        // a0 b0 a1 b1, a2 b2 a3 b3, and those again: what is even and what is odd.
        let (low, high) = (a.unpack_lo(b), a.unpack_hi(b));
        let mut joined = codes.first(low.unpack_lo(high));
        codes.join(&mut joined, low.unpack_hi(high));
        codes.finish(&joined)
    };
    let [(early, early_lengths), (late, late_lengths)] = [half(a, b), half(c, d)];
    (cast([early, late]), cast([early_lengths, late_lengths]))
}

/// Four codes side by side, that others are joined to.
struct Joined {
    codes: [f64x2; 2],
    lengths: u32x4,
}

struct Codes {
    k: u32,
    mask: u32x4,
    one: u32x4,
    length: u32x4,
}

impl Codes {
    #[inline(always)]
    fn new(k: u32) -> Self {
        let k = k & 31;
        Self {
            k,
            mask: u32x4::splat((1 << k) - 1),
            one: u32x4::splat(1),
            length: u32x4::splat(k + 1),
        }
    }

    /// The ends of codes after so many bits.
    #[inline(always)]
    fn ends(&self, residuals: u32x4, after: u32x4) -> [f64x2; 2] {
        let low = residuals & self.mask;
        let end = (low + low) | self.one;
        let upper: u64x2 = cast(end);
        let ends = [
            f64x2::from_i32x4_lower2(cast(end)),
            f64x2::from_i32x4_lower2(cast(upper.unpack_hi(upper))),
        ];
        // An exponent makes a power of two: in the upper half of a double, from bit 20 on.
        let exponent = (after + u32x4::splat(1023)) << 20u32;
        let zero = u32x4::splat(0);
        let powers: [f64x2; 2] = [cast(zero.unpack_lo(exponent)), cast(zero.unpack_hi(exponent))];
        [ends[0] * powers[0], ends[1] * powers[1]]
    }

    #[inline(always)]
    fn first(&self, residuals: u32x4) -> Joined {
        let zeros = residuals >> self.k;
        Joined {
            codes: self.ends(residuals, zeros),
            lengths: zeros + self.length,
        }
    }

    #[inline(always)]
    fn join(&self, to: &mut Joined, residuals: u32x4) {
        let after = to.lengths + (residuals >> self.k);
        let [low, high] = self.ends(residuals, after);
        to.codes = [to.codes[0] + low, to.codes[1] + high];
        to.lengths = after + self.length;
    }

    #[inline(always)]
    fn finish(&self, joined: &Joined) -> ([u64; 4], [u32; 4]) {
        let mask = u64x2::splat((1 << JOINED_BITS) - 1);
        let codes = joined
            .codes
            .map(|codes| cast::<f64x2, u64x2>(codes + f64x2::splat(LOW)) & mask);
        (cast(codes), joined.lengths.to_array())
    }
}
