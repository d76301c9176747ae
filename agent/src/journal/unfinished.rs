//! Writes that were not finished: what a power cut, or a medium that fails, has left of the last write of a segment. Nothing of such a write was
//! promised, so it is no damage, and tells nothing of the medium; what of it can be read is kept all the same.
//!
//! How it is told from damage:
//!
//! - Only the **last** write of a segment can be one: each is synced before the next begins, and in another segment, too. Where a block
//!   begins with a record a write begins, and all before it was synced.
//! - A medium writes whole sectors. What is missing of a write are sectors that are still zero, as the file was made, and what is there begins
//!   and ends at their edges. A record with a byte that has changed is of its full length, and what stands behind it is as it was.
//! - It is looked for in the **newest** segment alone, at the start. The agent then begins another one, whose ledger says where the write begins,
//!   the checksum of all from there to the end of the segment, and which records are missing in it. What changes there later is damage again.
//!
//! In doubt it is damage.

use super::format::{Reader, number, take_length};

/// What a medium writes whole.
const SECTOR: usize = 512;
/// So much is looked at on either side of what is missing.
const EDGE: usize = 16;
/// So many are remembered; of more, the oldest count as damage.
pub(super) const MOST: usize = 256;

/// A write that was not finished.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Unfinished {
    pub(super) segment: u64,
    /// Where the write begins, at the latest.
    pub(super) from: u64,
    /// CRC-32C of what stands from there to the end of the segment.
    pub(super) sum: u32,
    /// What is missing of it before other records of it: stream, first and last number.
    pub(super) holes: Vec<(u64, u64, u64)>,
}

impl Unfinished {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        number(out, self.segment);
        number(out, self.from);
        out.extend(self.sum.to_le_bytes());
        number(out, self.holes.len() as u64);
        for (stream, first, last) in &self.holes {
            out.extend(stream.to_le_bytes());
            number(out, *first);
            number(out, last - first);
        }
    }

    pub(super) fn get(reader: &mut Reader<'_>) -> Option<Self> {
        let mut unfinished = Self {
            segment: reader.number()?,
            from: reader.number()?,
            sum: u32::from_le_bytes(reader.array()?),
            holes: Vec::new(),
        };
        for _ in 0..reader.number()? {
            let (stream, first) = (u64::from_le_bytes(reader.array()?), reader.number()?);
            let last = first.checked_add(reader.number()?)?;
            unfinished.holes.push((stream, first, last));
        }
        Some(unfinished)
    }

    /// Whether these numbers are missing because of it.
    pub(super) fn has_hole(&self, stream: u64, first: u64, last: u64) -> bool {
        (self.holes.iter()).any(|hole| hole.0 == stream && hole.1 <= first && last <= hole.2)
    }
}

/// What stands between two records, or behind the last one, and is neither record nor zero.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// Where the record before it ends, or the write begins that it is part of.
    pub(super) from: usize,
    /// Where it begins: the first byte that is wrong.
    pub(super) at: usize,
    /// Where the next record begins; `None`: there is none.
    pub(super) to: Option<usize>,
}

impl Gap {
    /// Whether sectors of a write are missing in it.
    pub(super) fn is_unfinished(&self, bytes: &[u8]) -> bool {
        let to = self.to.unwrap_or_else(|| {
            let last = bytes.iter().rposition(|byte| *byte != 0);
            last.map_or(0, |last| last + 1)
        });
        let is_zero = |at: usize| {
            let sector = bytes.get(at..at + SECTOR);
            sector.is_some_and(|sector| sector.iter().all(|byte| *byte == 0))
        };
        // One byte may have changed by itself.
        let is_content = |from: usize, to: usize| {
            let edge = bytes.get(from..to.min(bytes.len())).unwrap_or_default();
            !edge.is_empty() && edge.iter().filter(|byte| **byte != 0).count() >= edge.len().min(2)
        };
        let mut at = self.from.next_multiple_of(SECTOR);
        while at < to || at == to.next_multiple_of(SECTOR) {
            let begin = at;
            while is_zero(at) {
                at += SECTOR;
            }
            if at > begin {
                let before = begin == self.from || is_content(self.from.max(begin - EDGE), begin);
                let after = match self.to {
                    None if at >= to => self.length(bytes).is_some_and(|length| self.at + length > begin),
                    None => is_content(at, to.min(at + EDGE)),
                    Some(_) => is_content(at, at + EDGE),
                };
                if before && after {
                    return true;
                }
            }
            at += SECTOR;
        }
        false
    }

    /// How long the record says that it is which begins where the gap does.
    fn length(&self, bytes: &[u8]) -> Option<usize> {
        take_length(&bytes[self.at..])
    }
}
