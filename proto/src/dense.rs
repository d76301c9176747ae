//! The dense form of a body, for the link and the journal: columns as bits, in a postcard frame.
//!
//! Postcard's part is a struct of two fields: `flags: u8` and `bits: bytes` (their length as a varint, then they
//! themselves). Flag 1 says that the clock was uncertain; flag 2 that this is a loss record: `bits` are then a
//! postcard struct of `through: u64`, `readings: u64`, `reason: u8` (1 journal full, 2 corrupt, 3 retention,
//! 4 refused).
//!
//! Bits stand least significant first. A *number* is 6 bits with its length in bits less one, then its bits without
//! the highest (0 and 1: the bit itself). A *small* number is groups of three bits, the lowest first, each followed
//! by a bit that is 1 if another group comes. Zigzag maps 0, -1, 1, -2 to 0, 1, 2, 3.
//!
//! ```text
//! times      small     how many time columns, then these: see times.rs
//! in order   1 bit     1: the columns are the series of the set, all and in order; 0: their number (small), then for
//!                      each how far it is beyond the one after the last (small, zigzag)
//! columns              for each:
//!   times    w bits    the index of its time column; w = bits of the number of time columns less one
//!   suspect  1 bit     if 1: how many (small), then the distance of each from the one after the last (small)
//!   values             by the series' type: doubles.rs, integers.rs, texts.rs; as many as there are times
//! ```

mod bits;
mod choice;
mod doubles;
mod exact;
mod integers;
mod lanes;
mod narrow;
mod predict;
mod rice;
mod texts;
mod times;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::limits::within;
use crate::model::{Body, Clock, Column, Loss, LossReason, Readings, Values};
use crate::series::{SeriesSet, ValueType};
use crate::varint::{self, unzigzag, zigzag};
use crate::{Error, Limits};
use bits::{Reader, Writer};
use choice::Memory;

const UNCERTAIN: u8 = 1;
const LOSS: u8 = 2;

#[derive(Deserialize)]
struct Dense<'a> {
    flags: u8,
    #[serde(borrow)]
    bits: &'a [u8],
}

/// Buffers that columns and bodies share, and what was chosen for the columns of the batch before.
#[derive(Default)]
pub(crate) struct Scratch {
    bits: Vec<u8>,
    columns: doubles::Scratch,
    memory: Memory,
}

#[derive(Serialize, Deserialize)]
struct LossRecord {
    through: u64,
    readings: u64,
    reason: u8,
}

/// Adds `head` and the body to `out`. `places[i]` is that of column `i` in the series set.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    head: [u8; 4],
    body: &Body,
    places: &[u32],
    series: &SeriesSet,
    scratch: &mut Scratch,
) {
    match body {
        Body::Loss(loss) => {
            let reason = match loss.reason {
                LossReason::JournalFull => 1,
                LossReason::Corrupt => 2,
                LossReason::Retention => 3,
                LossReason::Refused => 4,
            };
            let record = LossRecord {
                through: loss.through,
                readings: loss.readings,
                reason,
            };
            // Into a vector, postcard has nothing to fail at.
            frame(
                out,
                head,
                LOSS,
                &postcard::to_allocvec(&record).unwrap_or_default(),
            );
        }
        Body::Readings(readings) => {
            let flags = match readings.clock {
                Clock::Synchronised => 0,
                Clock::Uncertain => UNCERTAIN,
            };
            let bits = encode_readings(readings, places, series, scratch);
            frame(out, head, flags, &scratch.bits[..bits]);
        }
    }
}

/// [`Dense`] as postcard writes it, without its detour byte by byte.
fn frame(out: &mut Vec<u8>, head: [u8; 4], flags: u8, bits: &[u8]) {
    out.reserve_exact(head.len() + 1 + varint::len(bits.len() as u64) + bits.len());
    out.extend_from_slice(&head);
    out.push(flags);
    varint::put(out, bits.len() as u64);
    out.extend_from_slice(bits);
}

