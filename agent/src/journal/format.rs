//! How the journal stands on flash.
//!
//! A **segment** is one file `{id:016x}.segment`, of a fixed size, zeros at first. It is written from its beginning to its end in whole blocks of
//! 4 KiB, each of which is written once: what is durable is never in a block that is written again. A block that begins with a record
//! begins a write (one of an earlier version may not); others lie in the middle of one. Zeros fill up what a write leaves of its last block.
//!
//! A **record** is
//!
//! | | |
//! |---|---|
//! | length | LEB128: the bytes of kind and content; never 0 |
//! | checksum | CRC-32C (iSCSI), 4 bytes, little-endian: over segment id and offset of the record (8 bytes each), kind, content |
//! | kind | 1 byte: [`Kind`] |
//! | content | as the kind says, of LEB128 numbers (zigzag where signed) and bytes |
//!
//! So no record is taken for one that it is not: not from another place, not from another file, not out of a reading's text.
//!
//! The first record of a segment is a **ledger**: all that is known of every stream. Later ledgers in the same segment
//! tell of the streams that changed. The first also tells of writes at the ends of earlier segments that were not
//! finished (`unfinished`). A **series set** comes before the first batch of its segment that uses it. So each segment
//! stands alone, and a start reads the newest one only, however many there are.

use std::sync::Arc;

use crc::{CRC_32_ISCSI, Crc, Table};
use headwater_proto::frame::Sealed;
use headwater_proto::{Limits, LossReason, Message, SeriesSet, pb};

use super::ClockEpoch;
use super::ledger::Stream;
use super::unfinished::Unfinished;

/// The unit in which a segment is written.
pub(super) const BLOCK: usize = 4096;
/// The version of this format. Every version begins a segment with a ledger whose content begins with its version.
pub(super) const VERSION: u64 = 1;
/// A longer record cannot be.
const LONGEST: u64 = 16 * 1024 * 1024;

/// One table of 1 KiB: small before fast, as flash is slower than either.
static CRC: Crc<u32, Table<1>> = Crc::<u32, Table<1>>::new(&CRC_32_ISCSI);

/// What a record holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Item {
    Ledger(Ledger),
    Series(SeriesSet),
    Batch(Batch),
    Loss(LossItem),
}

/// What is known of streams.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ledger {
    /// Whether a stream that is not in it is not held.
    pub(super) complete: bool,
    pub(super) streams: Vec<Stream>,
    /// In a complete one: what earlier segments end with. Left out where there is nothing to say, as programs before this did.
    pub(super) unfinished: Vec<Unfinished>,
}

/// A batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Batch {
    pub(super) stream: u64,
    pub(super) seq: u64,
    /// The last number of the stream that was acknowledged when it was written.
    pub(super) acked: u64,
    /// Readings of the stream that were written before it.
    pub(super) before: u64,
    pub(super) readings: u64,
    pub(super) oldest_us: i64,
    pub(super) clock: Option<ClockEpoch>,
    pub(super) sealed: Arc<Sealed>,
}

/// Readings that were given up before they were written.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LossItem {
    pub(super) stream: u64,
    pub(super) seq: u64,
    pub(super) through: u64,
    /// The last number of the stream that was acknowledged when it was written.
    pub(super) acked: u64,
    /// Readings of the stream that were written before it.
    pub(super) before: u64,
    pub(super) readings: u64,
    pub(super) reason: LossReason,
}

/// The kinds of record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ledger = 1,
    Series = 2,
    Batch = 3,
    Loss = 4,
}

/// Where a segment is.
pub(super) fn name(segment: u64) -> String {
    format!("{segment:016x}.segment")
}

/// The segment that a file is, if it is one.
pub(super) fn segment(name: &str) -> Option<u64> {
    let id = name.strip_suffix(".segment")?;
    (id.len() == 16)
        .then(|| u64::from_str_radix(id, 16).ok())
        .flatten()
}

/// Appends a record that will stand at `base` + the length of `out` in the segment.
pub(super) fn put(out: &mut Vec<u8>, segment: u64, base: u64, item: &Item) {
    let offset = base + out.len() as u64;
    let (kind, content) = content(item);
    number(out, content.len() as u64 + 1);
    out.extend(checksum(segment, offset, kind as u8, &content).to_le_bytes());
    out.push(kind as u8);
    out.extend(content);
}

/// The same for a record of a write that may go on behind it: then the next one does not begin just where a block does, for an empty ledger goes
/// before this one.
pub(super) fn put_within(out: &mut Vec<u8>, segment: u64, base: u64, item: &Item) {
    let before = out.len();
    put(out, segment, base, item);
    if (base + out.len() as u64).is_multiple_of(BLOCK as u64) {
        out.truncate(before);
        put(out, segment, base, &Item::Ledger(Ledger::default()));
        put(out, segment, base, item);
    }
}

