//! The uplink: what the agent says to the relay, and what it makes of the answers. Pure: time, random numbers and the journal
//! are arguments; [`link`] is the driver.
//!
//! On every connection:
//!
//! 1. `hello` (with a fresh session) and `status` are published. Nothing else is sent until the relay has answered this hello
//!    with its positions, so what Kafka already has is not sent again, and nothing is sent into the void while no relay runs.
//! 2. Records are sent in order, each stream's after those of the streams before it, as far ahead of the acknowledgements as the
//!    window lets. A series set is published before its first use in a connection.
//! 3. An `Ack` moves the position; the journal forgets what lies before it. It is cumulative, and repeating it is harmless.
//!
//! **After an outage** `drain` says what goes first. *In order*: the backlog, then live data, in one row. *Live first*: the backlog
//! is sealed as a stream of its own, live data begins another, and there are two rows beside each other, each with half of the
//! window, so that live data never waits for the backlog. Whatever streams earlier starts left are backlog too. It is an outage
//! when nothing was acknowledged for `drain_after` although something waited, or when a connection finds more than a window of
//! batches. At most [`SEALED_MAX`] sealed streams wait, and none is added to [`STREAMS_MAX`]; an outage beyond them seals nothing, and the live stream goes on in
//! order: so a link that flaps makes no crowd of streams. The backlog keeps to `drain_rate`, after a random pause at the
//! beginning of each connection. In order, what stands behind a backlog waits for it, and pays no rate itself.
//!
//! **Going back.** The uplink sends a stream again from its position on when the relay says so (`go_back`, `want_series`), when that
//! stream made no progress for the acknowledgement time-out, and on every connection. Brakes keep that from becoming a flood: of
//! several wishes to go back to one position, those that come before an answer to the first can have come are put off; and after a
//! time-out, or a second going back to one position, there is one batch in flight until something is acknowledged, with time-out
//! and pause doubling up to eightfold. What is wished for again and again, hello or a series set, is given ever less often as well.
//!
//! An acknowledgement of a stream that is not ours, or beyond what was sent, is ignored, counted and logged: it must never
//! make the journal forget.

mod answer;
pub(crate) mod backoff;
pub(crate) mod budget;
mod drain;
mod greeting;
pub(crate) mod link;
pub(crate) mod meter;
#[cfg(test)]
mod mishaps;
#[cfg(test)]
mod model;
mod month;
#[cfg(test)]
mod outages;
mod publication;
mod random;
mod rotation;
#[cfg(test)]
mod scenarios;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::time::{Duration, Instant};

use headwater_proto::topic::Kind;
use headwater_proto::{SeriesSet, pb};

use crate::clock::{Standing, Verdict};
use crate::config;
use crate::journal::{Extent, Forgotten, Journal, Read};

pub(crate) use publication::Publication;

use budget::Allowance;
use drain::Drain;
use publication::data;
use random::Random;
use stream::{PATIENCE_MAX, Stream};

/// The least time between two statuses.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// Series sets whose publication is remembered; beyond it, some are published once more.
const SETS_MAX: usize = 64;
/// Sealed streams that may wait, and streams altogether beside which another is sealed.
const SEALED_MAX: usize = 8;
const STREAMS_MAX: usize = 16;
/// Streams that the journal lists anew are told to the relay when of those that it was told of no more than so many still drain: one
/// hello for many of them.
const FEW: usize = 8;
/// Once a month's bytes are spent: the time between two batches, and between two statuses.
const SPENT_EVERY: Duration = Duration::from_secs(3600);
/// What a data message costs beside its payload, about: MQTT's header, the topic, TLS' record.
const PACKET: u64 = 64;

/// Figures since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) resent: u64,
    pub(crate) ignored: u64,
    /// Streams that were sealed.
    pub(crate) sealed: u64,
    /// Bytes of backlog that were sent beside live data.
    pub(crate) backlog_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    Down,
    /// Waiting for the answer to hello, which is sent again at `again`.
    Greeting {
        session: u64,
        again: Instant,
    },
    Up {
        session: u64,
    },
}

/// A series set that was published in this connection.
#[derive(Clone, Copy, Debug)]
struct Published {
    at: Instant,
    /// How often the relay asked for it.
    asked: u32,
    /// It is to be published again.
    again: bool,
}

