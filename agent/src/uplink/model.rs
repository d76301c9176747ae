//! The uplink against a model of the relay's bridge, over a link that loses, repeats, reorders and breaks.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use headwater_proto::frame::{Compression, Encoding, Frame, Sealed};
use headwater_proto::{Body, Limits, Readings};
use proptest::prelude::*;

use super::*;
use crate::journal::{Entry, Memory};

pub(super) const STREAM: u64 = 0xabc;

pub(super) fn settings(batches: usize, bytes: u64) -> config::Uplink {
    config::Uplink {
        window: config::Window {
            batches,
            bytes: headwater_config::ByteSize::b(bytes),
        },
        ack_timeout: Duration::from_secs(8),
        ..Default::default()
    }
}

/// What Kafka would hold.
#[derive(Default)]
pub(super) struct Kafka {
    /// For each stream its position.
    positions: HashMap<u64, u64>,
    /// First number, last number, the batch's mark or the loss.
    records: Vec<(u64, u64, Result<u64, pb::Loss>)>,
}

/// The relay, as link.proto has it.
#[derive(Default)]
pub(super) struct Bridge {
    kafka: Kafka,
    shorts: HashMap<u32, u64>,
    sets: HashSet<u32>,
    refuse: HashSet<u64>,
}

impl Bridge {
    fn ack(&self, ack: pb::Ack) -> Vec<u8> {
        let positions = self
            .kafka
            .positions
            .iter()
            .map(|(stream, seq)| pb::StreamPosition {
                stream: *stream,
                seq: *seq,
            });
        frame::seal_control(&pb::Ack {
            positions: positions.collect(),
            ..ack
        })
    }

    fn receive(&mut self, publication: &Publication) -> Option<Vec<u8>> {
        match publication.kind {
            Kind::Hello => {
                let hello: pb::Hello = frame::open_control("hello", &publication.payload).unwrap();
                self.shorts.clear();
                for stream in hello.streams {
                    assert_ne!(stream.short, 0);
                    self.shorts.insert(stream.short, stream.stream);
                    let position = self.kafka.positions.entry(stream.stream).or_insert(0);
                    *position = (*position).max(stream.acked_seq);
                }
                Some(self.ack(pb::Ack {
                    session: hello.session,
                    ..Default::default()
                }))
            }
            Kind::Series => {
                let set: pb::SeriesSet = frame::open_control("series", &publication.payload).unwrap();
                self.sets.insert(set.hash);
                None
            }
            Kind::Data => {
                let limits = Limits::default();
                let frame = Frame::parse(&publication.payload, &limits).unwrap();
                let Some(stream) = self.shorts.get(&frame.short).copied() else {
                    return Some(self.ack(pb::Ack {
                        want_hello: true,
                        ..Default::default()
                    }));
                };
                let position = self.kafka.positions.entry(stream).or_insert(0);
                if frame.seq <= *position {
                    return Some(self.ack(pb::Ack::default()));
                }
                if frame.seq > *position + 1 {
                    return Some(self.ack(pb::Ack {
                        go_back: true,
                        ..Default::default()
                    }));
                }
                let hash = frame.series_set().unwrap();
                if hash != 0 && !self.sets.contains(&hash) {
                    return Some(self.ack(pb::Ack {
                        want_series: vec![hash],
                        ..Default::default()
                    }));
                }
                let (through, content) = match frame.body(None, &limits) {
                    // The model's batches hold their mark instead of readings.
                    Ok(Body::Loss(loss)) if hash == 0 => {
                        let reason = match loss.reason {
                            LossReason::JournalFull => pb::LossReason::JournalFull,
                            _ => pb::LossReason::Refused,
                        };
                        let (through, readings) = (loss.through, loss.readings);
                        (
                            through,
                            Err(pb::Loss {
                                through,
                                readings,
                                reason: reason as i32,
                            }),
                        )
                    }
                    _ => {
                        let mark = frame.body[frame.body.len() - 8..].try_into().unwrap();
                        (frame.seq, Ok(u64::from_le_bytes(mark)))
                    }
                };
                if content.is_ok() && self.refuse.contains(&frame.seq) {
                    let refusals = vec![pb::Refusal {
                        stream,
                        seq: frame.seq,
                        reason: "model".into(),
                    }];
                    return Some(self.ack(pb::Ack {
                        refusals,
                        ..Default::default()
                    }));
                }
                assert!(through >= frame.seq);
                self.kafka.positions.insert(stream, through);
                self.kafka.records.push((frame.seq, through, content));
                Some(self.ack(pb::Ack::default()))
            }
            _ => None,
        }
    }

    /// Everything but Kafka is forgotten.
    fn restart(&mut self) {
        self.shorts.clear();
        self.sets.clear();
    }
}

