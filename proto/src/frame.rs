//! The payload of an MQTT data message.
//!
//! ```text
//! envelope    1 byte   version (bits 7..4: 1) | encoding (bits 3..2) | compression (bits 1..0)
//! stream      varint   the stream's short number, from the agent's hello
//! seq         varint
//! series set  4 bytes  the hash of the set that names the columns, little-endian; 0 for a loss record
//! body        rest     the batch without device, stream and seq, encoded and compressed as the envelope says
//! ```
//!
//! encoding 0 is protobuf ([`crate::protobuf`]), 1 postcard (the dense form); compression 0 is none, 1 raw
//! deflate. What stands before the body is outside of encoding and compression, so that a duplicate is told, and a
//! missing series set asked for, without decoding it.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use miniz_oxide::deflate::compress_to_vec;
use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_with_limit};

pub use crate::dense::Rewritten;
use crate::limits::within;
use crate::model::{Body, Readings};
use crate::series::{Series, SeriesSet};
use crate::{Error, Limits, dense, protobuf, varint};

const VERSION: u8 = 1;
const HASH_BYTES: usize = 4;
/// Envelope, stream and seq at their longest.
const HEADER_MAX: usize = 1 + 5 + 10;
const DEFLATE_LEVEL: u8 = 6;

/// How a body is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// The open form, as in Kafka.
    Protobuf,
    /// The dense form: smallest frames.
    #[default]
    Postcard,
}

/// How a body is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all: the dense form leaves little to compress.
    #[default]
    None,
    /// Raw deflate (RFC 1951), where it shrinks the body: for the open form, and for strings that are all different
    /// yet alike.
    Deflate,
}

/// The envelope of control messages (hello, series, status, ack, command, reply): version 1, protobuf, plain.
pub const CONTROL_ENVELOPE: u8 = 0x10;

/// A body, encoded and compressed once, ready to be framed under any stream number and seq: what a journal keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The envelope byte.
    pub envelope: u8,
    /// The series set that names its columns; 0 for a loss record.
    pub series_set: u32,
    /// The hash of the series set and the body's bytes.
    pub body: Vec<u8>,
}

/// A frame whose header has been read; the body is still as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The envelope byte, checked to be of a known version.
    pub envelope: u8,
    /// The stream's short number.
    pub short: u32,
    /// The sequence number.
    pub seq: u64,
    /// What follows the header: the hash of the series set, then the body as the envelope says.
    pub body: &'a [u8],
}

/// Encodes bodies one after the other, as a stream of batches has them. Between them it keeps its buffers, and what it chose
/// for the columns of the dense form (scale, factor, predictor; some 50 bytes a series of the last set), which the next
/// batch tries first: so it is several times as fast as [`seal`], and its frames may be a little larger or smaller.
/// They decode to the same bodies bit for bit, whatever was encoded before: each column proves what it takes over.
#[derive(Default)]
pub struct Sealer {
    places: Vec<u32>,
    plain: Vec<u8>,
    dense: dense::Scratch,
}

/// Encodes a body as [`Sealer::seal`] does, for who has only one.
///
/// # Errors
/// As there.
pub fn seal(
    body: &Body,
    series: &SeriesSet,
    encoding: Encoding,
    compression: Compression,
    limits: &Limits,
) -> Result<Sealed, Error> {
    Sealer::default().seal(body, series, encoding, compression, limits)
}

