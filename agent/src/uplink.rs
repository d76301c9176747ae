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
//! The uplink goes back to the position and sends again from there when the relay says so (`go_back`, `want_series`), when no
//! progress was made for the acknowledgement time-out, and on every connection. Two rules keep that from becoming a flood: of
//! several wishes to go back to one position, those that come before an answer to the first can have come are put off; and after a
//! time-out there is one batch in flight until something is acknowledged, with the time-out doubling up to eightfold.
//!
//! An acknowledgement of a stream that is not ours, or beyond what was sent, is ignored, counted and logged: it must never
//! make the journal forget.

pub(crate) mod backoff;
#[allow(dead_code, reason = "the uplink takes it up next")]
pub(crate) mod budget;
#[allow(dead_code, reason = "the uplink takes it up next")]
mod drain;
pub(crate) mod link;
#[cfg(test)]
mod model;
#[allow(dead_code, reason = "the uplink takes it up next")]
mod month;
mod publication;
mod rotation;
#[cfg(test)]
mod scenarios;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use headwater_proto::frame;
use headwater_proto::topic::Kind;
use headwater_proto::{LossReason, SeriesSet, pb};

use crate::config;
use crate::journal::{Forgotten, Journal, Read};

pub(crate) use publication::Publication;

use publication::data;
use stream::Stream;

/// The least time between two statuses.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// The longest acknowledgement time-out, as a multiple of the configured one.
const PATIENCE_MAX: u32 = 8;
/// Series sets whose publication is remembered; beyond it, some are published once more.
const SETS_MAX: usize = 64;

/// Figures since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    pub(crate) resent: u64,
    pub(crate) ignored: u64,
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

/// The uplink's state.
pub(crate) struct Uplink {
    window: config::Window,
    ack_timeout: Duration,
    agent: pb::AgentInfo,
    link: Link,
    /// Goes out before any data.
    control: VecDeque<Publication>,
    streams: Vec<Stream>,
    /// When each set was published in this connection.
    sets: HashMap<u32, Instant>,
    /// When in-flight batches were last acknowledged, or began to be in flight.
    progress: Instant,
    /// The time-out's multiple; more than 1: one batch in flight at a time.
    patience: u32,
    hello_patience: u32,
    last_hello: Option<Instant>,
    next_status: Instant,
    /// What the last status of this connection said.
    told: pb::Waiting,
    /// The first waiting record as of the last look at it.
    looked: Option<(u64, u64)>,
    counters: Counters,
}

impl Uplink {
    pub(crate) fn new(
        settings: &config::Uplink,
        agent: pb::AgentInfo,
        journal: &dyn Journal,
        now: Instant,
    ) -> Self {
        let mut uplink = Self {
            window: settings.window.clone(),
            ack_timeout: settings.ack_timeout,
            agent,
            link: Link::Down,
            control: VecDeque::new(),
            streams: Vec::new(),
            sets: HashMap::new(),
            progress: now,
            patience: 1,
            hello_patience: 1,
            last_hello: None,
            next_status: now,
            told: pb::Waiting::default(),
            looked: None,
            counters: Counters::default(),
        };
        uplink.follow(journal);
        uplink
    }

    /// Goes on with other settings. What a standing connection was told of them is told anew by [`Uplink::connected`].
    pub(crate) fn reload(&mut self, settings: &config::Uplink, agent: pb::AgentInfo) {
        self.window = settings.window.clone();
        self.ack_timeout = settings.ack_timeout;
        self.agent = agent;
    }

    /// Takes up the streams that the journal has now, in its order, and lets go of those that it has no more. Returns whether there is a
    /// new one.
    fn follow(&mut self, journal: &dyn Journal) -> bool {
        let extents = journal.streams();
        let mut known = std::mem::take(&mut self.streams);
        let mut new = false;
        for (at, extent) in extents.iter().enumerate() {
            let stream = match known.iter().position(|stream| stream.id() == extent.stream) {
                Some(found) => known.remove(found),
                None => {
                    new = true;
                    let short = stream::short(extent.stream, &self.streams.iter().chain(&known));
                    Stream::resumed(*extent, short, at + 1 < extents.len())
                }
            };
            self.streams.push(stream);
        }
        new
    }

