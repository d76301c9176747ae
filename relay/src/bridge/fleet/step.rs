//! What goes into the fleet and what comes out of it: messages, records and their reports, dead letters, states.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use headwater_proto::Error;

use crate::bridge::device::Now;
use crate::bridge::record::Name;

/// What a record in flight costs beside its bytes: the client's own bookkeeping.
const OVERHEAD: usize = 256;

/// A message from MQTT.
#[derive(Clone, Debug)]
pub struct Message {
    /// The topic.
    pub topic: String,
    /// Whether the broker had kept it.
    pub retained: bool,
    /// The payload, cut where it is longer than anything that is accepted.
    pub payload: Bytes,
    /// The payload's length before it was cut.
    pub length: usize,
}

/// A record for telemetry.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// The device's number here.
    pub device: u32,
    /// Its name: the key.
    pub key: Arc<str>,
    /// Its partition.
    pub partition: u32,
    /// The term in which it was accepted.
    pub term: u64,
    /// Which batch it is.
    pub name: Name,
    /// A `headwater.v1.Batch`.
    pub value: Vec<u8>,
    /// Its readings.
    pub readings: u64,
    /// Readings it reports as lost.
    pub lost_readings: u64,
    /// The time of its newest reading, microseconds since the Unix epoch; `None` where there is none.
    pub newest_us: Option<i64>,
    /// When it arrived.
    pub arrival: Now,
}

impl Record {
    /// What it costs while in flight, bytes.
    pub fn cost(&self) -> usize {
        self.value.len() + self.key.len() + OVERHEAD
    }

    /// What the report of it will have to say.
    pub fn ticket(&self) -> Ticket {
        Ticket {
            device: self.device,
            partition: self.partition,
            term: self.term,
            name: self.name,
            bytes: self.value.len(),
            cost: self.cost(),
            readings: self.readings,
            lost_readings: self.lost_readings,
            newest_us: self.newest_us,
            arrival: self.arrival.at,
        }
    }
}

/// Names a record in flight.
#[derive(Clone, Debug, PartialEq)]
pub struct Ticket {
    pub(super) device: u32,
    /// The partition.
    pub partition: u32,
    /// The term in which it was accepted.
    pub term: u64,
    pub(super) name: Name,
    pub(super) bytes: usize,
    /// What it costs while in flight, bytes.
    pub cost: usize,
    pub(super) readings: u64,
    pub(super) lost_readings: u64,
    pub(super) newest_us: Option<i64>,
    pub(super) arrival: Instant,
}

/// What Kafka made of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in Kafka, at this offset.
    Stored(i64),
    /// It is not: for a reason that passes.
    Failed,
    /// It is not: for the size or content of one that was sent in one piece with it, or its own. To find out whose, they have to be sent
    /// one by one.
    Suspect,
    /// It is not, and will not be, for its size or content.
    Unfit(String),
}

/// Names a dead letter on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The device's partition.
    pub partition: u32,
    /// The term in which it came.
    pub term: u64,
    pub(super) device: u32,
    /// The batch that is refused once this is stored: stream and sequence number.
    pub(in crate::bridge) refuses: Option<(u64, u64)>,
}

/// What could not be taken in, for the dead letters.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Its name here.
    pub letter: Letter,
    /// The device that sent it.
    pub key: Arc<str>,
    /// The topic it came on.
    pub topic: String,
    /// The payload, perhaps cut.
    pub payload: Bytes,
    /// The payload's length before it was cut.
    pub length: usize,
    /// The `headwater.v1.SeriesSet` that its columns are named by, where it is known.
    pub series: Option<Vec<u8>>,
    /// Why.
    pub reason: String,
    /// When it arrived, microseconds since the Unix epoch.
    pub arrival_us: i64,
}

/// What is to be done about a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Hand this to Kafka, then call [`Fleet::sent`](super::Fleet::sent) or [`Fleet::unsent`](super::Fleet::unsent).
    Produce(Record),
    /// Put this to the dead letters, then call [`Fleet::dead_letter`](super::Fleet::dead_letter) with the outcome.
    DeadLetter(DeadLetter),
}

/// Names a state or a checkpoint on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// The partition.
    pub partition: u32,
    /// The term in which it was made.
    pub term: u64,
    /// The device's number; `None` for a checkpoint.
    pub(super) device: Option<u32>,
}

/// A state or a checkpoint to write.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Its name here.
    pub entered: Entered,
    /// The key.
    pub key: Arc<str>,
    /// A `headwater.v1.DeviceState`.
    pub value: Vec<u8>,
}

/// What an error is, in a word or two.
pub(super) fn kind(error: &Error) -> &'static str {
    match error {
        Error::Truncated { .. } => "truncated",
        Error::Malformed { .. } => "malformed",
        Error::Envelope { .. } => "envelope",
        Error::Limit { .. } => "limit",
        Error::UnknownSeriesSet { .. } => "series set",
        Error::Name { .. } => "name",
        _ => "other",
    }
}
