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
use crate::protobuf::wire::Wire;
use crate::series::{Series, SeriesSet, ValueType};
use crate::varint::{self, unzigzag, zigzag};
use crate::{Error, Limits};
use bits::{Reader, Writer};
use choice::Memory;
use doubles::Read;

const UNCERTAIN: u8 = 1;
const LOSS: u8 = 2;

/// Readings in the open form: see [`Frame::rewrite`](crate::frame::Frame::rewrite).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewritten {
    /// A `headwater.v1.Batch`.
    pub value: Vec<u8>,
    /// How many readings it holds.
    pub readings: u64,
    /// The latest of its times, microseconds since the Unix epoch; `None` where there is none.
    pub newest_us: Option<i64>,
}

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
    readings.clock = clock(dense.flags);
    limits.check(&readings)?;
    Ok(Body::Readings(readings))
}

/// Writes the readings of a body in the open form, under this name. `None` if it is a loss record.
///
/// What [`decode`] and [`protobuf::encode`](crate::protobuf::encode) make of it decodes to the same, and takes several times as long: here columns are
/// read as integers, and written as integers.
///
/// # Errors
/// As [`decode`].
pub(crate) fn rewrite(
    bytes: &[u8],
    series: &SeriesSet,
    limits: &Limits,
    (device, stream, seq): (&str, u64, u64),
) -> Result<Option<Rewritten>, Error> {
    let dense: Dense<'_> = parse("postcard body", bytes)?;
    if dense.flags & !UNCERTAIN != 0 {
        return Ok(None);
    }
    let (mut strings, mut scratch, mut integers) =
        (limits.string_bytes, integers::Scratch::default(), Vec::new());
    let bits = &mut Reader::new(dense.bits);
    let times = decode_times(bits, limits, &mut scratch)?;
    let mut wire = Wire::new(device, stream, seq, 256 + 4 * bytes.len());
    let (mut readings, mut newest_us) = (0, None);
    for times in &times {
        wire.times(times);
        newest_us = newest_us.max(times.iter().max().copied());
    }
    each_column(bits, &times, series, limits, |bits, place| {
        readings += place.count as u64;
        // Those with suspect readings are few.
        let plain = place.suspect.is_empty();
        let values = match place.series.value_type {
            ValueType::F64 => match doubles::read(bits, place.count, &mut scratch, &mut integers)? {
                Read::Decimals(scale)
                    if plain && wire.decimals(place.series, place.times, scale, &integers) =>
                {
                    return Ok(());
                }
                Read::Decimals(scale) => Values::F64(doubles::decimals(&integers, scale)),
                Read::Doubles(values) => Values::F64(values),
            },
            ValueType::I64 if plain => {
                integers::decode_into(bits, place.count, &mut scratch, &mut integers)?;
                wire.integers(place.series, place.times, &integers);
                return Ok(());
            }
            of_type => decode_values(bits, of_type, place.count, &mut strings, &mut scratch)?,
        };
        wire.column(&place.column(values));
        Ok(())
    })?;
    Ok(Some(Rewritten {
        value: wire.finish(clock(dense.flags)),
        readings,
        newest_us,
    }))
}

fn clock(flags: u8) -> Clock {
    match flags & UNCERTAIN {
        0 => Clock::Synchronised,
        _ => Clock::Uncertain,
    }
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
    let (mut strings, mut scratch) = (limits.string_bytes, integers::Scratch::default());
    let times = decode_times(bits, limits, &mut scratch)?;
    let mut columns = Vec::new();
    each_column(bits, &times, series, limits, |bits, place| {
        let of_type = place.series.value_type;
        let values = decode_values(bits, of_type, place.count, &mut strings, &mut scratch)?;
        columns.push(place.column(values));
        Ok(())
    })?;
    Ok(Readings {
        times,
        columns,
        clock: Clock::default(),
    })
}

fn decode_times(
    bits: &mut Reader<'_>,
    limits: &Limits,
    scratch: &mut integers::Scratch,
) -> Result<Vec<Vec<i64>>, Error> {
    let count = usize::try_from(bits.small()).unwrap_or(usize::MAX);
    within("columns", count, limits.columns)?;
    let mut budget = limits.readings;
    let mut columns = Vec::new();
    for index in 0..count {
        let what = || format!("time column {index}");
        let over = Error::Limit {
            what: "readings",
            actual: limits.readings + 1,
            limit: limits.readings,
        };
        let times = times::decode(bits, &columns, &mut budget, scratch)
            .map_err(|why| why.map_or(over, |why| malformed(what(), why)))?;
        ended(bits, "time column")?;
        columns.push(times);
    }
    Ok(columns)
}

/// A column whose values are what is read next.
struct Place<'a> {
    series: &'a Series,
    /// The index of its time column.
    times: u32,
    /// How many values.
    count: usize,
    suspect: Vec<u32>,
}

impl Place<'_> {
    fn column(self, values: Values) -> Column {
        Column {
            metric: self.series.metric.clone(),
            unit: self.series.unit.clone(),
            times: self.times,
            values,
            suspect: self.suspect,
        }
    }
}

/// Reads the columns, the values of each by `take`; `Err(None)` of it: too many bytes of strings.
fn each_column<'a>(
    bits: &mut Reader<'_>,
    times: &[Vec<i64>],
    series: &'a SeriesSet,
    limits: &Limits,
    mut take: impl FnMut(&mut Reader<'_>, Place<'a>) -> Result<(), Option<&'static str>>,
) -> Result<(), Error> {
    let places = decode_places(bits, series.series().len(), limits)?;
    ended(bits, "list of columns")?;
    let width = times_width(times.len());
    let mut total = 0;
    for (index, place) in places.into_iter().enumerate() {
        let Some(entry) = series.series().get(place) else {
            let why = format!("series {place} of a set of {}", series.series().len());
            return Err(malformed(format!("column {index}"), &why));
        };
        let what = || format!("column {index} ({})", entry.metric);
        let of_times = bits.get(width) as u32;
        let Some(count) = times.get(of_times as usize).map(Vec::len) else {
            return Err(malformed(
                what(),
                &format!("time column {of_times} of {}", times.len()),
            ));
        };
        total += count;
        within("readings", total, limits.readings)?;
        let suspect = decode_suspect(bits, count).map_err(|why| malformed(what(), why))?;
        let place = Place {
            series: entry,
            times: of_times,
            count,
            suspect,
        };
        take(bits, place).map_err(|why| match why {
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
    }
    if bits.left() >= 8 {
        return Err(malformed(
            "postcard body",
            &format!("{} bits follow its columns", bits.left()),
        ));
    }
    Ok(())
}

fn decode_values(
    bits: &mut Reader<'_>,
    of_type: ValueType,
    count: usize,
    strings: &mut usize,
    scratch: &mut integers::Scratch,
) -> Result<Values, Option<&'static str>> {
    Ok(match of_type {
        ValueType::F64 => Values::F64(doubles::decode(bits, count, scratch)?),
        ValueType::I64 => Values::I64(integers::decode(bits, count, scratch)?),
        ValueType::Bool => Values::Bool(texts::decode_bools(bits, count)?),
        ValueType::String => Values::String(texts::decode_strings(bits, count, strings, scratch)?),
    })
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
