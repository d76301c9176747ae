//! The fleet against a model of the world: an agent, a network that loses, repeats and reorders, and a Kafka; producers that
//! fail and bridges that are killed at any moment. Whatever happens, each stream stands in Kafka once, whole and in order,
//! and nothing is acknowledged that is not there.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use headwater_proto::frame::{Compression, Encoding, open_control, seal, seal_control};
use headwater_proto::topic::{Kind, topic};
use headwater_proto::{Batch, Body, Limits, Readings, SeriesSet, pb};
use prometheus_client::registry::Registry;
use proptest::prelude::*;

use super::{Fleet, Message, Name, Now, Outcome, Record, Scan, Shared, Step};
use crate::bridge::budget::Budget;
use crate::bridge::metrics::Metrics;
use crate::bridge::settings::BridgeSettings;

const DEVICE: &str = "pump-1";
const WINDOW: u64 = 5;

#[derive(Clone, Debug)]
enum Event {
    Sample,
    Send,
    Arrive(usize),
    LoseFrame(usize),
    RepeatFrame(usize),
    Store(usize),
    Ack,
    AckArrives(usize),
    LoseAck(usize),
    Timeout,
    RestartAgent,
    WriteStates,
    Mark,
    /// The producer fails; so many of what it had in flight got through, of which so many were reported.
    FailProducer(usize, usize),
    /// The bridge is killed; so many of what it had in flight got through.
    Kill(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Sample),
        12 => Just(Event::Send),
        12 => (0..4usize).prop_map(Event::Arrive),
        2 => (0..4usize).prop_map(Event::LoseFrame),
        2 => (0..4usize).prop_map(Event::RepeatFrame),
        8 => (1..4usize).prop_map(Event::Store),
        8 => Just(Event::Ack),
        8 => (0..3usize).prop_map(Event::AckArrives),
        2 => (0..3usize).prop_map(Event::LoseAck),
        3 => Just(Event::Timeout),
        1 => Just(Event::RestartAgent),
        3 => Just(Event::WriteStates),
        2 => Just(Event::Mark),
        1 => (0..4usize, 0..4usize).prop_map(|(through, reported)| Event::FailProducer(through, reported)),
        1 => (0..4usize).prop_map(Event::Kill),
    ]
}

/// A stream as its agent holds it.
#[derive(Clone, Debug)]
struct Held {
    short: u32,
    last: u64,
    acked: u64,
    next: u64,
}

struct World {
    now: Now,
    fleet: Fleet,
    /// In flight at the producer.
    producer: VecDeque<Record>,
    telemetry: Vec<(Name, Vec<u8>)>,
    devices: Vec<(String, Vec<u8>)>,
    streams: BTreeMap<u64, Held>,
    up: Vec<Message>,
    down: Vec<pb::Ack>,
    retained: Message,
    series: SeriesSet,
}

fn fleet() -> Fleet {
    let settings = BridgeSettings {
        ack_interval: Duration::from_millis(1),
        ..BridgeSettings::default()
    };
    let shared = Shared {
        partitions: 1,
        in_flight: Budget::new(usize::MAX),
        devices: Budget::new(usize::MAX),
        metrics: Metrics::new(&mut Registry::default()),
    };
    Fleet::new(&settings, 0, 1, shared)
}