fn checksum(segment: u64, offset: u64, kind: u8, content: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&segment.to_le_bytes());
    digest.update(&offset.to_le_bytes());
    digest.update(&[kind]);
    digest.update(content);
    digest.finalize()
}

fn content(item: &Item) -> (Kind, Vec<u8>) {
    let mut out = Vec::new();
    let kind = match item {
        Item::Ledger(ledger) => {
            number(&mut out, VERSION);
            out.push(u8::from(ledger.complete));
            number(&mut out, ledger.streams.len() as u64);
            for stream in &ledger.streams {
                stream.put(&mut out);
            }
            if !ledger.unfinished.is_empty() {
                number(&mut out, ledger.unfinished.len() as u64);
                for unfinished in &ledger.unfinished {
                    unfinished.put(&mut out);
                }
            }
            Kind::Ledger
        }
        Item::Series(set) => {
            out.extend(set.to_pb().encode_to_vec());
            Kind::Series
        }
        Item::Batch(batch) => {
            out.extend(batch.stream.to_le_bytes());
            for value in [
                batch.seq,
                batch.seq - batch.acked,
                batch.before,
                batch.readings,
                zigzag(batch.oldest_us),
            ] {
                number(&mut out, value);
            }
            out.push(u8::from(batch.clock.is_some()));
            if let Some(clock) = batch.clock {
                out.extend(clock.boot.to_le_bytes());
                number(&mut out, zigzag(clock.offset_us));
            }
            out.push(batch.sealed.envelope);
            out.extend(batch.sealed.series_set.to_le_bytes());
            out.extend(&batch.sealed.body);
            Kind::Batch
        }
        Item::Loss(loss) => {
            out.extend(loss.stream.to_le_bytes());
            for value in [
                loss.seq,
                loss.seq - loss.acked,
                loss.through,
                loss.before,
                loss.readings,
            ] {
                number(&mut out, value);
            }
            out.push(reason_code(loss.reason));
            Kind::Loss
        }
    };
    (kind, out)
}

/// Appends a ledger as a program of the next version begins a segment with.
#[cfg(test)]
pub(super) fn put_newer(out: &mut Vec<u8>, segment: u64) {
    let mut content = Vec::new();
    number(&mut content, VERSION + 1);
    content.extend([1, 2, 3]);
    number(out, content.len() as u64 + 1);
    out.extend(checksum(segment, 0, Kind::Ledger as u8, &content).to_le_bytes());
    out.push(Kind::Ledger as u8);
    out.extend(content);
}

/// What stands at an offset of a segment.
#[derive(Debug)]
pub(super) enum Found {
    /// A record, and how many bytes it takes.
    Item(Item, usize),
    /// A record of a version that this program does not know.
    Newer(u64),
    /// Zero: nothing more was written in this block.
    Nothing,
    /// Neither.
    Bad,
}

/// How many bytes the record takes that `bytes` begin with, as its length says.
pub(super) fn take_length(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader(bytes);
    let length = reader.number().filter(|length| (1..LONGEST).contains(length))?;
    Some(bytes.len() - reader.0.len() + 4 + length as usize)
}

/// CRC-32C of bytes.
pub(super) fn sum(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}

/// Reads the record that `bytes` begin with, which stand at `offset` of a segment.
pub(super) fn get(bytes: &[u8], segment: u64, offset: usize) -> Found {
    let mut reader = Reader(bytes);
    if reader.0.first() == Some(&0) {
        return Found::Nothing;
    }
    let Some(length) = reader.number().filter(|length| (1..LONGEST).contains(length)) else {
        return Found::Bad;
    };
    let (Some(sum), Some(record)) = (reader.array(), reader.take(length as usize)) else {
        return Found::Bad;
    };
    let (kind, content) = (record[0], &record[1..]);
    if !(Kind::Ledger as u8..=Kind::Loss as u8).contains(&kind) {
        return Found::Bad;
    }
    if u32::from_le_bytes(sum) != checksum(segment, offset as u64, kind, content) {
        return Found::Bad;
    }
    let taken = bytes.len() - reader.0.len();
    let mut reader = Reader(content);
    if kind == Kind::Ledger as u8
        && let Some(version) = reader.number()
        && version > VERSION
    {
        return Found::Newer(version);
    }
    match item(kind, content) {
        Some(item) => Found::Item(item, taken),
        None => Found::Bad,
    }
}

