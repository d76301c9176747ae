//! Frames of microcontrollers become samples. Pure: time is an argument. [`headwater_proto::serial`] has the layout.

use crc::{CRC_32_ISCSI, Crc};
use headwater_proto::Value;
use headwater_proto::serial::{self, Message};

use super::metrics::Metrics;
use super::uptime::Uptime;
use crate::source::scale::{Decimal, widened};
use crate::source::{Reading, Sample};

/// Castagnoli's.
const CHECKSUM: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// See the module.
#[derive(Debug)]
pub(super) struct Frames {
    metrics: Metrics,
    uptime: Uptime,
    /// The last frame's number and timer.
    last: Option<(u8, u32)>,
}

/// What a frame brought.
#[derive(Debug, PartialEq)]
pub(super) struct Taken {
    pub(super) sample: Sample,
    /// Frames that are missing before it.
    pub(super) missing: u8,
    /// Why some of its readings are left out; the first reason.
    pub(super) refused: Option<String>,
}

impl Frames {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            metrics: Metrics::new(prefix),
            uptime: Uptime::default(),
            last: None,
        }
    }

    /// Takes what stood between two zeros; `Err` says why it is no frame.
    pub(super) fn take(&mut self, stuffed: &mut [u8], arrival_us: i64) -> Result<Taken, String> {
        let length = cobs::decode_in_place(stuffed).map_err(|_| "its end is missing".to_string())?;
        let Some((payload, checksum)) = stuffed[..length].split_last_chunk::<4>() else {
            return Err(format!("{length} bytes are no frame"));
        };
        if CHECKSUM.checksum(payload) != u32::from_le_bytes(*checksum) {
            return Err("its checksum does not hold".into());
        }
        let message = Message::parse(payload).map_err(|error| error.to_string())?;
        let missing = match self.last {
            // A sender that was started anew counts anew.
            Some((_, taken_ms))
                if message.taken_ms < taken_ms || message.seq == 0 && message.taken_ms == 0 =>
            {
                0
            }
            Some((seq, _)) => message.seq.wrapping_sub(seq).wrapping_sub(1),
            None => 0,
        };
        self.last = Some((message.seq, message.taken_ms));
        let time_us = self.uptime.time(arrival_us, message.taken_ms, message.age_ms);
        let mut readings = Vec::with_capacity(message.readings.len());
        let mut refused = None;
        for reading in &message.readings {
            match self.metrics.get(reading.metric, reading.unit) {
                Ok(metric) => readings.extend(value(reading.value).map(|value| Reading::new(metric, value))),
                Err(why) => {
                    refused.get_or_insert(why);
                }
            }
        }
        Ok(Taken {
            sample: Sample { time_us, readings },
            missing,
            refused,
        })
    }
}

/// The value as a batch has it; `None`: NaN, which says that there is none.
fn value(value: serial::Value<'_>) -> Option<Value> {
    Some(match value {
        serial::Value::F32(value) if value.is_nan() => return None,
        serial::Value::F64(value) if value.is_nan() => return None,
        serial::Value::F32(value) => Value::F64(widened(value)),
        serial::Value::F64(value) => Value::F64(value),
        serial::Value::I64(value) => Value::I64(value),
        serial::Value::Bool(value) => Value::Bool(value),
        serial::Value::Text(value) => Value::String(value.to_string()),
        serial::Value::Decimal { digits, mantissa } => {
            Value::F64(Decimal::integer(mantissa.into()).shifted(digits.into()).to_f64())
        }
    })
}
