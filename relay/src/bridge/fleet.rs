//! All devices of a partition: what a message from MQTT, a report from Kafka or the passing of time makes of them.
//!
//! Pure: time and messages are arguments, and what is to be done is returned. [`Fleet::message`] never changes a stream's
//! position; only [`Fleet::sent`] (handed to Kafka's client) and [`Fleet::reported`] do.

#[cfg(test)]
mod model;
mod refusals;
mod reports;
#[cfg(test)]
mod setbacks;
mod step;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use headwater_proto::frame::{Frame, open_control};
use headwater_proto::topic::Kind;
use headwater_proto::{Batch, Body, Error, Limits, Loss, LossReason, SeriesSet, pb};

use super::ack::Acks;
use super::boxes;
use super::budget::Budget;
use super::checkpoint::{Entry, Ledger};
use super::device::{Device, Now};
use super::metrics::Metrics;
use super::record::Name;
use super::scan::Scan;
use super::settings::BridgeSettings;
use super::stream::Verdict;
pub use step::{DeadLetter, Entered, Letter, Message, Outcome, Record, State, Step, Ticket};

/// Not told again to go back for the same position within this time.
const GO_BACK: Duration = Duration::from_millis(500);
/// Not asked again for hello or the same series set within this time.
const ASK: Duration = Duration::from_secs(1);
/// Payloads that name no batch become dead letters at most this often a device.
const DEAD_LETTER: Duration = Duration::from_secs(1);

/// What all partitions of a bridge share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// How many partitions there are.
    pub partitions: u32,
    /// Bytes handed to Kafka and not reported.
    pub in_flight: Budget,
    /// Devices known.
    pub devices: Budget,
    /// What is counted.
    pub metrics: Metrics,
}

/// All devices of a partition, in one term of owning it.
#[derive(Debug)]
pub struct Fleet {
    limits: Limits,
    control_limit: usize,
    max_streams: usize,
    max_series_sets: usize,
    shared: Shared,
    partition: u32,
    term: u64,
    devices: Vec<Device>,
    index: HashMap<Arc<str>, u32>,
    acks: Acks,
    ledger: Ledger,
    /// The offset after the last record delivered.
    next_offset: i64,
    /// The offset that was marked last.
    marked: i64,
    /// Records handed to Kafka and not reported.
    in_flight: usize,
    /// Checkpoints on their way.
    checkpoints: usize,
    halted: bool,
    metrics: Metrics,
}

impl Fleet {
    /// With no device yet.
    pub fn new(settings: &BridgeSettings, partition: u32, term: u64, shared: Shared) -> Self {
        let limits = settings.limits.codec();
        Self {
            control_limit: limits.body_bytes,
            limits,
            max_streams: settings.limits.streams,
            max_series_sets: settings.limits.series_sets,
            metrics: shared.metrics.clone(),
            shared,
            partition,
            term,
            devices: Vec::new(),
            index: HashMap::new(),
            acks: Acks::new(settings.ack_interval),
            ledger: Ledger::new(settings.state_interval),
            next_offset: 0,
            marked: -1,
            in_flight: 0,
            checkpoints: 0,
            halted: false,
        }
    }

    /// Takes in what an earlier bridge, or an earlier producer of this one, left of the partition.
    pub fn restore(&mut self, mut scan: Scan, now: Now) {
        for (_, state) in std::mem::take(&mut scan.states) {
            if let Some(number) = self.number(&state.device.clone()) {
                let device = Device::restore(state, self.partition);
                self.metrics.devices_online.inc_by(i64::from(device.online));
                self.devices[number as usize] = device;
            }
        }
        for device in std::mem::take(&mut scan.adopted) {
            if let Some(number) = self.number(&device) {
                self.ledger.changed(number, now.at);
            }
        }
        self.next_offset = self.next_offset.max(scan.next_offset);
        for (name, addition) in scan.additions() {
            let Some(number) = self.number(&name) else {
                continue;
            };
            let device = &mut self.devices[number as usize];
            for (stream, position) in addition.positions {
                device.streams.entry(stream).or_default().deliver(position);
            }
            // A state knows of every record up to its newest.
            let unknown = |(offset, _): &&(i64, u64)| *offset >= device.newest;
            let lost: u64 = addition
                .losses
                .iter()
                .filter(unknown)
                .map(|(_, readings)| readings)
                .sum();
            device.lost_readings = device.lost_readings.saturating_add(lost);
            device.newest = device.newest.max(addition.newest);
            self.ledger.changed(number, now.at);
        }
    }

