//! Time columns: microseconds as integers, or another column without some of its entries.
//!
//! ```text
//! subset  1 bit     if 1: index of an earlier column (small), entries left out (small), for each its distance from
//!                   the one before (small)
//! count   number    otherwise: how many
//! integers          see integers.rs
//! ```

use alloc::vec::Vec;

use super::bits::{Reader, Writer};
use super::choice::Memory;
use super::integers::{self, Scratch};

/// Beyond this share of entries left out, the column is written by itself.
const MOST_LEFT_OUT: usize = 4;

pub(super) fn encode(out: &mut Writer, columns: &[Vec<i64>], scratch: &mut Scratch, memory: &mut Memory) {
    for (index, column) in columns.iter().enumerate() {
        let earlier = columns[..index].iter().enumerate();
        let subset = earlier.filter_map(|(of, earlier)| Some((of, left_out(column, earlier)?)));
        if let Some((of, left_out)) = subset.min_by_key(|(_, left_out)| left_out.len()) {
            out.put(1, 1);
            out.small(of as u64);
            out.small(left_out.len() as u64);
            let mut next = 0;
            for at in left_out {
                out.small((at - next) as u64);
                next = at + 1;
            }
        } else {
            out.put(0, 1);
            out.number(column.len() as u64);
            integers::encode(out, column, scratch, memory.times(index));
        }
    }
}

/// The entries of `earlier` without which it is `column`; `None` if it is not or they are many.
fn left_out(column: &[i64], earlier: &[i64]) -> Option<Vec<usize>> {
    let surplus = earlier.len().checked_sub(column.len())?;
    if surplus * MOST_LEFT_OUT > earlier.len() {
        return None;
    }
    let mut left_out = Vec::with_capacity(surplus);
    let mut wanted = column.iter();
    let mut next = wanted.next();
    for (at, time) in earlier.iter().enumerate() {
        if next == Some(time) {
            next = wanted.next();
        } else if left_out.len() == surplus {
            return None;
        } else {
            left_out.push(at);
        }
    }
    next.is_none().then_some(left_out)
}

/// Reads one column. `budget` is what the limit leaves; it is lowered.
///
/// # Errors
/// What is wrong; `Err(None)` if the limit is passed.
pub(super) fn decode(
    bits: &mut Reader<'_>,
    earlier: &[Vec<i64>],
    budget: &mut usize,
    scratch: &mut Scratch,
) -> Result<Vec<i64>, Option<&'static str>> {
    if bits.get(1) == 0 {
        let count = usize::try_from(bits.number()).unwrap_or(usize::MAX);
        *budget = budget.checked_sub(count).ok_or(None)?;
        return integers::decode(bits, count, scratch).map_err(Some);
    }
    let of = usize::try_from(bits.small()).unwrap_or(usize::MAX);
    let whole = earlier
        .get(of)
        .ok_or(Some("a subset of a column that is not before it"))?;
    let surplus = usize::try_from(bits.small()).unwrap_or(usize::MAX);
    let count = whole
        .len()
        .checked_sub(surplus)
        .ok_or(Some("a subset that leaves out more than there is"))?;
    *budget = budget.checked_sub(count).ok_or(None)?;
    let mut out = Vec::with_capacity(count);
    let mut next = 0;
    for _ in 0..surplus {
        let at = usize::try_from(bits.small())
            .unwrap_or(usize::MAX)
            .saturating_add(next);
        let kept = whole
            .get(next..at)
            .ok_or(Some("a subset that leaves out what is not there"))?;
        out.extend_from_slice(kept);
        next = at + 1;
    }
    out.extend_from_slice(whole.get(next..).unwrap_or_default());
    if out.len() != count {
        return Err(Some("a subset that leaves out what is not there"));
    }
    Ok(out)
}