/// The uplink's state.
pub(crate) struct Uplink {
    window: config::Window,
    ack_timeout: Duration,
    mode: config::Drain,
    drain_after: Duration,
    agent: pb::AgentInfo,
    link: Link,
    /// Goes out before any data.
    control: VecDeque<Publication>,
    /// As in the journal: the current one is the last.
    streams: Vec<Stream>,
    /// Those that were sealed and still wait.
    sealed: Vec<u64>,
    drain: Drain,
    allowance: Allowance,
    /// When a batch may be sent although the month's bytes are spent.
    spent_until: Instant,
    /// When what is held back may be sent.
    held_back: Option<Instant>,
    sets: HashMap<u32, Published>,
    /// Since when something of the current stream waits without any of it being acknowledged.
    quiet_since: Option<Instant>,
    hello_patience: u32,
    last_hello: Option<Instant>,
    /// How often short numbers were drawn anew.
    draw: u32,
    next_status: Instant,
    /// What the last status of this connection said.
    told: pb::Waiting,
    /// The first waiting record as of the last look at it.
    looked: Option<(u64, u64)>,
    /// When other boxes under this name were last spoken of, when they were last logged, and how many they are.
    others: Option<(Instant, Instant, usize)>,
    random: Random,
    standing: Standing,
    /// How long batches are held back whose times may yet become known.
    hold: Duration,
    /// When the relay first answered.
    answered: Option<Instant>,
    counters: Counters,
}

impl Uplink {
    /// `seed`: truly random. The process' number and the ids of streams are drawn by it.
    pub(crate) fn new(
        settings: &config::Uplink,
        agent: pb::AgentInfo,
        journal: &dyn Journal,
        now: Instant,
        seed: u64,
    ) -> Self {
        let mut random = Random::new(seed);
        let agent = pb::AgentInfo {
            // 0 would mean that none was drawn.
            process: random.draw().max(1),
            ..agent
        };
        let mut uplink = Self {
            window: settings.window.clone(),
            ack_timeout: settings.ack_timeout,
            mode: settings.drain,
            drain_after: settings.drain_after,
            agent,
            link: Link::Down,
            control: VecDeque::new(),
            streams: Vec::new(),
            sealed: Vec::new(),
            drain: Drain::new(settings, now),
            allowance: Allowance::All,
            spent_until: now,
            held_back: None,
            sets: HashMap::new(),
            quiet_since: None,
            hello_patience: 1,
            last_hello: None,
            draw: 0,
            next_status: now,
            told: pb::Waiting::default(),
            looked: None,
            others: None,
            random,
            standing: Standing::default(),
            hold: Duration::ZERO,
            answered: None,
            counters: Counters::default(),
        };
        uplink.follow(now, journal);
        uplink
    }

    /// Goes on with other settings. What a standing connection was told of them is told anew by [`Uplink::connected`].
    pub(crate) fn reload(&mut self, now: Instant, settings: &config::Uplink, agent: pb::AgentInfo) {
        self.window = settings.window.clone();
        self.ack_timeout = settings.ack_timeout;
        self.mode = settings.drain;
        self.drain_after = settings.drain_after;
        self.drain = Drain::new(settings, now);
        let process = self.agent.process;
        self.agent = pb::AgentInfo { process, ..agent };
    }

    /// What the month's data budget allows from now on.
    pub(crate) fn allow(&mut self, now: Instant, allowance: Allowance) {
        if allowance == Allowance::Spent && self.allowance != Allowance::Spent {
            self.spent_until = now + SPENT_EVERY;
        }
        self.allowance = allowance;
    }

    /// Takes up the streams that the journal has now, in its order, and lets go of those that it has no more.
    fn follow(&mut self, now: Instant, journal: &dyn Journal) {
        let extents = journal.streams();
        let mut known = std::mem::take(&mut self.streams);
        for (at, extent) in extents.iter().enumerate() {
            let stream = match known.iter().position(|stream| stream.id() == extent.stream) {
                Some(found) => known.remove(found),
                None => {
                    let others = self.streams.iter().chain(&known);
                    let short = stream::short(extent.stream, self.draw, &others);
                    Stream::resumed(*extent, short, at + 1 < extents.len(), now)
                }
            };
            self.streams.push(stream);
        }
        // The journal too may begin a new stream, when flash holds the old one up.
        if let Some((_, earlier)) = self.streams.split_last_mut() {
            earlier
                .iter_mut()
                .for_each(|stream| stream.mark_backlog(u64::MAX));
        }
        match extents
            .last()
            .is_some_and(|current| current.last >= current.first)
        {
            true => drop(self.quiet_since.get_or_insert(now)),
            false => self.quiet_since = None,
        }
    }

    /// Whether it is time to tell the relay of streams that no hello has named.
    fn has_news(&self) -> bool {
        let Some((current, earlier)) = self.streams.split_last() else {
            return false;
        };
        let draining = earlier.iter().filter(|stream| stream.greeted).count();
        !current.greeted || (draining < earlier.len() && draining <= FEW)
    }

