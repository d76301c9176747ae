//! The uplink against a model of the relay's bridge, over a link that loses, repeats, reorders and breaks.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use headwater_proto::Readings;
use headwater_proto::frame::{Frame, Sealed};
use proptest::prelude::*;

use super::*;
use crate::journal::{Entry, Memory};

const STREAM: u64 = 0xabc;

fn settings(batches: usize, bytes: u64) -> config::Uplink {
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
struct Kafka {
    /// For each stream its position.
    positions: HashMap<u64, u64>,
    /// First number, last number, the batch's mark or the loss.
    records: Vec<(u64, u64, Result<u64, pb::Loss>)>,
}

/// The relay, as link.proto has it.
#[derive(Default)]
struct Bridge {
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
struct World {
    settings: config::Uplink,
    uplink: Uplink,
    journal: Memory,
    bridge: Bridge,
    now: Instant,
    up: VecDeque<Publication>,
    down: VecDeque<Vec<u8>>,
    connected: bool,
    session: u64,
    /// Readings of each number appended.
    appended: BTreeMap<u64, u64>,
    sets: Vec<Arc<SeriesSet>>,
    data_sent: usize,
}

impl World {
    fn new(settings: config::Uplink, bound: usize) -> Self {
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
    fn append(&mut self, length: usize, readings: u64, set: usize) {
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

    fn connect(&mut self) {
        self.disconnect();
        self.connected = true;
        self.session += 1;
        self.uplink.connected(self.now, self.session, &self.journal);
    }

    fn disconnect(&mut self) {
        self.up.clear();
        self.down.clear();
        self.connected = false;
        self.uplink.disconnected();
    }

    /// Lets the agent say up to `most` messages.
    fn speak(&mut self, most: usize) {
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

    fn check_window(&self) {
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

    fn deliver_up(&mut self) {
        if let Some(publication) = self.up.pop_front()
            && let Some(ack) = self.bridge.receive(&publication)
        {
            self.down.push_back(ack);
        }
    }

    fn deliver_down(&mut self, at: usize) {
        if !self.down.is_empty() {
            let ack = self.down.remove(at % self.down.len()).unwrap();
            self.uplink.acknowledged(self.now, &ack, &mut self.journal);
        }
    }

    /// Without further mishaps everything arrives in a bounded time.
    fn settle(&mut self) {
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
    fn check(&self) {
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

/// A world whose relay has answered.
fn greeted() -> World {
    let mut world = World::new(settings(4, 1 << 20), usize::MAX);
    world.connect();
    world.speak(10);
    while !world.up.is_empty() {
        world.deliver_up();
    }
    world.deliver_down(0);
    assert!(world.uplink.is_up());
    world
}

fn data(world: &World) -> usize {
    world
        .up
        .iter()
        .filter(|publication| publication.kind == Kind::Data)
        .count()
}

#[test]
fn nothing_but_hello_and_status_is_sent_until_the_relay_answers() {
    let mut world = World::new(settings(4, 1 << 20), usize::MAX);
    world.append(10, 1, 0);
    world.connect();
    world.speak(10);
    let kinds: Vec<_> = world.up.iter().map(|publication| publication.kind).collect();
    assert_eq!(kinds, [Kind::Hello, Kind::Status]);
    assert!(
        world
            .up
            .iter()
            .all(|publication| publication.retained() && publication.at_least_once())
    );
    // The answer to the hello of an earlier connection opens nothing.
    let stale = frame::seal_control(&pb::Ack {
        session: 99,
        ..Default::default()
    });
    world.uplink.acknowledged(world.now, &stale, &mut world.journal);
    assert!(!world.uplink.is_up());
    // Unanswered, hello is repeated, ever less often.
    let mut hellos = 0;
    for _ in 0..60 {
        world.now += Duration::from_secs(8);
        world.speak(10);
        hellos += world
            .up
            .drain(..)
            .filter(|publication| publication.kind == Kind::Hello)
            .count();
    }
    assert!((5..=15).contains(&hellos), "{hellos}");
}

#[test]
fn a_series_set_is_published_before_its_first_use_and_when_asked_for() {
    let mut world = greeted();
    world.append(10, 1, 0);
    world.append(10, 1, 0);
    world.speak(10);
    let kinds: Vec<_> = world.up.iter().map(|publication| publication.kind).collect();
    assert_eq!(kinds, [Kind::Series, Kind::Data, Kind::Data]);
    assert!(world.up[0].retained() && !world.up[1].retained() && !world.up[1].at_least_once());
    world.up.clear();
    let ask = |world: &mut World| {
        let hash = world.sets[0].hash();
        let ack = frame::seal_control(&pb::Ack {
            want_series: vec![hash],
            ..Default::default()
        });
        world.uplink.acknowledged(world.now, &ack, &mut world.journal);
        world.speak(10);
        let kinds = world.up.drain(..).map(|publication| publication.kind);
        kinds.filter(|kind| *kind != Kind::Status).collect::<Vec<_>>()
    };
    // What was asked just after it was published has crossed it: the batches alone are sent again.
    assert_eq!(ask(&mut world), [Kind::Data, Kind::Data]);
    world.now += Duration::from_secs(3);
    assert_eq!(ask(&mut world), [Kind::Series, Kind::Data, Kind::Data]);
}

#[test]
fn wishes_to_go_back_that_cross_what_is_sent_again_are_put_off() {
    let mut world = greeted();
    for _ in 0..4 {
        world.append(10, 1, 0);
    }
    world.speak(10);
    world.up.clear();
    let back = frame::seal_control(&pb::Ack {
        go_back: true,
        ..Default::default()
    });
    for _ in 0..4 {
        world.uplink.acknowledged(world.now, &back, &mut world.journal);
        world.speak(10);
    }
    assert_eq!(data(&world), 4, "sent again once, not once for each wish");
    world.up.clear();
    world.now += Duration::from_secs(2);
    world.speak(10);
    assert_eq!(data(&world), 4, "the wish that was put off");
    assert_eq!(world.uplink.counters().resent, 8);
}

#[test]
fn after_a_timeout_one_batch_is_in_flight_until_something_is_acknowledged() {
    let mut world = greeted();
    for _ in 0..20 {
        world.append(10, 1, 0);
    }
    world.speak(10);
    assert_eq!(data(&world), 4);
    world.up.clear();
    world.now += Duration::from_secs(8);
    world.speak(10);
    assert_eq!(data(&world), 1);
    // The relay is silent for an hour.
    let before = world.data_sent;
    for _ in 0..3600 {
        world.now += Duration::from_secs(1);
        world.speak(10);
    }
    assert!(
        world.data_sent - before <= 60,
        "{} batches into the void",
        world.data_sent - before
    );
    world.settle();
    world.check();
}

#[test]
fn what_waits_is_told_while_it_waits_and_once_when_it_no_longer_does() {
    let mut world = greeted();
    let statuses = |world: &mut World| {
        let status = |publication: Publication| {
            (publication.kind == Kind::Status).then(|| {
                let status: pb::Status = frame::open_control("status", &publication.payload).unwrap();
                status.waiting.unwrap().batches
            })
        };
        world.up.drain(..).filter_map(status).collect::<Vec<_>>()
    };
    for _ in 0..10 {
        world.append(10, 3, 0);
    }
    let mut told = Vec::new();
    for _ in 0..70 {
        world.now += Duration::from_millis(100);
        world.speak(10);
        told.extend(statuses(&mut world));
    }
    assert_eq!(
        told,
        [10],
        "told when it is new, at most every 2 s, and not again while nothing changes"
    );
    world.settle();
    world.now += Duration::from_secs(2);
    world.up.clear();
    world.speak(10);
    assert_eq!(statuses(&mut world), [0]);
    // An ordinary batch that is acknowledged soon is nothing to speak of.
    for _ in 0..20 {
        world.append(10, 3, 0);
        world.speak(10);
        assert_eq!(statuses(&mut world), []);
        let position = pb::StreamPosition {
            stream: STREAM,
            seq: world.appended.len() as u64,
        };
        let ack = frame::seal_control(&pb::Ack {
            positions: vec![position],
            ..Default::default()
        });
        world.uplink.acknowledged(world.now, &ack, &mut world.journal);
        world.now += Duration::from_secs(1);
        world.speak(10);
        assert_eq!(statuses(&mut world), []);
    }
}

#[test]
fn positions_of_an_answer_to_hello_spare_what_kafka_already_has() {
    let mut world = greeted();
    for _ in 0..3 {
        world.append(10, 1, 0);
    }
    world.speak(10);
    while !world.up.is_empty() {
        world.deliver_up();
    }
    // All three are in Kafka; the acknowledgements are lost with the connection.
    world.connect();
    world.settle();
    assert_eq!(world.data_sent, 3);
    world.check();
}

#[test]
fn a_clean_stop_says_offline_and_sends_no_data_any_more() {
    let mut world = greeted();
    world.append(10, 1, 0);
    world.uplink.stop(&world.journal);
    let publication = world.uplink.next(world.now, &mut world.journal).unwrap();
    let status: pb::Status = frame::open_control("status", &publication.payload).unwrap();
    assert_eq!(
        (status.online, status.session, status.waiting.unwrap().batches),
        (false, world.session, 1)
    );
    assert!(publication.retained() && publication.at_least_once());
    assert_eq!(world.uplink.next(world.now, &mut world.journal), None);
    assert_eq!(world.uplink.deadline(), None);
}
