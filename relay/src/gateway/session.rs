//! One connection's protocol, as a state machine: frames in, frames out, time as an argument. The socket is elsewhere.
//!
//! Whoever drives it calls [`Session::receive`] with each message, [`Session::poll`] until it says [`Step::Wait`] (again
//! when something is new, or at the time it names), and hands over what reads from Kafka gave with
//! [`Session::fetched`] and [`Session::resolved`].

mod commands;
mod deadlines;
mod parked;
mod receive;
mod subscribe;

pub use receive::token;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_proto::pb;
use pb::server_frame::Frame;

use super::budget::Budget;
use super::caller::{self, Caller};
use super::catchup::{self, Chunk, Range};
use super::close::Close;
use super::commands::order::Order;
use super::commands::{Commands, Place};
use super::deflate::prepared::Prepared;
use super::hub::Hub;
use super::metrics::Mode;
use super::pace::Pace;
use super::rate::{Rate, Share};
use super::seats::Seat;
use super::subscription::{Counted, Kind, Subscription, Turn, encode};
use super::token::{Grant, Refusal};
use super::watch::Watching;
use super::window::Window;
use commands::Orders;
use parked::Parked;
use subscribe::Held;

/// Answers that may wait to be sent; while there are more, nothing is read from the client.
const ANSWERS: usize = 32;
/// Frames of so many bytes may be long on a slow link, and their coming is told.
const LONG: u64 = 4 << 10;
/// A link that passes on less in a second is as good as none, decoded bytes.
const SLOWEST: u64 = 500;

/// What is to be done next.
#[derive(Debug)]
pub enum Step {
    /// Send this message.
    Send(Arc<Prepared>),
    /// Read this from Kafka for that subscription.
    Read(Ticket, Range),
    /// Find the offsets of that time for that subscription.
    Resolve(Ticket, i64),
    /// Nothing, until something is new, or until then.
    Wait(Option<Instant>),
    /// Have this command carried out, and hand over what came of it with [`Session::answered`].
    Carry(Arc<Commands>, Box<Order>, Place),
    /// Close.
    Close(Close),
}

/// Names a subscription: a later one of the same id is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    id: u32,
    number: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Session {
    hub: Arc<Hub>,
    caller: Caller,
    /// The token of the handshake.
    token: Option<String>,
    state: State,
    began: Instant,
    rate: Rate,
    /// What it shares with those of its address, and of its subject.
    address: Option<Share>,
    subject: Option<Share>,
    /// Its subject's.
    seat: Option<Seat<String>>,
    /// The frame that is to follow what was told of its coming.
    coming: Option<Arc<Prepared>>,
    /// What its subscriptions hold; `None`: none has held anything yet.
    held: Option<Arc<Budget>>,
    answers: VecDeque<Frame>,
    orders: Orders,
    subscriptions: BTreeMap<u32, Entry>,
    /// The id whose turn was last.
    turn: u32,
    number: u64,
    /// Since when frames have been waiting for a closed window.
    closed_since: Option<Instant>,
    /// Since when something has been unacknowledged without news.
    unacked_since: Option<Instant>,
    wire_bytes: u64,
    /// The frame whose way to the client and back is timed: the count with it, and when it went out.
    timed: Option<(u64, Instant)>,
}

#[derive(Debug)]
enum State {
    AwaitHello,
    Open {
        window: Window,
        pace: Pace,
        grant: Grant,
    },
}

#[derive(Debug)]
struct Entry {
    number: u64,
    globs: usize,
    /// Its partitions are read while this is here.
    watching: Watching,
    subscription: Waiting,
}

#[derive(Debug)]
enum Waiting {
    /// For its partitions to be read.
    Parked(Box<Parked>),
    /// For the offsets of a time.
    Resolving(Box<subscribe::Pending>),
    /// For nothing.
    Open(Subscription),
}

impl Entry {
    fn open(&mut self) -> Option<&mut Subscription> {
        match &mut self.subscription {
            Waiting::Open(open) => Some(open),
            Waiting::Parked(_) | Waiting::Resolving(_) => None,
        }
    }
}

