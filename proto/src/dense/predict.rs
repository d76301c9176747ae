//! Which prediction suits a column, and what is left over.

use alloc::vec::Vec;

use wide::i32x4;

use super::bits::Writer;
use super::lanes::{self, Sums};
use super::rice;
use crate::varint::zigzag;

pub(super) const EQUAL: u32 = 0;
pub(super) const STEP: u32 = 1;
pub(super) const LINEAR: u32 = 2;
/// The mean of the last 2^i values is predictor `MEANS + i`, i ≤ 4.
pub(super) const MEANS: u32 = 3;
pub(super) const RANKS: u32 = 8;

/// How a value is predicted from those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Predictor {
    /// `STEP`, `LINEAR`, or one of the means.
    pub(super) kind: u32,
    /// Of `STEP`, otherwise 0.
    pub(super) step: i64,
}

/// Values looked at to choose, and those before them that the longest mean needs.
const WINDOW: usize = 48;
pub(super) const HISTORY: usize = 16;
/// Distinct values beyond which ranks do not pay.
const MOST_RANKS: usize = 40;
/// Distinct values among some beyond which they are not even counted.
const GLANCE: usize = 16;
const GLANCE_DISTINCT: usize = 9;
const RANK_BITS: f64 = 13.0;
/// Bits of what is weighed: the sum of 64 residuals is of 32 bits then.
const WINDOW_BITS: u32 = 22;

/// The predictor with the least residuals on the middle of the column.
pub(super) fn choose(distances: &[i64]) -> Predictor {
    let window = middle(distances);
    // As small integers, so that the sums below run four at a time.
    let base = window[0];
    let mut union = 0;
    for value in window {
        let distance = value.wrapping_sub(base);
        union |= distance ^ (distance >> 63);
    }
    let shift = (64 - union.leading_zeros()).saturating_sub(WINDOW_BITS);
    let mut x = [0i32; HISTORY + WINDOW + HISTORY];
    for (x, value) in x[HISTORY..].iter_mut().zip(window) {
        *x = (value.wrapping_sub(base) >> shift) as i32;
    }
    weigh(&x[..HISTORY + window.len()], shift, || usual_step(distances))
}

/// As [`choose`].
pub(super) fn choose_narrow(distances: &[i32]) -> Predictor {
    let window = middle(distances);
    let base = window[0];
    let mut x = [0i32; HISTORY + WINDOW + HISTORY];
    let mut union = 0;
    for (x, value) in x[HISTORY..].iter_mut().zip(window) {
        *x = value - base;
        union |= *x ^ (*x >> 31);
    }
    let shift = (32 - union.leading_zeros()).saturating_sub(WINDOW_BITS);
    if shift > 0 {
        x.iter_mut().for_each(|x| *x >>= shift);
    }
    weigh(&x[..HISTORY + window.len()], shift, || usual_step(distances))
}

fn middle<T>(distances: &[T]) -> &[T] {
    let window = &distances[(distances.len().saturating_sub(WINDOW + HISTORY)) / 2..];
    &window[..window.len().min(WINDOW + HISTORY)]
}

/// Of the middle of a column, after `HISTORY` zeros.
fn weigh(x: &[i32], shift: u32, usual_step: impl FnOnce() -> i64) -> Predictor {
    let end = x.len();
    // pairs[i] = x[i-1] + x[i-2], and so on.
    let mut sums = [[0i32; HISTORY + WINDOW + HISTORY]; 3];
    let [pairs, fours, eights] = &mut sums;
    let (pairs, fours, eights) = (&mut pairs[..end], &mut fours[..end], &mut eights[..end]);
    add(&mut pairs[2..], &x[1..], x);
    add(&mut fours[4..], &pairs[4..], &pairs[2..]);
    add(&mut eights[8..], &fours[8..], &fours[4..]);
    let from = HISTORY + 1;
    let x0 = &x[from..];
    let totals = [
        total(x0, &x[from - 1..], |x, last| x - last),
        total(x0, &pairs[from..], |x, sum| x - ((sum + 1) >> 1)),
        total(x0, &fours[from..], |x, sum| x - ((sum + 2) >> 2)),
        total(x0, &eights[from..], |x, sum| x - ((sum + 4) >> 3)),
        {
            let sixteens = eights[from..].iter().zip(&eights[from - 8..]);
            x0.iter()
                .zip(sixteens)
                .map(|(x, (a, b))| (x - ((a + b + 8) >> 4)).unsigned_abs())
                .sum::<u32>()
        },
    ];
    let mut best = (MEANS, totals[0]);
    for (predictor, total) in (MEANS..).zip(totals) {
        if total < best.1 {
            best = (predictor, total);
        }
    }
    let mut best_step = 0;
    // With a trend the last value alone is the best of the means, and by far.
    if best.0 == MEANS {
        let step = usual_step();
        if step != 0 {
            let small = (step >> shift) as i32;
            let stepped = total(x0, &x[from - 1..], |x, last| {
                x.wrapping_sub(last).wrapping_sub(small)
            });
            if stepped < best.1 {
                best = (STEP, stepped);
                best_step = step;
            }
        }
        let linear: u32 = x[from - 1..]
            .windows(3)
            .map(|w| (w[2] - 2 * w[1] + w[0]).unsigned_abs())
            .sum();
        if linear < best.1 {
            best = (LINEAR, linear);
        }
    }
    Predictor {
        kind: best.0,
        step: if best.0 == STEP { best_step } else { 0 },
    }
}

