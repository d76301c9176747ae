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
//! batches. At most [`SEALED_MAX`] sealed streams wait, and none is added to [`outage::STREAMS_MAX`]; an outage beyond them seals nothing, and the live stream goes on in
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
//! make the journal forget. Of a stream that an earlier start left without the mark of a clean stop the relay may know more than
//! the journal does; of one that has it, nothing can lie beyond its end.

mod answer;
pub(crate) mod backoff;
pub(crate) mod budget;
mod drain;
mod greeting;
#[cfg(test)]
mod held;
pub(crate) mod link;
pub(crate) mod meter;
#[cfg(test)]
mod mishaps;
#[cfg(test)]
mod model;
mod month;
mod outage;
#[cfg(test)]
mod outages;
mod publication;
mod random;
mod rotation;
mod row;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod starts;
mod stream;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use headwater_proto::pb;

use crate::clock::Standing;
use crate::config;
use crate::journal::{Forgotten, Journal};

pub(crate) use publication::Publication;

use budget::Allowance;
use drain::Drain;
use random::Random;
use row::Published;
use stream::{PATIENCE_MAX, Stream};

/// The least time between two statuses.
const STATUS_EVERY: Duration = Duration::from_secs(2);
/// Streams that the journal lists anew are told to the relay when of those that it was told of no more than so many still drain: one
/// hello for many of them.
const FEW: usize = 8;
/// Once a month's bytes are spent: the time between two batches, and between two statuses.
const SPENT_EVERY: Duration = Duration::from_secs(3600);

/// Figures since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) delivered: u64,
    pub(crate) lost: u64,
    /// Batches and loss records; those that were sent again count each time.
    pub(crate) sent: u64,
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
    others: Option<answer::Others>,
    /// What the relay last told of its time.
    relay_time_us: Option<i64>,
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
            relay_time_us: None,
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