impl Sealer {
    /// Encodes a body. Its columns must all be in `series` (metric, unit and type). Compressed is only what gets smaller
    /// by it; the envelope says what was done.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a column that is not in the set or not whole, [`Error::Limit`] where a limit is passed.
    pub fn seal(
        &mut self,
        body: &Body,
        series: &SeriesSet,
        encoding: Encoding,
        compression: Compression,
        limits: &Limits,
    ) -> Result<Sealed, Error> {
        self.places.clear();
        let series_set = match body {
            Body::Loss(_) => 0,
            Body::Readings(readings) => {
                limits.check(readings)?;
                places(readings, series, &mut self.places)?;
                series.hash()
            }
        };
        let mut bytes = Vec::new();
        let deflates = compression == Compression::Deflate;
        let out = if deflates { &mut self.plain } else { &mut bytes };
        out.clear();
        let head = series_set.to_le_bytes();
        match encoding {
            Encoding::Protobuf => protobuf::encode_body(out, head, body, &self.places),
            Encoding::Postcard => {
                dense::encode(out, head, body, &self.places, series, &mut self.dense);
            }
        }
        within("body_bytes", out.len() - HASH_BYTES, limits.body_bytes)?;
        let mut deflated = false;
        if deflates {
            let plain = &self.plain[HASH_BYTES..];
            let smaller = compress_to_vec(plain, DEFLATE_LEVEL);
            deflated = smaller.len() < plain.len();
            let body = if deflated { smaller.as_slice() } else { plain };
            bytes.reserve_exact(HASH_BYTES + body.len());
            bytes.extend_from_slice(&head);
            bytes.extend_from_slice(body);
        }
        within("frame_bytes", HEADER_MAX + bytes.len(), limits.frame_bytes)?;
        Ok(Sealed {
            envelope: (VERSION << 4) | ((encoding as u8) << 2) | u8::from(deflated),
            series_set,
            body: bytes,
        })
    }
}

/// Where each column stands in the set. Columns in the set's order are found at once.
fn places(readings: &Readings, series: &SeriesSet, out: &mut Vec<u32>) -> Result<(), Error> {
    let series = series.series();
    let mut index = BTreeMap::new();
    let mut next = 0;
    out.reserve(readings.columns.len());
    for (at, column) in readings.columns.iter().enumerate() {
        let value_type = column.values.value_type();
        let is_it = |series: &Series| {
            series.value_type == value_type
                && same(&series.metric, &column.metric)
                && same(&series.unit, &column.unit)
        };
        if !series.get(next).is_some_and(is_it) {
            if index.is_empty() {
                index.extend(
                    series
                        .iter()
                        .zip(0usize..)
                        .map(|(s, at)| ((&*s.metric, &*s.unit, s.value_type), at)),
                );
            }
            next = *index
                .get(&(&*column.metric, &*column.unit, value_type))
                .ok_or_else(|| {
                    let unit = &column.unit;
                    let why =
                        format!("{value_type:?} in unit {unit:?} is not in the series set; make a new set");
                    Error::Malformed {
                        what: format!("column {at} ({})", column.metric),
                        why,
                    }
                })?;
        }
        out.push(next as u32);
        next += 1;
    }
    Ok(())
}

/// Names and units are short: a call to compare memory costs more than comparing them, eight bytes at a time.
fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    match (a.last_chunk::<8>(), b.last_chunk()) {
        (Some(a_last), Some(b_last)) => {
            let early = a.as_chunks::<8>().0.iter().zip(b.as_chunks().0);
            early.fold(a_last == b_last, |same, (a, b)| same & (a == b))
        }
        _ => a.iter().zip(b).all(|(a, b)| a == b),
    }
}

impl Sealed {
    /// The frame under this stream number and seq.
    pub fn frame(&self, short: u32, seq: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 16);
        out.push(self.envelope);
        varint::put(&mut out, u64::from(short));
        varint::put(&mut out, seq);
        out.extend_from_slice(&self.body);
        out
    }
}

impl<'a> Frame<'a> {
    /// Reads envelope and header.
    ///
    /// # Errors
    /// [`Error::Limit`] for a frame over the limit, [`Error::Envelope`] for an unknown version, [`Error::Truncated`].
    pub fn parse(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        if bytes.len() > limits.frame_bytes {
            return Err(Error::Limit {
                what: "frame_bytes",
                actual: bytes.len(),
                limit: limits.frame_bytes,
            });
        }
        let (&envelope, rest) = bytes.split_first().ok_or(Error::Truncated {
            what: "envelope",
            at: 0,
        })?;
        if envelope >> 4 != VERSION {
            return Err(Error::Envelope {
                byte: envelope,
                field: "version",
                value: envelope >> 4,
            });
        }
        let mut rest = rest;
        let short = varint::get(&mut rest).ok_or(Error::Truncated {
            what: "stream",
            at: 1,
        })?;
        let short = u32::try_from(short).map_err(|_| Error::Malformed {
            what: String::from("stream"),
            why: format!("short number {short} is over 32 bits"),
        })?;
        let at = bytes.len() - rest.len();
        let seq = varint::get(&mut rest).ok_or(Error::Truncated { what: "seq", at })?;
        Ok(Self {
            envelope,
            short,
            seq,
            body: rest,
        })
    }