#[inline(always)]
fn total(values: &[i32], others: &[i32], residual: impl Fn(i32, i32) -> i32) -> u32 {
    values
        .iter()
        .zip(others)
        .map(|(value, other)| residual(*value, *other).unsigned_abs())
        .sum()
}

/// The median of some steps between neighbours.
fn usual_step<T: Copy + Into<i64>>(distances: &[T]) -> i64 {
    let mut steps = [0; 9];
    let mut len = 0;
    let stride = (distances.len() - 1).div_ceil(9);
    for pair in distances.windows(2).step_by(stride) {
        steps[len] = pair[1].into().wrapping_sub(pair[0].into());
        len += 1;
    }
    steps[..len].sort_unstable();
    steps[len / 2]
}

/// The residuals of all but the first, and their sum.
pub(super) fn residuals(distances: &[i64], predictor: Predictor, out: &mut Vec<u64>) -> u64 {
    let Predictor { kind, step } = predictor;
    out.clear();
    out.reserve(distances.len());
    let pairs = || distances.iter().zip(&distances[1..]);
    match kind {
        STEP => collect(
            out,
            pairs().map(|(last, value)| value.wrapping_sub(*last).wrapping_sub(step)),
        ),
        LINEAR => {
            let mut before = 0i64;
            let residuals = pairs().map(|(last, value)| {
                let prediction = last.wrapping_mul(2).wrapping_sub(before);
                before = *last;
                value.wrapping_sub(prediction)
            });
            collect(out, residuals)
        }
        MEANS => collect(out, pairs().map(|(last, value)| value.wrapping_sub(*last))),
        4 => from_mean::<1>(distances, out),
        5 => from_mean::<2>(distances, out),
        6 => from_mean::<3>(distances, out),
        _ => from_mean::<4>(distances, out),
    }
}

/// The zigzags, and their sum, which may wrap around: it only serves to estimate.
#[inline(always)]
fn collect(out: &mut Vec<u64>, residuals: impl Iterator<Item = i64>) -> u64 {
    let mut total = 0u64;
    out.extend(residuals.map(|residual| {
        let residual = zigzag(residual);
        total = total.wrapping_add(residual);
        residual
    }));
    total
}

fn from_mean<const SHIFT: u32>(distances: &[i64], out: &mut Vec<u64>) -> u64 {
    let window = 1usize << SHIFT;
    let half = window as i64 / 2;
    let mut sum = 0i64;
    let mut residual = |value: i64, last: i64, gone: i64| {
        sum = sum.wrapping_add(last.wrapping_sub(gone));
        value.wrapping_sub(sum.wrapping_add(half) >> SHIFT)
    };
    let early = distances.iter().zip(&distances[1..]).take(window);
    let total = collect(out, early.map(|(last, value)| residual(*value, *last, 0)));
    let Some(late) = distances.get(window + 1..) else {
        return total;
    };
    let late = late.iter().zip(&distances[window..]).zip(distances);
    total.wrapping_add(collect(
        out,
        late.map(|((value, last), gone)| residual(*value, *last, *gone)),
    ))
}

/// As [`residuals`], of `count` distances after `HISTORY` zeros, in blocks; what is left of the last is 0. There must be room
/// for a block after the last distance. Each block looks at itself and the one before, so that nothing runs on and four
/// are made at a time.
#[inline(always)]
pub(super) fn residuals_narrow(
    distances: &[i32],
    count: usize,
    predictor: Predictor,
    out: &mut Vec<[u32; HISTORY]>,
) {
    let blocks = (count - 1).div_ceil(HISTORY);
    if out.len() < blocks {
        out.resize(blocks, [0; HISTORY]);
    } else {
        out.truncate(blocks);
    }
    // Block i looks at its distances and the sixteen before.
    let windows = (1..)
        .step_by(HISTORY)
        .map_while(|at| distances.get(at..)?.first_chunk());
    let blocks = out.iter_mut().zip(windows);
    let step = i32x4::splat(predictor.step as i32);
    let mut sums = Sums::default();
    match predictor.kind {
        STEP => blocks.for_each(|(out, window)| lanes::each(window, out, |last, _| last + step)),
        LINEAR => {
            blocks.for_each(|(out, window)| {
                lanes::each(window, out, |last, before| last + last - before);
            });
        }
        MEANS => blocks.for_each(|(out, window)| lanes::each(window, out, |last, _| last)),
        4 => blocks.for_each(|(out, window)| sums.means::<1>(window, out)),
        5 => blocks.for_each(|(out, window)| sums.means::<2>(window, out)),
        6 => blocks.for_each(|(out, window)| sums.means::<3>(window, out)),
        _ => blocks.for_each(|(out, window)| sums.means::<4>(window, out)),
    }
    if let (Some(last), left @ 1..) = (out.last_mut(), (count - 1) % HISTORY) {
        lanes::keep(last, left);
    }
}