    /// A message came, from the device of this name: this partition's.
    pub fn message(&mut self, now: Now, name: &str, kind: Kind, message: &Message) -> Step {
        // An empty payload only clears what the broker had kept.
        if message.payload.is_empty() && kind != Kind::Data {
            return Step::Nothing;
        }
        let Some(number) = self.number(name) else {
            self.metrics.refuse("too many devices");
            return Step::Nothing;
        };
        match kind {
            Kind::Data => self.data(now, number, message),
            Kind::Hello | Kind::Series | Kind::Status => match self.control(now, number, kind, message) {
                Ok(()) => Step::Nothing,
                Err(error) => self.unnamed(now, number, message, "control message", error.to_string()),
            },
            Kind::Ack | Kind::Command | Kind::Reply => {
                self.metrics.refuse("topic");
                Step::Nothing
            }
        }
    }

    fn control(&mut self, now: Now, number: u32, kind: Kind, message: &Message) -> Result<(), Error> {
        if message.length > self.control_limit {
            return Err(Error::Limit {
                what: "body_bytes",
                actual: message.length,
                limit: self.control_limit,
            });
        }
        let device = &mut self.devices[number as usize];
        let online = device.online;
        match kind {
            Kind::Hello => {
                let hello: pb::Hello = open_control("hello", &message.payload)?;
                let session = hello.session;
                if !message.retained && device.meet(&hello, now) {
                    self.metrics.shared_names.inc();
                    boxes::tell(&device.name, &device.boxes.rivals(now.at));
                }
                let torn = hello.streams.iter().filter(|stream| stream.torn);
                let torn = torn.map(|stream| (stream.stream, stream.last_seq)).collect();
                let over = device.hello(hello, message.retained, self.max_streams, now);
                for _ in 0..over {
                    self.metrics.refuse("too many streams");
                }
                // What the broker kept was told when it came.
                for (stream, last) in device.tear(torn).into_iter().filter(|_| !message.retained) {
                    self.metrics.torn_streams.inc();
                    tracing::warn!(
                        device = &*device.name,
                        stream = %format_args!("{stream:016x}"),
                        last,
                        "the agent's stream ended without a clean stop (a power cut, a kill): what it had sampled last, \
                         up to journal.sync_after, may be lost behind it"
                    );
                }
                let note = self.acks.note(number, now.at);
                note.streams.extend(device.streams.keys());
                note.session = session;
                // Kept by the broker: we are the ones who were away, and what was sent meanwhile is lost.
                note.go_back |= message.retained;
                note.want_hello = false;
                self.ledger.changed_urgently(number);
            }
            Kind::Series => {
                let set = SeriesSet::from_pb(open_control("series set", &message.payload)?, &self.limits)?;
                if !message.retained {
                    device.heard(now);
                }
                device.keep_series(set, self.max_series_sets);
            }
            _ => {
                let status: pb::Status = open_control("status", &message.payload)?;
                device.status(&status, message.retained, now);
                self.ledger.changed(number, now.at);
            }
        }
        self.presence(number, online);
        Ok(())
    }

    fn data(&mut self, now: Now, number: u32, message: &Message) -> Step {
        let device = &mut self.devices[number as usize];
        let online = device.online;
        // One kept by the broker is no sign of life, and no harm: it is judged like any other.
        if !message.retained {
            device.heard(now);
        }
        self.presence(number, online);
        // The header first, whatever the payload's length: a refusal must name the batch.
        let header = Limits {
            frame_bytes: usize::MAX,
            ..self.limits.clone()
        };
        let frame = match Frame::parse(&message.payload, &header) {
            Ok(frame) => frame,
            Err(error) => return self.unnamed(now, number, message, "frame", error.to_string()),
        };
        let device = &mut self.devices[number as usize];
        let Some(id) = device.stream(frame.short) else {
            self.metrics.unknown_streams.inc();
            if device.asks(0, now.at, ASK) {
                self.acks.note(number, now.at).want_hello = true;
            }
            return Step::Nothing;
        };
        device.frame(frame.short, now.at);
        let stream = device.streams.entry(id).or_default();
        let verdict = stream.judge(frame.seq);
        if verdict == Verdict::Duplicate {
            self.metrics.duplicates.inc();
            if frame.seq <= stream.delivered() {
                self.acks.note(number, now.at).streams.insert(id);
            }
            return Step::Nothing;
        }
        // Neither accepted nor asked for again: it would come into the same.
        if self.halted || self.shared.in_flight.is_spent() {
            self.metrics
                .drop(if self.halted { "recovering" } else { "in flight" });
            return Step::Nothing;
        }
        if verdict == Verdict::Gap {
            self.metrics.gaps.inc();
            if let Some(through) = stream.hole().filter(|&through| frame.seq > through) {
                let name = Name {
                    stream: id,
                    seq: stream.accepted() + 1,
                    through,
                    loss: true,
                };
                return self.close_hole(now, number, name);
            }
            if stream.goes_back(now.at, GO_BACK) {
                let note = self.acks.note(number, now.at);
                note.streams.insert(id);
                note.go_back = true;
            }
            return Step::Nothing;
        }
        let unfit = stream.is_unfit(frame.seq);
        match self.content(number, id, &frame, message.length) {
            Ok(content) if unfit && content.loss.is_none() => {
                self.refuse(now, number, id, frame.seq, message, None)
            }
            Ok(content) => {
                let name = Name {
                    stream: id,
                    seq: frame.seq,
                    through: content.loss.map_or(frame.seq, |loss| loss.through),
                    loss: content.loss.is_some(),
                };
                match self.record(now, number, name, content) {
                    Ok(record) => Step::Produce(record),
                    Err(error) => self.refuse(now, number, id, frame.seq, message, Some(&error)),
                }
            }
            Err(Error::UnknownSeriesSet { hash }) => {
                self.metrics.unknown_series.inc();
                if self.devices[number as usize].asks(hash, now.at, ASK) {
                    let note = self.acks.note(number, now.at);
                    note.want_series.insert(hash);
                    note.streams.insert(id);
                }
                Step::Nothing
            }
            Err(error) => self.refuse(now, number, id, frame.seq, message, Some(&error)),
        }
    }