    /// Whether the relay has answered this connection's hello.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// A connection stands and is subscribed to acknowledgements.
    pub(crate) fn connected(&mut self, now: Instant, session: u64, journal: &mut dyn Journal) {
        self.control.clear();
        self.sets.clear();
        self.streams.iter_mut().for_each(Stream::start_over);
        self.hello_patience = 1;
        self.begin_drain(now, self.is_outage(now, journal, true), journal);
        self.greet(now, session, journal);
        self.tell(now, session, journal);
    }

    /// The connection is gone.
    pub(crate) fn disconnected(&mut self) {
        self.link = Link::Down;
        self.control.clear();
        self.streams.iter_mut().for_each(Stream::go_back);
    }

    /// Whether what waits in the current stream is the backlog of an outage. `many`: also if it is just much.
    fn is_outage(&self, now: Instant, journal: &dyn Journal, many: bool) -> bool {
        journal.streams().last().is_some_and(|current| {
            let held = (current.last + 1).saturating_sub(current.first);
            let quiet = self
                .quiet_since
                .is_some_and(|since| now >= since + self.drain_after);
            // Nor is it one while nothing may be sent.
            held > 0
                && self.allowance != Allowance::Spent
                && (quiet || (many && held > self.window.batches as u64))
        })
    }

    /// The link is back. After an outage what waits becomes the backlog. Returns whether there is a new stream, which the relay has to
    /// be told of.
    fn begin_drain(&mut self, now: Instant, outage: bool, journal: &mut dyn Journal) -> bool {
        let extents = journal.streams();
        let holds = |extent: &&Extent| extent.last >= extent.first;
        let mut sealed = false;
        if let Some(current) = extents.last().filter(|_| outage) {
            self.sealed
                .retain(|id| extents.iter().filter(holds).any(|extent| extent.stream == *id));
            let found = self
                .streams
                .iter_mut()
                .find(|stream| stream.id() == current.stream);
            match (self.mode, found) {
                (config::Drain::InOrder, Some(stream)) => stream.mark_backlog(current.last),
                (config::Drain::LiveFirst, Some(_))
                    if self.sealed.len() < SEALED_MAX && extents.len() < STREAMS_MAX =>
                {
                    self.sealed.push(current.stream);
                    self.counters.sealed += 1;
                    journal.open_stream(self.random.draw());
                    self.follow(now, journal);
                    log::info!(
                        "after an outage: {} batches of stream {:016x} are sent beside live data",
                        current.last + 1 - current.first,
                        current.stream
                    );
                    sealed = true;
                }
                _ => {}
            }
        }
        let backlog = outage || extents.iter().rev().skip(1).any(|extent| holds(&extent));
        if backlog && (self.mode == config::Drain::LiveFirst || self.drain.has_rate()) {
            self.drain.begin(now, self.random.draw());
        }
        sealed
    }