impl Session {
    /// A connection that begins, with the token of its handshake.
    ///
    /// # Errors
    /// [`Close`] where that token is no good: nothing is served then.
    pub fn new(hub: Arc<Hub>, caller: Caller, token: Option<String>, now: Instant) -> Result<Self, Close> {
        if let Some(token) = &token {
            hub.keys.check(Some(token)).map_err(|refusal| refused(&refusal))?;
        }
        let hub_messages = hub.settings.limits.messages;
        let address = hub.address_messages.of(&caller::site(caller.peer.ip()), now);
        Ok(Self {
            hub,
            caller,
            token,
            state: State::AwaitHello,
            began: now,
            rate: Rate::new(hub_messages, now),
            address,
            subject: None,
            seat: None,
            coming: None,
            held: None,
            answers: VecDeque::new(),
            orders: Orders::default(),
            subscriptions: BTreeMap::new(),
            turn: 0,
            number: 0,
            closed_since: None,
            unacked_since: None,
            wire_bytes: 0,
            timed: None,
        })
    }

    /// Whether messages of the client are to be read: not while it does not take its answers.
    pub fn is_listening(&self) -> bool {
        self.answers.len() < ANSWERS
    }

    /// How much longer than others the client may be silent: the time that what is on its way takes over a slow link, six keep-alives at most.
    pub fn patience(&self) -> Duration {
        let State::Open { window, .. } = &self.state else {
            return Duration::ZERO;
        };
        let over = Duration::from_secs(window.unacked_bytes() / SLOWEST);
        over.min(self.hub.settings.keep_alive * 6)
    }

    /// Bytes written to the socket so far.
    pub fn wrote(&mut self, wire_bytes: u64) {
        self.wire_bytes = wire_bytes;
    }

    fn error(&mut self, id: u32, code: pb::ErrorCode, message: String) {
        self.answers.push_back(Frame::Error(pb::ServerError {
            id,
            code: code as i32,
            message,
            command: String::new(),
        }));
    }

    fn add(&mut self, id: u32, held: Held, subscription: Waiting) {
        self.remove(id);
        self.number += 1;
        if let Waiting::Open(open) = &subscription {
            self.gauge(open).inc();
        }
        self.subscriptions.insert(
            id,
            Entry {
                number: self.number,
                globs: held.globs,
                watching: held.watching,
                subscription,
            },
        );
    }

    fn remove(&mut self, id: u32) {
        if let Some(Entry {
            subscription: Waiting::Open(open),
            ..
        }) = self.subscriptions.remove(&id)
        {
            self.gauge(&open).dec();
        }
    }

    fn gauge(&self, subscription: &Subscription) -> prometheus_client::metrics::gauge::Gauge {
        let mode = Mode {
            mode: subscription.mode(),
        };
        self.hub.metrics.subscriptions.get_or_create_owned(&mode)
    }