    /// What a frame of this stream holds, in the open form.
    fn content(&self, number: u32, stream: u64, frame: &Frame<'_>, length: usize) -> Result<Content, Error> {
        if length > self.limits.frame_bytes {
            let limit = self.limits.frame_bytes;
            return Err(Error::Limit {
                what: "frame_bytes",
                actual: length,
                limit,
            });
        }
        let device = &self.devices[number as usize];
        let hash = frame.series_set()?;
        let set = match hash {
            0 => None,
            hash => Some(device.series(hash).ok_or(Error::UnknownSeriesSet { hash })?),
        };
        if let Some(set) = &set
            && let Some(rewritten) = frame.rewrite(set, &self.limits, (&device.name, stream, frame.seq))?
        {
            return Ok(Content {
                value: rewritten.value,
                readings: rewritten.readings,
                newest_us: rewritten.newest_us,
                loss: None,
            });
        }
        let body = frame.body(set.as_deref(), &self.limits)?;
        match &body {
            Body::Loss(loss) if loss.through < frame.seq => {
                return Err(Error::Malformed {
                    what: "loss record".into(),
                    why: format!("it ends at {} before it begins at {}", loss.through, frame.seq),
                });
            }
            Body::Readings(readings) => {
                readings
                    .columns
                    .iter()
                    .try_for_each(|column| headwater_proto::name::check_metric(&column.metric))?;
            }
            Body::Loss(_) => {}
        }
        Ok(Content::of(&device.name, stream, frame.seq, body))
    }

    fn record(&self, now: Now, number: u32, name: Name, content: Content) -> Result<Record, Error> {
        let device = &self.devices[number as usize];
        if content.value.len() > self.limits.body_bytes {
            let limit = self.limits.body_bytes;
            return Err(Error::Limit {
                what: "body_bytes",
                actual: content.value.len(),
                limit,
            });
        }
        Ok(Record {
            device: number,
            key: Arc::clone(&device.name),
            partition: self.partition,
            term: self.term,
            name,
            value: content.value,
            readings: content.readings,
            lost_readings: content.loss.map_or(0, |loss| loss.readings),
            newest_us: content.newest_us,
            arrival: now,
        })
    }

    /// Neither the agent nor Kafka has these batches: that shows as a loss, and the stream goes on.
    fn close_hole(&self, now: Now, number: u32, name: Name) -> Step {
        let device = &self.devices[number as usize].name;
        tracing::warn!(%device, ?name, "neither the agent nor Kafka has these batches: a loss record stands for them");
        let loss = Loss {
            through: name.through,
            readings: 0,
            reason: LossReason::Corrupt,
        };
        let content = Content::of(device, name.stream, name.seq, Body::Loss(loss));
        match self.record(now, number, name, content) {
            Ok(record) => Step::Produce(record),
            Err(_) => Step::Nothing,
        }
    }
}

/// What a batch will be in Kafka.
#[derive(Debug)]
struct Content {
    /// A `headwater.v1.Batch`.
    value: Vec<u8>,
    readings: u64,
    newest_us: Option<i64>,
    loss: Option<Loss>,
}

impl Content {
    fn of(device: &str, stream: u64, seq: u64, body: Body) -> Self {
        let (readings, newest_us, loss) = match &body {
            Body::Readings(readings) => {
                let newest = readings.times.iter().flatten().max().copied();
                (readings.len() as u64, newest, None)
            }
            Body::Loss(loss) => (0, None, Some(*loss)),
        };
        let batch = Batch {
            device: device.to_owned(),
            stream,
            seq,
            body,
        };
        Self {
            value: headwater_proto::protobuf::encode(&batch),
            readings,
            newest_us,
            loss,
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shared.devices.give_back(self.devices.len());
        self.metrics.devices.dec_by(self.devices.len() as i64);
        let online = self.devices.iter().filter(|device| device.online).count();
        self.metrics.devices_online.dec_by(online as i64);
    }
}
