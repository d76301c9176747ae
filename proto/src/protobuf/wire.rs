//! The open form written field by field, by who has its columns as the wire has them and needs no message in between.
//!
//! Fields stand in the order of their numbers, and those with their default are left out, as in what [`super::encode`] writes.

use alloc::vec::Vec;

use prost::Message;
use prost::encoding::WireType;

use super::{column, times};
use crate::decimal::common_factor;
use crate::model::{Clock, Column};
use crate::pb;
use crate::series::Series;
use crate::varint::{self, len, zigzag};

/// The longest varint.
const LONGEST: usize = 10;

/// A batch that is being written.
pub(crate) struct Wire {
    out: Vec<u8>,
    /// Of a column: longer than what is written, so that a byte is stored without looking whether there is room.
    deltas: Vec<u8>,
}

impl Wire {
    /// A batch of this name, of about so many bytes.
    pub(crate) fn new(device: &str, stream: u64, seq: u64, about: usize) -> Self {
        let mut out = Vec::with_capacity(about);
        text(&mut out, 1, device);
        if stream != 0 {
            key(&mut out, 2, WireType::SixtyFourBit);
            out.extend_from_slice(&stream.to_le_bytes());
        }
        number(&mut out, 3, seq);
        Self {
            out,
            deltas: Vec::new(),
        }
    }

    /// The next time column.
    pub(crate) fn times(&mut self, times: &[i64]) {
        self.message(4, &times::encode(times));
    }

    /// The next column, of decimals on this scale. `false`, and nothing is written, where it is larger than as doubles.
    pub(crate) fn decimals(&mut self, series: &Series, times: u32, scale: u32, mantissas: &[i64]) -> bool {
        let factor = common_factor(mantissas.iter().copied());
        let deltas = self.deltas(mantissas, factor);
        let smaller = deltas <= mantissas.len() * 8;
        if smaller {
            self.scaled(series, times, 4, &[u64::from(scale), written(factor)], deltas);
        }
        smaller
    }

    /// The next column, of integers.
    pub(crate) fn integers(&mut self, series: &Series, times: u32, values: &[i64]) {
        let factor = common_factor(values.iter().copied());
        let deltas = self.deltas(values, factor);
        self.scaled(series, times, 6, &[written(factor)], deltas);
    }

    /// The next column, of any kind.
    pub(crate) fn column(&mut self, column: &Column) {
        self.message(5, &column::encode(column, None));
    }

    /// All of it.
    pub(crate) fn finish(mut self, clock: Clock) -> Vec<u8> {
        let clock = match clock {
            Clock::Synchronised => pb::Clock::Synchronised,
            Clock::Uncertain => pb::Clock::Uncertain,
        };
        number(&mut self.out, 7, clock as u64);
        self.out
    }

    fn message(&mut self, field: u32, message: &impl Message) {
        key(&mut self.out, field, WireType::LengthDelimited);
        varint::put(&mut self.out, message.encoded_len() as u64);
        // Into a vector, nothing fails.
        message.encode_raw(&mut self.out);
    }

    /// A column whose values are a message of these numbers, in its first fields, and of the first so many bytes of the deltas.
    fn scaled(&mut self, series: &Series, times: u32, values: u32, numbers: &[u64], deltas: usize) {
        let packed = |len_of: usize| {
            if len_of == 0 {
                0
            } else {
                1 + len(len_of as u64) + len_of
            }
        };
        let number_len = |value: u64| if value == 0 { 0 } else { 1 + len(value) };
        let inner = numbers.iter().map(|value| number_len(*value)).sum::<usize>() + packed(deltas);
        let named = packed(series.metric.len()) + packed(series.unit.len());
        let outer = named + number_len(u64::from(times)) + 1 + len(inner as u64) + inner;
        let out = &mut self.out;
        out.reserve(outer + 1 + LONGEST);
        key(out, 5, WireType::LengthDelimited);
        varint::put(out, outer as u64);
        text(out, 1, &series.metric);
        text(out, 2, &series.unit);
        number(out, 3, u64::from(times));
        key(out, values, WireType::LengthDelimited);
        varint::put(out, inner as u64);
        let mut field = 1;
        for value in numbers {
            number(out, field, *value);
            field += 1;
        }
        bytes(out, field, &self.deltas[..deltas]);
    }

    /// The distances of neighbours, as zigzag varints; how many bytes that makes.
    fn deltas(&mut self, values: &[i64], factor: u64) -> usize {
        let room = values.len() * LONGEST;
        if self.deltas.len() < room {
            self.deltas.resize(room, 0);
        }
        let out = &mut self.deltas[..room];
        let (mut at, mut last) = (0, 0i64);
        let mut put = |value: i64| {
            let delta = zigzag(value.wrapping_sub(core::mem::replace(&mut last, value)));
            at = if delta < 1 << 14 {
                // One byte or two: which of them, no processor foresees.
                let two = u8::from(delta > 0x7f);
                out[at] = delta as u8 | two << 7;
                out[at + 1] = (delta >> 7) as u8;
                at + 1 + usize::from(two)
            } else {
                put_long(out, at, delta)
            };
        };
        if factor == 1 {
            values.iter().for_each(|value| put(*value));
        } else {
            values.iter().for_each(|value| put(value / factor as i64));
        }
        at
    }
}

fn put_long(out: &mut [u8], mut at: usize, mut value: u64) -> usize {
    while value >= 0x80 {
        out[at] = value as u8 | 0x80;
        value >>= 7;
        at += 1;
    }
    out[at] = value as u8;
    at + 1
}

/// As the wire has a factor: 0 means 1.
fn written(factor: u64) -> u64 {
    if factor == 1 { 0 } else { factor }
}

fn key(out: &mut Vec<u8>, field: u32, wire: WireType) {
    out.push((field << 3) as u8 | wire as u8);
}

fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        key(out, field, WireType::Varint);
        varint::put(out, value);
    }
}

fn text(out: &mut Vec<u8>, field: u32, value: &str) {
    bytes(out, field, value.as_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u32, value: &[u8]) {
    if !value.is_empty() {
        key(out, field, WireType::LengthDelimited);
        varint::put(out, value.len() as u64);
        out.extend_from_slice(value);
    }
}