/// The agent's side and the link.
pub(super) struct World {
    pub(super) settings: config::Uplink,
    pub(super) uplink: Uplink,
    pub(super) journal: Memory,
    pub(super) bridge: Bridge,
    pub(super) now: Instant,
    pub(super) up: VecDeque<Publication>,
    pub(super) down: VecDeque<Vec<u8>>,
    pub(super) connected: bool,
    pub(super) session: u64,
    /// Readings of each number appended.
    pub(super) appended: BTreeMap<u64, u64>,
    pub(super) sets: Vec<Arc<SeriesSet>>,
    pub(super) data_sent: usize,
}

impl World {
    pub(super) fn new(settings: config::Uplink, bound: usize) -> Self {
        let now = Instant::now();
        let journal = Memory::new(STREAM, bound);
        let sets = (1..=3)
            .map(|salt| Arc::new(SeriesSet::new(Vec::new(), salt)))
            .collect();
        Self {
            uplink: Uplink::new(&settings, pb::AgentInfo::default(), &journal, now),
            settings,
            journal,
            bridge: Bridge::default(),
            now,
            up: VecDeque::new(),
            down: VecDeque::new(),
            connected: false,
            session: 0,
            appended: BTreeMap::new(),
            sets,
            data_sent: 0,
        }
    }

    /// A batch of `readings`, marked with its number.
    pub(super) fn append(&mut self, length: usize, readings: u64, set: usize) {
        let seq = self.appended.len() as u64 + 1;
        let series = self.sets[set % self.sets.len()].clone();
        let body = Body::Readings(Readings::default());
        let mut sealed: Sealed = frame::seal(
            &body,
            &series,
            Encoding::Postcard,
            Compression::None,
            &Limits::default(),
        )
        .unwrap();
        sealed.body.extend(std::iter::repeat_n(0, length));
        sealed.body.extend(seq.to_le_bytes());
        assert_eq!(
            self.journal.append(Entry::batch(sealed, series, readings, 1)),
            seq
        );
        self.appended.insert(seq, readings);
    }

    pub(super) fn connect(&mut self) {
        self.disconnect();
        self.connected = true;
        self.session += 1;
        self.uplink.connected(self.now, self.session, &self.journal);
    }

    pub(super) fn disconnect(&mut self) {
        self.up.clear();
        self.down.clear();
        self.connected = false;
        self.uplink.disconnected();
    }

    /// Lets the agent say up to `most` messages.
    pub(super) fn speak(&mut self, most: usize) {
        if !self.connected {
            return;
        }
        self.uplink.tick(self.now, &self.journal);
        for _ in 0..most {
            let Some(publication) = self.uplink.next(self.now, &mut self.journal) else {
                break;
            };
            if publication.kind == Kind::Data {
                assert!(self.uplink.is_up(), "data before the relay has answered");
                self.data_sent += 1;
            }
            self.check_window();
            self.up.push_back(publication);
        }
    }

    pub(super) fn check_window(&self) {
        let (batches, bytes) = self
            .uplink
            .streams
            .iter()
            .map(Stream::in_flight)
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        assert!(batches <= self.settings.window.batches, "{batches} in flight");
        assert!(
            batches <= 1 || bytes <= self.settings.window.bytes.as_u64(),
            "{bytes} bytes in flight"
        );
    }

    pub(super) fn deliver_up(&mut self) {
        if let Some(publication) = self.up.pop_front()
            && let Some(ack) = self.bridge.receive(&publication)
        {
            self.down.push_back(ack);
        }
    }

    pub(super) fn deliver_down(&mut self, at: usize) {
        if !self.down.is_empty() {
            let ack = self.down.remove(at % self.down.len()).unwrap();
            self.uplink.acknowledged(self.now, &ack, &mut self.journal);
        }
    }

    /// Without further mishaps everything arrives in a bounded time.
    pub(super) fn settle(&mut self) {
        if !self.connected {
            self.connect();
        }
        for _ in 0..400 {
            for _ in 0..40 {
                self.speak(4);
                self.deliver_up();
                self.deliver_down(0);
            }
            if self.journal.waiting().batches == 0 {
                return;
            }
            self.now = self
                .uplink
                .deadline()
                .map_or(self.now, |deadline| deadline.max(self.now));
        }
        panic!(
            "{:?} wait for ever; {:?}",
            self.journal.waiting(),
            self.uplink.streams
        );
    }

