//! Residuals as Rice codes whose parameter follows their size, and runs of zeros where they are mostly zero.
//!
//! State: `level`, 16 times the running mean of the residuals. Each residual `z` is written as `z >> k` zeros, a one,
//! and the low `k` bits of `z`. 24 zeros and a one announce `z` as a number instead. While `level` is below
//! [`RUNS_BELOW`], what is written is the length of the run of zeros ahead (in the same way, with a level of its own),
//! then the residual after it less one, unless the column ended.

use alloc::vec::Vec;

use super::bits::{Reader, Writer};

const ESCAPE: u64 = 24;
const RUNS_BELOW: u64 = 7;
const RUN_START: u64 = 64;

/// The parameter for a level.
#[inline(always)]
fn parameter(level: u64) -> u32 {
    // Half a bit below the mean's length: the best power of two for a geometric distribution.
    (((level * 3) >> 6) + 1).ilog2()
}

/// What a level becomes after a residual. One far out counts as if it were eight times what was expected.
#[inline(always)]
fn follow(level: u64, residual: u64) -> u64 {
    level - (level >> 4) + residual.min((level >> 1) + 16).min(1 << 56)
}

/// The level to start with, in 6 bits, for residuals of this mean.
pub(super) fn start(mean: u64) -> u32 {
    64 - mean.min(1 << 50).leading_zeros()
}

fn level_of(start: u32) -> u64 {
    if start == 0 { 0 } else { 12 << (start - 1).min(54) }
}

#[inline(always)]
fn put(out: &mut Writer, residual: u64, k: u32) {
    let zeros = residual >> k;
    let low = residual & ((1u64 << k) - 1);
    if zeros >= ESCAPE {
        out.put(1 << ESCAPE, ESCAPE as u32 + 1);
        out.number(residual);
    } else if k <= 32 {
        out.put((low << 1 | 1) << zeros, zeros as u32 + 1 + k);
    } else {
        out.put(1 << zeros, zeros as u32 + 1);
        out.put(low, k);
    }
}

#[inline(always)]
fn get(bits: &mut Reader<'_>, k: u32) -> u64 {
    let word = bits.peek();
    let zeros = (word | 1 << ESCAPE).trailing_zeros();
    if u64::from(zeros) >= ESCAPE {
        bits.skip(ESCAPE as u32 + 1);
        bits.number()
    } else if k <= 32 {
        bits.skip(zeros + 1 + k);
        u64::from(zeros) << k | (word >> (zeros + 1)) & ((1 << k) - 1)
    } else {
        bits.skip(zeros + 1);
        u64::from(zeros) << k | bits.get(k)
    }
}

pub(super) fn encode(out: &mut Writer, residuals: &[u64], start: u32) {
    let mut level = level_of(start);
    let mut run_level = RUN_START;
    let mut rest = residuals.iter();
    while let Some(&residual) = rest.next() {
        let mut residual = residual;
        if level < RUNS_BELOW {
            let mut run = 0;
            let mut ended = false;
            while residual == 0 {
                run += 1;
                level = follow(level, 0);
                match rest.next() {
                    Some(next) => residual = *next,
                    None => {
                        ended = true;
                        break;
                    }
                }
            }
            put(out, run, parameter(run_level));
            run_level = follow(run_level, run);
            if ended {
                return;
            }
            put(out, residual - 1, parameter(level));
        } else {
            put(out, residual, parameter(level));
        }
        level = follow(level, residual);
    }
}

/// Reads `count` residuals. `false` if a run is longer than what is left.
pub(super) fn decode(bits: &mut Reader<'_>, count: usize, start: u32, out: &mut Vec<u64>) -> bool {
    let mut level = level_of(start);
    let mut run_level = RUN_START;
    out.clear();
    out.reserve(count);
    while out.len() < count {
        let mut residual = 0;
        if level < RUNS_BELOW {
            let run = get(bits, parameter(run_level));
            run_level = follow(run_level, run);
            let left = (count - out.len()) as u64;
            if run > left {
                return false;
            }
            for _ in 0..run {
                level = follow(level, 0);
            }
            out.resize(out.len() + run as usize, 0);
            if run == left {
                return true;
            }
            residual = 1;
        }
        residual = get(bits, parameter(level)).wrapping_add(residual);
        level = follow(level, residual);
        out.push(residual);
    }
    true
}