fn item(kind: u8, content: &[u8]) -> Option<Item> {
    let mut reader = Reader(content);
    let item = match kind {
        kind if kind == Kind::Ledger as u8 => {
            reader.number()?;
            let complete = reader.byte()? != 0;
            let count = reader.number()?;
            let streams = (0..count)
                .map(|_| Stream::get(&mut reader))
                .collect::<Option<_>>()?;
            let more = match reader.0 {
                [] => 0,
                _ => reader.number()?,
            };
            let unfinished = (0..more)
                .map(|_| Unfinished::get(&mut reader))
                .collect::<Option<_>>()?;
            Item::Ledger(Ledger {
                complete,
                streams,
                unfinished,
            })
        }
        kind if kind == Kind::Series as u8 => {
            let message = pb::SeriesSet::decode(std::mem::take(&mut reader.0)).ok()?;
            Item::Series(SeriesSet::from_pb(message, &Limits::default()).ok()?)
        }
        kind if kind == Kind::Batch as u8 => {
            let stream = u64::from_le_bytes(reader.array()?);
            let seq = reader.number()?;
            let acked = seq.checked_sub(reader.number()?)?;
            let (before, readings) = (reader.number()?, reader.number()?);
            let oldest_us = unzigzag(reader.number()?);
            let clock = match reader.byte()? {
                0 => None,
                _ => Some(ClockEpoch {
                    boot: u128::from_le_bytes(reader.array()?),
                    offset_us: unzigzag(reader.number()?),
                }),
            };
            Item::Batch(Batch {
                stream,
                seq,
                acked,
                before,
                readings,
                oldest_us,
                clock,
                sealed: Arc::new(Sealed {
                    envelope: reader.byte()?,
                    series_set: u32::from_le_bytes(reader.array()?),
                    body: std::mem::take(&mut reader.0).to_vec(),
                }),
            })
        }
        kind if kind == Kind::Loss as u8 => {
            let stream = u64::from_le_bytes(reader.array()?);
            let seq = reader.number()?;
            Item::Loss(LossItem {
                stream,
                seq,
                acked: seq.checked_sub(reader.number()?)?,
                through: reader.number()?,
                before: reader.number()?,
                readings: reader.number()?,
                reason: reason(reader.byte()?)?,
            })
        }
        _ => return None,
    };
    Some(item)
}

pub(super) fn reason_code(reason: LossReason) -> u8 {
    match reason {
        LossReason::JournalFull => 1,
        LossReason::Corrupt => 2,
        LossReason::Retention => 3,
        LossReason::Refused => 4,
    }
}

pub(super) fn reason(code: u8) -> Option<LossReason> {
    Some(match code {
        1 => LossReason::JournalFull,
        2 => LossReason::Corrupt,
        3 => LossReason::Retention,
        4 => LossReason::Refused,
        _ => return None,
    })
}

/// Appends a number as LEB128.
pub(super) fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

pub(super) fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

/// Reads from the front of bytes.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_from_its_place_alone() {
        let items = [
            Item::Series(SeriesSet::new(Vec::new(), 3)),
            Item::Batch(Batch {
                stream: u64::MAX,
                seq: 1 << 40,
                acked: 7,
                before: 77,
                readings: 5,
                oldest_us: -3,
                clock: Some(ClockEpoch {
                    boot: u128::MAX - 1,
                    offset_us: i64::MIN,
                }),
                sealed: Arc::new(Sealed {
                    envelope: 0x12,
                    series_set: 9,
                    body: vec![1, 2, 3],
                }),
            }),
            Item::Loss(LossItem {
                stream: 1,
                seq: 2,
                through: 9,
                acked: 1,
                before: 3,
                readings: 4,
                reason: LossReason::Retention,
            }),
            Item::Ledger(Ledger {
                complete: true,
                streams: vec![Stream::new(4, 1, 0), Stream::new(5, 8, 9)],
                unfinished: vec![Unfinished {
                    segment: 1,
                    from: 8192,
                    sum: 0xffff_fffe,
                    holes: vec![(u64::MAX, 7, 1 << 40)],
                }],
            }),
        ];
        let mut bytes = Vec::new();
        for item in &items {
            put(&mut bytes, 7, 0, item);
        }
        let mut at = 0;
        for item in &items {
            let Found::Item(found, length) = get(&bytes[at..], 7, at) else {
                panic!("nothing at {at}")
            };
            assert_eq!(found, *item);
            assert!(
                matches!(get(&bytes[at..], 8, at), Found::Bad),
                "in another segment"
            );
            at += length;
        }
        assert_eq!(at, bytes.len());
        assert!(matches!(get(&bytes[1..], 7, 0), Found::Bad));
        assert_eq!(segment(&name(0x1f)), Some(0x1f));
        assert_eq!(segment("1f.segment"), None);
    }
}
