//! Residuals as Rice codes: `z >> k` zeros, a one, the low `k` bits of `z`. 24 zeros and a one announce `z` as a
//! number instead.
//!
//! ```text
//! sparse  1 bit    1: most residuals are 0
//! start   6 bits   not sparse alone: `k` of the first block
//! codes
//! ```
//!
//! Not sparse: blocks of 16 residuals. The `k` of a block follows from the sum of the 16 before it: the bits of
//! `sum × 3 / 64 + 1`, less one; a block that holds a residual of 2^56 or more counts as 2^60.
//!
//! Sparse: the length of the run of zeros ahead, then the residual after it less one, and so on until the column ends.
//! Each of the two has a level of its own (of 128 and 0 at first): 16 times the running mean of what was written, from
//! which `k` follows as from a sum. After `z`, level = level - level / 16 + min(z, level / 2 + 16, 2^56).

use alloc::vec::Vec;

use super::bits::{JOINED_BITS, PEEKED, Reader, Writer};
use super::lanes;

pub(super) const BLOCK: usize = 16;
const ESCAPE: u32 = 24;
const HUGE: u32 = 56;
const RUN_LEVEL: u64 = 128;
/// The largest parameter with which the longest code is no longer than [`PEEKED`].
const SHORT: u32 = PEEKED - ESCAPE - 1;

/// The parameter for 16 times the mean: half a bit below its length, the best for a geometric distribution.
#[inline(always)]
fn parameter(level: u64) -> u32 {
    (((level * 3) >> 6) + 1).ilog2()
}

#[inline(always)]
fn follow(level: u64, residual: u64) -> u64 {
    level - (level >> 4) + residual.min((level >> 1) + 16).min(1 << HUGE)
}

/// What the next block's parameter follows from, given the sum (wrapping) and the union of the bits of a block.
#[inline(always)]
fn level_of(sum: u64, union: u64) -> u64 {
    if union >> HUGE == 0 { sum } else { 1 << (HUGE + 4) }
}

/// Bits that a residual takes, when they have this mean.
pub(super) fn estimate(total: u64, count: usize) -> f64 {
    let mean = total as f64 / count as f64;
    let k = parameter(((mean * 16.0) as u64).min(1 << 60));
    f64::from(k + 1) + mean / (1u64 << k) as f64
}

#[inline(always)]
fn put(out: &mut Writer, residual: u64, k: u32) {
    let zeros = residual >> k;
    let low = residual & ((1u64 << k) - 1);
    if zeros >= u64::from(ESCAPE) {
        out.put(1 << ESCAPE, ESCAPE + 1);
        out.number(residual);
    } else if k <= 32 {
        out.put_few((low << 1 | 1) << zeros, zeros as u32 + 1 + k);
    } else {
        out.put(1 << zeros, zeros as u32 + 1);
        out.put(low, k);
    }
}

#[inline(always)]
fn get(bits: &mut Reader<'_>, k: u32) -> u64 {
    let word = bits.peek();
    let zeros = (word | 1 << ESCAPE).trailing_zeros();
    if zeros >= ESCAPE {
        bits.skip(ESCAPE + 1);
        bits.number()
    } else if k <= 32 {
        bits.skip(zeros + 1 + k);
        u64::from(zeros) << k | (word >> (zeros + 1)) & ((1 << k) - 1)
    } else {
        bits.skip(zeros + 1);
        u64::from(zeros) << k | bits.get(k)
    }
}

/// Of at least one residual.
pub(super) fn encode(out: &mut Writer, residuals: &[u64]) {
    let zeros: usize = residuals.iter().map(|residual| usize::from(*residual == 0)).sum();
    let sparse = (residuals.len() - zeros) * 3 < residuals.len();
    out.put(u64::from(sparse), 1);
    if sparse {
        encode_sparse(out, residuals.iter().copied());
        return;
    }
    let mut next = None;
    for block in residuals.chunks(BLOCK) {
        let mut sum = 0u64;
        let mut union = 0;
        for residual in block {
            sum = sum.wrapping_add(*residual);
            union |= residual;
        }
        let k = next.unwrap_or_else(|| {
            let mean = level_of(sum, union) / block.len() as u64;
            let k = parameter(mean.saturating_mul(BLOCK as u64).min(1 << (HUGE + 4)));
            out.put(u64::from(k), 6);
            k
        });
        if union >> 31 == 0 && k < 32 {
            let mut narrow = [0; BLOCK];
            narrow
                .iter_mut()
                .zip(block)
                .for_each(|(narrow, residual)| *narrow = *residual as u32);
            put_block(out, &narrow, block.len(), union as u32, k);
        } else {
            block.iter().for_each(|residual| put(out, *residual, k));
        }
        next = Some(parameter(level_of(sum, union)));
    }
}

