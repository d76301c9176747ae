//! A column of 64-bit integers: the first, a common factor of the distances from it, and residuals to a prediction.
//!
//! ```text
//! first      number     zigzag
//! predictor  4 bits     0: all are equal, nothing follows
//! factor     1 bit      0: 1; else a number follows
//! step       number     zigzag; predictor 2 alone
//! start      6 bits     of the Rice codes
//! residuals             one for each value but the first: see rice.rs
//! ```
//!
//! All arithmetic wraps around. With n[i] = (value[i] - first) / factor, the predictors are:
//! 1 the value before; 2 the value before plus `step`; 3 as far on as from the one before that to it; 4..=7 a running
//! mean that moves 1/2, 1/4, 1/8, 1/16 of the way to each value; 8 half-way between the value before and the mean of 7.

use alloc::vec::Vec;

use super::bits::{Reader, Writer};
use super::rice;
use crate::varint::{unzigzag, zigzag};

const EQUAL: u32 = 0;
const BEFORE: u32 = 1;
const STEP: u32 = 2;
const LINEAR: u32 = 3;
const MEANS: u32 = 4;
const HALF_MEAN: u32 = 8;

/// Buffers that columns share.
#[derive(Default)]
pub(super) struct Scratch {
    distances: Vec<i64>,
    residuals: Vec<u64>,
}

pub(super) fn encode(out: &mut Writer, values: &[i64], scratch: &mut Scratch) {
    let Some(&first) = values.first() else {
        return;
    };
    out.number(zigzag(first));
    if values.len() == 1 {
        return;
    }
    let Scratch { distances, residuals } = scratch;
    distances.clear();
    distances.extend(values.iter().map(|value| value.wrapping_sub(first)));
    let factor = divide(distances);
    if factor == 0 {
        out.put(u64::from(EQUAL), 4);
        return;
    }
    let step = usual_step(distances);
    let (predictor, total) = choose(distances, step);
    out.put(u64::from(predictor), 4);
    out.put(u64::from(factor != 1), 1);
    if factor != 1 {
        out.number(factor);
    }
    if predictor == STEP {
        out.number(zigzag(step));
    }
    residuals.clear();
    let mut model = Model::new(predictor, step);
    residuals.extend(distances[1..].iter().map(|value| {
        let residual = zigzag(value.wrapping_sub(model.prediction()));
        model.learn(*value);
        residual
    }));
    let start = rice::start(total / residuals.len() as u64);
    out.put(u64::from(start), 6);
    rice::encode(out, residuals, start);
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
    if predictor > HALF_MEAN {
        return Err("an unknown predictor");
    }
    let factor = if bits.get(1) == 0 { 1 } else { bits.number() as i64 };
    let step = if predictor == STEP {
        unzigzag(bits.number())
    } else {
        0
    };
    let start = bits.get(6) as u32;
    if !rice::decode(bits, count - 1, start, &mut scratch.residuals) {
        return Err("a run of zeros beyond its end");
    }
    let mut model = Model::new(predictor, step);
    out.extend(scratch.residuals.iter().map(|residual| {
        let value = model.prediction().wrapping_add(unzigzag(*residual));
        model.learn(value);
        first.wrapping_add(value.wrapping_mul(factor))
    }));
    Ok(out)
}

/// Predicts the next value from those before it.
struct Model {
    predictor: u32,
    step: i64,
    before: i64,
    mean: i64,
}

impl Model {
    fn new(predictor: u32, step: i64) -> Self {
        Self {
            predictor,
            step: if predictor == STEP { step } else { 0 },
            before: 0,
            mean: 0,
        }
    }

    #[inline(always)]
    fn prediction(&self) -> i64 {
        match self.predictor {
            BEFORE | STEP | LINEAR => self.before.wrapping_add(self.step),
            HALF_MEAN => {
                (self
                    .before
                    .wrapping_mul(16)
                    .wrapping_add(self.mean)
                    .wrapping_add(16))
                    >> 5
            }
            _ => self.mean.wrapping_add(8) >> 4,
        }
    }

    #[inline(always)]
    fn learn(&mut self, value: i64) {
        if self.predictor == LINEAR {
            self.step = value.wrapping_sub(self.before);
        }
        if self.predictor >= MEANS {
            let shift = (self.predictor - MEANS + 1).min(4);
            self.mean = self
                .mean
                .wrapping_add((value.wrapping_mul(16).wrapping_sub(self.mean)) >> shift);
        }
        self.before = value;
    }
}

/// The predictor with the least sum of residuals, and that sum.
fn choose(distances: &[i64], step: i64) -> (u32, u64) {
    let mut best = (BEFORE, u64::MAX);
    let cap = 1 << 46;
    for predictor in BEFORE..=HALF_MEAN {
        if predictor == STEP && step == 0 {
            continue;
        }
        let mut model = Model::new(predictor, step);
        let mut total = 0u64;
        for value in &distances[1..] {
            total += zigzag(value.wrapping_sub(model.prediction())).min(cap);
            model.learn(*value);
        }
        if total < best.1 {
            best = (predictor, total);
        }
    }
    best
}

/// The median of some steps between neighbours.
fn usual_step(distances: &[i64]) -> i64 {
    let mut steps = [0; 9];
    let mut len = 0;
    let stride = (distances.len() - 1).div_ceil(9);
    for pair in distances.windows(2).step_by(stride) {
        steps[len] = pair[1].wrapping_sub(pair[0]);
        len += 1;
    }
    steps[..len].sort_unstable();
    steps[len / 2]
}

/// Divides all by their greatest common factor and gives it; 0 if they are all 0.
fn divide(distances: &mut [i64]) -> u64 {
    let mut factor = 0u64;
    for distance in distances.iter() {
        let distance = distance.unsigned_abs();
        if factor == 0 || !distance.is_multiple_of(factor) {
            factor = gcd(factor, distance);
            if factor == 1 {
                return 1;
            }
        }
    }
    if factor > i64::MAX as u64 {
        return 1;
    }
    if factor > 1 {
        for distance in distances {
            *distance /= factor as i64;
        }
    }
    factor
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
