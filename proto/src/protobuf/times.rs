//! Time columns of the open form: `headwater.v1.Times`.

use alloc::format;
use alloc::vec::Vec;
use core::iter::repeat_n;

use super::malformed;
use crate::decimal::gcd;
use crate::varint::{len, zigzag};
use crate::{Error, pb};

pub(super) fn encode(times: &[i64]) -> pb::Times {
    let Some(first) = times.first() else {
        return pb::Times::default();
    };
    let mut deltas: Vec<i64> = Vec::new();
    let mut runs: Vec<u32> = Vec::new();
    // What divides the first and all distances divides all: as long as no distance is beyond 64 bits.
    let mut unit = first.unsigned_abs();
    for pair in times.windows(2) {
        let (delta, far) = pair[1].overflowing_sub(pair[0]);
        match (deltas.last(), runs.last_mut()) {
            (Some(last), Some(run)) if *last == delta => *run += 1,
            _ => {
                deltas.push(delta);
                runs.push(1);
                unit = if far { 1 } else { gcd(unit, delta.unsigned_abs()) };
            }
        }
    }
    let unit = match i64::try_from(unit) {
        Ok(0) | Err(_) => 1,
        Ok(unit) => unit,
    };
    if unit != 1 {
        deltas.iter_mut().for_each(|delta| *delta /= unit);
    }
    let each = || deltas.iter().zip(&runs);
    let delta_bytes = |delta: i64| len(zigzag(delta));
    let run_bytes: usize = each()
        .map(|(delta, run)| delta_bytes(*delta) + len(u64::from(*run)))
        .sum();
    let plain_bytes: usize = each()
        .map(|(delta, run)| delta_bytes(*delta) * *run as usize)
        .sum();
    if plain_bytes <= run_bytes {
        let plain = each().flat_map(|(delta, run)| repeat_n(*delta, *run as usize));
        (deltas, runs) = (plain.collect(), Vec::new());
    }
    pb::Times {
        first: first / unit,
        unit_us: if unit == 1 { 0 } else { unit as u64 },
        count: times.len() as u32,
        deltas,
        runs,
    }
}

/// `count` has been checked against the limits.
pub(super) fn decode(times: &pb::Times, index: usize) -> Result<Vec<i64>, Error> {
    let fail = |why| Err(malformed(format!("time column {index}"), why));
    let count = times.count as usize;
    if !times.runs.is_empty() && times.runs.len() != times.deltas.len() {
        return fail(format!(
            "{} deltas with {} runs",
            times.deltas.len(),
            times.runs.len()
        ));
    }
    let steps = if times.runs.is_empty() {
        times.deltas.len() as u64
    } else {
        times.runs.iter().map(|run| u64::from(*run)).sum()
    };
    if steps != count.saturating_sub(1) as u64 {
        return fail(format!("{count} times with {steps} steps between them"));
    }
    let mut out = Vec::with_capacity(count);
    if count > 0 {
        let unit = times.unit_us.max(1) as i64;
        let mut now = times.first;
        out.push(now.wrapping_mul(unit));
        for (at, delta) in times.deltas.iter().enumerate() {
            for _ in 0..times.runs.get(at).copied().unwrap_or(1) {
                now = now.wrapping_add(*delta);
                out.push(now.wrapping_mul(unit));
            }
        }
    }
    Ok(out)
}