    /// The hash of the series set that names the columns, without decoding the readings; 0 for a loss record.
    pub fn series_set(&self) -> Result<u32, Error> {
        match self.body.first_chunk() {
            Some(bytes) => Ok(u32::from_le_bytes(*bytes)),
            None => Err(Error::Truncated {
                what: "series set",
                at: self.body.len(),
            }),
        }
    }

    /// Writes the readings in the open form, as a batch of this device, stream and sequence number, that names its columns. It decodes to what
    /// [`Frame::body`] gives; encoding that would take several times as long. `None` for what has to be decoded: a loss record, a body in the open form, one
    /// that is compressed. Metrics' names are not checked: that was done when `series` was read.
    ///
    /// # Errors
    /// As [`Frame::body`].
    pub fn rewrite(
        &self,
        series: &SeriesSet,
        limits: &Limits,
        name: (&str, u64, u64),
    ) -> Result<Option<Rewritten>, Error> {
        if (self.envelope >> 2) & 3 != Encoding::Postcard as u8 || self.envelope & 3 != 0 {
            return Ok(None);
        }
        let hash = self.series_set()?;
        if series.hash() != hash {
            return Err(Error::UnknownSeriesSet { hash });
        }
        let bytes = &self.body[HASH_BYTES..];
        within("body_bytes", bytes.len(), limits.body_bytes)?;
        dense::rewrite(bytes, series, limits, name)
    }

    /// Decodes the body. `series` must be the set that [`Frame::series_set`] names, or `None` for 0.
    ///
    /// # Errors
    /// [`Error::UnknownSeriesSet`] if it is another set; [`Error::Envelope`], [`Error::Limit`], [`Error::Truncated`]
    /// or [`Error::Malformed`] for what the bytes are.
    pub fn body(&self, series: Option<&SeriesSet>, limits: &Limits) -> Result<Body, Error> {
        let hash = self.series_set()?;
        let none;
        let series = match series {
            Some(series) if series.hash() == hash => series,
            None if hash == 0 => {
                none = SeriesSet::new(Vec::new(), 0);
                &none
            }
            _ => return Err(Error::UnknownSeriesSet { hash }),
        };
        let bytes = &self.body[HASH_BYTES..];
        let inflated;
        let bytes = match self.envelope & 3 {
            0 => {
                within("body_bytes", bytes.len(), limits.body_bytes)?;
                bytes
            }
            1 => {
                inflated =
                    decompress_to_vec_with_limit(bytes, limits.body_bytes).map_err(|error| {
                        match error.status {
                            TINFLStatus::HasMoreOutput => Error::Limit {
                                what: "body_bytes",
                                actual: limits.body_bytes + 1,
                                limit: limits.body_bytes,
                            },
                            status => Error::Malformed {
                                what: String::from("deflated body"),
                                why: format!("{status:?} after {} bytes came out", error.output.len()),
                            },
                        }
                    })?;
                &inflated
            }
            value => {
                return Err(Error::Envelope {
                    byte: self.envelope,
                    field: "compression",
                    value,
                });
            }
        };
        match (self.envelope >> 2) & 3 {
            0 => protobuf::decode_body(bytes, series, limits),
            1 => dense::decode(bytes, series, limits),
            value => Err(Error::Envelope {
                byte: self.envelope,
                field: "encoding",
                value,
            }),
        }
    }
}

/// A control message behind its envelope byte.
pub fn seal_control(message: &impl prost::Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + message.encoded_len());
    out.push(CONTROL_ENVELOPE);
    // Encoding into a Vec cannot fail: it grows.
    let _ = message.encode(&mut out);
    out
}

/// Opens a control message.
pub fn open_control<M: prost::Message + Default>(what: &'static str, bytes: &[u8]) -> Result<M, Error> {
    match bytes.split_first() {
        None => Err(Error::Truncated { what, at: 0 }),
        Some((&CONTROL_ENVELOPE, rest)) => M::decode(rest).map_err(|error| Error::Malformed {
            what: String::from(what),
            why: format!("{error}"),
        }),
        Some((&byte, _)) => Err(Error::Envelope {
            byte,
            field: "version",
            value: byte >> 4,
        }),
    }
}