#[inline(always)]
fn add(sums: &mut [i32], a: &[i32], b: &[i32]) {
    for (sum, (a, b)) in sums.iter_mut().zip(a.iter().zip(b)) {
        *sum = a + b;
    }
}

/// What stands before residuals to a predictor.
#[inline]
pub(super) fn head(out: &mut Writer, predictor: Predictor, factor: u64) {
    put_kind(out, predictor.kind, factor);
    if predictor.kind == STEP {
        out.number(zigzag(predictor.step));
    }
}

/// What stands before ranks.
pub(super) fn head_of_ranks(out: &mut Writer, table: &[i64], factor: u64) {
    put_kind(out, RANKS, factor);
    out.small(table.len() as u64);
    table.iter().for_each(|value| out.number(zigzag(*value)));
}

#[inline]
fn put_kind(out: &mut Writer, kind: u32, factor: u64) {
    out.put_few(u64::from(kind | u32::from(factor != 1) << 4), 5);
    if factor != 1 {
        out.number(factor);
    }
}

/// The distinct values by how often they come, and in `out` the places of all but the first, if that is smaller than
/// residuals of this sum.
pub(super) fn rank<T: Copy + PartialEq + Into<i64>>(
    distances: &[T],
    total: u64,
    out: &mut Vec<u64>,
) -> Option<Vec<i64>> {
    let count = distances.len() - 1;
    let bits = rice::estimate(total, count) * count as f64;
    // A glance first: most columns have too many distinct values, or residuals that are small enough.
    if bits < 1.6 * count as f64 || count < 16 {
        return None;
    }
    let mut seen = [distances[0]; GLANCE];
    for (seen, value) in seen
        .iter_mut()
        .zip(distances.iter().step_by(distances.len().div_ceil(GLANCE)))
    {
        *seen = *value;
    }
    let mut distinct = 1;
    for at in 1..GLANCE {
        let again = seen[..at]
            .iter()
            .fold(false, |again, other| again | (*other == seen[at]));
        distinct += usize::from(!again);
    }
    if distinct > GLANCE_DISTINCT {
        return None;
    }
    let (mut min, mut max) = (i64::MAX, i64::MIN);
    for value in seen {
        (min, max) = (min.min(value.into()), max.max(value.into()));
    }
    // Values close together are as well told by their distances.
    if max.wrapping_sub(min) as u64 <= 3 * distinct as u64 {
        return None;
    }
    let most = MOST_RANKS.min((bits / RANK_BITS) as usize);
    let mut table: Vec<(i64, u32)> = Vec::new();
    for value in &distances[1..] {
        let value = (*value).into();
        match table.iter().position(|(known, _)| *known == value) {
            Some(place) => table[place].1 += 1,
            None if table.len() == most => return None,
            None => table.push((value, 1)),
        }
    }
    // Among equals the first to appear comes first: the sort is stable.
    table.sort_by_key(|(_, times)| core::cmp::Reverse(*times));
    let ranks: u64 = table
        .iter()
        .zip(0u64..)
        .map(|((_, times), rank)| rank * u64::from(*times))
        .sum();
    let ranked = rice::estimate(ranks, count) * count as f64 + table.len() as f64 * RANK_BITS;
    if ranked >= bits {
        return None;
    }
    let table: Vec<i64> = table.into_iter().map(|(value, _)| value).collect();
    out.clear();
    out.extend(distances[1..].iter().map(|value| {
        let value = (*value).into();
        let rank = table.iter().position(|known| *known == value);
        rank.unwrap_or_default() as u64
    }));
    Some(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers are shared, so that what stands in them comes from longer columns.
    #[test]
    fn narrow_is_as_wide() {
        let (mut wide, mut narrow) = (Vec::new(), Vec::new());
        for len in [300, 2, 3, 16, 17, 18, 33, 34, 80, 5] {
            let mut random = len as u64;
            let mut distances = alloc::vec![0i32; HISTORY + len + HISTORY];
            for distance in &mut distances[HISTORY + 1..HISTORY + len] {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *distance = (random >> 32) as i32 >> (7 + (random >> 27) % 24);
            }
            let all = &distances[HISTORY..HISTORY + len];
            let same: Vec<i64> = all.iter().map(|value| i64::from(*value)).collect();
            assert_eq!(choose_narrow(all), choose(&same));
            for kind in STEP..RANKS {
                let step = if kind == STEP { -77 } else { 0 };
                let predictor = Predictor { kind, step };
                residuals_narrow(&distances, len, predictor, &mut narrow);
                residuals(&same, predictor, &mut wide);
                assert!(
                    narrow.as_flattened()[..len - 1]
                        .iter()
                        .map(|residual| u64::from(*residual))
                        .eq(wide.iter().copied()),
                    "predictor {predictor:?} of {len}"
                );
            }
        }
    }
}
