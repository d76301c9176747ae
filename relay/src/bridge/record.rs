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
        let stream = format!("{:016x}", self.stream);
        let seq = self.seq.to_string();
        let headers = OwnedHeaders::new_with_capacity(3)
            .insert(Header {
                key: STREAM,
                value: Some(&stream),
            })
            .insert(Header {
                key: SEQ,
                value: Some(&seq),
            });
        if !self.loss {
            return headers;
        }
        let through = self.through.to_string();
        headers.insert(Header {
            key: THROUGH,
            value: Some(&through),
        })
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
                seq: 7,
                through: 7,
                loss: true,
            },
        ] {
            assert_eq!(Name::read(&name.headers()), Some(name));
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