/// As [`encode`], of the first `count` residuals of blocks; those after them are 0. Sixteen have a sum of 32 bits.
pub(super) fn encode_narrow(out: &mut Writer, blocks: &[[u32; BLOCK]], count: usize) {
    let nonzero = blocks.len() * BLOCK - lanes::zeros(blocks);
    if nonzero * 3 < count {
        out.put_few(1, 1);
        let residuals = &blocks.as_flattened()[..count];
        encode_sparse(out, residuals.iter().map(|residual| u64::from(*residual)));
        return;
    }
    let mut next = None;
    let mut left = count;
    for block in blocks {
        let here = left.min(BLOCK);
        left -= here;
        let (sum, union) = lanes::sum(block);
        let k = next.unwrap_or_else(|| {
            let k = parameter(u64::from(sum) / here as u64 * BLOCK as u64);
            // After the bit that says it is not sparse.
            out.put_few(u64::from(k) << 1, 7);
            k
        });
        next = Some(parameter(u64::from(sum)));
        put_block(out, block, here, union, k & 31);
    }
}

/// The first `count` of a block; those after them are 0. `k` is below 32.
#[inline(always)]
fn put_block(out: &mut Writer, block: &[u32; BLOCK], count: usize, union: u32, k: u32) {
    let most = (union >> k) + k + 1;
    // Those after the first `count` are 0, and have the shortest codes.
    let less = (BLOCK - count) as u32 * (k + 1);
    if most <= JOINED_BITS / 4 {
        let (codes, lengths) = lanes::join_fours(block, k);
        out.put_joined(&codes, &lengths, less);
    } else if most <= ESCAPE.min(JOINED_BITS / 2) {
        let (codes, lengths) = lanes::join_pairs(block, k);
        out.put_joined(&codes, &lengths, less);
    } else {
        block[..count]
            .iter()
            .for_each(|residual| put(out, u64::from(*residual), k));
    }
}

fn encode_sparse(out: &mut Writer, residuals: impl Iterator<Item = u64>) {
    let (mut run_level, mut level) = (RUN_LEVEL, 0);
    let mut run = 0;
    for residual in residuals {
        if residual == 0 {
            run += 1;
            continue;
        }
        put(out, run, parameter(run_level));
        run_level = follow(run_level, run);
        put(out, residual - 1, parameter(level));
        level = follow(level, residual - 1);
        run = 0;
    }
    if run > 0 {
        put(out, run, parameter(run_level));
    }
}

/// Reads `count` ≥ 1 residuals. `false` if a run is longer than what is left.
pub(super) fn decode(bits: &mut Reader<'_>, count: usize, out: &mut Vec<u64>) -> bool {
    out.clear();
    if bits.get(1) == 1 {
        out.reserve(count);
        return decode_sparse(bits, count, out);
    }
    // 6 bits can say more than a sum ever would.
    let mut k = (bits.get(6) as u32).min(HUGE);
    out.resize(count, 0);
    for block in out.chunks_mut(BLOCK) {
        if k <= SHORT {
            get_block(bits, block, k);
        } else {
            block.iter_mut().for_each(|residual| *residual = get(bits, k));
        }
        let mut sum = 0u64;
        let mut union = 0;
        for residual in block {
            sum = sum.wrapping_add(*residual);
            union |= *residual;
        }
        k = parameter(level_of(sum, union));
    }
    true
}