/// Into the buffer of bits; how many of its bytes count.
fn encode_readings(readings: &Readings, places: &[u32], series: &SeriesSet, scratch: &mut Scratch) -> usize {
    let Scratch {
        bits,
        columns: scratch,
        memory,
    } = scratch;
    memory.of(series.hash(), series.series().len());
    let mut out = Writer::new(core::mem::take(bits));
    out.small(readings.times.len() as u64);
    times::encode(&mut out, &readings.times, &mut scratch.integers, memory);
    let in_order =
        places.len() == series.series().len() && places.iter().zip(0..).all(|(place, at)| *place == at);
    out.put_few(u64::from(in_order), 1);
    if !in_order {
        out.small(places.len() as u64);
        let mut next = 0;
        for place in places {
            out.small(zigzag(i64::from(*place) - next));
            next = i64::from(*place) + 1;
        }
    }
    let width = times_width(readings.times.len());
    for (column, place) in readings.columns.iter().zip(places) {
        let suspect = u64::from(!column.suspect.is_empty());
        out.put_few(u64::from(column.times) | suspect << width, width + 1);
        if suspect == 1 {
            out.small(column.suspect.len() as u64);
            let mut next = 0;
            for at in &column.suspect {
                out.small(u64::from(at - next));
                next = at + 1;
            }
        }
        let choice = memory.column(*place as usize);
        match &column.values {
            Values::F64(values) => doubles::encode(&mut out, values, scratch, choice),
            Values::I64(values) => integers::encode(&mut out, values, &mut scratch.integers, choice),
            Values::Bool(values) => texts::encode_bools(&mut out, values),
            Values::String(values) => {
                texts::encode_strings(&mut out, values, &mut scratch.integers, choice);
            }
        }
    }
    let len;
    (*bits, len) = out.finish();
    len
}

fn times_width(times: usize) -> u32 {
    usize::BITS - times.saturating_sub(1).leading_zeros()
}

pub(crate) fn decode(bytes: &[u8], series: &SeriesSet, limits: &Limits) -> Result<Body, Error> {
    let dense: Dense<'_> = parse("postcard body", bytes)?;
    if dense.flags & LOSS != 0 {
        let record: LossRecord = parse("loss record", dense.bits)?;
        let reason = match record.reason {
            1 => LossReason::JournalFull,
            2 => LossReason::Corrupt,
            3 => LossReason::Retention,
            4 => LossReason::Refused,
            reason => return Err(malformed("loss record", &format!("reason {reason} is not known"))),
        };
        return Ok(Body::Loss(Loss {
            through: record.through,
            readings: record.readings,
            reason,
        }));
    }
    if dense.flags & !(UNCERTAIN | LOSS) != 0 {
        return Err(malformed(
            "postcard body",
            &format!("flags {:#04x} are not known", dense.flags),
        ));
    }
    let mut readings = decode_readings(&mut Reader::new(dense.bits), series, limits)?;
    if dense.flags & UNCERTAIN != 0 {
        readings.clock = Clock::Uncertain;
    }
    limits.check(&readings)?;
    Ok(Body::Readings(readings))
}

fn parse<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, Error> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok((_, rest)) => Err(malformed(what, &format!("{} bytes follow it", rest.len()))),
        Err(postcard::Error::DeserializeUnexpectedEnd) => Err(Error::Truncated {
            what,
            at: bytes.len(),
        }),
        Err(error) => Err(malformed(what, &error.to_string())),
    }
}

