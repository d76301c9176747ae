//! Time columns of the open form: `headwater.v1.Times`.

use alloc::format;
use alloc::vec::Vec;

use super::malformed;
use crate::decimal::common_factor;
use crate::varint::{len, zigzag};
use crate::{Error, pb};

pub(super) fn encode(times: &[i64]) -> pb::Times {
    let Some(first) = times.first() else {
        return pb::Times::default();
    };
    let unit = common_factor(times.iter().copied()) as i64;
    let units: Vec<i64> = if unit == 1 {
        times.to_vec()
    } else {
        times.iter().map(|time| time / unit).collect()
    };
    let mut deltas: Vec<i64> = Vec::new();
    let mut runs: Vec<u32> = Vec::new();
    let mut plain_bytes = 0;
    for pair in units.windows(2) {
        let delta = pair[1].wrapping_sub(pair[0]);
        plain_bytes += len(zigzag(delta));
        match (deltas.last(), runs.last_mut()) {
            (Some(last), Some(run)) if *last == delta => *run += 1,
            _ => {
                deltas.push(delta);
                runs.push(1);
            }
        }
    }
    let run_bytes: usize = deltas.iter().map(|delta| len(zigzag(*delta))).sum::<usize>()
        + runs.iter().map(|run| len(u64::from(*run))).sum::<usize>();
    if plain_bytes <= run_bytes {
        deltas = units
            .windows(2)
            .map(|pair| pair[1].wrapping_sub(pair[0]))
            .collect();
        runs = Vec::new();
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
