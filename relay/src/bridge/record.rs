//! The Kafka record of a batch, and what a scan reads of it.
//!
//! Key: the device. Value: `headwater.v1.Batch`. Headers: `hw-stream` (16 hexadecimal digits), `hw-seq` (decimal),
//! `hw-through` (decimal; loss records only). Timestamp: arrival at the bridge.

use rdkafka::message::{Header, Headers, OwnedHeaders};

/// Header: the stream, 16 hexadecimal digits.
pub const STREAM: &str = "hw-stream";
/// Header: the sequence number, decimal.
pub const SEQ: &str = "hw-seq";
/// Header: the last sequence number a loss record covers, decimal.
pub const THROUGH: &str = "hw-through";
/// Header: the entry `[[foreign]]` that a record comes of, where a bridge made it of foreign messages.
pub const FOREIGN: &str = "hw-foreign";
/// Header of a dead letter: the MQTT topic it came on.
pub const TOPIC: &str = "hw-topic";
/// Header of a dead letter: why it is one.
pub const REASON: &str = "hw-reason";
/// Header of a dead letter that is a frame: the `headwater.v1.SeriesSet` that names its columns.
pub const SERIES: &str = "hw-series";
/// Header of a record among the dead letters that is none, but says that one has been retried: its offset in the same partition. The record of
/// telemetry that was made of it has it, too.
pub const RETRIED: &str = "hw-retried";
/// Header of a dead letter that came from Kafka: `partition:offset` in that topic.
pub const SOURCE: &str = "hw-source";
/// Header of a dead letter that was cut: its length before.
pub const LENGTH: &str = "hw-length";

/// Which batch a record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// The stream.
    pub stream: u64,
    /// The first sequence number it covers.
    pub seq: u64,
    /// The last: `seq`, but for loss records.
    pub through: u64,
    /// Whether it is a loss record.
    pub loss: bool,
}

impl Name {
    /// As headers.
    pub fn headers(&self) -> OwnedHeaders {
        // Of every record, so without text on the heap.
        let mut stream = [0; 16];
        let stream = hexadecimal(self.stream, &mut stream);
        let mut seq = [0; 20];
        let seq = decimal(self.seq, &mut seq);
        let headers = OwnedHeaders::new_with_capacity(3)
            .insert(Header {
                key: STREAM,
                value: Some(stream),
            })
            .insert(Header {
                key: SEQ,
                value: Some(seq),
            });
        if !self.loss {
            return headers;
        }
        let mut through = [0; 20];
        let value = Some(decimal(self.through, &mut through));
        headers.insert(Header { key: THROUGH, value })
    }

    /// Of headers; `None` where they are not ours.
    pub fn read<H: Headers>(headers: &H) -> Option<Self> {
        let text = |key: &str| {
            let header = headers.iter().find(|header| header.key == key)?;
            std::str::from_utf8(header.value?).ok()
        };
        let stream = u64::from_str_radix(text(STREAM)?, 16).ok()?;
        let seq = text(SEQ)?.parse().ok()?;
        let through = text(THROUGH).and_then(|text| text.parse().ok());
        Some(Self {
            stream,
            seq,
            through: through.unwrap_or(seq),
            loss: through.is_some(),
        })
    }
}

fn hexadecimal(value: u64, digits: &mut [u8; 16]) -> &[u8] {
    for (at, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(value >> (60 - 4 * at)) as usize & 15];
    }
    digits
}

fn decimal(mut value: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            return &digits[at..];
        }
    }
}

/// Whether a bridge made the record of foreign messages, or somebody of a dead letter: its stream drains nowhere, and has no position.
pub fn is_foreign<H: Headers>(headers: &H) -> bool {
    headers
        .iter()
        .any(|header| [FOREIGN, RETRIED].contains(&header.key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip() {
        for name in [
            Name {
                stream: 0xab,
                seq: 7,
                through: 7,
                loss: false,
            },
            Name {
                stream: u64::MAX,
                seq: 7,
                through: u64::MAX,
                loss: true,
            },
            Name {
                stream: 1,
                seq: 0,
                through: 1_203_000_990,
                loss: true,
            },
        ] {
            let headers = name.headers();
            assert_eq!(Name::read(&headers), Some(name));
            assert_eq!(
                headers.get(0).value,
                Some(format!("{:016x}", name.stream).as_bytes())
            );
            assert_eq!(headers.get(1).value, Some(name.seq.to_string().as_bytes()));
        }
    }

    #[test]
    fn foreign_headers_are_not_ours() {
        let headers = OwnedHeaders::new().insert(Header {
            key: STREAM,
            value: Some("xyz"),
        });
        assert_eq!(Name::read(&headers), None);
        assert_eq!(Name::read(&OwnedHeaders::new()), None);
    }
}