fn decode_readings(bits: &mut Reader<'_>, series: &SeriesSet, limits: &Limits) -> Result<Readings, Error> {
    let mut scratch = integers::Scratch::default();
    let mut readings = Readings::default();
    let count = usize::try_from(bits.small()).unwrap_or(usize::MAX);
    within("columns", count, limits.columns)?;
    let mut budget = limits.readings;
    for index in 0..count {
        let what = || format!("time column {index}");
        let over = Error::Limit {
            what: "readings",
            actual: limits.readings + 1,
            limit: limits.readings,
        };
        let times = times::decode(bits, &readings.times, &mut budget, &mut scratch)
            .map_err(|why| why.map_or(over, |why| malformed(what(), why)))?;
        ended(bits, "time column")?;
        readings.times.push(times);
    }
    let places = decode_places(bits, series.series().len(), limits)?;
    ended(bits, "list of columns")?;
    let width = times_width(count);
    let mut total = 0;
    let mut string_bytes = limits.string_bytes;
    for (index, place) in places.into_iter().enumerate() {
        let Some(entry) = series.series().get(place) else {
            let why = format!("series {place} of a set of {}", series.series().len());
            return Err(malformed(format!("column {index}"), &why));
        };
        let what = || format!("column {index} ({})", entry.metric);
        let of_times = bits.get(width) as u32;
        let Some(count) = readings.times.get(of_times as usize).map(Vec::len) else {
            return Err(malformed(
                what(),
                &format!("time column {of_times} of {}", readings.times.len()),
            ));
        };
        total += count;
        within("readings", total, limits.readings)?;
        let suspect = decode_suspect(bits, count).map_err(|why| malformed(what(), why))?;
        let values = match entry.value_type {
            ValueType::F64 => doubles::decode(bits, count, &mut scratch)
                .map(Values::F64)
                .map_err(Some),
            ValueType::I64 => integers::decode(bits, count, &mut scratch)
                .map(Values::I64)
                .map_err(Some),
            ValueType::Bool => texts::decode_bools(bits, count).map(Values::Bool).map_err(Some),
            ValueType::String => {
                texts::decode_strings(bits, count, &mut string_bytes, &mut scratch).map(Values::String)
            }
        };
        let values = values.map_err(|why| match why {
            Some(why) => malformed(what(), why),
            None => {
                let limit = limits.string_bytes;
                Error::Limit {
                    what: "string_bytes",
                    actual: limit + 1,
                    limit,
                }
            }
        })?;
        ended(bits, "column")?;
        let (metric, unit) = (entry.metric.clone(), entry.unit.clone());
        readings.columns.push(Column {
            metric,
            unit,
            times: of_times,
            values,
            suspect,
        });
    }
    if bits.left() >= 8 {
        return Err(malformed(
            "postcard body",
            &format!("{} bits follow its columns", bits.left()),
        ));
    }
    Ok(readings)
}

fn decode_places(bits: &mut Reader<'_>, series: usize, limits: &Limits) -> Result<Vec<usize>, Error> {
    if bits.get(1) == 1 {
        within("columns", series, limits.columns)?;
        return Ok((0..series).collect());
    }
    let count = usize::try_from(bits.small()).unwrap_or(usize::MAX);
    within("columns", count, limits.columns)?;
    let mut next = 0i64;
    let mut places = Vec::with_capacity(count);
    for _ in 0..count {
        let place = next.wrapping_add(unzigzag(bits.small()));
        // What is not in any set is refused where the column is read.
        places.push(usize::try_from(place).unwrap_or(usize::MAX));
        next = place.wrapping_add(1);
    }
    Ok(places)
}

fn decode_suspect(bits: &mut Reader<'_>, count: usize) -> Result<Vec<u32>, &'static str> {
    let mut suspect = Vec::new();
    if bits.get(1) == 1 {
        let number = bits.small();
        if number > count as u64 || number > bits.left() as u64 {
            return Err("more suspect indices than values");
        }
        let mut next = 0u64;
        for _ in 0..number {
            let at = next.saturating_add(bits.small());
            if at >= count as u64 {
                return Err("a suspect index beyond its end");
            }
            suspect.push(at as u32);
            next = at + 1;
        }
    }
    Ok(suspect)
}

fn ended(bits: &Reader<'_>, what: &'static str) -> Result<(), Error> {
    if bits.overrun() {
        Err(Error::Truncated {
            what,
            at: bits.at_byte(),
        })
    } else {
        Ok(())
    }
}

fn malformed(what: impl Into<String>, why: &str) -> Error {
    Error::Malformed {
        what: what.into(),
        why: why.to_string(),
    }
}
