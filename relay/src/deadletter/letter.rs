//! A record of `headwater.deadletter`, and what of it can be decoded now.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use headwater_proto::frame::Frame;
use headwater_proto::topic::{self, Kind};
use headwater_proto::{Batch, Body, Limits, Message as _, SeriesSet, pb};
use rdkafka::message::{Headers, Message};

use crate::bridge::record::{LENGTH, REASON, SEQ, SERIES, SOURCE, STREAM, TOPIC};

/// Where a letter stands: `PARTITION:OFFSET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The partition of `headwater.deadletter`.
    pub partition: i32,
    /// The offset there.
    pub offset: i64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = || {
            let (partition, offset) = text.split_once(':')?;
            let (partition, offset) = (partition.parse().ok()?, offset.parse().ok()?);
            (partition >= 0 && offset >= 0).then_some(Self { partition, offset })
        };
        place().ok_or_else(|| format!("{text:?} is no PARTITION:OFFSET, as in 0:42"))
    }
}

/// A dead letter.
#[derive(Clone, Debug, PartialEq)]
pub struct Letter {
    /// Where it stands.
    pub place: Place,
    /// When it arrived.
    pub time: SystemTime,
    /// The device; empty where there was none to tell.
    pub device: String,
    /// The topic it came on: of MQTT, or of Kafka.
    pub topic: String,
    /// Its place there, of one that came from Kafka.
    pub source: Option<String>,
    /// Why it is one.
    pub reason: String,
    /// The stream of the batch, 16 hexadecimal digits.
    pub stream: Option<String>,
    /// Its sequence number.
    pub seq: Option<String>,
    /// Its bytes, perhaps cut.
    pub payload: Vec<u8>,
    /// How many they were, if they were cut.
    cut_from: Option<usize>,
    series: Option<Vec<u8>>,
}

impl Letter {
    /// Of a record.
    pub fn read(message: &impl Message) -> Self {
        let header = |key: &str| {
            let headers = message.headers()?;
            let found = headers.iter().find(|header| header.key == key)?;
            found.value.map(<[u8]>::to_vec)
        };
        let text = |key: &str| header(key).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let ms = message.timestamp().to_millis().unwrap_or_default().max(0);
        Self {
            place: Place {
                partition: message.partition(),
                offset: message.offset(),
            },
            time: SystemTime::UNIX_EPOCH + Duration::from_millis(ms.unsigned_abs()),
            device: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
            topic: text(TOPIC).unwrap_or_default(),
            source: text(SOURCE),
            reason: text(REASON).unwrap_or_default(),
            stream: text(STREAM),
            seq: text(SEQ),
            payload: message.payload().unwrap_or_default().to_vec(),
            cut_from: text(LENGTH).and_then(|text| text.parse().ok()),
            series: header(SERIES),
        }
    }

    /// When it arrived, in UTC.
    pub fn time(&self) -> String {
        humantime::format_rfc3339_seconds(self.time).to_string()
    }

    /// Its bytes before it was cut.
    pub fn length(&self) -> usize {
        self.cut_from.unwrap_or(self.payload.len())
    }

    /// Lets go of its bytes.
    pub fn forget_bytes(&mut self) {
        self.cut_from = Some(self.length());
        (self.payload, self.series) = (Vec::new(), None);
    }

    /// The readings of it, as a batch in a stream of its own.
    ///
    /// # Errors
    /// Why it cannot be taken in now.
    pub fn batch(&self, limits: &Limits) -> Result<Batch, String> {
        match self.kind() {
            Some(Kind::Data) => {}
            Some(_) => return Err("it holds no readings; agents say such things anew by themselves".into()),
            None if self.source.is_some() => {
                return Err(
                    "it is no readings, but a record of Kafka: whoever wrote it has to write it anew".into(),
                );
            }
            None => {
                return Err(
                    "it came on no topic of an agent's; this version does not know how to take it in".into(),
                );
            }
        }
        if self.length() > self.payload.len() {
            let (kept, length) = (self.payload.len(), self.length());
            return Err(format!("only {kept} of its {length} bytes were kept"));
        }
        let why = |error: headwater_proto::Error| error.to_string();
        let frame = Frame::parse(&self.payload, limits).map_err(why)?;
        let series = match (frame.series_set().map_err(why)?, &self.series) {
            (0, _) => None,
            (_, Some(bytes)) => {
                let set = pb::SeriesSet::decode(bytes.as_slice())
                    .map_err(|error| format!("its series set: {error}"))?;
                Some(SeriesSet::from_pb(set, limits).map_err(why)?)
            }
            (hash, None) => {
                return Err(format!(
                    "the series set {hash:08x} that names its columns was not kept with it"
                ));
            }
        };
        let body = frame.body(series.as_ref(), limits).map_err(why)?;
        let Body::Readings(readings) = &body else {
            return Err("it is a loss record, which makes sense in its own place only".into());
        };
        let columns = &readings.columns;
        columns
            .iter()
            .try_for_each(|column| headwater_proto::name::check_metric(&column.metric))
            .map_err(why)?;
        let batch = Batch {
            device: self.device.clone(),
            stream: self.own_stream(),
            seq: 1,
            body,
        };
        let length = headwater_proto::protobuf::encode(&batch).len();
        if length > limits.body_bytes {
            let limit = limits.body_bytes;
            return Err(format!(
                "in Kafka it would have {length} bytes; the limit is {limit} (bridge.limits.body)"
            ));
        }
        Ok(batch)
    }

