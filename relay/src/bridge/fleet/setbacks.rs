//! What Kafka refuses, and topics that are made anew.

use std::time::{Duration, Instant};

use headwater_proto::frame::{Compression, Encoding, open_control, seal, seal_control};
use headwater_proto::topic::{Kind, topic};
use headwater_proto::{Body, Limits, Message as _, Readings, SeriesSet, pb};
use prometheus_client::registry::Registry;

use super::{DeadLetter, Fleet, Message, Now, Outcome, Record, Scan, Shared, Step};
use crate::bridge::budget::Budget;
use crate::bridge::metrics::Metrics;
use crate::bridge::settings::BridgeSettings;

const STREAM: u64 = 7;

struct World {
    now: Now,
    fleet: Fleet,
    series: SeriesSet,
}

impl World {
    /// A device that has said hello.
    fn new() -> Self {
        let settings = BridgeSettings {
            ack_interval: Duration::ZERO,
            ..BridgeSettings::default()
        };
        let shared = Shared {
            partitions: 1,
            in_flight: Budget::new(usize::MAX),
            devices: Budget::new(usize::MAX),
            metrics: Metrics::new(&mut Registry::default()),
        };
        let (at, us) = (Instant::now(), 1);
        let mut world = Self {
            now: Now { at, us },
            fleet: Fleet::new(&settings, 0, 1, shared),
            series: SeriesSet::new(Vec::new(), 0),
        };
        let stream = pb::HelloStream {
            stream: STREAM,
            short: 1,
            first_seq: 1,
            ..Default::default()
        };
        let hello = pb::Hello {
            session: 1,
            streams: vec![stream],
            agent: None,
        };
        assert_eq!(world.arrive(Kind::Hello, seal_control(&hello)), Step::Nothing);
        let series = seal_control(&world.series.to_pb());
        assert_eq!(world.arrive(Kind::Series, series), Step::Nothing);
        world.acks();
        world
    }

    fn arrive(&mut self, kind: Kind, payload: Vec<u8>) -> Step {
        let message = Message {
            topic: topic("pump-1", kind),
            retained: false,
            length: payload.len(),
            payload: payload.into(),
        };
        self.fleet.message(self.now, "pump-1", kind, &message)
    }

    fn batch(&mut self, seq: u64) -> Step {
        let body = Body::Readings(Readings::default());
        let (encoding, compression) = (Encoding::Postcard, Compression::None);
        let sealed = seal(&body, &self.series, encoding, compression, &Limits::default());
        self.arrive(Kind::Data, sealed.unwrap().frame(1, seq))
    }

    fn produced(&mut self, seq: u64) -> Record {
        let Step::Produce(record) = self.batch(seq) else {
            panic!("batch {seq} is not for Kafka");
        };
        self.fleet.sent(&record);
        record
    }

    fn letter(&mut self, seq: u64) -> DeadLetter {
        match self.batch(seq) {
            Step::DeadLetter(letter) => letter,
            other => panic!("{other:?}"),
        }
    }

    /// Kafka's report of a record, and then a producer made anew.
    fn fails(&mut self, record: &Record, outcome: Outcome) {
        self.fleet.reported(self.now, &record.ticket(), outcome);
        let from = self.fleet.halt();
        self.resume(true, from);
    }

    fn resume(&mut self, begun: bool, next_offset: i64) {
        let mut scan = Scan::default();
        (scan.begun, scan.next_offset) = (begun, next_offset);
        self.fleet.resume(self.now, scan);
    }

    fn acks(&mut self) -> Vec<pb::Ack> {
        let acks = std::iter::from_fn(|| self.fleet.ack(self.now));
        acks.map(|(_, payload)| open_control("ack", &payload).unwrap())
            .collect()
    }

    fn refusals(&mut self) -> Vec<u64> {
        let acks = self.acks();
        acks.iter()
            .flat_map(|ack| &ack.refusals)
            .map(|refusal| refusal.seq)
            .collect()
    }
}

#[test]
fn what_kafka_refuses_in_company_is_sent_again_and_what_it_refuses_alone_becomes_a_dead_letter() {
    let mut world = World::new();
    for _ in 0..5 {
        let record = world.produced(1);
        world.fails(&record, Outcome::Suspect);
        assert!(world.refusals().is_empty());
    }
    let record = world.produced(1);
    world.fails(&record, Outcome::Unfit("too large".into()));
    assert!(world.refusals().is_empty(), "its bytes are not safe yet");
    let letter = world.letter(1);
    assert_eq!(letter.reason, "too large");
    assert_eq!(world.batch(1), Step::Nothing, "it is on its way");
    world
        .fleet
        .dead_letter(world.now, &letter.letter, &Outcome::Failed);
    assert!(world.refusals().is_empty());
    let letter = world.letter(1);
    world
        .fleet
        .dead_letter(world.now, &letter.letter, &Outcome::Stored(0));
    assert_eq!(world.refusals(), [1]);
    assert_eq!(world.batch(1), Step::Nothing);
    assert_eq!(world.refusals(), [1], "said again, should it have been lost");
}

#[test]
fn a_batch_that_not_even_the_dead_letters_take_is_refused_all_the_same() {
    let mut world = World::new();
    let record = world.produced(1);
    world.fails(&record, Outcome::Unfit("too large".into()));
    let letter = world.letter(1).letter;
    world
        .fleet
        .dead_letter(world.now, &letter, &Outcome::Unfit("too large".into()));
    assert_eq!(world.refusals(), [1]);
}

/// What is written next: the checkpoints' offsets, and how many states.
fn written(world: &mut World) -> (Vec<i64>, usize) {
    let (mut offsets, mut states) = (Vec::new(), 0);
    let due = world.now.at + Duration::from_secs(60);
    while let Some(state) = world.fleet.next_state(due) {
        world.fleet.state(due, state.entered, true);
        match pb::DeviceState::decode(state.value.as_slice())
            .unwrap()
            .checkpoint
        {
            Some(checkpoint) => offsets.push(checkpoint.telemetry_offset),
            None => states += 1,
        }
    }
    (offsets, states)
}

#[test]
fn where_a_topic_was_made_anew_no_old_offset_holds_and_all_states_are_written_again() {
    let mut world = World::new();
    assert_eq!(written(&mut world), (vec![], 1), "of the hello");
    let record = world.produced(1);
    world
        .fleet
        .reported(world.now, &record.ticket(), Outcome::Stored(41));
    world.fleet.mark(world.now);
    assert_eq!(written(&mut world), (vec![42], 1));

    // As ever: nothing is due.
    let from = world.fleet.halt();
    assert_eq!(from, 42);
    world.resume(true, 42);
    world.fleet.mark(world.now);
    assert_eq!(written(&mut world), (vec![], 0));

    // The states are gone.
    world.fleet.halt();
    world.resume(false, 42);
    assert_eq!(written(&mut world), (vec![], 1));

    // Telemetry is gone.
    world.fleet.halt();
    world.resume(true, 0);
    world.fleet.mark(world.now);
    assert_eq!(written(&mut world), (vec![0], 1));
    let device = &world.fleet.devices()[0];
    assert_eq!((device.newest, device.position(STREAM).seq), (0, 1));
}
