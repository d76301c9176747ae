//! Messages that are not acknowledged yet, the batches that their readings are gathered in, and the order of acknowledging. Pure.
//!
//! Each device has a stream of its own, which begins with the run: nobody else writes it, so its sequence numbers are simply counted.
//! A message is done when every batch that has readings of it is in Kafka, and its dead letter, if there is one; and MQTT
//! wants it acknowledged after those that came before it ([MQTT-4.6.0-2]). So an acknowledgement waits for all before it, and it goes
//! only to the connection that its message came on: on another one, its packet id belongs to another message.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_foreign::Reading;
use headwater_proto::{Batch, Body};

use super::batch::Gathered;
use crate::bridge::device::Now;
use crate::bridge::record::Name;

/// A quiet time of so much of the linger ends it: the broker may be waiting for us.
const QUIET: u32 = 10;

/// What a message is acknowledged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The connection it came on.
    pub connection: u64,
    /// Its packet id there.
    pub packet: u16,
}

/// A record for telemetry.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Names it here.
    pub number: u64,
    /// The device's number.
    pub device: u32,
    /// The device's name: the key.
    pub key: Arc<str>,
    /// Its partition.
    pub partition: u32,
    /// Which batch it is.
    pub name: Name,
    /// A `headwater.v1.Batch`.
    pub value: Vec<u8>,
    /// Its readings.
    pub readings: u64,
    /// When the first of them came.
    pub arrival: Now,
}

/// What bounds a batch.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Readings are gathered for so long at most.
    pub linger: Duration,
    /// Bytes.
    pub bytes: usize,
    /// Readings.
    pub readings: usize,
    /// Columns.
    pub columns: usize,
    /// Each message makes batches of its own: to find the one that Kafka refuses.
    pub one_by_one: bool,
}

#[derive(Debug)]
struct Waiting {
    receipt: Option<Receipt>,
    /// Batches and dead letters that are not in Kafka yet.
    needs: u32,
    /// What the message is, where somebody may want to know it again.
    mark: u64,
}

#[derive(Debug)]
struct Open {
    gathered: Gathered,
    messages: Vec<u64>,
    arrival: Now,
}

#[derive(Debug)]
struct Stream {
    id: u64,
    seq: u64,
    open: Option<Open>,
}

/// What came and is not acknowledged.
#[derive(Debug)]
pub struct Intake {
    bounds: Bounds,
    draw: fn() -> u64,
    /// The number of the first that waits.
    first: u64,
    waiting: VecDeque<Waiting>,
    /// By the device's number.
    streams: HashMap<u32, Stream>,
    /// Devices with an open batch, and where they stand.
    open: Vec<(u32, Arc<str>, u32)>,
    opened: Option<Instant>,
    last: Option<Instant>,
    ready: VecDeque<(Record, Vec<u64>)>,
    records: u64,
    in_flight: HashMap<u64, Vec<u64>>,
}

impl Intake {
    /// Nothing yet. `draw` draws the ids of streams.
    pub fn new(bounds: Bounds, draw: fn() -> u64) -> Self {
        Self {
            bounds,
            draw,
            first: 0,
            waiting: VecDeque::new(),
            streams: HashMap::new(),
            open: Vec::new(),
            opened: None,
            last: None,
            ready: VecDeque::new(),
            records: 0,
            in_flight: HashMap::new(),
        }
    }

    /// A message came: with these readings of these devices (number, name, partition). Without a receipt it wants no
    /// acknowledgement. `letter`: it goes to the dead letters, too. Returns its number.
    pub fn message(
        &mut self,
        now: Now,
        receipt: Option<Receipt>,
        readings: Vec<(u32, Arc<str>, u32, Reading)>,
        letter: bool,
        mark: u64,
    ) -> u64 {
        let number = self.first + self.waiting.len() as u64;
        self.waiting.push_back(Waiting {
            receipt,
            needs: u32::from(letter),
            mark,
        });
        self.last = Some(now.at);
        for (device, key, partition, reading) in readings {
            self.reading(now, number, device, &key, partition, reading);
        }
        if self.bounds.one_by_one {
            self.close();
        }
        number
    }

