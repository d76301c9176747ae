//! The uplink against a model of the relay's bridge, over a link that loses, repeats, reorders and breaks.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use headwater_proto::frame::{self, Compression, Encoding, Frame, Sealed};
use headwater_proto::topic::Kind;
use headwater_proto::{Body, Limits, LossReason, Readings, SeriesSet};
use tokio::sync::Notify;

use super::outage::SEALED_MAX;
use super::*;
use crate::journal::{ClockEpoch, Entry, Extent, Figures, Memory, Read, Waiting};

pub(super) const STREAM: u64 = 0xabc;

pub(super) fn settings(batches: usize, bytes: u64) -> config::Uplink {
    config::Uplink {
        window: config::Window {
            batches,
            bytes: headwater_config::ByteSize::b(bytes),
        },
        ack_timeout: Duration::from_secs(8),
        drain_jitter: Duration::ZERO,
        ..Default::default()
    }
}

/// A journal whose records take their time to be read back.
pub(super) struct Slow {
    inner: Memory,
    /// So many reads find what they want still loading.
    pub(super) loading: u32,
    /// So many streams are listed at a time.
    pub(super) listed: usize,
    /// Earlier starts ended cleanly, and their streams have the mark of it.
    pub(super) clean: bool,
}

impl Journal for Slow {
    fn read(&mut self, stream: u64, seq: u64) -> Read {
        match self.inner.read(stream, seq) {
            Read::Record(_) if self.loading > 0 => {
                self.loading -= 1;
                Read::Loading
            }
            read => read,
        }
    }
    fn streams(&self) -> Vec<Extent> {
        let mut streams = self.inner.streams();
        let most = self.listed.min(streams.len());
        streams.drain(most - 1..streams.len() - 1);
        if let Some((_, earlier)) = streams.split_last_mut() {
            earlier.iter_mut().for_each(|extent| extent.torn = !self.clean);
        }
        streams
    }
    fn open_stream(&mut self, stream: u64) {
        self.inner.open_stream(stream);
    }
    fn append(&mut self, entry: Entry) -> u64 {
        self.inner.append(entry)
    }
    fn sent(&mut self, stream: u64, seq: u64) -> bool {
        self.inner.sent(stream, seq)
    }
    fn forget(&mut self, stream: u64, through: u64) -> Forgotten {
        self.inner.forget(stream, through)
    }
    fn give_up(&mut self, stream: u64, seq: u64, reason: LossReason) -> bool {
        self.inner.give_up(stream, seq, reason)
    }
    fn told(&mut self) {
        self.inner.told();
    }
    fn waiting(&self) -> Waiting {
        self.inner.waiting()
    }
    fn tick(&mut self, now: Instant) -> Forgotten {
        self.inner.tick(now)
    }
    fn deadline(&self) -> Option<Instant> {
        self.inner.deadline()
    }
    fn woken(&self) -> Arc<Notify> {
        self.inner.woken()
    }
    fn figures(&self) -> Figures {
        self.inner.figures()
    }
    fn close(&mut self) {
        self.inner.close();
    }
    fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }
}

/// What Kafka would hold.
#[derive(Default)]
pub(super) struct Kafka {
    /// For each stream its position.
    positions: HashMap<u64, u64>,
    /// Stream, first number, last number, the batch's mark or the loss.
    pub(super) records: Vec<(u64, u64, u64, Result<u64, pb::Loss>)>,
}

/// The relay, as link.proto has it.
#[derive(Default)]
pub(super) struct Bridge {
    pub(super) kafka: Kafka,
    shorts: HashMap<u32, u64>,
    sets: HashSet<u32>,
    pub(super) refuse: HashSet<u64>,
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
                self.kafka.records.push((stream, frame.seq, through, content));
                Some(self.ack(pb::Ack::default()))
            }
            _ => None,
        }
    }

    /// Everything but Kafka is forgotten.
    pub(super) fn restart(&mut self) {
        self.shorts.clear();
        self.sets.clear();
    }
}

/// The agent's side and the link.
pub(super) struct World {
    pub(super) settings: config::Uplink,
    pub(super) uplink: Uplink,
    pub(super) journal: Slow,
    pub(super) bridge: Bridge,
    pub(super) now: Instant,
    pub(super) up: VecDeque<Publication>,
    pub(super) down: VecDeque<Vec<u8>>,
    pub(super) connected: bool,
    pub(super) session: u64,
    /// By stream and number: mark and readings of each batch appended.
    pub(super) appended: BTreeMap<(u64, u64), (u64, u64)>,
    pub(super) sets: Vec<Arc<SeriesSet>>,
    pub(super) data_sent: usize,
    starts: u64,
    /// Of earlier starts.
    counted: Counters,
    /// What batches that are appended are marked with.
    pub(super) epoch: Option<ClockEpoch>,
}