    /// Whether the relay has answered this connection's hello.
    pub(crate) fn is_up(&self) -> bool {
        matches!(self.link, Link::Up { .. })
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// A connection stands and is subscribed to acknowledgements.
    pub(crate) fn connected(&mut self, now: Instant, session: u64, journal: &dyn Journal) {
        self.control.clear();
        self.sets.clear();
        self.streams.iter_mut().for_each(Stream::go_back);
        (self.patience, self.hello_patience) = (1, 1);
        self.greet(now, session, journal);
        self.tell(now, session, journal);
    }

    /// The connection is gone.
    pub(crate) fn disconnected(&mut self) {
        self.link = Link::Down;
        self.control.clear();
        self.streams.iter_mut().for_each(Stream::go_back);
    }

    /// The status that the broker publishes should the connection break.
    pub(crate) fn last_will(session: u64) -> Publication {
        Publication::control(
            Kind::Status,
            &pb::Status {
                online: false,
                session,
                waiting: None,
            },
        )
    }

    /// Says goodbye: the status of a clean stop, and no data any more.
    pub(crate) fn stop(&mut self, journal: &dyn Journal) {
        if let Link::Greeting { session, .. } | Link::Up { session } = self.link {
            let waiting = Some(waiting(journal));
            self.control.push_back(Publication::control(
                Kind::Status,
                &pb::Status {
                    online: false,
                    session,
                    waiting,
                },
            ));
        }
        self.link = Link::Down;
    }

    /// When [`Uplink::tick`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let status =
            (self.told.batches > 0 || self.streams.iter().any(Stream::holds)).then_some(self.next_status);
        match self.link {
            Link::Down => None,
            Link::Greeting { again, .. } => status.into_iter().chain([again]).min(),
            Link::Up { .. } => {
                let timeout = self.in_flight().then(|| self.progress + self.timeout());
                let put_off = self.streams.iter().filter_map(Stream::go_back_at);
                status.into_iter().chain(timeout).chain(put_off).min()
            }
        }
    }