    /// Kafka holds the whole chain once, in order, each batch under its number, and the counts agree.
    pub(super) fn check(&self) {
        let mut next = 1;
        let (mut delivered, mut lost) = (0, 0);
        for (seq, through, content) in &self.bridge.kafka.records {
            assert_eq!(*seq, next, "a hole or a repetition");
            let readings: u64 = (*seq..=*through).map(|seq| self.appended[&seq]).sum();
            match content {
                Ok(mark) => {
                    assert_eq!(mark, seq, "a batch under another's number");
                    delivered += readings;
                }
                Err(loss) => {
                    assert_eq!(loss.readings, readings, "a loss record that miscounts");
                    lost += readings;
                }
            }
            next = through + 1;
        }
        assert_eq!(
            next,
            self.appended.len() as u64 + 1,
            "something is missing at the end"
        );
        let counters = self.uplink.counters();
        let total: u64 = self.appended.values().sum();
        assert_eq!(delivered + lost, total);
        assert_eq!(counters.delivered + counters.lost, total);
        // What was given up while it was on its way may be counted as lost although it arrived; never the other way.
        assert!(
            counters.delivered <= delivered,
            "{} > {delivered}",
            counters.delivered
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        length: usize,
        readings: u64,
        set: usize,
    },
    Speak(usize),
    DeliverUp,
    LoseUp,
    DeliverDown,
    LoseDown,
    RepeatDown,
    SwapDown(usize),
    Wait(u64),
    Connect,
    Disconnect,
    RestartBridge,
    Refuse(u64),
    /// An acknowledgement that cannot be: of another stream, or beyond what was sent.
    Bogus {
        stream: u64,
        ahead: u64,
    },
    Garbage(Vec<u8>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..400, 0u64..20, 0usize..3).prop_map(|(length, readings, set)| Step::Append { length, readings, set }),
        8 => (1usize..6).prop_map(Step::Speak),
        12 => Just(Step::DeliverUp),
        2 => Just(Step::LoseUp),
        12 => Just(Step::DeliverDown),
        2 => Just(Step::LoseDown),
        1 => Just(Step::RepeatDown),
        1 => (0usize..8).prop_map(Step::SwapDown),
        4 => (0u64..20_000).prop_map(Step::Wait),
        1 => Just(Step::Connect),
        1 => Just(Step::Disconnect),
        1 => Just(Step::RestartBridge),
        1 => (1u64..40).prop_map(Step::Refuse),
        1 => (prop_oneof![Just(STREAM), any::<u64>()], 1u64..100).prop_map(|(stream, ahead)| Step::Bogus { stream, ahead }),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(Step::Garbage),
    ]
}

fn run(world: &mut World, steps: Vec<Step>) {
    world.connect();
    for step in steps {
        match step {
            Step::Append {
                length,
                readings,
                set,
            } => world.append(length, readings, set),
            Step::Speak(most) => world.speak(most),
            Step::DeliverUp => world.deliver_up(),
            Step::LoseUp => drop(world.up.pop_front()),
            Step::DeliverDown => world.deliver_down(0),
            Step::LoseDown => drop(world.down.pop_front()),
            Step::RepeatDown => world.down.extend(world.down.front().cloned()),
            Step::SwapDown(at) => world.deliver_down(at),
            Step::Wait(milliseconds) => {
                world.now += Duration::from_millis(milliseconds);
                world.uplink.tick(world.now, &world.journal);
            }
            Step::Connect => world.connect(),
            Step::Disconnect => world.disconnect(),
            Step::RestartBridge => world.bridge.restart(),
            Step::Refuse(seq) => drop(world.bridge.refuse.insert(seq)),
            Step::Bogus { stream, ahead } => {
                let seq = world.uplink.streams[0].highest_sent() + ahead;
                let before = (world.journal.waiting(), world.uplink.counters());
                let positions = vec![pb::StreamPosition { stream, seq }];
                let ack = frame::seal_control(&pb::Ack {
                    positions,
                    ..Default::default()
                });
                world.uplink.acknowledged(world.now, &ack, &mut world.journal);
                assert_eq!(world.journal.waiting(), before.0, "it made the journal forget");
                assert_eq!(world.uplink.counters().ignored, before.1.ignored + 1);
            }
            Step::Garbage(bytes) => {
                let before = world.journal.waiting();
                if frame::open_control::<pb::Ack>("ack", &bytes).is_err() {
                    world.uplink.acknowledged(world.now, &bytes, &mut world.journal);
                    assert_eq!(world.journal.waiting(), before);
                }
            }
        }
        world.check_window();
    }
    world.settle();
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..Default::default() })]

    /// With room for everything nothing is lost but what the relay refuses.
    #[test]
    fn nothing_is_lost_and_order_is_kept(
        steps in prop::collection::vec(step(), 0..250),
        batches in 1usize..8,
        bytes in 1024u64..4096,
    ) {
        let mut world = World::new(settings(batches, bytes), usize::MAX);
        run(&mut world, steps);
        for (seq, through, content) in &world.bridge.kafka.records {
            if content.is_err() {
                for seq in *seq..=*through {
                    prop_assert!(world.bridge.refuse.contains(&seq), "{seq} was lost");
                }
            }
        }
    }

    /// With a journal that overflows, also while batches are in flight, the chain still has no holes and every loss is told.
    #[test]
    fn an_overflow_leaves_no_hole(
        steps in prop::collection::vec(step(), 0..250),
        batches in 1usize..8,
        bound in 1024usize..4096,
    ) {
        run(&mut World::new(settings(batches, 2048), bound), steps);
    }
}
