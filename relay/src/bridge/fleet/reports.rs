//! What Kafka's reports and the passing of time make of the fleet.

use std::sync::Arc;
use std::time::Instant;

use headwater_proto::frame::seal_control;
use headwater_proto::topic::{self, Kind};
use headwater_proto::{Message as _, pb};

use super::{Entered, Entry, Fleet, Letter, Name, Now, Outcome, Record, Scan, State, Ticket};
use crate::bridge::device::Device;
use crate::bridge::scan::CHECKPOINT;
use crate::bridge::stream::{LetterState, Refused};

impl Fleet {
    /// A record was handed to Kafka's client.
    pub fn sent(&mut self, record: &Record) {
        if let Some(stream) = self.devices[record.device as usize]
            .streams
            .get_mut(&record.name.stream)
        {
            stream.accept(record.name.through);
        }
        self.in_flight += 1;
        self.shared.in_flight.take(record.cost());
    }

    /// A record that was sent last was not taken after all.
    pub fn taken_back(&mut self, record: &Record) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(stream) = self.devices[record.device as usize]
            .streams
            .get_mut(&record.name.stream)
        {
            stream.take_back(record.name.seq);
        }
    }

    /// Kafka's client would not take a record now. `unfit`: nor ever, for this reason.
    pub fn unsent(&mut self, record: &Record, unfit: Option<String>) {
        match unfit {
            None => self.metrics.drop("queue full"),
            Some(reason) => self.unfit(record.device, record.name, reason),
        }
    }

    /// Kafka's report of a record that was sent in this term.
    pub fn reported(&mut self, now: Now, ticket: &Ticket, outcome: Outcome) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let device = &mut self.devices[ticket.device as usize];
        let name = ticket.name;
        match outcome {
            Outcome::Stored(offset) => {
                self.next_offset = self.next_offset.max(offset + 1);
                device.newest = device.newest.max(offset + 1);
                device.lost_readings = device.lost_readings.saturating_add(ticket.lost_readings);
                device
                    .streams
                    .entry(name.stream)
                    .or_default()
                    .deliver(name.through);
                self.metrics.readings.inc_by(ticket.readings);
                self.metrics.lost_readings.inc_by(ticket.lost_readings);
                self.metrics.batches.inc();
                self.metrics.bytes_out.inc_by(ticket.bytes as u64);
                let took = now.at.saturating_duration_since(ticket.arrival);
                self.metrics.delivery_seconds.observe(took.as_secs_f64());
                if let Some(newest) = ticket.newest_us {
                    // A device's clock may be ahead.
                    let lag = now.us.saturating_sub(newest).max(0);
                    self.metrics.lag_seconds.observe(lag as f64 / 1e6);
                }
                self.acks.note(ticket.device, now.at).streams.insert(name.stream);
                self.ledger.changed(ticket.device, now.at);
            }
            Outcome::Failed | Outcome::Suspect => {
                self.metrics.delivery_failures.inc();
            }
            Outcome::Unfit(reason) => {
                self.metrics.delivery_failures.inc();
                self.unfit(ticket.device, name, reason);
            }
        }
    }

    /// What became of a dead letter. Once it is in Kafka the agent is told of the refusal, and if it never can be; otherwise it is
    /// written when the batch comes again.
    pub fn dead_letter(&mut self, now: Now, letter: &Letter, outcome: &Outcome) {
        match outcome {
            Outcome::Stored(_) => drop(self.metrics.dead_letters.inc()),
            Outcome::Unfit(why) => {
                let device = &self.devices[letter.device as usize].name;
                tracing::warn!(%device, "what is refused cannot be kept as a dead letter: {why}");
            }
            Outcome::Failed | Outcome::Suspect => {}
        }
        let Some((id, seq)) = letter.refuses else { return };
        let Some(stream) = self.devices[letter.device as usize].streams.get_mut(&id) else {
            return;
        };
        let Some(refused) = stream.refused.as_mut().filter(|refused| refused.seq == seq) else {
            return;
        };
        if matches!(outcome, Outcome::Failed | Outcome::Suspect) {
            refused.letter = LetterState::Due;
            return;
        }
        refused.letter = LetterState::Done;
        let reason = refused.reason.clone();
        self.tell_refusal(now, letter.device, id, seq, reason);
    }

    /// The next ack to the device says that this batch is refused.
    pub(super) fn tell_refusal(&mut self, now: Now, number: u32, stream: u64, seq: u64, reason: String) {
        let note = self.acks.note(number, now.at);
        note.refusals
            .retain(|other| (other.stream, other.seq) != (stream, seq));
        note.refusals.push(pb::Refusal { stream, seq, reason });
        note.streams.insert(stream);
    }

    /// The connection to Kafka's telemetry is to be made anew: until [`Fleet::resume`] no batch is accepted.
    /// Returns the offset from which to scan what got through.
    pub fn halt(&mut self) -> i64 {
        self.halted = true;
        self.next_offset
    }

    /// Every record in flight has been reported, and this scan of the partition says what of them is in Kafka: the rest
    /// is asked for again. If it ends before the offset that [`Fleet::halt`] told, telemetry was made anew; if it has not `begun`, the
    /// states were: all are written again.
    pub fn resume(&mut self, now: Now, scan: Scan) {
        // Of what is not there any more, the offsets say nothing.
        let anew = scan.next_offset < self.next_offset;
        if anew {
            (self.next_offset, self.marked) = (scan.next_offset, -1);
        }
        for (number, device) in (0u32..).zip(&mut self.devices) {
            if anew {
                device.newest = 0;
            }
            if anew || !scan.begun {
                self.ledger.changed(number, now.at);
            }
        }
        self.restore(scan, now);
        for (number, device) in (0u32..).zip(&mut self.devices) {
            let ids: Vec<u64> = device
                .streams
                .iter_mut()
                .filter_map(|(id, stream)| stream.roll_back().then_some(*id))
                .collect();
            if !ids.is_empty() {
                let note = self.acks.note(number, now.at);
                note.streams.extend(ids);
                note.go_back = true;
            }
        }
        self.halted = false;
    }

    /// The same, of a fleet that had nothing in flight.
    pub fn unhalt(&mut self) {
        self.halted = false;
    }

    /// Whether no batch is accepted until [`Fleet::resume`].
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// Records handed to Kafka's client and not yet reported.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The MQTT connection stands: every device has to give a sign of life, or a retained status, until
    /// [`Fleet::give_up`].
    pub fn connected(&mut self) {
        self.devices.iter_mut().for_each(Device::doubt);
    }

    /// The MQTT connection is gone: nobody can be told anything.
    pub fn disconnected(&mut self) {
        self.acks.clear();
    }

    /// Devices that gave no sign of life since the connection was made are taken as away.
    pub fn give_up(&mut self, now: Now) {
        for number in 0..self.devices.len() as u32 {
            let online = self.devices[number as usize].online;
            self.devices[number as usize].give_up(now);
            self.presence(number, online);
        }
    }

    /// When the next ack is due.
    pub fn next_ack(&self) -> Option<Instant> {
        self.acks.next()
    }

    /// The next ack that is due: topic and payload.
    pub fn ack(&mut self, now: Now) -> Option<(String, Vec<u8>)> {
        let (number, note) = self.acks.take(now.at)?;
        let device = &mut self.devices[number as usize];
        let boxes = device.boxes.tell(now.at, note.session != 0);
        let time_us = device.tell_time(now, note.session != 0);
        let positions = note.streams.iter().filter(|id| device.streams.contains_key(id));
        let ack = pb::Ack {
            positions: positions.map(|&id| device.position(id)).collect(),
            want_hello: note.want_hello,
            want_series: note.want_series.into_iter().collect(),
            refusals: note.refusals,
            go_back: note.go_back,
            session: note.session,
            boxes,
            time_us,
        };
        Some((topic::topic(&device.name, Kind::Ack), seal_control(&ack)))
    }

    /// A checkpoint is due, if something was delivered since the last.
    pub fn mark(&mut self, now: Now) {
        if self.next_offset != self.marked {
            self.marked = self.next_offset;
            self.ledger.mark(self.partition, self.next_offset, now.at);
        }
    }

    /// The next state or checkpoint to write, if one may be written now. Call [`Fleet::state`] with the outcome.
    pub fn next_state(&mut self, now: Instant) -> Option<State> {
        Some(match self.ledger.take(now)? {
            Entry::State(number) => {
                let device = &self.devices[number as usize];
                State {
                    entered: self.entered(Some(number)),
                    key: Arc::clone(&device.name),
                    value: device.state().encode_to_vec(),
                }
            }
            Entry::Checkpoint {
                partition,
                telemetry_offset,
            } => {
                self.checkpoints += 1;
                let checkpoint = Some(pb::Checkpoint {
                    partition,
                    telemetry_offset,
                });
                let state = pb::DeviceState {
                    checkpoint,
                    ..Default::default()
                };
                State {
                    entered: self.entered(None),
                    key: CHECKPOINT.into(),
                    value: state.encode_to_vec(),
                }
            }
        })
    }

    fn entered(&self, device: Option<u32>) -> Entered {
        Entered {
            partition: self.partition,
            term: self.term,
            device,
        }
    }

    /// Whether a state is in Kafka. A checkpoint that is not is no harm: the one before holds.
    pub fn state(&mut self, now: Instant, entered: Entered, stored: bool) {
        match entered.device {
            Some(_) if stored => self.ledger.confirmed(),
            Some(device) => {
                self.ledger.failed(device, now);
                self.marked = -1;
            }
            None => self.checkpoints = self.checkpoints.saturating_sub(1),
        }
    }

    /// Whether every state and checkpoint is in Kafka.
    pub fn is_clean(&self) -> bool {
        self.ledger.is_clean() && self.checkpoints == 0
    }

    /// Whether the device of this name is on line; `None`: it is not known.
    pub fn presence_of(&self, name: &str) -> Option<bool> {
        let number = self.index.get(name)?;
        Some(self.devices[*number as usize].online)
    }

    /// The devices, in no order that means anything.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    fn unfit(&mut self, number: u32, name: Name, reason: String) {
        self.metrics.refuse("unfit for Kafka");
        let stream = self.devices[number as usize]
            .streams
            .entry(name.stream)
            .or_default();
        stream.refused = Some(Refused {
            seq: name.seq,
            reason,
            letter: LetterState::Due,
            unfit: true,
        });
    }

    pub(super) fn presence(&mut self, number: u32, before: bool) {
        if self.devices[number as usize].online != before {
            self.ledger.changed_urgently(number);
            self.metrics.devices_online.inc_by(if before { -1 } else { 1 });
        }
    }

    /// The number of a device, known or new; `None` where there are too many, or it is of another partition.
    pub(super) fn number(&mut self, name: &str) -> Option<u32> {
        if let Some(&number) = self.index.get(name) {
            return Some(number);
        }
        if headwater_proto::shard::partition(name, self.shared.partitions) != self.partition
            || self.shared.devices.is_spent()
        {
            return None;
        }
        let number = self.devices.len() as u32;
        let device = Device::new(name, self.partition);
        self.index.insert(Arc::clone(&device.name), number);
        self.devices.push(device);
        self.shared.devices.take(1);
        self.metrics.devices.inc();
        Some(number)
    }
}