    /// What is to be done next.
    pub fn poll(&mut self, now: Instant, now_us: i64) -> Step {
        if let Some(frame) = self.coming.take() {
            return Step::Send(frame);
        }
        let parked = self.rise(now);
        if let Some(mut answer) = self.answers.pop_front() {
            if let Frame::Pong(pong) = &mut answer {
                pong.wire_bytes = self.wire_bytes;
            }
            return Step::Send(Arc::new(Prepared::new(encode(answer))));
        }
        if let Some(step) = self.order() {
            return step;
        }
        let (mut wake, open) = match self.deadlines(now, now_us) {
            Ok((wake, open)) => (earliest(wake, parked), open),
            Err(close) => return Step::Close(close),
        };
        if let Some(step) = self.resolve() {
            return step;
        }
        if !open {
            return self.closed(now, wake);
        }
        if let Some(since) = self.closed_since.take() {
            self.hub.metrics.window_closed.inc_by((now - since).as_secs_f64());
        }
        // Each subscription once, beginning after the one whose turn was last.
        let ids = self
            .subscriptions
            .range(self.turn.saturating_add(1)..)
            .chain(self.subscriptions.range(..=self.turn));
        let ids: Vec<u32> = ids.map(|(&id, _)| id).collect();
        let State::Open { window, pace, grant } = &mut self.state else {
            return Step::Wait(wake);
        };
        let mut again = false;
        for id in ids {
            let Some(Entry {
                number,
                subscription: Waiting::Open(open),
                ..
            }) = self.subscriptions.get_mut(&id)
            else {
                continue;
            };
            match open.poll(now, &self.hub, grant, pace.frame()) {
                Turn::Frame(counted) => {
                    self.turn = id;
                    window.sent(counted.frame.len());
                    let (total, unacked) = (window.sent_bytes(), window.unacked_bytes());
                    pace.sent(counted.frame.len(), total, unacked, now);
                    self.timed.get_or_insert((window.sent_frames(), now));
                    self.unacked_since.get_or_insert(now);
                    count(&self.hub, &counted, now_us);
                    let bytes = counted.frame.len() as u64;
                    if bytes < LONG || !pace.may_be_slow() {
                        return Step::Send(counted.frame);
                    }
                    self.coming = Some(counted.frame);
                    let coming = Frame::Coming(pb::Coming { bytes });
                    return Step::Send(Arc::new(Prepared::new(encode(coming))));
                }
                Turn::Tell(frame) => return Step::Send(Arc::new(Prepared::new(encode(frame)))),
                Turn::Read(range) => return Step::Read(Ticket { id, number: *number }, range),
                Turn::Again => again = true,
                Turn::Idle(until) => wake = earliest(wake, until),
            }
        }
        Step::Wait(if again { Some(now) } else { wake })
    }

    /// A frame that was announced and not sent. The cursors count it as told.
    pub fn announced(&mut self) -> Option<Arc<Prepared>> {
        self.coming.take()
    }

    /// Where another gateway can go on from, for each subscription that has a cursor.
    pub fn cursors(&self) -> Vec<pb::SubscriptionCursor> {
        let cursor = |(&id, entry): (&u32, &Entry)| match &entry.subscription {
            Waiting::Open(open) => Some(pb::SubscriptionCursor {
                id,
                cursor: Some(open.cursor()?),
            }),
            Waiting::Parked(_) | Waiting::Resolving(_) => None,
        };
        self.subscriptions.iter().filter_map(cursor).collect()
    }

    /// What a read gave.
    pub fn fetched(
        &mut self,
        ticket: Ticket,
        range: Range,
        result: Result<Chunk, catchup::Error>,
        now: Instant,
    ) {
        self.hub.metrics.catch_up_reads.inc();
        let entry = self
            .subscriptions
            .get_mut(&ticket.id)
            .filter(|entry| entry.number == ticket.number);
        let Some(open) = entry.and_then(Entry::open) else {
            return;
        };
        let told = open.fetched(now, range, result);
        self.answers.extend(told);
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for id in self.subscriptions.keys().copied().collect::<Vec<_>>() {
            self.remove(id);
        }
    }
}

fn refused(refusal: &Refusal) -> Close {
    Close::new(Close::TOKEN, refusal.to_string())
}

fn earliest(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

fn count(hub: &Hub, counted: &Counted, now_us: i64) {
    match counted.kind {
        Kind::Data { shared, live } => {
            hub.metrics.deliveries.inc();
            if shared {
                hub.metrics.shared.inc();
            }
            if let Some(live) = live {
                hub.metrics
                    .kafka_to_socket
                    .observe_us(now_us.saturating_sub(live.arrival_us));
                if let Some(newest_us) = live.newest_us {
                    hub.metrics
                        .sample_to_socket
                        .observe_us(now_us.saturating_sub(newest_us));
                }
            }
        }
        Kind::Gap => drop(hub.metrics.gaps.inc()),
        Kind::Merged => {}
    }
}