/// As [`get`] for each, with `k` ≤ [`SHORT`]: of a word that is read, as many codes are taken as are sure to be whole in it.
#[inline(always)]
fn get_block(bits: &mut Reader<'_>, block: &mut [u64], k: u32) {
    let longest = ESCAPE + k + 1;
    let (mut word, mut known) = (bits.peek(), PEEKED);
    for residual in block {
        if known < longest {
            bits.skip(PEEKED - known);
            (word, known) = (bits.peek(), PEEKED);
        }
        let zeros = (word | 1 << ESCAPE).trailing_zeros();
        if zeros < ESCAPE {
            let length = zeros + 1 + k;
            *residual = u64::from(zeros) << k | (word >> (zeros + 1)) & ((1 << k) - 1);
            word >>= length;
            known -= length;
        } else {
            bits.skip(PEEKED - known + ESCAPE + 1);
            *residual = bits.number();
            (word, known) = (bits.peek(), PEEKED);
        }
    }
    bits.skip(PEEKED - known);
}

fn decode_sparse(bits: &mut Reader<'_>, count: usize, out: &mut Vec<u64>) -> bool {
    let (mut run_level, mut level) = (RUN_LEVEL, 0);
    while out.len() < count {
        let run = get(bits, parameter(run_level));
        run_level = follow(run_level, run);
        let left = (count - out.len()) as u64;
        if run > left {
            return false;
        }
        out.resize(out.len() + run as usize, 0);
        if run < left {
            let less_one = get(bits, parameter(level));
            level = follow(level, less_one);
            out.push(less_one.wrapping_add(1));
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes_round(residuals: &[u64]) {
        let mut out = Writer::default();
        // Not at a byte's beginning.
        out.put(1, 3);
        encode(&mut out, residuals);
        let (bytes, len) = out.finish();
        let bytes = &bytes[..len];
        let mut bits = Reader::new(bytes);
        bits.skip(3);
        let mut back = Vec::new();
        assert!(decode(&mut bits, residuals.len(), &mut back) && !bits.overrun());
        assert_eq!(back, residuals);
        if residuals.iter().all(|residual| *residual < 1 << 27) {
            let narrow: Vec<u32> = residuals.iter().map(|residual| *residual as u32).collect();
            let mut blocks: Vec<[u32; BLOCK]> = narrow.as_chunks().0.to_vec();
            let rest = narrow.as_chunks::<BLOCK>().1;
            if !rest.is_empty() {
                let mut block = [0; BLOCK];
                block[..rest.len()].copy_from_slice(rest);
                blocks.push(block);
            }
            let mut out = Writer::default();
            out.put(1, 3);
            encode_narrow(&mut out, &blocks, narrow.len());
            let (again, len) = out.finish();
            assert_eq!(&again[..len], bytes, "in 32 bits: {residuals:?}");
        }
    }

    /// Every height of jump out of every level, at the borders of short codes, long codes and escapes.
    #[test]
    fn jumps() {
        for level in 0..40 {
            let quiet = (1u64 << level) - 1;
            for jump in (0..200)
                .chain((8..64).flat_map(|bits| [(1u64 << bits) - 1, 1 << bits]))
                .chain([u64::MAX])
            {
                let jump = jump.saturating_mul(1 << level);
                for length in [1, 2, 16, 31] {
                    let mut residuals = alloc::vec![quiet; length];
                    residuals.push(jump);
                    residuals.extend([quiet, jump, jump, 0]);
                    goes_round(&residuals);
                }
            }
        }
    }

    /// A mean of so few that sixteen of it are beyond 64 bits.
    #[test]
    fn huge_and_few() {
        for count in 1..5 {
            goes_round(&alloc::vec![u64::MAX; count]);
            goes_round(&alloc::vec![1 << HUGE; count]);
        }
    }

    #[test]
    fn runs() {
        for run in [0, 1, 2, 15, 100, 5000] {
            let mut residuals = alloc::vec![0; run];
            residuals.push(0);
            goes_round(&residuals);
            residuals.extend([7, u64::MAX]);
            residuals.extend(alloc::vec![0; run]);
            residuals.push(1);
            goes_round(&residuals);
        }
    }
}
