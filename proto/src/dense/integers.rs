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
use super::choice::Choice;
use super::exact;
use super::narrow::Narrow;
use super::predict::{self, EQUAL, LINEAR, MEANS, RANKS, STEP};
use super::rice;
use crate::varint::{unzigzag, zigzag};

/// Buffers that columns share.
#[derive(Default)]
pub(super) struct Scratch {
    distances: Vec<i64>,
    residuals: Vec<u64>,
    ranks: Vec<u64>,
    pub(super) narrow: Narrow,
}

pub(super) fn encode(out: &mut Writer, values: &[i64], scratch: &mut Scratch, choice: &mut Choice) {
    let Some(&first) = values.first() else {
        return;
    };
    out.number(zigzag(first));
    if values.len() == 1 {
        return;
    }
    let factor = choice.integers().map_or(1, |known| known.factor);
    let narrow = &mut scratch.narrow;
    if factor == 1 {
        if narrow.take(values, first) {
            encode_narrow(out, narrow, choice);
            return;
        }
    } else {
        if narrow.take_divided(values, first, factor) {
            encode_narrow(out, narrow, choice);
            return;
        }
        choice.forget_integers();
        if narrow.take(values, first) {
            encode_narrow(out, narrow, choice);
            return;
        }
    }
    encode_wide(out, values, first, scratch, choice);
}

fn encode_wide(out: &mut Writer, values: &[i64], first: i64, scratch: &mut Scratch, choice: &mut Choice) {
    let Scratch {
        distances,
        residuals,
        ranks,
        narrow,
    } = scratch;
    distances.clear();
    distances.extend(values.iter().map(|value| value.wrapping_sub(first)));
    let known = choice.integers().map(|known| known.predictor);
    let factor = if known.is_some() {
        1
    } else {
        exact::divide(distances)
    };
    if factor != 1 && narrow.take_quotients(distances, factor) {
        narrow.encode(out, choice);
        return;
    }
    let predictor = known.unwrap_or_else(|| predict::choose(distances));
    let total = predict::residuals(distances, predictor, residuals);
    if known.is_none()
        && let Some(table) = predict::rank(distances, total, ranks)
    {
        predict::head_of_ranks(out, &table, factor);
        rice::encode(out, ranks);
        return;
    }
    predict::head(out, predictor, factor);
    let before = out.bits();
    rice::encode(out, residuals);
    let bits = out.bits() - before;
    match known {
        Some(_) => choice.judge(bits, residuals.len()),
        None => choice.keep(factor, predictor, bits, residuals.len()),
    }
}

/// Writes a column whose distances from `first` have been taken.
#[inline]
pub(super) fn encode_taken(out: &mut Writer, first: i64, narrow: &mut Narrow, choice: &mut Choice) {
    out.number(zigzag(first));
    if narrow.count() > 1 {
        encode_narrow(out, narrow, choice);
    }
}

#[inline]
fn encode_narrow(out: &mut Writer, narrow: &mut Narrow, choice: &mut Choice) {
    if narrow.is_constant() {
        out.put_few(u64::from(EQUAL), 4);
    } else {
        narrow.encode(out, choice);
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
    decode_into(bits, count, scratch, &mut out)?;
    Ok(out)
}

/// Reads `count` integers into `out`, in the place of what it holds.
///
/// # Errors
/// What is wrong.
pub(super) fn decode_into(
    bits: &mut Reader<'_>,
    count: usize,
    scratch: &mut Scratch,
    out: &mut Vec<i64>,
) -> Result<(), &'static str> {
    out.clear();
    if count == 0 {
        return Ok(());
    }
    let first = unzigzag(bits.number());
    out.reserve_exact(count);
    out.push(first);
    if count == 1 {
        return Ok(());
    }
    let predictor = bits.get(4) as u32;
    if predictor == EQUAL {
        out.resize(count, first);
        return Ok(());
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
    Ok(())
}