impl World {
    pub(super) fn new(settings: config::Uplink, bound: usize) -> Self {
        let now = Instant::now();
        let journal = Slow {
            inner: Memory::new(STREAM, bound),
            loading: 0,
            listed: usize::MAX,
            clean: false,
        };
        let sets = (1..=3)
            .map(|salt| Arc::new(SeriesSet::new(Vec::new(), salt)))
            .collect();
        Self {
            uplink: Uplink::new(&settings, pb::AgentInfo::default(), &journal, now, 1),
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
            starts: 1,
            counted: Counters::default(),
            epoch: None,
        }
    }

    /// The current stream.
    pub(super) fn current(&self) -> Extent {
        *self.journal.streams().last().unwrap()
    }

    /// A batch of `readings`, with a mark of its own.
    pub(super) fn append(&mut self, length: usize, readings: u64, set: usize) {
        let mark = self.appended.len() as u64 + 1;
        let current = self.current();
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
        sealed.body.extend(mark.to_le_bytes());
        let entry = Entry::batch(sealed, series, readings, 1).made_with(self.epoch);
        let seq = self.journal.append(entry);
        assert_eq!(seq, current.last + 1);
        self.appended.insert((current.stream, seq), (mark, readings));
        self.uplink.tick(self.now, &self.journal);
    }

    /// The process is killed and starts again, on a journal that keeps everything.
    pub(super) fn kill(&mut self) {
        self.disconnect();
        let counters = self.uplink.counters();
        self.counted.delivered += counters.delivered;
        self.counted.lost += counters.lost;
        self.starts += 1;
        self.journal.open_stream(self.starts << 32);
        self.uplink = Uplink::new(
            &self.settings,
            pb::AgentInfo::default(),
            &self.journal,
            self.now,
            self.starts,
        );
    }

    pub(super) fn connect(&mut self) {
        self.disconnect();
        self.connected = true;
        self.session += 1;
        self.uplink.connected(self.now, self.session, &mut self.journal);
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

    /// Batches and bytes in flight of live data and of backlog; in order all is one.
    pub(super) fn in_flight(&self) -> [(usize, u64); 2] {
        let streams = &self.uplink.streams;
        let live = match self.settings.drain {
            config::Drain::InOrder => 0,
            config::Drain::LiveFirst => streams.len() - 1,
        };
        let sum = |streams: &[Stream]| {
            let each = streams.iter().map(Stream::in_flight);
            each.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1))
        };
        [sum(&streams[live..]), sum(&streams[..live])]
    }

    pub(super) fn check_window(&self) {
        let (batches, bytes) = (self.settings.window.batches, self.settings.window.bytes.as_u64());
        let [live, late] = self.in_flight();
        // What was in flight when it became backlog was sent by the whole window's measure.
        assert!(
            live.0 <= batches.max(1) && late.0 <= batches.max(1),
            "{live:?} {late:?} in flight"
        );
        assert!(
            late.0 == 0 || live.0 <= batches - batches / 2,
            "{live:?} {late:?} in flight"
        );
        assert!(live.0 <= 1 || live.1 <= bytes, "{live:?} in flight");
        assert!(late.0 <= 1 || late.1 <= bytes, "{late:?} in flight");
        // Those of this start, the current one, and those that earlier starts left.
        let own = self.uplink.sealed.len();
        assert!(own <= SEALED_MAX, "{own} sealed streams");
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
        self.journal.loading = 0;
        self.uplink.allow(self.now, Allowance::All);
        for _ in 0..2000 {
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

    /// Kafka holds each stream's whole chain once, in order, each batch under its name, and the counts agree.
    pub(super) fn check(&self) {
        let mut next: HashMap<u64, u64> = HashMap::new();
        let (mut delivered, mut lost) = (0, 0);
        for (stream, seq, through, content) in &self.bridge.kafka.records {
            let next = next.entry(*stream).or_insert(1);
            assert_eq!(seq, next, "a hole or a repetition");
            let batches = self.appended.range((*stream, *seq)..=(*stream, *through));
            let readings: u64 = batches.map(|(_, (_, readings))| readings).sum();
            match content {
                Ok(mark) => {
                    assert_eq!(
                        *mark,
                        self.appended[&(*stream, *seq)].0,
                        "a batch under another's name"
                    );
                    delivered += readings;
                }
                Err(loss) => {
                    assert_eq!(loss.readings, readings, "a loss record that miscounts");
                    lost += readings;
                }
            }
            *next = through + 1;
        }
        for (stream, seq) in self.appended.keys() {
            assert!(next[stream] > *seq, "something is missing at the end of a stream");
        }
        let counters = self.uplink.counters();
        let counted = (
            counters.delivered + self.counted.delivered,
            counters.lost + self.counted.lost,
        );
        let total: u64 = self.appended.values().map(|(_, readings)| readings).sum();
        assert_eq!(delivered + lost, total);
        assert_eq!(counted.0 + counted.1, total);
        // What was given up while it was on its way may be counted as lost although it arrived; never the other way.
        assert!(counted.0 <= delivered, "{} > {delivered}", counted.0);
    }
}