    /// Does what is due.
    pub(crate) fn tick(&mut self, now: Instant, journal: &dyn Journal) {
        let new = self.follow(journal);
        if let Link::Greeting { session, .. } | Link::Up { session } = self.link
            && new
        {
            // The relay takes nothing of a stream that no hello has named.
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
                for stream in &mut self.streams {
                    if stream.go_back_at().is_some_and(|at| now >= at) {
                        stream.go_back();
                        stream.went_back(now);
                    }
                }
                if self.in_flight() && now >= self.progress + self.timeout() {
                    log::warn!("no acknowledgement for {:?}; sending again", self.timeout());
                    self.patience = (self.patience * 2).min(PATIENCE_MAX);
                    self.streams.iter_mut().for_each(Stream::go_back);
                }
            }
        }
        if let Link::Greeting { session, .. } | Link::Up { session } = self.link
            && now >= self.next_status
        {
            self.look(now, session, journal);
        }
    }

    /// An acknowledgement has come.
    pub(crate) fn acknowledged(&mut self, now: Instant, payload: &[u8], journal: &mut dyn Journal) {
        let ack: pb::Ack = match frame::open_control("ack", payload) {
            Ok(ack) => ack,
            Err(error) => return self.ignore(&format!("it cannot be read: {error}")),
        };
        for position in &ack.positions {
            self.position(now, position, ack.session != 0, journal);
        }
        for refusal in &ack.refusals {
            self.refused(refusal, journal);
        }
        let current = match self.link {
            Link::Down => return,
            Link::Greeting { session, .. } | Link::Up { session } => session,
        };
        let answers_hello = ack.session == current && matches!(self.link, Link::Greeting { .. });
        if answers_hello && !ack.want_hello {
            journal.told();
            self.link = Link::Up { session: current };
            self.hello_patience = 1;
            self.progress = now;
            log::info!(
                "the relay has answered; {} batches wait",
                journal.waiting().batches
            );
        }
        if ack.want_hello {
            // One that crossed the last hello says nothing new.
            if self.last_hello.is_none_or(|last| now >= last + self.settle()) {
                self.streams.iter_mut().for_each(Stream::go_back);
                self.greet(now, current, journal);
            }
            return;
        }
        for hash in &ack.want_series {
            match self.sets.get(hash) {
                // One that was published just now may have crossed the question.
                Some(published) if now < *published + self.settle() => {}
                Some(_) => {
                    self.sets.remove(hash);
                }
                None => log::debug!("the relay asks for series set {hash:08x}, which was not sent"),
            }
        }
        let go_back = ack.go_back || !ack.want_series.is_empty() || !ack.refusals.is_empty();
        // An answer to an earlier connection's hello does not know what was sent on this one.
        if go_back && (ack.session == 0 || ack.session == current) {
            let settle = self.settle();
            let named = |stream: &Stream| {
                ack.positions.is_empty()
                    || ack
                        .positions
                        .iter()
                        .any(|position| position.stream == stream.id())
            };
            for stream in self.streams.iter_mut().filter(|stream| named(stream)) {
                stream.ask_back(now, settle);
            }
        }
    }

    /// The next message to publish; `None` while there is none, or the window is closed.
    pub(crate) fn next(&mut self, now: Instant, journal: &mut dyn Journal) -> Option<Publication> {
        if let Some(publication) = self.control.pop_front() {
            return Some(publication);
        }
        if !self.is_up() {
            return None;
        }
        let (batches, bytes) = self
            .streams
            .iter()
            .map(Stream::in_flight)
            .fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
        let most = if self.patience > 1 { 1 } else { self.window.batches };
        for at in 0..self.streams.len() {
            let stream = &mut self.streams[at];
            let record = match journal.read(stream.id(), stream.next()) {
                Read::Record(record) => record,
                // What comes behind it waits for it.
                Read::Loading => return None,
                Read::None => continue,
            };
            let (payload, set) = data(&record, stream.short())?;
            let room = batches < most && bytes + payload.len() as u64 <= self.window.bytes.as_u64();
            if batches > 0 && !room {
                return None;
            }
            if let Some(set) = set
                && let Some(publication) = self.publish_first(now, &set)
            {
                return Some(publication);
            }
            let stream = &mut self.streams[at];
            if batches == 0 {
                self.progress = now;
            }
            journal.sent(stream.id(), record.seq);
            if stream.sending(&record, payload.len() as u64) {
                self.counters.resent += 1;
            }
            return Some(Publication {
                kind: Kind::Data,
                payload,
            });
        }
        None
    }

    fn position(
        &mut self,
        now: Instant,
        position: &pb::StreamPosition,
        answers_hello: bool,
        journal: &mut dyn Journal,
    ) {
        let Some(at) = self
            .streams
            .iter()
            .position(|stream| stream.id() == position.stream)
        else {
            // An answer to hello may name streams of earlier starts that ended with their process.
            if !answers_hello {
                self.ignore(&format!("stream {:016x} is not of this agent", position.stream));
            }
            return;
        };
        let stream = &mut self.streams[at];
        let seq = stream.within(position.seq);
        if seq > stream.highest_sent() {
            let highest = stream.highest_sent();
            return self.ignore(&format!(
                "it is for seq {seq} of stream {:016x}, of which {highest} was the last that was sent; \
                 is another device using this name?",
                position.stream
            ));
        }
        if seq <= stream.acked() {
            return;
        }
        let forgotten = journal.forget(position.stream, seq);
        stream.acknowledged(seq);
        self.forgotten(forgotten);
        self.progress = now;
        self.patience = 1;
        // What an earlier start left behind is gone once it is drained.
        self.follow(journal);
    }

    /// The journal has forgotten readings.
    pub(crate) fn forgotten(&mut self, Forgotten { delivered, lost }: Forgotten) {
        self.counters.delivered += delivered;
        self.counters.lost += lost;
    }

    fn refused(&mut self, refusal: &pb::Refusal, journal: &mut dyn Journal) {
        let known = self
            .streams
            .iter()
            .any(|stream| stream.id() == refusal.stream && refusal.seq <= stream.highest_sent());
        if known && journal.give_up(refusal.stream, refusal.seq, LossReason::Refused) {
            log::error!(
                "the relay refuses batch {} of stream {:016x}: {}; a loss record takes its place",
                refusal.seq,
                refusal.stream,
                refusal.reason
            );
        }
    }

    fn ignore(&mut self, why: &str) {
        self.counters.ignored += 1;
        // One that comes with every hello would fill a log.
        if self.counters.ignored.is_power_of_two() {
            log::error!(
                "an acknowledgement is ignored: {why} ({} so far)",
                self.counters.ignored
            );
        }
    }

    fn greet(&mut self, now: Instant, session: u64, journal: &dyn Journal) {
        self.link = Link::Greeting {
            session,
            again: now + self.ack_timeout * self.hello_patience,
        };
        self.last_hello = Some(now);
        let short = |id| {
            self.streams
                .iter()
                .find(|stream| stream.id() == id)
                .map(Stream::short)
        };
        let streams = journal.streams().into_iter().filter_map(|extent| {
            Some(pb::HelloStream {
                stream: extent.stream,
                short: short(extent.stream)?,
                first_seq: extent.first,
                last_seq: extent.last,
                acked_seq: extent.first - 1,
                torn: extent.torn,
            })
        });
        let hello = pb::Hello {
            session,
            streams: streams.collect(),
            agent: Some(self.agent.clone()),
        };
        self.control.push_back(Publication::control(Kind::Hello, &hello));
    }

    /// Tells the relay what waits if something waits for long, or does no longer.
    fn look(&mut self, now: Instant, session: u64, journal: &dyn Journal) {
        self.next_status = now + STATUS_EVERY;
        let first = journal
            .streams()
            .into_iter()
            .find(|extent| extent.last >= extent.first)
            .map(|extent| (extent.stream, extent.first));
        // A batch that was already there at the last look, or more than what is on its way.
        let in_flight: usize = self.streams.iter().map(|stream| stream.in_flight().0).sum();
        let waiting_now = waiting(journal);
        let long = first.is_some() && (first == self.looked || waiting_now.batches > in_flight as u64);
        self.looked = first;
        if (long || self.told.batches > 0) && waiting_now != self.told {
            self.tell(now, session, journal);
        }
    }

    fn tell(&mut self, now: Instant, session: u64, journal: &dyn Journal) {
        self.next_status = now + STATUS_EVERY;
        self.told = waiting(journal);
        let status = pb::Status {
            online: true,
            session,
            waiting: Some(self.told),
        };
        self.control
            .push_back(Publication::control(Kind::Status, &status));
    }

    /// The set to publish before a batch that uses it can be sent.
    fn publish_first(&mut self, now: Instant, set: &SeriesSet) -> Option<Publication> {
        if self.sets.contains_key(&set.hash()) {
            return None;
        }
        if self.sets.len() >= SETS_MAX {
            self.sets.clear();
        }
        self.sets.insert(set.hash(), now);
        Some(Publication::control(Kind::Series, &set.to_pb()))
    }

    fn in_flight(&self) -> bool {
        self.streams.iter().any(|stream| stream.in_flight().0 > 0)
    }

    fn timeout(&self) -> Duration {
        self.ack_timeout * self.patience
    }

    /// How long the answer to what was just sent may take on an ordinary link.
    fn settle(&self) -> Duration {
        self.ack_timeout / 4
    }
}

fn waiting(journal: &dyn Journal) -> pb::Waiting {
    let waiting = journal.waiting();
    pb::Waiting {
        batches: waiting.batches,
        readings: waiting.readings,
        bytes: waiting.bytes,
        oldest_us: waiting.oldest_us,
    }
}
