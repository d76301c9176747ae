//! The open encoding of a batch: `headwater.v1.Batch`, as it stands in Kafka and on the live channel.
//!
//! `batch.proto` says how to read it without this code. A column takes the cheaper of its forms: doubles go as scaled
//! integers unless that is larger than 8 bytes each.

mod column;
mod times;
pub(crate) mod wire;

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use prost::Message as _;

use crate::limits::within;
use crate::model::{Batch, Body, Clock, Loss, LossReason, Readings};
use crate::series::SeriesSet;
use crate::{Error, Limits, pb};

/// Encodes a batch that names itself and its columns. It is not checked against limits: see [`Limits::check`].
pub fn encode(batch: &Batch) -> Vec<u8> {
    let mut message = body_message(&batch.body, None);
    message.device.clone_from(&batch.device);
    message.stream = batch.stream;
    message.seq = batch.seq;
    message.encode_to_vec()
}

/// Decodes a batch that names itself and its columns.
///
/// # Errors
/// [`Error::Limit`] before anything is allocated that the limits do not allow; [`Error::Malformed`] with the column
/// for what is not a batch.
pub fn decode(bytes: &[u8], limits: &Limits) -> Result<Batch, Error> {
    let mut message = parse(bytes, limits)?;
    let device = core::mem::take(&mut message.device);
    let (stream, seq) = (message.stream, message.seq);
    Ok(Batch {
        device,
        stream,
        seq,
        body: body_of(message, None, limits)?,
    })
}

/// The body alone after `head`, its columns named by their places in a series set: `index_of[i]` is that of column `i`.
pub(crate) fn encode_body(out: &mut Vec<u8>, head: [u8; 4], body: &Body, index_of: &[u32]) {
    let message = body_message(body, Some(index_of));
    out.reserve_exact(head.len() + message.encoded_len());
    out.extend_from_slice(&head);
    // Into a vector, nothing fails.
    message.encode_raw(out);
}

pub(crate) fn decode_body(bytes: &[u8], series: &SeriesSet, limits: &Limits) -> Result<Body, Error> {
    body_of(parse(bytes, limits)?, Some(series), limits)
}

fn body_message(body: &Body, index_of: Option<&[u32]>) -> pb::Batch {
    let mut message = pb::Batch::default();
    match body {
        Body::Loss(loss) => {
            let reason = match loss.reason {
                LossReason::JournalFull => pb::LossReason::JournalFull,
                LossReason::Corrupt => pb::LossReason::Corrupt,
                LossReason::Retention => pb::LossReason::Retention,
                LossReason::Refused => pb::LossReason::Refused,
            };
            message.loss = Some(pb::Loss {
                through: loss.through,
                readings: loss.readings,
                reason: reason as i32,
            });
        }
        Body::Readings(readings) => {
            message.clock = match readings.clock {
                Clock::Synchronised => pb::Clock::Synchronised,
                Clock::Uncertain => pb::Clock::Uncertain,
            } as i32;
            message.times = readings
                .times
                .iter()
                .map(|column| times::encode(column))
                .collect();
            message.columns = readings
                .columns
                .iter()
                .enumerate()
                .map(|(at, column)| column::encode(column, index_of.map(|index_of| index_of[at])))
                .collect();
        }
    }
    message
}

/// Reads the message, after counting its columns: an empty one takes two bytes here and a hundred times that decoded.
fn parse(bytes: &[u8], limits: &Limits) -> Result<pb::Batch, Error> {
    within("body_bytes", bytes.len(), limits.body_bytes)?;
    let (mut times, mut columns) = (0, 0);
    let mut rest = bytes;
    while let Some(field) = next_field(&mut rest) {
        times += usize::from(field == 4);
        columns += usize::from(field == 5);
    }
    within("columns", times, limits.columns)?;
    within("columns", columns, limits.columns)?;
    pb::Batch::decode(bytes).map_err(|error| {
        malformed(
            "batch",
            format!("{error}, near byte {}", bytes.len() - rest.len()),
        )
    })
}

fn body_of(message: pb::Batch, series: Option<&SeriesSet>, limits: &Limits) -> Result<Body, Error> {
    if let Some(loss) = message.loss {
        let reason = match pb::LossReason::try_from(loss.reason) {
            Ok(pb::LossReason::JournalFull) => LossReason::JournalFull,
            Ok(pb::LossReason::Corrupt) => LossReason::Corrupt,
            Ok(pb::LossReason::Retention) => LossReason::Retention,
            Ok(pb::LossReason::Refused) => LossReason::Refused,
            _ => {
                return Err(malformed(
                    "loss record",
                    format!("reason {} is not known", loss.reason),
                ));
            }
        };
        if !message.times.is_empty() || !message.columns.is_empty() {
            return Err(malformed("loss record", "it also holds readings".to_string()));
        }
        return Ok(Body::Loss(Loss {
            through: loss.through,
            readings: loss.readings,
            reason,
        }));
    }
    let clock = match pb::Clock::try_from(message.clock) {
        Ok(pb::Clock::Synchronised) => Clock::Synchronised,
        Ok(pb::Clock::Uncertain) => Clock::Uncertain,
        Err(_) => {
            return Err(malformed(
                "batch",
                format!("clock {} is not known", message.clock),
            ));
        }
    };
    let counts = message.times.iter().map(|column| column.count as usize);
    within("readings", counts.fold(0, usize::saturating_add), limits.readings)?;
    let mut readings = Readings {
        clock,
        ..Readings::default()
    };
    for (index, column) in message.times.into_iter().enumerate() {
        readings.times.push(times::decode(&column, index)?);
    }
    let counts: Vec<usize> = readings.times.iter().map(Vec::len).collect();
    let mut budget = column::Budget {
        readings: 0,
        string_bytes: 0,
        limits,
    };
    for (index, column) in message.columns.into_iter().enumerate() {
        readings
            .columns
            .push(column::decode(column, index, &counts, series, &mut budget)?);
    }
    limits.check(&readings)?;
    Ok(Body::Readings(readings))
}

fn malformed(what: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Malformed {
        what: what.into(),
        why: why.into(),
    }
}

/// Steps over one field of the outermost message and gives its number; `None` at the end or where it is broken.
fn next_field(rest: &mut &[u8]) -> Option<u64> {
    use crate::varint::get;
    let mut bytes = *rest;
    let key = get(&mut bytes)?;
    let skip = match key & 7 {
        0 => {
            get(&mut bytes)?;
            0
        }
        1 => 8,
        2 => usize::try_from(get(&mut bytes)?).ok()?,
        5 => 4,
        _ => return None,
    };
    *rest = bytes.get(skip..)?;
    Some(key >> 3)
}
