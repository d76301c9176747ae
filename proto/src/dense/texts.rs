//! Columns of truth values and of strings.
//!
//! ```text
//! truth values  runs    1 bit     1: the first value (1 bit), then the length less one of each run (small) until all
//!                                 are there; 0: a bit each
//! strings       size    number    of the dictionary; for each string its bytes (small) and themselves, UTF-8
//!               indices           integers.rs; in order of first appearance
//! ```

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use super::bits::{Reader, Writer};
use super::choice::Choice;
use super::integers::{self, Scratch};

pub(super) fn encode_bools(out: &mut Writer, values: &[bool]) {
    let runs = || values.chunk_by(|a, b| a == b).map(|run| run.len() as u64 - 1);
    let groups = |run: u64| if run == 0 { 1 } else { run.ilog2() as usize / 3 + 1 };
    let run_bits: usize = 1 + runs().map(|run| 4 * groups(run)).sum::<usize>();
    let in_runs = run_bits < values.len();
    out.put(u64::from(in_runs), 1);
    if in_runs {
        out.put(u64::from(values[0]), 1);
        runs().for_each(|run| out.small(run));
    } else {
        values.iter().for_each(|value| out.put(u64::from(*value), 1));
    }
}

pub(super) fn decode_bools(bits: &mut Reader<'_>, count: usize) -> Result<Vec<bool>, &'static str> {
    let mut out = Vec::new();
    if bits.get(1) == 0 {
        if count > bits.left() {
            return Err("truth values beyond its end");
        }
        out.reserve_exact(count);
        out.extend((0..count).map(|_| bits.get(1) == 1));
        return Ok(out);
    }
    let mut value = bits.get(1) == 1;
    while out.len() < count {
        let run = usize::try_from(bits.small()).unwrap_or(usize::MAX);
        if run >= count - out.len() {
            return Err("a run of truth values beyond its end");
        }
        out.resize(out.len() + run + 1, value);
        value = !value;
    }
    Ok(out)
}

pub(super) fn encode_strings(
    out: &mut Writer,
    values: &[String],
    scratch: &mut Scratch,
    choice: &mut Choice,
) {
    let mut dictionary: Vec<&str> = Vec::new();
    let mut places = BTreeMap::new();
    let indices = values.iter().map(|value| {
        *places.entry(value.as_str()).or_insert_with(|| {
            dictionary.push(value);
            dictionary.len() as i64 - 1
        })
    });
    let indices: Vec<i64> = indices.collect();
    out.number(dictionary.len() as u64);
    for text in dictionary {
        out.small(text.len() as u64);
        out.bytes(text.as_bytes());
    }
    integers::encode(out, &indices, scratch, choice);
}

/// Reads `count` strings. `budget` is what the limit leaves; it is lowered.
///
/// # Errors
/// What is wrong; `Err(None)` if the limit is passed.
pub(super) fn decode_strings(
    bits: &mut Reader<'_>,
    count: usize,
    budget: &mut usize,
    scratch: &mut Scratch,
) -> Result<Vec<String>, Option<&'static str>> {
    let size = bits.number();
    if size > count as u64 || size > bits.left() as u64 {
        return Err(Some("a dictionary larger than the column"));
    }
    let mut dictionary = Vec::with_capacity(size as usize);
    for _ in 0..size {
        let length = usize::try_from(bits.small()).unwrap_or(usize::MAX);
        if length > bits.left() / 8 {
            return Err(Some("a string beyond its end"));
        }
        let bytes = (0..length).map(|_| bits.get(8) as u8).collect();
        dictionary.push(String::from_utf8(bytes).map_err(|_| Some("a string that is not UTF-8"))?);
    }
    let indices = integers::decode(bits, count, scratch)?;
    let mut out = Vec::with_capacity(count);
    for index in indices {
        let text = usize::try_from(index)
            .ok()
            .and_then(|index| dictionary.get(index));
        let text = text.ok_or(Some("a string that is not in the dictionary"))?;
        *budget = budget.checked_sub(text.len()).ok_or(None)?;
        out.push(text.clone());
    }
    Ok(out)
}