    fn reading(
        &mut self,
        now: Now,
        number: u64,
        device: u32,
        key: &Arc<str>,
        partition: u32,
        reading: Reading,
    ) {
        let draw = self.draw;
        let stream = self.streams.entry(device).or_insert_with(|| Stream {
            id: draw(),
            seq: 0,
            open: None,
        });
        let open = stream.open.get_or_insert_with(|| {
            self.open.push((device, Arc::clone(key), partition));
            self.opened.get_or_insert(now.at);
            Open {
                gathered: Gathered::default(),
                messages: Vec::new(),
                arrival: now,
            }
        });
        if open.messages.last() != Some(&number) {
            open.messages.push(number);
            // It was pushed just before.
            if let Some(waiting) = self.waiting.back_mut() {
                waiting.needs += 1;
            }
        }
        open.gathered.push(reading, now.us);
        let Bounds {
            bytes,
            readings,
            columns,
            ..
        } = self.bounds;
        let gathered = &open.gathered;
        if gathered.bytes() >= bytes || gathered.len() >= readings || gathered.columns() >= columns {
            self.open.retain(|(of, ..)| *of != device);
            if self.open.is_empty() {
                self.opened = None;
            }
            self.finish(device, key, partition);
        }
    }

    /// When open batches are due to be closed.
    pub fn due(&self) -> Option<Instant> {
        let quiet = self.last? + self.bounds.linger / QUIET;
        Some(quiet.min(self.opened? + self.bounds.linger))
    }

    /// Closes all open batches.
    pub fn close(&mut self) {
        self.opened = None;
        for (device, key, partition) in std::mem::take(&mut self.open) {
            self.finish(device, &key, partition);
        }
    }

    fn finish(&mut self, device: u32, key: &Arc<str>, partition: u32) {
        let Some(stream) = self.streams.get_mut(&device) else {
            return;
        };
        let Some(open) = stream.open.take() else { return };
        stream.seq += 1;
        let readings = open.gathered.len() as u64;
        let batch = Batch {
            device: key.to_string(),
            stream: stream.id,
            seq: stream.seq,
            body: Body::Readings(open.gathered.finish()),
        };
        let record = Record {
            number: self.records,
            device,
            key: Arc::clone(key),
            partition,
            name: Name {
                stream: stream.id,
                seq: stream.seq,
                through: stream.seq,
                loss: false,
            },
            value: headwater_proto::protobuf::encode(&batch),
            readings,
            arrival: open.arrival,
        };
        self.records += 1;
        self.ready.push_back((record, open.messages));
    }

    /// The next record for Kafka.
    pub fn next_record(&mut self) -> Option<Record> {
        let (record, messages) = self.ready.pop_front()?;
        self.in_flight.insert(record.number, messages);
        Some(record)
    }

    /// A record that [`Intake::next_record`] gave was not taken: it is the next again.
    pub fn put_back(&mut self, record: Record) {
        let messages = self.in_flight.remove(&record.number).unwrap_or_default();
        self.ready.push_front((record, messages));
    }

    /// Records that are not in Kafka yet.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// A record is in Kafka.
    pub fn stored(&mut self, record: u64) {
        for message in self.in_flight.remove(&record).unwrap_or_default() {
            self.met(message);
        }
    }

    /// The dead letter of a message is in Kafka.
    pub fn letter_stored(&mut self, message: u64) {
        self.met(message);
    }

    fn met(&mut self, message: u64) {
        let at = message.checked_sub(self.first).map(|at| at as usize);
        if let Some(waiting) = at.and_then(|at| self.waiting.get_mut(at)) {
            waiting.needs = waiting.needs.saturating_sub(1);
        }
    }

    /// The marks of the messages that a record in flight has readings of.
    pub fn marks(&self, record: u64) -> Vec<u64> {
        let messages = self.in_flight.get(&record).into_iter().flatten();
        let marks = messages.filter_map(|message| {
            let at = message.checked_sub(self.first)?;
            Some(self.waiting.get(at as usize)?.mark)
        });
        marks.collect()
    }

    /// The next acknowledgement that may go: all before it are done.
    pub fn acknowledge(&mut self) -> Option<Receipt> {
        while self.waiting.front().is_some_and(|waiting| waiting.needs == 0) {
            self.first += 1;
            let receipt = self.waiting.pop_front().and_then(|waiting| waiting.receipt);
            if receipt.is_some() {
                return receipt;
            }
        }
        None
    }

    /// The connection is gone: what came on it comes again, and is acknowledged then.
    pub fn disconnected(&mut self) {
        for waiting in &mut self.waiting {
            waiting.receipt = None;
        }
    }

    /// Messages that are not done, or wait for one that is not.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests;
