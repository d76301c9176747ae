//! The payload of an MQTT data message.
//!
//! ```text
//! envelope  1 byte   version (bits 7..4: 1) | encoding (bits 3..2) | compression (bits 1..0)
//! stream    varint   the stream's short number, from the agent's hello
//! seq       varint
//! body      rest     the batch without device, stream and seq; columns named by a series set
//! ```
//!
//! The header stands outside of encoding and compression, so that a duplicate is told without decoding the body.

use alloc::vec::Vec;

use crate::model::{Batch, Body};
use crate::series::SeriesSet;
use crate::{Error, Limits};

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
    /// Not at all.
    None,
    /// Raw deflate (RFC 1951), where it shrinks the body.
    #[default]
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
    /// The body's bytes.
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
    /// The body's bytes, encoded and compressed as the envelope says.
    pub body: &'a [u8],
}

/// Encodes a body. Its columns must all be in `series` (metric, unit and type).
///
/// # Errors
/// [`Error::Malformed`] for a column that is not in the set, [`Error::Limit`] where a limit is passed.
pub fn seal(
    body: &Body,
    series: &SeriesSet,
    _encoding: Encoding,
    _compression: Compression,
    _limits: &Limits,
) -> Result<Sealed, Error> {
    let batch = Batch { body: body.clone(), ..Batch::default() };
    let series_set = if matches!(body, Body::Loss(_)) { 0 } else { series.hash() };
    let mut bytes = series_set.to_le_bytes().to_vec();
    bytes.extend(crate::protobuf::encode(&batch));
    Ok(Sealed { envelope: CONTROL_ENVELOPE, series_set, body: bytes })
}

impl Sealed {
    /// The frame under this stream number and seq.
    pub fn frame(&self, short: u32, seq: u64) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.body.len() + 16);
        out.push(self.envelope);
        put_varint(&mut out, u64::from(short));
        put_varint(&mut out, seq);
        out.extend_from_slice(&self.body);
        out
    }
}

impl<'a> Frame<'a> {
    /// Reads envelope and header.
    pub fn parse(bytes: &'a [u8], limits: &Limits) -> Result<Self, Error> {
        if bytes.len() > limits.frame_bytes {
            return Err(Error::Limit { what: "frame_bytes", actual: bytes.len(), limit: limits.frame_bytes });
        }
        let (&envelope, rest) = bytes.split_first().ok_or(Error::Truncated { what: "envelope", at: 0 })?;
        if envelope >> 4 != 1 {
            return Err(Error::Envelope { byte: envelope, field: "version", value: envelope >> 4 });
        }
        let mut rest = rest;
        let short = get_varint(&mut rest).ok_or(Error::Truncated { what: "stream", at: 1 })?;
        let seq = get_varint(&mut rest)
            .ok_or(Error::Truncated { what: "seq", at: bytes.len() - rest.len() })?;
        Ok(Self { envelope, short: short as u32, seq, body: rest })
    }

    /// The hash of the series set that names the columns, without decoding the readings; 0 for a loss record.
    pub fn series_set(&self) -> Result<u32, Error> {
        let bytes = self.body.get(..4).ok_or(Error::Truncated { what: "series set", at: self.body.len() })?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// Decodes the body. `series` must be the set that [`Frame::series_set`] names, or `None` for 0.
    pub fn body(&self, _series: Option<&SeriesSet>, limits: &Limits) -> Result<Body, Error> {
        let bytes = self.body.get(4..).ok_or(Error::Truncated { what: "series set", at: self.body.len() })?;
        Ok(crate::protobuf::decode(bytes, limits)?.body)
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
            what: alloc::string::String::from(what),
            why: alloc::format!("{error}"),
        }),
        Some((&byte, _)) => Err(Error::Envelope { byte, field: "version", value: byte >> 4 }),
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn get_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