    /// When [`Uplink::tick`] or [`Uplink::next`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let status =
            (self.told.batches > 0 || self.streams.iter().any(Stream::holds)).then_some(self.next_status);
        match self.link {
            Link::Down => None,
            Link::Greeting { again, .. } => status.into_iter().chain([again]).min(),
            Link::Up { .. } => {
                let streams = self
                    .streams
                    .iter()
                    .filter_map(|stream| stream.deadline(self.ack_timeout));
                streams.chain(status).chain(self.held_back).min()
            }
        }
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant, journal: &dyn Journal) {
        // It has come; the next call of `next` says more.
        self.held_back = self.held_back.filter(|at| now < *at);
        self.follow(now, journal);
        if let Link::Greeting { session, .. } | Link::Up { session } = self.link
            && self.has_news()
        {
            self.greet(now, session, journal);
        }
        match self.link {
            Link::Down => return,
            Link::Greeting { session, again } if now >= again => {
                self.hello_patience = (self.hello_patience * 2).min(PATIENCE_MAX);
                log::warn!("the relay has not answered this hello; sending it again");
                self.greet(now, session, journal);
            }
            Link::Greeting { .. } => {}
            Link::Up { .. } => {
                let timeout = self.ack_timeout;
                let silent = self
                    .streams
                    .iter_mut()
                    .filter_map(|stream| stream.tick(now, timeout));
                if let Some(silent) = silent.max() {
                    log::warn!("no acknowledgement for {silent:?}; sending again");
                }
            }
        }
        if let Link::Greeting { session, .. } | Link::Up { session } = self.link
            && now >= self.next_status
        {
            self.look(now, session, journal);
        }
    }

    /// How the clock stands: what was stamped before the time was known is corrected, or held back for `hold` after the relay's first
    /// answer, in the hope that it becomes known.
    pub(crate) fn clock(&mut self, standing: Standing, hold: Duration) {
        (self.standing, self.hold) = (standing, hold);
    }

    fn holds_back(&self, now: Instant) -> bool {
        self.answered.is_none_or(|answered| now < answered + self.hold)
    }

    /// The next message to publish; `None` while there is none, or the window is closed.
    pub(crate) fn next(&mut self, now: Instant, journal: &mut dyn Journal) -> Option<Publication> {
        self.held_back = None;
        if let Some(publication) = self.control.pop_front() {
            return Some(publication);
        }
        if !self.is_up() {
            return None;
        }
        if self.allowance == Allowance::Spent && now < self.spent_until {
            self.held_back = Some(self.spent_until);
            return None;
        }
        let (config::Window { batches, bytes }, all) = (&self.window, self.streams.len());
        let whole = (*batches, bytes.as_u64());
        let live = all.saturating_sub(1);
        if self.mode == config::Drain::InOrder || live == 0 {
            return self.next_of(now, 0..all, whole, journal);
        }
        let half = (whole.0 / 2, whole.1 / 2);
        let rest = (whole.0 - half.0, whole.1 - half.1);
        self.next_of(now, live..all, rest, journal)
            .or_else(|| self.next_of(now, 0..live, half, journal))
    }

    /// The next message of streams in a row, which have a share of the window: batches and bytes. One batch may always.
    fn next_of(
        &mut self,
        now: Instant,
        row: Range<usize>,
        share: (usize, u64),
        journal: &mut dyn Journal,
    ) -> Option<Publication> {
        let beside = row.end < self.streams.len();
        let streams = &self.streams[row.clone()];
        let (batches, bytes) = streams
            .iter()
            .map(Stream::in_flight)
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let most = if streams.iter().any(Stream::is_patient) {
            1
        } else {
            share.0
        };
        if beside && self.allowance != Allowance::All {
            return None;
        }
        for at in row {
            let stream = &self.streams[at];
            if !stream.greeted {
                return None;
            }
            let record = match journal.read(stream.id(), stream.next()) {
                Read::Record(record) => record,
                // What comes behind it waits for it.
                Read::Loading => return None,
                Read::None => continue,
            };
            let correction = match self.standing.judge(record.clock()) {
                Verdict::Correct(correction) => Some(correction),
                Verdict::Wait if self.holds_back(now) => continue,
                Verdict::Wait | Verdict::Final => None,
            };
            let stream = &self.streams[at];
            let backlog = stream.is_backlog(record.seq);
            let (payload, set) = data(&record, stream.short(), correction.as_ref())?;
            let room = batches < most && bytes + payload.len() as u64 <= share.1;
            if batches > 0 && !room {
                return None;
            }
            if backlog && let Some(opens) = self.drain.opens_at(now) {
                self.held_back = Some(opens);
                return None;
            }
            if let Some(set) = set
                && let Some(publication) = self.publish_first(now, &set)
            {
                return Some(publication);
            }
            let cost = payload.len() as u64 + PACKET;
            if backlog {
                self.drain.take(now, cost);
            }
            if beside {
                self.counters.backlog_bytes += cost;
            }
            if self.allowance == Allowance::Spent {
                self.spent_until = now + SPENT_EVERY;
            }
            let stream = &mut self.streams[at];
            journal.sent(stream.id(), record.seq);
            if stream.sending(now, &record, payload.len() as u64) {
                self.counters.resent += 1;
            }
            return Some(Publication {
                kind: Kind::Data,
                payload,
            });
        }
        None
    }

    /// The set to publish before a batch that uses it can be sent.
    fn publish_first(&mut self, now: Instant, set: &SeriesSet) -> Option<Publication> {
        let before = self.sets.get(&set.hash()).copied();
        if before.is_some_and(|published| !published.again) {
            return None;
        }
        if self.sets.len() >= SETS_MAX {
            self.sets.clear();
        }
        let published = Published {
            at: now,
            asked: before.map_or(0, |published| published.asked),
            again: false,
        };
        self.sets.insert(set.hash(), published);
        Some(Publication::control(Kind::Series, &set.to_pb()))
    }

    /// The journal has forgotten readings.
    pub(crate) fn forgotten(&mut self, Forgotten { delivered, lost }: Forgotten) {
        self.counters.delivered += delivered;
        self.counters.lost += lost;
    }

    /// How long the answer to what was just sent may take on an ordinary link.
    fn settle(&self) -> Duration {
        self.ack_timeout / 4
    }
}