fn message(kind: Kind, payload: Vec<u8>, retained: bool) -> Message {
    let length = payload.len();
    Message {
        topic: topic(DEVICE, kind),
        retained,
        payload: payload.into(),
        length,
    }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: Now {
                at: Instant::now(),
                us: 1,
            },
            fleet: fleet(),
            producer: VecDeque::new(),
            telemetry: Vec::new(),
            devices: Vec::new(),
            streams: BTreeMap::new(),
            up: Vec::new(),
            down: Vec::new(),
            retained: message(Kind::Hello, Vec::new(), true),
            series: SeriesSet::new(Vec::new(), 0),
        };
        world.restart_agent();
        world
    }

    fn tick(&mut self) {
        self.now.at += Duration::from_millis(300);
        self.now.us += 300_000;
    }

    fn hello(&mut self) {
        let streams = self.streams.iter().map(|(&stream, held)| pb::HelloStream {
            stream,
            short: held.short,
            first_seq: held.acked + 1,
            last_seq: held.last,
            acked_seq: held.acked,
            torn: false,
        });
        let hello = pb::Hello {
            session: 1,
            streams: streams.collect(),
            agent: None,
        };
        let payload = seal_control(&hello);
        self.retained = message(Kind::Hello, payload.clone(), true);
        self.arrive(&message(Kind::Hello, payload, false));
        let series = seal_control(&self.series.to_pb());
        self.arrive(&message(Kind::Series, series, false));
    }

    /// A new stream beside what has not drained; frames on their way die with the connection.
    fn restart_agent(&mut self) {
        self.up.clear();
        self.streams.retain(|_, held| held.acked < held.last);
        let id = self.streams.keys().next_back().map_or(1, |last| last + 1);
        let id = id.max(
            self.telemetry
                .iter()
                .map(|(name, _)| name.stream + 1)
                .max()
                .unwrap_or(1),
        );
        self.streams.insert(
            id,
            Held {
                short: id as u32,
                last: 0,
                acked: 0,
                next: 1,
            },
        );
        self.streams
            .values_mut()
            .for_each(|held| held.next = held.acked + 1);
        self.hello();
    }

    fn send(&mut self) {
        for held in self.streams.values_mut() {
            if held.next <= held.last && held.next <= held.acked + WINDOW {
                let body = Body::Readings(Readings::default());
                let sealed = seal(
                    &body,
                    &self.series,
                    Encoding::Postcard,
                    Compression::None,
                    &Limits::default(),
                );
                let frame = sealed.unwrap().frame(held.short, held.next);
                self.up.push(message(Kind::Data, frame, false));
                held.next += 1;
                return;
            }
        }
    }

    fn arrive(&mut self, message: &Message) {
        let (name, kind) = headwater_proto::topic::parse(&message.topic).unwrap();
        match self.fleet.message(self.now, name, kind, message) {
            Step::Nothing => {}
            Step::Produce(record) => {
                self.fleet.sent(&record);
                self.producer.push_back(record);
            }
            Step::DeadLetter(letter) => panic!("refused: {}", letter.reason),
        }
    }

    /// The first so many in flight are in Kafka. Returns their tickets and offsets.
    fn append(&mut self, count: usize) -> Vec<(Record, i64)> {
        let count = count.min(self.producer.len());
        let mut stored = Vec::new();
        for record in self.producer.drain(..count) {
            stored.push((record.clone(), self.telemetry.len() as i64));
            self.telemetry.push((record.name, record.value));
        }
        stored
    }

    fn scan_telemetry(&self, scan: &mut Scan, from: i64) {
        for (offset, (name, value)) in (0i64..).zip(&self.telemetry).skip(from as usize) {
            scan.telemetry(offset, DEVICE, *name, value, &Limits::default());
        }
    }

    fn fail_producer(&mut self, through: usize, reported: usize) {
        let stored = self.append(through);
        for (index, (record, offset)) in stored.iter().enumerate() {
            let outcome = if index < reported {
                Outcome::Stored(*offset)
            } else {
                Outcome::Failed
            };
            self.fleet.reported(self.now, &record.ticket(), outcome);
        }
        let from = self.fleet.halt();
        for record in std::mem::take(&mut self.producer) {
            self.fleet.reported(self.now, &record.ticket(), Outcome::Failed);
        }
        assert_eq!(self.fleet.in_flight(), 0);
        let mut scan = Scan::default();
        (scan.begun, scan.next_offset) = (true, self.telemetry.len() as i64);
        self.scan_telemetry(&mut scan, from);
        self.fleet.resume(self.now, scan);
    }

    fn kill(&mut self, through: usize) {
        self.append(through);
        self.producer.clear();
        self.up.clear();
        let mut scan = Scan::default();
        for (key, value) in &self.devices {
            scan.state(key, Some(value));
        }
        let from = scan.checkpoint;
        self.scan_telemetry(&mut scan, from);
        self.fleet = fleet();
        self.fleet.restore(scan, self.now);
        self.arrive(&self.retained.clone());
        let series = seal_control(&self.series.to_pb());
        self.arrive(&message(Kind::Series, series, true));
    }

    fn write_states(&mut self) {
        let late = self.now.at + Duration::from_secs(3600);
        while let Some(state) = self.fleet.next_state(late) {
            self.devices.push((state.key.to_string(), state.value));
            self.fleet.state(late, state.entered, true);
        }
    }

    fn ack_arrives(&mut self, ack: &pb::Ack) {
        for position in &ack.positions {
            let Some(held) = self.streams.get_mut(&position.stream) else {
                continue;
            };
            assert!(position.seq <= held.last, "acknowledged what was never sent");
            held.acked = held.acked.max(position.seq);
            held.next = held.next.max(held.acked + 1);
            if ack.go_back {
                held.next = held.acked + 1;
            }
        }
        if ack.want_hello {
            self.hello();
        }
    }

    fn apply(&mut self, event: &Event) {
        self.tick();
        let pick = |len: usize, index: usize| (len > 0).then(|| index % len.max(1));
        match *event {
            Event::Sample => {
                if let Some((_, newest)) = self.streams.iter_mut().next_back() {
                    newest.last += 1;
                }
            }
            Event::Send => self.send(),
            Event::Arrive(index) => {
                if let Some(index) = pick(self.up.len(), index) {
                    let frame = self.up.remove(index);
                    self.arrive(&frame);
                }
            }
            Event::LoseFrame(index) => {
                if let Some(index) = pick(self.up.len(), index) {
                    self.up.remove(index);
                }
            }
            Event::RepeatFrame(index) => {
                if let Some(index) = pick(self.up.len(), index) {
                    self.up.push(self.up[index].clone());
                }
            }
            Event::Store(count) => {
                for (record, offset) in self.append(count) {
                    self.fleet
                        .reported(self.now, &record.ticket(), Outcome::Stored(offset));
                }
            }
            Event::Ack => {
                while let Some((_, payload)) = self.fleet.ack(self.now) {
                    self.down.push(open_control("ack", &payload).unwrap());
                }
            }
            Event::AckArrives(index) => {
                if let Some(index) = pick(self.down.len(), index) {
                    let ack = self.down.remove(index);
                    self.ack_arrives(&ack);
                }
            }
            Event::LoseAck(index) => {
                if let Some(index) = pick(self.down.len(), index) {
                    self.down.remove(index);
                }
            }
            Event::Timeout => self
                .streams
                .values_mut()
                .for_each(|held| held.next = held.acked + 1),
            Event::RestartAgent => self.restart_agent(),
            Event::WriteStates => self.write_states(),
            Event::Mark => self.fleet.mark(self.now),
            Event::FailProducer(through, reported) => self.fail_producer(through, reported),
            Event::Kill(through) => self.kill(through),
        }
    }

    /// Each stream in Kafka is 1, 2, 3, …, and reaches at least as far as was acknowledged.
    fn check(&self) {
        let mut ends: BTreeMap<u64, u64> = BTreeMap::new();
        for (name, value) in &self.telemetry {
            let end = ends.entry(name.stream).or_default();
            assert_eq!(name.seq, *end + 1, "stream {}", name.stream);
            *end = name.through;
            let batch: Batch = headwater_proto::protobuf::decode(value, &Limits::default()).unwrap();
            assert_eq!((batch.stream, batch.seq), (name.stream, name.seq));
        }
        for (id, held) in &self.streams {
            let end = ends.get(id).copied().unwrap_or(0);
            assert!(
                held.acked <= end,
                "stream {id}: {} acknowledged, {end} in Kafka",
                held.acked
            );
        }
    }

    /// Nothing fails any more: everything drains.
    fn settle(&mut self) {
        for round in 0..500 {
            if self.streams.values().all(|held| held.acked == held.last) {
                return;
            }
            if round % 20 == 0 {
                self.apply(&Event::Timeout);
            }
            for event in [
                Event::Send,
                Event::Arrive(0),
                Event::Store(9),
                Event::Ack,
                Event::AckArrives(0),
            ] {
                self.apply(&event);
            }
        }
        panic!("does not drain: {:?}", self.streams);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn each_stream_stands_in_kafka_once_whole_and_in_order(events in prop::collection::vec(event(), 1..250)) {
        let mut world = World::new();
        for event in &events {
            world.apply(event);
            world.check();
        }
        world.settle();
        world.check();
        let stored: u64 = world.telemetry.len() as u64;
        let sampled = events.iter().filter(|event| matches!(event, Event::Sample)).count() as u64;
        prop_assert_eq!(stored, sampled);
    }
}