    /// What can be told of it now, in a line.
    pub fn told(&self, limits: &Limits) -> String {
        match self.batch(limits) {
            Ok(Batch {
                body: Body::Readings(readings),
                ..
            }) => {
                let (count, columns) = (readings.len(), readings.columns.len());
                let names: Vec<&str> = readings
                    .columns
                    .iter()
                    .map(|column| &*column.metric)
                    .take(5)
                    .collect();
                let more = if columns > 5 { ", …" } else { "" };
                format!(
                    "can be retried: {count} readings of {columns} metrics ({}{more})",
                    names.join(", ")
                )
            }
            Ok(_) => "can be retried".into(),
            Err(why) => format!("cannot be retried: {why}"),
        }
    }

    /// What kind of message of an agent's it is.
    fn kind(&self) -> Option<Kind> {
        let (device, kind) = topic::parse(&self.topic)?;
        (device == self.device).then_some(kind)
    }

    /// The stream under which it is retried: the same however often, and no other letter's. FNV-1a of its place and time.
    fn own_stream(&self) -> u64 {
        let ms = self
            .time
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_millis());
        let name = format!("deadletter {} {ms}", self.place);
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        hash.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use headwater_proto::frame::{Compression, Encoding, seal};
    use headwater_proto::{Column, Readings, Series, ValueType, Values};

    fn letter(payload: Vec<u8>, series: Option<&SeriesSet>) -> Letter {
        Letter {
            place: Place {
                partition: 0,
                offset: 7,
            },
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
            device: "pump-1".into(),
            topic: topic::topic("pump-1", Kind::Data),
            source: None,
            reason: "too large".into(),
            stream: None,
            seq: None,
            payload,
            cut_from: None,
            series: series.map(|set| set.to_pb().encode_to_vec()),
        }
    }

    fn frame() -> (Vec<u8>, SeriesSet) {
        let set = SeriesSet::new(
            vec![Series {
                metric: "flow".into(),
                unit: String::new(),
                value_type: ValueType::F64,
            }],
            0,
        );
        let readings = Readings {
            times: vec![vec![1, 2, 3]],
            columns: vec![Column {
                metric: "flow".into(),
                unit: String::new(),
                times: 0,
                values: Values::F64(vec![1.5, 2.5, 3.5]),
                suspect: Vec::new(),
            }],
            ..Readings::default()
        };
        let body = Body::Readings(readings);
        let limits = Limits::default();
        let sealed = seal(&body, &set, Encoding::Postcard, Compression::None, &limits).unwrap();
        (sealed.frame(3, 9), set)
    }

    #[test]
    fn places_are_read_as_they_are_written() {
        let place: Place = "3:42".parse().unwrap();
        assert_eq!(
            (place.partition, place.offset, place.to_string().as_str()),
            (3, 42, "3:42")
        );
        for wrong in ["", "3", "3:", ":4", "-1:3", "1:-3", "1:2:3"] {
            assert!(wrong.parse::<Place>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_frame_with_its_series_set_is_a_batch_in_a_stream_of_its_own() {
        let (bytes, set) = frame();
        let first = letter(bytes.clone(), Some(&set));
        let batch = first.batch(&Limits::default()).unwrap();
        assert_eq!((batch.device.as_str(), batch.seq), ("pump-1", 1));
        assert_eq!(batch.stream, first.batch(&Limits::default()).unwrap().stream);
        let mut other = letter(bytes, Some(&set));
        other.place.offset += 1;
        assert_ne!(batch.stream, other.batch(&Limits::default()).unwrap().stream);
        assert!(
            first
                .told(&Limits::default())
                .starts_with("can be retried: 3 readings of 1 metrics (flow)")
        );
    }

    #[test]
    fn what_cannot_be_retried_says_why() {
        let (bytes, set) = frame();
        let limits = Limits::default();
        let why = |letter: &Letter| letter.batch(&limits).unwrap_err();
        assert!(why(&letter(bytes.clone(), None)).contains("was not kept"));
        assert!(why(&letter(b"\xf0".to_vec(), None)).contains("version"));
        let mut cut = letter(bytes.clone(), Some(&set));
        cut.cut_from = Some(1_000_000);
        assert!(why(&cut).contains("of its 1000000 bytes"));
        let mut hello = letter(bytes.clone(), Some(&set));
        hello.topic = topic::topic("pump-1", Kind::Hello);
        assert!(why(&hello).contains("no readings"));
        let mut foreign = letter(bytes.clone(), Some(&set));
        foreign.topic = "zigbee2mqtt/lamp".into();
        assert!(why(&foreign).contains("no topic of an agent's"));
        let mut command = letter(bytes, Some(&set));
        (command.topic, command.source) = ("headwater.commands".into(), Some("3:4".into()));
        assert!(why(&command).contains("record of Kafka"));
    }

    #[test]
    fn what_is_listed_keeps_its_length_and_not_its_bytes() {
        let (bytes, set) = frame();
        let mut kept = letter(bytes.clone(), Some(&set));
        kept.forget_bytes();
        assert_eq!((kept.length(), kept.payload.len()), (bytes.len(), 0));
    }
}
